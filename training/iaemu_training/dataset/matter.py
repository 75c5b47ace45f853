"""Correlation function of matter: the shipped table, its averages over bins, and the code that makes it.

IAEmu (arXiv:2504.05235) leaves out of its training set parameter points with xi / xi_DM > 100 in any bin, xi_DM being
the correlation function of matter at the catalogue's cosmology and redshift. The shipped table is of Bolshoi-Planck at
z = 0. ``python -m iaemu_training.dataset.matter OUTPUT`` makes it, or that of another cosmology, with CAMB.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
from scipy.fft import fht
from scipy.interpolate import CubicSpline

from iaemu.binning import EDGE_TOLERANCE, BinningError, check_edges
from iaemu.files import write_text

#: Flat LCDM of Bolshoi-Planck (Klypin et al. 2016, arXiv:1411.4001; Rodriguez-Puebla et al. 2016, arXiv:1602.04813),
#: with the digits of the shipped catalogues.
BOLSHOI_PLANCK = {"Om": 0.30711, "Ob": 0.048, "h": 0.678, "sigma8": 0.8228, "ns": 0.96}

#: Separations of the tables that the command line makes [Mpc/h], and how finely in log r.
R_RANGE = (0.05, 30.0)
POINTS_PER_DECADE = 50

#: Separations that :func:`correlation_from_power` takes [Mpc/h]; within 0.2 % of direct quadrature, 0.01 % up to 30.
R_ACCEPTED = (0.01, 200.0)

_SHIPPED = "xi_matter_bolplanck_z0.txt"
_FIRST_AS = 2e-9  # any value will do, the amplitude is matched to sigma8


class MatterCorrelationError(ValueError):
    """A table of the matter correlation function that is missing or malformed."""


def matter_correlation(r_edges) -> np.ndarray:
    """Non-linear matter correlation function of Bolshoi-Planck at z = 0, averaged over the volume of each bin.

    From the shipped table: CAMB with HMcode-2020, which follows simulations within 2.5 % rms in P(k < 10 h/Mpc) (Mead
    et al. 2021, arXiv:2009.01858); higher k, which r < 0.3 Mpc/h needs, are its extrapolation. The halofit of
    Takahashi et al. 2012 gives xi within 8 % of it at r < 2 Mpc/h, 5 % at 2 to 5 Mpc/h and 2 % at 5 to 30 Mpc/h.

    Parameters
    ----------
    r_edges : (n_bins + 1,)
        [Mpc/h], within the table's 0.05 .. 30.

    Returns
    -------
    (n_bins,) float64

    Raises
    ------
    BinningError
        The edges are malformed or leave the range of the table.
    """
    return MatterCorrelation.load().binned(r_edges)


@dataclass
class MatterCorrelation:
    """A table of xi(r), interpolated by a cubic spline of log xi in log r.

    Attributes
    ----------
    r : (n,) float64
        Comoving separations [Mpc/h], increasing.
    xi : (n,) float64
        Correlation function of matter in real space; positive, so r must stay below about 120 Mpc/h.
    cosmology : dict of float
        Om, Ob, h, sigma8 (linear, z = 0) and ns; empty if the file does not state them.
    redshift : float or None
    source : str
        How the table was made.

    Raises
    ------
    MatterCorrelationError
        The columns differ in length, have fewer than 4 rows, are not finite, or are not as described above.
    """

    r: np.ndarray
    xi: np.ndarray
    cosmology: dict = field(default_factory=dict)
    redshift: float | None = None
    source: str = "not stated"

    def __post_init__(self):
        self.r, self.xi = np.asarray(self.r, dtype=np.float64), np.asarray(self.xi, dtype=np.float64)
        if self.r.ndim != 1 or self.r.shape != self.xi.shape or len(self.r) < 4:
            raise MatterCorrelationError(
                f"r and xi must be columns of the same length, at least 4, got shapes {self.r.shape}, {self.xi.shape}."
            )
        for name, column in (("r", self.r), ("xi", self.xi)):
            bad = ~(np.isfinite(column) & (column > 0))
            if bad.any():
                row = int(np.argmax(bad))
                raise MatterCorrelationError(
                    f"{name} must be positive and finite, but {bad.sum()} rows are not, first row {row + 1}: "
                    f"r = {self.r[row]:g} Mpc/h, xi = {self.xi[row]:g}."
                )
        steps = np.diff(self.r)
        if np.any(steps <= 0):
            row = int(np.argmax(steps <= 0))
            raise MatterCorrelationError(
                f"r must be strictly increasing, but {self.r[row]:g} is followed by {self.r[row + 1]:g} Mpc/h."
            )

    @classmethod
    def load(cls, path=None) -> MatterCorrelation:
        """Read a table: two columns, r [Mpc/h] and xi, under a ``#`` header of ``key: value`` lines.

        The keys read are ``cosmology``, ``redshift`` and ``source``, as :meth:`save` writes them; none is needed.

        Parameters
        ----------
        path : path-like, optional
            Default: the shipped table of Bolshoi-Planck at z = 0.

        Raises
        ------
        MatterCorrelationError
            There is no such file, or it is malformed; names the file and the line.
        """
        file = resources.files("iaemu_training.dataset") / _SHIPPED if path is None else Path(path)
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MatterCorrelationError(f"The table {file.name} cannot be read: {error}") from error
        header, rows = {}, []
        for number, line in enumerate(lines, start=1):
            if line.startswith("#"):
                key, colon, value = line[1:].partition(":")
                if colon:
                    header[key.strip()] = value.strip()
            elif line.strip():
                try:
                    r, xi = (float(word) for word in line.split())
                except ValueError as error:
                    raise MatterCorrelationError(
                        f"Line {number} of {file.name} is not two numbers, r [Mpc/h] and xi: {line.strip()[:60]!r}."
                    ) from error
                rows.append((r, xi))
        try:
            redshift = float(header["redshift"]) if "redshift" in header else None
            cosmology = dict(_parameter(item) for item in header.get("cosmology", "").split(",") if item.strip())
        except ValueError as error:
            raise MatterCorrelationError(
                f"The header of {file.name} must be of the form 'redshift: 0', 'cosmology: Om = 0.3, h = 0.7': {error}."
            ) from error
        r, xi = np.array(rows, dtype=np.float64).reshape(-1, 2).T
        try:
            return cls(r, xi, cosmology, redshift, header.get("source", "not stated"))
        except MatterCorrelationError as error:
            raise MatterCorrelationError(f"The table {file.name}: {error}") from error

    def save(self, path) -> None:
        """Write the table so that :meth:`load` reads it; a file at ``path`` is replaced only by a complete one."""
        path = Path(path)
        header = ["Correlation function of matter in real space, flat LCDM with massless neutrinos"]
        if self.cosmology:
            header.append("cosmology: " + ", ".join(f"{key} = {value:.8g}" for key, value in self.cosmology.items()))
        if self.redshift is not None:
            header.append(f"redshift: {self.redshift:.8g}")
        header += [
            f"source: {self.source}",
            "re-make: python -m iaemu_training.dataset.matter OUTPUT (see --help for other parameters)",
            "columns: r [Mpc/h, comoving], xi [dimensionless]",
        ]
        rows = [f"{r:.8e} {xi:.8e}" for r, xi in zip(self.r, self.xi, strict=True)]
        write_text(path, "\n".join([f"# {line}" for line in header] + rows) + "\n")

    def binned(self, r_edges) -> np.ndarray:
        """Average over the volume of each bin, 3 / (r2^3 - r1^3) * integral of xi r^2 dr.

        This is what an estimator DD / RR - 1 measures, whose random pairs are spread evenly over the volume.

        Parameters
        ----------
        r_edges : (n_bins + 1,)
            [Mpc/h]

        Returns
        -------
        (n_bins,) float64

        Raises
        ------
        BinningError
            The edges are malformed or leave the range of the table: xi is not extrapolated.
        """
        edges = check_edges(r_edges)
        low, high = self.r[0], self.r[-1]
        if edges[0] < low * (1 - EDGE_TOLERANCE) or edges[-1] > high * (1 + EDGE_TOLERANCE):
            raise BinningError(
                f"The bins run from {edges[0]:.6g} to {edges[-1]:.6g} Mpc/h, but the table of the matter correlation "
                f"function only from {low:.6g} to {high:.6g}. Make a wider one: "
                "python -m iaemu_training.dataset.matter --help."
            )
        edges = np.clip(edges, low, high)
        log_xi = CubicSpline(np.log(self.r), np.log(self.xi))
        # Between neighbouring points of the table the integrand is smooth, so a few Gauss-Legendre nodes are exact to
        # rounding, and sub-bins add to their bin.
        limits = np.union1d(self.r, edges)
        limits = limits[(limits >= edges[0]) & (limits <= edges[-1])]
        nodes, weights = np.polynomial.legendre.leggauss(6)
        half = 0.5 * np.diff(np.log(limits))
        log_r = 0.5 * (np.log(limits[1:]) + np.log(limits[:-1]))[:, None] + half[:, None] * nodes
        pieces = half * (np.exp(log_xi(log_r) + 3.0 * log_r) @ weights)
        return 3.0 * np.add.reduceat(pieces, np.searchsorted(limits, edges[:-1])) / np.diff(edges**3)


def _parameter(text: str) -> tuple[str, float]:
    """``"Om = 0.3"`` as ``("Om", 0.3)``; ValueError if it is not that."""
    name, _, value = text.partition("=")
    return name.strip(), float(value)


# ---------------------------------------------------------------------- computation


def compute_matter_correlation(r, *, Om, Ob, h, sigma8, ns, z, halofit_version="mead2020", kmax=200.0) -> np.ndarray:
    """Matter correlation function of flat LCDM from CAMB's non-linear power spectrum, by FFTLog.

    Parameters
    ----------
    r : (n,)
        Comoving separations [Mpc/h].
    Om, Ob, h, sigma8, ns, z, halofit_version, kmax :
        As in :func:`matter_power`. With kmax = 200 xi is converged to 0.03 % at r > 0.05 Mpc/h, with 50 to 0.3 % at
        0.05 and 0.1 % at r > 0.07 Mpc/h, in a quarter of the time.

    Returns
    -------
    (n,) float64

    Raises
    ------
    ImportError
        CAMB is not installed.
    ValueError
        A parameter is out of range, or r leaves 0.01 .. 200 Mpc/h.
    """
    k, power = matter_power(Om=Om, Ob=Ob, h=h, sigma8=sigma8, ns=ns, z=z, halofit_version=halofit_version, kmax=kmax)
    return correlation_from_power(r, k, power)


def matter_power(*, Om, Ob, h, sigma8, ns, z, halofit_version="mead2020", kmax=200.0) -> tuple[np.ndarray, np.ndarray]:
    """Power spectrum of matter in flat LCDM with massless neutrinos, from CAMB.

    Parameters
    ----------
    Om, Ob : float
        Densities of matter and of baryons at z = 0, in units of the critical density.
    h : float
        H0 / (100 km/s/Mpc).
    sigma8 : float
        Linear rms of the density contrast in spheres of 8 Mpc/h at z = 0, as CAMB integrates it (0.02 % from a fine
        quadrature); matched by scaling the primordial amplitude.
    ns : float
        Primordial spectral index.
    z : float
        Redshift.
    halofit_version : str
        A non-linear model of CAMB's (mead2020 is HMcode-2020 without baryons), or "linear".
    kmax : float
        Largest k [h/Mpc].

    Returns
    -------
    k : (n,) float64
        CAMB's wave numbers [h/Mpc], from about 1e-4 to kmax, unevenly spaced.
    power : (n,) float64
        P(k) [(Mpc/h)^3].

    Raises
    ------
    ImportError
        CAMB is not installed.
    ValueError
        A parameter is out of range, CAMB knows no such model, or it fails.
    """
    try:
        import camb
    except ImportError as error:
        raise ImportError("The matter power spectrum is computed by CAMB: pip install camb.") from error
    if not (0 < Ob < Om <= 1 and h > 0 and sigma8 > 0 and z >= 0 and kmax >= 1):
        raise ValueError(
            f"Needed are 0 < Ob < Om <= 1, h > 0, sigma8 > 0, z >= 0 and kmax >= 1 h/Mpc, got Ob = {Ob}, Om = {Om}, "
            f"h = {h}, sigma8 = {sigma8}, z = {z}, kmax = {kmax}."
        )
    linear = halofit_version == "linear"
    if not linear and halofit_version not in camb.nonlinear.halofit_version_names:
        raise ValueError(
            f"CAMB has no non-linear model {halofit_version!r}; it has "
            f"{', '.join(camb.nonlinear.halofit_version_names)}, and there is 'linear'."
        )
    parameters = camb.CAMBparams()
    parameters.set_cosmology(H0=100 * h, ombh2=Ob * h**2, omch2=(Om - Ob) * h**2, omk=0, mnu=0, num_massive_neutrinos=0)
    parameters.InitPower.set_params(As=_FIRST_AS, ns=ns)
    # z = 0 for sigma8.
    parameters.set_matter_power(redshifts=sorted({0.0, float(z)}, reverse=True), kmax=kmax * h)
    parameters.WantCls = False
    if not linear:
        parameters.NonLinear = camb.model.NonLinear_pk
        parameters.NonLinearModel.set_params(halofit_version=halofit_version)
    try:
        results = camb.get_results(parameters)
        amplitude = _FIRST_AS * (sigma8 / results.get_sigma8_0()) ** 2
        results.power_spectra_from_transfer(camb.initialpower.InitialPowerLaw(As=amplitude, ns=ns))
        k, redshifts, power = results.get_linear_matter_power_spectrum(nonlinear=not linear)
    except camb.CAMBError as error:
        raise ValueError(f"CAMB fails at these parameters: {error}") from error
    return k, power[int(np.argmin(np.abs(np.asarray(redshifts) - z)))]


def correlation_from_power(r, k, power) -> np.ndarray:
    """xi(r) = 1 / (2 pi^2) * integral of k^2 P(k) j0(k r) dk, by FFTLog (Hamilton 2000, astro-ph/9905191).

    P is interpolated by a cubic spline of log P in log k and continued by power laws at both ends. Since the spherical
    Bessel function j0(x) is sqrt(pi / 2x) J_1/2(x), the integral is a Hankel transform of k^(3/2) P.

    Parameters
    ----------
    r : (n,)
        [Mpc/h], within 0.01 .. 200.
    k : (m,)
        Wave numbers [h/Mpc], increasing.
    power : (m,)
        P(k) [(Mpc/h)^3], positive.

    Returns
    -------
    (n,) float64

    Raises
    ------
    ValueError
        r leaves the range, or k and power are not as described.
    """
    r, k, power = (np.asarray(array, dtype=np.float64) for array in (r, k, power))
    if not np.all((r >= R_ACCEPTED[0]) & (r <= R_ACCEPTED[1])):
        raise ValueError(f"r must lie within {R_ACCEPTED[0]:g} .. {R_ACCEPTED[1]:g} Mpc/h.")
    if k.ndim != 1 or k.shape != power.shape or len(k) < 4 or k[0] <= 0 or not np.all(np.diff(k) > 0):
        raise ValueError("k must be positive and strictly increasing, with one value of the power spectrum each.")
    if not np.all(np.isfinite(power) & (power > 0)):
        raise ValueError("The power spectrum must be positive and finite.")
    # Far wider than what r within R_ACCEPTED feels (1e-5 .. 1e4 h/Mpc changes xi by 2e-6), for the FFT is periodic.
    grid = np.geomspace(1e-6, 1e6, 8192)
    log_grid, log_k, log_power = np.log(grid), np.log(k), np.log(power)
    spline = CubicSpline(log_k, log_power)
    # The slope over two intervals: CAMB's last ones can be very unequal.
    last_slope = (log_power[-1] - log_power[-3]) / (log_k[-1] - log_k[-3])
    extended = spline(np.clip(log_grid, log_k[0], log_k[-1]))
    extended += np.minimum(log_grid - log_k[0], 0.0) * spline(log_k[0], 1)
    extended += np.maximum(log_grid - log_k[-1], 0.0) * last_slope
    # A bias of 1/2 makes what is transformed fall about as k^2 towards both ends, for a cold-dark-matter spectrum.
    transform = fht(np.exp(extended + 1.5 * log_grid), log_grid[1] - log_grid[0], mu=0.5, bias=0.5)
    log_r = -log_grid[::-1]
    xi = transform / (2.0 * np.pi * np.exp(log_r)) ** 1.5
    used = (log_r > math.log(0.9 * R_ACCEPTED[0])) & (log_r < math.log(1.1 * R_ACCEPTED[1]))
    return CubicSpline(log_r[used], xi[used])(np.log(r))


# ---------------------------------------------------------------------- command line


def main(argv=None) -> int:
    """``python -m iaemu_training.dataset.matter``: compute and write a table; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m iaemu_training.dataset.matter",
        description="Tabulate the matter correlation function of flat LCDM with CAMB (some ten seconds). The defaults "
        "re-make the shipped table, of Bolshoi-Planck at z = 0.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("output", type=Path, help="table to write (text)")
    for name, meaning in (
        ("Om", "density of matter"),
        ("Ob", "density of baryons"),
        ("h", "H0 / (100 km/s/Mpc)"),
        ("sigma8", "linear, at z = 0"),
        ("ns", "primordial spectral index"),
    ):
        parser.add_argument(f"--{name}", type=float, default=BOLSHOI_PLANCK[name], help=meaning)
    parser.add_argument("--z", type=float, default=0.0, help="redshift")
    parser.add_argument("--halofit-version", default="mead2020", help="non-linear model of CAMB's, or linear")
    parser.add_argument("--kmax", type=float, default=200.0, help="largest k that CAMB computes [h/Mpc]")
    parser.add_argument(
        "--r-range", nargs=2, type=float, default=R_RANGE, metavar=("LOW", "HIGH"), help="separations [Mpc/h]"
    )
    arguments = parser.parse_args(argv)
    try:
        if not arguments.output.parent.is_dir():
            raise ValueError(f"The folder {arguments.output.parent} does not exist; make it first.")
        _tabulate(arguments).save(arguments.output)
    except (ValueError, OSError, ImportError) as error:
        print(f"iaemu_training.dataset.matter: {error}", file=sys.stderr)
        return 1
    print(f"Matter correlation function written to {arguments.output}.")
    return 0


def _tabulate(arguments) -> MatterCorrelation:
    """The table that the command line asks for."""
    low, high = arguments.r_range
    if not R_ACCEPTED[0] <= low < high <= R_ACCEPTED[1]:
        raise ValueError(f"--r-range must lie within {R_ACCEPTED[0]:g} .. {R_ACCEPTED[1]:g} Mpc/h, lower end first.")
    cosmology = {name: getattr(arguments, name) for name in BOLSHOI_PLANCK}
    model, kmax = arguments.halofit_version, arguments.kmax
    r = np.geomspace(low, high, max(4, 1 + math.ceil(POINTS_PER_DECADE * math.log10(high / low))))
    xi = compute_matter_correlation(r, **cosmology, z=arguments.z, halofit_version=model, kmax=kmax)
    import camb

    meaning = {"linear": "linear theory", "mead2020": "HMcode-2020, arXiv:2009.01858"}.get(model, "non-linear model")
    source = f"P(k < {kmax:g} h/Mpc) of CAMB {camb.__version__}, {model} ({meaning}); FFTLog"
    return MatterCorrelation(r, xi, cosmology, arguments.z, source)


if __name__ == "__main__":
    sys.exit(main())

"""Script that tabulates the matter correlation function with CAMB, for :mod:`iaemu_training.dataset.matter`.

Run ``python -m iaemu_training.dataset.make_xi_matter OUTPUT``. The package does not import this module.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import fht
from scipy.interpolate import CubicSpline

from iaemu.files import write_text
from iaemu_training.dataset.matter import MatterCorrelation
from iaemu_training.halos.columns import numbers
from iaemu_training.halos.cosmology import BOLSHOI_PLANCK, matter_power

#: Range of separations in the tables [Mpc/h], and points for each factor of 10.
R_RANGE = (0.05, 30.0)
POINTS_PER_DECADE = 50

#: Range of :func:`correlation_from_power` [Mpc/h], with errors up to 0.2 % (0.01 % up to 30 Mpc/h).
R_ACCEPTED = (0.01, 500.0)

#: Range of the table of large scales [Mpc/h], and points for each factor of 10, which resolve the acoustic peak.
LARGE_SCALES, LARGE_SCALES_PER_DECADE = (0.5, 400.0), 60

#: Redshifts of that table.
LARGE_SCALES_Z = (0.0, 0.3, 0.6, 1.0, 1.5)


def compute_matter_correlation(r: ArrayLike, **parameters: Any) -> np.ndarray:
    """Compute the matter correlation function of flat LCDM from CAMB's non-linear power spectrum.

    Parameters
    ----------
    r : (n,)
        Comoving separations [Mpc/h], within 0.01 .. 500.
    **parameters
        Parameters of :func:`matter_power`. With kmax = 200 h/Mpc xi is converged to 0.03 % at r > 0.05 Mpc/h; with 50
        h/Mpc to 0.3 % at 0.05 and 0.1 % at r > 0.07 Mpc/h, in a quarter of the time.

    Returns
    -------
    (n,) float64

    Raises
    ------
    ImportError, ValueError
        See :func:`matter_power` and :func:`correlation_from_power`.
    """
    return correlation_from_power(r, *matter_power(**parameters))


def correlation_from_power(r: ArrayLike, k: ArrayLike, power: ArrayLike) -> np.ndarray:
    """Compute xi(r) = 1 / (2 pi^2) * integral of k^2 P(k) j0(k r) dk, by FFTLog (Hamilton 2000, astro-ph/9905191).

    P is interpolated by a cubic spline of log P in log k, and continued by power laws at both ends. Since the spherical
    Bessel function j0(x) is sqrt(pi / 2x) J_1/2(x), the integral is a Hankel transform of k^(3/2) P.

    Parameters
    ----------
    r : (n,)
        Separations [Mpc/h], within 0.01 .. 500.
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
        r is outside the range, or k and power are not as described.
    """
    r, k, power = (
        numbers(array, name, error=ValueError).astype(np.float64)
        for name, array in (("r", r), ("k", k), ("power", power))
    )
    if not np.all((r >= R_ACCEPTED[0]) & (r <= R_ACCEPTED[1])):
        raise ValueError(f"r must lie within {R_ACCEPTED[0]:g} .. {R_ACCEPTED[1]:g} Mpc/h.")
    if k.ndim != 1 or k.shape != power.shape or len(k) < 4 or k[0] <= 0 or not np.all(np.diff(k) > 0):
        raise ValueError("k must be positive and strictly increasing, with one value of the power spectrum for each k.")
    if not np.all(np.isfinite(power) & (power > 0)):
        raise ValueError("The power spectrum must be positive and finite.")
    # The FFT is periodic, so the grid is far wider than R_ACCEPTED needs (1e-5 .. 1e4 h/Mpc changes xi by 2e-6).
    grid = np.geomspace(1e-6, 1e6, 8192)
    log_grid, log_k, log_power = np.log(grid), np.log(k), np.log(power)
    spline = CubicSpline(log_k, log_power)
    # The slope is taken over two intervals, since CAMB's last ones can be very unequal.
    last_slope = (log_power[-1] - log_power[-3]) / (log_k[-1] - log_k[-3])
    extended = spline(np.clip(log_grid, log_k[0], log_k[-1]))
    extended += np.minimum(log_grid - log_k[0], 0.0) * spline(log_k[0], 1)
    extended += np.maximum(log_grid - log_k[-1], 0.0) * last_slope
    # With a bias of 1/2 the integrand falls about as k^2 towards both ends, for a spectrum of cold dark matter.
    transform = fht(np.exp(extended + 1.5 * log_grid), log_grid[1] - log_grid[0], mu=0.5, bias=0.5)
    log_r = -log_grid[::-1]
    xi = transform / (2.0 * np.pi * np.exp(log_r)) ** 1.5
    used = (log_r > math.log(0.9 * R_ACCEPTED[0])) & (log_r < math.log(1.1 * R_ACCEPTED[1]))
    return CubicSpline(log_r[used], xi[used])(np.log(r))


def write_table(table: MatterCorrelation, path: str | Path) -> None:
    """Write a table as text that :meth:`MatterCorrelation.load` reads; an older file is replaced at the end.

    Parameters
    ----------
    table : MatterCorrelation
        The table.
    path : path-like
        The file to write.
    """
    header = ["Correlation function of matter in real space, flat LCDM with massless neutrinos"]
    if table.cosmology:
        header.append("cosmology: " + ", ".join(f"{key} = {value:.8g}" for key, value in table.cosmology.items()))
    if table.redshift is not None:
        header.append(f"redshift: {table.redshift:.8g}")
    header += [
        f"source: {table.source}",
        "re-make: python -m iaemu_training.dataset.make_xi_matter OUTPUT (see --help for other parameters)",
        "columns: r [Mpc/h, comoving], xi [dimensionless]",
    ]
    rows = [f"{r:.8e} {xi:.8e}" for r, xi in zip(table.r, table.xi, strict=True)]
    write_text(path, "\n".join([f"# {line}" for line in header] + rows) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: compute and write a table. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m iaemu_training.dataset.make_xi_matter",
        description="Tabulate the matter correlation function of flat LCDM with CAMB (about ten seconds). The defaults "
        "make the shipped table again: Bolshoi-Planck at z = 0.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("output", type=Path, help="table to write (text)")
    for name, meaning in (
        ("Om", "density of matter at z = 0, in units of the critical density"),
        ("Ob", "density of baryons at z = 0, in units of the critical density"),
        ("h", "H0 / (100 km/s/Mpc)"),
        ("sigma8", "linear rms of the density contrast in spheres of 8 Mpc/h at z = 0"),
        ("ns", "primordial spectral index"),
    ):
        parser.add_argument(f"--{name}", type=float, default=getattr(BOLSHOI_PLANCK, name), help=meaning)
    parser.add_argument(
        "--z",
        type=float,
        nargs="+",
        metavar="Z",
        help=f"redshift (default: 0), or several for --large-scales (default: {' '.join(map(str, LARGE_SCALES_Z))})",
    )
    parser.add_argument("--halofit-version", default="mead2020", help="one of CAMB's non-linear models, or linear")
    parser.add_argument("--kmax", type=float, default=200.0, help="largest k that CAMB computes [h/Mpc]")
    parser.add_argument(
        "--r-range", nargs=2, type=float, default=R_RANGE, metavar=("LOW", "HIGH"), help="range of separations [Mpc/h]"
    )
    parser.add_argument(
        "--large-scales",
        action="store_true",
        help="make the table of iaemu.observables.large_scale instead: xi and Xi_2 up to 400 Mpc/h",
    )
    arguments = parser.parse_args(argv)
    try:
        if not arguments.output.parent.is_dir():
            raise ValueError(f"The folder {arguments.output.parent} does not exist; make it first.")
        if arguments.large_scales:
            _write_large_scales(arguments)
        else:
            write_table(_tabulate(arguments), arguments.output)
    except (ValueError, OSError, ImportError) as error:
        print(f"iaemu_training.dataset.make_xi_matter: {error}", file=sys.stderr)
        return 1
    print(f"Matter correlation function written to {arguments.output}.")
    return 0


def _write_large_scales(arguments) -> None:
    """Write r, and xi and Xi_2 at each redshift, for the options of the command line."""
    cosmology = {name: getattr(arguments, name) for name in asdict(BOLSHOI_PLANCK)}
    redshifts = sorted(arguments.z or LARGE_SCALES_Z)
    model, kmax = arguments.halofit_version, arguments.kmax
    n = 1 + math.ceil(LARGE_SCALES_PER_DECADE * math.log10(LARGE_SCALES[1] / LARGE_SCALES[0]))
    columns = [at := np.geomspace(*LARGE_SCALES, n)]
    for z in redshifts:
        columns += large_scales(at, **cosmology, z=z, halofit_version=model, kmax=kmax)
    import camb

    header = [
        "Correlations of matter in real space, flat LCDM with massless neutrinos",
        "cosmology: " + ", ".join(f"{key} = {value:.8g}" for key, value in cosmology.items()),
        "redshifts: " + ", ".join(f"{z:.8g}" for z in redshifts),
        f"source: P(k < {kmax:g} h/Mpc) of CAMB {camb.__version__}, {model}; FFTLog",
        "re-make: python -m iaemu_training.dataset.make_xi_matter OUTPUT --large-scales",
        "columns: r [Mpc/h, comoving], then for each redshift xi and Xi_2 = (mean of xi inside r) - xi",
    ]
    rows = [" ".join(f"{value:.8e}" for value in row) for row in zip(*columns, strict=True)]
    write_text(arguments.output, "\n".join([f"# {line}" for line in header] + rows) + "\n")


def large_scales(r: ArrayLike, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """Compute the correlations of matter on large scales, see :mod:`iaemu.observables.large_scale`.

    Parameters
    ----------
    r : (n,)
        Comoving separations [Mpc/h], within 0.5 .. 400.
    **parameters
        Parameters of :func:`matter_power`.

    Returns
    -------
    xi, Xi_2 : (n,) float64

    Raises
    ------
    ImportError, ValueError
        See :func:`compute_matter_correlation`.
    """
    fine = np.geomspace(R_ACCEPTED[0], LARGE_SCALES[1], 6001)
    xi = compute_matter_correlation(fine, **parameters)
    # xi falls more slowly than 1 / r^2 below the least r, where hardly any of the integral is.
    spline = CubicSpline(np.log(fine), fine**3 * xi).antiderivative()
    mean = 3.0 * (spline(np.log(fine)) + xi[0] * fine[0] ** 3 / 3.0) / fine**3
    at = np.asarray(r, dtype=np.float64)
    found = (CubicSpline(np.log(fine), fine**2 * values)(np.log(at)) / at**2 for values in (xi, mean - xi))
    return next(found), next(found)


def _tabulate(arguments) -> MatterCorrelation:
    """Compute the table for the options of the command line."""
    low, high = arguments.r_range
    if not R_ACCEPTED[0] <= low < high <= R_ACCEPTED[1]:
        raise ValueError(f"--r-range must lie within {R_ACCEPTED[0]:g} .. {R_ACCEPTED[1]:g} Mpc/h, lower end first.")
    cosmology = {name: getattr(arguments, name) for name in asdict(BOLSHOI_PLANCK)}
    model, kmax = arguments.halofit_version, arguments.kmax
    z, *more = arguments.z or [0.0]
    if more:
        raise ValueError(f"--z takes one redshift, got {len(more) + 1}; only --large-scales takes several.")
    r = np.geomspace(low, high, max(4, 1 + math.ceil(POINTS_PER_DECADE * math.log10(high / low))))
    xi = compute_matter_correlation(r, **cosmology, z=z, halofit_version=model, kmax=kmax)
    import camb

    meaning = {"linear": "linear theory", "mead2020": "HMcode-2020, arXiv:2009.01858"}.get(model, "non-linear model")
    source = f"P(k < {kmax:g} h/Mpc) of CAMB {camb.__version__}, {model} ({meaning}); FFTLog"
    return MatterCorrelation(r, xi, cosmology, z, source)


if __name__ == "__main__":
    sys.exit(main())

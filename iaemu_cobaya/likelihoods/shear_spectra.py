"""Cosmic shear and the NLA model of intrinsic alignment, with the cosmology, distances and kernels of pyccl.

In the Limber approximation, for a flat universe, with W of lensing or of intrinsic alignment::

    C_ij(l) = F(l)^2 int dchi W_i(chi) W_j(chi) / chi^2 P((l + 1/2) / chi, z),   F(l)^2 = (l+2)! / (l-2)! / (l + 1/2)^4
    W_lensing(chi) = 3/2 Omega_m (H0 / c)^2 (1 + z) chi int_chi^inf dchi' n(chi') (chi' - chi) / chi'
    W_IA(chi) = -A(z) 0.0134 Omega_m / D(z) n(chi),    D(0) = 1    (Bridle & King 2007, in the convention of CCL)

and xi_+-(theta) = sum_l (2 l + 1) / (4 pi) d^l_2,+-2(theta) C(l), with Bessel functions J_0/4((l + 1/2) theta) for d at
large l. CCL's ``angular_cl`` and ``correlation`` (in the flat sky) compute the same; here the integrals of all pairs
are products of matrices, which takes a hundredth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import eval_jacobi, j0, j1, jv

from iaemu.extras import it_takes
from iaemu_cobaya.likelihoods.shear_data import STATISTICS, ShearData

#: Multipoles at which spectra are computed; between them they are splines in log l.
_NODES = np.geomspace(2.0, 60000.0, 60)

#: Range of l theta in which spectra are faded out: the Bessel functions oscillate too fast for them to matter.
_FADE = (25.0, 100.0)

#: Steps in redshift of the integrals along the line of sight: at most this, and at least this many in all.
_STEP, _STEPS = 0.01, 200

#: Multipoles below this are summed with exact Wigner functions, and in parts of this many above.
_EXACT, _CHUNK = 200, 2000


def import_ccl() -> Any:
    """Return the module ``pyccl``.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        It is not installed; the message says how to install it.
    """
    try:
        import pyccl
    except ImportError as error:
        raise ImportError(it_takes(f"Cosmic shear needs pyccl ({error})", "lensing")) from error
    return pyccl


def cosmology_of_parameters(values: Mapping[str, float], options: Mapping[str, Any]) -> Any:
    """Return a flat LCDM cosmology of CCL.

    Parameters
    ----------
    values : mapping of str to float
        Omega_m (of all matter, neutrinos included), sigma8, h, n_s, Omega_b, and optionally m_nu [eV] of one massive
        neutrino.
    options : mapping
        Further arguments of ``pyccl.Cosmology``, such as ``transfer_function``.

    Returns
    -------
    pyccl.Cosmology
    """
    ccl = import_ccl()
    others: dict[str, Any] = {name: values[name] for name in ("sigma8", "h", "n_s", "Omega_b")}
    others.update(m_nu=values.get("m_nu", 0.0), mass_split="single")
    omega_nu = 0.0
    if others["m_nu"] > 0:
        # CCL knows the density of neutrinos of a mass only once there is a cosmology; it does not depend on matter.
        omega_nu = float(ccl.Cosmology(Omega_c=0.25, **others)["Omega_nu_mass"])
    omega_c = values["Omega_m"] - values["Omega_b"] - omega_nu
    return ccl.Cosmology(Omega_c=omega_c, **{**others, **options})


def cosmology_of_tables(
    z: np.ndarray,
    distance: np.ndarray,
    hubble: np.ndarray,
    k: np.ndarray,
    linear: np.ndarray,
    nonlinear: np.ndarray,
    omega_m: float,
) -> Any:
    """Return a flat cosmology of CCL whose distances and power spectra are given.

    Parameters
    ----------
    z : array (n,)
        Increasing, from 0.
    distance : array (n,)
        Comoving distance [Mpc].
    hubble : array (n,)
        H(z) [km/s/Mpc].
    k : array (n_k,)
        [1/Mpc]
    linear, nonlinear : array (n, n_k)
        Power spectra of matter [Mpc^3]. The growth factor is that of the linear one at the smallest k.
    omega_m : float

    Returns
    -------
    pyccl.CosmologyCalculator
    """
    ccl = import_ccl()
    a = 1.0 / (1.0 + z[::-1])
    growth = np.sqrt(linear[:, 0] / linear[0, 0])[::-1]
    rate = np.gradient(np.log(growth), np.log(a))
    # CCL wants these too, but nothing here depends on them.
    unused = {"Omega_b": 0.05, "n_s": 0.96, "sigma8": 0.8}
    return ccl.CosmologyCalculator(
        Omega_c=omega_m - unused["Omega_b"],
        h=float(hubble[0]) / 100.0,
        **unused,
        background={"a": a, "chi": distance[::-1], "h_over_h0": (hubble / hubble[0])[::-1]},
        growth={"a": a, "growth_factor": growth, "growth_rate": rate},
        pk_linear={"a": a, "k": k, "delta_matter:delta_matter": linear[::-1]},
        pk_nonlin={"a": a, "k": k, "delta_matter:delta_matter": nonlinear[::-1]},
    )


@dataclass(frozen=True)
class LineOfSight:
    """A cosmology at the nodes of the integrals along the line of sight.

    Attributes
    ----------
    cosmology : pyccl.Cosmology
    z, chi : array (n,)
        Redshift, and comoving distance [Mpc].
    weights : array (n, n_l)
        F(l)^2 P / chi^2 and the weights of the integral over chi.
    """

    cosmology: Any
    z: np.ndarray
    chi: np.ndarray
    weights: np.ndarray


class ShearSpectra:
    """Predicts xi_plus and xi_minus of a data vector.

    Parameters
    ----------
    data : ShearData
    """

    def __init__(self, data: ShearData):
        self._ccl = import_ccl()
        self._sources = data.z, data.nz
        pairs, self._pair_of = np.unique(np.sort(data.pairs, axis=1), axis=0, return_inverse=True)
        self._pair_of = self._pair_of.reshape(-1)
        self._first, self._second = pairs.T
        self._to_xi = hankel_matrix(data.statistic, data.theta)
        self._z = _nodes_in_redshift(data.z)

    @property
    def z_max(self) -> float:
        """Largest redshift of the integrals."""
        return float(self._z[-1])

    def line_of_sight(self, cosmology: Any) -> LineOfSight:
        """Return what depends on the cosmology alone.

        Parameters
        ----------
        cosmology : pyccl.Cosmology

        Returns
        -------
        LineOfSight
        """
        a = 1.0 / (1.0 + self._z)
        chi = self._ccl.comoving_radial_distance(cosmology, a)
        cosmology.compute_nonlin_power()
        power = cosmology.get_nonlin_power()
        weights = np.array([power((_NODES + 0.5) / at, scale) for at, scale in zip(chi, a, strict=True)])
        step = np.gradient(chi)
        step[[0, -1]] *= 0.5
        weights *= (step / chi**2)[:, None]
        factor = (_NODES + 2) * (_NODES + 1) * _NODES * (_NODES - 1) / (_NODES + 0.5) ** 4
        return LineOfSight(cosmology, self._z, chi, weights * factor)

    def parts(self, line: LineOfSight, shifts: Sequence[float], eta: float = 0.0, z0: float = 0.62) -> np.ndarray:
        """Return the terms of xi in powers of the amplitude of intrinsic alignment.

        Parameters
        ----------
        line : LineOfSight
        shifts : sequence of float
            Of each source bin: n(z) becomes n(z - shift).
        eta, z0 : float
            The amplitude is A ((1 + z) / (1 + z0))^eta.

        Returns
        -------
        array (3, n)
            xi = parts[0] + A parts[1] + A^2 parts[2]: shear, shear with intrinsic shapes, and intrinsic shapes.
        """
        shear, intrinsic = self._kernels(line, shifts)
        intrinsic = intrinsic * ((1.0 + line.z) / (1.0 + z0)) ** eta
        i, j = self._first, self._second
        products = np.stack(
            [
                shear[i] * shear[j],
                shear[i] * intrinsic[j] + intrinsic[i] * shear[j],
                intrinsic[i] * intrinsic[j],
            ]
        )
        spectra = products @ line.weights
        return np.einsum("pl,kpl->kp", self._to_xi, spectra[:, self._pair_of])

    def _kernels(self, line: LineOfSight, shifts: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernels of lensing and of intrinsic alignment with amplitude one, (n_bins, n) each."""
        z, distributions = self._sources
        shear, intrinsic = [], []
        for nz, shift in zip(distributions, shifts, strict=True):
            shifted = z + shift
            behind = shifted >= 0
            dndz = (shifted[behind], nz[behind])
            lensed = self._ccl.WeakLensingTracer(line.cosmology, dndz=dndz)
            bias = (dndz[0], np.ones_like(dndz[0]))
            aligned = self._ccl.WeakLensingTracer(line.cosmology, dndz=dndz, has_shear=False, ia_bias=bias)
            shear.append(lensed.get_kernel(line.chi)[0])
            # CCL keeps - 0.0134 Omega_m / D(z) apart from the distribution.
            intrinsic.append(aligned.get_kernel(line.chi)[0] * aligned.get_transfer(0.0, 1.0 / (1.0 + line.z))[0])
        return np.array(shear), np.array(intrinsic)


def _nodes_in_redshift(z: np.ndarray) -> np.ndarray:
    """Return nodes from 0 to the end of the distributions, as fine as those, and finer near the observer."""
    # Shifts may move the end outward.
    end = float(z[-1]) + 0.1
    step = min(_STEP, end / _STEPS, max(float(np.diff(z).min()), 0.002))
    linear = np.linspace(0.0, end, int(np.ceil(end / step)) + 1)[1:]
    return np.concatenate([np.geomspace(1e-4, linear[0], 15)[:-1], linear])


def hankel_matrix(statistic: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return the matrix that turns C_l at the nodes into xi_plus or xi_minus at separations.

    Parameters
    ----------
    statistic : array of str (n,)
    theta : array (n,)
        [arcmin]

    Returns
    -------
    array (n, n_l)
    """
    angle = np.radians(theta / 60.0)
    # l C(l) is smoother than C(l).
    cardinal = CubicSpline(np.log(_NODES), np.diag(_NODES))
    matrix = np.zeros((len(theta), len(_NODES)))
    last = np.minimum(_FADE[1] / angle, _NODES[-1])
    starts = [_NODES[0], *np.arange(_EXACT, _NODES[-1], _CHUNK)]
    for start, stop in zip(starts, [*starts[1:], _NODES[-1]], strict=True):
        ell = np.arange(start, stop)
        basis = cardinal(np.log(ell)) * ((ell + 0.5) / ell)[:, None]
        for name in STATISTICS:
            here = (statistic == name) & (last > start)
            begin, end = _FADE[0] / angle[here, None], last[here, None]
            fade = np.cos(0.5 * np.pi * np.clip((ell - begin) / (end - begin), 0.0, 1.0)) ** 2
            matrix[here] += (fade * _wigner_d(name, ell, angle[here, None])) @ basis
    return matrix / (2.0 * np.pi)


def _wigner_d(statistic: str, ell: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return d^l_22 for xi_plus, d^l_2-2 for xi_minus: exact for small l, and else as Bessel functions."""
    if ell[0] >= _EXACT:
        x = (ell + 0.5) * angle
        return j0(x) if statistic == "xi_plus" else _j4(x)
    degree = ell.astype(int) - 2  # of floats, scipy computes hypergeometric functions
    if statistic == "xi_plus":
        return np.cos(0.5 * angle) ** 4 * eval_jacobi(degree, 0, 4, np.cos(angle))
    return np.sin(0.5 * angle) ** 4 * eval_jacobi(degree, 4, 0, np.cos(angle))


def _j4(x: np.ndarray) -> np.ndarray:
    """Return the Bessel function J_4, by recurrence where that is stable: scipy's takes thirty times as long."""
    small = x < 6.0
    safe = np.where(small, 6.0, x)
    second = 2.0 * j1(safe) / safe - j0(safe)
    fourth = (24.0 / safe**2 - 1.0) * second - 6.0 * j1(safe) / safe
    fourth[small] = jv(4, x[small])
    return fourth

"""Checks of halo catalogues: valid arrays, and numbers that are possible in the assumed units.

Wrong units show in the number density of hosts above a mass, in the distances of sub-halos from their hosts, and in how
the halos fill the box. A factor h cannot be detected: Mpc instead of Mpc/h changes the density by a factor of 0.3, Msun
instead of Msun/h by 1.4, and the densities of other cosmologies and redshifts differ by more.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid

from iaemu.halomodel.abundance import CRITICAL_DENSITY
from iaemu_training.halos.columns import CatalogueError

#: Least number of hosts (or sub-halos) for a check.
ENOUGH = 100
#: Factor by which the density of hosts may lie outside the range of :func:`density_range`.
DENSITY_FACTOR = 10.0
#: Largest distance of a sub-halo from its host, in virial radii of the host; and the share that may be farther away.
VIRIAL_RADII, STRAYS = 5.0, 0.01
#: How far the mean squares of the components of the major axes may lie from 1/3, in a large box.
ISOTROPY = 0.1
#: Least share of the side of the box that the halos must extend over.
FILLED = 0.9

_OMEGA_M = 0.31
#: Range of redshifts for a catalogue that does not state its own; range of linear amplitudes relative to Planck's.
_REDSHIFTS = (0.0, 2.0)
_AMPLITUDES = (0.8, 1.2)


def check_arrays(name: str, Lbox: float, arrays: dict[str, np.ndarray]) -> None:
    """Check shapes and values of the arrays of a catalogue.

    Parameters
    ----------
    name : str
        Name of the catalogue, for error messages.
    Lbox : float
        Side of the box [Mpc/h].
    arrays : dict
        ``position``, ``mass``, ``axis``, ``n_subhalos``, ``offset``, and ``velocity`` if known, as in
        :class:`iaemu_training.halos.catalogue.HaloCatalogue`.

    Raises
    ------
    CatalogueError
        An array has a wrong shape or a bad value; the message names the array, the row (from 0) and the value.
    """
    n = np.size(arrays["mass"])
    if not n:
        raise CatalogueError(f"Catalogue {name} has no hosts.")
    shapes = {"position": (n, 3), "mass": (n,), "axis": (n, 3), "n_subhalos": (n,)}
    total = int(arrays["n_subhalos"].sum(dtype=np.float64))
    shapes["offset"] = (total, 3)
    if "velocity" in arrays:
        shapes["velocity"] = (n, 3)
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise CatalogueError(
                f"Catalogue {name}: {key} has shape {arrays[key].shape}, but {n} hosts with {total} sub-halos in total "
                f"need {shape}."
            )
    norm = np.linalg.norm(arrays["axis"], axis=-1)
    half = 0.5 * Lbox * (1 + 1e-6)
    for key, good, wanted in (
        ("position", (arrays["position"] >= 0) & (arrays["position"] < Lbox), f"within [0, {Lbox:g}) Mpc/h"),
        ("mass", (arrays["mass"] > 0) & np.isfinite(arrays["mass"]), "positive and finite [Msun/h]"),
        ("mass", np.diff(arrays["mass"], prepend=arrays["mass"][:1]) >= 0, "in ascending order"),
        ("axis", np.abs(norm - 1.0) < 1e-3, "unit vectors"),
        ("n_subhalos", arrays["n_subhalos"] >= 0, "not negative"),
        ("offset", np.abs(arrays["offset"]) <= half, f"within half the side, {0.5 * Lbox:g} Mpc/h"),
        *((("velocity", np.isfinite(arrays["velocity"]), "finite [km/s]"),) if "velocity" in arrays else ()),
    ):
        good = good.all(axis=1) if good.ndim > 1 else good
        if not good.all():
            row = int(np.argmin(good))
            raise CatalogueError(
                f"Catalogue {name}: {key} must be {wanted}, but {np.sum(~good)} rows are not; the first is row {row}, "
                f"counted from 0: {np.array2string(np.asarray(arrays[key][row]), precision=6)}."
            )


def check_physics(name: str, Lbox: float, arrays: dict[str, np.ndarray], redshift: float | None) -> None:
    """Check that a catalogue with at least ``ENOUGH`` hosts is physically possible.

    If fewer than 1 % of the sub-halos lie far from their hosts, this is a warning only.

    Parameters
    ----------
    name, Lbox, arrays
        As for :func:`check_arrays`.
    redshift : float or None
        Redshift, if it is known.

    Raises
    ------
    CatalogueError
        The hosts leave a part of the box empty; their axes are not isotropic; their number density is more than 10
        times above or below that of cosmologies near ours; or more than 1 % of the sub-halos lie far from their hosts.
    """
    if len(arrays["mass"]) < ENOUGH:
        return
    _check_extent(name, Lbox, arrays["position"])
    _check_density(name, Lbox, arrays["mass"], redshift)
    _check_axes(name, arrays["axis"])
    _check_offsets(name, arrays)


def _check_extent(name: str, Lbox: float, position: np.ndarray) -> None:
    low, high = position.min(axis=0), position.max(axis=0)
    share = (high - low) / Lbox
    axis = int(np.argmin(share))
    # With ten clustered halos counted as one, a smaller extent happens by chance in one catalogue of a million.
    if share[axis] < FILLED and len(position) / 10.0 * math.log(max(share[axis], 1e-300)) < math.log(1e-6):
        raise CatalogueError(
            f"Catalogue {name}: the {len(position)} hosts fill the box only from {'xyz'[axis]} = {low[axis]:.6g} to "
            f"{high[axis]:.6g} of {Lbox:g} Mpc/h. Give the side of the periodic box in the units of the positions "
            "(comoving Mpc/h). A part of a box is not periodic and cannot be used."
        )


def _check_density(name: str, Lbox: float, mass: np.ndarray, redshift: float | None) -> None:
    above = np.unique(np.geomspace(ENOUGH, len(mass), 20).astype(int))
    density = above / Lbox / Lbox / Lbox
    least, most = density_range(mass[-above], redshift)
    many, few = density / (DENSITY_FACTOR * most), density * DENSITY_FACTOR / least
    if not (np.all(many > 1) or np.all(few < 1)):
        return
    closest = int(np.argmin(many)) if np.all(many > 1) else int(np.argmax(few))
    expected = math.sqrt(least[closest] * most[closest])
    when = f"z = {redshift:g}" if redshift is not None else "any z of 0 .. 2"
    factor = (expected / density[closest]) ** (1.0 / 3.0)
    raise CatalogueError(
        f"Catalogue {name}: there are {density[closest]:.2g} hosts above {mass[-above[closest]]:.2g} Msun/h in a "
        f"(Mpc/h)^3, but cosmologies near ours have {least[closest]:.2g} .. {most[closest]:.2g} at {when}, as if all "
        f"lengths were {factor:.3g} times too large. Positions and Lbox must be in comoving Mpc/h (divide kpc/h by "
        "1000), masses in Msun/h."
    )


def _check_axes(name: str, axis: np.ndarray) -> None:
    # The mean of e e^T over random axes is 1/3 of the unit matrix. Each component scatters by 0.3 / sqrt(n).
    shares = np.linalg.eigvalsh(axis.T @ axis / len(axis))
    if np.abs(shares - 1.0 / 3.0).max() > ISOTROPY + 2.0 / math.sqrt(len(axis)):
        raise CatalogueError(
            f"Catalogue {name}: the major axes of the {len(axis)} hosts are not isotropic: the mean squares of their "
            f"components, {' '.join(f'{share:.2f}' for share in shares)} along three directions, should be 0.33 each. "
            "Check the columns of the axes: are they positions, absolute values, or axes of projected shapes?"
        )


def density_range(mass: np.ndarray, redshift: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest number density of halos above each mass, in cosmologies near ours.

    From the mass function of Sheth & Tormen 1999 (astro-ph/9901122), with sigma(M) of Klypin et al. 2011
    (arXiv:1002.3660; within 9 % of CAMB's for Bolshoi-Planck) times 0.8 to 1.2, and the growth factor of Carroll et al.
    1992.

    Parameters
    ----------
    mass : (n,)
        Halo masses [Msun/h].
    redshift : float or None
        Redshift; None for the range from 0 to 2.

    Returns
    -------
    least, most : (n,) float64
        Number densities [(h/Mpc)^3].
    """
    first, last = _REDSHIFTS if redshift is None else (redshift, redshift)
    amplitudes = np.geomspace(_AMPLITUDES[0] * _growth(last), _AMPLITUDES[1] * _growth(first), 6)
    log_mass = np.log(np.clip(mass, 1e8, 1e16))
    # From each mass upwards over 7 e-folds, beyond which hardly any halos are left.
    ln_m = log_mass[:, None] + np.linspace(0.0, 7.0, 200)
    y = 1e12 / np.exp(ln_m)
    sigma = 16.9 * y**0.41 / (1 + 1.102 * y**0.2 + 6.22 * y**0.333)
    slope = np.gradient(np.log(sigma), ln_m[0], axis=1)
    found = []
    for amplitude in amplitudes:
        nu2 = 0.707 * (1.686 / (amplitude * sigma)) ** 2
        multiplicity = 0.3222 * np.sqrt(2 * nu2 / np.pi) * (1 + nu2**-0.3) * np.exp(-0.5 * nu2)
        per_ln_mass = _OMEGA_M * CRITICAL_DENSITY / np.exp(ln_m) * multiplicity * np.abs(slope)
        found.append(trapezoid(per_ln_mass, ln_m, axis=1))
    return np.min(found, axis=0), np.max(found, axis=0)


def virial_overdensity(Om0: float, redshift: float) -> float:
    """Return the density of virialised halos in units of the mean (Bryan & Norman 1998, ApJ 495, 80), flat LCDM.

    Parameters
    ----------
    Om0 : float
        Density of matter today, in units of the critical one.
    redshift : float

    Returns
    -------
    float
    """
    growth = (1.0 + redshift) ** 3
    Om = Om0 * growth / (Om0 * growth + 1.0 - Om0)
    return (18.0 * np.pi**2 + 82.0 * (Om - 1.0) - 39.0 * (Om - 1.0) ** 2) / Om


def virial_radius(mass: ArrayLike, Om0: float, redshift: float) -> np.ndarray:
    """Return virial radii by the spherical collapse of Bryan & Norman 1998 (ApJ 495, 80), in a flat universe.

    Parameters
    ----------
    mass : array
        Virial masses [Msun/h].
    Om0 : float
        Density of matter today, in units of the critical one.
    redshift : float
        Redshift of the halos.

    Returns
    -------
    array
        [comoving Mpc/h]
    """
    overdensity = virial_overdensity(Om0, redshift)
    return (3.0 * np.asarray(mass) / (4.0 * np.pi * overdensity * Om0 * CRITICAL_DENSITY)) ** (1.0 / 3.0)


def _growth(redshift: float) -> float:
    """Return the linear growth factor relative to z = 0."""

    def unnormalised(z: float) -> float:
        matter = _OMEGA_M * (1 + z) ** 3
        om, ol = matter / (matter + 1 - _OMEGA_M), (1 - _OMEGA_M) / (matter + 1 - _OMEGA_M)
        return om / (om ** (4 / 7) - ol + (1 + om / 2) * (1 + ol / 70)) / (1 + z)

    return unnormalised(min(max(redshift, -0.5), 20.0)) / unnormalised(0.0)


def _check_offsets(name: str, arrays: dict[str, np.ndarray]) -> None:
    offset, n_subhalos = arrays["offset"], arrays["n_subhalos"]
    if len(offset) < ENOUGH:
        return
    host = np.repeat(np.arange(len(n_subhalos)), n_subhalos)
    volume = arrays["mass"][host] / (200.0 * _OMEGA_M * CRITICAL_DENSITY)
    apart = np.linalg.norm(offset, axis=1)
    in_radii = apart / (3.0 / (4.0 * np.pi) * volume) ** (1.0 / 3.0)
    far, share = int(np.argmax(in_radii)), np.mean(in_radii > VIRIAL_RADII)
    what = (
        f"lie more than {VIRIAL_RADII:g} virial radii from their hosts, the farthest {apart[far]:.3g} Mpc/h from a "
        f"host of {arrays['mass'][host[far]]:.2g} Msun/h, which is {in_radii[far]:.3g} virial radii"
    )
    if share > STRAYS:
        raise CatalogueError(
            f"Catalogue {name}: {share:.2%} of the sub-halos {what}. Check halo_hostid, and the units of positions "
            "(comoving Mpc/h) and masses (Msun/h)."
        )
    if in_radii[far] > 4.0 * VIRIAL_RADII:
        warnings.warn(f"Catalogue {name}: {np.sum(in_radii > VIRIAL_RADII)} sub-halos {what}.", stacklevel=4)

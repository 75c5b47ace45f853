"""Measurement of what surveys measure, w_gg, w_g+, w_++ and the quadrupole of xi_g+, in a periodic box.

:func:`measure_projected` returns a measurement, whose ``write`` makes the files that the likelihood
``iaemu_cobaya.ProjectedCorrelations`` reads. On the command line it is ``iaemu measure --projected``.

A galaxy with the major axis e has, along a line of sight, the projected ellipticity
((e.x)^2 - (e.y)^2, 2 (e.x) (e.y)), with x and y across the line: a shape amplitude of 1. With eps_+ its part towards
the other galaxy of a pair, positive for radial alignment, and analytic random points,

    w_gg(r_p) = int (DD / RR - 1) dPi,  w_g+(r_p) = int S_+D / RR dPi,  w_++(r_p) = int S_+S_+ / RR dPi,

each from -Pi_max to Pi_max, averaged over the bin of r_p. S_+R is zero in a periodic box. The quadrupole is that of
Singh et al. 2024 (arXiv:2307.02545): (5/48) int xi_g+(r, mu) 3 (1 - mu^2) dmu, over mu = Pi / r from -1 to 1, in bins
of r. Without redshift-space distortions it is (1 + xi) omega / 2.

Positions and axes of a box can be seen from all sides. The mean over all lines of sight follows exactly from the
separations and the angles in space: (r_p / r)^2 eps_+ of a pair has the mean ((e.r)^2 / r^2 - 1/3) (4/5), and w_gg and
w_g+ are integrals of xi(r) and (1 + xi) omega (:func:`iaemu.observables.projected.cylinder_weights`).

Errors are from a jackknife as in :mod:`iaemu_training.measuring.jackknife`: what random points would give beside a
removed region is subtracted. Regions may be shorter than Pi_max. (In bins of five to ten times the volume of a region
the variance of w_gg of unclustered galaxies is 25 to 30 % too large, in smaller ones it is right.)
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iaemu.binning import nesting_matrix, shell_volumes
from iaemu.measurement import Measurement
from iaemu.observables.projected import cylinder_weights
from iaemu.ranges import Range, real_array
from iaemu.statistics import PROJECTED
from iaemu_training.measuring.estimators import assemble, box_header, enough_pairs, notes_on_positions
from iaemu_training.measuring.jackknife import matched_cross_weight, remaining_random_pairs
from iaemu_training.pairs.galaxies import checked_galaxies
from iaemu_training.pairs.galaxies_by_region import check_regions, shell_nodes, sum_by_region
from iaemu_training.pairs.projected import BinnedPairs, count_projected_by_region

#: What is measured by default.
DEFAULT = ("w_gg", "w_gplus")

#: How the values and the errors are estimated, for the header of the file.
ESTIMATOR = (
    "(S+D - S+R)/RR and DD/RR - 1, analytic randoms; delete-one jackknife over cubes, pairs across borders as in "
    "arXiv:2109.07071"
)

#: Axes of the box that are lines of sight, by their number.
AXES = {1: (2,), 2: (1, 2), 3: (0, 1, 2)}

#: Lines of sight whose mean is exact: :func:`measure_projected` takes it in place of a number.
ALL = "all"

# Width of the shells for all lines of sight, in which xi and omega are taken as constant [dex].
_SHELL = 0.01
# (5/8) int eps_+ (1 - mu^2) dmu is the quadrupole; for all lines of sight 4/5 of (e.rhat)^2 - 1/3 are left of it.
_QUADRUPOLE, _LEFT = 5.0 / 8.0, 4.0 / 5.0


def measure_projected(
    positions: ArrayLike,
    axes: ArrayLike,
    Lbox: float,
    rp_edges: ArrayLike,
    pi_max: float | None = None,
    lines_of_sight: int | str | ArrayLike = 3,
    n_regions_per_side: int = 5,
    statistics: str | Sequence[str] = DEFAULT,
    joint: bool = True,
    metadata: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Measurement:
    """Measure w_gg, w_g+, w_++ and xi_g+,2 of galaxies in a periodic cubic box, with jackknife errors and covariance.

    Parameters
    ----------
    positions : (n, 3)
        Positions in [0, Lbox] [Mpc/h], in real or in redshift space. Positions outside by a rounding error are wrapped,
        with a warning.
    axes : (n, 3)
        Major axes; only their directions count, and none may have length 0. The shape amplitude is 1.
    Lbox : float
        Side of the box [Mpc/h].
    rp_edges : (n_bins + 1,)
        Edges of the bins in r_p, and in r for the quadrupole [Mpc/h].
    pi_max : float
        Largest separation along the line of sight [Mpc/h]; see :func:`largest_pi_max`. There is no default.
    lines_of_sight : int, "all" or (n, 3)
        Statistics are averaged over this number of axes of the box as lines of sight: 1 (z), 2 (y, z) or 3; over all
        directions; or over those of the given vectors. All directions suppose that there is no line of sight in the
        positions (real space), and exclude w_plusplus.
    n_regions_per_side : int
        Number of jackknife regions along each side of the box. Regions must be wider than the largest r_p.
    statistics : str or sequence of str
        Of "w_gg", "w_gplus", "w_plusplus", "xi_gplus_2"; by default the first two.
    joint : bool
        Estimate one covariance over all statistics, as by default, instead of one for each.
    metadata : mapping, optional
        Further entries of the header, such as ``description`` and ``redshift``; they come first.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    Measurement
        Bins with too few pairs are left out as by :func:`~iaemu_training.measuring.estimators.measure`.

    Raises
    ------
    ValueError
        Positions, axes, bins, Pi_max, lines of sight or regions are not as described, or do not fit into the box.
    MeasurementError
        A statistic cannot be measured in any bin.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ValueError(f"metadata must be a mapping of names to values, got {type(metadata).__name__}.")
    names = _checked_statistics(statistics)
    lines = _checked_lines(lines_of_sight)
    x, e, Lbox, edges = checked_galaxies(positions, axes, Lbox, rp_edges)
    pi_max = _check_box(Lbox, edges[-1], pi_max, lines_of_sight)
    n_side = check_regions(n_regions_per_side, Lbox, edges[-1])
    if lines is None:
        if "w_plusplus" in names:
            raise ValueError(
                "w_plusplus does not follow from xi(r) and omega(r): measure it along lines_of_sight = 3, not 'all'."
            )
        found = _all_lines(x, e, Lbox, edges, pi_max, n_side, progress)
    else:
        found = _some_lines(x, e, Lbox, edges, pi_max, lines, n_side, progress)
    values, n_gal = found
    header = {
        **(metadata or {}),
        **box_header(Lbox, n_gal),
        "estimator": ESTIMATOR,
        "pi_max": pi_max,
        "lines_of_sight": ALL if lines is None else lines.tolist(),
        "shape_amplitude": 1.0,
    }
    return assemble({name: values[name] for name in names}, edges, joint, notes_on_positions(positions, Lbox), header)


def _some_lines(x, e, Lbox, edges, pi_max, lines, n_side, progress):
    """Return (values, estimates, enough) by statistic for lines of sight (n, 3), and galaxies by region."""
    cylinders, shells = count_projected_by_region(x, e, Lbox, edges, pi_max, lines, n_side, progress)
    w, w_k = _ratios(cylinders)
    xi, xi_k = _ratios(shells)
    found = {
        name: (2.0 * pi_max * w[kind], 2.0 * pi_max * w_k[kind], _enough(cylinders.by_region[0]))
        for kind, name in enumerate(PROJECTED[:3])
    }
    found["xi_gplus_2"] = (_QUADRUPOLE * xi[1], _QUADRUPOLE * xi_k[1], _enough(shells.by_region[0]))
    return found, cylinders.n_gal


def _all_lines(x, e, Lbox, edges, pi_max, n_side, progress):
    """As :func:`_some_lines`, for all lines of sight."""
    fine = shell_edges(np.append(edges, np.hypot(edges[-1], pi_max)))
    nodes = shell_nodes(fine, n_radii=1)
    sums = sum_by_region(x, e, Lbox, fine, n_side, nodes, progress)
    kinds = [np.stack(part[:2]) for part in (sums.auto, sums.cross)]
    inside = nodes.inside(Lbox / n_side)
    random = (sums.random_auto, sums.random_cross)
    shells = BinnedPairs(Lbox, sums.n_gal, shell_volumes(fine), inside, kinds[0], kinds[1], *random)
    matrices = cylinder_weights(fine, edges[:-1], edges[1:], pi_max)
    # The part of each shell that is in a cylinder: mean pairs of a line of sight.
    part = matrices[0] * (np.pi * np.diff(edges**2))[:, None] / shells.volume
    enough = _enough(shells.by_region[0] @ part.T)
    xi, xi_k = _ratios(shells)
    found = {
        name: (matrix @ xi[kind], xi_k[kind] @ matrix.T, enough)
        for kind, (name, matrix) in enumerate(zip(PROJECTED[:2], matrices, strict=True))
    }
    coarse = shells.joined(nesting_matrix(fine, edges))
    xi, xi_k = _ratios(coarse)
    factor = _QUADRUPOLE * _LEFT
    found["xi_gplus_2"] = (factor * xi[1], factor * xi_k[1], _enough(coarse.by_region[0]))
    return found, sums.n_gal


def shell_edges(edges: np.ndarray) -> np.ndarray:
    """Return edges of narrow shells, among which are all of ``edges``."""
    parts = [
        np.geomspace(low, high, int(np.ceil(np.log10(high / low) / _SHELL)) + 1)[:-1] for low, high in pairwise(edges)
    ]
    return np.append(np.concatenate(parts), edges[-1])


def _ratios(pairs: BinnedPairs) -> tuple[np.ndarray, np.ndarray]:
    """Return DD / RR - 1 and other sums over RR, (n_kinds, n_bins), and their delete-one estimates."""
    n, total = len(pairs.n_gal), pairs.n_gal.sum()
    weight = matched_cross_weight(n)
    random = (pairs.random_auto, pairs.random_cross)
    DR, S_R, RR = remaining_random_pairs(pairs.n_gal, pairs.Lbox, pairs.volume, pairs.inside, *random, weight)
    whole = pairs.by_region.sum(axis=1)
    remaining = whole[:, None] - pairs.auto - weight * pairs.cross
    remaining[0] += RR - 2.0 * DR
    remaining[1] -= S_R
    values = whole / (total**2 * pairs.volume / pairs.Lbox**3)
    values[0] -= 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return values, remaining / RR


def _enough(DD: np.ndarray) -> np.ndarray:
    """Return whether bins have enough pairs, from those by region (n, n_bins)."""
    total = DD.sum(axis=0)
    return enough_pairs(total, total**2 / np.maximum((DD**2).sum(axis=0), 1e-300))


def _checked_statistics(statistics) -> tuple[str, ...]:
    names = list(statistics) if isinstance(statistics, list | tuple | set) else [statistics]
    wrong = [name for name in names if not isinstance(name, str) or name not in PROJECTED]
    if wrong or not names:
        raise ValueError(
            f"statistics of projected pairs are {', '.join(PROJECTED)}; got {', '.join(map(str, wrong)) or 'none'}. "
            f"xi, omega and eta are measured by measure(), or without --projected."
        )
    return tuple(name for name in PROJECTED if name in names)


def _checked_lines(lines_of_sight) -> np.ndarray | None:
    """Return unit vectors along the lines of sight, (n, 3), or None for all of them."""
    if isinstance(lines_of_sight, str) and lines_of_sight == ALL:
        return None
    if isinstance(lines_of_sight, numbers.Integral) and not isinstance(lines_of_sight, bool):
        if lines_of_sight in AXES:
            return np.eye(3)[list(AXES[int(lines_of_sight)])]
    elif not isinstance(lines_of_sight, str | bool):
        lines = real_array(lines_of_sight, "lines_of_sight", ValueError)
        if lines.ndim == 2 and lines.shape[1] == 3 and len(lines) and np.all(np.isfinite(lines)):
            length = np.linalg.norm(lines, axis=1, keepdims=True)
            if np.all(length > 0):
                return lines / length
    raise ValueError(
        f"lines_of_sight must be 1, 2 or 3 axes of the box, '{ALL}', or vectors of shape (n, 3) and of a length above "
        f"0; got {lines_of_sight!r:.60}."
    )


def largest_pi_max(Lbox: float, rp_max: float, lines_of_sight: int | str | ArrayLike = 3) -> float:
    """Return the largest Pi_max for which bins fit between a galaxy and its images, where the nearest is the only one.

    Parameters
    ----------
    Lbox : float
        Side of the box [Mpc/h].
    rp_max : float
        Largest r_p [Mpc/h].
    lines_of_sight : int, "all" or (n, 3)
        See :func:`measure_projected`.

    Returns
    -------
    float
        [Mpc/h]; 0 if no bin fits.
    """
    lines, half = _checked_lines(lines_of_sight), 0.5 * Lbox
    if lines is None:
        return float(np.sqrt(max(half**2 - rp_max**2, 0.0)))
    along = np.abs(lines).ravel()
    left = half - rp_max * np.sqrt(np.clip(1.0 - along**2, 0.0, None))
    if left.min() < 0:
        return 0.0
    # At most half of the box, beyond which pairs repeat along an axis; along others it would not end.
    return float(np.min(np.divide(left, along, out=np.full_like(along, half), where=along > 1e-12), initial=half))


def _check_box(Lbox: float, rp_max: float, pi_max: float | None, lines_of_sight) -> float:
    """Return Pi_max; raise ValueError if it is none, or too large for the box."""
    most = np.floor(largest_pi_max(Lbox, rp_max, lines_of_sight) * 1e3) / 1e3
    limits = f"in a box of {Lbox:g} Mpc/h with r_p up to {rp_max:.4g} Mpc/h it may be up to {most:g} Mpc/h"
    if pi_max is None:
        raise ValueError(f"pi_max is missing, the largest separation along the line of sight [Mpc/h]; {limits}.")
    Range(above=0).check("pi_max [Mpc/h]", pi_max)
    if pi_max > most:
        raise ValueError(f"pi_max = {pi_max:g} Mpc/h is too large: {limits}. Lower pi_max or r_p, or use a larger box.")
    return float(pi_max)

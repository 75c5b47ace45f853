"""Pair sums of a galaxy catalogue for xi, omega and eta, in one pass over all pairs.

The sums are those of halotools' ``tpcf``, ``ed_3d`` and ``ee_3d`` with analytic randoms (Hearin et al. 2017, AJ 154,
190). Sums, unlike ratios, can be added over boxes and realisations.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike

from iaemu.binning import check_edges, shell_volumes
from iaemu.ranges import Range
from iaemu_training.halos.columns import ROUNDING, wrapped
from iaemu_training.pairs.cells import CellGrid, choose_cells, minimum_image, near_cells
from iaemu_training.work.kernels import in_threads, kernel

#: Cells in the largest separation. More cells follow the sphere more closely, but need more look-ups; 2 is fastest.
CELLS_PER_RADIUS = 2


class PairSums(NamedTuple):
    """Sums over ordered pairs (i, j), i != j, with ``r_edges[b] < r_ij <= r_edges[b + 1]``.

    Attributes
    ----------
    DD : (n_bins,) float64
        Number of pairs.
    S_omega : (n_bins,) float64
        Sum of (e_i . rhat_ij)^2 - 1/3.
    S_eta : (n_bins,) float64
        Sum of (e_i . e_j)^2 - 1/3.
    """

    DD: np.ndarray
    S_omega: np.ndarray
    S_eta: np.ndarray


def count_pairs(positions: ArrayLike, axes: ArrayLike, Lbox: float, r_edges: ArrayLike) -> PairSums:
    """Count the pairs of galaxies in a periodic cubic box.

    Bins are open below and closed above, like halotools'. The result does not depend on the number of threads.

    Parameters
    ----------
    positions : (n, 3)
        Positions in [0, Lbox] [Mpc/h]; positions outside by a rounding error are wrapped.
    axes : (n, 3)
        Major axes; only their directions count.
    Lbox : float
        Side of the box [Mpc/h].
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h], at most Lbox / 2.

    Returns
    -------
    PairSums

    Raises
    ------
    ValueError
        A shape is wrong; a value is masked, not a real number or not finite; a position lies outside the box; an axis
        has length 0; or bins exceed Lbox / 2.
    """
    positions, axes, Lbox, edges = checked_galaxies(positions, axes, Lbox, r_edges)
    n_bins = len(edges) - 1
    if len(positions) < 2:
        return PairSums(*np.zeros((3, n_bins)))

    grid = CellGrid.build(positions, Lbox, choose_cells(len(positions), Lbox, edges[-1], CELLS_PER_RADIUS))
    # One row of the result for each column of cells, so that the order of additions does not depend on the threads.
    partial = np.zeros((grid.n_cells**2, 3, n_bins))
    points = np.concatenate([positions, axes], axis=1)[grid.order]
    in_threads(_count_columns, len(partial), points, grid, edges * edges, partial)
    return PairSums(*partial.sum(axis=0))


def random_pairs(n_galaxies: ArrayLike, Lbox: float, r_edges: ArrayLike) -> np.ndarray:
    """Return the expected ordered pairs without clustering, n^2 v / V as in halotools' ``tpcf``, (..., n_bins)."""
    return np.asarray(n_galaxies, dtype=np.float64)[..., None] ** 2 * shell_volumes(r_edges) / float(Lbox) ** 3


def as_vectors(values: ArrayLike, name: str) -> np.ndarray:
    """Check vectors of three finite numbers, and return them as float64.

    Parameters
    ----------
    values : (n, 3)
        The vectors.
    name : str
        What error messages call them.

    Returns
    -------
    (n, 3) float64

    Raises
    ------
    ValueError
        The shape is wrong, or a value is masked, not a real number or not finite.
    """
    try:
        array = np.asanyarray(values)
    except Exception as error:  # an arbitrary object can raise any class
        raise ValueError(f"{name} must be an array of numbers of shape (n, 3): {error}") from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be real numbers, got {array.dtype}.")
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"{name} must have shape (n, 3), got {array.shape}.")
    filled = np.ma.filled(array.astype(np.float64), np.nan)
    bad = ~np.isfinite(filled).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} hold NaN, infinite or masked values in {bad.sum()} rows, first in row {int(np.argmax(bad))}."
        )
    return np.ascontiguousarray(filled)


def wrap_rounded(positions: np.ndarray, Lbox: float) -> tuple[np.ndarray, int]:
    """Wrap positions that lie outside the box by a rounding error.

    Parameters
    ----------
    positions : (n, 3) float64
        Positions [Mpc/h].
    Lbox : float
        Side of the box [Mpc/h].

    Returns
    -------
    positions : (n, 3) float64
        Positions in [0, Lbox].
    n : int
        Number of positions that were wrapped.

    Raises
    ------
    ValueError
        A position lies outside by more than ``ROUNDING`` times the side.
    """
    outside = np.any((positions < 0) | (positions > Lbox), axis=1)
    if not outside.any():
        return positions, 0
    far = np.any((positions < -ROUNDING * Lbox) | (positions > (1 + ROUNDING) * Lbox), axis=1)
    if far.any():
        row = int(np.argmax(far))
        raise ValueError(
            f"{far.sum()} positions lie outside the box [0, {Lbox:g}] Mpc/h, first {positions[row]} in row {row}. "
            f"Check their units (Mpc/h), or wrap them with numpy.mod(positions, Lbox)."
        )
    positions = positions.copy()
    positions[outside] = wrapped(positions[outside], Lbox)
    return positions, int(outside.sum())


def checked_galaxies(
    positions: ArrayLike, axes: ArrayLike, Lbox: float, r_edges: ArrayLike
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Check galaxies as for :func:`count_pairs`; return positions in the box, unit axes, ``Lbox`` and edges."""
    edges = check_edges(r_edges)
    Range(above=0, at_most=1e9).check("Lbox", Lbox)
    Lbox = float(Lbox)
    positions = as_vectors(positions, "positions")
    axes = as_vectors(axes, "axes")
    if len(positions) != len(axes):
        raise ValueError(f"positions and axes must have equal length, got {len(positions)} and {len(axes)}.")
    if edges[-1] > 0.5 * Lbox:
        raise ValueError(
            f"r_edges end at {edges[-1]:.4g} Mpc/h, but separations in a periodic box are defined up to Lbox / 2 = "
            f"{0.5 * Lbox:.4g} Mpc/h. Use smaller separations or a larger box."
        )
    positions, _ = wrap_rounded(positions, Lbox)
    # Very long and very short axes are divided by their largest component first, since their squares would overflow.
    largest = np.abs(axes).max(axis=1, initial=0.0)
    if np.any(largest == 0):
        raise ValueError(f"{np.sum(largest == 0)} axes have length 0, first in row {int(np.argmin(largest))}.")
    scale = np.where((largest < 1e-100) | (largest > 1e100), largest, 1.0)
    axes = axes / scale[:, None]
    return positions, axes / np.linalg.norm(axes, axis=1)[:, None], Lbox, edges


@kernel
def _count_columns(start, stop, points, grid, edges2, partial):
    """Fill ``partial[start:stop]`` with the sums of pairs whose first point, in sorted order, is in a column of cells.

    ``points`` (n, 6) are positions and unit axes, sorted. Each pair is visited once and added for both of its orders.
    """
    n_bins = len(edges2) - 1
    n_cells, first = grid.n_cells, grid.first
    side = grid.Lbox / n_cells
    for column in range(start, stop):
        sums = np.zeros((3, n_bins))
        x, y = (column // n_cells + 0.5) * side, (column % n_cells + 0.5) * side
        for iz in range(n_cells):
            here = column * n_cells + iz
            if first[here] == first[here + 1]:
                continue
            for there in near_cells(grid, x, y, (iz + 0.5) * side, side, edges2[n_bins], here):
                for i in range(first[here], first[here + 1]):
                    for j in range(max(i + 1, first[there]), first[there + 1]):
                        b, s_omega, s_eta = pair_terms(points, i, j, grid.Lbox, edges2)
                        if b >= 0:
                            sums[0, b] += 2.0
                            sums[1, b] += s_omega
                            sums[2, b] += s_eta
        partial[column] = sums


@numba.njit(inline="always")
def pair_terms(points: np.ndarray, i: int, j: int, Lbox: float, edges2: np.ndarray) -> tuple[int, float, float]:
    """Return the bin of a pair, or -1 if it is in none, and what both of its orders add to S_omega and to S_eta."""
    dx = minimum_image(points[i, 0] - points[j, 0], Lbox)
    dy = minimum_image(points[i, 1] - points[j, 1], Lbox)
    dz = minimum_image(points[i, 2] - points[j, 2], Lbox)
    r2 = dx * dx + dy * dy + dz * dz
    b = len(edges2) - 2
    s_omega = 0.0
    s_eta = 0.0
    if r2 > edges2[b + 1] or r2 <= edges2[0]:
        b = -1
    else:
        # Most pairs are in the outermost bins, so the search begins there.
        while r2 <= edges2[b]:
            b -= 1
        along_i = points[i, 3] * dx + points[i, 4] * dy + points[i, 5] * dz
        along_j = points[j, 3] * dx + points[j, 4] * dy + points[j, 5] * dz
        cosine = points[i, 3] * points[j, 3] + points[i, 4] * points[j, 4] + points[i, 5] * points[j, 5]
        s_omega = (along_i * along_i + along_j * along_j) / r2 - 2.0 / 3.0
        s_eta = 2.0 * (cosine * cosine - 1.0 / 3.0)
    return b, s_omega, s_eta

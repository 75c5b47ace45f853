"""Pair sums of a galaxy catalogue by region of the box, for a spatial jackknife, in one pass over all pairs."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from iaemu_training.pairs.cells import CellGrid, choose_cells, near_cells
from iaemu_training.pairs.galaxies import CELLS_PER_RADIUS, PairSums, checked_galaxies, pair_terms
from iaemu_training.pairs.random_points import PARTS, Nodes, RandomSums, bar, spread
from iaemu_training.work.kernels import in_threads, kernel

# Most regions along a side.
_MAX_SIDE = 100
# Directions of the nodes in a shell. Their error is the same in all regions, and far below the scatter of galaxies.
_DIRECTIONS = 128


@dataclass(frozen=True, repr=False)
class RegionSums:
    """Pair sums of a periodic box that is cut into n = ``n_side``^3 equal cubes, the regions.

    Attributes
    ----------
    Lbox : float
        Side of the box [Mpc/h].
    n_side : int
        Number of regions along a side; their index is ``(ix * n_side + iy) * n_side + iz``.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    n_gal : (n,) int64
        Number of galaxies in each region.
    auto : PairSums of (n, n_bins)
        Sums over ordered pairs with both members in the region.
    cross : PairSums of (n, n_bins)
        Sums over ordered pairs with exactly one member in the region; each pair counts in two regions.
    random_auto, random_cross : RandomSums
        The same for pairs of a galaxy and a random point. For the whole box D is the number of galaxies, S is 0.
    """

    Lbox: float
    n_side: int
    r_edges: np.ndarray
    n_gal: np.ndarray
    auto: PairSums
    cross: PairSums
    random_auto: RandomSums
    random_cross: RandomSums

    def __repr__(self) -> str:
        return (
            f"<RegionSums: {self.n_gal.sum()} galaxies in {len(self)} regions of a box of {self.Lbox:g} Mpc/h, "
            f"{len(self.r_edges) - 1} bins>"
        )

    def __len__(self) -> int:
        return self.n_side**3

    @property
    def total(self) -> PairSums:
        """Sums of the whole box, (n_bins,) each, as of :func:`~iaemu_training.pairs.galaxies.count_pairs`."""
        return PairSums(*(a.sum(axis=0) + 0.5 * c.sum(axis=0) for a, c in zip(self.auto, self.cross, strict=True)))

    @property
    def n_effective(self) -> np.ndarray:
        """Effective number of regions with pairs in a bin, (sum D)^2 / sum D^2, (n_bins,); 0 without pairs."""
        pairs = self.auto.DD + 0.5 * self.cross.DD
        return pairs.sum(axis=0) ** 2 / np.maximum((pairs**2).sum(axis=0), 1.0)

    def remaining(self, cross_weight: float = 1.0) -> PairSums:
        """Return the sums of the box without each region in turn, (n, n_bins) each.

        Parameters
        ----------
        cross_weight : float
            Share of the pairs across the border of the region that is removed with it: 1 leaves only pairs of galaxies
            outside of the region. See :mod:`iaemu_training.measuring.jackknife`.
        """
        sums = zip(self.total, self.auto, self.cross, strict=True)
        return PairSums(*(total - auto - cross_weight * cross for total, auto, cross in sums))


def count_pairs_by_region(
    positions: ArrayLike, axes: ArrayLike, Lbox: float, r_edges: ArrayLike, n_side: int, progress: bool = False
) -> RegionSums:
    """Count the pairs of galaxies in a periodic cubic box by cubic region.

    The result does not depend on the number of threads.

    Parameters
    ----------
    positions, axes : (n_gal, 3)
        See :func:`~iaemu_training.pairs.galaxies.count_pairs`.
    Lbox : float
        Side of the box [Mpc/h].
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h], at most the side of a region.
    n_side : int
        Number of regions along a side, at least 2.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    RegionSums

    Raises
    ------
    ValueError
        There are fewer than two regions along a side, or regions are smaller than the largest separation; or as for
        :func:`~iaemu_training.pairs.galaxies.count_pairs`.
    """
    positions, axes, Lbox, edges = checked_galaxies(positions, axes, Lbox, r_edges)
    n_side = check_regions(n_side, Lbox, edges[-1])
    return sum_by_region(positions, axes, Lbox, edges, n_side, shell_nodes(edges), progress)


def check_regions(n_side: int, Lbox: float, largest: float, option: str = "--regions") -> int:
    """Return the number of regions along a side of the box if it is one, and if they are not too small.

    Parameters
    ----------
    n_side : int
    Lbox : float
        Side of the box [Mpc/h].
    largest : float
        Largest separation [Mpc/h].
    option : str
        What gives ``n_side`` to a command, for the error message.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        It is not a whole number from 2 to 100, or regions are smaller than the largest separation.
    """
    if not isinstance(n_side, numbers.Integral) or isinstance(n_side, bool) or not 2 <= n_side <= _MAX_SIDE:
        raise ValueError(f"A jackknife needs 2 to {_MAX_SIDE} regions along each side of the box, got {n_side!r:.60}.")
    if largest > Lbox / n_side:
        fewer = int(Lbox / largest)
        raise ValueError(
            f"{n_side} regions along a side of {Lbox:g} Mpc/h are {Lbox / n_side:.4g} Mpc/h wide, less than the "
            f"largest separation, {largest:.4g} Mpc/h. Use "
            + (f"at most {fewer} regions along a side ({option} {fewer}), or " if fewer > 1 else "a larger box, or ")
            + "smaller separations."
        )
    return int(n_side)


def sum_by_region(
    positions: np.ndarray, axes: np.ndarray, Lbox: float, edges: np.ndarray, n_side: int, nodes: Nodes, progress: bool
) -> RegionSums:
    """Return the sums of :func:`count_pairs_by_region` for checked arguments; regions may be smaller than the bins.

    ``nodes`` are those of :func:`shell_nodes`.
    """
    # Each region holds a whole number of cells. A search radius spans at most a few of them.
    n_cells = choose_cells(len(positions), Lbox, edges[-1], CELLS_PER_RADIUS)
    grid = CellGrid.build(positions, Lbox, max(1, n_cells // n_side) * n_side)
    points = np.concatenate([positions, axes], axis=1)[grid.order]
    n_regions, n_bins = n_side**3, len(edges) - 1
    sums = np.zeros((n_regions, 2, 3, n_bins))
    for part in bar(np.array_split(np.arange(n_regions), min(n_regions, PARTS)), "pairs", progress):
        in_threads(_count_regions, len(part), points, grid, n_side, edges * edges, part, sums)
    counts = np.diff(grid.first).reshape((n_side, grid.n_cells // n_side) * 3).sum(axis=(1, 3, 5)).ravel()
    auto, cross = sums[:, 0], sums[:, 1]
    shells = spread(positions, axes, Lbox, n_side, nodes, progress)
    return RegionSums(
        Lbox, n_side, edges, counts, PairSums(*auto.swapaxes(0, 1)), PairSums(*cross.swapaxes(0, 1)), *shells
    )


def shell_nodes(edges: np.ndarray, n_radii: int = 2) -> Nodes:
    """Return the nodes of the integral of (e . rhat)^2 - 1/3 over spherical shells with these edges [Mpc/h]."""
    # Gauss-Legendre nodes in the volume of each shell.
    node, weight = np.polynomial.legendre.leggauss(n_radii)
    low, high = edges[:-1, None] ** 3, edges[1:, None] ** 3
    radii = np.cbrt(0.5 * (low + high) + 0.5 * (high - low) * node)
    u = spiral(_DIRECTIONS)
    offset = (radii[:, :, None, None] * u).reshape(len(radii), -1, 3)
    matrices = np.tile(u[:, :, None] * u[:, None] - np.eye(3) / 3.0, (n_radii, 1, 1))
    weights = np.repeat(0.5 * weight / _DIRECTIONS, _DIRECTIONS)
    shape = (*offset.shape[:2], 3, 3)
    return Nodes.of(offset, np.broadcast_to(matrices, shape), np.broadcast_to(weights, shape[:2]))


def spiral(n: int) -> np.ndarray:
    """Return n directions on a golden spiral, evenly distributed, (n, 3)."""
    cos = 1.0 - (2.0 * np.arange(n) + 1.0) / n
    angle = np.pi * (3.0 - np.sqrt(5.0)) * np.arange(n)
    sin = np.sqrt(1.0 - cos**2)
    return np.stack([sin * np.cos(angle), sin * np.sin(angle), cos], axis=1)


@kernel
def _count_regions(start, stop, points, grid, n_side, edges2, regions, sums):
    """Fill ``sums`` by :func:`_count_region` for ``regions[start:stop]``."""
    for k in range(start, stop):
        sums[regions[k]] = _count_region(points, grid, n_side, edges2, regions[k])


@kernel
def _count_region(points, grid, n_side, edges2, region):
    """Return the sums over pairs inside a region, and across its border, (2, 3, n_bins).

    Pairs inside are visited once and added for both of their orders. Pairs across a border are visited from each side.
    """
    n_bins = len(edges2) - 1
    n_cells, first = grid.n_cells, grid.first
    side = grid.Lbox / n_cells
    width = n_cells // n_side
    own = np.zeros((2, 3, n_bins))
    x0 = region // (n_side * n_side) * width
    y0 = region // n_side % n_side * width
    z0 = region % n_side * width
    for ix in range(x0, x0 + width):
        for iy in range(y0, y0 + width):
            for iz in range(z0, z0 + width):
                here = (ix * n_cells + iy) * n_cells + iz
                if first[here] == first[here + 1]:
                    continue
                x, y, z = (ix + 0.5) * side, (iy + 0.5) * side, (iz + 0.5) * side
                for there in near_cells(grid, x, y, z, side, edges2[n_bins], 0):
                    jx, jy, jz = there // (n_cells * n_cells), there // n_cells % n_cells, there % n_cells
                    inside = x0 <= jx < x0 + width and y0 <= jy < y0 + width and z0 <= jz < z0 + width
                    kind = 0 if inside else 1
                    for i in range(first[here], first[here + 1]):
                        start = max(i + 1, first[there]) if inside else first[there]
                        for j in range(start, first[there + 1]):
                            b, s_omega, s_eta = pair_terms(points, i, j, grid.Lbox, edges2)
                            if b >= 0:
                                own[kind, 0, b] += 2.0
                                own[kind, 1, b] += s_omega
                                own[kind, 2, b] += s_eta
    return own

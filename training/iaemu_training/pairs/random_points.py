"""Pairs of galaxies and random points by region of the box, by integrals over the bins around each galaxy.

A jackknife removes regions from a periodic box. Galaxies beside a removed region then have fewer neighbours, and not on
all sides. What random points would give tells how many, and by how much their axes count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from iaemu.progress import BAR_AFTER, tqdm
from iaemu_training.pairs.cells import CellGrid
from iaemu_training.work.kernels import in_threads, kernel

#: Steps of a progress bar; also the number of partial sums, so that results do not depend on the number of threads.
PARTS = 25


class RandomSums(NamedTuple):
    """Expected sums over pairs of a galaxy and a random point by region, per random point in a bin.

    Attributes
    ----------
    D : (n, n_bins)
        Sum, over galaxies, of the share of the bin around them that lies in, or across the border of, the region.
    S : (n, n_bins)
        Sum, over galaxies, of the integral of what a pair adds to the sum over shapes over that share.
    """

    D: np.ndarray
    S: np.ndarray


class Nodes(NamedTuple):
    """Nodes of the integral over the bins around a galaxy.

    Attributes
    ----------
    offset : (n_bins, n_nodes, 3)
        Their separations from the galaxy [Mpc/h].
    form : (n_bins, n_nodes, 6)
        What a pair adds to the sum over shapes is the quadratic form e^T A e of the axis of the galaxy; this is A as
        xx, yy, zz, 2 xy, 2 xz, 2 yz. Its integral over a bin is zero.
    weight : (n_bins, n_nodes)
        Weights, with the sum 1 in each bin.
    """

    offset: np.ndarray
    form: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, offset: np.ndarray, matrices: np.ndarray, weight: np.ndarray) -> Nodes:
        """Return nodes with forms from symmetric matrices (n_bins, n_nodes, 3, 3)."""
        i, j = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
        form = matrices[..., i, j] * np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
        return cls(np.ascontiguousarray(offset), np.ascontiguousarray(form), np.ascontiguousarray(weight))

    def inside(self, side: float) -> np.ndarray:
        """Return the probability that both members of an unclustered pair lie in the same cube, (n_bins,)."""
        overlap = np.clip(1.0 - np.abs(self.offset) / side, 0.0, None).prod(axis=-1)
        return (self.weight * overlap).sum(axis=-1)


def bar(items: Iterable, description: str, progress: bool) -> Iterable:
    """Return the items, with a progress bar over them if asked."""
    # A bar leaves a thread behind, even if it is not shown.
    return tqdm(items, desc=description, unit="part", delay=BAR_AFTER) if progress else items


def spread(
    positions: np.ndarray, axes: np.ndarray, Lbox: float, n_side: int, nodes: Nodes, progress: bool = False
) -> tuple[RandomSums, RandomSums]:
    """Return the sums over pairs of a galaxy and a random point by cubic region.

    Parameters
    ----------
    positions, axes : (n, 3) float64
        Positions in [0, Lbox] [Mpc/h], and unit vectors.
    Lbox : float
        Side of the box [Mpc/h].
    n_side : int
        Number of regions along a side; their index is ``(ix * n_side + iy) * n_side + iz``.
    nodes : Nodes
        Offsets of at most Lbox along each axis.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    auto, cross : RandomSums of (n_side^3, n_bins)
        Pairs with both members in the region, and with exactly one. For the whole box D is the number of galaxies, S 0.
    """
    grid = CellGrid.build(positions, Lbox, n_side)
    points = np.concatenate([positions, axes], axis=1)[grid.order]
    reach = np.sqrt((nodes.offset**2).sum(axis=-1).max(axis=-1))
    n_regions, n_bins = n_side**3, len(reach)
    auto = np.zeros((n_regions, 2, n_bins))
    auto[:, 0] = np.diff(grid.first)[:, None]
    leaving = np.zeros_like(auto)
    bounds = np.linspace(0, n_regions, min(n_regions, PARTS) + 1).astype(np.int64)
    entering = np.zeros((len(bounds) - 1, *auto.shape))
    # Threads share a few parts at a time, so that the bar moves.
    for few in bar(np.array_split(np.arange(len(entering)), min(len(entering), 5)), "random points", progress):
        in_threads(_spread_parts, len(few), points, grid, reach, *nodes, few, bounds, auto, leaving, entering)
    cross = leaving + entering.sum(axis=0)
    return RandomSums(*auto.swapaxes(0, 1)), RandomSums(*cross.swapaxes(0, 1))


@kernel
def _spread_parts(start, stop, points, grid, reach, offset, form, weight, parts, bounds, auto, leaving, entering):
    """Add the nodes around the galaxies of the regions of ``parts[start:stop]``."""
    for k in range(start, stop):
        part = parts[k]
        for region in range(bounds[part], bounds[part + 1]):
            _spread_region(
                points, grid, reach, offset, form, weight, region, auto[region], leaving[region], entering[part]
            )


@kernel
def _spread_region(points, grid, reach, offset, form, weight, region, own, leaving, entering):
    """Move what lies beyond the border of a region from ``own`` to ``leaving``, and to ``entering`` of the other."""
    n_bins, n_nodes = weight.shape
    n_side, first = grid.n_cells, grid.first
    side = grid.Lbox / n_side
    x0 = region // (n_side * n_side)
    y0 = region // n_side % n_side
    z0 = region % n_side
    for i in range(first[region], first[region + 1]):
        x, y, z = points[i, 0] - x0 * side, points[i, 1] - y0 * side, points[i, 2] - z0 * side
        ex, ey, ez = points[i, 3], points[i, 4], points[i, 5]
        wall = min(x, y, z, side - x, side - y, side - z)
        for b in range(n_bins):
            if reach[b] <= wall:
                continue
            for m in range(n_nodes):
                tx, ty, tz = x + offset[b, m, 0], y + offset[b, m, 1], z + offset[b, m, 2]
                if 0 <= tx < side and 0 <= ty < side and 0 <= tz < side:
                    continue
                sx, sy, sz = int(np.floor(tx / side)), int(np.floor(ty / side)), int(np.floor(tz / side))
                there = ((x0 + sx) % n_side * n_side + (y0 + sy) % n_side) * n_side + (z0 + sz) % n_side
                w = weight[b, m]
                s = w * (
                    ex * (ex * form[b, m, 0] + ey * form[b, m, 3] + ez * form[b, m, 4])
                    + ey * (ey * form[b, m, 1] + ez * form[b, m, 5])
                    + ez * ez * form[b, m, 2]
                )
                own[0, b] -= w
                own[1, b] -= s
                leaving[0, b] += w
                leaving[1, b] += s
                entering[there, 0, b] += w
                entering[there, 1, b] += s

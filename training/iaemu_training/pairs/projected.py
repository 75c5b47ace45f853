"""Pair sums of projected shapes by region of the box: for w_gg, w_g+, w_++ and the quadrupole of xi_g+.

A galaxy that is stretched along the unit vector e has, seen along the unit vector n, the ellipticity
((e.x)^2 - (e.y)^2, 2 (e.x) (e.y)), with x and y across n: that of a shape amplitude of 1. A separation d has the part
Pi = d.n along the line of sight and r_p across it, and eps_+ is the ellipticity towards the direction of r_p, positive
if the galaxy points that way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iaemu.binning import shell_volumes
from iaemu_training.pairs.cells import CellGrid, choose_cells, minimum_image, near_cells
from iaemu_training.pairs.galaxies import CELLS_PER_RADIUS
from iaemu_training.pairs.galaxies_by_region import spiral
from iaemu_training.pairs.random_points import PARTS, Nodes, RandomSums, bar, spread
from iaemu_training.work.kernels import in_threads, kernel

# Nodes of the integral over a bin: in r_p, around the line of sight, along it; and directions in a shell.
_ACROSS, _AROUND, _ALONG = 2, 8, 16
_DIRECTIONS = 128
# Sums over pairs in cylinders: number, eps_+, eps_+ of both; and in spherical shells: (r_p / r)^2 eps_+, number.
_KINDS = 5


@dataclass(frozen=True)
class BinnedPairs:
    """Pair sums by region in bins of one kind: cylinders along lines of sight, or spherical shells.

    Attributes
    ----------
    Lbox : float
        Side of the box [Mpc/h].
    n_gal : (n,)
        Number of galaxies in each of the n regions.
    volume : (n_bins,)
        Volumes of the bins [(Mpc/h)^3].
    inside : (n_bins,)
        Probability that both members of an unclustered pair lie in the same region.
    auto, cross : (n_kinds, n, n_bins)
        Sums over ordered pairs with both members in the region, and with exactly one. The first is the number of pairs,
        the second a sum over the shapes of the first member of each, others are of the shapes of both.
    random_auto, random_cross : RandomSums
        The same for pairs of a galaxy and a random point.
    """

    Lbox: float
    n_gal: np.ndarray
    volume: np.ndarray
    inside: np.ndarray
    auto: np.ndarray
    cross: np.ndarray
    random_auto: RandomSums
    random_cross: RandomSums

    @property
    def by_region(self) -> np.ndarray:
        """Sums by region, where pairs across a border count half in each of their two regions, as ``auto``."""
        return self.auto + 0.5 * self.cross

    def joined(self, nesting: np.ndarray) -> BinnedPairs:
        """Return the sums in coarser bins.

        Parameters
        ----------
        nesting : (n_coarse, n_bins)
            Zeros and ones, see :func:`iaemu.binning.nesting_matrix`.

        Returns
        -------
        BinnedPairs
        """
        volume = nesting @ self.volume
        share = (nesting * self.volume / volume[:, None]).T
        random = (RandomSums(*(part @ share for part in sums)) for sums in (self.random_auto, self.random_cross))
        sums = self.auto @ nesting.T, self.cross @ nesting.T
        return BinnedPairs(self.Lbox, self.n_gal, volume, self.inside @ share, *sums, *random)


def count_projected_by_region(
    positions: np.ndarray,
    axes: np.ndarray,
    Lbox: float,
    edges: np.ndarray,
    pi_max: float,
    lines: np.ndarray,
    n_side: int,
    progress: bool = False,
) -> tuple[BinnedPairs, BinnedPairs]:
    """Count the pairs of galaxies in a periodic cubic box by cubic region, averaged over lines of sight.

    The arguments are not checked, see :func:`iaemu_training.measuring.projected.measure_projected`. The result does not
    depend on the number of threads.

    Parameters
    ----------
    positions, axes : (n_gal, 3) float64
        Positions in [0, Lbox] [Mpc/h], and unit vectors.
    Lbox : float
        Side of the box [Mpc/h].
    edges : (n_bins + 1,)
        Edges of the bins of r_p, and of r for the quadrupole [Mpc/h]; open below, closed above.
    pi_max : float
        Largest separation along the line of sight [Mpc/h]. No separation may exceed Lbox / 2 along an axis of the box.
    lines : (n_lines, 3)
        Unit vectors along the lines of sight.
    n_side : int
        Number of regions along a side; their index is ``(ix * n_side + iy) * n_side + iz``.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    cylinders : BinnedPairs
        In bins of r_p with ``|Pi| <= pi_max``: pairs, eps_+, eps_+ of the one times eps_+ of the other.
    shells : BinnedPairs
        In bins of r: pairs and (r_p / r)^2 eps_+.
    """
    auto, cross, counts = sum_projected(positions, axes, Lbox, edges, pi_max, lines, n_side, progress)
    found = []
    for kinds, volume, nodes in (
        ([0, 1, 2], 2.0 * np.pi * pi_max * np.diff(edges**2), cylinder_nodes(edges, pi_max, lines)),
        ([4, 3], shell_volumes(edges), quadrupole_nodes(edges, lines)),
    ):
        random = spread(positions, axes, Lbox, n_side, nodes, progress)
        found.append(BinnedPairs(Lbox, counts, volume, nodes.inside(Lbox / n_side), auto[kinds], cross[kinds], *random))
    return found[0], found[1]


def sum_projected(
    positions: np.ndarray,
    axes: np.ndarray,
    Lbox: float,
    edges: np.ndarray,
    pi_max: float,
    lines: np.ndarray,
    n_side: int = 1,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sums of :func:`count_projected_by_region` without those of random points.

    Returns
    -------
    auto, cross : (5, n_regions, n_bins)
        Sums over pairs in cylinders: number, eps_+, eps_+ of both; and in shells: (r_p / r)^2 eps_+, number.
    n_gal : (n_regions,)
        Number of galaxies.
    """
    # Cells that follow the cylinders closely, unless that makes too many pairs of cells.
    reach = float(np.hypot(edges[-1], pi_max))
    n_cells = choose_cells(len(positions), Lbox, max(edges[-1], reach / 4.0), CELLS_PER_RADIUS)
    grid = CellGrid.build(positions, Lbox, max(1, n_cells // n_side) * n_side)
    points = np.concatenate([positions, axes, axes @ lines.T], axis=1)[grid.order]
    n_regions, n_bins = n_side**3, len(edges) - 1
    sums = np.zeros((n_regions, 2, _KINDS, n_bins))
    for part in bar(np.array_split(np.arange(n_regions), min(n_regions, PARTS)), "pairs", progress):
        in_threads(_count_regions, len(part), points, grid, n_side, edges * edges, pi_max, lines, part, sums)
    counts = np.diff(grid.first).reshape((n_side, grid.n_cells // n_side) * 3).sum(axis=(1, 3, 5)).ravel()
    auto, cross = sums.transpose(1, 2, 0, 3) / len(lines)
    return auto, cross, counts


def cylinder_nodes(edges: np.ndarray, pi_max: float, lines: np.ndarray) -> Nodes:
    """Return the nodes of the integral of eps_+ over cylindrical bins of r_p, averaged over lines of sight."""
    node, weight = np.polynomial.legendre.leggauss(_ACROSS)
    low, high = edges[:-1, None] ** 2, edges[1:, None] ** 2
    r_p = np.sqrt(0.5 * (low + high) + 0.5 * (high - low) * node)[:, :, None, None]
    along = pi_max * ((2.0 * np.arange(_ALONG) + 1.0) / _ALONG - 1.0)[:, None]
    # Directions are turned from one height to the next.
    angle = 2.0 * np.pi * (np.arange(_AROUND) / _AROUND + (np.sqrt(5.0) - 1.0) / 2.0 * np.arange(_ALONG)[:, None])
    offsets, matrices = [], []
    for n in lines:
        x = np.cross(n, np.eye(3)[np.argmin(np.abs(n))])
        x /= np.linalg.norm(x)
        u = np.cos(angle)[..., None] * x + np.sin(angle)[..., None] * np.cross(n, x)
        offsets.append((r_p[..., None] * u + along[..., None] * n).reshape(len(low), -1, 3))
        one = 2.0 * u[..., :, None] * u[..., None, :] - np.eye(3) + np.outer(n, n)
        matrices.append(np.tile(one.reshape(-1, 3, 3), (_ACROSS, 1, 1)))
    offset, form = np.concatenate(offsets, axis=1), np.concatenate(matrices)
    weights = np.tile(np.repeat(0.5 * weight, _ALONG * _AROUND), len(lines)) / (_ALONG * _AROUND * len(lines))
    shape = (*offset.shape[:2], 3, 3)
    return Nodes.of(offset, np.broadcast_to(form, shape), np.broadcast_to(weights, shape[:2]))


def quadrupole_nodes(edges: np.ndarray, lines: np.ndarray) -> Nodes:
    """Return the nodes of the integral of (r_p / r)^2 eps_+ over spherical shells, averaged over lines of sight."""
    node, weight = np.polynomial.legendre.leggauss(_ACROSS)
    low, high = edges[:-1, None] ** 3, edges[1:, None] ** 3
    radii = np.cbrt(0.5 * (low + high) + 0.5 * (high - low) * node)
    u = spiral(_DIRECTIONS)
    offset = (radii[:, :, None, None] * u).reshape(len(radii), -1, 3)
    form = np.zeros((_DIRECTIONS, 3, 3))
    for n in lines:
        across = u - (u @ n)[:, None] * n
        plane = (across**2).sum(axis=1)[:, None, None] * (np.eye(3) - np.outer(n, n))
        form += (2.0 * across[:, :, None] * across[:, None, :] - plane) / len(lines)
    shape = (*offset.shape[:2], 3, 3)
    weights = np.repeat(0.5 * weight / _DIRECTIONS, _DIRECTIONS)
    return Nodes.of(offset, np.broadcast_to(np.tile(form, (_ACROSS, 1, 1)), shape), np.broadcast_to(weights, shape[:2]))


@kernel
def _count_regions(start, stop, points, grid, n_side, edges2, pi_max, lines, regions, sums):
    """Fill ``sums`` for ``regions[start:stop]``."""
    for k in range(start, stop):
        _count_region(points, grid, n_side, edges2, pi_max, lines, regions[k], sums[regions[k]])


@kernel
def _count_region(points, grid, n_side, edges2, pi_max, lines, region, own):
    """Add the sums over pairs inside a region, and across its border, to ``own`` (2, 5, n_bins).

    Pairs inside are visited once and added for both of their orders. Pairs across a border are visited from each side.
    """
    n_bins = len(edges2) - 1
    n_cells, first = grid.n_cells, grid.first
    side = grid.Lbox / n_cells
    width = n_cells // n_side
    x0 = region // (n_side * n_side) * width
    y0 = region // n_side % n_side * width
    z0 = region % n_side * width
    reach2 = edges2[n_bins] + pi_max * pi_max
    for ix in range(x0, x0 + width):
        for iy in range(y0, y0 + width):
            for iz in range(z0, z0 + width):
                here = (ix * n_cells + iy) * n_cells + iz
                if first[here] == first[here + 1]:
                    continue
                x, y, z = (ix + 0.5) * side, (iy + 0.5) * side, (iz + 0.5) * side
                for there in near_cells(grid, x, y, z, side, reach2, 0):
                    if first[there] == first[there + 1]:
                        continue
                    jx, jy, jz = there // (n_cells * n_cells), there // n_cells % n_cells, there % n_cells
                    if _far(jx - ix, jy - iy, jz - iz, n_cells, side, edges2[n_bins], pi_max, lines):
                        continue
                    inside = x0 <= jx < x0 + width and y0 <= jy < y0 + width and z0 <= jz < z0 + width
                    kind = 0 if inside else 1
                    for i in range(first[here], first[here + 1]):
                        start = max(i + 1, first[there]) if inside else first[there]
                        for j in range(start, first[there + 1]):
                            _add_pair(points, i, j, grid.Lbox, edges2, reach2, pi_max, lines, own[kind])


@kernel
def _far(jx, jy, jz, n_cells, side, r2_max, pi_max, lines):
    """Whether no pair of points of two cells is in a bin: they are ``jx``, ``jy`` and ``jz`` cells apart."""
    half = n_cells // 2
    jx = (jx + half) % n_cells - half
    jy = (jy + half) % n_cells - half
    jz = (jz + half) % n_cells - half
    if 2 * (max(abs(jx), abs(jy), abs(jz)) + 1) >= n_cells:
        return False  # the nearest images of the points may not be those of the cells
    x, y, z = jx * side, jy * side, jz * side
    # Points are at most a diagonal closer than their cells.
    slack = 1.7321 * side
    for k in range(len(lines)):
        pi = x * lines[k, 0] + y * lines[k, 1] + z * lines[k, 2]
        across = np.sqrt(max(x * x + y * y + z * z - pi * pi, 0.0)) - slack
        if abs(pi) - slack <= pi_max and (across <= 0.0 or across * across <= r2_max):
            return False
    nearest = np.sqrt(x * x + y * y + z * z) - slack
    return nearest > 0.0 and nearest * nearest > r2_max


@kernel
def _add_pair(points, i, j, Lbox, edges2, reach2, pi_max, lines, own):
    """Add both orders of a pair to ``own`` (5, n_bins)."""
    dx = minimum_image(points[i, 0] - points[j, 0], Lbox)
    dy = minimum_image(points[i, 1] - points[j, 1], Lbox)
    dz = minimum_image(points[i, 2] - points[j, 2], Lbox)
    r2 = dx * dx + dy * dy + dz * dz
    if r2 > reach2 or r2 <= edges2[0]:
        return
    along_i = points[i, 3] * dx + points[i, 4] * dy + points[i, 5] * dz
    along_j = points[j, 3] * dx + points[j, 4] * dy + points[j, 5] * dz
    shell = _bin(r2, edges2)
    for k in range(len(lines)):
        pi = dx * lines[k, 0] + dy * lines[k, 1] + dz * lines[k, 2]
        rp2 = max(r2 - pi * pi, 0.0)
        e_i, e_j = points[i, 6 + k], points[j, 6 + k]
        t_i, t_j = along_i - e_i * pi, along_j - e_j * pi
        # r_p^2 eps_+
        plus_i = 2.0 * t_i * t_i - (1.0 - e_i * e_i) * rp2
        plus_j = 2.0 * t_j * t_j - (1.0 - e_j * e_j) * rp2
        if shell >= 0:
            own[3, shell] += (plus_i + plus_j) / r2
            own[4, shell] += 2.0
        if abs(pi) <= pi_max:
            b = _bin(rp2, edges2)
            if b >= 0:
                own[0, b] += 2.0
                own[1, b] += (plus_i + plus_j) / rp2
                own[2, b] += 2.0 * plus_i * plus_j / (rp2 * rp2)


@kernel
def _bin(r2, edges2):
    """Return the bin of a squared separation, or -1 if it is in none."""
    b = len(edges2) - 2
    if r2 > edges2[b + 1] or r2 <= edges2[0]:
        return -1
    while r2 <= edges2[b]:
        b -= 1
    return b

"""Pair sums over species of tracers, within hosts and between hosts: the numba kernels behind the tables.

Sums are over ordered pairs (i, j), as in halotools: DD adds 1, S_omega adds (a_i . rhat)^2 - 1/3 and S_eta adds
(a_i . a_j)^2 - 1/3, each times the multiplicities of both tracers. A satellite exactly at the centre of its host gets a
random axis in halotools; here its axis is 0, and it adds nothing to S_omega and S_eta.
"""

from __future__ import annotations

import numba
import numpy as np

from iaemu_training.pairs.cells import CellGrid, minimum_image, near_cells
from iaemu_training.work.kernels import in_threads, kernel

#: Cells in the largest separation, for :func:`two_halo_rows`.
CELLS_PER_RADIUS = 3

_LOOKUP = 8192


def bin_lookup(r_edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return squared edges and, for equal steps in r^2, the highest bin that begins below the end of the step."""
    edges2 = np.asarray(r_edges, dtype=np.float64) ** 2
    upper = (np.arange(_LOOKUP) + 1.0) * (edges2[-1] / _LOOKUP)
    guess = np.searchsorted(edges2, upper, side="left") - 1
    return edges2, np.clip(guess, 0, len(edges2) - 2).astype(np.int64)


# The look-up of bins is written out in the kernels: inlined functions that take arrays and contain a loop make the
# innermost loop three times slower.


@numba.njit(inline="always")
def separation(position: np.ndarray, i: int, j: int, Lbox: float) -> tuple[float, float, float]:
    """Return the vector from point i to the nearest image of point j."""
    dx = minimum_image(position[j, 0] - position[i, 0], Lbox)
    dy = minimum_image(position[j, 1] - position[i, 1], Lbox)
    dz = minimum_image(position[j, 2] - position[i, 2], Lbox)
    return dx, dy, dz


@numba.njit(inline="always")
def tracer_terms(
    ax: float, ay: float, az: float, bx: float, by: float, bz: float, dx: float, dy: float, dz: float
) -> tuple[float, float]:
    """Return what a pair with axes a and b and separation d adds to S_omega (axis a) and to S_eta."""
    third = 1.0 / 3.0 * (ax * ax + ay * ay + az * az)
    along = ax * dx + ay * dy + az * dz
    cosine = ax * bx + ay * by + az * bz
    omega = along * along / (dx * dx + dy * dy + dz * dz) - third
    return omega, cosine * cosine - third * (bx * bx + by * by + bz * bz)


def two_halo_rows(
    rows: np.ndarray,
    row_first: np.ndarray,
    row_points: np.ndarray,
    position: np.ndarray,
    axis: np.ndarray,
    multiplicity: np.ndarray,
    species: np.ndarray,
    host: np.ndarray,
    grid: CellGrid,
    edges2: np.ndarray,
    guess: np.ndarray,
    out: np.ndarray,
) -> None:
    """Count the pairs of the points of some species with all points of other hosts.

    ``out[k, s, b, :]`` becomes (DD, S_omega, S_eta) of species ``rows[k]``, whose axes count, with species ``s`` in bin
    ``b``. Points are sorted as ``grid``; ``row_points[row_first[s] : row_first[s + 1]]`` are those of species s.
    """
    arguments = (rows, row_first, row_points, position, axis, multiplicity, species)
    in_threads(_two_halo_rows, len(rows), *arguments, host, grid, edges2, guess, out)


@kernel
def _two_halo_rows(
    start, stop, rows, row_first, row_points, position, axis, multiplicity, species, host, grid, edges2, guess, out
):
    first, Lbox = grid.first, grid.Lbox
    for k in range(start, stop):
        sums = out[k]
        sums[:] = 0.0
        for p in range(row_first[rows[k]], row_first[rows[k] + 1]):
            i = row_points[p]
            for cell in near_cells(grid, position[i, 0], position[i, 1], position[i, 2], 0.0, edges2[-1], 0):
                for j in range(first[cell], first[cell + 1]):
                    dx, dy, dz = separation(position, i, j, Lbox)
                    r2 = dx * dx + dy * dy + dz * dz
                    if edges2[0] < r2 <= edges2[-1] and host[j] != host[i]:
                        b = guess[min(int(r2 * (len(guess) / edges2[-1])), len(guess) - 1)]
                        while r2 <= edges2[b]:
                            b -= 1
                        ax, ay, az = axis[i, 0], axis[i, 1], axis[i, 2]
                        bx, by, bz = axis[j, 0], axis[j, 1], axis[j, 2]
                        omega, eta = tracer_terms(ax, ay, az, bx, by, bz, dx, dy, dz)
                        weight = multiplicity[i] * multiplicity[j]
                        s = species[j]
                        sums[s, b, 0] += weight
                        sums[s, b, 1] += weight * omega
                        sums[s, b, 2] += weight * eta


def one_halo_sums(
    bin_first: np.ndarray,
    host_first: np.ndarray,
    offset: np.ndarray,
    sat_axis: np.ndarray,
    central_axis: np.ndarray,
    multiplicity: np.ndarray,
    rank_bin: np.ndarray,
    virtual: np.ndarray,
    host_weight: np.ndarray,
    edges2: np.ndarray,
    species_of: np.ndarray,
    out: np.ndarray,
) -> None:
    """Count the pairs within hosts, by mass bin and rank bin.

    Hosts are sorted by mass: mass bin m holds hosts ``bin_first[m] : bin_first[m + 1]``, and host h has satellites
    ``host_first[h] : host_first[h + 1]``. To ``out[species_of[m] + k, b, :]`` are added: for pairs of the satellite of
    rank bin k with the central, DD, S_omega with the central's axis, and S_eta; for pairs of satellites whose larger
    rank bin is k, DD, S_omega and S_eta. (For pairs with the central, S_omega with the satellite's axis is DD / 3,
    since that axis is along the separation.) Each host has the weight ``host_weight``. Borrowed satellites
    (``virtual``) come after the sub-halos of their host; their pairs with the central and with each other are left out.
    """
    arguments = (bin_first, host_first, offset, sat_axis, central_axis, multiplicity, rank_bin)
    in_threads(_one_halo_sums, len(bin_first) - 1, *arguments, virtual, host_weight, edges2, species_of, out)


@kernel
def _one_halo_sums(
    start,
    stop,
    bin_first,
    host_first,
    offset,
    sat_axis,
    central_axis,
    multiplicity,
    rank_bin,
    virtual,
    host_weight,
    edges2,
    species_of,
    out,
):
    third = 1.0 / 3.0
    n_bins = len(edges2) - 1
    r2_max, r2_min = edges2[n_bins], edges2[0]
    for m in range(start, stop):
        base = species_of[m]
        for h in range(bin_first[m], bin_first[m + 1]):
            for i in range(host_first[h], host_first[h + 1]):
                xi, yi, zi = offset[i, 0], offset[i, 1], offset[i, 2]
                ax, ay, az = sat_axis[i, 0], sat_axis[i, 1], sat_axis[i, 2]
                third_i = third * (ax * ax + ay * ay + az * az)
                r2 = xi * xi + yi * yi + zi * zi
                if r2_min < r2 <= r2_max and not virtual[i]:
                    b = np.searchsorted(edges2, r2) - 1
                    row = out[base + rank_bin[i], b]
                    cx, cy, cz = central_axis[h, 0], central_axis[h, 1], central_axis[h, 2]
                    along = cx * xi + cy * yi + cz * zi
                    cosine = ax * cx + ay * cy + az * cz
                    weight = host_weight[h] * multiplicity[i]
                    row[0] += 2.0 * weight
                    row[1] += weight * (along * along / r2 - third)
                    row[2] += 2.0 * weight * (cosine * cosine - third_i)
                for j in range(host_first[h], i):
                    if virtual[i] and virtual[j]:
                        break
                    dx, dy, dz = offset[j, 0] - xi, offset[j, 1] - yi, offset[j, 2] - zi
                    r2 = dx * dx + dy * dy + dz * dz
                    if r2 > r2_max or r2 <= r2_min:
                        continue
                    b = np.searchsorted(edges2, r2) - 1
                    weight = host_weight[h] * multiplicity[i] * multiplicity[j]
                    bx, by, bz = sat_axis[j, 0], sat_axis[j, 1], sat_axis[j, 2]
                    third_j = third * (bx * bx + by * by + bz * bz)
                    along_i = ax * dx + ay * dy + az * dz
                    along_j = bx * dx + by * dy + bz * dz
                    cosine = ax * bx + ay * by + az * bz
                    row = out[base + max(rank_bin[i], rank_bin[j]), b]
                    row[3] += 2.0 * weight
                    row[4] += weight * ((along_i * along_i + along_j * along_j) / r2 - third_i - third_j)
                    row[5] += 2.0 * weight * (cosine * cosine - 3.0 * third_i * third_j)


def radial(offset: np.ndarray) -> np.ndarray:
    """Return unit vectors along offsets (n, 3); zero for an offset of zero."""
    r = np.linalg.norm(offset, axis=1, keepdims=True)
    return np.divide(offset, r, out=np.zeros_like(offset), where=r > 0)

"""Pair sums of satellites by their distance from the centre of their host: the numba kernels.

A satellite has the values of a few functions of its distance, ``basis`` (n, n_one), the first of which is 1; see
:mod:`iaemu.halomodel.radial`. S_omega is summed with each function of the satellite whose axis counts, S_eta with
products of the first ``n_two`` functions of both satellites. Terms of pairs, and axes of length 0, are as in
:mod:`iaemu_training.pairs.tracers`.
"""

from __future__ import annotations

import numpy as np

from iaemu_training.pairs.cells import CellGrid, near_cells
from iaemu_training.pairs.tracers import separation, tracer_terms
from iaemu_training.work.kernels import in_threads, kernel


def satellite_pairs(
    interval_first: np.ndarray,
    n_ranks: np.ndarray,
    offset: np.ndarray,
    axis: np.ndarray,
    basis: np.ndarray,
    fraction: np.ndarray,
    n_two: int,
    edges2: np.ndarray,
    row_first: np.ndarray,
    out: np.ndarray,
) -> None:
    """Add the pairs of satellites of one host, by the larger rank of both.

    Mass interval m holds hosts ``interval_first[m] : interval_first[m + 1]``, each with ``n_ranks[m]`` satellites by
    rank, those of one host after the other. A host counts for the upper node of its interval with the weight
    ``fraction``, and for the lower with the rest. To ``out[side, row_first[m] + rank, bin]`` are added: DD; S_omega
    with each function; and S_eta with pairs of functions in the order of ``numpy.triu_indices``.
    """
    satellites = np.concatenate([[0], np.cumsum(n_ranks * np.diff(interval_first))])
    arguments = (interval_first, n_ranks, satellites, offset, axis, basis, fraction, n_two, edges2, row_first, out)
    in_threads(_satellite_pairs, len(n_ranks), *arguments)


@kernel
def _satellite_pairs(
    start,
    stop,
    interval_first,
    n_ranks,
    satellites,
    offset,
    axis,
    basis,
    fraction,
    n_two,
    edges2,
    row_first,
    out,
):
    r2_max, r2_min, n_one = edges2[-1], edges2[0], basis.shape[1]
    for m in range(start, stop):
        for h in range(interval_first[m], interval_first[m + 1]):
            first = satellites[m] + (h - interval_first[m]) * n_ranks[m]
            for i in range(first, first + n_ranks[m]):
                row = row_first[m] + i - first
                ax, ay, az = axis[i, 0], axis[i, 1], axis[i, 2]
                for j in range(first, i):
                    dx, dy, dz = offset[j, 0] - offset[i, 0], offset[j, 1] - offset[i, 1], offset[j, 2] - offset[i, 2]
                    r2 = dx * dx + dy * dy + dz * dz
                    if r2 > r2_max or r2 <= r2_min:
                        continue
                    b = np.searchsorted(edges2, r2) - 1
                    bx, by, bz = axis[j, 0], axis[j, 1], axis[j, 2]
                    omega_i, eta = tracer_terms(ax, ay, az, bx, by, bz, dx, dy, dz)
                    omega_j, _ = tracer_terms(bx, by, bz, ax, ay, az, dx, dy, dz)
                    for side in range(2):
                        weight = fraction[h] if side else 1.0 - fraction[h]
                        sums = out[side, row, b]
                        sums[0] += 2.0 * weight
                        for k in range(n_one):
                            sums[1 + k] += weight * (omega_i * basis[i, k] + omega_j * basis[j, k])
                        column = 1 + n_one
                        for k in range(n_two):
                            for n in range(k, n_two):
                                both = basis[i, k] * basis[j, n] + basis[j, k] * basis[i, n]
                                sums[column] += weight * eta * both
                                column += 1


def satellite_rows(
    rows: np.ndarray,
    row_first: np.ndarray,
    row_points: np.ndarray,
    position: np.ndarray,
    axis: np.ndarray,
    basis: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray,
    host: np.ndarray,
    n_central: int,
    n_two: int,
    grid: CellGrid,
    edges2: np.ndarray,
    guess: np.ndarray,
    out: np.ndarray,
) -> None:
    """Add the pairs of the satellites of some species with all points of other hosts.

    Points are sorted as ``grid``; as partners, they have the ``weight`` and the ``group``, which is below ``n_central``
    for centrals. ``row_points[row_first[s] : row_first[s + 1]]`` are the satellites of species s. To ``out[k, g, b]``
    are added the sums of species ``rows[k]`` with group g: S_omega with each function but the first; and S_eta with the
    same for a central, or with the pairs of functions, (n_two x n_two), for another satellite.
    """
    arguments = (rows, row_first, row_points, position, axis, basis, weight, group, host, n_central, n_two)
    in_threads(_satellite_rows, len(rows), *arguments, grid, edges2, guess, out)


@kernel
def _satellite_rows(
    start,
    stop,
    rows,
    row_first,
    row_points,
    position,
    axis,
    basis,
    weight,
    group,
    host,
    n_central,
    n_two,
    grid,
    edges2,
    guess,
    out,
):
    first, Lbox, n_one = grid.first, grid.Lbox, basis.shape[1]
    for row in range(start, stop):
        sums = out[row]
        for p in range(row_first[rows[row]], row_first[rows[row] + 1]):
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
                        omega *= weight[j]
                        eta *= weight[j]
                        there = sums[group[j], b]
                        for k in range(1, n_one):
                            there[k - 1] += omega * basis[i, k]
                        if group[j] < n_central:
                            for k in range(1, n_one):
                                there[n_one - 2 + k] += eta * basis[i, k]
                        else:
                            for k in range(n_two):
                                for n in range(n_two):
                                    there[n_one - 1 + k * n_two + n] += eta * basis[i, k] * basis[j, n]

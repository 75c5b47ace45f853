"""Pair sums of tracers with probabilities: each pair counts with the probability that both of its members exist.

The kernels add to ``out[block, region, quantity, bin]``, with the quantities of :data:`QUANTITIES`. The caller sums the
blocks, so the result does not depend on the number of threads. A pair counts in the region of its first member. Terms
of pairs, and axes of length 0, are as in :mod:`iaemu_training.pairs.tracers`.
"""

from __future__ import annotations

import numba
import numpy as np

from iaemu_training.pairs.cells import CellGrid, near_cells
from iaemu_training.pairs.tracers import separation
from iaemu_training.work.kernels import in_threads, kernel

#: Sums over ordered pairs: numbers; (a.r)^2 - 1/3 with the axis of the first member, which is a central or a satellite;
#: and (a1.a2)^2 - 1/3 by kinds. ``E_cs`` counts one order of each pair, half from either member.
QUANTITIES = ("DD", "A_c", "A_s", "E_cc", "E_cs", "E_ss")

#: Parts into which hosts and cells are divided, whatever the number of threads.
N_BLOCKS = 32

#: Least probability that is counted; far smaller ones would be denormal numbers, with which processors are slow.
_NEGLIGIBLE = 1e-30


def between_hosts(
    position: np.ndarray,
    axis: np.ndarray,
    weight: np.ndarray,
    host: np.ndarray,
    kind: np.ndarray,
    region: np.ndarray,
    grid: CellGrid,
    edges2: np.ndarray,
    guess: np.ndarray,
    out: np.ndarray,
) -> None:
    """Add the pairs of points of different hosts, each with the product of both weights.

    Points (n, ...) are sorted as ``grid``. ``kind`` is 0 for a central and 1 for a satellite; ``edges2`` and ``guess``
    are those of :func:`iaemu_training.pairs.tracers.bin_lookup`.
    """
    in_threads(_between_hosts, len(out), position, axis, weight, host, kind, region, grid, edges2, guess, out)


@kernel
def _between_hosts(start, stop, position, axis, weight, host, kind, region, grid, edges2, guess, out):
    n_cells, first, Lbox = grid.n_cells, grid.first, grid.Lbox
    side = Lbox / n_cells
    r2_max, r2_min = edges2[-1], edges2[0]
    n_steps, n_blocks = len(guess), len(out)
    scale = n_steps / r2_max
    for block in range(start, stop):
        for column in range(block, n_cells * n_cells, n_blocks):
            x, y = (column // n_cells + 0.5) * side, (column % n_cells + 0.5) * side
            for iz in range(n_cells):
                here = column * n_cells + iz
                if first[here] == first[here + 1]:
                    continue
                for there in near_cells(grid, x, y, (iz + 0.5) * side, side, r2_max, here):
                    for i in range(first[here], first[here + 1]):
                        for j in range(max(i + 1, first[there]), first[there + 1]):
                            dx, dy, dz = separation(position, i, j, Lbox)
                            r2 = dx * dx + dy * dy + dz * dz
                            if r2 <= r2_min or r2 > r2_max or host[i] == host[j]:
                                continue
                            b = guess[min(int(r2 * scale), n_steps - 1)]
                            while r2 <= edges2[b]:
                                b -= 1
                            omega_i, omega_j, eta = _terms(axis, i, axis, j, dx, dy, dz, r2)
                            w = weight[i] * weight[j]
                            mine, theirs = out[block, region[i]], out[block, region[j]]
                            mine[0, b] += w
                            theirs[0, b] += w
                            mine[1 + kind[i], b] += w * omega_i
                            theirs[1 + kind[j], b] += w * omega_j
                            both = 3 + kind[i] + kind[j]
                            if both == 4:
                                w *= 0.5
                            mine[both, b] += w * eta
                            theirs[both, b] += w * eta


@numba.njit(inline="always")
def _terms(axes, i, others, j, dx, dy, dz, r2):
    """Return (a_i.r)^2 - 1/3, (a_j.r)^2 - 1/3 and (a_i.a_j)^2 - 1/3, each 0 for an axis of length 0."""
    third = 1.0 / 3.0
    ax, ay, az = axes[i, 0], axes[i, 1], axes[i, 2]
    bx, by, bz = others[j, 0], others[j, 1], others[j, 2]
    aa, bb = ax * ax + ay * ay + az * az, bx * bx + by * by + bz * bz
    along_a, along_b = ax * dx + ay * dy + az * dz, bx * dx + by * dy + bz * dz
    cosine = ax * bx + ay * by + az * bz
    return (
        along_a * along_a / r2 - third * aa,
        along_b * along_b / r2 - third * bb,
        cosine * cosine - third * aa * bb,
    )


def within_hosts(
    first: np.ndarray,
    offset: np.ndarray,
    axis: np.ndarray,
    tail: np.ndarray,
    central_axis: np.ndarray,
    central: np.ndarray,
    region: np.ndarray,
    edges2: np.ndarray,
    out: np.ndarray,
) -> None:
    """Add the pairs of sub-halos of the same host, and of the host's central with them.

    Host h has the sub-halos ``first[h] : first[h + 1]``, by rank, which are occupied with the probabilities ``tail``,
    P(N >= rank), and a central with the probability ``central[h]``. ``offset`` are positions relative to the host.
    """
    in_threads(_within_hosts, len(out), first, offset, axis, tail, central_axis, central, region, edges2, out)


@kernel
def _within_hosts(start, stop, first, offset, axis, tail, central_axis, central, region, edges2, out):
    r2_max, r2_min, n_blocks = edges2[-1], edges2[0], len(out)
    for block in range(start, stop):
        for h in range(block, len(central), n_blocks):
            sums = out[block, region[h]]
            for i in range(first[h], first[h + 1]):
                if tail[i] < _NEGLIGIBLE:  # and so are all larger ranks
                    break
                dx, dy, dz = offset[i, 0], offset[i, 1], offset[i, 2]
                r2 = dx * dx + dy * dy + dz * dz
                if r2_min < r2 <= r2_max:
                    b = np.searchsorted(edges2, r2) - 1
                    omega_c, omega_s, eta = _terms(central_axis, h, axis, i, dx, dy, dz, r2)
                    w = central[h] * tail[i]
                    sums[0, b] += 2.0 * w
                    sums[1, b] += w * omega_c
                    sums[2, b] += w * omega_s
                    sums[4, b] += w * eta
                for j in range(first[h], i):
                    dx, dy, dz = offset[j, 0] - offset[i, 0], offset[j, 1] - offset[i, 1], offset[j, 2] - offset[i, 2]
                    r2 = dx * dx + dy * dy + dz * dz
                    if r2_min < r2 <= r2_max:
                        b = np.searchsorted(edges2, r2) - 1
                        omega_i, omega_j, eta = _terms(axis, i, axis, j, dx, dy, dz, r2)
                        sums[0, b] += 2.0 * tail[i]
                        sums[2, b] += tail[i] * (omega_i + omega_j)
                        sums[5, b] += 2.0 * tail[i] * eta


def with_donors(
    satellites: np.ndarray,
    weight: np.ndarray,
    draws: np.ndarray,
    group: np.ndarray,
    phase: np.ndarray,
    donors: np.ndarray,
    first: np.ndarray,
    edges2: np.ndarray,
    out: np.ndarray,
) -> None:
    """Add, for each satellite, the mean over donors of its pair with a donor placed around the same host.

    ``satellites`` and ``donors`` (n, 6) are positions relative to the host, and axes. Satellite i is paired with
    ``draws[i]`` of the donors ``first[g] : first[g + 1]`` of its ``group`` g, at equal steps from a random ``phase[i]``
    in [0, 1), and the mean of these pairs has the weight ``weight[i]``.
    """
    in_threads(_with_donors, len(out), satellites, weight, draws, group, phase, donors, first, edges2, out)


@kernel
def _with_donors(start, stop, satellites, weight, draws, group, phase, donors, first, edges2, out):
    r2_max, r2_min, n_blocks = edges2[-1], edges2[0], len(out)
    for block in range(start, stop):
        sums = out[block, 0]
        for i in range(block, len(satellites), n_blocks):
            if weight[i] < _NEGLIGIBLE:
                continue
            low = first[group[i]]
            step = (first[group[i] + 1] - low) / draws[i]
            w = weight[i] / draws[i]
            for m in range(draws[i]):
                j = low + int((m + phase[i]) * step)
                dx = donors[j, 0] - satellites[i, 0]
                dy = donors[j, 1] - satellites[i, 1]
                dz = donors[j, 2] - satellites[i, 2]
                r2 = dx * dx + dy * dy + dz * dz
                if r2_min < r2 <= r2_max:
                    b = np.searchsorted(edges2, r2) - 1
                    omega_i, omega_j, eta = _terms(satellites[:, 3:], i, donors[:, 3:], j, dx, dy, dz, r2)
                    sums[0, b] += 2.0 * w
                    sums[2, b] += w * (omega_i + omega_j)
                    sums[5, b] += 2.0 * w * eta

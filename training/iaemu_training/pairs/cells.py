"""Distances along one axis of a periodic box, for the loops over cells that count pairs."""

from __future__ import annotations

import numba


@numba.njit(inline="always")
def minimum_image(d, Lbox):
    """The separation d of two points in [0, Lbox], to the nearest image: in [-Lbox / 2, Lbox / 2]."""
    half = 0.5 * Lbox
    if d > half:
        d -= Lbox
    elif d < -half:
        d += Lbox
    return d


@numba.njit(inline="always")
def point_gap(x, low, side, Lbox):
    """Squared distance along one axis from x to the interval [low, low + side], periodic."""
    d = abs(x - (low + 0.5 * side))
    if d > 0.5 * Lbox:
        d = Lbox - d
    d -= 0.5 * side
    return d * d if d > 0.0 else 0.0


@numba.njit(inline="always")
def cell_gap(i, j, n_cells, side):
    """Squared smallest distance along one axis between points of cells i and j, periodic."""
    apart = abs(i - j)
    apart = min(apart, n_cells - apart)
    # A part in 10^9 guards against pairs lost to rounding in a point's cell.
    d = (apart - 1) * side * (1.0 - 1e-9)
    return d * d if apart > 1 else 0.0

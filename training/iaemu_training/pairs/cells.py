"""A grid of cells in a periodic box, so that a search for pairs visits only nearby points."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from iaemu_training.work.kernels import kernel

_MAX_CELLS = 96


class CellGrid(NamedTuple):
    """Points sorted into the cells of a periodic grid.

    Attributes
    ----------
    Lbox : float
        Side of the box [Mpc/h].
    n_cells : int
        Number of cells along each axis.
    order : (n,) int64
        Indices that sort the points by cell.
    first : (n_cells^3 + 1,) int64
        Cell ``c = (ix * n_cells + iy) * n_cells + iz`` holds the sorted points ``first[c] : first[c + 1]``.
    """

    Lbox: float
    n_cells: int
    order: np.ndarray
    first: np.ndarray

    @classmethod
    def build(cls, positions: np.ndarray, Lbox: float, n_cells: int) -> CellGrid:
        """Sort points (n, 3) in [0, Lbox] [Mpc/h] into ``n_cells``^3 cells."""
        cell = np.minimum((positions * (n_cells / Lbox)).astype(np.int64), n_cells - 1)
        index = (cell[:, 0] * n_cells + cell[:, 1]) * n_cells + cell[:, 2]
        order = np.argsort(index, kind="stable")
        return cls(float(Lbox), n_cells, order, np.searchsorted(index[order], np.arange(n_cells**3 + 1)))


def choose_cells(n_points: int, Lbox: float, r_max: float, per_radius: int) -> int:
    """Return the number of cells along a side: ``per_radius`` in ``r_max``, unless the points are too few for that."""
    most = min(_MAX_CELLS, max(4, int(np.ceil((2.0 * n_points) ** (1.0 / 3.0)))))
    return int(np.clip(per_radius * Lbox / r_max, 1, most))


@kernel
def near_cells(grid: CellGrid, x: float, y: float, z: float, width: float, r2_max: float, lowest: int) -> np.ndarray:
    """Return the cells within a distance of a point or of a cell, in fixed order, from index ``lowest`` upwards.

    ``(x, y, z)`` is the point, with ``width`` 0; or the centre of the cell, with ``width`` its side.
    """
    n_cells, Lbox = grid.n_cells, grid.Lbox
    side = Lbox / n_cells
    span = int(np.ceil(np.sqrt(r2_max) / side))
    n_span = min(2 * span + 1, n_cells)
    cell = np.empty((3, n_span), np.int64)
    gap = np.empty((3, n_span))
    for axis, centre in enumerate((x, y, z)):
        # If the span exceeds the box, each cell is visited once.
        start = int(centre / side) - span if n_span < n_cells else 0
        for k in range(n_span):
            j = (start + k) % n_cells
            apart = abs(centre - (j + 0.5) * side)
            apart = min(apart, Lbox - apart) - 0.5 * (side + width)
            # The factor keeps pairs from being lost to rounding.
            cell[axis, k], gap[axis, k] = j, (apart * (1.0 - 1e-9)) ** 2 if apart > 0.0 else 0.0
    near = np.empty(n_span**3, np.int64)
    n = 0
    for ox in range(n_span):
        for oy in range(n_span):
            column = (cell[0, ox] * n_cells + cell[1, oy]) * n_cells
            rest = r2_max - gap[0, ox] - gap[1, oy]
            if rest < 0.0 or column + n_cells <= lowest:
                continue
            for oz in range(n_span):
                there = column + cell[2, oz]
                if gap[2, oz] <= rest and there >= lowest:
                    near[n] = there
                    n += 1
    return near[:n]


@numba.njit(inline="always")
def minimum_image(d: float, Lbox: float) -> float:
    """Return the separation d of two points in [0, Lbox] to the nearest image, in [-Lbox / 2, Lbox / 2]."""
    half = 0.5 * Lbox
    if d > half:
        d -= Lbox
    elif d < -half:
        d += Lbox
    return d

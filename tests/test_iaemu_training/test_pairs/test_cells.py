"""The cells near a point or a cell: each once, and all that a pair could be in."""

import numpy as np
import pytest

pytest.importorskip("numba")

from iaemu_training.pairs.cells import CellGrid, near_cells

L = 10.0


@pytest.mark.parametrize("n_cells", [1, 3, 5, 7, 16])
@pytest.mark.parametrize("r_max", [1.3, 3.0, 5.0])
def test_no_pair_is_missed_and_no_cell_is_met_twice(n_cells, r_max):
    points = np.random.default_rng(1).uniform(0.0, L, (400, 3))
    points[0] = L  # on the upper face
    grid = CellGrid.build(points, L, n_cells)
    points = points[grid.order]
    cell = np.repeat(np.arange(n_cells**3), np.diff(grid.first))
    side = L / n_cells
    for i in range(0, 400, 7):
        d = np.abs(points - points[i])
        within = np.sum(np.minimum(d, L - d) ** 2, axis=1) <= r_max**2
        centre = (np.array(np.unravel_index(cell[i], (n_cells,) * 3)) + 0.5) * side
        of_point = near_cells(grid, *points[i], 0.0, r_max**2, 0)
        of_cell = near_cells(grid, *centre, side, r_max**2, 0)
        for near in (of_point, of_cell):
            assert len(np.unique(near)) == len(near)
            assert np.isin(cell[within], near).all()
        assert np.isin(of_point, of_cell).all() and cell[i] in of_cell
        np.testing.assert_array_equal(near_cells(grid, *centre, side, r_max**2, cell[i]), of_cell[of_cell >= cell[i]])


def test_cells_out_of_reach_are_left_out():
    grid = CellGrid.build(np.zeros((1, 3)), L, 10)
    assert len(near_cells(grid, 0.5, 0.5, 0.5, 0.0, 0.4**2, 0)) == 1
    assert len(near_cells(grid, 0.5, 0.5, 0.5, 0.0, 0.6**2, 0)) == 7
    assert len(near_cells(grid, 0.5, 0.5, 0.5, 1.0, 0.1**2, 0)) == 27

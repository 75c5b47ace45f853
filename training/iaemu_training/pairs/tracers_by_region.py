"""Pair sums of tracers by region of a box, for modes of the occupations.

A pair is counted in the region of the host of its first member. So each ordered pair is counted in one region, and the
noise of an axis is in the region of its galaxy.
"""

from __future__ import annotations

import numpy as np

from iaemu.models.tables import ONE_HALO_COLUMNS
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.cells import CellGrid, choose_cells, near_cells
from iaemu_training.pairs.tracers import CELLS_PER_RADIUS, bin_lookup, one_halo_sums, radial, separation, tracer_terms
from iaemu_training.work.kernels import in_threads, kernel

#: Number of points whose neighbours are summed before the sums are multiplied by the weights of the points.
_BATCH = 256


def region_of_hosts(catalogue: HaloCatalogue, per_side: int) -> np.ndarray:
    """Return the region (n_hosts,) of each host, one of ``per_side``^3 equal cubes."""
    cell = np.minimum((catalogue.position * (per_side / catalogue.Lbox)).astype(np.int64), per_side - 1)
    return (cell[:, 0] * per_side + cell[:, 1]) * per_side + cell[:, 2]


class RegionCounter:
    """Pair sums of one box, region by region.

    Parameters
    ----------
    catalogue : HaloCatalogue
        Halos of the box.
    per_side : int
        Number of regions along each side of the box.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    satellites : index array, ascending, optional
        Sub-halos that are counted; by default all. There are no borrowed satellites.
    """

    def __init__(
        self,
        catalogue: HaloCatalogue,
        per_side: int,
        r_edges: np.ndarray,
        satellites: np.ndarray | None = None,
    ):
        self.satellites = np.arange(len(catalogue.offset)) if satellites is None else np.asarray(satellites)
        self._catalogue = catalogue
        self._satellite_host = catalogue.subhalo_host[self.satellites]
        self._satellite_axis = radial(catalogue.offset[self.satellites])
        self._region = region_of_hosts(catalogue, per_side)
        n_hosts = len(catalogue.mass)
        host = np.concatenate([np.arange(n_hosts), self._satellite_host])
        position = np.concatenate(
            [
                catalogue.position,
                np.mod(catalogue.position[self._satellite_host] + catalogue.offset[self.satellites], catalogue.Lbox),
            ]
        )
        n_cells = choose_cells(len(position), catalogue.Lbox, float(r_edges[-1]), CELLS_PER_RADIUS)
        self._grid = CellGrid.build(position, catalogue.Lbox, n_cells)
        order = self._grid.order
        axis = np.concatenate([catalogue.axis, self._satellite_axis])
        kind = np.repeat([0, 1], [n_hosts, len(self.satellites)])
        self._points = tuple(np.ascontiguousarray(values[order]) for values in (position, axis, host, kind))
        self._region_of_points = self._region[host[order]]
        self._edges2, self._guess = bin_lookup(r_edges)

    def two_halo(self, region: int, host_weights: np.ndarray, satellite_weights: np.ndarray) -> np.ndarray:
        """Return the sums over ordered pairs of different hosts whose first member is in the region.

        Parameters
        ----------
        region : int
            Index of the region.
        host_weights, satellite_weights : (n_hosts, n), (n_satellites, n)
            Weights of the hosts and of ``satellites``; columns are different sets of weights.

        Returns
        -------
        (2, 2, n_bins, 3, n, n)
            By kind of the first and the second member (central, satellite); bin; DD, S_omega (axis of the first) and
            S_eta; weights of the first and of the second.
        """
        weights = np.concatenate([host_weights, satellite_weights])[self._grid.order]
        position, axis, host, kind = self._points
        n, n_bins = weights.shape[1], len(self._edges2) - 1
        out = np.zeros((2, n, 2 * n_bins * 3 * n))
        around = np.empty((_BATCH, 2, n_bins, 3, n))
        for first in range(2):
            points = np.flatnonzero((self._region_of_points == region) & (kind == first))
            for start in range(0, len(points), _BATCH):
                part = points[start : start + _BATCH]
                arguments = (part, position, axis, host, kind, weights, self._grid, self._edges2, self._guess, around)
                in_threads(_sums_around, len(part), *arguments)
                out[first] += weights[part].T @ around[: len(part)].reshape(len(part), -1)
        return np.moveaxis(out.reshape(2, n, 2, n_bins, 3, n), 1, 4)

    def one_halo(self, region: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pair sums within the hosts of a region, by satellite.

        Returns
        -------
        index : (n_used,) int
            Satellites, as indices into ``satellites``.
        sums : (n_used, n_bins, 6)
            Sums over pairs with the central of the host, and with its satellites of lower rank; columns as in
            ``iaemu.models.tables.ONE_HALO_COLUMNS``.
        """
        catalogue = self._catalogue
        index = np.flatnonzero(self._region[self._satellite_host] == region)
        hosts, n_satellites = np.unique(self._satellite_host[index], return_counts=True)
        first = np.concatenate([[0], np.cumsum(n_satellites)])
        sums = np.zeros((len(index), len(self._edges2) - 1, len(ONE_HALO_COLUMNS)))
        # Here each satellite is a rank bin, and each host a mass bin.
        one_halo_sums(
            np.arange(len(hosts) + 1),
            first,
            catalogue.offset[self.satellites[index]],
            self._satellite_axis[index],
            catalogue.axis[hosts],
            np.ones(len(index)),
            np.arange(len(index)) - np.repeat(first[:-1], n_satellites),
            np.zeros(len(index), dtype=bool),
            np.ones(len(hosts)),
            self._edges2,
            first[:-1],
            sums,
        )
        return index, sums

    def numbers(self, region: int, host_weights: np.ndarray, satellite_weights: np.ndarray) -> np.ndarray:
        """Return the sums of the weights of the centrals and of the satellites of the region, (2, n)."""
        return np.stack(
            [
                host_weights[self._region == region].sum(axis=0),
                satellite_weights[self._region[self._satellite_host] == region].sum(axis=0),
            ]
        )


@kernel
def _sums_around(start, stop, points, position, axis, host, kind, weights, grid, edges2, guess, out):
    """Set ``out[p, k, b, :, m]`` to DD, S_omega and S_eta of point p with all points of kind k, by their weights m."""
    first, Lbox, n_weights = grid.first, grid.Lbox, weights.shape[1]
    for p in range(start, stop):
        i = points[p]
        out[p] = 0.0
        for cell in near_cells(grid, position[i, 0], position[i, 1], position[i, 2], 0.0, edges2[-1], 0):
            for j in range(first[cell], first[cell + 1]):
                dx, dy, dz = separation(position, i, j, Lbox)
                r2 = dx * dx + dy * dy + dz * dz
                if r2 <= edges2[0] or r2 > edges2[-1] or host[j] == host[i]:
                    continue
                b = guess[min(int(r2 * (len(guess) / edges2[-1])), len(guess) - 1)]
                while r2 <= edges2[b]:
                    b -= 1
                ax, ay, az = axis[i, 0], axis[i, 1], axis[i, 2]
                bx, by, bz = axis[j, 0], axis[j, 1], axis[j, 2]
                omega, eta = tracer_terms(ax, ay, az, bx, by, bz, dx, dy, dz)
                sums = out[p, kind[j], b]
                for m in range(n_weights):
                    weight = weights[j, m]
                    sums[0, m] += weight
                    sums[1, m] += omega * weight
                    sums[2, m] += eta * weight

"""Pairs within one host: sums over its satellites as functions of <Nsat>, at nodes of host mass.

A host contributes to the two nodes around its mass with linear weights, so that any function of mass that is linear
between nodes is summed exactly over all hosts. At each node the sums over ranks, each with its probability
P(N >= k), are made without bins of rank, and are kept as splines in <Nsat> (``iaemu.halomodel.rank_sums``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from iaemu.halomodel.occupation import rank_probability, rank_tail_sums
from iaemu.halomodel.rank_sums import RankSums, knot_coordinate, mean_at, spline_weights
from iaemu.parameters import Support
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.tracers import one_halo_sums, radial
from iaemu_training.tables.species import largest_mean_nsat
from iaemu_training.tables.tracers import Donors

#: Expected number of satellites beyond the last rank that is counted by rank, as a fraction of the largest <Nsat>.
_RANK_TAIL = 1e-7

#: Points between two knots at which the splines are fitted.
_OVERSAMPLING = 3

#: Least <Nsat> at which the splines are fitted; the sums divided by its power have a limit at 0.
_LEAST_NSAT = 1e-6


class MassNodes:
    """Equally spaced nodes of log host mass, and the ranks that hosts between them need.

    Nodes are half-way between multiples of the step. If M0, which users round, were a node, <Nsat> there would have a
    kink at M0.

    Attributes
    ----------
    log_mass : (n_nodes,)
        [log10 Msun/h]
    largest : (n_nodes,)
        Largest <Nsat> of the supported region at each node.
    n_ranks : (n_nodes,) int
        Number of ranks with a probability that matters at this node.
    """

    def __init__(self, catalogues: Sequence[HaloCatalogue], support: Support, dlog_mass: float):
        first = np.floor(min(catalogue.log_mass[0] for catalogue in catalogues) / dlog_mass - 0.5) + 0.5
        last = np.floor(max(catalogue.log_mass[-1] for catalogue in catalogues) / dlog_mass - 0.5) + 1.5
        self._first, self._step = first, dlog_mass
        self.log_mass = np.arange(first, last + 0.5) * dlog_mass
        self.largest = np.maximum(largest_mean_nsat(self.log_mass, support), 1e-3)
        most = int(max(catalogue.n_subhalos.max() for catalogue in catalogues)) + 1
        nsat = torch.as_tensor(self.largest)[:, None]
        single, _ = rank_tail_sums(nsat, torch.arange(1, most + 1, dtype=torch.float64))
        self.n_ranks = (single.numpy() > _RANK_TAIL * self.largest[:, None]).sum(axis=1)

    def place(self, log_mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the node below each host mass, and the fraction of the way to the next."""
        place = log_mass / self._step - self._first
        below = np.minimum(np.floor(place).astype(np.int64), len(self.log_mass) - 2)
        return below, place - below


class _IntervalSums:
    """Sums over the hosts between two nodes, by rank, for the lower and the upper node.

    ``own[side, row]`` are the columns of :func:`one_halo_sums` for satellites on sub-halos, by their rank;
    ``borrowed[side, row]`` those of one borrowed satellite (with the central, and with all own sub-halos), and
    ``pairs[side, row]`` those of a pair of borrowed satellites, by the number of sub-halos of the host.
    """

    def __init__(self, nodes: MassNodes, n_bins: int):
        self.n_ranks = nodes.n_ranks[1:]
        self.first = np.concatenate([[0], np.cumsum(self.n_ranks)])
        rows = self.first[-1]
        self.own, self.borrowed = np.zeros((2, rows, n_bins, 6)), np.zeros((2, rows, n_bins, 6))
        self.pairs = np.zeros((2, rows, n_bins, 3))

    def add(self, catalogue: HaloCatalogue, nodes: MassNodes, donors: Donors, r_edges, n_draws: int, seed: int) -> None:
        """Add the hosts of one catalogue."""
        interval, fraction = nodes.place(catalogue.log_mass)
        n_ranks = self.n_ranks[interval]
        short = np.flatnonzero(catalogue.n_subhalos < n_ranks)
        rng, edges2 = np.random.default_rng(seed), np.asarray(r_edges) ** 2
        groups = np.unique(donors.bin_of_host[short]).tolist()
        pairs = {group: donors.mean_pair(group, edges2, rng) for group in groups}
        for side, weight in enumerate((1.0 - fraction, fraction)):
            self._add_own(self.own[side], catalogue, interval, weight, r_edges)
            self._add_borrowed(side, catalogue, interval, short, weight, donors, r_edges, pairs)
        drawn = short[catalogue.n_subhalos[short] > 0]
        self._add_mixed(catalogue, interval, drawn, fraction, donors, r_edges, n_draws, rng)

    def _add_own(self, out, catalogue, interval, weight, r_edges) -> None:
        keep = catalogue.subhalo_rank <= self.n_ranks[interval][catalogue.subhalo_host]
        host, offset = catalogue.subhalo_host[keep], catalogue.offset[keep]
        one_halo_sums(
            np.searchsorted(interval, np.arange(len(self.n_ranks) + 1)),
            np.searchsorted(host, np.arange(len(catalogue.mass) + 1)),
            offset,
            radial(offset),
            catalogue.axis,
            np.ones(len(host)),
            catalogue.subhalo_rank[keep] - 1,
            np.zeros(len(host), dtype=bool),
            weight,
            np.asarray(r_edges) ** 2,
            self.first[:-1],
            out,
        )

    def _add_mixed(self, catalogue, interval, hosts, fraction, donors, r_edges, n_draws, rng) -> None:
        """Add the pairs of own sub-halos with a borrowed satellite, as a mean over draws of donors.

        Hosts with many sub-halos are few, and get as many more draws.
        """
        coarse, own = donors.bin_of_host[hosts], catalogue.n_subhalos[hosts]
        draws = n_draws * np.clip(own, 2, 256)
        pick = donors.draw(coarse, draws, rng)
        first = catalogue.first_subhalo[hosts]
        # Sub-halos and draws of one host after the other.
        n = own + draws
        host_first = np.concatenate([[0], np.cumsum(n)])
        within = np.arange(host_first[-1]) - np.repeat(host_first[:-1], n)
        virtual = within >= np.repeat(own, n)
        index = np.repeat(first, n) + within
        index[virtual] = pick
        offset = catalogue.offset[index]
        # Row 0 of each interval takes the pairs of two sub-halos, which are counted elsewhere.
        row = np.where(virtual, np.repeat(own, n) + 1, 0)
        base = self.first[:-1] + np.arange(len(self.n_ranks))
        for side, weight in enumerate((1.0 - fraction, fraction)):
            out = np.zeros((self.first[-1] + len(base), *self.borrowed.shape[2:]))
            one_halo_sums(
                np.searchsorted(interval[hosts], np.arange(len(self.n_ranks) + 1)),
                host_first,
                offset,
                radial(offset),
                catalogue.axis[hosts],
                np.where(virtual, 1.0 / np.repeat(draws, n), 1.0),
                row,
                virtual,
                weight[hosts],
                np.asarray(r_edges) ** 2,
                base,
                out,
            )
            self.borrowed[side, ..., 3:] += np.delete(out, base, axis=0)[..., 3:]

    def _add_borrowed(self, side, catalogue, interval, hosts, weight, donors: Donors, r_edges, pairs) -> None:
        """Add pairs of a borrowed satellite with the central, and of two borrowed ones, averaged over all donors."""
        edges2, n_bins = np.asarray(r_edges) ** 2, len(r_edges) - 1
        rows = self.first[interval[hosts]] + catalogue.n_subhalos[hosts]
        group = donors.bin_of_host[hosts]
        shape = (self.first[-1], len(donors.first) - 1)
        number, axes = np.zeros(shape), np.zeros((*shape, 3, 3))
        np.add.at(number, (rows, group), weight[hosts])
        outer = catalogue.axis[hosts, :, None] * catalogue.axis[hosts, None, :]
        np.add.at(axes, (rows, group), weight[hosts, None, None] * outer)
        for g in np.flatnonzero(number.any(axis=0)).tolist():
            offset, axis = donors.places(g)
            r2 = np.sum(offset**2, axis=1)
            where = np.searchsorted(edges2, r2) - 1
            inside = (where >= 0) & (where < n_bins)
            tensor = np.zeros((n_bins, 3, 3))
            norm = np.sum(axis**2, axis=1)[:, None, None] / 3.0
            np.add.at(tensor, where[inside], (axis[:, :, None] * axis[:, None, :] - np.eye(3) * norm)[inside])
            used = np.flatnonzero(number[:, g])
            count = np.bincount(where[inside], minlength=n_bins) / len(offset)
            along = np.einsum("sij,bij->sb", axes[used, g], tensor) / len(offset)
            self.borrowed[side, used, :, 0] += 2.0 * number[used, g, None] * count
            self.borrowed[side, used, :, 1] += along
            self.borrowed[side, used, :, 2] += 2.0 * along
            self.pairs[side, used] += number[used, g, None, None] * pairs[g]


def one_halo_tables(
    catalogues: Sequence[HaloCatalogue],
    support: Support,
    r_edges: np.ndarray,
    dlog_mass: float,
    n_draws: int,
    seed: int,
) -> dict[str, RankSums]:
    """Return the sums over pairs within hosts, of all catalogues together.

    Parameters
    ----------
    catalogues : sequence of HaloCatalogue
    support : Support
    r_edges : array (n_bins + 1,)
        [Mpc/h]
    dlog_mass : float
        Distance of the mass nodes [dex].
    n_draws : int
        Number of donors that are drawn for each sub-halo of a host, for its pairs with borrowed satellites; at least
        twice, at most 256 times that for a host.
    seed : int

    Returns
    -------
    dict of "central_satellite" and "satellite_pair" to RankSums
        Columns are bins and, in each, DD, S_omega (with the axis of the central, or of either satellite) and S_eta.
    """
    nodes, n_bins = MassNodes(catalogues, support, dlog_mass), len(r_edges) - 1
    sums = _IntervalSums(nodes, n_bins)
    for catalogue in catalogues:
        sums.add(catalogue, nodes, Donors.of(catalogue), r_edges, n_draws, seed)
    columns = {"central_satellite": (1, slice(0, 3)), "satellite_pair": (2, slice(3, 6))}
    values: dict[str, list] = {name: [] for name in columns}
    n_rows = []
    for node in range(len(nodes.log_mass)):
        parts = [(side, node - side) for side in (0, 1) if 0 <= node - side < len(sums.n_ranks)]
        parts = [(side, interval) for side, interval in parts if sums.n_ranks[interval]]
        n_ranks = max(sums.n_ranks[interval] for _, interval in parts)
        fit, nsat = spline_fit(float(nodes.largest[node]))
        ranks = torch.arange(1, n_ranks + 1, dtype=torch.float64)
        own = rank_probability(nsat[:, None], ranks).numpy()
        single, pair = (tail.numpy() for tail in rank_tail_sums(nsat[:, None], ranks))
        pair = pair - single * (ranks.numpy() - 1.0)  # pairs of borrowed satellites only
        n_rows.append(len(fit))
        for name, (power, part) in columns.items():
            total = np.zeros((len(nsat), n_bins, 3))
            for side, interval in parts:
                rows, n = slice(sums.first[interval], sums.first[interval + 1]), sums.n_ranks[interval]
                total += np.tensordot(own[:, :n], sums.own[side, rows, :, part], 1)
                total += np.tensordot(single[:, :n], sums.borrowed[side, rows, :, part], 1)
                if power == 2:
                    total += np.tensordot(pair[:, :n], sums.pairs[side, rows], 1)
            values[name].append(fit @ (total.reshape(len(nsat), -1) / nsat.numpy()[:, None] ** power))
    return {
        name: RankSums(nodes.log_mass, n_rows, np.concatenate(values[name]), power)
        for name, (power, _) in columns.items()
    }


def spline_fit(largest: float) -> tuple[np.ndarray, torch.Tensor]:
    """Return the matrix that turns values at points of <Nsat> into coefficients of splines, and these points.

    Parameters
    ----------
    largest : float
        Largest <Nsat>.

    Returns
    -------
    matrix : array (n_rows, n_points)
    nsat : tensor (n_points,)
    """
    n_knots = max(1, int(np.ceil(float(knot_coordinate(torch.tensor(largest, dtype=torch.float64))))))
    coordinate = np.linspace(0.0, n_knots, _OVERSAMPLING * n_knots + 4)
    interval = np.minimum(np.floor(coordinate).astype(np.int64), n_knots - 1)
    weights = np.zeros((len(coordinate), n_knots + 3))
    four = spline_weights(torch.as_tensor(coordinate - interval)).numpy()
    weights[np.arange(len(coordinate))[:, None], interval[:, None] + np.arange(4)] = four
    return np.linalg.pinv(weights), torch.as_tensor(np.maximum(mean_at(coordinate), _LEAST_NSAT))

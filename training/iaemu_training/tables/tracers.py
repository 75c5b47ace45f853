"""Tracers: all places where the mock model can put a satellite, on sub-halos or borrowed from other hosts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.tracers import radial
from iaemu_training.pairs.weighted import N_BLOCKS, QUANTITIES, with_donors
from iaemu_training.tables.species import Species

#: Number of donors with which each donor of a coarse mass bin is paired, for pairs of borrowed satellites.
_PAIRS_PER_DONOR = 1000


@dataclass
class Tracers:
    """All places where the mock model can put a galaxy in one box, within the supported region.

    Attributes
    ----------
    catalogue : HaloCatalogue
        Halos of the box.
    bin_first : (n_mass_bins + 1,) int
        First host of each mass bin.
    host, rank_bin : (n_satellites,) int
        Host and rank bin of each satellite tracer; sorted by host.
    offset : (n_satellites, 3)
        Position relative to the host [Mpc/h].
    multiplicity : (n_satellites,)
        Number of ranks that a borrowed tracer stands for; 1 for a sub-halo.
    virtual : (n_satellites,) bool
        Whether the tracer is borrowed.
    """

    catalogue: HaloCatalogue
    bin_first: np.ndarray
    host: np.ndarray
    rank_bin: np.ndarray
    offset: np.ndarray
    multiplicity: np.ndarray
    virtual: np.ndarray

    @property
    def axis(self) -> np.ndarray:
        """Unit vectors from the host to the tracers; zero for a tracer exactly at the centre of its host."""
        return radial(self.offset)


@dataclass
class Donors:
    """Sub-halos sorted by the coarse mass bin of their hosts, within which satellites are borrowed, and by distance.

    Attributes
    ----------
    bin_of_host : (n_hosts,) int
        Coarse bin of each host.
    order : (n_subhalos,) int
        Sub-halos sorted by coarse bin: ``order[first[g] : first[g + 1]]`` are those of bin g, the nearest to their host
        first.
    first : (n_bins + 1,) int
        Start of each bin in ``order``.
    offset : (n_subhalos, 3)
        Positions of all sub-halos relative to their hosts [Mpc/h].
    """

    bin_of_host: np.ndarray
    order: np.ndarray
    first: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, catalogue: HaloCatalogue) -> Donors:
        """Sort all sub-halos of a catalogue."""
        edges = catalogue.borrowing_edges
        bin_of_host = np.clip(np.digitize(catalogue.log_mass, edges) - 1, 0, len(edges) - 2)
        bin_of_subhalo = bin_of_host[catalogue.subhalo_host]
        order = np.lexsort([np.sum(catalogue.offset**2, axis=1), bin_of_subhalo])
        first = np.searchsorted(bin_of_subhalo[order], np.arange(len(edges)))
        return cls(bin_of_host, order, first, catalogue.offset)

    def number(self, coarse: np.ndarray) -> np.ndarray:
        """Return the number of donors in coarse bins."""
        return self.first[coarse + 1] - self.first[coarse]

    def draw(self, coarse: np.ndarray, n_draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw ``n_draws`` (n,) donors from coarse bins (n,); return sub-halos, those of one row after the other.

        The draws of one row are stratified: since donors are in order of distance, they cover all distances evenly.
        """
        row = np.repeat(np.arange(len(coarse)), n_draws)
        first = np.cumsum(n_draws) - n_draws
        fraction = (np.arange(len(row)) - first[row] + rng.uniform(size=len(row))) / n_draws[row]
        return self.order[self.first[coarse][row] + (fraction * self.number(coarse)[row]).astype(np.int64)]

    def places(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the offsets [Mpc/h] and the axes of all donors of a coarse bin."""
        offset = self.offset[self.order[self.first[group] : self.first[group + 1]]]
        return offset, radial(offset)

    def mean_pair(self, group: int, edges2: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return DD, S_omega and S_eta of two borrowed satellites of one host, averaged over donors, (n_bins, 3)."""
        donors = np.concatenate(self.places(group), axis=1)
        n = len(donors)
        draws = np.full(n, min(n, _PAIRS_PER_DONOR))
        out = np.zeros((N_BLOCKS, 1, len(QUANTITIES), len(edges2) - 1))
        ends = np.array([0, n])
        with_donors(
            donors,
            np.full(n, 1.0 / n),
            draws,
            np.zeros(n, dtype=np.int64),
            rng.uniform(size=n),
            donors,
            ends,
            edges2,
            out,
        )
        return out.sum(axis=(0, 1))[[0, 2, 5]].T


def build_tracers(
    catalogue: HaloCatalogue, species: Species, mass_bin: np.ndarray, donors: Donors, max_draws: int, seed: int
) -> Tracers:
    """Return the sub-halos by rank, and donors for the ranks for which a host has no sub-halo.

    For such ranks halotools' SubhaloPhaseSpace borrows the relative positions of sub-halos that are drawn uniformly,
    with replacement, from all hosts of the same coarse mass bin. Here they are drawn by a hash of (seed, host, rank
    bin, draw), so that they do not depend on the mass bins of the tables.
    """
    n_host_bins = species.n_rank_bins[mass_bin]
    starts, ends = species.rank_edges[: n_host_bins.max()], species.rank_edges[1 : n_host_bins.max() + 1] - 1
    # Sub-halos, up to the last rank of the tables.
    host = catalogue.subhalo_host
    rank = catalogue.subhalo_rank
    keep = rank <= ends[n_host_bins - 1][host]
    parts = [
        dict(
            host=host[keep],
            rank_bin=np.searchsorted(starts, rank[keep], side="right") - 1,
            offset=catalogue.offset[keep],
            multiplicity=np.ones(keep.sum()),
            virtual=np.zeros(keep.sum(), dtype=bool),
        )
    ]
    for k, hosts, missing, _ in borrowers(catalogue, species, mass_bin):
        draws = np.minimum(missing, max_draws)
        who = np.repeat(hosts, draws)
        draw = np.arange(len(who)) - np.repeat(np.cumsum(draws) - draws, draws)
        coarse = donors.bin_of_host[who]
        # Stratified: donors are in order of distance, and the draws of a host and rank bin cover all distances evenly.
        fraction = (draw + _hash_uniform(seed, who, k, draw)) / np.repeat(draws, draws)
        pick = (fraction * donors.number(coarse)).astype(np.int64)
        parts.append(
            dict(
                host=who,
                rank_bin=np.full(len(who), k),
                offset=catalogue.offset[donors.order[donors.first[coarse] + pick]],
                multiplicity=np.repeat(missing / draws, draws),
                virtual=np.ones(len(who), dtype=bool),
            )
        )
    merged = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    by_host = np.argsort(merged["host"], kind="stable")
    bin_first = np.searchsorted(mass_bin, np.arange(species.n_mass_bins + 1))
    return Tracers(catalogue=catalogue, bin_first=bin_first, **{key: value[by_host] for key, value in merged.items()})


def borrowers(
    catalogue: HaloCatalogue, species: Species, mass_bin: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Give each rank bin, the hosts without sub-halos for some of its ranks, and how many: in this bin, and below."""
    for k in range(species.n_rank_bins.max()):
        start, end = species.rank_edges[k], species.rank_edges[k + 1] - 1
        hosts = np.flatnonzero((species.n_rank_bins[mass_bin] > k) & (catalogue.n_subhalos < end))
        own = catalogue.n_subhalos[hosts]
        yield k, hosts, end - np.maximum(own, start - 1), np.maximum(start - 1 - own, 0)


def _hash_uniform(seed: int, *keys) -> np.ndarray:
    """Return uniform numbers in [0, 1) from integer keys (splitmix64 of each in turn)."""
    with np.errstate(over="ignore"):
        state = np.asarray(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15))
        for key in keys:
            state = state + np.asarray(key, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray((state >> np.uint64(11)) * 2.0**-53)

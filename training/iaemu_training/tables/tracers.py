"""Tracers: all places where the mock model can put a satellite, on sub-halos or borrowed from other hosts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.tracers import radial
from iaemu_training.tables.species import Species


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
    """Sub-halos sorted by the coarse mass bin of their hosts, within which satellites are borrowed.

    Attributes
    ----------
    bin_of_host : (n_hosts,) int
        Coarse bin of each host.
    order : (n_subhalos,) int
        Sub-halos sorted by coarse bin: ``order[first[g] : first[g + 1]]`` are those of bin g.
    first : (n_bins + 1,) int
        Start of each bin in ``order``.
    """

    bin_of_host: np.ndarray
    order: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, catalogue: HaloCatalogue) -> Donors:
        """Sort all sub-halos of a catalogue."""
        edges = catalogue.borrowing_edges
        bin_of_host = np.clip(np.digitize(catalogue.log_mass, edges) - 1, 0, len(edges) - 2)
        bin_of_subhalo = bin_of_host[catalogue.subhalo_host]
        order = np.argsort(bin_of_subhalo, kind="stable")
        return cls(bin_of_host, order, np.searchsorted(bin_of_subhalo[order], np.arange(len(edges))))

    def number(self, coarse: np.ndarray) -> np.ndarray:
        """Return the number of donors in coarse bins."""
        return self.first[coarse + 1] - self.first[coarse]


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
        pick = (_hash_uniform(seed, who, k, draw) * donors.number(coarse)).astype(np.int64)
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

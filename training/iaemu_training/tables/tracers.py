"""Where the mock model may put galaxies in one box: sub-halos by rank, and donors for those that a host lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.tracers import radial
from iaemu_training.tables.species import Species


@dataclass
class Tracers:
    """Every place where the mock model may put a galaxy in one box, within the support.

    Attributes
    ----------
    catalogue : HaloCatalogue
    bin_first : (n_mass_bins + 1,) first host of each mass bin
    host, rank_bin : (n_satellites,) of each satellite tracer; by host
    offset : (n_satellites, 3) from the host [Mpc/h]
    multiplicity : (n_satellites,) ranks that a drawn tracer stands for; 1 for a sub-halo
    virtual : (n_satellites,) bool, borrowed
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
        """Unit radial vectors; zero where the tracer sits at its host's very centre."""
        return radial(self.offset)


@dataclass
class Donors:
    """Sub-halos by the coarse mass bin of their hosts, within which satellites are borrowed.

    Attributes
    ----------
    bin_of_host : (n_hosts,)
    order : (n_subhalos,) sub-halos sorted by coarse bin; ``order[first[g] : first[g + 1]]`` are those of bin g
    first : (n_bins + 1,)
    """

    bin_of_host: np.ndarray
    order: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, catalogue: HaloCatalogue) -> Donors:
        """All sub-halos of a catalogue."""
        edges = catalogue.borrowing_edges
        bin_of_host = np.clip(np.digitize(catalogue.log_mass, edges) - 1, 0, len(edges) - 2)
        bin_of_subhalo = bin_of_host[catalogue.subhalo_host]
        order = np.argsort(bin_of_subhalo, kind="stable")
        return cls(bin_of_host, order, np.searchsorted(bin_of_subhalo[order], np.arange(len(edges))))

    def number(self, coarse: np.ndarray) -> np.ndarray:
        """Number of donors in coarse bins."""
        return self.first[coarse + 1] - self.first[coarse]


def build_tracers(
    catalogue: HaloCatalogue, species: Species, mass_bin: np.ndarray, donors: Donors, max_draws: int, seed: int
) -> Tracers:
    """Sub-halos by rank, and donors drawn for the ranks that a host has no sub-halos for.

    halotools' SubhaloPhaseSpace gives a host that lacks sub-halos the relative positions of sub-halos drawn uniformly,
    with replacement, from all hosts of its coarse mass bin. Here each missing rank gets donors of its own, by a hash
    of (seed, host, rank bin, draw), so that draws do not depend on the mass bins.
    """
    n_host_bins = species.n_rank_bins[mass_bin]
    starts, ends = species.rank_edges[: n_host_bins.max()], species.rank_edges[1 : n_host_bins.max() + 1] - 1
    # Sub-halos, up to the last rank that matters.
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
    """For each rank bin: its index, hosts that lack sub-halos for some of its ranks, how many, how many lower ones."""
    for k in range(species.n_rank_bins.max()):
        start, end = species.rank_edges[k], species.rank_edges[k + 1] - 1
        hosts = np.flatnonzero((species.n_rank_bins[mass_bin] > k) & (catalogue.n_subhalos < end))
        own = catalogue.n_subhalos[hosts]
        yield k, hosts, end - np.maximum(own, start - 1), np.maximum(start - 1 - own, 0)


def _hash_uniform(seed: int, *keys) -> np.ndarray:
    """Uniform numbers in [0, 1) from integer keys (splitmix64 of each in turn)."""
    with np.errstate(over="ignore"):
        state = np.asarray(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15))
        for key in keys:
            state = state + np.asarray(key, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray((state >> np.uint64(11)) * 2.0**-53)

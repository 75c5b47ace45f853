"""Species of tracers and the modes of their occupations.

A species is a bin of host mass, for centrals, or a bin of host mass and sub-halo rank, for satellites. All tracers of a
species have nearly the same occupation. Modes are vectors over the species whose linear combinations approximate all
occupations in the supported region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy.linalg
import torch
from scipy.stats import qmc

from iaemu.halomodel.alignment import mean_p2
from iaemu.halomodel.modes import Block, Occupations
from iaemu.halomodel.occupation import mean_nsat, rank_tail_sums
from iaemu.parameters import PARAMETERS, ZHENG07_LINE, Support
from iaemu.ranges import Range, check_fields
from iaemu_training.halos.catalogue import HaloCatalogue


@dataclass(frozen=True)
class Resolution:
    """Widths of the bins of host mass and sub-halo rank.

    Attributes
    ----------
    dlog_mass : float
        Width of the host-mass bins [dex].
    nodes_per_bin : int
        Number of masses in each bin at which the occupation is computed, to be averaged.
    rank_root : float
        Width of a rank bin at rank k, in units of sqrt(k); at least one rank.
    rank_ratio : float
        Width of a rank bin at rank k, in units of k, if this is larger than by rank_root.
    rank_tail : float
        Share of satellites beyond the last rank bin, at the largest <Nsat> of the supported region; the last bin
        stands for them.
    """

    dlog_mass: Annotated[float, Range(at_least=1e-3, at_most=1)] = 0.02
    nodes_per_bin: Annotated[int, Range(at_least=1, at_most=100)] = 2
    rank_root: Annotated[float, Range(at_least=0, at_most=10)] = 0.4
    rank_ratio: Annotated[float, Range(at_least=0, at_most=10)] = 0.2
    # For a smaller value no rank bin would be the last, since their number is limited.
    rank_tail: Annotated[float, Range(at_least=1e-8, at_most=0.1)] = 1e-3

    def __post_init__(self):
        check_fields(self)


class Species:
    """Bins of host mass and sub-halo rank that several catalogues have in common.

    Attributes
    ----------
    mass_bin : list of (n_hosts,) arrays
        Mass bin of each host of each catalogue.
    n_mass_bins, n_satellite : int
        Number of species of centrals, and of satellites.
    satellite_bin, rank_first, rank_last : (n_satellite,)
        Mass bin, first rank and last rank of each satellite species. The last species of a mass bin also stands for all
        higher ranks.
    """

    def __init__(self, catalogues: Sequence[HaloCatalogue], support: Support, resolution: Resolution):
        step = resolution.dlog_mass / resolution.nodes_per_bin
        log_masses = [catalogue.log_mass for catalogue in catalogues]
        start = np.floor(min(masses[0] for masses in log_masses) / resolution.dlog_mass) * resolution.dlog_mass
        raw_node = [np.floor((masses - start) / step + 1e-9).astype(np.int64) for masses in log_masses]
        nodes = np.unique(np.concatenate(raw_node))
        node = [np.searchsorted(nodes, raw) for raw in raw_node]
        bins, node_bin = np.unique(nodes // resolution.nodes_per_bin, return_inverse=True)
        self.node_count = np.stack([np.bincount(index, minlength=len(nodes)) for index in node])
        pooled = self.node_count.sum(axis=0)
        self.node_log_mass = np.bincount(np.concatenate(node), weights=np.concatenate(log_masses)) / pooled
        self.node_bin = node_bin
        self.n_mass_bins = len(bins)
        self.bin_count = np.bincount(node_bin, weights=pooled)
        self.node_share = pooled / self.bin_count[node_bin]
        self.mass_bin = [node_bin[index] for index in node]

        largest = np.maximum(largest_mean_nsat(start + (bins + 1) * resolution.dlog_mass, support), 1e-3)
        edges = rank_bin_edges(float(largest.max()), resolution)
        tail = rank_tail_sums(torch.as_tensor(largest)[:, None], torch.as_tensor(edges[1:].astype(np.float64)))[0]
        n_ranks = np.argmax(tail.numpy() < resolution.rank_tail * largest[:, None], axis=1) + 1
        self.satellite_bin = np.repeat(np.arange(len(bins)), n_ranks)
        rank_index = np.arange(len(self.satellite_bin)) - np.repeat(np.cumsum(n_ranks) - n_ranks, n_ranks)
        self.rank_first = edges[rank_index]
        self.rank_last = edges[rank_index + 1] - 1
        self.rank_edges = edges
        self.n_rank_bins = n_ranks
        self.first_satellite = np.cumsum(n_ranks) - n_ranks
        self.n_satellite = len(self.satellite_bin)

    def count(self, kind: str) -> np.ndarray:
        """Return the number of tracers of each species (for "satellite_pair": of pairs of ranks)."""
        if kind == "central":
            return self.bin_count
        return self.bin_count[self.satellite_bin] * self.ranks(kind)

    def log_mass(self, kind: str) -> np.ndarray:
        """Return the mean log10 host mass of each species [log10 Msun/h]."""
        mean = np.bincount(self.node_bin, weights=self.node_log_mass * self.node_share)
        return mean if kind == "central" else mean[self.satellite_bin]

    def occupation(self, kind: str, chosen: np.ndarray | None = None, matrix: np.ndarray | None = None) -> Block:
        """Return the occupations of all species, or of those in ``chosen``; ``matrix`` converts them to amplitudes."""
        n = self.n_mass_bins if kind == "central" else self.n_satellite
        chosen = np.arange(n) if chosen is None else np.asarray(chosen)
        bins = chosen if kind == "central" else self.satellite_bin[chosen]
        first = np.searchsorted(self.node_bin, bins)
        n_nodes = np.searchsorted(self.node_bin, bins, side="right") - first
        index = np.repeat(np.arange(len(chosen)), n_nodes)
        node = np.repeat(first, n_nodes) + np.arange(len(index)) - np.repeat(np.cumsum(n_nodes) - n_nodes, n_nodes)
        share = self.node_share[node]
        if kind == "central":
            return Block(kind, self.node_log_mass[node], np.ones(len(node)), index, share, matrix)
        species = chosen[index]
        ranks = self.ranks(kind)[species]
        share = np.divide(share, ranks, out=np.zeros_like(share), where=ranks > 0)
        last = (species + 1 == self.n_satellite) | (self.satellite_bin[(species + 1) % self.n_satellite] != bins[index])
        parts = [
            (node, self.rank_first[species], index, share),
            (node[~last], self.rank_last[species[~last]] + 1, index[~last], -share[~last]),
        ]
        node, rank, index, share = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Block(kind, self.node_log_mass[node], rank, index, share, matrix)

    def ranks(self, kind: str) -> np.ndarray:
        """Return the number of ranks in each satellite species (for "satellite_pair": of pairs of ranks)."""
        width = self.rank_last - self.rank_first + 1.0
        return 0.5 * (self.rank_first + self.rank_last - 2.0) * width if kind == "satellite_pair" else width


def largest_mean_nsat(log_mass: np.ndarray, support: Support) -> np.ndarray:
    """Return the largest <Nsat> in the supported region at each host mass [log10 Msun/h]."""
    at = torch.as_tensor(log_mass, dtype=torch.float64)
    largest = torch.zeros_like(at)
    for logMmin in np.linspace(*support.logMmin, 101):
        limits = {name: support.bounds(name, float(logMmin)) for name in ZHENG07_LINE}
        for alpha in limits["alpha"]:
            values = [torch.as_tensor(x, dtype=torch.float64) for x in (limits["logM0"][0], limits["logM1"][0], alpha)]
            largest = torch.maximum(largest, mean_nsat(at, *values))
    return largest.numpy()


def rank_bin_edges(largest_mean: float, resolution: Resolution) -> np.ndarray:
    """Return the edges of rank bins, from 1 to well above the largest mean number of satellites."""
    edges = [1]
    while edges[-1] <= largest_mean + 10.0 * np.sqrt(largest_mean) + 20.0:
        k = edges[-1]
        edges.append(k + max(1, int(resolution.rank_root * np.sqrt(k)), int(resolution.rank_ratio * k)))
    return np.asarray(edges)


def sample_points(support: Support, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return quasi-random points of the supported region, (n, 7), and the points of the unit cube behind them.

    Half of the points have ``sigma_logM`` uniform in the logarithm, because steep steps are hardest to represent.
    """
    unit = qmc.Sobol(len(PARAMETERS), seed=seed).random(n)
    theta = support.from_unit_cube(unit)
    column = PARAMETERS.index("sigma_logM")
    low, high = support.bounds("sigma_logM", theta[:, PARAMETERS.index("logMmin")])
    theta[::2, column] = (low * (high / low) ** unit[:, column])[::2]
    return theta, unit


def sample_occupations(species: Species, kind: str, support: Support, n: int, seed: int) -> np.ndarray:
    """Return occupations (n, n_species) at the points of :func:`sample_points`.

    A quarter of them are multiplied by a mass-dependent alignment strength, so that the modes hold for such models too.
    """
    theta, unit = sample_points(support, n, seed)
    occupations = Occupations({kind: species.occupation(kind)})
    parts = torch.as_tensor(theta[:, 2:]).split(64)
    samples = np.concatenate([occupations.amplitudes(part)[kind].numpy() for part in parts])
    sloped = np.arange(n) % 4 == 3
    slope = unit[sloped, 1:2] - 0.5
    mu = np.clip(2.0 * unit[sloped, :1] - 1.0 + slope * (species.log_mass(kind) - 12.5), -1.0, 1.0)
    samples[sloped] *= mean_p2(torch.as_tensor(mu)).numpy()
    return samples


@dataclass
class ModeBasis:
    """Modes of occupations, and the block that computes their amplitudes.

    Attributes
    ----------
    basis : (n_species, n_modes)
        Modes: an occupation is approximately ``basis @ amplitudes``.
    occupation : Block
        Computes the amplitudes from the occupation parameters.
    """

    basis: np.ndarray
    occupation: Block


def central_modes(species: Species, support: Support, n_modes: int, n_samples: int, seed: int) -> ModeBasis:
    """Find the modes of <Ncen>."""
    samples = sample_occupations(species, "central", support, n_samples, seed)
    basis, matrix = exact_modes(samples, species.count("central"), species.log_mass("central"), n_modes)
    return ModeBasis(basis, species.occupation("central", matrix=matrix))


def exact_modes(
    samples: np.ndarray, count: np.ndarray, log_mass: np.ndarray, n_modes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find modes whose amplitudes are computed from all species; the first two are constant and linear in log mass.

    So the truncation keeps the expected number of galaxies, and its first moment in log mass, exactly.

    Returns
    -------
    basis : (n_species, n_modes)
        The modes.
    matrix : (n_species, n_modes)
        Converts occupations to amplitudes.
    """
    root = np.sqrt(count)
    first = np.linalg.qr(np.stack([root, root * (log_mass - log_mass.mean())], axis=1))[0]
    scaled = samples * root
    norm = np.linalg.norm(scaled, axis=1)
    scaled = scaled[norm > 0] / norm[norm > 0, None]
    scaled = scaled - (scaled @ first) @ first.T
    _, vectors = np.linalg.eigh(scaled.T @ scaled)
    directions = np.concatenate([first, vectors[:, ::-1][:, : max(n_modes - 2, 0)]], axis=1)
    directions = np.linalg.qr(directions)[0]
    return directions / root[:, None], directions * root[:, None]


def fit_modes(
    samples: np.ndarray, count: np.ndarray, n_modes: int, norm: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the principal modes of samples (n_samples, n_species), each divided by ``norm`` (by default its own norm).

    The modes are singular vectors in the inner product sum_hosts f g, so that the truncation error is orthogonal, over
    the hosts, to all modes that are kept. Amplitudes are computed from three species for each mode, which are chosen by
    pivoted QR of the leading modes.

    Returns
    -------
    basis : (n_species, n_modes)
        The modes.
    chosen : (n_points,)
        Species whose occupations are evaluated.
    matrix : (n_points, n_modes)
        Converts these occupations to amplitudes.
    """
    root = np.sqrt(np.maximum(count, 0.0))
    scaled = samples * root
    norm = np.linalg.norm(scaled, axis=1) if norm is None else norm
    scaled = scaled[norm > 0] / norm[norm > 0, None]
    n_points = min(3 * n_modes, scaled.shape[1])
    n_modes = min(n_modes, n_points)
    values, vectors = np.linalg.eigh(scaled @ scaled.T)
    order = np.argsort(values)[::-1][:n_points]
    directions = scaled.T @ (vectors[:, order] / np.sqrt(np.maximum(values[order], 1e-28)))
    _, _, pivots = scipy.linalg.qr(directions.T, mode="economic", pivoting=True)
    chosen = np.sort(pivots[:n_points])
    directions = directions[:, :n_modes]
    matrix, *_ = np.linalg.lstsq(scaled[:, chosen], scaled @ directions, rcond=1e-12)
    basis = np.divide(directions, root[:, None], out=np.zeros_like(directions), where=root[:, None] > 0)
    return basis, chosen, matrix * root[chosen, None]

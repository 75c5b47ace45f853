"""Expected pair sums at one occupation from all pairs of hosts and sub-halos, without bins of mass or rank, or modes.

The weight of a pair is the probability that the mock model puts a galaxy on both of its members. A host has a central
with the probability <Ncen>(M), and its sub-halo of rank k a satellite with P(N >= k), N ~ Poisson(<Nsat>(M)). For two
sub-halos of one host the weight is that of the larger rank, since satellites occupy ranks in order; all other pairs
have the product of both. Ranks for which a host has no sub-halo are borrowed: each is drawn independently from all
sub-halos, the donors, of the hosts of the same coarse mass bin (halotools' SubhaloPhaseSpace). If a host has n
sub-halos, its expected number of borrowed satellites is E[(N - n)+], and of pairs of them E[(N - n)+ (N - n - 1)+] / 2.

All pairs are summed, except for two kinds that involve borrowed satellites and are averaged over some of the donors:
pairs with a sub-halo or another borrowed satellite of the same host, and pairs of different hosts.

Orientations may have weights, the factors q of strengths that depend on where a galaxy sits. Terms of S_omega and S_eta
are linear in a a^T of each axis a, so a weight is the square of the length of the axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.binning import check_edges, shell_volumes
from iaemu.halomodel.occupation import mean_ncen, mean_nsat, rank_probability, rank_tail_sums
from iaemu.models.pair_sums import PairSums
from iaemu.parameters import OCCUPATION_PARAMETERS, as_theta
from iaemu.ranges import Range, Seed, check_fields
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.cells import CellGrid, choose_cells
from iaemu_training.pairs.tracers import CELLS_PER_RADIUS, bin_lookup, radial
from iaemu_training.pairs.weighted import N_BLOCKS, QUANTITIES, between_hosts, with_donors, within_hosts
from iaemu_training.tables.tracers import Donors

#: Largest share of borrowed satellites, if orientations have factors.
_FEW_BORROWED = 1e-3


@dataclass(frozen=True)
class ExactSettings:
    """How pairs are summed.

    Attributes
    ----------
    dropped : float
        Fraction of the galaxies of a box, those on the least likely hosts and sub-halos, that may be left out of pairs
        of different hosts.
    donor_pairs : int
        Number of pairs of a borrowed satellite with a satellite of the same host that are averaged in each box.
    draws : int
        Number of borrowed satellites that are drawn in each box for pairs of different hosts.
    seed : int
        Seed of the draws.
    """

    dropped: Annotated[float, Range(at_least=0, at_most=0.1)] = 1e-6
    donor_pairs: Annotated[int, Range(at_least=1)] = 50_000_000
    draws: Annotated[int, Range(at_least=1)] = 400_000
    seed: Seed = 1

    def __post_init__(self):
        check_fields(self)


@dataclass
class ExactSums:
    """Expected sums over ordered pairs of all boxes.

    Attributes
    ----------
    total : PairSums
        All sums, as those of tables at one point: n = 1.
    one_halo, two_halo : dict of str to array (n_bins,)
        The sums ``DD, A_c, A_s, E_cc, E_cs, E_ss`` over pairs in one host, and over pairs of different hosts.
    borrowed : float
        Expected share of the satellites that are borrowed.
    """

    total: PairSums
    one_halo: dict[str, np.ndarray]
    two_halo: dict[str, np.ndarray]
    borrowed: float


def exact_sums(
    catalogues: Sequence[HaloCatalogue],
    theta: ArrayLike,
    r_edges: ArrayLike,
    settings: ExactSettings | None = None,
    factors: Callable[[HaloCatalogue], tuple[np.ndarray, np.ndarray]] | None = None,
) -> ExactSums:
    """Sum the expected pairs of one or more catalogues at one occupation.

    Parameters
    ----------
    catalogues : sequence of HaloCatalogue
        Boxes, whose sums are added.
    theta : (5,)
        Occupation parameters in the order of ``OCCUPATION_PARAMETERS``.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h], at most half of the side of the boxes.
    settings : ExactSettings, optional
        How pairs are summed.
    factors : callable, optional
        Maps a catalogue to weights of the orientations of its hosts (n_hosts,) and sub-halos (n_subhalos,), at least 0;
        by default 1.

    Returns
    -------
    ExactSums

    Raises
    ------
    ValueError
        The parameters are not five finite numbers, or the edges are wrong. Or a factor is negative, or there are
        factors and borrowed satellites, whose factors depend on two hosts.
    """
    settings = settings or ExactSettings()
    edges = check_edges(r_edges)
    one, two = np.zeros((2, len(QUANTITIES), len(edges) - 1))
    RR = np.zeros(len(edges) - 1)
    numbers = np.zeros(3)
    for box, catalogue in enumerate(catalogues):
        weights = Weights.of(catalogue, theta)
        if factors is not None:
            if weights.borrowed.sum() > _FEW_BORROWED * weights.n_satellites.sum():
                share = weights.borrowed.sum() / weights.n_satellites.sum()
                raise ValueError(
                    f"{share:.2%} of the satellites are borrowed; with factors of orientations at most "
                    f"{_FEW_BORROWED:.2%} may be. Raise logM1, or compare with mocks."
                )
            weights = weights.oriented(*factors(catalogue))
        rng = np.random.default_rng([settings.seed, box])
        one += one_halo(weights, edges)[0] + borrowed_one_halo(weights, edges, settings, rng)
        two += two_halo(weights, edges, settings, rng)[0]
        # halotools normalises by the N^2 of each mock, whose expectation includes the variance of N.
        n_cen, n_sat = weights.central.sum(), weights.n_satellites.sum()
        variance = np.sum(weights.central * (1.0 - weights.central)) + n_sat
        RR += ((n_cen + n_sat) ** 2 + variance) * shell_volumes(edges) / catalogue.Lbox**3
        numbers += n_cen, n_sat, weights.borrowed.sum()
    sums = {name: torch.as_tensor(values)[None] for name, values in zip(QUANTITIES, one + two, strict=True)}
    n_cen, n_sat, n_borrowed = numbers
    total = PairSums(
        **sums,
        RR=torch.as_tensor(RR)[None],
        n_galaxies=torch.tensor([(n_cen + n_sat) / len(catalogues)], dtype=torch.float64),
        f_sat=torch.tensor([n_sat / (n_cen + n_sat)], dtype=torch.float64),
    )
    of_one, of_two = (dict(zip(QUANTITIES, values, strict=True)) for values in (one, two))
    return ExactSums(total, of_one, of_two, borrowed=float(n_borrowed / max(n_sat, 1e-300)))


@dataclass
class Weights:
    """Probabilities of hosts and sub-halos of one box to be occupied at one occupation.

    Attributes
    ----------
    catalogue : HaloCatalogue
        Halos of the box.
    central : (n_hosts,)
        <Ncen> of each host.
    n_satellites : (n_hosts,)
        <Nsat> of each host.
    satellite : (n_subhalos,)
        Probability of each sub-halo to have a satellite.
    borrowed, borrowed_pairs : (n_hosts,)
        Expected numbers of borrowed satellites of each host, and of pairs of them.
    central_axis, satellite_axis : (n_hosts, 3), (n_subhalos, 3)
        Axes of hosts and sub-halos, whose squared lengths are the weights of their orientations.
    """

    catalogue: HaloCatalogue
    central: np.ndarray
    n_satellites: np.ndarray
    satellite: np.ndarray
    borrowed: np.ndarray
    borrowed_pairs: np.ndarray
    central_axis: np.ndarray
    satellite_axis: np.ndarray

    def oriented(self, central: np.ndarray, satellite: np.ndarray) -> Weights:
        """Return the same with weights of orientations (n_hosts,) and (n_subhalos,); ValueError if one is negative."""
        lowest = min(np.min(central), np.min(satellite, initial=0.0))
        if lowest < 0:
            raise ValueError(f"A factor of orientations is {lowest:g}; the sums are known for factors of at least 0.")
        axes = (self.central_axis * np.sqrt(central)[:, None], self.satellite_axis * np.sqrt(satellite)[:, None])
        return replace(self, central_axis=axes[0], satellite_axis=axes[1])

    @property
    def n_galaxies(self) -> float:
        """Expected number of galaxies."""
        return float(self.central.sum() + self.n_satellites.sum())

    @classmethod
    def of(cls, catalogue: HaloCatalogue, theta: ArrayLike, borrow: bool = True) -> Weights:
        """Return the probabilities at the occupation parameters ``theta`` (5,); without borrowing if not ``borrow``."""
        logMmin, sigma_logM, logM0, logM1, alpha = as_theta(theta, OCCUPATION_PARAMETERS).double()
        log_mass = torch.as_tensor(catalogue.log_mass)
        n_sat = mean_nsat(log_mass, logM0, logM1, alpha)
        rank = torch.as_tensor(catalogue.subhalo_rank.astype(np.float64))
        tail = rank_probability(n_sat[torch.as_tensor(catalogue.subhalo_host)], rank)
        own = torch.as_tensor(catalogue.n_subhalos.astype(np.float64))
        borrowed, pairs = torch.zeros_like(n_sat), torch.zeros_like(n_sat)
        if borrow:
            borrowed, pairs = rank_tail_sums(n_sat, own + 1.0)
            # A pair of ranks k < l counts for l - 1 pairs; those with k <= n are not of two borrowed satellites.
            borrowed, pairs = borrowed.clamp(min=0.0), (pairs - own * borrowed).clamp(min=0.0)
        central = mean_ncen(log_mass, logMmin, sigma_logM)
        return cls(
            catalogue,
            central=central.numpy(),
            n_satellites=n_sat.numpy(),
            satellite=tail.numpy(),
            borrowed=borrowed.numpy(),
            borrowed_pairs=pairs.numpy(),
            central_axis=catalogue.axis,
            satellite_axis=radial(catalogue.offset),
        )


def one_halo(weights: Weights, r_edges: np.ndarray, region: np.ndarray | None = None, n_regions: int = 1) -> np.ndarray:
    """Sum the pairs within hosts, without those of borrowed satellites.

    Parameters
    ----------
    weights : Weights
        Probabilities of one box.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    region : (n_hosts,) int, optional
        Region of each host; by default all are in one.
    n_regions : int
        Number of regions.

    Returns
    -------
    (n_regions, 6, n_bins)
        Sums of :data:`iaemu_training.pairs.weighted.QUANTITIES`.
    """
    catalogue = weights.catalogue
    region = np.zeros(len(catalogue.mass), dtype=np.int64) if region is None else region
    out = np.zeros((N_BLOCKS, n_regions, len(QUANTITIES), len(r_edges) - 1))
    first = np.append(catalogue.first_subhalo, len(catalogue.offset))
    edges2, axes = np.asarray(r_edges) ** 2, (weights.satellite_axis, weights.central_axis)
    within_hosts(first, catalogue.offset, axes[0], weights.satellite, axes[1], weights.central, region, edges2, out)
    return out.sum(axis=0)


def borrowed_one_halo(
    weights: Weights, r_edges: np.ndarray, settings: ExactSettings, rng: np.random.Generator
) -> np.ndarray:
    """Sum the pairs of borrowed satellites within hosts, averaged over donors.

    Parameters
    ----------
    weights : Weights
        Probabilities of one box.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    settings : ExactSettings
        Number of pairs of satellites that are averaged; pairs with centrals are averaged over all donors.
    rng : numpy.random.Generator
        Chooses the donors.

    Returns
    -------
    (6, n_bins)
    """
    sums = np.zeros((len(QUANTITIES), len(r_edges) - 1))
    if weights.borrowed.sum() <= settings.dropped * weights.n_galaxies:
        return sums
    catalogue, donors, edges2 = weights.catalogue, Donors.of(weights.catalogue), np.asarray(r_edges) ** 2
    axis = radial(catalogue.offset)
    groups = len(donors.first) - 1
    group, number = donors.bin_of_host, np.diff(donors.first)
    # Pairs with the central.
    weight = weights.central * weights.borrowed
    mean = np.bincount(group, weight, groups) / np.maximum(number, 1)
    outer = catalogue.axis[:, :, None] * catalogue.axis[:, None, :] * weight[:, None, None]
    axes = np.stack([outer[group == g].sum(axis=0) for g in range(groups)]) / np.maximum(number, 1)[:, None, None]
    where = np.searchsorted(edges2, np.sum(catalogue.offset**2, axis=1)) - 1
    for g in np.flatnonzero(mean):
        members = donors.order[donors.first[g] : donors.first[g + 1]]
        members = members[(where[members] >= 0) & (where[members] < sums.shape[1])]
        count = np.bincount(where[members], minlength=sums.shape[1])
        a = axis[members]
        along = np.bincount(where[members], np.einsum("ki,ij,kj->k", a, axes[g], a), sums.shape[1])
        along = along - np.trace(axes[g]) / 3.0 * count
        # The axis of a satellite is along the separation.
        for row, values in ((0, 2.0 * mean[g] * count), (1, along), (2, mean[g] * 2.0 / 3.0 * count), (4, along)):
            sums[row] += values
    # Pairs with sub-halos of the host; and with each other, where every donor stands for the first of them.
    each = np.bincount(group, weights.borrowed_pairs, groups) / np.maximum(number, 1)
    weight = (weights.borrowed + each[group])[catalogue.subhalo_host]
    out = np.zeros((N_BLOCKS, 1, *sums.shape))
    group = group[catalogue.subhalo_host]
    draws = np.clip(np.ceil(weight * (settings.donor_pairs / weight.sum())), 1, number[group]).astype(np.int64)
    phase = rng.uniform(size=len(weight))
    satellites = np.concatenate([catalogue.offset, axis], axis=1)
    with_donors(satellites, weight, draws, group, phase, satellites[donors.order], donors.first, edges2, out)
    return sums + out.sum(axis=(0, 1))


def two_halo(
    weights: Weights,
    r_edges: np.ndarray,
    settings: ExactSettings | None = None,
    rng: np.random.Generator | None = None,
    region: np.ndarray | None = None,
    n_regions: int = 1,
) -> np.ndarray:
    """Sum the pairs of different hosts.

    Parameters
    ----------
    weights : Weights
        Probabilities of one box.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    settings : ExactSettings, optional
        How many galaxies may be left out, and how many borrowed ones are drawn.
    rng : numpy.random.Generator, optional
        Draws the borrowed satellites.
    region, n_regions
        See :func:`one_halo`.

    Returns
    -------
    (n_regions, 6, n_bins)
    """
    catalogue, Lbox = weights.catalogue, weights.catalogue.Lbox
    n_hosts, settings = len(catalogue.mass), settings or ExactSettings()
    borrower, donor, share = _draw_borrowed(
        weights, settings, np.random.default_rng(settings.seed) if rng is None else rng
    )
    weight = np.concatenate([weights.central, weights.satellite, share])
    keep = _relevant(weight, settings.dropped)
    host = np.concatenate([np.arange(n_hosts), catalogue.subhalo_host, borrower])[keep]
    offset = np.concatenate([np.zeros((n_hosts, 3)), catalogue.offset, catalogue.offset[donor]])[keep]
    position = np.mod(catalogue.position[host] + offset, Lbox)
    axis = np.concatenate([weights.central_axis, weights.satellite_axis, radial(catalogue.offset[donor])])[keep]
    kind = (keep >= n_hosts).astype(np.int64)
    region = np.zeros(n_hosts, dtype=np.int64) if region is None else region
    grid = CellGrid.build(position, Lbox, choose_cells(len(position), Lbox, float(r_edges[-1]), CELLS_PER_RADIUS))
    position, axis, weight, host, kind, region = (
        np.ascontiguousarray(values[grid.order]) for values in (position, axis, weight[keep], host, kind, region[host])
    )
    out = np.zeros((N_BLOCKS, n_regions, len(QUANTITIES), len(r_edges) - 1))
    between_hosts(position, axis, weight, host, kind, region, grid, *bin_lookup(r_edges), out)
    return out.sum(axis=0)


def _draw_borrowed(weights: Weights, settings: ExactSettings, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw borrowed satellites: the host and the donor of each, and how many satellites it stands for.

    Of a host they are drawn from equal parts of its donors, sorted by radius, so that they are spread like all donors.
    """
    donors = Donors.of(weights.catalogue)
    share = settings.dropped * weights.n_galaxies / max(weights.borrowed.sum(), 1e-300)
    hosts = _relevant(weights.borrowed, share)
    number = donors.number(donors.bin_of_host[hosts])
    expected = weights.borrowed[hosts]
    draws = np.clip(np.ceil(expected * (settings.draws / max(expected.sum(), 1e-300))), 1, number).astype(np.int64)
    part = np.arange(draws.sum()) - np.repeat(np.cumsum(draws) - draws, draws)
    where = ((part + rng.uniform(size=len(part))) * np.repeat(number / draws, draws)).astype(np.int64)
    borrower = np.repeat(hosts, draws)
    donor = donors.order[donors.first[donors.bin_of_host[borrower]] + where]
    return borrower, donor, np.repeat(expected / draws, draws)


def _relevant(weight: np.ndarray, dropped: float) -> np.ndarray:
    """Return the index of weights, ascending, without the smallest ones, whose share of the sum is ``dropped``."""
    order = np.argsort(weight)
    total = np.cumsum(weight[order])
    return np.sort(order[(total > dropped * total[-1]) & (weight[order] > 0)])

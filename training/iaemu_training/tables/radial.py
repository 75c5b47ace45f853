"""Where satellites are: the part of tables from which sums follow for strengths that depend on r / Rvir.

Only orientations of satellites are affected. What is kept are sums with the functions of :mod:`iaemu.halomodel.radial`:
for pairs of satellites of one host by host mass and <Nsat>, as in :mod:`iaemu_training.tables.one_halo`; for pairs of
different hosts between combinations of satellites by host mass and rank, and leading modes of <Ncen> and <Nsat>. Pairs
of a satellite with its own central need nothing but the virial radius.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import block_diag

from iaemu.halomodel.occupation import rank_probability
from iaemu.halomodel.radial import N_ONE, N_TWO, between_radii, strength_basis
from iaemu.models.radial import NEAR_COLUMNS
from iaemu.packing import pack_rows, pack_symmetric
from iaemu.parameters import Support
from iaemu.progress import tqdm
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.cells import CellGrid, choose_cells
from iaemu_training.pairs.radial import satellite_pairs, satellite_rows
from iaemu_training.pairs.tracers import CELLS_PER_RADIUS, bin_lookup, radial
from iaemu_training.tables.one_halo import MassNodes, spline_fit
from iaemu_training.tables.species import Resolution, Species, largest_mean_nsat, sample_occupations
from iaemu_training.tables.tracers import Donors
from iaemu_training.tables.two_halo import TwoHaloModes, occupation_sums

#: Distance of the nodes of host mass for pairs of satellites of one host [dex]. Only ratios to the number of pairs are
#: taken from them, which change little with mass.
_DLOG_MASS = 0.1

#: Bins of host mass and rank of the satellites in pairs of different hosts.
_RESOLUTION = Resolution(dlog_mass=0.1, nodes_per_bin=10, rank_root=0.6, rank_ratio=0.4, rank_tail=0.01)

#: Number of combinations of these bins that are kept, and of bins that are counted together.
N_COMBINATIONS, _ROWS = 20, 8

#: Beyond this separation [Mpc/h] about so many satellites of each species are used in pairs of different hosts; as
#: their partners, all are.
_THINNED_BEYOND, _ENOUGH = 5.0, 500


def scaled_radius(catalogue: HaloCatalogue, offset: np.ndarray, host: np.ndarray) -> np.ndarray:
    """Return the distances of satellites from the centres of their hosts, in units of the virial radius.

    Parameters
    ----------
    catalogue : HaloCatalogue
    offset : array (n, 3)
        Positions relative to the hosts [Mpc/h].
    host : array of int (n,)
        Host of each satellite.

    Returns
    -------
    array (n,)
    """
    return np.linalg.norm(offset, axis=1) / catalogue.virial_radius[host]


def radial_functions(catalogues: Sequence[HaloCatalogue]) -> dict[str, np.ndarray]:
    """Return the distribution of the sub-halos over the radii, and the functions that represent laws for it.

    Parameters
    ----------
    catalogues : sequence of HaloCatalogue

    Returns
    -------
    dict of "radial.profile" (n_radii,) and "radial.basis" (n_radii, N_ONE) to array
    """
    number = sum(between_radii(scaled_radius(c, c.offset, c.subhalo_host)).sum(axis=0) for c in catalogues)
    profile = number / np.sum(number)
    return {"radial.profile": profile, "radial.basis": strength_basis(profile)}


def near_tensors(
    catalogues: Sequence[HaloCatalogue],
    basis: np.ndarray,
    support: Support,
    nodes: MassNodes,
    r_edges: np.ndarray,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return the part for pairs within hosts.

    Parameters
    ----------
    catalogues : sequence of HaloCatalogue
    basis : array (n_radii, N_ONE)
        See :func:`radial_functions`.
    support : Support
    nodes : MassNodes
        Nodes of the one-halo tables.
    r_edges : array (n_bins + 1,)
        [Mpc/h]
    seed : int
        Seed of the borrowed satellites.

    Returns
    -------
    dict of str to array
    """
    coarse, edges2 = MassNodes(catalogues, support, _DLOG_MASS), np.asarray(r_edges) ** 2
    n_ranks = coarse.n_ranks[1:]  # of hosts between two nodes
    first = np.concatenate([[0], np.cumsum(n_ranks)])
    sums = np.zeros((2, first[-1], len(r_edges) - 1, NEAR_COLUMNS))
    for catalogue in catalogues:
        interval, fraction = coarse.place(catalogue.log_mass)
        host, index = _by_rank(catalogue, n_ranks[interval], np.random.default_rng(seed))
        offset = catalogue.offset[index]
        satellite_pairs(
            np.searchsorted(interval, np.arange(len(n_ranks) + 1)),
            n_ranks,
            offset,
            radial(offset),
            between_radii(scaled_radius(catalogue, offset, host)) @ basis,
            fraction,
            N_TWO,
            edges2,
            first[:-1],
            sums,
        )
    n_rows, values = [], []
    for node in range(len(coarse.log_mass)):
        parts = [(side, node - side) for side in (0, 1) if 0 <= node - side < len(n_ranks)]
        fit, nsat = spline_fit(float(coarse.largest[node]))
        total = np.zeros((len(nsat), *sums.shape[2:]))
        for side, k in parts:
            ranks = torch.arange(1, n_ranks[k] + 1, dtype=torch.float64)
            total += np.tensordot(
                rank_probability(nsat[:, None], ranks).numpy(), sums[side, first[k] : first[k + 1]], 1
            )
        n_rows.append(len(fit))
        values.append((fit @ (total.reshape(len(nsat), -1) / nsat.numpy()[:, None] ** 2)).reshape(-1, *sums.shape[2:]))
    table = np.concatenate(values)
    packed, n_bins = pack_rows(table)
    return {
        "radial.virial_radius": catalogues[0].virial_radius_of(10.0**nodes.log_mass),
        "radial.near_log_mass": coarse.log_mass.copy(),
        "radial.near_n_rows": np.asarray(n_rows, dtype=np.int32),
        "radial.near_n_bins": n_bins,
        **in_half("near_values", packed),
    }


def in_half(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return tensors for a file with values in half precision, which is more than the accuracy of these sums.

    Parameters
    ----------
    name : str
    values : array

    Returns
    -------
    dict of "radial.<name>" and "radial.<name>_scale" to array
    """
    scale = max(float(np.abs(values).max(initial=0.0)), 1e-30) / 3e4  # half precision ends at 65504
    return {f"radial.{name}": (values / scale).astype(np.float16), f"radial.{name}_scale": np.array([scale])}


def _by_rank(catalogue: HaloCatalogue, n_ranks: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return host and sub-halo of ``n_ranks`` satellites of each host, by rank; missing ones are borrowed at random."""
    donors = Donors.of(catalogue)
    host = np.repeat(np.arange(len(n_ranks)), n_ranks)
    rank = np.arange(len(host)) - np.repeat(np.cumsum(n_ranks) - n_ranks, n_ranks)
    index = catalogue.first_subhalo[host] + rank
    borrowed = rank >= catalogue.n_subhalos[host]
    coarse = donors.bin_of_host[host[borrowed]]
    pick = (rng.uniform(size=len(coarse)) * donors.number(coarse)).astype(np.int64)
    index[borrowed] = donors.order[donors.first[coarse] + pick]
    return host, index


class FarSums:
    """Sums over pairs of different hosts, of all catalogues that were added.

    Satellites whose orientations count are in species by host mass and rank, since the few that are occupied first are
    not like the others. As partners, galaxies are in groups by host mass.

    Parameters
    ----------
    catalogues : sequence of HaloCatalogue
    species : Species
        Species of the two-halo tables.
    modes : TwoHaloModes
    support : Support
    basis : array (n_radii, N_ONE)
        See :func:`radial_functions`.
    r_edges : array (n_bins + 1,)
        [Mpc/h]
    """

    def __init__(
        self,
        catalogues: Sequence[HaloCatalogue],
        species: Species,
        modes: TwoHaloModes,
        support: Support,
        basis: np.ndarray,
        r_edges: np.ndarray,
    ):
        self._support, self._basis, self._r_edges = support, basis, r_edges
        self._ranked = Species(catalogues, support, _RESOLUTION)
        _, group = np.unique(np.floor(species.log_mass("central") / _RESOLUTION.dlog_mass), return_inverse=True)
        self._group_of_bin, self._mass_bin = group, species.mass_bin
        n = self._n_groups = int(group.max()) + 1
        n_c, n_s, _ = modes.n_partners
        first = species.first_satellite
        by_bin = modes.partners[species.n_mass_bins + first, n_c : n_c + n_s] / modes.share[first][:, None]

        def coarse(values):  # the mean over hosts
            total = np.zeros((n, values.shape[1]))
            np.add.at(total, group, values * species.bin_count[:, None])
            return total / np.bincount(group, species.bin_count)[:, None]

        self._central, self._satellite = coarse(modes.partners[: species.n_mass_bins, :n_c]), coarse(by_bin)
        self._partners = block_diag(self._central, self._satellite)
        n_bins, n_species = len(r_edges) - 1, self._ranked.n_satellite
        self._omega = np.zeros((n_species, n_c + n_s, n_bins, N_ONE - 1))
        self._eta_central = np.zeros((n_species, n_c, n_bins, N_ONE - 1))
        self._eta_satellite = np.zeros((n_s, n_s, n_bins, N_TWO**2))

    def add(self, catalogue: HaloCatalogue, box: int, progress: bool) -> None:
        """Add the pairs of one catalogue.

        Parameters
        ----------
        catalogue : HaloCatalogue
        box : int
            Its number.
        progress : bool
            Show a progress bar.
        """
        n, Lbox, n_hosts, ranked = self._n_groups, catalogue.Lbox, len(catalogue.mass), self._ranked
        rank_bin = np.searchsorted(ranked.rank_edges, catalogue.subhalo_rank, side="right") - 1
        satellite = np.flatnonzero(rank_bin < ranked.n_rank_bins[ranked.mass_bin[box]][catalogue.subhalo_host])
        of_host = catalogue.subhalo_host[satellite]
        host = np.concatenate([np.arange(n_hosts), of_host]).astype(np.int32)
        offset = catalogue.offset[satellite]
        position = np.mod(catalogue.position[host] + np.concatenate([np.zeros((n_hosts, 3)), offset]), Lbox)
        axis = np.concatenate([catalogue.axis, radial(offset)]).astype(np.float32)
        basis = np.zeros((len(host), N_ONE))
        basis[n_hosts:] = between_radii(scaled_radius(catalogue, offset, of_host)) @ self._basis
        weight = np.concatenate([np.ones(n_hosts), self._share_of_ranks(catalogue)[satellite]])
        group = self._group_of_bin[self._mass_bin[box]][host] + n * (np.arange(len(host)) >= n_hosts)
        which = np.full(len(host), ranked.n_satellite)  # centrals come last, and are no rows
        which[n_hosts:] = ranked.first_satellite[ranked.mass_bin[box][of_host]] + rank_bin[satellite]
        grid = CellGrid.build(position, Lbox, choose_cells(len(host), Lbox, float(self._r_edges[-1]), CELLS_PER_RADIUS))
        position, axis, basis, weight, group, host, which = (
            np.ascontiguousarray(values[grid.order])
            for values in (position, axis, basis, weight, group.astype(np.int32), host, which)
        )
        by_species = np.argsort(which, kind="stable")
        by_species = by_species[: int(np.searchsorted(which[by_species], ranked.n_satellite))]
        where = int(np.searchsorted(self._r_edges, _THINNED_BEYOND))
        parts = [
            (slice(None, where + 1), slice(None, where), len(which)),
            (slice(where, None), slice(where, None), _ENOUGH),
        ]
        parts = [(edges, bins, most) for edges, bins, most in parts if len(self._r_edges[edges]) > 1]
        total = np.bincount(which, minlength=ranked.n_satellite + 1)[:-1]
        within = np.arange(len(by_species)) - np.repeat(np.cumsum(total) - total, total)
        arguments = (position, axis, basis, weight, group, host, n, N_TWO, grid)
        label = f"{catalogue.name}: satellites by radius"
        with tqdm(total=len(parts) * ranked.n_satellite, desc=label, disable=not progress, leave=False) as bar:
            for edges, bins, most in parts:
                points = by_species[within % np.repeat(np.maximum(total // most, 1), total) == 0]
                number = np.bincount(which[points], minlength=ranked.n_satellite)
                first = np.concatenate([[0], np.cumsum(number)])
                share = np.bincount(which[points], weight[points], ranked.n_satellite) / np.maximum(number, 1)
                stands_for = (total / np.maximum(number, 1))[:, None, None, None]
                # Rows with the same amount of work are in one chunk, so that all threads finish it at the same time.
                rows = np.argsort(-number, kind="stable")
                lookup = bin_lookup(self._r_edges[edges])
                for start in range(0, len(rows), _ROWS):
                    part = rows[start : start + _ROWS]
                    if number[part].any():
                        out = np.zeros((len(part), 2 * n, len(lookup[0]) - 1, N_ONE - 1 + max(N_ONE - 1, N_TWO**2)))
                        satellite_rows(part, first, points, *arguments, *lookup, out)
                        self._project(part, bins, stands_for[part] * out, share[part])
                    bar.update(len(part))

    def _share_of_ranks(self, catalogue: HaloCatalogue) -> np.ndarray:
        """Return which fraction of <Nsat> of its host each sub-halo has, in hosts with many satellites.

        The few first ranks alone would be noisy. Borrowed satellites are rare except at the edge of the supported
        region: the sub-halos stand for them.
        """
        host = catalogue.subhalo_host
        nsat = torch.as_tensor(0.25 * largest_mean_nsat(catalogue.log_mass, self._support))
        share = rank_probability(nsat[host], torch.as_tensor(catalogue.subhalo_rank.astype(np.float64))).numpy()
        return share / np.maximum(np.bincount(host, share, len(catalogue.mass)), 1e-300)[host]

    def _project(self, rows: np.ndarray, bins: slice, sums: np.ndarray, share: np.ndarray) -> None:
        """Add sums of species with groups, (n_rows, 2 n_groups, n_bins, n_columns)."""
        n = self._n_groups
        omega, eta = sums[..., : N_ONE - 1], sums[..., N_ONE - 1 :]
        self._omega[rows, :, bins] += np.einsum("rgbk,gp->rpbk", omega, self._partners, optimize=True)
        central = eta[:, :n, :, : N_ONE - 1]
        self._eta_central[rows, :, bins] += np.einsum("rgbk,gp->rpbk", central, self._central, optimize=True)
        mine = share[:, None] * self._satellite[self._ranked.satellite_bin[rows]]
        satellite = eta[:, n:, :, : N_TWO**2]
        found = np.einsum("rs,rgbk,gt->stbk", mine, satellite, self._satellite, optimize=True)
        self._eta_satellite[:, :, bins] += found

    def tensors(self, nodes: MassNodes, n_samples: int, seed: int) -> dict[str, np.ndarray]:
        """Return the sums between principal combinations of the species and leading modes of all galaxies.

        Parameters
        ----------
        nodes : MassNodes
            Mass nodes at which the combinations are kept as functions of <Nsat>.
        n_samples : int
            Number of points of the supported region at which the combinations are found.
        seed : int
            Seed of the points.

        Returns
        -------
        dict of str to array
        """
        ranked = self._ranked
        root = np.sqrt(ranked.count("satellite"))
        scaled = sample_occupations(ranked, "satellite", self._support, n_samples, seed) * root
        norm = np.linalg.norm(scaled, axis=1, keepdims=True)
        scaled = np.divide(scaled, norm, out=np.zeros_like(scaled), where=norm > 0)
        _, _, vectors = np.linalg.svd(scaled, full_matrices=False)
        vectors = vectors[: min(N_COMBINATIONS, len(vectors))].T
        sums = occupation_sums(ranked, nodes, vectors * root[:, None])
        n = N_TWO * len(self._eta_satellite)
        both = self._eta_satellite.reshape(*self._eta_satellite.shape[:3], N_TWO, N_TWO)
        both = np.transpose(both, (2, 3, 0, 4, 1)).reshape(-1, n, n)
        tensors: dict[str, np.ndarray] = {
            "radial.far_log_mass": nodes.log_mass.copy(),
            "radial.far_n_rows": sums.n_rows.astype(np.int32),
        }
        tensors |= in_half("far_values", sums.values.numpy()) | in_half("far_eta_satellite", pack_symmetric(both))
        for name, counted in (("omega", self._omega), ("eta_central", self._eta_central)):
            found = np.einsum("sc,spbk->kcpb", vectors / root[:, None], counted, optimize=True)
            tensors |= in_half(f"far_{name}", found)
        return tensors

"""Pairs in different hosts, compressed to modes of the mean occupations and to responses to the ranks of satellites.

The sums over pairs of species form a (species x species) matrix, which is never in memory as a whole: its rows are
counted, projected, and discarded. Pairs depend mostly on the numbers of centrals and satellites by host mass, which
are kept to high accuracy as modes. On the ranks of the satellites, at a given number, they depend by a few per cent, in
as many ways as there are hosts near each other. So what the ranks add is kept as its own linear response: principal
combinations of the sums in all bins, for a few modes of the other member of the pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import block_diag

from iaemu.halomodel.occupation import rank_tail_sums
from iaemu.halomodel.rank_sums import RankSums
from iaemu.models.tables import RANK_PARTS, TabulatedModel
from iaemu.parameters import OCCUPATION_PARAMETERS, Support
from iaemu.progress import tqdm
from iaemu_training.pairs.cells import CellGrid, choose_cells
from iaemu_training.pairs.tracers import CELLS_PER_RADIUS, bin_lookup, two_halo_rows
from iaemu_training.tables.one_halo import MassNodes, spline_fit
from iaemu_training.tables.species import Species, exact_modes, sample_occupations, sample_points
from iaemu_training.tables.tracers import Tracers

#: Bins with fewer expected pairs matter less.
_MIN_PAIRS = 10.0


@dataclass
class TwoHaloModes:
    """Modes of the occupations of all species, and the samples that they were found from.

    Attributes
    ----------
    main : (n_species, n_main)
        Modes of <Ncen>, then of <Nsat> spread over the ranks as in the mean of the samples.
    partners : (n_species, n_partners)
        Leading modes of <Ncen> and of <Nsat>, and of the difference that the ranks make.
    central, satellite : (n_nodes, n_modes)
        Convert <Ncen> and <Nsat> at the mass nodes of the species to amplitudes of the main modes.
    n_partners : (int, int, int)
        Numbers of partners of the three kinds.
    share : (n_satellite,)
        What fraction of <Nsat> of its mass bin one rank of a species has in the mean of the samples.
    theta : (n_samples, 5)
        Occupation parameters of the samples.
    ranks : (n_samples, n_satellite)
        Occupation of each species of the samples, minus that for the mean ranks.
    """

    main: np.ndarray
    partners: np.ndarray
    central: np.ndarray
    satellite: np.ndarray
    n_partners: tuple[int, int, int]
    share: np.ndarray
    theta: np.ndarray
    ranks: np.ndarray

    @classmethod
    def find(
        cls,
        species: Species,
        support: Support,
        n_modes: tuple[int, int],
        n_partners: tuple[int, int, int],
        n_samples: int,
        seed: int,
    ) -> TwoHaloModes:
        """Find the modes in samples of the supported region."""
        samples = (support, n_samples, seed)
        central, to_central = exact_modes(
            sample_occupations(species, "central", *samples),
            species.bin_count,
            species.log_mass("central"),
            n_modes[0],
        )
        occupation = sample_occupations(species, "satellite", *samples)
        width = species.ranks("satellite")
        total = np.add.reduceat(occupation * width, species.first_satellite, axis=1)
        by_bin = total[:, species.satellite_bin]
        share = np.divide(occupation, by_bin, out=np.zeros_like(occupation), where=by_bin > 0).sum(axis=0)
        share /= np.add.reduceat(share * width, species.first_satellite)[species.satellite_bin]
        satellite, to_satellite = exact_modes(total, species.bin_count, species.log_mass("central"), n_modes[1])
        ranks = occupation - by_bin * share
        root = np.sqrt(species.count("satellite"))
        norm = np.linalg.norm(occupation * root, axis=1, keepdims=True)
        scaled = np.divide(ranks * root, norm, out=np.zeros_like(ranks), where=norm > 0)
        values, vectors = np.linalg.eigh(scaled @ scaled.T)
        rank = (scaled.T @ vectors[:, ::-1][:, : n_partners[2]]) / np.sqrt(values[::-1][: n_partners[2]])
        satellite = satellite[species.satellite_bin] * share[:, None]
        partners = np.concatenate([satellite[:, : n_partners[1]], rank / root[:, None]], axis=1)
        return cls(
            block_diag(central, satellite),
            block_diag(central[:, : n_partners[0]], partners),
            species.node_share[:, None] * to_central[species.node_bin],
            species.node_share[:, None] * to_satellite[species.node_bin],
            n_partners,
            share,
            sample_points(*samples)[0][:, -len(OCCUPATION_PARAMETERS) :],
            ranks,
        )

    def to_rank_partners(self, species: Species) -> np.ndarray:
        """Return the matrix that converts the rank part of occupations to amplitudes, (n_satellite, n)."""
        n = self.n_partners[2]
        return self.partners[species.n_mass_bins :, -n:] * species.count("satellite")[:, None]


class TwoHaloSums:
    """Sums over pairs in different hosts, of all catalogues that were added.

    Attributes
    ----------
    main : (3, n_bins, n_main, n_main)
        DD, S_omega (axis of the first) and S_eta between the main modes.
    response : (n_satellite, 4, n_partners, n_bins)
        The parts ``RANK_PARTS`` of the sums of each satellite species with the partners.
    """

    def __init__(self, species: Species, modes: TwoHaloModes, r_edges: np.ndarray):
        self.species, self.modes, self.r_edges = species, modes, r_edges
        n_bins, n_main, n_partners = len(r_edges) - 1, modes.main.shape[1], modes.partners.shape[1]
        self.main = np.zeros((3, n_bins, n_main, n_main))
        self._with_axis = np.zeros((species.n_satellite, n_partners, n_bins))
        self._columns = np.zeros((n_partners, len(modes.main), n_bins, 3))

    @property
    def response(self) -> np.ndarray:
        columns = self._columns[:, self.species.n_mass_bins :]  # (partner, species, bin, sum)
        parts = {
            "DD": columns[..., 0].swapaxes(0, 1),
            "own_axis": self._with_axis,
            "partner_axis": columns[..., 1].swapaxes(0, 1),
            "S_eta": columns[..., 2].swapaxes(0, 1),
        }
        return np.stack([parts[name] for name in RANK_PARTS], axis=1)

    def add(self, tracers: Tracers, mass_bin: np.ndarray, progress: bool) -> None:
        """Add all pairs of tracers of one catalogue."""
        catalogue, species, r_edges = tracers.catalogue, self.species, self.r_edges
        Lbox = catalogue.Lbox
        position = np.concatenate([catalogue.position, np.mod(catalogue.position[tracers.host] + tracers.offset, Lbox)])
        axis = np.concatenate([catalogue.axis, tracers.axis]).astype(np.float32)
        multiplicity = np.concatenate([np.ones(len(catalogue.mass)), tracers.multiplicity]).astype(np.float32)
        which = np.concatenate(
            [mass_bin, species.n_mass_bins + species.first_satellite[mass_bin[tracers.host]] + tracers.rank_bin]
        ).astype(np.int32)
        host = np.concatenate([np.arange(len(catalogue.mass)), tracers.host]).astype(np.int32)
        n_cells = choose_cells(len(position), Lbox, float(r_edges[-1]), CELLS_PER_RADIUS)
        grid = CellGrid.build(position, Lbox, n_cells)
        position, axis, multiplicity, which, host = (
            np.ascontiguousarray(x[grid.order]) for x in (position, axis, multiplicity, which, host)
        )
        n_species, n_bins = len(self.modes.main), len(r_edges) - 1
        row_points = np.argsort(which, kind="stable")
        row_first = np.searchsorted(which[row_points], np.arange(n_species + 1))
        edges2, guess = bin_lookup(r_edges)
        # Rows with the same amount of work are in one chunk, so that all threads finish it at the same time.
        rows = np.argsort(-np.diff(row_first), kind="stable")
        rows = rows[np.diff(row_first)[rows] > 0]
        chunk = max(2, int(2.5e8 / (8 * 3 * n_bins * n_species)))
        out = np.empty((chunk, n_species, n_bins, 3))
        label = f"{catalogue.name}: pairs"
        with tqdm(
            total=len(position), desc=label, unit="tracer", disable=not progress, unit_scale=True, leave=False
        ) as bar:
            for start in range(0, len(rows), chunk):
                part = rows[start : start + chunk]
                two_halo_rows(
                    part, row_first, row_points, position, axis, multiplicity, which, host, grid, edges2, guess, out
                )  # fmt: skip
                self._project(part, out[: len(part)])
                bar.update(int(np.diff(row_first)[part].sum()))

    def _project(self, rows: np.ndarray, sums: np.ndarray) -> None:
        """Add the sums (n_rows, n_species, n_bins, 3) of some species with all species."""
        main, partners, n_bins = self.modes.main, self.modes.partners, sums.shape[2]
        flat = sums.reshape(*sums.shape[:2], -1)
        # (mode, species) @ (row, species, bin and sum), in the order of the memory: a copy would double the time. Modes
        # of centrals and of satellites do not mix.
        n_mass, n_central = self.species.n_mass_bins, self.modes.central.shape[1]
        blocks = (slice(None, n_mass), slice(None, n_central)), (slice(n_mass, None), slice(n_central, None))
        projected = np.concatenate([main[block].T @ flat[:, block[0]] for block in blocks], axis=1)
        total = np.tensordot(main[rows], projected, axes=(0, 0)).reshape(*main.shape[1:] * 2, n_bins, 3)
        self.main += np.moveaxis(total, (3, 2), (0, 1))
        self._columns += np.tensordot(partners[rows].T, flat, 1).reshape(self._columns.shape)
        satellite = rows >= self.species.n_mass_bins
        if satellite.any():
            omega = np.ascontiguousarray(sums[satellite, :, :, 1])
            self._with_axis[rows[satellite] - self.species.n_mass_bins] += partners.T @ omega

    def rank_response(self, nodes: MassNodes, scale: np.ndarray, n_combinations: int) -> tuple[RankSums, np.ndarray]:
        """Return what the ranks of the satellites add to the sums, for principal combinations of them.

        Parameters
        ----------
        nodes : MassNodes
            Mass nodes at which the dependence on the ranks is kept.
        scale : (n_samples, 4, n_partners, n_bins)
            How much each sum matters at each sample: the error of a prediction relative to the error of the sum.
        n_combinations : int
            Number of combinations to keep.

        Returns
        -------
        ranks : RankSums
            Columns are the combinations, then the amplitudes of the rank partners.
        response : (n_combinations, 4, n_partners, n_bins)
            The sums with the partners are the combinations, times this.
        """
        response = self.response
        shape, flat = response.shape[1:], response.reshape(len(response), -1)
        # A sample and a sum have one weight each, the best product for all pairs of them.
        logs = np.log(np.maximum(scale.reshape(len(scale), -1), 1e-300))
        by_sum = np.exp(np.median(logs, axis=0))
        by_sample = np.exp(np.median(logs - np.log(by_sum), axis=1))
        values = by_sample[:, None] * (self.modes.ranks @ (flat * by_sum))
        eigenvalues, vectors = np.linalg.eigh(values @ values.T)
        order = np.argsort(eigenvalues)[::-1][:n_combinations]
        directions = (values.T @ vectors[:, order]) / np.sqrt(np.maximum(eigenvalues[order], 1e-300))
        functional = (flat * by_sum) @ directions
        functional = np.concatenate([functional, self.modes.to_rank_partners(self.species)], axis=1)
        return self.rank_sums(nodes, functional), (directions / by_sum[:, None]).T.reshape(-1, *shape)

    def rank_sums(self, nodes: MassNodes, functional: np.ndarray) -> RankSums:
        """Return sums over the satellite species of the rank part of their occupations times ``functional``.

        Parameters
        ----------
        nodes : MassNodes
        functional : array (n_satellite, n_columns)

        Returns
        -------
        RankSums
        """
        species = self.species
        mean = np.add.reduceat(functional * self.modes.share[:, None], species.first_satellite)
        return occupation_sums(species, nodes, functional, mean)


def occupation_sums(
    species: Species, nodes: MassNodes, functional: np.ndarray, mean: np.ndarray | None = None
) -> RankSums:
    """Return sums over the satellite species of their occupations times ``functional``, at mass nodes.

    Parameters
    ----------
    species : Species
    nodes : MassNodes
    functional : array (n_satellite, n_columns)
    mean : array (n_mass_bins, n_columns), optional
        Is subtracted for each satellite of a mass bin.

    Returns
    -------
    RankSums
    """
    width = species.ranks("satellite")
    below, fraction = nodes.place(species.log_mass("central"))
    mean = np.zeros((species.n_mass_bins, functional.shape[1])) if mean is None else mean
    n_rows, values = [], []
    for node in range(len(nodes.log_mass)):
        fit, nsat = spline_fit(float(nodes.largest[node]))
        total = np.zeros((len(nsat), functional.shape[1]))
        for bins, weight in ((below == node, 1.0 - fraction), (below == node - 1, fraction)):
            for k in np.flatnonzero(bins):
                part = slice(species.first_satellite[k], species.first_satellite[k] + species.n_rank_bins[k])
                tail, _ = rank_tail_sums(nsat[:, None], torch.as_tensor(species.rank_first[part].astype(float)))
                beyond = np.pad(tail.numpy(), ((0, 0), (0, 1)))
                occupation = (beyond[:, :-1] - beyond[:, 1:]) / width[part]
                total += weight[k] * (occupation @ functional[part] - nsat.numpy()[:, None] * mean[k])
        n_rows.append(len(fit))
        values.append(fit @ (total / nsat.numpy()[:, None]))
    return RankSums(nodes.log_mass, n_rows, np.concatenate(values), 1)


def importance(model: TabulatedModel, modes: TwoHaloModes) -> np.ndarray:
    """Return how much the response of each sum to the ranks matters at each sample.

    Parameters
    ----------
    model : TabulatedModel
        Tables without that response.
    modes : TwoHaloModes

    Returns
    -------
    array (n_samples, 4, n_partners, n_bins)
        The change of DD relative to DD, and of the other sums relative to the rms over bins of omega or eta for
        perfect alignment, for a unit response.
    """
    parts = []
    for theta in torch.as_tensor(modes.theta).split(64):
        sums = model.sums(theta)
        pairs = sums.DD.clamp(min=_MIN_PAIRS)
        omega = ((sums.A_c + sums.A_s) / pairs).square().mean(dim=1).sqrt()
        eta = ((sums.E_cc + 2.0 * sums.E_cs + sums.E_ss) / pairs).square().mean(dim=1).sqrt()
        weight = torch.stack([torch.full_like(omega, 2.0), 1.0 / omega, 1.0 / omega, 2.0 / eta], dim=1)
        partners = model.partner_amplitudes(theta).abs()
        parts.append((weight[:, :, None] * partners[:, None])[..., None] / pairs[:, None, None])
    return torch.cat(parts).numpy()

"""Tables from halo catalogues: expected pair sums by host mass and sub-halo rank, compressed.

The two-halo sums form a (species x species) matrix, which is never in memory as a whole: its rows are counted,
projected on modes of the occupations in the supported region, and discarded. So the bins of mass and rank can be fine,
memory is limited, and the shipped tables have a few MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import block_diag

from iaemu import __version__
from iaemu.binning import PAPER_EDGES, TNG_EDGES, check_edges, union_edges
from iaemu.halomodel.modes import Occupations
from iaemu.models.tables import ONE_HALO_COLUMNS, TabulatedModel, pack_one_halo, pack_symmetric
from iaemu.parameters import Support
from iaemu.progress import tqdm
from iaemu.ranges import Range, Seed, check_fields
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue
from iaemu_training.pairs.cells import CellGrid, choose_cells
from iaemu_training.pairs.tracers import (
    CELLS_PER_RADIUS,
    bin_lookup,
    donor_pair_sums,
    one_halo_sums,
    radial,
    two_halo_rows,
)
from iaemu_training.tables.species import Resolution, Species, central_modes, satellite_modes
from iaemu_training.tables.tracers import Donors, Tracers, borrowers, build_tracers


@dataclass(frozen=True)
class TabulationSettings:
    """Resolution of the tables.

    Attributes
    ----------
    one_halo : Resolution
        Bins of host mass and sub-halo rank for pairs within a host.
    two_halo : Resolution
        Bins of host mass and sub-halo rank for pairs of different hosts; their rank bins are coarser, since rank
        matters less.
    n_central : int
        Number of modes of <Ncen> for two-halo pairs.
    n_satellite : int
        Number of modes of <Nsat> for two-halo pairs.
    n_rank : int
        Number of modes of the dependence on rank for two-halo pairs.
    mode_samples : int
        Number of quasi-random points of the supported region to which the modes are fitted.
    max_draws : int
        Largest number of borrowed satellites drawn for each host and rank bin.
    seed : int
        Seed of the borrowed satellites and of the points.
    """

    one_halo: Resolution = field(default_factory=lambda: Resolution(rank_ratio=0.1))
    two_halo: Resolution = field(default_factory=lambda: Resolution(dlog_mass=0.01, nodes_per_bin=1))
    n_central: Annotated[int, Range(at_least=2, at_most=1000)] = 72
    n_satellite: Annotated[int, Range(at_least=2, at_most=1000)] = 56
    n_rank: Annotated[int, Range(at_least=1, at_most=1000)] = 56
    mode_samples: Annotated[int, Range(at_least=2, at_most=2**17)] = 2048
    max_draws: Annotated[int, Range(at_least=1, at_most=10_000)] = 16
    seed: Seed = 1

    def __post_init__(self):
        check_fields(self)


def tabulate(
    catalogues: Sequence[HaloCatalogue],
    support: Support,
    r_edges: ArrayLike | None = None,
    settings: TabulationSettings | None = None,
    progress: bool = True,
    metadata: dict | None = None,
) -> TabulatedModel:
    """Tabulate the expected pair sums of one or more catalogues, added over all boxes.

    Parameters
    ----------
    catalogues : sequence of HaloCatalogue
        Boxes of the same cosmology and redshift.
    support : Support
        The supported region of the tables. It determines the ranks and the modes that they hold.
    r_edges : (n_bins + 1,), optional
        Edges of the radial bins [Mpc/h]; by default the union of the paper's and of TNG300's. The tables then predict
        in any bins whose edges are all among these.
    settings : TabulationSettings, optional
        Resolution of the tables.
    progress : bool
        Show progress bars.
    metadata : dict, optional
        Further entries of the metadata of the tables.

    Returns
    -------
    TabulatedModel

    Raises
    ------
    CatalogueError
        A box is smaller than twice the largest separation, has fewer than two sub-halos, or differs from the others in
        redshift or cosmology.
    """
    settings = settings or TabulationSettings()
    r_edges = union_edges(PAPER_EDGES, TNG_EDGES) if r_edges is None else check_edges(r_edges)
    _check_boxes(catalogues, float(r_edges[-1]))
    stages = tqdm(total=2 + 2 * len(catalogues), desc="modes of centrals", unit="stage", disable=not progress)
    near, far = Species(catalogues, support, settings.one_halo), Species(catalogues, support, settings.two_halo)
    samples = (settings.mode_samples, settings.seed)
    central = central_modes(far, support, settings.n_central, *samples)
    _next_stage(stages, "modes of satellites")
    total, rank = satellite_modes(far, support, settings.n_satellite, settings.n_rank, *samples)
    basis = block_diag(central.basis, np.concatenate([total.basis, rank.basis], axis=1))

    n_bins = len(r_edges) - 1
    two_halo = np.zeros((3, n_bins, basis.shape[1], basis.shape[1]))
    # Within a mass bin the occupation is taken as linear in log mass m: sums over hosts of t and of (m - mean m) t.
    one_halo = np.zeros((2, near.n_satellite, n_bins, len(ONE_HALO_COLUMNS)))
    for box, catalogue in enumerate(catalogues):
        draws = (settings.max_draws, settings.seed)
        _next_stage(stages, f"{catalogue.name}: one-halo pairs")
        donors = Donors.of(catalogue)
        tracers = build_tracers(catalogue, near, near.mass_bin[box], donors, *draws)
        distance = catalogue.log_mass - near.log_mass("central")[near.mass_bin[box]]
        for sums, host_weight in zip(one_halo, (np.ones_like(distance), distance), strict=True):
            _add_one_halo(tracers, near, host_weight, r_edges, sums)
            _add_borrowed_pairs(catalogue, near, near.mass_bin[box], host_weight, donors, r_edges, sums)
        _next_stage(stages, f"{catalogue.name}: two-halo pairs")
        tracers = build_tracers(catalogue, far, far.mass_bin[box], donors, *draws)
        _add_two_halo(tracers, far, far.mass_bin[box], r_edges, basis, two_halo, progress)
    _next_stage(stages, "tables")
    stages.close()
    blocks = {
        "central": central.occupation,
        "satellite": total.occupation,
        "satellite_rank": rank.occupation,
        "central_satellite": near.occupation("central_satellite"),
        "satellite_pair": near.occupation("satellite_pair"),
        "central_satellite_slope": near.occupation("central_satellite", slope=True),
        "satellite_pair_slope": near.occupation("satellite_pair", slope=True),
    }
    tensors = {
        "r_edges": r_edges,
        "node_log_mass": near.node_log_mass,
        "node_count": near.node_count.astype(np.int32),
        **Occupations(blocks).to_arrays(),
        # Single precision (6e-8 of each number) is far more than the accuracy of the tables, at half the size.
        "two_halo_DD": pack_symmetric(two_halo[0]).astype(np.float32),
        "two_halo_S_omega": two_halo[1].astype(np.float32),
        "two_halo_S_eta": pack_symmetric(two_halo[2]).astype(np.float32),
        **pack_one_halo(one_halo),
    }
    return TabulatedModel(tensors, {**_metadata(catalogues, support, settings), **(metadata or {})})


def _check_boxes(catalogues: Sequence[HaloCatalogue], r_max: float) -> None:
    for catalogue in catalogues:
        if catalogue.Lbox < 2.0 * r_max:
            raise CatalogueError(
                f"Catalogue {catalogue.name}: pairs up to {r_max:g} Mpc/h cannot be counted in a periodic box of "
                f"{catalogue.Lbox:g} Mpc/h. The box must be at least twice the largest separation."
            )
    for key in ("redshift", "cosmology"):
        values = {str(catalogue.attributes.get(key)) for catalogue in catalogues}
        if len(values) > 1:
            raise CatalogueError(
                f"Catalogues {', '.join(c.name for c in catalogues)} differ in {key} ({'; '.join(sorted(values))}). "
                "Use boxes of the same cosmology and redshift."
            )


def _metadata(catalogues: Sequence[HaloCatalogue], support: Support, settings: TabulationSettings) -> dict:
    return {
        "catalogues": [c.name for c in catalogues],
        "catalogue_sha256": [c.sha256 for c in catalogues],
        "catalogue_attributes": [c.attributes for c in catalogues],
        "cosmology": catalogues[0].attributes.get("cosmology", "not stated by the catalogue"),
        "redshift": catalogues[0].attributes.get("redshift", 0.0),
        "box_sizes": [c.Lbox for c in catalogues],
        "box_volumes": [c.Lbox**3 for c in catalogues],
        "support": support.to_dict(),
        "settings": asdict(settings),
        "units": "lengths Mpc/h, masses Msun/h; pair sums over ordered pairs of all boxes together",
        "made_by": f"iaemu-train tabulate {__version__}",
    }


def _next_stage(stages, name: str) -> None:
    stages.update()
    stages.set_description(name)


def _add_one_halo(tracers: Tracers, species: Species, host_weight, r_edges, one_halo) -> None:
    n_hosts = len(tracers.catalogue.mass)
    one_halo_sums(
        tracers.bin_first,
        np.searchsorted(tracers.host, np.arange(n_hosts + 1)),
        tracers.offset,
        tracers.axis,
        tracers.catalogue.axis,
        tracers.multiplicity,
        tracers.rank_bin,
        tracers.virtual,
        host_weight,
        np.asarray(r_edges) ** 2,
        species.first_satellite,
        one_halo,
    )


#: Largest number of donors of a coarse mass bin for the pair sums of borrowed satellites. Of more donors a random
#: subset, always the same, is used: it has 1.8e7 pairs, whose shot noise is far below that of any mock.
_MAX_PAIRED_DONORS = 6000


def _add_borrowed_pairs(catalogue, species: Species, mass_bin, host_weight, donors: Donors, r_edges, one_halo) -> None:
    """Add the pairs of borrowed satellites with the central and with each other, averaged over all donors."""
    edges2 = np.asarray(r_edges) ** 2
    n_bins = len(edges2) - 1
    groups = len(donors.first) - 1
    shape = (species.n_satellite, groups)
    satellites, pairs = np.zeros(shape), np.zeros(shape)
    axes = np.zeros((*shape, 3, 3))
    for k, hosts, missing, lower in borrowers(catalogue, species, mass_bin):
        where = (species.first_satellite[mass_bin[hosts]] + k, donors.bin_of_host[hosts])
        weight = host_weight[hosts]
        np.add.at(satellites, where, weight * missing)
        np.add.at(pairs, where, weight * (missing * lower + missing * (missing - 1) // 2))
        outer = catalogue.axis[hosts, :, None] * catalogue.axis[hosts, None, :]
        np.add.at(axes, where, (weight * missing)[:, None, None] * outer)
    for group in np.flatnonzero(satellites.any(axis=0)):
        members = donors.order[donors.first[group] : donors.first[group + 1]]
        offset = catalogue.offset[members]
        axis = radial(offset)
        r2 = np.sum(offset**2, axis=1)
        where = np.searchsorted(edges2, r2) - 1
        inside = (where >= 0) & (where < n_bins)
        tensor = np.zeros((n_bins, 3, 3))
        quadrupole = axis[:, :, None] * axis[:, None, :] - np.eye(3) * (np.sum(axis**2, axis=1)[:, None, None] / 3.0)
        np.add.at(tensor, where[inside], quadrupole[inside])
        count = np.bincount(where[inside], minlength=n_bins)
        along = np.einsum("sij,bij->sb", axes[:, group], tensor) / len(members)
        number = satellites[:, group, None] / len(members)
        one_halo[:, :, 0] += 2.0 * number * count
        one_halo[:, :, 1] += along
        one_halo[:, :, 2] += 2.0 * along

        n_paired = min(len(members), _MAX_PAIRED_DONORS)
        if n_paired < len(members):
            chosen = np.random.default_rng(0).choice(len(members), n_paired, replace=False)
            offset, axis = offset[chosen], axis[chosen]
        sums = donor_pair_sums(offset, axis, edges2).sum(axis=0)
        # Two borrowed satellites have the same donor with probability 1 / donors, and are then no pair.
        mean = sums * ((1.0 - 1.0 / len(members)) / (n_paired * (n_paired - 1.0)))
        one_halo[:, :, 3:] += 2.0 * pairs[:, group, None, None] * mean


def _add_two_halo(tracers, species, mass_bin, r_edges, basis, two_halo, progress) -> None:
    catalogue = tracers.catalogue
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
    n_species = len(basis)
    row_points = np.argsort(which, kind="stable")
    row_first = np.searchsorted(which[row_points], np.arange(n_species + 1))
    edges2, guess = bin_lookup(r_edges)
    n_bins = len(r_edges) - 1
    # Rows with the same amount of work are in one chunk, so that all threads finish it at the same time.
    rows = np.argsort(-np.diff(row_first), kind="stable")
    rows = rows[np.diff(row_first)[rows] > 0]
    chunk = max(2, int(2.5e8 / (8 * 3 * n_bins * n_species)))
    out = np.empty((chunk, n_species, n_bins, 3))
    with tqdm(
        total=len(position),
        desc=f"{catalogue.name}: pairs",
        unit="tracer",
        disable=not progress,
        unit_scale=True,
        leave=False,
    ) as bar:
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            two_halo_rows(
                part, row_first, row_points, position, axis, multiplicity, which, host, grid, edges2, guess, out
            )  # fmt: skip
            # (mode, species) @ (row, species, bin and stat), in the order of the memory: a copy would double the time.
            projected = basis.T @ out[: len(part)].reshape(len(part), n_species, -1)  # (row, mode, bin and stat)
            sums = np.tensordot(basis[part], projected, axes=(0, 0)).reshape(*basis.shape[1:] * 2, n_bins, 3)
            two_halo += np.moveaxis(sums, (3, 2), (0, 1))
            bar.update(int(np.diff(row_first)[part].sum()))

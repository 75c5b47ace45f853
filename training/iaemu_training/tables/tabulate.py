"""Tables from halo catalogues: expected pair sums by host mass and <Nsat>, compressed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu import __version__
from iaemu.binning import check_edges, make_nodes
from iaemu.halomodel.rank_sums import RankSums
from iaemu.models.tables import TabulatedModel
from iaemu.packing import pack_rows, pack_symmetric
from iaemu.parameters import Support
from iaemu.progress import tqdm
from iaemu.ranges import Range, Seed, check_fields
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue
from iaemu_training.tables.one_halo import MassNodes, one_halo_tables
from iaemu_training.tables.radial import FarSums, near_tensors, radial_functions
from iaemu_training.tables.species import Resolution, Species
from iaemu_training.tables.tracers import Donors, build_tracers
from iaemu_training.tables.two_halo import TwoHaloModes, TwoHaloSums, importance

_Count = Annotated[int, Range(at_least=1, at_most=1000)]


@dataclass(frozen=True)
class TabulationSettings:
    """Resolution of the tables.

    Attributes
    ----------
    dlog_mass : float
        Distance of the nodes of host mass for pairs within a host [dex].
    two_halo : Resolution
        Bins of host mass and sub-halo rank for pairs of different hosts.
    n_central : int
        Number of modes of <Ncen> for two-halo pairs.
    n_satellite : int
        Number of modes of <Nsat> for two-halo pairs.
    n_rank : int
        Number of combinations of the two-halo sums in which the dependence on the ranks is kept.
    n_partners : (int, int, int)
        Number of modes of the other member of such a pair: of <Ncen>, of <Nsat>, and of the ranks.
    dlog_mass_rank : float
        Distance of the nodes of host mass for the dependence on the ranks [dex].
    mode_samples : int
        Number of quasi-random points of the supported region to which modes and combinations are fitted.
    max_draws : int
        Largest number of borrowed satellites drawn for each host and rank bin, for two-halo pairs; and number for each
        sub-halo of a host, for one-halo pairs with them.
    seed : int
        Seed of the borrowed satellites and of the points.
    """

    dlog_mass: Annotated[float, Range(at_least=1e-3, at_most=1)] = 0.01
    two_halo: Resolution = field(default_factory=lambda: Resolution(dlog_mass=0.01, nodes_per_bin=1))
    n_central: Annotated[int, Range(at_least=2, at_most=1000)] = 64
    n_satellite: Annotated[int, Range(at_least=2, at_most=1000)] = 40
    n_rank: _Count = 128
    n_partners: tuple[_Count, _Count, _Count] = (16, 12, 16)
    dlog_mass_rank: Annotated[float, Range(at_least=1e-3, at_most=1)] = 0.03
    mode_samples: Annotated[int, Range(at_least=2, at_most=2**17)] = 2048
    max_draws: Annotated[int, Range(at_least=1, at_most=10_000)] = 16
    seed: Seed = 1

    def __post_init__(self):
        check_fields(self)
        partners = self.n_partners[:2]
        if partners[0] > self.n_central or partners[1] > self.n_satellite:
            raise ValueError(
                f"n_partners = {self.n_partners}: the first two must not exceed n_central ({self.n_central}) and "
                f"n_satellite ({self.n_satellite}), of which they are the leading modes."
            )


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
    r_edges : (n_nodes,), optional
        Nodes in radius [Mpc/h]; by default those of :func:`iaemu.binning.make_nodes`, as far as the boxes allow. The
        tables predict in any bins between the first and the last that are not narrower than those between nodes.
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
    r_edges = default_nodes(catalogues) if r_edges is None else check_edges(r_edges)
    _check_boxes(catalogues, float(r_edges[-1]))
    stages = tqdm(total=4 + len(catalogues), desc="one-halo pairs", unit="stage", disable=not progress)
    one_halo = one_halo_tables(catalogues, support, r_edges, settings.dlog_mass, settings.max_draws, settings.seed)
    _next_stage(stages, "modes of occupations")
    species = Species(catalogues, support, settings.two_halo)
    numbers = (settings.n_central, settings.n_satellite)
    modes = TwoHaloModes.find(species, support, numbers, settings.n_partners, settings.mode_samples, settings.seed)
    radial = radial_functions(catalogues)
    basis = radial["radial.basis"]
    two_halo, far = TwoHaloSums(species, modes, r_edges), FarSums(catalogues, species, modes, support, basis, r_edges)
    for box, catalogue in enumerate(catalogues):
        _next_stage(stages, f"{catalogue.name}: two-halo pairs")
        mass_bin, draws = species.mass_bin[box], (settings.max_draws, settings.seed)
        two_halo.add(build_tracers(catalogue, species, mass_bin, Donors.of(catalogue), *draws), mass_bin, progress)
        far.add(catalogue, box, progress)
    _next_stage(stages, "satellites by radius")
    one_halo_nodes = MassNodes(catalogues, support, settings.dlog_mass)
    radial |= near_tensors(catalogues, basis, support, one_halo_nodes, r_edges, settings.seed)
    rank_nodes = MassNodes(catalogues, support, settings.dlog_mass_rank)
    radial |= far.tensors(rank_nodes, settings.mode_samples // 2, settings.seed)
    _next_stage(stages, "tables")
    merged = np.concatenate([one_halo[name].values.reshape(-1, len(r_edges) - 1, 3) for name in one_halo], axis=2)
    packed, n_bins = pack_rows(merged)
    tensors = {
        "r_edges": r_edges,
        "node_log_mass": species.node_log_mass,
        "node_count": species.node_count.astype(np.int32),
        "central_modes": modes.central,
        "satellite_modes": modes.satellite,
        # Single precision (6e-8 of each number) is far more than the accuracy of the tables, at half the size.
        "two_halo_DD": pack_symmetric(two_halo.main[0]).astype(np.float32),
        "two_halo_S_omega": two_halo.main[1].astype(np.float32),
        "two_halo_S_eta": pack_symmetric(two_halo.main[2]).astype(np.float32),
        "one_halo.log_mass": one_halo["central_satellite"].log_mass.numpy(),
        "one_halo.n_rows": one_halo["central_satellite"].n_rows.astype(np.int32),
        "one_halo.values": packed.astype(np.float32),
        "one_halo.n_bins": n_bins,
        **radial,
    }
    metadata = {**_metadata(catalogues, support, settings), **(metadata or {})}
    without = TabulatedModel(tensors | _rank_tensors(*_no_ranks(rank_nodes, two_halo), settings), metadata)
    scale = importance(without, modes)
    ranks = two_halo.rank_response(rank_nodes, scale, settings.n_rank)
    _next_stage(stages, "tables")
    stages.close()
    return TabulatedModel(tensors | _rank_tensors(*ranks, settings), metadata)


def default_nodes(catalogues: Sequence[HaloCatalogue]) -> np.ndarray:
    """Return the nodes of :func:`iaemu.binning.make_nodes` up to half the side of the smallest box.

    Parameters
    ----------
    catalogues : sequence of HaloCatalogue

    Returns
    -------
    array (n_nodes,) [Mpc/h]
    """
    nodes = make_nodes()
    return nodes[nodes <= 0.5 * min(catalogue.Lbox for catalogue in catalogues)]


def _no_ranks(nodes: MassNodes, two_halo: TwoHaloSums) -> tuple[RankSums, np.ndarray]:
    """Return a response of zero to the ranks, and the amplitudes of the rank partners."""
    n_partners = two_halo.modes.n_partners
    amplitudes = two_halo.rank_sums(nodes, two_halo.modes.to_rank_partners(two_halo.species))
    values = torch.nn.functional.pad(amplitudes.values, (1, 0))
    response = np.zeros((1, 4, sum(n_partners), len(two_halo.r_edges) - 1))
    return RankSums(amplitudes.log_mass, amplitudes.n_rows, values, 1), response


def _rank_tensors(ranks: RankSums, response: np.ndarray, settings: TabulationSettings) -> dict[str, np.ndarray]:
    return {
        "ranks.log_mass": ranks.log_mass.numpy(),
        "ranks.n_rows": ranks.n_rows.astype(np.int32),
        "ranks.values": ranks.values.numpy().astype(np.float32),
        "ranks.response": response.astype(np.float32),
        "ranks.n_partners": np.asarray(settings.n_partners, dtype=np.int32),
    }


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
        "made_by": f"iaemu train tabulate {__version__}",
    }


def _next_stage(stages, name: str) -> None:
    stages.update()
    stages.set_description(name)

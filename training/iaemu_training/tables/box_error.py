"""The box error: a jackknife over regions of the boxes, for a few modes of the occupations.

Makes :class:`iaemu.models.box_error.BoxError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import qmc

from iaemu import __version__
from iaemu.halomodel.modes import Occupations
from iaemu.models.box_error import TERMS, BoxError, jackknife
from iaemu.models.deviations import combine
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import PARAMETERS, Support
from iaemu.progress import tqdm
from iaemu.ranges import Range, Seed, check_fields
from iaemu.statistics import STATISTICS
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue
from iaemu_training.pairs.galaxies_by_region import check_regions
from iaemu_training.pairs.tracers_by_region import RegionCounter, region_of_hosts
from iaemu_training.pairs.weighted import QUANTITIES
from iaemu_training.tables.exact import Weights, one_halo, two_halo
from iaemu_training.tables.species import Resolution, Species, central_modes, fit_modes, sample_occupations
from iaemu_training.work.cluster import workers
from iaemu_training.work.parts import PartStore, Task

#: Least number of expected pairs in a bin for the comparison at held-out points.
MIN_PAIRS = 30.0


@dataclass(frozen=True)
class BoxErrorSettings:
    """Resolution of the box error.

    Attributes
    ----------
    per_side : int
        Number of jackknife regions along each side of a box.
    resolution : Resolution
        Bins of host mass and sub-halo rank from which the modes are made.
    n_central : int
        Number of modes of the occupation of centrals.
    n_satellite : int
        Number of modes of the occupation of satellites.
    n_pair : int
        Number of modes of the pairs within a host, of each kind.
    n_products : int
        Number of combinations of mode amplitudes, or of their products, that are kept for each kind of pair.
    mode_samples : int
        Number of quasi-random points of the supported region to which modes and combinations are fitted.
    n_held_out : int
        Number of random points at which the result is checked against direct counts.
    seed : int
        Seed of the points.
    """

    per_side: Annotated[int, Range(at_least=2, at_most=20)] = 3
    resolution: Resolution = field(default_factory=lambda: Resolution(nodes_per_bin=1))
    n_central: Annotated[int, Range(at_least=2, at_most=1000)] = 16
    n_satellite: Annotated[int, Range(at_least=1, at_most=1000)] = 24
    n_pair: Annotated[int, Range(at_least=1, at_most=1000)] = 36
    n_products: Annotated[int, Range(at_least=1, at_most=1000)] = 16
    mode_samples: Annotated[int, Range(at_least=2, at_most=2**17)] = 1024
    n_held_out: Annotated[int, Range(at_least=0, at_most=10_000)] = 8
    seed: Seed = 1

    def __post_init__(self):
        check_fields(self)


class _Weights:
    """Modes of the occupations as weights of hosts and sub-halos, and the blocks that give their amplitudes."""

    def __init__(self, catalogues: Sequence[HaloCatalogue], support: Support, settings: BoxErrorSettings, bar: tqdm):
        self._species = species = Species(catalogues, support, settings.resolution)
        samples = (settings.mode_samples, settings.seed)
        central = central_modes(species, support, settings.n_central, *samples)
        bar.update()
        self.blocks, self._bases = {"central": central.occupation}, {"central": central.basis}
        rows = [self._rows(catalogue, box)[1] for box, catalogue in enumerate(catalogues)]
        # Only ranks for which there are sub-halos count: borrowed satellites are not in the box error.
        count = np.bincount(np.concatenate(rows), minlength=species.n_satellite).astype(np.float64)
        for kind, n in (
            ("satellite", settings.n_satellite),
            ("central_satellite", settings.n_pair),
            ("satellite_pair", settings.n_pair),
        ):
            found = sample_occupations(species, kind, support, *samples)
            self._bases[kind], chosen, matrix = fit_modes(found, count, n)
            self.blocks[kind] = species.occupation(kind, chosen, matrix)
            bar.update()

    def _rows(self, catalogue: HaloCatalogue, box: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of the sub-halos that have a species, and the species of each."""
        species, host = self._species, catalogue.subhalo_host
        mass_bin = species.mass_bin[box][host]
        rank_bin = np.searchsorted(species.rank_edges, catalogue.subhalo_rank, side="right") - 1
        index = np.flatnonzero(rank_bin < species.n_rank_bins[mass_bin])
        return index, species.first_satellite[mass_bin[index]] + rank_bin[index]

    def of(self, catalogue: HaloCatalogue, box: int) -> dict[str, np.ndarray]:
        """Return the weights of the hosts of a catalogue, and of its sub-halos ``index``."""
        index, row = self._rows(catalogue, box)
        weights = {kind: basis[row] for kind, basis in self._bases.items() if kind != "central"}
        return {"index": index, "central": self._bases["central"][self._species.mass_bin[box]], **weights}


def count_region(counter: RegionCounter, weights: dict[str, np.ndarray], region: int) -> dict[str, np.ndarray]:
    """Count the pairs of one region.

    Returns
    -------
    dict of str to array
        Pair sums by the terms and quantities of :data:`iaemu.models.box_error.TERMS`: "cc", "cs" and "ss" of shape
        (n, n, n_quantities, n_bins), "one_cs" and "one_ss" of shape (m, n_quantities, n_bins), for n columns of
        weights of tracers and m of pairs; and "numbers" of galaxies, (2, n).
    """
    central, satellite = weights["central"], weights["satellite"]
    n_c, n_s = central.shape[1], satellite.shape[1]
    # The counter needs the same number of weights for both kinds.
    central, satellite = (np.pad(w, ((0, 0), (0, max(n_c, n_s) - w.shape[1]))) for w in (central, satellite))
    (cc, cs), (sc, ss) = np.moveaxis(counter.two_halo(region, central, satellite), (2, 3), (5, 4))
    cc, cs, sc, ss = cc[:n_c, :n_c], cs[:n_c, :n_s], sc[:n_s, :n_c].swapaxes(0, 1), ss[:n_s, :n_s]
    index, one = counter.one_halo(region)
    one_cs = np.einsum("im,ibs->msb", weights["central_satellite"][index], one[..., :3])
    one_ss = np.einsum("im,ibs->msb", weights["satellite_pair"][index], one[..., 3:])
    return {
        "cc": cc,
        # The axis in S_omega is that of the first member. E_cs counts one order of each pair: half from either member.
        "cs": np.stack(
            [cs[:, :, 0] + sc[:, :, 0], cs[:, :, 1], sc[:, :, 1], 0.5 * (cs[:, :, 2] + sc[:, :, 2])], axis=2
        ),
        "ss": ss,
        # A satellite's axis is along the separation from its central: (a.r)^2 - 1/3 = 2/3 for each of DD / 2 pairs.
        "one_cs": np.stack([one_cs[:, 0], one_cs[:, 1], one_cs[:, 0] / 3.0, 0.5 * one_cs[:, 2]], axis=1),
        "one_ss": one_ss,
        "numbers": counter.numbers(region, central, satellite),
    }


def make_box_error(
    catalogues: Sequence[HaloCatalogue],
    tables: TabulatedModel,
    folder: str | Path,
    settings: BoxErrorSettings | None = None,
    progress: bool = True,
) -> BoxError:
    """Compute the error of predictions that comes from the finite size of the boxes.

    Parameters
    ----------
    catalogues : sequence of HaloCatalogue
        The catalogues that the tables were made from. The same sub-box of all boxes is one region.
    tables : TabulatedModel
        Tables that give the supported region and the bins.
    folder : path-like
        Folder for finished parts, from which interrupted work is resumed. The caller removes it.
    settings : BoxErrorSettings, optional
        Resolution of the result.
    progress : bool
        Show progress bars.

    Returns
    -------
    BoxError

    Raises
    ------
    CatalogueError
        The catalogues are not those of the tables.
    ValueError
        The regions are smaller than the largest separation.
    iaemu_training.work.parts.PartsError
        The folder holds parts of a computation with other settings.
    """
    settings = settings or BoxErrorSettings()
    hashes = [catalogue.sha256 for catalogue in catalogues]
    if sorted(hashes) != sorted(tables.metadata["catalogue_sha256"]):
        raise CatalogueError(
            f"These tables were made from the catalogues {', '.join(tables.metadata['catalogues'])}, whose hashes "
            f"differ from those of {', '.join(c.name for c in catalogues)}. Give all catalogues of the tables."
        )
    r_edges, support = tables.r_edges, tables.support
    for catalogue in catalogues:
        check_regions(settings.per_side, catalogue.Lbox, r_edges[-1], "--per-side")
    with tqdm(total=4, desc="modes of occupations", unit="mode", disable=not progress) as bar:
        weights = _Weights(catalogues, support, settings, bar)
    identity = {
        "catalogue_sha256": hashes,
        "support": support.to_dict(),
        "r_edges": r_edges.tolist(),
        "settings": asdict(settings),
        "code_version": __version__,
    }
    with PartStore(folder, identity) as store, workers(1) as found:
        sums, numbers = _modes_by_region(catalogues, weights, settings, r_edges, store, found, progress)
        tensors = {"r_edges": r_edges, **Occupations(weights.blocks).to_arrays()}
        tensors.update(_compress(weights, support, settings, sums))
        for kind, values, term in zip(("central", "satellite"), numbers, ("cc", "ss"), strict=True):
            tensors[f"numbers.{kind}"] = values[: len(sums[term])].astype(np.float32)
        metadata = {key: tables.metadata[key] for key in ("cosmology", "redshift", "support")}
        metadata.update(
            catalogues=[catalogue.name for catalogue in catalogues],
            catalogue_sha256=hashes,
            box_sizes=[catalogue.Lbox for catalogue in catalogues],
            per_side=settings.per_side,
            settings=asdict(settings),
            units="lengths Mpc/h; deviations of dimensionless statistics",
            made_by=f"iaemu train box-error {__version__}",
        )
        box_error = BoxError(tensors, metadata)
        rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(1,)))
        points = support.sample(settings.n_held_out, rng)
        if len(points):
            metadata["held_out"] = _held_out(box_error, catalogues, points, settings, store, found, progress)
    return box_error


def _modes_by_region(catalogues, weights, settings, r_edges, store, found, progress):
    """Return pair sums (..., n_quantities, n_regions, n_bins) by term, added over boxes, and numbers of galaxies.

    Numbers have shape (2, n_modes, n_regions, n_boxes).
    """
    regions = range(settings.per_side**3)
    parts = []
    for box, catalogue in enumerate(catalogues):
        mine = weights.of(catalogue, box)
        counter = RegionCounter(catalogue, settings.per_side, r_edges, satellites=mine["index"])
        tasks = {f"{box}-{region}": Task(count_region, (counter, mine, region)) for region in regions}
        store.run(tasks, found, f"{catalogue.name}: regions", progress)
        parts.append([store.read(name) for name in tasks])
    sums = {term: sum(np.stack([part[term] for part in box], axis=-2) for box in parts) for term in TERMS}
    numbers = np.stack([np.stack([part["numbers"] for part in box], axis=-1) for box in parts], axis=-1)
    return sums, numbers


def _compress(weights: _Weights, support: Support, settings: BoxErrorSettings, sums) -> dict[str, np.ndarray]:
    """Return the sums of each term for the principal combinations of amplitudes, or of their products."""
    unit = qmc.Sobol(len(PARAMETERS), seed=settings.seed).random(settings.mode_samples)
    theta = torch.as_tensor(support.from_unit_cube(unit)[:, 2:])
    occupations = Occupations(weights.blocks)
    parts = [occupations.amplitudes(part) for part in theta.split(64)]
    found = {name: np.concatenate([part[name].numpy() for part in parts]) for name in weights.blocks}
    products = {
        "cc": np.einsum("ni,nj->nij", found["central"], found["central"]),
        "cs": np.einsum("ni,nj->nij", found["central"], found["satellite"]),
        "ss": np.einsum("ni,nj->nij", found["satellite"], found["satellite"]),
        "one_cs": found["central_satellite"],
        "one_ss": found["satellite_pair"],
    }
    tensors = {}
    for term, values in products.items():
        factors, shape = values.shape[1:], sums[term].shape[values.ndim - 1 :]  # (n_quantities, n_regions, n_bins)
        values = values.reshape(len(theta), -1)
        values = values / np.linalg.norm(values, axis=1, keepdims=True).clip(min=1e-300)
        table = sums[term].reshape(values.shape[1], -1)
        values = values @ table
        # All bins and quantities get the same weight.
        size = np.sqrt(np.mean(values.reshape(-1, *shape) ** 2, axis=(0, 2)))[:, None]
        size = np.broadcast_to(np.where(size > 0, size, 1.0), shape).reshape(-1)
        _, _, directions = np.linalg.svd(values / size, full_matrices=False)
        directions = directions[: settings.n_products]
        tensors[f"products.{term}"] = ((table / size) @ directions.T).reshape(*factors, len(directions))
        tensors[f"sums.{term}"] = (directions * size).reshape(len(directions), *shape)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def count_directly(
    catalogue: HaloCatalogue, theta: ArrayLike, per_side: int, r_edges: np.ndarray, factors: Callable | None = None
) -> dict[str, np.ndarray]:
    """Count the expected pairs of each region at one occupation, without modes and without borrowed satellites.

    Parameters
    ----------
    catalogue : HaloCatalogue
        Halos of one box.
    theta : (5,)
        Occupation parameters in the order of ``OCCUPATION_PARAMETERS``.
    per_side : int
        Number of regions along each side of the box.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    factors : callable, optional
        Weights of orientations, see :func:`iaemu_training.tables.exact.exact_sums`.

    Returns
    -------
    dict of str to array
        "DD", "A_c", "A_s", "E_cc", "E_cs" and "E_ss" (n_regions, n_bins), and the number of galaxies "N" (n_regions,).
    """
    weights, regions = Weights.of(catalogue, theta, borrow=False), region_of_hosts(catalogue, per_side)
    if factors is not None:
        weights = weights.oriented(*factors(catalogue))
    where = (regions, per_side**3)
    sums = one_halo(weights, r_edges, *where) + two_halo(weights, r_edges, None, None, *where)
    numbers = np.bincount(regions, weights.central, per_side**3)
    numbers += np.bincount(regions[catalogue.subhalo_host], weights.satellite, per_side**3)
    return {**dict(zip(QUANTITIES, np.moveaxis(sums, 1, 0), strict=True)), "N": numbers}


def direct_deviations(
    boxes: Sequence[dict], r_edges: np.ndarray, box_sizes: Sequence[float], per_side: int
) -> dict[str, np.ndarray]:
    """Return deviations (n_regions, n_bins) of xi and of A and E, from :func:`count_directly` of each box."""
    sums = {name: torch.as_tensor(sum(box[name] for box in boxes))[None] for name in boxes[0] if name != "N"}
    sums["N"] = torch.as_tensor(np.stack([box["N"] for box in boxes], axis=-1))[None]
    return {name: value[0].numpy() for name, value in jackknife(sums, r_edges, box_sizes, per_side).items()}


def _held_out(box_error, catalogues, points, settings, store, found, progress) -> dict:
    """Return percentiles, over points and bins, of the ratio of standard errors to those of direct counts."""
    edges = box_error.r_edges
    tasks = {
        f"direct-{point}-{box}": Task(count_directly, (catalogue, theta[2:], settings.per_side, edges))
        for point, theta in enumerate(points)
        for box, catalogue in enumerate(catalogues)
    }
    store.run(tasks, found, "held-out points", progress)
    ratios: dict[str, list] = {name: [] for name in STATISTICS}
    for point, theta in enumerate(torch.as_tensor(points)[:, None]):
        boxes = [store.read(f"direct-{point}-{box}") for box in range(len(catalogues))]
        used = sum(box["DD"].sum(axis=0) for box in boxes) > MIN_PAIRS
        counted = direct_deviations(boxes, edges, [c.Lbox for c in catalogues], settings.per_side)
        direct = combine(theta[:, :2], {name: torch.as_tensor(v)[None] for name, v in counted.items()}, STATISTICS)
        guess = combine(theta[:, :2], box_error.deviations(theta[:, 2:], edges), STATISTICS)
        for name in STATISTICS:
            ratio = torch.linalg.norm(guess[name][0], dim=0) / torch.linalg.norm(direct[name][0], dim=0)
            ratios[name].append(ratio.numpy()[used])
    percentiles = {name: np.percentile(np.concatenate(values), [5, 50, 95]) for name, values in ratios.items()}
    return {
        "theta": points.tolist(),
        "sigma_ratio": {
            name: dict(zip(("p5", "median", "p95"), values.tolist(), strict=True))
            for name, values in percentiles.items()
        },
    }

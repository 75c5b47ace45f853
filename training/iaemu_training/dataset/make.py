"""Training sets: noise-free labels from tables at many points, and halotools-IA mocks at some, in one HDF5 file.

The paper's training set (arXiv:2504.05235, section 2.2) has 110,526 points with 10 mocks each. Here every point gets
the expectation of such mocks, and some points the mocks themselves, for their scatter and for comparison. No point is
removed: the paper's cleaning is stored as masks. The layout of the file is described in docs/formats.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import h5py
import numpy as np
import torch
from numpy.typing import DTypeLike

from iaemu.artifact import shipped_artifact
from iaemu.binning import PAPER_EDGES, TNG_EDGES, nesting_matrix, union_edges
from iaemu.files import remove_leftovers, sha256_of_file
from iaemu.models.pair_sums import correlations
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import PARAMETERS, Support
from iaemu.progress import BAR_AFTER, tqdm
from iaemu.ranges import Range, Seed, check_fields
from iaemu.statistics import STATISTICS
from iaemu_training.dataset.file import _COUNTS, _MOCK_SUMS, FORMAT, SPLITS, SUMS, Dataset, DatasetError
from iaemu_training.dataset.labels import iterate_sums
from iaemu_training.dataset.matter import MatterCorrelation
from iaemu_training.dataset.points import PARAMETER_SETS
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue, load_stated
from iaemu_training.mocks.halotools import HalotoolsMocks
from iaemu_training.work.cluster import one_thread, workers
from iaemu_training.work.hdf5 import write_hdf5
from iaemu_training.work.parts import PartStore, Task

#: Edges of the pair sums [Mpc/h]: the bins of the paper and of TNG300 are sums of whole bins.
FINE_EDGES = union_edges(PAPER_EDGES, TNG_EDGES)

_LABELS_PER_PART = 256

_Fraction = Annotated[float, Range(at_least=0, at_most=1)]


@dataclass(frozen=True)
class DatasetSettings:
    """Content of a data set.

    Attributes
    ----------
    points : str
        How parameter points are chosen: tube, the paper's points (logMmin evenly spaced, the other parameters uniform
        within four standard deviations of the Zheng et al. 2007 line); or sobol, a Sobol sequence.
    n : int
        Number of points.
    n_mocked : int
        Number of points with mocks: evenly spread over the points of tube, or the first points of sobol.
    n_realisations : int
        Number of mocks at each of these points, in every box.
    seed : int
        Seed of the points, of the split and of the mocks.
    min_pairs : float
        The mask empty_bins marks points where a bin is expected to have fewer pairs than this.
    max_xi_ratio : float
        The mask unphysical_xi marks points where xi / xi_DM exceeds this in a bin.
    split : (float, float, float)
        Fractions of training, validation and test points.
    """

    points: str = "tube"
    n: Annotated[int, Range(at_least=1, at_most=10**8)] = 110_526
    n_mocked: Annotated[int, Range(at_least=0, at_most=10**8)] = 400
    n_realisations: Annotated[int, Range(at_least=1, at_most=10**5)] = 10
    seed: Seed = 1
    min_pairs: Annotated[float, Range(at_least=0)] = 3.0
    max_xi_ratio: Annotated[float, Range(above=0)] = 100.0
    split: tuple[_Fraction, _Fraction, _Fraction] = (0.7, 0.1, 0.2)

    def __post_init__(self):
        if not isinstance(self.points, str) or self.points not in PARAMETER_SETS:
            raise ValueError(f"points must be one of {', '.join(PARAMETER_SETS)}, got {self.points!r}.")
        check_fields(self)
        if self.n_mocked > self.n:
            raise ValueError(f"n_mocked must lie between 0 and n = {self.n}, got {self.n_mocked}.")
        if abs(sum(self.split) - 1.0) > 1e-9:
            raise ValueError(f"split must be three fractions with sum 1, got {self.split}.")

    def theta(self, support: Support) -> np.ndarray:
        """Return the parameter points.

        Parameters
        ----------
        support : Support
            The supported region that they fill.

        Returns
        -------
        (n, 7) float64
        """
        return PARAMETER_SETS[self.points](support, self.n, self.seed)

    def mocked(self) -> np.ndarray:
        """Return the indices of the points with mocks, ascending.

        Returns
        -------
        (n_mocked,) int64
        """
        if self.points == "sobol":
            return np.arange(self.n_mocked)
        return ((np.arange(self.n_mocked) + 0.5) * self.n / max(self.n_mocked, 1)).astype(np.int64)

    def split_codes(self) -> np.ndarray:
        """Return the split of each point, as index into ``SPLITS``, by a random permutation.

        Returns
        -------
        (n,) uint8
        """
        ends = np.round(np.cumsum(self.split)[:2] * self.n).astype(int)
        order = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(2**31,))).permutation(self.n)
        codes = np.empty(self.n, dtype=np.uint8)
        for code, part in enumerate(np.split(order, ends)):
            codes[part] = code
        return codes


# ---------------------------------------------------------------------- tasks, run by workers


def label_part(tables: Source, theta: np.ndarray) -> dict[str, np.ndarray]:
    """Compute expected pair sums in ``FINE_EDGES`` and xi, omega, eta in the paper's bins, at points (n, 7)."""
    model = _load_tables(tables)
    rows = [
        vars(model.rebin(sums, FINE_EDGES))
        | {"n_gal": sums.n_galaxies}
        | correlations(model.rebin(sums, PAPER_EDGES), batch)
        for batch, sums in iterate_sums(model, theta)
    ]
    return {name: torch.cat([row[name] for row in rows]).numpy() for name in rows[0]}


def mock_part(
    boxes: tuple[Source, ...], theta: np.ndarray, seed: int, point: int, n: int, r_edges: np.ndarray
) -> dict[str, np.ndarray]:
    """Make ``n`` mocks at one point; return pair sums, added over boxes, and numbers of galaxies by box.

    Mock i of box b is ``populate(theta, SeedSequence(seed, spawn_key=(point, b, i)))``.
    """
    with one_thread():
        parts = [
            mocks.realisations(theta, n, np.random.SeedSequence(seed, spawn_key=(point, box)), r_edges)
            for box, mocks in enumerate(_load_mocks(boxes))
        ]
    sums = {name: sum(getattr(part, name) for part in parts) for name in _MOCK_SUMS}
    counts = {name: np.stack([getattr(part, name) for part in parts], axis=-1) for name in _COUNTS}
    return sums | counts


@dataclass(frozen=True)
class Source:
    """Path or name of tables or of a catalogue, which workers load themselves, and the hash that it must have."""

    path: str
    sha256: str


@lru_cache(maxsize=1)
def _load_tables(source: Source) -> TabulatedModel:
    if sha256_of_file(_tables_file(source.path)) != source.sha256:
        raise DatasetError(f"The tables {source.path} on a worker differ from those of the run; copy them there again.")
    return TabulatedModel.load(_tables_file(source.path))


@lru_cache(maxsize=1)
def _load_mocks(boxes: tuple[Source, ...]) -> list[HalotoolsMocks]:
    mocks = []
    for source in boxes:
        catalogue = HaloCatalogue.load(source.path, progress=False)
        if catalogue.sha256 != source.sha256:
            raise DatasetError(
                f"The catalogue {source.path} on a worker differs from that of the run; copy it there again."
            )
        mocks.append(HalotoolsMocks(catalogue))
    return mocks


def _tables_file(path: str) -> Path:
    """Return the path of tables; shipped tables have a name, since their path may differ on a worker."""
    return Path(shipped_artifact(TabulatedModel.shipped) if path == TabulatedModel.shipped else path)


# ---------------------------------------------------------------------- making


def matching_boxes(
    model: TabulatedModel, names: Sequence[str] | None = None, progress: bool = True
) -> tuple[Source, ...]:
    """Find the catalogues that tables were made from, by default by the names in the tables.

    Parameters
    ----------
    model : TabulatedModel
        The tables.
    names : sequence of str, optional
        Paths or names of the catalogues, in any order.
    progress : bool
        Show progress bars while files are read.

    Returns
    -------
    tuple of Source

    Raises
    ------
    CatalogueError
        A catalogue is not found, or they are not those of the tables.
    """
    stated = model.metadata["catalogues"]
    load = HaloCatalogue.load if names else load_stated
    sources = tuple(Source(str(name), load(name, progress).sha256) for name in (names or stated))
    if sorted(source.sha256 for source in sources) != sorted(model.metadata["catalogue_sha256"]):
        raise CatalogueError(
            f"The tables were made from {', '.join(stated)}, whose hashes differ from those of "
            f"{', '.join(source.path for source in sources)}. Mocks must be made from all catalogues of the tables: "
            "give them with --catalogue."
        )
    return sources


def make_dataset(
    output: str | Path,
    settings: DatasetSettings | None = None,
    tables: str | Path | None = None,
    catalogues: Sequence[str] | None = None,
    n_workers: int | None = None,
    dask: str | None = None,
    matter: MatterCorrelation | None = None,
    progress: bool = True,
) -> Dataset:
    """Make a data set, or resume after an interruption.

    Finished parts are kept in a folder ``<output>.parts`` beside the output, which is removed at the end. The result
    does not depend on interruptions, nor on the number of workers and where they run, for the same versions of the
    libraries and the same kind of processor.

    Parameters
    ----------
    output : str or path-like
        HDF5 file to write. If it exists and was made with the same settings, nothing is done.
    settings : DatasetSettings, optional
        Content of the data set.
    tables : str or path-like, optional
        Tables for the labels; by default the shipped ones. On a cluster, workers must be able to read this path.
    catalogues : sequence of str, optional
        Paths or names of the halo catalogues that the tables were made from; by default the names in the tables. Not
        needed without mocks.
    n_workers : int, optional
        Number of worker processes, or of jobs with ``dask="slurm"``; by default the number of cores.
    dask : str, optional
        ``local``, ``slurm``, or the address or scheduler file of a running Dask cluster; by default processes on this
        machine. See :func:`iaemu_training.work.cluster.workers`.
    matter : MatterCorrelation, optional
        Matter correlation function for the mask ``unphysical_xi``; by default that of the Bolshoi-Planck cosmology at
        z = 0.
    progress : bool
        Show progress bars.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetError
        The output exists and was made with other settings.
    iaemu_training.halos.catalogue.CatalogueError
        The catalogues are not found, or are not those of the tables.
    iaemu_training.work.parts.PartsError
        Unfinished parts have other settings, or another process is writing them.
    """
    output, settings = Path(output), settings or DatasetSettings()
    matter = matter or MatterCorrelation.load()
    path = TabulatedModel.shipped if tables is None else str(Path(tables).resolve())
    source = Source(path, sha256_of_file(_tables_file(path)))
    model = _load_tables(source)
    boxes = matching_boxes(model, catalogues, progress) if settings.n_mocked else ()
    identity = {
        "settings": asdict(settings),
        "tables_sha256": source.sha256,
        "boxes_sha256": [box.sha256 for box in boxes],
        "matter_sha256": hashlib.sha256(matter.binned(PAPER_EDGES).tobytes()).hexdigest(),
        "versions": _versions(),
    }
    store = PartStore(output.with_name(output.name + ".parts"), identity)
    if output.exists():
        _check_same(output, store.identity)
        if store.folder.exists():
            store.remove()
        return Dataset(output)
    theta = settings.theta(model.support)
    with store:
        remove_leftovers(output)
        with workers(n_workers, dask) as crew:
            store.run(_label_tasks(source, theta), crew, "labels", progress)
            store.run(_mock_tasks(boxes, model, theta, settings), crew, "mocks", progress)
        write_hdf5(output, lambda file: _assemble(file, store, model, settings, theta, matter, identity, progress))
    store.remove()
    return Dataset(output)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("iaemu-cobaya", "halotools", "numpy", "scipy", "torch", "numba")}


def _check_same(output: Path, identity: dict) -> None:
    found = Dataset(output).identity
    differing = [key for key in identity if found.get(key) != identity[key]]
    if differing:
        key = differing[0]
        raise DatasetError(
            f"{output} exists and was made with other {key}: {found.get(key)}, now {identity[key]}. Remove the file, "
            "or choose another name."
        )


def _label_tasks(source: Source, theta: np.ndarray) -> dict[str, Task]:
    starts = range(0, len(theta), _LABELS_PER_PART)
    parts = {start: theta[start : start + _LABELS_PER_PART] for start in starts}
    return {_label_name(start): Task(label_part, (source, part), len(part)) for start, part in parts.items()}


def _mock_tasks(boxes, model, theta, settings) -> dict[str, Task]:
    """Return the tasks for mocks, the most expensive points first, so that workers finish together."""
    mocked = settings.mocked()
    if not len(mocked):
        return {}
    sums = [model.rebin(part, FINE_EDGES) for _, part in iterate_sums(model, theta[mocked])]
    pairs = np.concatenate([part.DD.sum(dim=1).numpy() for part in sums]) / 2.0
    galaxies = np.concatenate([part.n_galaxies.numpy() for part in sums]) * len(boxes)
    # Approximate seconds on one core: a fixed cost, one for each galaxy, and one for each pair.
    cost = settings.n_realisations * (0.1 * len(boxes) + 4e-6 * galaxies + 1e-8 * pairs)
    seed, n, edges = settings.seed, settings.n_realisations, FINE_EDGES
    return {
        _mock_name(mocked[i]): Task(mock_part, (boxes, theta[mocked[i]], seed, int(mocked[i]), n, edges), cost[i])
        for i in np.argsort(-cost, kind="stable")
    }


def _label_name(start: int) -> str:
    return f"labels-{start:07d}"


def _mock_name(point: int) -> str:
    return f"mocks-{point:07d}"


# ---------------------------------------------------------------------- the file


def _assemble(h5, store: PartStore, model, settings, theta, matter, identity, progress) -> None:
    h5.attrs["format"] = FORMAT
    h5.attrs["description"] = (
        "Correlation functions of galaxies populated by halotools-IA: expectations at all points (labels), mock "
        "realisations at some (mocks)"
    )
    h5.attrs["units"] = "lengths Mpc/h, masses Msun/h (log10 in theta)"
    h5.attrs["parameters"] = list(PARAMETERS)
    h5.attrs["identity"] = json.dumps(identity)
    for key in ("catalogues", "catalogue_sha256", "cosmology", "redshift", "box_sizes", "box_volumes", "support"):
        h5.attrs[key] = json.dumps(model.metadata.get(key))
    create = _Creator(h5)
    xi_matter = matter.binned(PAPER_EDGES)
    create("theta", theta, "parameters")
    create("split", settings.split_codes(), f"by parameter point: {dict(enumerate(SPLITS))}")
    create("r_edges", PAPER_EDGES, "edges of xi, omega and eta [Mpc/h]")
    create("fine_edges", FINE_EDGES, "edges of the pair sums [Mpc/h]; r_edges nest in them")
    create("xi_matter", xi_matter, f"matter correlation function in the bins of r_edges: {matter.source}")
    nesting = nesting_matrix(FINE_EDGES, PAPER_EDGES)
    n_parts = -(-len(theta) // _LABELS_PER_PART) + settings.n_mocked
    with tqdm(total=n_parts, desc="writing", unit="part", delay=BAR_AFTER, disable=not progress) as bar:
        _assemble_labels(h5, create, store, settings, len(theta), nesting, xi_matter, bar)
        if settings.n_mocked:
            _assemble_mocks(h5, create, store, settings, len(identity["boxes_sha256"]), nesting, bar)


def _assemble_labels(h5, create: _Creator, store: PartStore, settings, n: int, nesting, xi_matter, bar) -> None:
    paper, fine = nesting.shape
    for name in STATISTICS:
        create.empty(f"labels/{name}", (n, paper), f"{name}(r), noise-free, in the bins of r_edges")
    for name in SUMS:
        create.empty(f"labels/sums/{name}", (n, fine), "expected sum over ordered pairs, in the bins of fine_edges")
    create.empty("labels/n_gal", (n,), "galaxies in the mean of the boxes")
    create.empty("labels/f_sat", (n,), "satellite fraction")
    masks = {name: np.zeros(n, dtype=bool) for name in ("empty_bins", "unphysical_xi")}
    for start in range(0, n, _LABELS_PER_PART):
        part = store.read(_label_name(start))
        rows = slice(start, start + len(part["n_gal"]))
        for name in (*STATISTICS, "n_gal", "f_sat"):
            h5[f"labels/{name}"][rows] = part[name]
        for name in SUMS:
            h5[f"labels/sums/{name}"][rows] = part[name]
        masks["empty_bins"][rows] = np.any(0.5 * part["DD"] @ nesting.T < settings.min_pairs, axis=1)
        with np.errstate(invalid="ignore"):
            masks["unphysical_xi"][rows] = np.any(part["xi"] / xi_matter > settings.max_xi_ratio, axis=1)
        bar.update()
    rules = {
        "empty_bins": f"fewer than {settings.min_pairs:g} unordered pairs expected in a bin of r_edges",
        "unphysical_xi": f"xi / xi_matter > {settings.max_xi_ratio:g} in a bin of r_edges",
    }
    for name, mask in masks.items():
        create(f"masks/{name}", mask, rules[name]).attrs["count"] = int(mask.sum())


def _assemble_mocks(h5, create: _Creator, store: PartStore, settings, n_boxes: int, nesting, bar) -> None:
    mocked = settings.mocked()
    m, k, fine = len(mocked), settings.n_realisations, nesting.shape[1]
    create("mocks/index", mocked, "row of theta of each point with mocks")
    for name in _MOCK_SUMS:
        create.empty(f"mocks/{name}", (m, k, fine), "sum over ordered pairs of each mock, all boxes, in fine_edges")
    for name in _COUNTS:
        create.empty(f"mocks/{name}", (m, k, n_boxes), "of each mock, by box", np.int64)
    for row, point in enumerate(mocked):
        part = store.read(_mock_name(point))
        for name in (*_MOCK_SUMS, *_COUNTS):
            h5[f"mocks/{name}"][row] = part[name]
        bar.update()
    n_empty = np.sum(h5["mocks/DD"][:] @ nesting.T == 0, axis=1)
    create("mocks/n_empty", n_empty, "mocks without a pair, by bin of r_edges: omega and eta are NaN there")
    create("mocks/empty_bins", n_empty.any(axis=1), "a mock has an empty bin: the paper's cleaning").attrs["count"] = (
        int(n_empty.any(axis=1).sum())
    )
    h5["mocks"].attrs["seed"] = settings.seed
    h5["mocks"].attrs["seeds"] = (
        "mock i of box b at row p of theta: HalotoolsMocks.populate(theta[p], numpy.random.SeedSequence(seed, "
        "spawn_key=(p, b, i))), boxes in the order of identity/boxes_sha256"
    )


class _Creator:
    """Makes data sets with a description, compressed, with checksums, and without times, which differ between runs."""

    def __init__(self, h5: h5py.File):
        self._h5 = h5

    def __call__(self, name: str, values, description: str) -> h5py.Dataset:
        values = np.asarray(values)
        dataset = self.empty(name, values.shape, description, values.dtype)
        dataset[...] = values
        return dataset

    def empty(self, name: str, shape: tuple[int, ...], description: str, dtype: DTypeLike = np.float64) -> h5py.Dataset:
        """Make a data set for values that are not known yet."""
        rows = max(1, min(shape[0], _LABELS_PER_PART if len(shape) < 3 else 16))
        dataset = self._h5.create_dataset(
            name,
            shape,
            dtype,
            chunks=(rows, *shape[1:]),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            fletcher32=True,
            track_times=False,
        )
        dataset.attrs["description"] = description
        return dataset

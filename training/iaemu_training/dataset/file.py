"""Data sets on disk: an HDF5 file of points, noise-free labels and mocks (:mod:`iaemu_training.dataset.make`)."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.binning import PAPER_EDGES, BinningError, check_edges, nesting_matrix
from iaemu.models.base import ForwardModel
from iaemu.models.pair_sums import PairSums, correlations
from iaemu.parameters import PARAMETERS, Support
from iaemu.ranges import Range, short
from iaemu.statistics import STATISTICS
from iaemu_training.mocks.realisations import MockRealisations
from iaemu_training.pairs.galaxies import random_pairs
from iaemu_training.work.hdf5 import plain

FORMAT = "iaemu-dataset-1"
SPLITS = ("train", "validation", "test")
SUMS = ("DD", "RR", "A_c", "A_s", "E_cc", "E_cs", "E_ss")
_MOCK_SUMS = ("DD", "S_omega", "S_eta")
_COUNTS = ("n_gal", "n_sat", "n_borrowed")

Model = TypeVar("Model", bound=ForwardModel)

#: The shipped data set, with mocks of the boxes of the shipped tables.
SHIPPED_MOCKS = "calibration-pm160"

#: Largest factor by which gzip can compress.
_MAX_COMPRESSION = 1100


class DatasetError(ValueError):
    """A data set is missing, damaged, not a data set, or was made with other settings."""


def shipped_datasets() -> dict[str, Path]:
    """Return the paths of the data sets that come with the package, by name."""
    folder = resources.files("iaemu_training.dataset.shipped")
    return {Path(str(entry)).stem: Path(str(entry)) for entry in folder.iterdir() if str(entry).endswith(".hdf5")}


class Dataset:
    """A data set of parameter points, noise-free labels and mocks, in an HDF5 file.

    Arrays are read when they are first used. The layout of the file is described in docs/formats.md.

    Parameters
    ----------
    path : str or path-like
        Path of the file, or the name of a shipped data set (``calibration-pm160``).

    Attributes
    ----------
    path : Path
        The file.
    attributes : dict
        Attributes of the file, such as ``catalogues``, ``box_sizes`` [Mpc/h] and ``cosmology``.
    identity : dict
        Settings, hashes and versions that determine the content.
    support : Support
        The supported region that the points fill.

    Raises
    ------
    DatasetError
        The file is missing, damaged, or not a data set.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            self.path = shipped_datasets().get(str(path), self.path)
        if os.path.exists(self.path) and not os.path.isfile(self.path):  # reading a pipe would wait for ever
            raise DatasetError(f"{self.path} is not a file.")
        arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                arrays[name] = item.shape or (), item.dtype  # the shape of an empty data set is None

        try:
            with h5py.File(self.path, "r") as h5:
                if not np.array_equal(h5.attrs.get("format"), FORMAT):
                    raise DatasetError(f"{self.path} is not a data set of iaemu train dataset ({FORMAT}).")
                self.attributes = {key: _decode(value) for key, value in h5.attrs.items()}
                h5.visititems(note)
            size = os.path.getsize(self.path)
        except DatasetError:
            raise
        except Exception as error:  # h5py raises various classes for a damaged file
            raise DatasetError(f"{self.path} cannot be read as a data set: {error}") from error
        self._names = list(arrays)
        self.identity = self._checked_identity()
        self.support = self._checked_support()
        self._check_layout(arrays, size)

    def _checked_identity(self) -> dict:
        identity = self.attributes.get("identity")
        kinds = {"settings": dict, "boxes_sha256": list}
        if isinstance(identity, dict) and all(isinstance(identity.get(key), kind) for key, kind in kinds.items()):
            return identity
        raise DatasetError(f"{self.path} is damaged: it does not say how it was made; identity is {short(identity)}.")

    def _checked_support(self) -> Support:
        try:
            return Support.from_dict(self.attributes["support"])
        except Exception as error:
            raise DatasetError(f"{self.path} is damaged: it does not state its supported region: {error!r}.") from error

    def _check_layout(self, arrays: dict[str, tuple[tuple[int, ...], np.dtype]], size: int) -> None:
        """Check that all arrays are there and have the right shape and type, before any is read."""

        def length(name: str, axis: int = 0) -> int:
            if name not in arrays or len(arrays[name][0]) <= axis:
                raise DatasetError(f"{self.path} is damaged: there is no array {name} with {axis + 1} dimensions.")
            return arrays[name][0][axis]

        n, paper, fine = length("theta"), length("r_edges") - 1, length("fine_edges") - 1
        wanted: dict[str, tuple[str, tuple[int, ...]]] = {
            "theta": ("f", (n, len(PARAMETERS))),
            "split": ("iu", (n,)),
            "r_edges": ("f", (paper + 1,)),
            "fine_edges": ("f", (fine + 1,)),
            "xi_matter": ("f", (paper,)),
            **{f"labels/{name}": ("f", (n, paper)) for name in STATISTICS},
            **{f"labels/sums/{name}": ("f", (n, fine)) for name in SUMS},
            **{f"labels/{name}": ("f", (n,)) for name in ("n_gal", "f_sat")},
            **{f"masks/{name}": ("b", (n,)) for name in ("empty_bins", "unphysical_xi")},
        }
        if self.has_mocks:
            sides = self.attributes.get("box_sizes")
            if not isinstance(sides, list) or not all(isinstance(side, float | int) and side > 0 for side in sides):
                raise DatasetError(f"{self.path} is damaged: box_sizes is {short(sides)}.")
            m, k = length("mocks/index"), length("mocks/DD", 1)
            wanted |= {"mocks/index": ("iu", (m,)), "mocks/n_empty": ("iu", (m, paper))}
            wanted |= {f"mocks/{name}": ("f", (m, k, fine)) for name in _MOCK_SUMS}
            wanted |= {f"mocks/{name}": ("iu", (m, k, len(sides))) for name in _COUNTS}
        for name, (kinds, shape) in wanted.items():
            length(name)
            if arrays[name][0] != shape or arrays[name][1].kind not in kinds:
                found = f"{arrays[name][1]} {arrays[name][0]}"
                raise DatasetError(f"{self.path} is damaged: {name} is {found}, but must have shape {shape}.")
        if sum(math.prod(arrays[name][0]) * arrays[name][1].itemsize for name in wanted) > _MAX_COMPRESSION * size:
            raise DatasetError(f"{self.path} is damaged: its arrays are larger than a file of {size} bytes can hold.")

    def __repr__(self) -> str:
        mocks = f", mocks at {len(self.mocked)} of them" if self.has_mocks else ", no mocks"
        return f"<Dataset {str(self.path)!r}: {len(self)} points{mocks}>"

    def __len__(self) -> int:
        return len(self.theta)

    def read(self, name: str) -> np.ndarray:
        """Read an array from the file.

        Parameters
        ----------
        name : str
            Name of the array in the file, such as ``labels/sums/DD``.

        Returns
        -------
        array

        Raises
        ------
        DatasetError
            There is no such array, or it is damaged.
        """
        if name not in self._names:
            raise DatasetError(f"{self.path} has no {name}; it holds {', '.join(self._names)}.")
        try:
            with h5py.File(self.path, "r") as h5:
                return h5[name][()]
        except Exception as error:  # h5py raises various classes for a damaged file; also MemoryError
            raise DatasetError(f"{self.path}: {name} is damaged: {error}") from error

    @cached_property
    def theta(self) -> np.ndarray:
        """Parameter points (n, 7), in the order of ``iaemu.parameters.PARAMETERS``."""
        theta = self.read("theta")
        if not np.isfinite(theta).all():
            raise DatasetError(f"{self.path} is damaged: theta is not finite.")
        return theta

    @cached_property
    def split(self) -> np.ndarray:
        """Split of each point (n,), as index into ``SPLITS``: 0 training, 1 validation, 2 test."""
        split = self.read("split")
        if np.any(split >= len(SPLITS)):
            raise DatasetError(f"{self.path} is damaged: split holds numbers above {len(SPLITS) - 1}.")
        return split

    @cached_property
    def fine_edges(self) -> np.ndarray:
        """Edges of the bins of the pair sums [Mpc/h], (n_bins + 1,)."""
        try:
            return check_edges(self.read("fine_edges"))
        except BinningError as error:
            raise DatasetError(f"{self.path} is damaged: fine_edges: {error}") from error

    @cached_property
    def cleaned(self) -> np.ndarray:
        """Whether the paper's cleaning keeps each point, (n,) bool."""
        return ~(self.read("masks/empty_bins") | self.read("masks/unphysical_xi"))

    @property
    def has_mocks(self) -> bool:
        """Whether the data set has mocks."""
        return "mocks/index" in self._names

    @cached_property
    def mocked(self) -> np.ndarray:
        """Rows of ``theta`` that have mocks, (m,)."""
        index = self.read("mocks/index")
        if np.any((index < 0) | (index >= len(self))):
            raise DatasetError(f"{self.path} is damaged: mocks/index holds numbers that are not rows of theta.")
        return index

    @cached_property
    def _mock_arrays(self) -> dict[str, np.ndarray]:
        return {name: self.read(f"mocks/{name}") for name in (*_MOCK_SUMS, *_COUNTS)}

    def realisations(self, row: int, r_edges: ArrayLike = PAPER_EDGES) -> MockRealisations:
        """Return the mocks of a point, all boxes added as one volume.

        Parameters
        ----------
        row : int
            Index into ``mocked``.
        r_edges : (n_bins + 1,)
            Edges of the bins [Mpc/h], all among ``fine_edges``; by default the paper's 20 bins.

        Returns
        -------
        MockRealisations

        Raises
        ------
        DatasetError
            There is no such point.
        iaemu.binning.BinningError
            An edge is not among ``fine_edges``.
        """
        Range(at_least=0, below=len(self.mocked)).check("row", row, int, DatasetError)
        arrays = {name: values[row] for name, values in self._mock_arrays.items()}
        by_box = arrays["n_gal"]
        sides = enumerate(self.attributes["box_sizes"])
        RR = np.sum([random_pairs(by_box[:, box], side, self.fine_edges) for box, side in sides], axis=0)
        counts = {name: arrays[name].sum(axis=1) for name in _COUNTS}
        mocks = MockRealisations(self.fine_edges, RR=RR, **{name: arrays[name] for name in _MOCK_SUMS}, **counts)
        return mocks.rebinned(nesting_matrix(self.fine_edges, r_edges), r_edges)

    def expected_sums(self, rows: Any, r_edges: ArrayLike = PAPER_EDGES) -> dict[str, np.ndarray]:
        """Return the expected pair sums at some points, without noise.

        Parameters
        ----------
        rows : slice, mask or sequence of int
            Rows of ``theta``.
        r_edges : (n_bins + 1,)
            Edges of the bins [Mpc/h], all among ``fine_edges``; by default the paper's 20 bins.

        Returns
        -------
        dict of str to (len(rows), n_bins) array
            Sums over ordered pairs, by the names in ``SUMS``.

        Raises
        ------
        DatasetError
            There are no such rows, or an array is damaged.
        iaemu.binning.BinningError
            An edge is not among ``fine_edges``.
        """
        nesting = nesting_matrix(self.fine_edges, r_edges)
        chosen = self._rows(rows)
        return {name: self.read(f"labels/sums/{name}")[chosen] @ nesting.T for name in SUMS}

    def _rows(self, rows: Any) -> np.ndarray:
        try:
            chosen = np.arange(len(self))[rows]
        except (IndexError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise DatasetError(f"{self.path} has no rows {short(rows)}: {error}.") from error
        if chosen.ndim != 1:
            raise DatasetError(f"rows must be a slice, a mask or a list of whole numbers, got {short(rows)}.")
        return chosen

    def labels(self, rows: Any, r_edges: ArrayLike = PAPER_EDGES) -> dict[str, np.ndarray]:
        """Return noise-free xi, omega and eta at some points.

        Parameters
        ----------
        rows : slice, mask or sequence of int
            Rows of ``theta``.
        r_edges : (n_bins + 1,)
            Edges of the bins [Mpc/h], all among ``fine_edges``; by default the paper's 20 bins.

        Returns
        -------
        dict of str to (len(rows), n_bins) array
            By statistic.

        Raises
        ------
        DatasetError, iaemu.binning.BinningError
            See :meth:`expected_sums`.
        """
        sums = {name: torch.as_tensor(values) for name, values in self.expected_sums(rows, r_edges).items()}
        theta = torch.as_tensor(self.theta[self._rows(rows)])
        blank = torch.full((len(theta),), torch.nan)
        values = correlations(PairSums(**sums, n_galaxies=blank, f_sat=blank), theta)
        return {name: value.numpy() for name, value in values.items()}

    def summary(self) -> str:
        """Describe the content, and what the paper's cleaning would remove, in a few lines.

        Returns
        -------
        str
        """
        n = len(self)
        empty, unphysical = self.read("masks/empty_bins"), self.read("masks/unphysical_xi")
        lines = [
            f"{self.path}: {n} points ({self.identity['settings'].get('points')}), "
            + ", ".join(f"{np.sum(self.split == code)} {name}" for code, name in enumerate(SPLITS)),
            f"  the paper's cleaning would remove {empty.sum()} points where a bin is expected to be empty, and "
            f"{unphysical.sum()} where xi / xi_DM exceeds the limit; it keeps {self.cleaned.sum()} "
            f"({self.cleaned.mean():.1%})",
        ]
        if self.has_mocks:
            n_empty = self.read("mocks/n_empty")
            shape = self._mock_arrays["DD"].shape
            lines.append(
                f"  mocks: {shape[1]} at each of {shape[0]} points; {np.sum(n_empty)} of their "
                f"{n_empty.size * shape[1]} bins are empty, at {np.sum(n_empty.any(axis=1))} points"
            )
        return "\n".join(lines)


def at_redshift_of(dataset: Dataset, model: Model) -> Model:
    """Return a model at the redshift of a data set, if it is one of several redshifts.

    Parameters
    ----------
    dataset : Dataset
    model : ForwardModel

    Returns
    -------
    ForwardModel

    Raises
    ------
    RedshiftError
        The model cannot go there.
    """
    low, high = (model.redshift_range if isinstance(model, ForwardModel) else None) or (0.0, 0.0)
    # Data sets of earlier versions are all of z = 0.
    return model.at_redshift(float(dataset.attributes.get("redshift") or 0.0)) if low < high else model


def _decode(value: Any) -> Any:
    """Decode an attribute: JSON if it is valid JSON, otherwise text or a list of texts."""
    value = plain(value)
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value

"""Galaxy catalogues in files: positions and major axes, read from what people have, and written for later.

HDF5 (a data set a column, in any group, or one table), NumPy ``.npz`` and structured ``.npy``, and through astropy
``.csv``, ``.ecsv``, ``.fits``, ``.txt``. Three columns of numbers make a vector, or one column of threes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike

from iaemu_training.halos.columns import plain
from iaemu_training.work.hdf5 import write_hdf5

#: Columns that are looked for if none are named, in this order; the first is what halotools' mocks have.
POSITIONS = (("x", "y", "z"), ("positions",), ("position",), ("pos",))
AXES = (
    ("galaxy_axisA_x", "galaxy_axisA_y", "galaxy_axisA_z"),
    ("axisA_x", "axisA_y", "axisA_z"),
    ("axes",),
    ("axis",),
)

_HDF5 = (".hdf5", ".h5")
_ASTROPY = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".fits": "fits", ".txt": "ascii", ".dat": "ascii"}
_COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class GalaxyFileError(ValueError):
    """A galaxy catalogue that cannot be read as asked; the message names what is missing, and what there is."""


class GalaxyFile(NamedTuple):
    """What was read.

    Attributes
    ----------
    positions, axes : (n, 3) float64
    Lbox : float or None
        Side of the box, if the file states it (attribute or header entry ``Lbox``) [Mpc/h].
    metadata : dict
        Other attributes or header entries that are numbers or text.
    """

    positions: np.ndarray
    axes: np.ndarray
    Lbox: float | None
    metadata: dict


def read_galaxies(
    path: str | Path,
    positions: Sequence[str] = (),
    axes: Sequence[str] = (),
    select: Sequence[str] = (),
    scale: float = 1.0,
) -> GalaxyFile:
    """Read positions and major axes.

    Parameters
    ----------
    path : str or path
    positions, axes : sequence of 1 or 3 names
        Columns; a name in HDF5 may have groups (``Subhalo/SubhaloPos``). By default the first of ``POSITIONS`` and
        ``AXES`` that the file has.
    select : sequence of str
        Galaxies to keep, all of ``"column > number"`` (or >=, <, <=, ==, !=).
    scale : float
        Positions are multiplied by this: 0.001 for kpc/h.

    Returns
    -------
    GalaxyFile

    Raises
    ------
    GalaxyFileError
        Unknown format, missing column (the message lists those that there are), wrong shape, or nothing selected.
    FileNotFoundError
        No such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no galaxy catalogue {str(path)!r}.")
    columns, attributes = _read_columns(path)
    vectors = [
        _vector(path, columns, tuple(names), defaults, option)
        for names, defaults, option in ((positions, POSITIONS, "--positions"), (axes, AXES, "--axes"))
    ]
    keep = np.ones(len(vectors[0]), dtype=bool)
    for condition in select:
        keep &= _condition(path, columns, condition, len(keep))
    if not keep.any():
        raise GalaxyFileError(
            f"{path}: none of {len(keep)} galaxies is left after {' and '.join(select) or 'reading'}."
        )
    metadata = {str(key): plain(value) for key, value in attributes.items()}
    metadata = {key: value for key, value in metadata.items() if isinstance(value, (bool, int, float, str))}
    Lbox = next((metadata.pop(key) for key in list(metadata) if key.lower() == "lbox"), None)
    return GalaxyFile(
        vectors[0][keep] * scale, vectors[1][keep], None if Lbox is None else float(Lbox) * scale, metadata
    )


def write_galaxies(
    path: str | Path,
    positions: ArrayLike,
    axes: ArrayLike,
    Lbox: float,
    columns: Mapping[str, ArrayLike] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write an HDF5 file under halotools' names of columns, which :func:`read_galaxies` finds by itself.

    Parameters
    ----------
    path : str or path
    positions, axes : (n, 3)
        [Mpc/h], and unit vectors.
    Lbox : float
        [Mpc/h].
    columns : mapping of name to (n,), optional
        Further columns.
    attributes : mapping, optional
        Numbers and text about the whole.
    """
    table: dict[str, Any] = {name: np.asarray(positions)[:, i] for i, name in enumerate(POSITIONS[0])}
    table |= {name: np.asarray(axes)[:, i] for i, name in enumerate(AXES[0])}
    table |= dict(columns or {})

    def fill(file: h5py.File) -> None:
        file.attrs.update({"Lbox": float(Lbox), **(attributes or {})})
        for name, values in table.items():
            file.create_dataset(name, data=values, compression="gzip", shuffle=True)

    write_hdf5(path, fill)


def _read_columns(path: Path):
    """Columns by name, loaded on access where the format allows, and attributes."""
    suffix = path.suffix.lower()
    try:
        if suffix in _HDF5:
            with h5py.File(path, "r") as file:
                return _Hdf5Columns(path), dict(file.attrs)
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return {k: v for k, v in arrays.items() if v.ndim}, {k: v[()] for k, v in arrays.items() if not v.ndim}
        if suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            if array.dtype.names is None:
                raise GalaxyFileError(f"{path}: a .npy file needs named columns (a structured array); or use .npz.")
            return {name: array[name] for name in array.dtype.names}, {}
        if suffix in _ASTROPY:
            from astropy.table import Table

            table = Table.read(path, format=_ASTROPY[suffix])
            return {name: table[name] for name in table.colnames}, table.meta
    except GalaxyFileError:
        raise
    except (OSError, ValueError) as error:
        raise GalaxyFileError(f"{path} cannot be read as {suffix}: {error}") from error
    raise GalaxyFileError(
        f"{path}: unknown format {suffix!r}; known are {', '.join((*_HDF5, '.npz', '.npy', *_ASTROPY))}."
    )


class _Hdf5Columns(dict):
    """Names of all data sets, or of the fields of the only one; each is read when it is asked for."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        with h5py.File(path, "r") as file:
            found = {}
            file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
            for name, item in found.items():
                if item.dtype.names:
                    self.update({field: (name, field) for field in item.dtype.names})
                elif item.ndim:
                    self[name] = (name, None)

    def __getitem__(self, key):
        name, field = super().__getitem__(key)
        with h5py.File(self.path, "r") as file:
            return file[name][()] if field is None else file[name].fields(field)[()]


def _vector(path: Path, columns, names: tuple[str, ...], defaults, option: str) -> np.ndarray:
    """Columns ``names``, or the first of ``defaults`` that is there, as (n, 3) float64."""
    if not names:
        names = next((entry for entry in defaults if all(name in columns for name in entry)), ())
        if not names:
            raise GalaxyFileError(
                f"{path} has none of the columns {'; '.join(' '.join(entry) for entry in defaults)}. Name them with "
                f"{option}. {_listing(columns)}"
            )
    missing = [name for name in names if name not in columns]
    if missing:
        raise GalaxyFileError(f"{path} has no column {', '.join(missing)} ({option}). {_listing(columns)}")
    if len(names) not in (1, 3):
        raise GalaxyFileError(f"{option} takes one column of threes or three columns, got {len(names)}.")
    arrays = [_numbers(path, name, columns[name]) for name in names]
    vector = arrays[0] if len(names) == 1 else np.stack(arrays, axis=-1)
    if vector.ndim != 2 or vector.shape[1] != 3:
        raise GalaxyFileError(
            f"{path}: {' '.join(names)} ({option}) must hold three numbers a galaxy, got the shape {vector.shape}."
        )
    return vector


def _numbers(path: Path, name: str, values) -> np.ndarray:
    try:
        # Masked values of a table become NaN, which the pair counter refuses by row.
        filled = values.filled(np.nan) if hasattr(values, "filled") else values
        return np.asarray(filled, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GalaxyFileError(f"{path}: the column {name} does not hold numbers ({error}).") from error


def _condition(path: Path, columns, text: str, n: int) -> np.ndarray:
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*", text)
    name, symbol, word = match.groups() if match else ("", "", "")
    try:
        number = float(word)
    except ValueError:
        raise GalaxyFileError(
            f"--select {text!r} is not of the form 'column > number' (or >=, <, <=, ==, !=)."
        ) from None
    if name not in columns:
        raise GalaxyFileError(f"{path} has no column {name} (--select). {_listing(columns)}")
    values = _numbers(path, name, columns[name])
    if values.shape != (n,):
        raise GalaxyFileError(f"{path}: {name} (--select) must hold one number a galaxy, got {values.shape}.")
    return _COMPARISONS[symbol](values, number)


def _listing(columns) -> str:
    return f"It has: {', '.join(columns) or 'no columns'}."

"""Reading and writing galaxy catalogues: positions and major axes.

Formats are HDF5 (a data set for each column, in any group, or tables), NumPy ``.npz`` and structured ``.npy``, and
through astropy ``.fits`` and text: ``.csv``, ``.ecsv``, ``.txt``, ``.dat``, ``.ascii``, also compressed (``.gz``,
``.bz2``, ``.xz``). A vector is three columns of numbers, or one column of triples.

A column in a group or table is called ``table/column``. The name of the column alone is enough if only one table has
it, so that galaxies and halos in one file are not mixed up.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike

from iaemu.display import shorten
from iaemu.files import read_text
from iaemu.ranges import Range
from iaemu_training.halos.columns import plain
from iaemu_training.work.hdf5 import write_hdf5

#: Columns that are looked for by default, in this order. The first are those of halotools' mocks.
POSITIONS = (("x", "y", "z"), ("positions",), ("position",), ("pos",))
AXES = (
    ("galaxy_axisA_x", "galaxy_axisA_y", "galaxy_axisA_z"),
    ("axisA_x", "axisA_y", "axisA_z"),
    ("axes",),
    ("axis",),
)

_HDF5 = (".hdf5", ".h5")
_FITS = (".fits", ".fit")
_TEXT = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".txt": "ascii", ".dat": "ascii", ".ascii": "ascii"}
_COMPRESSED = (".gz", ".bz2", ".xz")
#: Largest plausible side of a box [Mpc/h]; a larger one is probably in kpc/h.
_LARGEST_BOX = 2e4
_COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class GalaxyFileError(ValueError):
    """A galaxy catalogue cannot be read or written as asked."""


class GalaxyFile(NamedTuple):
    """Galaxies that were read from a file.

    Attributes
    ----------
    positions : (n, 3) float64
        Positions [Mpc/h].
    axes : (n, 3) float64
        Major axes, not normalised.
    Lbox : float or None
        Side of the box [Mpc/h], if the file states it as the attribute or header entry ``Lbox`` or ``Header/BoxSize``.
    metadata : dict
        Other attributes or header entries that are numbers or text.
    """

    positions: np.ndarray
    axes: np.ndarray
    Lbox: float | None
    metadata: dict

    def __repr__(self) -> str:
        box = "no Lbox stated" if self.Lbox is None else f"Lbox = {self.Lbox:g} Mpc/h"
        return f"<GalaxyFile: {len(self.positions)} galaxies, {box}>"


def read_galaxies(
    path: str | Path,
    positions: Sequence[str] = (),
    axes: Sequence[str] = (),
    select: Sequence[str] = (),
    scale: float = 1.0,
) -> GalaxyFile:
    """Read positions and major axes of galaxies from a file.

    Parameters
    ----------
    path : str or path-like
        The file.
    positions, axes : sequence of 1 or 3 str
        Names of the columns, with groups in HDF5 (``Subhalo/SubhaloPos``). By default the first of ``POSITIONS`` and
        ``AXES`` that the file has.
    select : sequence of str
        Conditions that galaxies must meet, each of the form ``"column > number"`` (or >=, <, <=, ==, !=).
    scale : float
        Factor by which positions and the side of the box are multiplied: 0.001 if they are in kpc/h.

    Returns
    -------
    GalaxyFile

    Raises
    ------
    GalaxyFileError
        The format is unknown or the file is damaged; a column is missing, is in several tables, does not hold numbers
        or has a wrong shape; no galaxy is selected; a selected galaxy has a value that is not finite or an axis of
        length 0; or the side of the box is not valid.
    FileNotFoundError
        There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no galaxy catalogue {str(path)!r}.")
    Range(above=0).check("scale", scale, float, GalaxyFileError)
    scale = float(scale)
    columns, attributes = _read_columns(path)
    given = [(names,) if isinstance(names, str) else tuple(names) for names in (positions, axes)]
    first = _find(path, columns, given[0], POSITIONS, "--positions")
    second = _find(path, columns, given[1], AXES, "--axes", columns[first[0]].table)
    _check_tables(path, columns, (first, given[0]), (second, given[1]))
    x, e = _vector(path, columns, first, "--positions"), _vector(path, columns, second, "--axes")
    if len(x) != len(e):
        raise GalaxyFileError(
            f"{path}: {' '.join(first)} hold {len(x)} galaxies, but {' '.join(second)} hold {len(e)}."
        )
    keep = np.ones(len(x), dtype=bool)
    for condition in [select] if isinstance(select, str) else select:
        keep &= _condition(path, columns, condition, len(keep), columns[first[0]].table)
    if not keep.any():
        raise GalaxyFileError(
            f"{path}: none of the {len(keep)} galaxies meets {' and '.join(select) or 'the conditions'}."
        )
    for names, values in ((first, x), (second, e)):
        _check_rows(path, names, keep & ~np.isfinite(values).all(axis=1), "values that are missing or not finite")
    _check_rows(path, second, keep & ~e.any(axis=1), "axes of length 0")
    Lbox = _box_side(path, attributes, scale)
    metadata = {str(key): plain(value) for key, value in attributes.items() if str(key).lower() not in _SIDES}
    metadata = {key: value for key, value in metadata.items() if isinstance(value, (bool, int, float, str))}
    return GalaxyFile(x[keep] * scale, e[keep], Lbox, metadata)


def write_galaxies(
    path: str | Path,
    positions: ArrayLike,
    axes: ArrayLike,
    Lbox: float,
    columns: Mapping[str, ArrayLike] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write galaxies to an HDF5 file, with halotools' names of columns, which :func:`read_galaxies` finds by default.

    Parameters
    ----------
    path : str or path-like
        The HDF5 file to write.
    positions : (n, 3)
        Positions [Mpc/h].
    axes : (n, 3)
        Major axes.
    Lbox : float
        Side of the box [Mpc/h].
    columns : mapping of str to (n,) array, optional
        Further columns.
    attributes : mapping, optional
        Attributes of the file: numbers and text.

    Raises
    ------
    GalaxyFileError
        Positions or axes are not three finite numbers for each galaxy, a column has another length, or HDF5 cannot
        hold a column or an attribute.
    OSError
        The file cannot be written; an older file is left unchanged.
    """
    Range(above=0).check("Lbox", Lbox, float, GalaxyFileError)
    table: dict[str, Any] = {}
    for names, given in ((POSITIONS[0], positions), (AXES[0], axes)):
        vector = _numbers(Path(path), " ".join(names), partial(np.ma.asanyarray, given), "iuf")
        if vector.ndim != 2 or vector.shape[1] != 3 or not np.isfinite(vector).all():
            raise GalaxyFileError(
                f"{' '.join(names)} must be three finite numbers for each galaxy, got an array of shape {vector.shape}."
            )
        table |= dict(zip(names, vector.T, strict=True))
    for what, extra in {"columns": columns, "attributes": attributes}.items():
        if extra is not None and (not isinstance(extra, Mapping) or any(not isinstance(key, str) for key in extra)):
            raise GalaxyFileError(f"{what} must be a mapping of names to values, got {extra!r:.80}.")
    table |= columns or {}

    def fill(file: h5py.File) -> None:
        file.attrs.update({"Lbox": float(Lbox), **(attributes or {})})
        for name, values in table.items():
            if np.shape(values) != (len(table["x"]),):
                raise ValueError(f"the column {name} has shape {np.shape(values)}, for {len(table['x'])} galaxies")
            file.create_dataset(name, data=values, compression="gzip", shuffle=True)

    try:
        write_hdf5(path, fill)
    except OSError:
        raise
    except Exception as error:  # h5py raises various classes
        raise GalaxyFileError(f"{path}: these galaxies cannot be written as HDF5: {error}") from error


class _Column(NamedTuple):
    """A column: its table or group, its name there, and a function that reads it."""

    table: str
    name: str
    read: Callable[[], Any]


_Columns = dict[str, _Column]
#: Names of attributes that hold the side of the box, in lower case. In TNG it is in a group.
_SIDES = ("lbox", "header/boxsize")


def _read_columns(path: Path) -> tuple[_Columns, dict[str, Any]]:
    """Return the columns of a file by their full names, and its attributes."""
    suffix = path.suffix.lower()
    packed = suffix in _COMPRESSED
    if packed:
        suffix = Path(path.stem).suffix.lower()
    known = {**dict.fromkeys(_HDF5, _of_hdf5), ".npz": _of_npz, ".npy": _of_npy, **dict.fromkeys(_FITS, _of_fits)}
    known |= dict.fromkeys(_TEXT, _of_text)
    if suffix not in known:
        raise GalaxyFileError(f"{path}: unknown format {suffix!r}; known are {', '.join(known)}.")
    if packed and suffix not in (*_TEXT, *_FITS):
        raise GalaxyFileError(f"{path}: only text and FITS can be read compressed; unpack the file first.")
    try:
        return known[suffix](path)
    except GalaxyFileError:
        raise
    except Exception as error:  # h5py, zipfile, NumPy and astropy raise various classes for a damaged file
        raise GalaxyFileError(f"{path} cannot be read as {suffix}: {error or type(error).__name__}") from error


def _of_hdf5(path: Path) -> tuple[_Columns, dict[str, Any]]:
    columns: _Columns = {}
    with h5py.File(path, "r") as file:

        def add(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.names:
                for field in item.dtype.names:
                    columns[f"{name}/{field}"] = _Column(name, field, partial(_hdf5_values, path, name, field))
            elif isinstance(item, h5py.Dataset) and item.ndim:
                table, _, short = name.rpartition("/")
                columns[name] = _Column(table, short, partial(_hdf5_values, path, name, None))

        file.visititems(add)
        attributes = dict(file.attrs)
        if "Header" in file and "BoxSize" in file["Header"].attrs:
            attributes["Header/BoxSize"] = file["Header"].attrs["BoxSize"]
        return columns, attributes


def _hdf5_values(path: Path, name: str, field: str | None) -> np.ndarray:
    with h5py.File(path, "r") as file:
        return file[name][()] if field is None else file[name].fields(field)[()]


def _of_npz(path: Path) -> tuple[_Columns, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    columns: _Columns = {}
    for name, array in arrays.items():
        if array.dtype.names:
            columns |= _of_table(array, array.dtype.names, f"{name}/")
        elif array.ndim:
            columns |= _of_table(arrays, [name])
    return columns, {name: array[()] for name, array in arrays.items() if not array.ndim}


def _of_npy(path: Path) -> tuple[_Columns, dict[str, Any]]:
    array = np.load(path, allow_pickle=False)
    if array.dtype.names is None:
        raise GalaxyFileError(f"{path}: a .npy file needs named columns (a structured array); or use .npz.")
    return _of_table(array, array.dtype.names), {}


def _of_fits(path: Path) -> tuple[_Columns, dict[str, Any]]:
    from astropy.io import fits
    from astropy.table import Table

    columns: _Columns = {}
    with fits.open(path, memmap=False) as units:
        attributes = dict(units[0].header)
        tables = [(number, unit) for number, unit in enumerate(units) if isinstance(unit, fits.BinTableHDU)]
        for number, unit in tables:
            table = Table.read(unit)
            columns |= _of_table(table, table.colnames, f"{unit.name or number}/" if len(tables) > 1 else "")
            attributes |= table.meta
    return columns, attributes


def _of_text(path: Path) -> tuple[_Columns, dict[str, Any]]:
    from astropy.table import Table

    lines = read_text(path).split("\n")
    suffix = path.suffix.lower() if path.suffix.lower() in _TEXT else Path(path.stem).suffix.lower()
    style = _TEXT[suffix]
    if style == "ascii.csv" and lines[0].startswith("#"):
        style = "ascii"  # this guesses whether the first line is a comment or holds the names of the columns
    table = Table.read(lines, format=style)
    return _of_table(table, table.colnames), table.meta


def _of_table(table: Any, names: Sequence[str], prefix: str = "") -> _Columns:
    return {f"{prefix}{name}": _Column(prefix[:-1], name, partial(operator.getitem, table, name)) for name in names}


def _find(
    path: Path, columns: _Columns, names: tuple[str, ...], defaults, option: str, table: str | None = None
) -> list[str]:
    """Return the full names of the columns ``names``, or of the first of ``defaults`` that a table has."""
    if names:
        if len(names) not in (1, 3):
            raise GalaxyFileError(f"{option} takes three columns, or one column of triples; got {len(names)}.")
        known = {*columns, *(column.name for column in columns.values())}
        missing = [name for name in names if name not in known]
        if missing:
            raise GalaxyFileError(f"{path} has no column {', '.join(missing)} ({option}). {_listing(columns)}")
        return [_full_name(path, columns, name, option, table) for name in names]
    for entry in defaults:
        tables = [
            place
            for place in dict.fromkeys(column.table for column in columns.values())
            if all(_joined(place, name) in columns for name in entry)
        ]
        if len(tables) > 1 and table not in tables:
            raise GalaxyFileError(
                f"{path}: the columns {' '.join(entry)} are in {_listed_tables(tables)}. Name those that you want: "
                f"{option} {' '.join(_joined(tables[0] or tables[1], name) for name in entry)}."
            )
        if tables:
            return [_joined(table if table in tables else tables[0], name) for name in entry]
    raise GalaxyFileError(
        f"{path} has none of the columns {'; '.join(' '.join(entry) for entry in defaults)}. Name them with "
        f"{option}. {_listing(columns)}"
    )


def _full_name(path: Path, columns: _Columns, name: str, option: str, table: str | None = None) -> str:
    if table is not None and _joined(table, name) in columns:
        return _joined(table, name)
    if name in columns:
        return name
    found = [full for full, column in columns.items() if column.name == name]
    if not found:
        raise GalaxyFileError(f"{path} has no column {name} ({option}). {_listing(columns)}")
    if len(found) > 1:
        raise GalaxyFileError(
            f"{path}: the column {name} ({option}) is in {_listed_tables([columns[full].table for full in found])}. "
            f"Name the one that you want: {' or '.join(found)}."
        )
    return found[0]


def _check_tables(path: Path, columns: _Columns, *wanted: tuple[list[str], tuple[str, ...]]) -> None:
    """Reject columns of several tables, unless the user gave their full names: their rows may be other galaxies."""
    tables = dict.fromkeys(columns[name].table for names, _ in wanted for name in names)
    if len(tables) > 1 and any(name not in given for names, given in wanted for name in names):
        raise GalaxyFileError(
            f"{path}: these columns are in {_listed_tables(list(tables))}: "
            f"{', '.join(name for names, _ in wanted for name in names)}. If the same rows of these tables are the "
            f"same galaxies, give these full names with --positions and --axes."
        )


def _joined(table: str, name: str) -> str:
    return f"{table}/{name}" if table else name


def _listed_tables(tables: Sequence[str]) -> str:
    return " and ".join(f"the table {table}" if table else "the top of the file" for table in tables)


def _vector(path: Path, columns: _Columns, names: Sequence[str], option: str) -> np.ndarray:
    """Return columns as a float64 array (n, 3)."""
    arrays = [_numbers(path, name, columns[name].read, "iuf") for name in names]
    if len({array.shape for array in arrays}) > 1:
        raise GalaxyFileError(
            f"{path}: {' '.join(names)} ({option}) differ in shape: {', '.join(str(a.shape) for a in arrays)}."
        )
    vector = arrays[0] if len(names) == 1 else np.stack(arrays, axis=-1)
    if vector.ndim != 2 or vector.shape[1] != 3:
        raise GalaxyFileError(
            f"{path}: {' '.join(names)} ({option}) must hold three numbers for each galaxy, got shape {vector.shape}."
        )
    return vector.astype(np.float64)


def _numbers(path: Path, name: str, read: Callable[[], Any], kinds: str) -> np.ndarray:
    """Read an array of numbers of some kinds; masked entries become NaN."""
    try:
        values = np.ma.asanyarray(read())
        if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
            values = np.ma.filled(np.ma.MaskedArray(values, dtype=np.float64), np.nan)
        array = np.asarray(values)
    except Exception as error:  # the libraries that read columns raise various classes
        raise GalaxyFileError(f"{path}: the column {name} cannot be read as numbers: {error}") from error
    if array.dtype.kind not in kinds:
        raise GalaxyFileError(f"{path}: the column {name} does not hold numbers, but {_sample(array)}.")
    return array


def _sample(array: np.ndarray) -> str:
    return shorten(f"{array.dtype} such as {array.ravel()[0]!r}" if array.size else array.dtype)


def _check_rows(path: Path, names: Sequence[str], bad: np.ndarray, what: str) -> None:
    if bad.any():
        raise GalaxyFileError(
            f"{path}: {' '.join(names)} hold {what} in {bad.sum()} rows, first in row {int(np.argmax(bad))} of the "
            f"file (counted from 0). Leave these galaxies out with --select, or correct the file."
        )


def _box_side(path: Path, attributes: Mapping[str, Any], scale: float) -> float | None:
    """Return the side of the box that the file states, times ``scale``."""
    for key, value in attributes.items():
        if str(key).lower() in _SIDES:
            try:
                sides = np.unique(np.asarray(plain(value), dtype=np.float64))
            except (TypeError, ValueError):
                sides = np.array([])
            if len(sides) != 1 or not 0 < sides[0] < np.inf:
                raise GalaxyFileError(f"{path}: its {key} = {value!r:.80} is not the side of a cubic box.")
            side = float(sides[0]) * scale
            if side > _LARGEST_BOX:
                raise GalaxyFileError(
                    f"{path}: its {key} = {sides[0]:g} makes a box of {side:g} Mpc/h, which is implausible. If it and "
                    f"the positions are in kpc/h, give --scale 0.001."
                )
            return side
    return None


def _condition(path: Path, columns: _Columns, text: str, n: int, table: str) -> np.ndarray:
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*", text)
    name, symbol, word = match.groups() if match else ("", "", "")
    try:
        number = float(word)
    except ValueError:
        number = np.nan
    if np.isnan(number):
        raise GalaxyFileError(f"--select {text!r} is not of the form 'column > number' (or >=, <, <=, ==, !=).")
    full = _full_name(path, columns, name, "--select", table)
    values = _numbers(path, full, columns[full].read, "iufb")
    if values.shape != (n,):
        raise GalaxyFileError(f"{path}: {full} (--select) must hold one number for each galaxy, got {values.shape}.")
    if values.dtype.kind in "iu" and re.fullmatch(r"[+-]?\d{1,18}", word):
        return _COMPARISONS[symbol](values, int(word))  # float64 cannot represent long identifiers
    return _COMPARISONS[symbol](values, number) & ~np.isnan(values)


def _listing(columns: _Columns) -> str:
    return f"It has: {', '.join(columns) or 'no columns'}."

"""Files that hold named columns of numbers, and how to find columns in them.

Formats are HDF5 (a data set for each column, in any group, or tables), NumPy ``.npz`` and structured ``.npy``, and
through astropy ``.fits`` and text: ``.csv``, ``.ecsv``, ``.txt``, ``.dat``, ``.ascii``, also compressed (``.gz``,
``.bz2``, ``.xz``). A vector is three columns of numbers, or one column of triples.

A column in a group or table is called ``table/column``. The name of the column alone is enough if only one table has
it, so that galaxies and halos in one file are not mixed up.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from iaemu.display import shorten
from iaemu.files import read_text
from iaemu_training.work.hdf5 import plain

_HDF5 = (".hdf5", ".h5")
_FITS = (".fits", ".fit")
_TEXT = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".txt": "ascii", ".dat": "ascii", ".ascii": "ascii"}
_COMPRESSED = (".gz", ".bz2", ".xz")
#: Largest plausible side of a box [Mpc/h]; a larger one is probably in kpc/h.
_LARGEST_BOX = 2e4
#: Names of attributes that hold the side of the box, in lower case. In TNG it is in a group.
SIDES = ("lbox", "header/boxsize")


class ColumnError(ValueError):
    """A file of columns cannot be read as asked."""


class Column(NamedTuple):
    """A column of a file.

    Attributes
    ----------
    table : str
        Its table or group; empty at the top of the file.
    name : str
        Its name there.
    read : callable
        Returns its values.
    """

    table: str
    name: str
    read: Callable[[], Any]


_Columns = dict[str, Column]


class ColumnFile:
    """A file with named columns, which are read when they are asked for.

    Parameters
    ----------
    path : path-like
        The file.
    row : str
        What a row is, for error messages: "galaxy".
    error : type
        Class of the exceptions that are raised.

    Attributes
    ----------
    path : Path
    columns : dict of str to Column
        By full name, ``table/column``.
    attributes : dict
        Attributes or header entries of the file.

    Raises
    ------
    ColumnError
        Or the class that is given: the format is unknown, or the file is damaged.
    FileNotFoundError
        There is no such file.
    """

    def __init__(self, path: str | Path, row: str = "row", error: type[ValueError] = ColumnError):
        self.path, self._row, self._error = Path(path), row, error
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no {row} catalogue {str(path)!r}.")
        self.columns, self.attributes = self._open()

    def _open(self) -> tuple[_Columns, dict[str, Any]]:
        path = self.path
        suffix = path.suffix.lower()
        packed = suffix in _COMPRESSED
        if packed:
            suffix = Path(path.stem).suffix.lower()
        known = {**dict.fromkeys(_HDF5, _of_hdf5), ".npz": _of_npz, ".npy": _of_npy, **dict.fromkeys(_FITS, _of_fits)}
        known |= dict.fromkeys(_TEXT, _of_text)
        if suffix not in known:
            raise self._error(f"{path}: unknown format {suffix!r}; known are {', '.join(known)}.")
        if packed and suffix not in (*_TEXT, *_FITS):
            raise self._error(f"{path}: only text and FITS can be read compressed; unpack the file first.")
        try:
            return known[suffix](path)
        except ColumnError as error:
            raise self._error(str(error)) from error
        except Exception as error:  # h5py, zipfile, NumPy and astropy raise various classes for a damaged file
            raise self._error(f"{path} cannot be read as {suffix}: {error or type(error).__name__}") from error

    def find(
        self,
        names: Sequence[str],
        defaults: Sequence[Sequence[str]],
        option: str,
        table: str | None = None,
        vector: bool = True,
    ) -> list[str]:
        """Return the full names of columns.

        Parameters
        ----------
        names : sequence of str
            Their names: one or three for a vector, one for a number. If there are none, the first of the defaults that
            a table has.
        defaults : sequence of sequence of str
        option : str
            What gives the names, for error messages.
        table : str, optional
            The table that is preferred.
        vector : bool
            Whether they hold a vector.

        Returns
        -------
        list of str

        Raises
        ------
        ColumnError
            Or the class of the file: a column is missing, or in several tables.
        """
        path, columns = self.path, self.columns
        if names:
            if vector and len(names) not in (1, 3):
                raise self._error(f"{option} takes three columns, or one column of triples; got {len(names)}.")
            known = {*columns, *(column.name for column in columns.values())}
            missing = [name for name in names if name not in known]
            if missing:
                raise self._error(f"{path} has no column {', '.join(missing)} ({option}). {self._listing()}")
            return [self.full_name(name, option, table) for name in names]
        for entry in defaults:
            tables = [
                place
                for place in dict.fromkeys(column.table for column in columns.values())
                if all(_joined(place, name) in columns for name in entry)
            ]
            if len(tables) > 1 and table not in tables:
                raise self._error(
                    f"{path}: the columns {' '.join(entry)} are in {_listed_tables(tables)}. Name those that you want: "
                    f"{option} {' '.join(_joined(tables[0] or tables[1], name) for name in entry)}."
                )
            if tables:
                return [_joined(table if table in tables else tables[0], name) for name in entry]
        raise self._error(
            f"{path} has none of the columns {'; '.join(' '.join(entry) for entry in defaults)}. Name them with "
            f"{option}. {self._listing()}"
        )

    def full_name(self, name: str, option: str, table: str | None = None) -> str:
        """Return the full name of one column, as :meth:`find` does."""
        path, columns = self.path, self.columns
        if table is not None and _joined(table, name) in columns:
            return _joined(table, name)
        if name in columns:
            return name
        found = [full for full, column in columns.items() if column.name == name]
        if not found:
            raise self._error(f"{path} has no column {name} ({option}). {self._listing()}")
        if len(found) > 1:
            raise self._error(
                f"{path}: the column {name} ({option}) is in {_listed_tables([columns[full].table for full in found])}."
                f" Name the one that you want: {' or '.join(found)}."
            )
        return found[0]

    def check_tables(self, *wanted: tuple[Sequence[str], Sequence[str]], options: str) -> None:
        """Reject columns of several tables, unless the user gave their full names: their rows may be other objects.

        Parameters
        ----------
        *wanted : (list of str, sequence of str)
            Full names, and those that the user gave.
        options : str
            What gives the names, for the error message.
        """
        tables = dict.fromkeys(self.columns[name].table for names, _ in wanted for name in names)
        if len(tables) > 1 and any(name not in given for names, given in wanted for name in names):
            raise self._error(
                f"{self.path}: these columns are in {_listed_tables(list(tables))}: "
                f"{', '.join(name for names, _ in wanted for name in names)}. If the same rows of these tables are the "
                f"same {self._row}, give these full names with {options}."
            )

    def vector(self, names: Sequence[str], option: str) -> np.ndarray:
        """Read columns as an array (n, 3) of float64.

        Parameters
        ----------
        names : sequence of 1 or 3 str
            Full names.
        option : str
            What gives them, for error messages.

        Returns
        -------
        (n, 3) float64
        """
        arrays = [self.numbers(name) for name in names]
        if len({array.shape for array in arrays}) > 1:
            raise self._error(
                f"{self.path}: {' '.join(names)} ({option}) differ in shape: {', '.join(str(a.shape) for a in arrays)}."
            )
        vector = arrays[0] if len(names) == 1 else np.stack(arrays, axis=-1)
        if vector.ndim != 2 or vector.shape[1] != 3:
            raise self._error(
                f"{self.path}: {' '.join(names)} ({option}) must hold three numbers for each {self._row}, got shape "
                f"{vector.shape}."
            )
        return vector.astype(np.float64)

    def numbers(self, name: str, kinds: str = "iuf") -> np.ndarray:
        """Read a column of numbers; masked entries become NaN.

        Parameters
        ----------
        name : str
            Full name.
        kinds : str
            Kinds of NumPy's types that are allowed.

        Returns
        -------
        array
        """
        return read_numbers(self.path, name, self.columns[name].read, kinds, self._error)

    def box_side(self, scale: float, option: str = "--scale") -> float | None:
        """Return the side of the box that the file states, times ``scale``; None if it does not.

        Parameters
        ----------
        scale : float
        option : str
            What gives it, for error messages.

        Returns
        -------
        float or None
        """
        for key, value in self.attributes.items():
            if str(key).lower() in SIDES:
                try:
                    sides = np.unique(np.asarray(plain(value), dtype=np.float64))
                except (TypeError, ValueError):
                    sides = np.array([])
                if len(sides) != 1 or not 0 < sides[0] < np.inf:
                    raise self._error(f"{self.path}: its {key} = {value!r:.80} is not the side of a cubic box.")
                side = float(sides[0]) * scale
                if side > _LARGEST_BOX:
                    raise self._error(
                        f"{self.path}: its {key} = {sides[0]:g} makes a box of {side:g} Mpc/h, which is implausible. "
                        f"If it and the positions are in kpc/h, give {option} 0.001."
                    )
                return side
        return None

    def metadata(self) -> dict[str, Any]:
        """Return the attributes that are numbers or text, without the side of the box."""
        found = {str(key): plain(value) for key, value in self.attributes.items() if str(key).lower() not in SIDES}
        return {key: value for key, value in found.items() if isinstance(value, (bool, int, float, str))}

    def _listing(self) -> str:
        return f"It has: {', '.join(self.columns) or 'no columns'}."


def read_numbers(path: Path, name: str, read: Callable[[], Any], kinds: str, error: type[ValueError]) -> np.ndarray:
    """Read an array of numbers of some kinds; masked entries become NaN.

    Parameters
    ----------
    path : Path
    name : str
        Of the column, for error messages.
    read : callable
        Returns the values.
    kinds : str
        Kinds of NumPy's types that are allowed.
    error : type
        Class of the exception if they are not numbers.

    Returns
    -------
    array
    """
    try:
        values = np.ma.asanyarray(read())
        if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
            values = np.ma.filled(np.ma.MaskedArray(values, dtype=np.float64), np.nan)
        array = np.asarray(values)
    except Exception as reason:  # the libraries that read columns raise various classes
        raise error(f"{path}: the column {name} cannot be read as numbers: {reason}") from reason
    if array.dtype.kind not in kinds:
        raise error(f"{path}: the column {name} does not hold numbers, but {_sample(array)}.")
    return array


def _of_hdf5(path: Path) -> tuple[_Columns, dict[str, Any]]:
    columns: _Columns = {}
    with h5py.File(path, "r") as file:

        def add(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.names:
                for field in item.dtype.names:
                    columns[f"{name}/{field}"] = Column(name, field, partial(_hdf5_values, path, name, field))
            elif isinstance(item, h5py.Dataset) and item.ndim:
                table, _, short = name.rpartition("/")
                columns[name] = Column(table, short, partial(_hdf5_values, path, name, None))

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
        raise ColumnError(f"{path}: a .npy file needs named columns (a structured array); or use .npz.")
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
    return {f"{prefix}{name}": Column(prefix[:-1], name, partial(operator.getitem, table, name)) for name in names}


def _joined(table: str, name: str) -> str:
    return f"{table}/{name}" if table else name


def _listed_tables(tables: Sequence[str]) -> str:
    return " and ".join(f"the table {table}" if table else "the top of the file" for table in tables)


def _sample(array: np.ndarray) -> str:
    return shorten(f"{array.dtype} such as {array.ravel()[0]!r}" if array.size else array.dtype)

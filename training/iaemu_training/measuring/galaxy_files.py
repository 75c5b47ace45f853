"""Reading and writing galaxy catalogues: positions and major axes.

Formats and names of columns are those of :mod:`iaemu_training.work.columns`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike

from iaemu.ranges import Range
from iaemu_training.work.columns import ColumnFile, read_numbers
from iaemu_training.work.hdf5 import write_hdf5

#: Columns that are looked for by default, in this order. The first are those of halotools' mocks.
POSITIONS = (("x", "y", "z"), ("positions",), ("position",), ("pos",))
AXES = (
    ("galaxy_axisA_x", "galaxy_axisA_y", "galaxy_axisA_z"),
    ("axisA_x", "axisA_y", "axisA_z"),
    ("axes",),
    ("axis",),
)

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
    Range(above=0).check("scale", scale, float, GalaxyFileError)
    scale = float(scale)
    file = ColumnFile(path, "galaxy", GalaxyFileError)
    path, columns = file.path, file.columns
    given = [(names,) if isinstance(names, str) else tuple(names) for names in (positions, axes)]
    first = file.find(given[0], POSITIONS, "--positions")
    second = file.find(given[1], AXES, "--axes", columns[first[0]].table)
    file.check_tables((first, given[0]), (second, given[1]), options="--positions and --axes")
    x, e = file.vector(first, "--positions"), file.vector(second, "--axes")
    if len(x) != len(e):
        raise GalaxyFileError(
            f"{path}: {' '.join(first)} hold {len(x)} galaxies, but {' '.join(second)} hold {len(e)}."
        )
    keep = np.ones(len(x), dtype=bool)
    for condition in [select] if isinstance(select, str) else select:
        keep &= _condition(file, condition, len(keep), columns[first[0]].table)
    if not keep.any():
        raise GalaxyFileError(
            f"{path}: none of the {len(keep)} galaxies meets {' and '.join(select) or 'the conditions'}."
        )
    for names, values in ((first, x), (second, e)):
        _check_rows(path, names, keep & ~np.isfinite(values).all(axis=1), "values that are missing or not finite")
    _check_rows(path, second, keep & ~e.any(axis=1), "axes of length 0")
    return GalaxyFile(x[keep] * scale, e[keep], file.box_side(scale), file.metadata())


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
        vector = read_numbers(Path(path), " ".join(names), partial(np.ma.asanyarray, given), "iuf", GalaxyFileError)
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


def _check_rows(path: Path, names: Sequence[str], bad: np.ndarray, what: str) -> None:
    if bad.any():
        raise GalaxyFileError(
            f"{path}: {' '.join(names)} hold {what} in {bad.sum()} rows, first in row {int(np.argmax(bad))} of the "
            f"file (counted from 0). Leave these galaxies out with --select, or correct the file."
        )


def _condition(file: ColumnFile, text: str, n: int, table: str) -> np.ndarray:
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*", text)
    name, symbol, word = match.groups() if match else ("", "", "")
    try:
        number = float(word)
    except ValueError:
        number = np.nan
    if np.isnan(number):
        raise GalaxyFileError(f"--select {text!r} is not of the form 'column > number' (or >=, <, <=, ==, !=).")
    full = file.full_name(name, "--select", table)
    values = file.numbers(full, "iufb")
    if values.shape != (n,):
        raise GalaxyFileError(
            f"{file.path}: {full} (--select) must hold one number for each galaxy, got {values.shape}."
        )
    if values.dtype.kind in "iu" and re.fullmatch(r"[+-]?\d{1,18}", word):
        return _COMPARISONS[symbol](values, int(word))  # float64 cannot represent long identifiers
    return _COMPARISONS[symbol](values, number) & ~np.isnan(values)

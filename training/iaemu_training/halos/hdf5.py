"""Halo catalogues in HDF5: halotools' columns in the root, a group or a table; and the packed form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from iaemu_training.halos.columns import COLUMNS, MASS_COLUMN, CatalogueError, HaloColumns, missing_columns
from iaemu_training.work.hdf5 import plain

#: Packed files have a checksum since format 2.
PACKED_FORMAT, UNSEALED_FORMAT = "iaemu-packed-halos-2", "iaemu-packed-halos-1"
SEAL = "sha256"
#: Data sets of a packed file: type, and numbers in each row.
PACKED = {
    "position": ("<u2", 3),
    "mass": ("<f4", 1),
    "axis": ("<i2", 3),
    "n_subhalos": ("<u2", 1),
    "offset": ("<i2", 3),
    "velocity": ("<i2", 3),
}
#: Data sets that may be missing.
OPTIONAL = ("velocity",)

_BOX_OF_TNG = "Header/BoxSize"


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Parameters
    ----------
    path : path-like
        The file.

    Yields
    ------
    h5py.File

    Raises
    ------
    CatalogueError
        The file is damaged or is not HDF5; replaces the exceptions of h5py and numpy, also within the block.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except CatalogueError:
        raise
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise CatalogueError(
            f"{path} cannot be read as HDF5, or is damaged ({type(error).__name__}: {error}). Copy or make it again."
        ) from error


def read_hdf5(path: str | Path, Lbox: float | None = None) -> HaloColumns:
    """Read columns under halotools' names: data sets in any one group, or the fields of a table.

    The side of the box is the attribute or the data set ``Lbox`` [Mpc/h] of the file, the group or the table. If there
    is none, it is ``Header/BoxSize`` in kpc/h, as in TNG.

    Parameters
    ----------
    path : path-like
        The HDF5 file.
    Lbox : float, optional
        Side of the box [Mpc/h], by default as above.

    Returns
    -------
    HaloColumns

    Raises
    ------
    CatalogueError
        The file is damaged, none or several of its groups and tables have all columns, or the side of the box is not
        stated.
    """
    path = Path(path)
    with opened(path) as file:
        where, table = _table(file, path.name)
        shapes = {name: column.shape for name, (column, _) in table.items()}
        if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) > 1:
            raise CatalogueError(f"{path.name}: the columns must have the same length; their shapes are {shapes}.")
        columns = {
            name: column[()] if field is None else column.fields(field)[()] for name, (column, field) in table.items()
        }
        places = [file["/".join(where.split("/")[:depth]) or "/"] for depth in range(where.count("/") + 2)]
        attributes = {str(key): plain(value) for place in places for key, value in place.attrs.items()}
        Lbox, note = _side(file, places, path.name) if Lbox is None else (Lbox, {})
    attributes = {key: value for key, value in attributes.items() if key.lower() != "lbox"} | note
    name = str(attributes.pop("catalogue", attributes.get("simname", path.stem)))
    if "min_mass" not in attributes and "halo_mpeak_row_cut_min" in attributes:  # halotools' name for it
        attributes["min_mass"] = attributes["halo_mpeak_row_cut_min"]
    return HaloColumns(columns, Lbox, name, attributes)


def _table(file: h5py.File, name: str) -> tuple[str, dict[str, tuple[h5py.Dataset, str | None]]]:
    """Find the table or group that has all columns: its path ("" for the root), and its columns with their fields."""
    tables: dict[str, dict] = {}

    def add(path: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        group, _, column = path.rpartition("/")
        offered = {field: (item, field) for field in item.dtype.names or ()} or {column: (item, None)}
        found = {key: value for key, value in offered.items() if key in (*COLUMNS, MASS_COLUMN)}
        if found:
            tables.setdefault(path if item.dtype.names else group, {}).update(found)

    file.visititems(add)
    whole = {path: table for path, table in tables.items() if not missing_columns(table)}
    if len(whole) > 1:
        raise CatalogueError(
            f"{name} holds several catalogues, in {' and '.join(path or '/' for path in whole)}. Copy the one that you "
            "want to a file of its own."
        )
    for path, table in whole.items():
        return path, {key: table[key] for key in COLUMNS} if set(COLUMNS) <= set(table) else table
    best = max(tables, key=lambda path: len(tables[path]), default="")
    missing = missing_columns(tables.get(best, {}))
    others = [f"{path or '/'} has {', '.join(table)}" for path, table in tables.items() if path != best]
    there: list[str] = []
    file.visit(there.append)
    raise CatalogueError(
        f"{name} lacks the column(s) {', '.join(missing)}{f' in {best}' if best else ''}. One group or table must hold "
        f"{', '.join(COLUMNS)} (halotools' names), or {MASS_COLUMN} in place of the masses among them; the file has "
        f"{', '.join(there[:40]) or 'no data'}"
        f"{'; ' + '; '.join(others) if others else ''}. If they have other names, name them with the options of iaemu "
        "train pack."
    )


def _side(file: h5py.File, places: list, name: str) -> tuple[Any, dict[str, str]]:
    """Return the side of the box [Mpc/h], and a note if it comes from TNG's header."""
    stated = [value for place in places for key, value in place.attrs.items() if key.lower() == "lbox"]
    for place in places:
        for key in place if isinstance(place, h5py.Group) else ():
            if key.lower() == "lbox" and isinstance(place[key], h5py.Dataset) and place[key].size <= 3:
                stated.append(place[key][()])
    if stated:
        if any(not np.array_equal(np.unique(value), np.unique(stated[0])) for value in stated):
            raise CatalogueError(f"{name} states different sides of the box: {', '.join(map(str, stated))}.")
        return stated[0], {}
    if "Header" in file and "BoxSize" in file["Header"].attrs:
        size = file["Header"].attrs["BoxSize"]
        return np.asarray(size) / 1000.0, {"Lbox_from": f"{_BOX_OF_TNG} = {size}, taken as kpc/h, as TNG has it"}
    raise CatalogueError(
        f"{name} has no attribute Lbox (side of the box in Mpc/h), nor {_BOX_OF_TNG} (in kpc/h). Pack it with "
        f"iaemu train pack {name} --lbox SIDE -o NEW.hdf5."
    )


# ---------------------------------------------------------------------- packed form


def is_packed(path: str | Path) -> bool:
    """Tell whether an HDF5 file is a packed catalogue by its attribute ``format``.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    bool

    Raises
    ------
    CatalogueError
        The file cannot be read as HDF5.
    """
    with opened(path) as file:
        return str(plain(file.attrs.get("format", ""))).startswith(PACKED_FORMAT.rstrip("2"))


def read_packed(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any], bool]:
    """Read a packed file and check it against its SHA-256.

    Parameters
    ----------
    path : path-like
        The packed file.

    Returns
    -------
    arrays : dict
        Arrays as stored, see ``PACKED``.
    attributes : dict
        Text and numbers.
    sealed : bool
        Whether the file states a SHA-256; files of earlier versions do not.

    Raises
    ------
    CatalogueError
        The file is damaged, is not a packed catalogue, or does not agree with its SHA-256.
    """
    name = Path(path).name
    with opened(path) as file:
        arrays, attributes = packed_content(file, name)
        sealed = attributes.get("format") != UNSEALED_FORMAT
        seal = file.attrs.get(SEAL)
        if sealed and plain(seal) != packed_seal(arrays, attributes):
            raise CatalogueError(
                f"{name} is not as it was packed: its contents do not agree with the SHA-256 that it states"
                f"{'' if seal is not None else ' (it states none)'}. Copy it again, or pack the catalogue again."
            )
    return arrays, attributes, sealed


def packed_content(file: h5py.File, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays and attributes of a packed file, without its SHA-256.

    Parameters
    ----------
    file : h5py.File
        The open file.
    name : str
        Name of the file, for error messages.

    Returns
    -------
    arrays, attributes : dict

    Raises
    ------
    CatalogueError
        The format, or the type or shape of an array, is wrong.
    """
    attributes = {str(key): plain(value) for key, value in file.attrs.items() if key != SEAL}
    if attributes.get("format") not in (PACKED_FORMAT, UNSEALED_FORMAT):
        raise CatalogueError(f"{name} is not a packed halo catalogue ({PACKED_FORMAT}).")
    counts = file.get("n_subhalos")
    n = counts.shape[0] if isinstance(counts, h5py.Dataset) and counts.shape else 0
    arrays: dict[str, np.ndarray] = {}
    for key, (kind, width) in PACKED.items():
        if key in OPTIONAL and key not in file:
            continue
        # Shapes are checked before anything is read. The numbers of sub-halos give the number of offsets.
        rows = int(arrays["n_subhalos"].sum(dtype=np.int64)) if key == "offset" else n
        shape = (rows, width) if width > 1 else (rows,)
        stored = file.get(key)
        if not isinstance(stored, h5py.Dataset) or stored.dtype != np.dtype(kind) or stored.shape != shape:
            found = f"{stored.dtype} of shape {stored.shape}" if isinstance(stored, h5py.Dataset) else "missing"
            raise CatalogueError(
                f"{name}: the data set {key} must be {np.dtype(kind)} of shape {shape}, but is {found}. Copy the file "
                "or pack the catalogue again."
            )
        arrays[key] = stored[()]
    return arrays, attributes


def packed_seal(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> str:
    """Return the SHA-256 of the contents of a packed file, in hexadecimal.

    Parameters
    ----------
    arrays, attributes : dict
        See :func:`packed_content`.

    Returns
    -------
    str
    """
    digest = hashlib.sha256(json.dumps(attributes, sort_keys=True).encode())
    for key in (key for key in PACKED if key in arrays):
        digest.update(f"{key} {arrays[key].shape} ".encode() + arrays[key].tobytes())
    return digest.hexdigest()

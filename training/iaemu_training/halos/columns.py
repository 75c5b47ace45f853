"""The columns of a halo catalogue under halotools' names, and checks of them that hold for all file formats."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

POSITION_COLUMNS = ("halo_x", "halo_y", "halo_z")
AXIS_COLUMNS = ("halo_axisA_x", "halo_axisA_y", "halo_axisA_z")
ID_COLUMNS = ("halo_id", "halo_upid", "halo_hostid")
COLUMNS = (
    *ID_COLUMNS,
    *("halo_mvir_host_halo", "halo_mpeak"),
    *POSITION_COLUMNS,
    *AXIS_COLUMNS,
)

#: The mass of each halo, from which columns may follow; see :func:`missing_columns`.
MASS_COLUMN = "halo_mvir"

#: How far outside the box rounding to 32 bits or to five decimals can put a position, relative to the side of the box.
ROUNDING = 1e-5

#: Least number of particles for a halo finder to find a halo reliably.
MIN_PARTICLES = 40


class CatalogueError(ValueError):
    """A halo catalogue that is missing, incomplete or inconsistent."""


class HaloColumns(NamedTuple):
    """Columns as read: the arguments of :meth:`iaemu_training.halos.catalogue.HaloCatalogue.from_columns`.

    Attributes
    ----------
    columns : dict of str to (n,) array
        Columns under halotools' names.
    Lbox : float
        Side of the box [Mpc/h].
    name : str
        Name of the catalogue.
    attributes : dict
        Redshift, cosmology and origin, as text and numbers.
    lines : (n,) int64, optional
        Line of each halo in a text file, counted from 1.
    """

    columns: dict[str, np.ndarray]
    Lbox: Any
    name: str
    attributes: dict
    lines: np.ndarray | None = None


def _remedy(reach: float) -> str:
    """What may be wrong if positions are outside the box, and reach so many times its side."""
    if reach > 100.0:
        return (
            f"Positions reach {reach:.4g} times the side: if they are in kpc/h, give --scale 0.001 to iaemu train "
            "pack, with --lbox in Mpc/h."
        )
    return (
        "Check Lbox and the units (Mpc/h). If the origin of the box is not its corner (but its centre, say), shift the "
        "positions: numpy.mod(x, Lbox)."
    )


def checked_columns(
    columns: Any, Lbox: Any, name: str, lines: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], float]:
    """Check the columns and the side of the box, and return them as arrays and a number.

    Parameters
    ----------
    columns : mapping of str to (n,) array, astropy table or structured array
        ``COLUMNS``, without those that follow from others (:func:`missing_columns`); further ones are ignored. Ids may
        also be unsigned, with the largest number for -1, or whole numbers in floating point.
    Lbox : float, or three equal ones
        Side of the box [Mpc/h].
    name : str
        Name of the catalogue, for error messages.
    lines : (n,) int, optional
        Line of each halo in its file, for error messages; by default rows are counted from 0.

    Returns
    -------
    columns : dict of str to (n,) array
        Ids as int64, the rest as float64; positions in [0, Lbox).
    Lbox : float
        Side of the box [Mpc/h].

    Raises
    ------
    CatalogueError
        The box is not a cube; a column is missing, has another length or does not hold numbers; a value is missing or
        not finite; or a position lies outside the box by more than a rounding error.
    """
    side = _box_side(Lbox, name)
    there = _names(columns, name)
    missing = missing_columns(there)
    if missing:
        raise CatalogueError(
            f"Catalogue {name} lacks the column(s) {', '.join(missing)}. The columns needed, under halotools' names, "
            f"are {', '.join(COLUMNS)} (or {MASS_COLUMN} in place of the masses among them); the catalogue has "
            f"{', '.join(map(str, there[:40])) or 'none'}. In a file, name them with the options of iaemu train pack."
        )
    used = COLUMNS if set(COLUMNS) <= set(there) else [key for key in (*COLUMNS, MASS_COLUMN) if key in there]
    found = {key: numbers(columns[key], f"Catalogue {name}: column {key}") for key in used}
    for key, values in found.items():
        if values.ndim != 1:
            raise CatalogueError(
                f"Catalogue {name}: column {key} must hold one number for each halo, but has shape {values.shape}."
            )
    lengths = {key: len(value) for key, value in found.items()}
    if len(set(lengths.values())) > 1:
        raise CatalogueError(f"Catalogue {name}: the columns differ in length: {lengths}.")

    def place(row: int) -> str:
        return f"row {row}" if lines is None else f"line {lines[row]} of the file"

    for key, values in found.items():
        if key in ID_COLUMNS:
            found[key] = _ids(values, f"Catalogue {name}: column {key}", place)
            continue
        with np.errstate(over="ignore"):
            found[key] = values.astype(np.float64)
        bad = ~np.isfinite(found[key])
        if bad.any():
            raise CatalogueError(
                f"Catalogue {name}: column {key} has {bad.sum()} NaN or infinite values, first in "
                f"{place(int(np.argmax(bad)))}."
            )
    # In some catalogues a host is its own parent.
    found["halo_upid"] = np.where(found["halo_upid"] == found["halo_id"], -1, found["halo_upid"])
    found = _with_hosts(found, name)
    position = np.stack([found[key] for key in POSITION_COLUMNS], axis=-1)
    outside = (position < -ROUNDING * side) | (position > (1 + ROUNDING) * side)
    if outside.any():
        row, axis = np.argwhere(outside)[0]
        raise CatalogueError(
            f"Catalogue {name}: {outside.any(axis=1).sum()} halos lie outside the box [0, {side:g}] Mpc/h, first "
            f"{POSITION_COLUMNS[axis]} = {position[row, axis]:g} in {place(row)}. " + _remedy(position.max() / side)
        )
    beyond = ((position < 0) | (position >= side)).any(axis=1)
    if beyond.any():
        warnings.warn(
            f"Catalogue {name}: {beyond.sum()} halos lie outside the box [0, {side:g}) Mpc/h by rounding, and were "
            f"wrapped to its other side, first {place(int(np.argmax(beyond)))}.",
            stacklevel=3,
        )
        found |= {key: wrapped(found[key], side) for key in POSITION_COLUMNS}
    return found, side


def missing_columns(there: Collection[str]) -> list[str]:
    """Return the columns that a catalogue lacks, of those that do not follow from others.

    ``halo_hostid`` follows from ``halo_id`` and ``halo_upid``, and ``halo_mvir_host_halo`` from them and ``halo_mvir``,
    the mass of each halo. Without ``halo_mpeak``, sub-halos are ranked by ``halo_mvir``.

    Parameters
    ----------
    there : collection of str
        Names of the columns.

    Returns
    -------
    list of str
    """
    follow = {"halo_hostid"} | ({"halo_mvir_host_halo", "halo_mpeak"} if MASS_COLUMN in there else set())
    return [key for key in COLUMNS if key not in there and key not in follow]


def _with_hosts(found: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return ``COLUMNS``, with those that follow from others; a sub-halo of a sub-halo belongs to the host of both."""
    if not set(COLUMNS) <= set(found):
        row = host_rows(found["halo_id"], found["halo_upid"], True, f"Catalogue {name}")
        known, mass = row >= 0, found.get(MASS_COLUMN)
        found = {"halo_hostid": np.where(known, found["halo_id"][row], found["halo_upid"]), **found}
        if mass is not None:
            found = {"halo_mvir_host_halo": np.where(known, mass[row], mass), "halo_mpeak": mass, **found}
    return {key: found[key] for key in COLUMNS}


def host_rows(halo_id: np.ndarray, parent_id: np.ndarray, follow: bool, name: str) -> np.ndarray:
    """Return the row of each halo's host.

    Parameters
    ----------
    halo_id, parent_id : (n,) int64
        Ids of the halos and of their parents; the parent of a host is -1.
    follow : bool
        Whether a parent may be a sub-halo, which is then followed up to the host.
    name : str
        Name of the catalogue, for error messages.

    Returns
    -------
    (n,) int64
        For a host its own row; -1 for a sub-halo whose host is not in the file.

    Raises
    ------
    CatalogueError
        Two halos share an id, or parents form a loop.
    """
    order = np.argsort(halo_id, kind="stable")
    ordered = halo_id[order]
    twice = np.flatnonzero(np.diff(ordered) == 0)
    if len(twice):
        raise CatalogueError(f"{name}: id {ordered[twice[0]]} belongs to more than one halo.")
    is_host = parent_id == -1
    place = np.minimum(np.searchsorted(ordered, parent_id), len(ordered) - 1)
    row = np.where(ordered[place] == parent_id, order[place], -1)
    row[is_host] = np.flatnonzero(is_host)
    if follow:
        # Each pass doubles the number of steps up the chain of parents, which ends at a host or a missing parent.
        for _ in range(len(row).bit_length()):
            row, before = np.where(row >= 0, row[row], -1), row
            if np.array_equal(row, before):
                break
        loop = np.flatnonzero((row >= 0) & ~is_host[row])
        if len(loop):
            raise CatalogueError(f"{name}: the parents of halo {halo_id[loop[0]]} form a loop and lead to no host.")
    return np.where((row >= 0) & is_host[row], row, -1)


def wrapped(position: np.ndarray, side: float) -> np.ndarray:
    """Wrap positions into [0, side) of a periodic box.

    Parameters
    ----------
    position : array
        Positions [Mpc/h].
    side : float
        Side of the box [Mpc/h].

    Returns
    -------
    array
        Positions below ``side``. (numpy.mod alone returns ``side`` for tiny negative numbers.)
    """
    inside = np.mod(position, side)
    return np.where(inside >= side, 0.0, inside)


def numbers(values: Any, what: str, kinds: str = "iuf", error: type[Exception] = CatalogueError) -> np.ndarray:
    """Convert to an array of real numbers, none of them masked.

    Parameters
    ----------
    values : array-like
        The numbers.
    what : str
        What error messages call them.
    kinds : str
        Kinds of numpy's types that are allowed, such as "iuf".
    error : type
        Class of the exception that is raised if a value is masked or not a number.

    Returns
    -------
    array
    """
    if np.ma.is_masked(values):
        masked = np.ma.getmaskarray(values)
        raise error(
            f"{what} has {masked.sum()} missing (masked) values, first in row {int(np.argmax(masked.ravel()))}. Fill "
            "them in, or remove those rows."
        )
    try:
        array = np.asarray(values)
    except Exception as reason:  # an arbitrary object can raise any class
        raise error(f"{what} is not an array of numbers ({reason}).") from reason
    if array.dtype.kind not in kinds:
        raise error(f"{what} must hold {'real' if 'f' in kinds else 'whole'} numbers, but holds {array.dtype}.")
    return array


def _names(columns: Any, name: str) -> list:
    """Return the names of the columns of a table, a structured array or a mapping."""
    dtype = getattr(columns, "dtype", None)
    for names in (getattr(columns, "colnames", None), getattr(dtype, "names", None)):
        if names:
            return list(names)
    try:
        return list(columns.keys())
    except (AttributeError, TypeError):
        raise CatalogueError(
            f"Catalogue {name}: the columns must be a mapping from names to arrays, got {type(columns).__name__}."
        ) from None


def _ids(values: np.ndarray, what: str, place: Callable[[int], str]) -> np.ndarray:
    """Return ids as int64; the largest number of an unsigned type stands for -1."""
    if values.dtype.kind == "u":
        return np.where(values == np.iinfo(values.dtype).max, -1, values.astype(np.int64))
    if values.dtype.kind == "f":
        bad = ~(np.abs(values) < 2.0 ** min(np.finfo(values.dtype).nmant + 1, 62)) | (np.floor(values) != values)
        if bad.any():
            row = int(np.argmax(bad))
            raise CatalogueError(
                f"{what} must hold whole numbers that its type can represent exactly, but has {values[row]:.17g} "
                f"({values.dtype}) in {place(row)}. Store ids as 64-bit integers."
            )
    return values.astype(np.int64)


def _box_side(Lbox: Any, name: str) -> float:
    """Return the side of a cubic box [Mpc/h]; CatalogueError unless it is one positive number or three equal ones."""
    try:
        given = np.asarray(Lbox)
        sides = np.unique(given.astype(np.float64)) if given.dtype.kind in "iuf" and given.size in (1, 3) else None
    except Exception:  # an arbitrary object can raise any class
        sides = None
    if sides is None or len(sides) != 1 or np.ma.is_masked(Lbox) or not 1e-6 < sides[0] < 1e12:
        raise CatalogueError(f"Catalogue {name}: Lbox = {Lbox!r} is not the side of a cubic box in Mpc/h.")
    return float(sides[0])

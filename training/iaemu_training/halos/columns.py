"""What a halo catalogue consists of, whatever file it comes from: halotools' columns, and the box that they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

POSITION_COLUMNS = ("halo_x", "halo_y", "halo_z")
AXIS_COLUMNS = ("halo_axisA_x", "halo_axisA_y", "halo_axisA_z")
COLUMNS = (
    *("halo_id", "halo_upid", "halo_hostid", "halo_mvir_host_halo", "halo_mpeak"),
    *POSITION_COLUMNS,
    *AXIS_COLUMNS,
)

#: A halo of fewer particles is not reliably found.
MIN_PARTICLES = 40


class CatalogueError(ValueError):
    """A halo catalogue that is missing, incomplete or inconsistent."""


class HaloColumns(NamedTuple):
    """Columns as a file has them: the arguments of :meth:`iaemu_training.halos.catalogue.HaloCatalogue.from_columns`.

    Attributes
    ----------
    columns : dict of (n,) arrays, by halotools' names
    Lbox : float
        Side of the box [Mpc/h].
    name : str
    attributes : dict
    """

    columns: dict[str, np.ndarray]
    Lbox: Any
    name: str
    attributes: dict


def plain(value: Any) -> Any:
    """An attribute of a file as text, a number, or a list of these.

    Parameters
    ----------
    value : bytes, str, numpy scalar or array
        As h5py and astropy return it.

    Returns
    -------
    str, bool, int, float or list
        Anything else as it is.
    """
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    return [plain(entry) for entry in value] if isinstance(value, list) else value


def checked_columns(columns: Mapping[str, Any], Lbox: Any, name: str) -> tuple[dict[str, np.ndarray], float]:
    """The columns that are needed as arrays, and the side of the box, once they are known to be sound.

    Parameters
    ----------
    columns : mapping of name to (n,)
        More than ``COLUMNS`` is no harm.
    Lbox : number, or three equal ones
        [Mpc/h].
    name : str
        Of the catalogue, for errors.

    Returns
    -------
    columns : dict of (n,) arrays
    Lbox : float

    Raises
    ------
    CatalogueError
        The box is not a cube; a column is missing or of another length, a value is not finite, or a position lies
        outside the box.
    """
    side = _box_side(Lbox, name)
    missing = [key for key in COLUMNS if key not in columns]
    if missing:
        raise CatalogueError(
            f"Catalogue {name} lacks the column(s) {', '.join(missing)}. Needed, with halotools' names, are "
            f"{', '.join(COLUMNS)}."
        )
    found = {key: np.asarray(columns[key]) for key in COLUMNS}
    lengths = {key: len(value) for key, value in found.items()}
    if len(set(lengths.values())) > 1:
        raise CatalogueError(f"Catalogue {name}: the columns differ in length: {lengths}.")
    for key in (*POSITION_COLUMNS, *AXIS_COLUMNS, "halo_mvir_host_halo", "halo_mpeak"):
        bad = ~np.isfinite(found[key])
        if bad.any():
            raise CatalogueError(
                f"Catalogue {name}: column {key} has {bad.sum()} NaN or infinite values, first in row "
                f"{int(np.argmax(bad))}."
            )
    position = np.stack([found[key] for key in POSITION_COLUMNS], axis=-1).astype(np.float64)
    outside = (position < 0) | (position > side)
    if outside.any():
        row, axis = np.argwhere(outside)[0]
        raise CatalogueError(
            f"Catalogue {name}: {outside.any(axis=1).sum()} halos lie outside the box [0, {side:g}] Mpc/h, first "
            f"{POSITION_COLUMNS[axis]} = {position[row, axis]:g} in row {row}. Check Lbox and units (Mpc/h)."
        )
    return found, side


def _box_side(Lbox: Any, name: str) -> float:
    """The side of a cubic box [Mpc/h]; CatalogueError if it is not one positive number, or three equal ones."""
    try:
        sides = np.unique(np.asarray(Lbox, dtype=np.float64))
    except (TypeError, ValueError):
        sides = np.array([])
    if len(sides) != 1 or not np.isfinite(sides[0]) or sides[0] <= 0:
        raise CatalogueError(f"Catalogue {name}: Lbox = {Lbox!r} is not the side of a cubic box in Mpc/h.")
    return float(sides[0])

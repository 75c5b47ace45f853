"""Halo catalogues whose columns have names of one's own, in text, CSV, FITS, NumPy's formats or HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iaemu.ranges import Range
from iaemu_training.halos.columns import (
    AXIS_COLUMNS,
    ID_COLUMNS,
    MASS_COLUMN,
    POSITION_COLUMNS,
    CatalogueError,
    HaloColumns,
)
from iaemu_training.work.columns import ColumnFile

#: Options that name columns of one number, and halotools' names, which are their defaults.
OPTIONS = {"id": ID_COLUMNS[0], "parent": ID_COLUMNS[1], "mass": MASS_COLUMN, "rank": "halo_mpeak"}


def read_own_columns(
    path: str | Path,
    positions: Sequence[str] = (),
    axes: Sequence[str] = (),
    id: str | None = None,
    parent: str | None = None,
    mass: str | None = None,
    rank: str | None = None,
    no_parent: int | None = None,
    Lbox: float | None = None,
    scale: float = 1.0,
    mass_scale: float = 1.0,
) -> HaloColumns:
    """Read a halo catalogue with named columns, as ``iaemu measure`` reads galaxies.

    Parameters
    ----------
    path : str or path-like
        The file; formats are those of :mod:`iaemu_training.work.columns`.
    positions, axes : sequence of 1 or 3 str
        Columns of the positions, and of the major axes, of any length: three, or one of triples. By default halotools'
        names.
    id : str, optional
        Column of the id of each halo.
    parent : str, optional
        Column of the id of the halo that it is a sub-halo of. If that is a sub-halo itself, it is followed up to the
        host. Of a host it is -1, or the host's own id.
    mass : str, optional
        Column of the mass of each halo.
    rank : str, optional
        Column that ranks sub-halos, the largest first, such as their peak mass. By default ``halo_mpeak``, if the file
        has it, and the mass otherwise.
    no_parent : int, optional
        What ``parent`` is for a host, if not -1.
    Lbox : float, optional
        Side of the box [Mpc/h]; by default that of the file, times ``scale``.
    scale, mass_scale : float
        Factors that convert positions and Lbox of the file to comoving Mpc/h, and masses to Msun/h.

    Returns
    -------
    HaloColumns
        Its ``attributes`` are those of the file, ``ranked_by``, and ``columns``, which says how columns were read.

    Raises
    ------
    CatalogueError
        The file is missing or damaged; a column is missing, in several tables, or holds no numbers; or the side of the
        box is not known.
    """
    stated = {"scale": scale, "mass_scale": mass_scale} | ({} if Lbox is None else {"Lbox [Mpc/h]": Lbox})
    for what, value in stated.items():
        Range(above=0).check(what, value, error=CatalogueError)
    scale, mass_scale = float(scale), float(mass_scale)
    try:
        file = ColumnFile(path, "halo", CatalogueError)
    except FileNotFoundError as error:
        raise CatalogueError(str(error)) from error
    given = {key: () if name is None else (name,) for key, name in zip(OPTIONS, (id, parent, mass, rank), strict=True)}
    where = file.find(positions, [POSITION_COLUMNS], "--positions")
    table = file.columns[where[0]].table
    direction = file.find(axes, [AXIS_COLUMNS], "--axes", table)
    names: dict[str, list[str]] = {}
    for key, name in OPTIONS.items():
        there = any(column.name == name for column in file.columns.values())
        if key != "rank" or given[key] or there:
            names[key] = file.find(given[key], [[name]], f"--{key}", table, vector=False)
    wanted = [(where, tuple(positions)), (direction, tuple(axes)), *((names[key], given[key]) for key in names)]
    file.check_tables(*wanted, options="--positions, --axes and so on")
    columns = {OPTIONS[key]: file.numbers(name) for key, (name,) in names.items()}
    columns |= dict(zip(POSITION_COLUMNS, file.vector(where, "--positions").T * scale, strict=True))
    columns |= dict(zip(AXIS_COLUMNS, file.vector(direction, "--axes").T, strict=True))
    for key, option in ((MASS_COLUMN, mass_scale), ("halo_mpeak", mass_scale if rank is None else 1.0)):
        if key in columns:
            columns[key] = columns[key] * option
    if no_parent is not None:
        parents = columns["halo_upid"]
        none = np.iinfo(parents.dtype).max if parents.dtype.kind == "u" else -1  # as checked_columns has it
        columns["halo_upid"] = np.where(parents == no_parent, np.array(none, parents.dtype), parents)
    side = file.box_side(scale) if Lbox is None else float(Lbox)
    if side is None:
        raise CatalogueError(f"{file.path} does not state the side of its box: give --lbox in Mpc/h.")
    read_as = [f"positions = {' '.join(where)}", f"axes = {' '.join(direction)}"]
    read_as += [f"{key} = {name}" for key, (name,) in names.items()]
    attributes = file.metadata() | {"source": file.path.name, "columns": ", ".join(read_as)}
    if rank is not None:
        attributes["ranked_by"] = rank
    return HaloColumns(columns, side, file.path.name.split(".")[0], attributes)

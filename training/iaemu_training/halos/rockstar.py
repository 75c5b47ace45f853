"""Halo catalogues as ROCKSTAR and consistent-trees write them: text, one halo a row.

Two formats are read, plain or gzipped: ``hlist_*.list`` of consistent-trees, and ROCKSTAR's own ``out_*.list`` after
its utility ``find_parents``. Columns are found by name in the first line of the file, since their order depends on
version and settings. halotools' ``TabularAsciiReader`` reads the rows in chunks: memory is needed only for those kept.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from halotools.sim_manager import TabularAsciiReader

from iaemu_training.halos.columns import MIN_PARTICLES, CatalogueError, HaloColumns

#: ROCKSTAR's names of the columns that every file must have.
_COLUMNS = {
    "halo_id": "ID",
    "halo_mvir": "Mvir",
    **{f"halo_{x}": x.upper() for x in "xyz"},
    **{f"halo_axisA_{x}": f"A[{x}]" for x in "xyz"},
}
_MPEAK = "Mpeak"
#: Masses and axes have 32 bits in ROCKSTAR itself; positions are written with more decimals than 32 bits keep.
_TYPES = {"halo_id": "i8", "parent": "i8", "halo_x": "f8", "halo_y": "f8", "halo_z": "f8"}
_OTHER_TYPE = "f4"

_NUMBER = r"([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)"
#: What is looked for in the comments; units are part of it, so that a length in other units counts as missing.
_COMMENTS = {
    "Lbox": rf"\bbox size\s*[:=]\s*{_NUMBER}\s*Mpc\s*/\s*h",
    "particle_mass": rf"\bparticle mass\s*[:=]\s*{_NUMBER}\s*Msun\s*/\s*h",
    "scale_factor": rf"^#\s*a\s*=\s*{_NUMBER}",
    "Om0": rf"\b(?:Om|Omega_M)\s*=\s*{_NUMBER}",
    "Ode0": rf"\b(?:Ol|Omega_L)\s*=\s*{_NUMBER}",
    "h": rf"\bh0?\s*=\s*{_NUMBER}",
}
#: Megabytes of the file in a chunk (if gzipped, several times as many of text).
_CHUNK = 50


def read_rockstar(
    path: str | Path, Lbox: float | None = None, particle_mass: float | None = None, min_mass: float | None = None
) -> HaloColumns:
    """Read an ``hlist_*.list`` or ``out_*.list``, plain or gzipped.

    The mass is ``Mvir``, the major axis that of the whole halo (``A[x]``, not ``A[x](500c)``). Sub-halos are ranked by
    ``Mpeak`` where the file has it, else by ``Mvir``. A sub-halo belongs to its ``upid``, as in halotools; where there
    is only ``pid``, which may be a sub-halo itself, to the host at the end of that chain. Sub-halos whose host is not
    among the halos read are dropped and counted.

    Parameters are those of :meth:`iaemu_training.halos.catalogue.HaloCatalogue.read_rockstar`.

    Returns
    -------
    HaloColumns
        ``attributes`` has redshift, scale factor, cosmology, ``particle_mass``, ``min_mass``, ``ranked_by`` and
        ``n_subhalos_without_host``; what is not known is left out.

    Raises
    ------
    CatalogueError
        The file is not there or truncated; a column, the parents or the side of the box are missing; a row is
        malformed; two halos share an id, or parents form a loop.
    """
    path = Path(path)
    if not path.is_file():
        raise CatalogueError(f"There is no catalogue file {path}.")
    try:
        comments, first_row = _read_header(path)
        names = _column_names(comments[0], path.name)
        if len(first_row) != len(names):
            raise CatalogueError(
                f"{path.name}: the first line names {len(names)} columns, but the first halo has {len(first_row)}. "
                "Mend that line, or run the find_parents that belongs to the ROCKSTAR which wrote the file: another "
                "one repeats the names of all columns, but not all columns."
            )
        positions, parent = _positions(names, path.name)
        stated = _stated(comments, names, first_row)
        stated |= {"Lbox": Lbox} if Lbox is not None else {}
        stated |= {"particle_mass": float(particle_mass)} if particle_mass is not None else {}
        if "Lbox" not in stated:
            raise CatalogueError(_no_box(path))
        Lbox = stated.pop("Lbox")
        ranking = "halo_mpeak" if "halo_mpeak" in positions else "halo_mvir"
        if min_mass is None:
            min_mass = MIN_PARTICLES * stated.get("particle_mass", 0.0)
        halos = _CheckedReader(path, positions, len(names), {ranking: min_mass} if min_mass > 0 else {}).read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path.name} cannot be read, or is truncated: {error}") from error
    if len(halos) == 0:
        raise CatalogueError(f"{path.name} has no halo above {min_mass:g} Msun/h.")
    host = _host_rows(halos["halo_id"], halos["parent"], parent == "pid", path.name)
    kept = np.flatnonzero(host >= 0)
    # Hosts are their own hosts and stay, so each one's new row is its place among the rows kept.
    n_read, halos, host = len(halos), halos[kept], np.searchsorted(kept, host[kept])
    host_id = halos["halo_id"][host]
    columns = {name: halos[name] for name in _COLUMNS}
    columns |= {
        "halo_upid": np.where(halos["parent"] == -1, -1, host_id),
        "halo_hostid": host_id,
        "halo_mvir_host_halo": halos["halo_mvir"][host],
        "halo_mpeak": halos[ranking],
    }
    attributes = stated | {
        "source": f"ROCKSTAR catalogue {path.name}",
        "ranked_by": _MPEAK if ranking == "halo_mpeak" else f"Mvir (the file has no {_MPEAK})",
        "min_mass": float(min_mass),
        "n_subhalos_without_host": n_read - len(kept),
    }
    name = re.sub(r"\.list(\.gz)?$", "", path.name)
    return HaloColumns(columns, Lbox, name, attributes)


# ---------------------------------------------------------------------- header


def _read_header(path: Path) -> tuple[list[str], list[str]]:
    """The comment lines at the top, and the words of the first row of data."""
    with _open(path) as file:
        if file.read(1) != "#":
            raise CatalogueError(
                f"{path.name} is not a catalogue of ROCKSTAR or consistent-trees: its first line must name the columns "
                "(#ID DescID Mvir ... or #scale(0) id(1) ...)."
            )
        comments = ["#" + file.readline()]
        for line in file:
            if line.startswith("#"):
                comments.append(line)
            elif line.strip():
                return comments, line.split()
    raise CatalogueError(f"{path.name} has a header, but no halos.")


def _open(path: Path):
    """The file as text."""
    return (gzip.open if _is_gzipped(path) else open)(path, "rt", encoding="utf-8", errors="replace")


def _is_gzipped(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _column_names(line: str, name: str) -> list[str]:
    """Column names in lower case, without the number that consistent-trees appends to each."""
    names = []
    for position, word in enumerate(line.lstrip("#").split()):
        # Digits only: A[x](500c) is another axis, not column 500.
        match = re.fullmatch(r"(.+)\((\d+)\)", word)
        if match and int(match[2]) != position:
            raise CatalogueError(
                f"{name}: the first line calls {word} what is column {position}, counted from 0. Mend that line."
            )
        names.append((match[1] if match else word).lower())
    return names


def _positions(names: list[str], name: str) -> tuple[dict[str, int], str]:
    """Positions of the needed columns by halotools' names (the parent's as ``parent``), and the parent's own name."""
    parent = next((key for key in ("upid", "pid") if key in names), None)
    if parent is None:
        raise CatalogueError(
            f"{name} does not say which halos are sub-halos: it has neither a column PID nor UPID. ROCKSTAR's utility "
            "find_parents adds PID to an out_*.list; in ROCKSTAR's folder:\n"
            "    make parents\n"
            "    util/find_parents out_0.list BOX_SIDE > out_0_parents.list\n"
            "with the side of the box in Mpc/h."
        )
    wanted = {key: column.lower() for key, column in _COLUMNS.items()} | {"parent": parent}
    missing = [column for key, column in _COLUMNS.items() if wanted[key] not in names]
    if missing:
        raise CatalogueError(
            f"{name} lacks the column(s) {', '.join(missing)}; its first line names {', '.join(names)}."
        )
    if _MPEAK.lower() in names:
        wanted["halo_mpeak"] = _MPEAK.lower()
    twice = [column for column in wanted.values() if names.count(column) > 1]
    if twice:
        raise CatalogueError(f"{name}: the first line names {twice[0]} more than once, upper and lower case alike.")
    return {key: names.index(column) for key, column in wanted.items()}, parent


def _stated(comments: list[str], names: list[str], first_row: list[str]) -> dict[str, Any]:
    """What the header says of the simulation: ``Lbox`` [Mpc/h], ``particle_mass`` [Msun/h], redshift, cosmology."""
    stated: dict[str, Any] = {}
    for key, pattern in _COMMENTS.items():
        found = next(filter(None, (re.search(pattern, line, re.IGNORECASE) for line in comments[1:])), None)
        # ROCKSTAR writes 0 where it was not told.
        if found and float(found[1]) > 0:
            stated[key] = float(found[1])
    if "scale_factor" not in stated and "scale" in names:
        with contextlib.suppress(ValueError):
            stated["scale_factor"] = float(first_row[names.index("scale")])
    if "scale_factor" in stated:
        stated["redshift"] = round(1.0 / stated["scale_factor"] - 1.0, 5) + 0.0
    cosmology = [f"{key}={stated[key]:g}" for key in ("Om0", "Ode0", "h") if key in stated]
    if cosmology:
        stated["cosmology"] = " ".join(cosmology)
    return stated


def _no_box(path: Path) -> str:
    packed = re.sub(r"\.list(\.gz)?$", "", path.name) + ".hdf5"
    return (
        f"{path.name}: the header does not state the side of the box in Mpc/h. Give it in Python, and for the command "
        "line convert the file:\n"
        "    from iaemu_training.halos.catalogue import HaloCatalogue\n"
        f"    HaloCatalogue.read_rockstar({str(path)!r}, Lbox=SIDE).write_packed({packed!r})\n"
        f"then pass {packed} to --catalogue."
    )


# ---------------------------------------------------------------------- rows


class _CheckedReader(TabularAsciiReader):
    """halotools' reader, which takes rows as they come, with errors that name file, line and remedy.

    Parameters
    ----------
    path : Path
    positions : dict
        Position of each column to keep, by name.
    n_columns : int
        Columns that the header names.
    lower_bounds : dict
        Only rows with a larger value are kept, by name of the column.
    """

    def __init__(self, path: Path, positions: dict[str, int], n_columns: int, lower_bounds: dict[str, float]):
        types = {key: _TYPES.get(key, _OTHER_TYPE) for key in positions}
        columns = {key: (position, types[key]) for key, position in positions.items()}
        # halotools reads gzipped files as bytes, and then knows comments only by a mark in bytes.
        mark = b"#" if _is_gzipped(path) else "#"
        super().__init__(str(path), columns, header_char=mark, row_cut_min_dict=lower_bounds)
        self._name, self._n_columns, self._line = path.name, n_columns, 0
        # A sub-halo of a few particles may lack a shape; it is a matter of the halos kept whether that is an error.
        self._converters = [
            (position, int if types[key] == "i8" else float if "axis" in key else _finite)
            for key, position in positions.items()
        ]

    def read(self) -> np.ndarray:
        """The rows kept, as a structured array."""
        with contextlib.redirect_stdout(io.StringIO()):  # halotools reports each chunk, and rings a bell at the end
            return self.read_ascii(chunk_memory_size=_CHUNK)

    def header_len(self) -> int:
        """Lines of the header, from which the lines of the file are counted."""
        self._line = super().header_len()
        return self._line

    def data_chunk_generator(self, chunk_size: int, f: IO) -> Iterator[tuple]:
        """The numbers of each row, up to ``chunk_size`` rows."""
        n = 0
        while n < chunk_size:
            line = f.readline()
            if not line:
                return
            self._line += 1
            words = line.split()
            if not words or words[0][:1] == self.header_char:
                continue
            n += 1
            if len(words) != self._n_columns:
                raise self._malformed(
                    f"has {len(words)} columns where the first line of the file names {self._n_columns}"
                )
            if line[-1:] not in ("\n", b"\n"):
                raise self._malformed("is the last one and does not end with a line feed")
            try:
                row = tuple([convert(words[position]) for position, convert in self._converters])
            except ValueError as error:
                raise self._malformed(f"does not hold the numbers that it should ({error})") from error
            yield row

    def _malformed(self, what: str) -> CatalogueError:
        return CatalogueError(
            f"{self._name}: line {self._line} {what}. The file is truncated or damaged; copy it again, or make it anew."
        )


def _finite(word) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return value


# ---------------------------------------------------------------------- parents


def _host_rows(halo_id, parent_id, follow: bool, name: str) -> np.ndarray:
    """Row of each halo's host.

    Parameters
    ----------
    halo_id, parent_id : (n,) int64
        The parent of a host is -1.
    follow : bool
        Whether parents may be sub-halos, to be followed up to the host.
    name : str
        Of the file, for errors.

    Returns
    -------
    (n,) int64
        A host's own row; -1 for a sub-halo without a host in the file.

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
        # Each pass doubles the steps up the chain, which ends at hosts and at missing parents.
        for _ in range(len(row).bit_length()):
            row, before = np.where(row >= 0, row[row], -1), row
            if np.array_equal(row, before):
                break
        loop = np.flatnonzero((row >= 0) & ~is_host[row])
        if len(loop):
            raise CatalogueError(f"{name}: the parents of halo {halo_id[loop[0]]} form a loop and lead to no host.")
    return np.where((row >= 0) & is_host[row], row, -1)

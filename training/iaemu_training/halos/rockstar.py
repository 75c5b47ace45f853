"""Reader for the text files of ROCKSTAR and consistent-trees, which have one halo in each row.

Two formats are read, also compressed or with commas between the columns: ``hlist_*.list`` of consistent-trees, and
ROCKSTAR's ``out_*.list`` with the parents that its utility ``find_parents`` adds. Columns are found by their names in
the first line, since their order depends on version and settings. Rows are read in chunks, so that memory is needed
only for the halos that are kept.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import IO, Any

import numpy as np

from iaemu.progress import BAR_AFTER, tqdm
from iaemu.ranges import Range
from iaemu_training.halos.columns import MIN_PARTICLES, CatalogueError, HaloColumns, host_rows

#: ROCKSTAR's names of the columns that every file must have.
_COLUMNS = {
    "halo_id": "ID",
    "halo_mvir": "Mvir",
    **{f"halo_{x}": x.upper() for x in "xyz"},
    **{f"halo_axisA_{x}": f"A[{x}]" for x in "xyz"},
}
_MPEAK = "Mpeak"
#: What to do with files of another origin.
_OWN = (
    "If it has other columns, name them: iaemu train pack FILE --id COLUMN --parent COLUMN --mass COLUMN --positions "
    "COLUMN COLUMN COLUMN --axes COLUMN COLUMN COLUMN --lbox SIDE -o NEW.hdf5"
)
#: Types of the columns. ROCKSTAR keeps masses and axes in 32 bits, but writes positions with more digits.
_TYPES = {"halo_id": "i8", "parent": "i8", "halo_x": "f8", "halo_y": "f8", "halo_z": "f8"}
_OTHER_TYPE = "f4"

#: Patterns searched for in the comments. They include the unit, so that a length in other units counts as missing.
_COMMENTS = {
    "Lbox": r"\bbox size\s*[:=]\s*(\S+?)\s*Mpc\s*/\s*h",
    "particle_mass": r"\bparticle mass\s*[:=]\s*(\S+?)\s*Msun\s*/\s*h",
    "scale_factor": r"^#\s*a\s*=\s*([^\s;]+)",
    "Om0": r"\b(?:Om|Omega_M)\s*=\s*([^\s;]+)",
    "Ode0": r"\b(?:Ol|Omega_L)\s*=\s*([^\s;]+)",
    "h": r"\bh0?\s*=\s*([^\s;]+)",
}
#: Endings of file names that are not part of the name of the catalogue.
_ENDINGS = r"(?i)\.(list|txt|ascii|dat|csv)(\.(gz|bz2|xz))?$"
#: First bytes of compressed files.
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
#: Rows that are read before those below the mass cut are dropped.
_CHUNK = 20_000


def read_rockstar(
    path: str | Path,
    Lbox: float | None = None,
    particle_mass: float | None = None,
    min_mass: float | None = None,
    progress: bool = False,
) -> HaloColumns:
    """Read an ``hlist_*.list`` or ``out_*.list``, also compressed.

    The mass is ``Mvir``, and the major axis is that of the whole halo (``A[x]``, not ``A[x](500c)``). Sub-halos are
    ranked by ``Mpeak``, or by ``Mvir`` if the file has no ``Mpeak``. The host of a sub-halo is its ``upid``, as in
    halotools. If there is only ``pid``, which may be a sub-halo itself, it is followed up to the host. Sub-halos whose
    host is not among the halos read are dropped and counted.

    Parameters
    ----------
    path, Lbox, particle_mass, min_mass, progress
        See :meth:`iaemu_training.halos.catalogue.HaloCatalogue.read_rockstar`.

    Returns
    -------
    HaloColumns
        Its ``attributes`` are redshift, scale factor, cosmology, ``particle_mass``, ``min_mass``, ``ranked_by`` and
        ``n_subhalos_without_host``, as far as they are known.

    Raises
    ------
    CatalogueError
        The file is missing or truncated; a column, the parents or the side of the box are missing; a row is malformed;
        two halos share an id, or parents form a loop.
    """
    path = Path(path)
    if not path.is_file():
        raise CatalogueError(f"There is no catalogue file {path}.")
    for what, value in (("Lbox [Mpc/h]", Lbox), ("particle_mass [Msun/h]", particle_mass)):
        if value is not None:
            Range(above=0).check(what, value, error=CatalogueError)
    if min_mass is not None:
        Range(at_least=0).check("min_mass [Msun/h]", min_mass, error=CatalogueError)
    try:
        comments, first_row = _read_header(path)
        names = _column_names(comments[0], path.name)
        if len(first_row) != len(names):
            raise CatalogueError(
                f"{path.name}: the first line names {len(names)} columns, but the first halo has {len(first_row)}. "
                "Correct that line, or run the find_parents of the same version of ROCKSTAR that wrote the file: "
                "another version copies the names of all columns, but not all columns."
            )
        positions, parent = _positions(names, path.name)
        stated = _stated(comments, names, first_row, path.name)
        stated |= {"Lbox": float(Lbox)} if Lbox is not None else {}
        stated |= {"particle_mass": float(particle_mass)} if particle_mass is not None else {}
        if "Lbox" not in stated:
            raise CatalogueError(_no_box(path))
        side = stated.pop("Lbox")
        ranking = "halo_mpeak" if "halo_mpeak" in positions else "halo_mvir"
        if min_mass is None:
            min_mass = MIN_PARTICLES * stated.get("particle_mass", 0.0)
        halos = _rows(path, positions, len(names), ranking, min_mass, progress)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise CatalogueError(f"{path.name} cannot be read, or is truncated: {error}") from error
    if len(halos) == 0:
        raise CatalogueError(f"{path.name} has no halo above {min_mass:g} Msun/h.")
    host = host_rows(halos["halo_id"], halos["parent"], parent == "pid", path.name)
    kept = np.flatnonzero(host >= 0)
    # A host is its own host and is kept, so its new row is its place among the rows kept.
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
    return HaloColumns(columns, side, re.sub(_ENDINGS, "", path.name), attributes, halos["line"])


# ---------------------------------------------------------------------- header


def _read_header(path: Path) -> tuple[list[str], list[str]]:
    """Return the comment lines at the top, and the words of the first row of data."""
    with _open(path) as (file, _):
        first = file.readline(100_000)
        if "\0" in first:
            raise CatalogueError(
                f"{path.name} is neither HDF5 nor text: it begins with {first[:8]!a}. Give an HDF5 file with "
                f"halotools' columns, or a text file of ROCKSTAR or consistent-trees. {_OWN}"
            )
        # Files from databases have commas between the columns, and no "#".
        if not first.startswith("#") and "," not in first:
            raise CatalogueError(
                f"{path.name} is not a catalogue of ROCKSTAR or consistent-trees: its first line must name the columns "
                f"(#ID DescID Mvir ... or #scale(0) id(1) ...), but it is {first[:60]!r}. {_OWN}"
            )
        comments = [first]
        for line in file:
            if line.startswith("#"):
                comments.append(line)
            elif words := _words(line):
                return comments, words
    raise CatalogueError(f"{path.name} has a header, but no halos.")


@contextmanager
def _open(path: Path) -> Iterator[tuple[io.TextIOWrapper, IO[bytes]]]:
    """Open the file as text, without a byte-order mark; also give the file of bytes, whose position is the progress."""
    with open(path, "rb") as raw:
        first = raw.read(6)
        raw.seek(0)
        opener: Any = next((opener for mark, opener in _COMPRESSED.items() if first.startswith(mark)), None)
        # Comments may have letters of other encodings, which do not matter.
        with io.TextIOWrapper(opener(raw) if opener else raw, encoding="utf-8-sig", errors="replace") as text:
            yield text, raw


def _words(line: str) -> list[str]:
    return line.replace(",", " ").split()


def _column_names(line: str, name: str) -> list[str]:
    """Return the column names in lower case, without the numbers that consistent-trees appends."""
    names = []
    for position, word in enumerate(_words(line.lstrip("#"))):
        # Digits only: A[x](500c) is another axis, not column 500.
        match = re.fullmatch(r"(.+)\((\d+)\)", word)
        if match and int(match[2]) != position:
            raise CatalogueError(
                f"{name}: the first line names column {position}, counted from 0, {word}. Correct that line."
            )
        names.append((match[1] if match else word).lower())
    return names


def _positions(names: list[str], name: str) -> tuple[dict[str, int], str]:
    """Return the positions of the columns by halotools' names (``parent`` for the parent's), and the parent's name."""
    parent = next((key for key in ("upid", "pid") if key in names), None)
    missing = [column for column in _COLUMNS.values() if column.lower() not in names]
    if missing:
        raise CatalogueError(
            f"{name} is not a catalogue of ROCKSTAR or consistent-trees: it lacks the column(s) {', '.join(missing)}; "
            f"its first line names {', '.join(names)}. {_OWN}"
        )
    if parent is None:
        raise CatalogueError(
            f"{name} does not say which halos are sub-halos: it has neither a column PID nor UPID. ROCKSTAR's utility "
            "find_parents adds PID to an out_*.list. In ROCKSTAR's folder:\n"
            "    make parents\n"
            "    util/find_parents out_0.list BOX_SIDE > out_0_parents.list\n"
            "with the side of the box in Mpc/h."
        )
    wanted = {key: column.lower() for key, column in _COLUMNS.items()} | {"parent": parent}
    if _MPEAK.lower() in names:
        wanted["halo_mpeak"] = _MPEAK.lower()
    twice = [column for column in wanted.values() if names.count(column) > 1]
    if twice:
        raise CatalogueError(f"{name}: the first line names {twice[0]} more than once (in upper or lower case).")
    return {key: names.index(column) for key, column in wanted.items()}, parent


def _stated(comments: list[str], names: list[str], first_row: list[str], name: str) -> dict[str, Any]:
    """Return what the header states: ``Lbox`` [Mpc/h], ``particle_mass`` [Msun/h], redshift and cosmology."""
    stated: dict[str, Any] = {}
    for number, line in enumerate(comments[1:], start=2):
        for key, pattern in _COMMENTS.items():
            found = re.search(pattern, line, re.IGNORECASE)
            value = _positive(found[1]) if found and key not in stated else 0.0
            # ROCKSTAR writes 0 for what it does not know.
            if value:
                stated[key] = value
            elif value is None and key in ("Lbox", "particle_mass"):
                raise CatalogueError(
                    f"{name}: line {number} should state a number: {line.strip()[:80]!r}. Correct that line."
                )
    if "scale_factor" not in stated and "scale" in names:
        scale = _positive(first_row[names.index("scale")])
        stated |= {"scale_factor": scale} if scale else {}
    if "scale_factor" in stated:
        stated["redshift"] = round(1.0 / stated["scale_factor"] - 1.0, 5) + 0.0
    cosmology = [f"{key}={stated[key]:g}" for key in ("Om0", "Ode0", "h") if key in stated]
    if cosmology:
        stated["cosmology"] = " ".join(cosmology)
    return stated


def _positive(word: str) -> float | None:
    """Return a number that is not negative, or None if the word is not one."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _no_box(path: Path) -> str:
    packed = re.sub(_ENDINGS, "", path.name) + ".hdf5"
    return (
        f"{path.name}: the header does not state the side of the box in Mpc/h. Pack it with "
        f"iaemu train pack {path} --lbox SIDE -o {packed}, then pass {packed} to --catalogue."
    )


# ---------------------------------------------------------------------- rows


def _rows(
    path: Path, positions: dict[str, int], n_columns: int, ranking: str, min_mass: float, progress: bool
) -> np.ndarray:
    """Return the halos whose mass ``ranking`` is above a limit, with the line of each in the file."""
    types = {key: _TYPES.get(key, _OTHER_TYPE) for key in positions}
    dtype = np.dtype([*types.items(), ("line", "i8")])
    # Axes may be NaN here: small halos may lack a shape, and whether they are kept is not known yet.
    converters: list[tuple[int, Callable[[str], Any]]] = [
        (position, _id if types[key] == "i8" else float if "axis" in key else _finite)
        for key, position in positions.items()
    ]

    def keep(rows: list[tuple]) -> np.ndarray:
        with np.errstate(over="ignore"):
            chunk = np.array(rows, dtype=dtype)
        return chunk[chunk[ranking] > min_mass] if min_mass > 0 else chunk

    kept, rows = [], []
    with _open(path) as (file, raw), _bar_of(raw, path, progress) as advance:
        for number, line in enumerate(file, start=1):
            words = _words(line)
            if number == 1 or not words or line.startswith("#"):
                continue
            problem = ""
            if len(words) != n_columns:
                problem = f"has {len(words)} columns, but the first line of the file names {n_columns}"
            elif not line.endswith("\n"):
                problem = "is the last one and does not end with a line feed"
            else:
                try:
                    rows.append((*[convert(words[position]) for position, convert in converters], number))
                except ValueError as error:
                    problem = f"does not hold the numbers that it should ({error})"
            if problem:
                raise CatalogueError(
                    f"{path.name}: line {number} {problem}. The file is truncated or damaged; copy or make it again."
                )
            if len(rows) == _CHUNK:
                kept.append(keep(rows))
                rows = []
                advance()
    return np.concatenate([*kept, keep(rows)])


@contextmanager
def _bar_of(raw: IO[bytes], path: Path, progress: bool) -> Iterator[Callable[[], None]]:
    """Give a function that moves a progress bar to the position in the file; the bar appears after two seconds."""
    begin, bar = monotonic(), None

    def advance() -> None:
        nonlocal bar
        # Made only when it is needed: a bar leaves a thread behind, even if it is not shown.
        if bar is None and progress and monotonic() - begin > BAR_AFTER:
            total = path.stat().st_size
            bar = tqdm(total=total, desc=f"reading {path.name}", unit="B", unit_scale=True, smoothing=0)
            bar.start_t -= monotonic() - begin
        if bar is not None:
            bar.update(raw.tell() - bar.n)

    try:
        yield advance
        if bar is not None:
            bar.update(bar.total - bar.n)
    finally:
        if bar is not None:
            bar.close()


def _id(word: str) -> int:
    value = int(word)
    # An unsigned number of 64 bits may stand for -1.
    value -= 2**64 if value >= 2**63 else 0
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{word} has more than 64 bits")
    return value


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return value

"""Tables of numbers in text files, as np.savetxt or a spreadsheet writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iaemu.files import read_text
from iaemu.measurement import MeasurementError, number_at, number_in

#: Columns that a table may have; others are called ``-``.
COLUMNS = ("statistic", "r_low", "r_high", "r", "value", "error")

#: What the columns are, by their number, if nothing names them. With a covariance, three could be two things.
BY_NUMBER = {2: ("r", "value"), 3: ("r", "value", "error"), 4: ("r_low", "r_high", "value", "error")}

_COMMENTS = ("#", "%", "!", "//")

#: Other words for columns, in headings and where columns are named.
_WORDS = {
    "rmin": "r_low",
    "r_min": "r_low",
    "rmax": "r_high",
    "r_max": "r_high",
    "rp": "r",
    "r_p": "r",
    "sep": "r",
    "err": "error",
    "sigma": "error",
    "std": "error",
}


@dataclass(frozen=True)
class PlainTable:
    """A table as it stands in a file.

    Attributes
    ----------
    path : Path
    rows : list of (int, list of str)
        Number of the line, and its words.
    names : tuple of str
        The columns that the file names itself; empty if it does not.
    heading : tuple of str
        The last line before the rows with as many words as columns, in lower case; empty if there is none.
    """

    path: Path
    rows: list[tuple[int, list[str]]]
    names: tuple[str, ...] = ()
    heading: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> PlainTable:
        """Read a file: spaces, tabs, commas or semicolons between the columns; comments behind ``#``, ``%`` or ``!``.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        PlainTable

        Raises
        ------
        MeasurementError
            It holds no rows, or rows of different lengths.
        """
        path = Path(path)
        try:
            lines = read_text(path).split("\n")
        except ValueError as error:
            raise MeasurementError(str(error)) from error
        rows: list[tuple[int, list[str]]] = []
        heads: list[list[str]] = []
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if line.startswith(_COMMENTS):
                if not rows:
                    heads.append(_words(line.lstrip("#%!/")))
                continue
            words = _words(re.split(r"\s[#!]", line)[0])
            if not words:
                continue
            if not rows and all(number_in(word) is None for word in words):
                heads.append(words)
            else:
                rows.append((number, words))
        if not rows:
            raise MeasurementError(f"{path} holds no rows of numbers.")
        width = len(rows[0][1])
        for number, words in rows:
            if len(words) != width:
                raise MeasurementError(
                    f"{path}, line {number}: {len(words)} entries, but {width} in line {rows[0][0]}; all rows must "
                    "have the same columns. Put '#' before lines that are no data."
                )
        named = [tuple(word.lower() for word in words) for words in heads if len(words) == width]
        heading = named[-1] if named else ()
        names = tuple(map(meaning, heading))
        return cls(path, rows, names if _tells_all(names) else (), heading)

    def column(self, index: int, name: str) -> np.ndarray:
        """Numbers of one column.

        Parameters
        ----------
        index : int
        name : str
            For messages.

        Returns
        -------
        array (n_rows,)
        """
        return np.array([number_at(self.path, line, words[index], name) for line, words in self.rows])


def meaning(word: str) -> str:
    """Return the column that a word stands for: ``r`` of ``rp``, ``error`` of ``err``.

    Parameters
    ----------
    word : str

    Returns
    -------
    str
        The word itself if it stands for nothing else.
    """
    return _WORDS.get(word.lower(), word)


def edges_in(path: str | Path) -> np.ndarray:
    """Read bin edges from a text file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    array (n + 1,)

    Raises
    ------
    MeasurementError
        They are not increasing numbers.
    """
    table = PlainTable.read(path)
    edges = [number_at(table.path, line, word, "an edge") for line, row in table.rows for word in row]
    return increasing(edges, str(path))


def increasing(edges: Sequence[float], label: str) -> np.ndarray:
    """Return bin edges as an array.

    Parameters
    ----------
    edges : sequence of float (n + 1,)
    label : str
        For messages.

    Returns
    -------
    array (n + 1,)

    Raises
    ------
    MeasurementError
        They are not increasing numbers.
    """
    found = np.array(edges, dtype=np.float64)
    if not np.all(np.isfinite(found)) or not np.all(np.diff(found) > 0):
        raise MeasurementError(f"{label}: the edges must be increasing numbers.")
    return found


def square_matrix(path: str | Path, n: int) -> np.ndarray:
    """Read a square matrix.

    Parameters
    ----------
    path : str or Path
    n : int
        Number of bins of the table to which it belongs.

    Returns
    -------
    array (n, n)

    Raises
    ------
    MeasurementError
        It has another shape, or an entry that is not a number.
    """
    table = PlainTable.read(path)
    width = len(table.rows[0][1])
    if (len(table.rows), width) != (n, n):
        raise MeasurementError(
            f"{path}: the covariance has {len(table.rows)} rows of {width} numbers; the table has {n} bins."
        )
    return np.stack([table.column(index, "an entry") for index in range(width)], axis=1)


def _words(line: str) -> list[str]:
    # Between commas or semicolons, nothing is an empty field, which is a mistake to be found by its number of words.
    separator = "," if "," in line else ";" if ";" in line else None
    if separator is None:
        return line.split()
    return [word.strip().strip("\"'") for word in line.rstrip(separator + " ").split(separator)]


def _tells_all(names: Sequence[str]) -> bool:
    return "value" in names and all(name in COLUMNS or name == "-" for name in names)

"""Tables and ranges for the printed forms of objects, in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np


def html_table(columns: Mapping[str, Iterable[Any]], caption: str = "", notes: Sequence[str] = ()) -> str:
    """Return an HTML table; all text is escaped.

    Parameters
    ----------
    columns : mapping of str to iterable
        Entries of each column by its heading. Floats are shown with five significant digits.
    caption : str
        One line above the table.
    notes : sequence of str
        Lines below the table.

    Returns
    -------
    str
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = [
        "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>"
        for row in zip(*columns.values(), strict=True)
    ]
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    table = f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return table + "".join(f"<p>{escape(note)}</p>" for note in notes)


def describe_bins(edges: Sequence[float] | np.ndarray) -> str:
    """Return number and range of bins in words, such as "20 bins from 0.1 to 15.85 Mpc/h".

    Parameters
    ----------
    edges : array (n_bins + 1,)
        [Mpc/h]

    Returns
    -------
    str
    """
    n_bins = len(edges) - 1
    return f"{n_bins} bin{'' if n_bins == 1 else 's'} from {edges[0]:.4g} to {edges[-1]:.4g} Mpc/h"


def shorten(text: Any, most: int = 80) -> str:
    """Return text on one line, cut to a length.

    Parameters
    ----------
    text : object
        Its ``str`` is taken.
    most : int
        Characters that are kept.

    Returns
    -------
    str
    """
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float | np.floating) else str(value)

"""Measurements from plain tables of numbers, as np.savetxt or a spreadsheet writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iaemu.binning import BINNINGS
from iaemu.measurement import Bins, Covariance, Measurement, MeasurementError, number_in
from iaemu.statistics import MEASURED, PROJECTED
from iaemu_cobaya.likelihoods.plain_table import (
    BY_NUMBER,
    COLUMNS,
    PlainTable,
    edges_in,
    increasing,
    meaning,
    square_matrix,
)


def measurement_from_table(
    path: str | Path,
    statistic: str | None = None,
    columns: Sequence[str] = (),
    edges: str | Mapping[str, str] | None = None,
    covariance: str | Path | None = None,
    n_regions: int | None = None,
    scale: float = 1.0,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[Measurement, tuple[str, ...]]:
    """Make a measurement from a plain table.

    Parameters
    ----------
    path : str or Path
        The table.
    statistic : str, optional
        One of :data:`iaemu.statistics.MEASURED`; needed unless the table has a column ``statistic``.
    columns : sequence of str, optional
        Of :data:`iaemu_cobaya.likelihoods.plain_table.COLUMNS`, and ``-`` for those that are not used. By default
        those that the file names, or, of a file without names, ``r value``, ``r value error`` or ``r_low r_high value
        error`` by their number.
    edges : str, or mapping of statistic to str, optional
        Bin edges for a table with a column ``r``: numbers with commas between, the name of a file that holds them, or
        ``paper`` or ``tng300``. Projected statistics may do without: then values are those at ``r``.
    covariance : str or Path, optional
        A file with a square matrix over all rows of the table.
    n_regions : int, optional
        Number of (jackknife) regions from which the covariance was estimated.
    scale : float
        Factor that converts radii and edges to Mpc/h.
    metadata : mapping, optional
        Entries of the header.

    Returns
    -------
    measurement : Measurement
    columns : tuple of str
        As which the columns were read.

    Raises
    ------
    MeasurementError
        What the table holds is not clear, not complete or not a measurement.
    """
    table = PlainTable.read(path)
    if not columns:
        columns, statistic = _by_statistic(table.heading, statistic)
    names = _columns_of(table, columns, covariance is not None and edges is None)
    found = {name: table.column(names.index(name), name) for name in names if name in COLUMNS[1:]}
    if "statistic" in names:
        kinds = [words[names.index("statistic")] for _, words in table.rows]
        if statistic is not None and set(kinds) != {statistic}:
            raise MeasurementError(
                f"{path} holds {', '.join(dict.fromkeys(kinds))}: leave out --statistic {statistic}."
            )
    elif statistic is None:
        raise MeasurementError(f"{path} does not say what was measured: give --statistic {', '.join(MEASURED)}.")
    else:
        kinds = [statistic] * len(table.rows)
    order = [row for kind in dict.fromkeys(kinds) for row, other in enumerate(kinds) if other == kind]
    low, high = _limits(table, found, kinds, edges, scale)
    matrix = None if covariance is None else square_matrix(covariance, len(kinds))
    if "error" in found:
        error = found["error"]
    elif matrix is None:
        raise MeasurementError(f"{path} has no errors: it needs a column 'error', or --covariance.")
    else:
        variance = np.diag(matrix)
        if not np.all(variance > 0):
            raise MeasurementError(f"{covariance}: the diagonal must be positive, got {variance.min():.6g}.")
        error = np.sqrt(variance)
    bins = {}
    for kind in dict.fromkeys(kinds):
        at = [row for row in order if kinds[row] == kind]
        bins[kind] = Bins(low[at], high[at], found["value"][at], error[at])
    covariances = []
    if matrix is not None:
        covariances = [Covariance(tuple(bins), matrix[np.ix_(order, order)], n_regions)]
    elif n_regions is not None:
        raise MeasurementError("--n-regions is the number of regions of a covariance: give --covariance too.")
    return Measurement(bins, covariances, dict(metadata or {}), str(path)), names


def _by_statistic(heading: Sequence[str], statistic: str | None) -> tuple[tuple[str, ...], str | None]:
    """Return the columns of a heading in which the value has the name of its statistic, and the statistic."""
    named = [word for word in heading if word in MEASURED]
    if len(named) != 1 or (statistic or named[0]) != named[0]:
        return (), statistic
    names = (meaning(word) if word != named[0] else "value" for word in heading)
    return tuple(name if name in COLUMNS else "-" for name in names), named[0]


def _columns_of(table: PlainTable, columns: Sequence[str], may_be_limits: bool) -> tuple[str, ...]:
    width = len(table.rows[0][1])
    names = tuple(map(meaning, columns)) or table.names
    known = f"{', '.join(COLUMNS)}, or - for a column that is not used"
    if not names:
        if width not in BY_NUMBER or (width == 3 and may_be_limits):
            raise MeasurementError(
                f"{table.path} has {width} columns, and nothing says what they are: name each with --columns ({known})."
            )
        names = BY_NUMBER[width]
    if len(names) != width:
        raise MeasurementError(
            f"{table.path} has {width} columns, but --columns names {len(names)}; name each of them ({known})."
        )
    used = [name for name in names if name != "-"]
    unknown = [name for name in used if name not in COLUMNS]
    if columns and unknown:
        raise MeasurementError(f"--columns: {', '.join(unknown)} is unknown; names are {known}.")
    twice = [name for name in COLUMNS if used.count(name) > 1]
    if twice:
        raise MeasurementError(f"{table.path}: two columns are called {', '.join(twice)}; name each with --columns.")
    if "value" not in used:
        raise MeasurementError(f"{table.path}: no column is called 'value'; name each with --columns ({known}).")
    return names


def _limits(
    table: PlainTable,
    found: Mapping[str, np.ndarray],
    kinds: Sequence[str],
    edges: str | Mapping[str, str] | None,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the bins [Mpc/h]."""
    if "r_low" in found and "r_high" in found:
        if edges is not None:
            raise MeasurementError(f"{table.path} has columns r_low and r_high: leave out --edges.")
        low, high = found["r_low"], found["r_high"]
        for row in np.flatnonzero(~(high > low)).tolist():
            raise MeasurementError(
                f"{table.path}, line {table.rows[row][0]}: the bin goes from {low[row]:g} to {high[row]:g}. The "
                "columns are read as r_low r_high ...; if they are others, name each with --columns."
            )
        return low * scale, high * scale
    if "r" not in found:
        raise MeasurementError(f"{table.path}: the bins need columns r_low and r_high, or r and --edges.")
    if edges is None and set(kinds) <= set(PROJECTED):
        return found["r"] * scale, found["r"] * scale
    if edges is None:
        raise MeasurementError(
            f"{table.path} has bin centres, which do not say where the bins end: give --edges E0,E1,... or a file with "
            "the edges, or columns r_low and r_high."
        )
    low, high = np.empty(len(kinds)), np.empty(len(kinds))
    for kind in dict.fromkeys(kinds):
        given = edges if isinstance(edges, str) else edges.get(kind)
        if given is None:
            raise MeasurementError(f"{table.path} holds {kind}: give its edges too, --edges {kind}=EDGES.")
        limits = BINNINGS[given] / scale if given in BINNINGS else numbers_of(given)
        at = [row for row, other in enumerate(kinds) if other == kind]
        if len(limits) != len(at) + 1:
            raise MeasurementError(
                f"{table.path} has {len(at)} bins of {kind}, which have {len(at) + 1} edges; --edges gives "
                f"{len(limits)}. If bins are missing between others, give columns r_low and r_high in place of --edges."
            )
        low[at], high[at] = limits[:-1], limits[1:]
    outside = (found["r"] < low * (1 - 1e-6)) | (found["r"] > high * (1 + 1e-6))
    for row in np.flatnonzero(outside).tolist():
        raise MeasurementError(
            f"{table.path}, line {table.rows[row][0]}: r = {found['r'][row]:g} is not in its bin, {low[row]:g} to "
            f"{high[row]:g} by --edges. Edges and radii must have the same unit and order."
        )
    return low * scale, high * scale


def numbers_of(text: str) -> np.ndarray:
    """Return bin edges that an option gives.

    Parameters
    ----------
    text : str
        Numbers with commas between, or the name of the file that holds them.

    Returns
    -------
    array (n + 1,)

    Raises
    ------
    MeasurementError
        They are not increasing numbers.
    """
    numbers = [number_in(word) for word in text.split(",") if word.strip()]
    if numbers and None not in numbers:
        return increasing([number for number in numbers if number is not None], f"--edges {text}")
    if Path(text).is_file():
        return edges_in(text)
    raise MeasurementError(
        f"--edges {text}: give {', '.join(BINNINGS)}, numbers with commas between, or a file that holds them."
    )

"""Measured alignment correlations: one plain-text format for the shipped data and for users' own.

A measurement is a text file whose first lines are a YAML header behind ``#`` and whose body is a table::

    # format: iaemu measurement 1
    # description: TNG300-1, z = 0, galaxies of more than 10^10.5 Msun
    # source: arXiv:2311.07374
    # r_unit: Mpc/h
    # covariances: [sample_omega_covariance.txt]
    # columns: statistic r_low r_high value error
    omega 0.1 0.15 0.0793 0.0075
    ...

``statistic`` is ``xi``, ``omega`` or ``eta``; a bin goes from ``r_low`` to ``r_high``; ``error`` is the standard error.
Optional are ``covariances``: files beside it, each with a header of its own and one row of numbers per line::

    # format: iaemu covariance 1
    # statistics: [omega]
    # estimator: jackknife
    # n_regions: 27
    2.2e-06 1.1e-06 ...

The rows run over the bins of the file's ``statistics``, one statistic after the other, in increasing r; a file with
several statistics holds their cross-covariance. ``n_regions`` is there if the matrix was estimated from (jackknife)
regions, and turns on the Hartlap factor of the likelihood. Any other header entry is kept as ``metadata``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from numpy.typing import ArrayLike

from iaemu.binning import EDGE_TOLERANCE, union_edges
from iaemu.files import write_text
from iaemu.prediction import STATISTICS

_FORMAT = "iaemu measurement 1"
_COVARIANCE_FORMAT = "iaemu covariance 1"
_COLUMNS = ("statistic", "r_low", "r_high", "value", "error")
SUFFIX = ".txt"

#: A covariance's diagonal and the squared errors of its bins may differ by this fraction (figures are rounded).
_DIAGONAL_TOLERANCE = 0.01


class MeasurementError(ValueError):
    """A measurement that is malformed, incomplete or not physical; the message names the file and the thing."""


@dataclass(frozen=True)
class Bins:
    """One measured statistic.

    Attributes
    ----------
    r_low, r_high : array (n_bins,)
        Limits of the radial bins [Mpc/h]; increasing, not overlapping, gaps are allowed.
    value, error : array (n_bins,)
        Correlation function and its standard error, dimensionless.
    """

    r_low: np.ndarray
    r_high: np.ndarray
    value: np.ndarray
    error: np.ndarray

    def __len__(self) -> int:
        return len(self.value)

    @property
    def r(self) -> np.ndarray:
        """Bin centres: arithmetic means of the limits.

        Returns
        -------
        array (n_bins,) [Mpc/h]
        """
        return 0.5 * (self.r_low + self.r_high)

    def select(self, mask: ArrayLike) -> Bins:
        """Some of the bins.

        Parameters
        ----------
        mask : array of bool (n_bins,), or of indices

        Returns
        -------
        Bins
        """
        chosen = np.asarray(mask)
        return Bins(self.r_low[chosen], self.r_high[chosen], self.value[chosen], self.error[chosen])

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Contiguous edges that hold all bins.

        Returns
        -------
        edges : array (n + 1,)
            [Mpc/h]; where the bins leave gaps, n is larger than n_bins.
        index : array of int (n_bins,)
            Of each bin in them.
        """
        edges = union_edges(*np.stack([self.r_low, self.r_high], axis=1))
        index = np.searchsorted(edges, self.r_low * (1.0 + EDGE_TOLERANCE), side="right") - 1
        return edges, index


@dataclass(frozen=True)
class Covariance:
    """Covariance of all bins of one or more statistics.

    Attributes
    ----------
    statistics : tuple of str
        The matrix runs over the bins of the first, then of the second, ...
    matrix : array (n, n)
        Dimensionless, symmetric, positive definite.
    n_regions : int or None
        Number of regions from which it was estimated; None if it was not (a model, say).
    metadata : dict
        Other entries of the header.
    """

    statistics: tuple[str, ...]
    matrix: np.ndarray
    n_regions: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Covariance:
        """Read and check a covariance file.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Covariance

        Raises
        ------
        MeasurementError
            Wrong format or header; not a square, finite, symmetric, positive-definite matrix.
        FileNotFoundError
            No such file.
        """
        path = Path(path)
        header, rows = _read_text(path, _COVARIANCE_FORMAT)
        statistics = header.pop("statistics", None)
        if isinstance(statistics, str):
            statistics = [statistics]
        if not statistics or any(name not in STATISTICS for name in statistics):
            raise MeasurementError(
                f"{path}: 'statistics' in the header must list some of {', '.join(STATISTICS)}, got {statistics!r}."
            )
        lengths = {len(row) for _, row in rows}
        if not rows or lengths != {len(rows)}:
            raise MeasurementError(
                f"{path}: a covariance has as many rows as columns, not {len(rows)} rows of {sorted(lengths)} numbers."
            )
        matrix = np.array([[_number(path, line, word) for word in row] for line, row in rows])
        n_regions = header.pop("n_regions", None)
        if n_regions is not None and (not isinstance(n_regions, int) or n_regions < 2):
            raise MeasurementError(f"{path}: 'n_regions' must be a whole number above 1, got {n_regions!r}.")
        check_covariance(matrix, str(path))
        return cls(tuple(statistics), matrix, n_regions, header)

    def write(self, path: str | Path) -> Path:
        """Write to a temporary name, then rename: a reader never sees half a file.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path
        """
        header = {"format": _COVARIANCE_FORMAT, "statistics": list(self.statistics), **self.metadata}
        if self.n_regions is not None:
            header["n_regions"] = self.n_regions
        rows = [" ".join(f"{value:.12g}" for value in row) for row in self.matrix]
        return _write_text(Path(path), header, rows)


@dataclass(frozen=True)
class Measurement:
    """Measured correlation functions with errors, and covariances where known.

    Attributes
    ----------
    bins : dict of statistic to Bins
    covariances : list of Covariance
        At most one per statistic; statistics without one have independent bins.
    metadata : dict
        Header entries: description, source, redshift, ...
    name : str
        Where it was read from; used in error messages.
    """

    bins: Mapping[str, Bins]
    covariances: Sequence[Covariance] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str = "measurement"

    def __post_init__(self):
        if not self.bins:
            raise MeasurementError(f"{self.name}: there is no measurement in it.")
        for statistic, bins in self.bins.items():
            if statistic not in STATISTICS:
                raise MeasurementError(
                    f"{self.name}: unknown statistic {statistic!r}; known are {', '.join(STATISTICS)}."
                )
            _check_bins(f"{self.name}: {statistic}", bins)
        seen: set[str] = set()
        for covariance in self.covariances:
            label = f"{self.name}: the covariance of {', '.join(covariance.statistics)}"
            for statistic in covariance.statistics:
                if statistic not in self.bins:
                    raise MeasurementError(f"{label} is given, but {statistic} is not in the table.")
                if statistic in seen:
                    raise MeasurementError(f"{self.name}: more than one covariance holds {statistic}.")
                seen.add(statistic)
            error = np.concatenate([self.bins[statistic].error for statistic in covariance.statistics])
            _check_against_errors(covariance.matrix, error, label)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those that were measured.

        Returns
        -------
        tuple of str
        """
        return tuple(self.bins)

    def covariance_of(self, statistic: str) -> Covariance | None:
        """The covariance that holds a statistic.

        Parameters
        ----------
        statistic : str

        Returns
        -------
        Covariance, or None
        """
        return next((entry for entry in self.covariances if statistic in entry.statistics), None)

    @classmethod
    def read(cls, path: str | Path, name: str | None = None) -> Self:
        """Read and check a measurement.

        Parameters
        ----------
        path : str or Path
            The file; its covariances lie beside it.
        name : str, optional
            What error messages call it; by default the path.

        Returns
        -------
        Measurement

        Raises
        ------
        MeasurementError
            Anything wrong with the content; the message names file, line or bin, and the value.
        FileNotFoundError
            No such file.
        """
        path = Path(path)
        header, rows = _read_text(path, _FORMAT)
        unit = header.pop("r_unit", None)
        if unit != "Mpc/h":
            raise MeasurementError(f"{path}: 'r_unit' in the header must be 'Mpc/h', got {unit!r}.")
        bins = _read_bins(path, str(header.pop("columns", "")).replace(",", " ").split(), rows)
        files = header.pop("covariances", None) or []
        if isinstance(files, str):
            files = [files]
        for file in files:
            if not (path.parent / file).is_file():
                raise MeasurementError(f"{path}: its header names the covariance {file!r}, which is not beside it.")
        return cls(bins, [Covariance.read(path.parent / file) for file in files], header, name or str(path))

    def write(self, path: str | Path) -> Path:
        """Write the table, and its covariances beside it as ``<stem>_<statistics>_covariance.txt``.

        Each file is written under a temporary name and renamed, covariances first: a table never refers to a file
        that is not there.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path
        """
        path = Path(path)
        names = []
        for covariance in self.covariances:
            name = f"{path.stem}_{'_'.join(covariance.statistics)}_covariance{SUFFIX}"
            covariance.write(path.parent / name)
            names.append(name)
        header = {"format": _FORMAT, **self.metadata, "r_unit": "Mpc/h"}
        if names:
            header["covariances"] = names
        header["columns"] = " ".join(_COLUMNS)
        rows = [
            f"{statistic:<5s} {low:<14.12g} {high:<14.12g} {value:<19.12g} {error:.12g}"
            for statistic, bins in self.bins.items()
            for low, high, value, error in zip(bins.r_low, bins.r_high, bins.value, bins.error, strict=True)
        ]
        return _write_text(path, header, rows)


def check_covariance(matrix: np.ndarray, label: str) -> None:
    """Raise a MeasurementError unless a matrix is finite, symmetric and positive definite.

    Parameters
    ----------
    matrix : array (n, n)
    label : str
        What the message calls it.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise MeasurementError(f"{label}: the covariance must be a square matrix, got shape {matrix.shape}.")
    if not np.all(np.isfinite(matrix)):
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise MeasurementError(f"{label}: the covariance holds {matrix[row, column]} at ({row}, {column}).")
    diagonal = np.diag(matrix)
    if np.any(diagonal <= 0):
        bad = int(np.argmax(diagonal <= 0))
        raise MeasurementError(f"{label}: the covariance has the variance {diagonal[bad]:.6g} at bin {bad}.")
    # Compare correlations: bins of xi differ by many orders of magnitude.
    scale = np.sqrt(np.outer(diagonal, diagonal))
    asymmetry = np.abs(matrix - matrix.T) / scale
    if asymmetry.max() > 1e-6:
        row, column = np.unravel_index(np.argmax(asymmetry), matrix.shape)
        raise MeasurementError(
            f"{label}: the covariance is not symmetric: {matrix[row, column]:.6g} at ({row}, {column}), "
            f"{matrix[column, row]:.6g} at ({column}, {row})."
        )
    eigenvalues = np.linalg.eigvalsh(matrix / scale)
    if eigenvalues[0] <= 1e-12 * eigenvalues[-1]:
        raise MeasurementError(
            f"{label}: the covariance is not positive definite: its correlation matrix has the eigenvalue "
            f"{eigenvalues[0]:.3g}. Estimate it from more regions than bins, use fewer bins, or use "
            f"'covariance: diagonal'."
        )


def _check_against_errors(matrix: np.ndarray, error: np.ndarray, label: str) -> None:
    if matrix.shape != (len(error), len(error)):
        raise MeasurementError(f"{label} has shape {matrix.shape}, but the table holds {len(error)} bins of it.")
    check_covariance(matrix, label)
    apart = np.abs(np.diag(matrix) / error**2 - 1.0) > _DIAGONAL_TOLERANCE
    if np.any(apart):
        bad = int(np.argmax(apart))
        raise MeasurementError(
            f"{label} and the errors in the table disagree: bin {bad} has variance {matrix[bad, bad]:.6g} and error "
            f"{error[bad]:.6g} (squared: {error[bad] ** 2:.6g})."
        )


def _check_bins(label: str, bins: Bins) -> None:
    for name in ("r_low", "r_high", "value", "error"):
        values = getattr(bins, name)
        if values.shape != bins.value.shape or values.ndim != 1 or len(values) == 0:
            raise MeasurementError(f"{label}: {name} has shape {values.shape}, value has {bins.value.shape}.")
        if not np.all(np.isfinite(values)):
            bad = int(np.argmax(~np.isfinite(values)))
            raise MeasurementError(
                f"{label}: {name} is {values[bad]} in bin {bad} (r = {bins.r_low[bad]:.5g} .. {bins.r_high[bad]:.5g} "
                f"Mpc/h); leave out bins without a measurement."
            )
    for bad in np.flatnonzero(bins.error <= 0).tolist():
        raise MeasurementError(
            f"{label}: the error of bin {bad} (r = {bins.r_low[bad]:.5g} .. {bins.r_high[bad]:.5g} Mpc/h) is "
            f"{bins.error[bad]:.6g}; errors must be positive."
        )
    for bad in np.flatnonzero((bins.r_low <= 0) | (bins.r_high <= bins.r_low)).tolist():
        raise MeasurementError(
            f"{label}: bin {bad} goes from {bins.r_low[bad]:.6g} to {bins.r_high[bad]:.6g} Mpc/h; "
            f"it needs 0 < r_low < r_high."
        )
    for bad in np.flatnonzero(bins.r_low[1:] < bins.r_high[:-1] * (1.0 - EDGE_TOLERANCE)).tolist():
        raise MeasurementError(
            f"{label}: bins {bad} and {bad + 1} overlap or are not sorted: {bins.r_low[bad]:.6g} .. "
            f"{bins.r_high[bad]:.6g} and {bins.r_low[bad + 1]:.6g} .. {bins.r_high[bad + 1]:.6g} Mpc/h."
        )


def _read_bins(path: Path, columns: list[str], rows: list[tuple[int, list[str]]]) -> dict[str, Bins]:
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise MeasurementError(
            f"{path}: missing column(s) {', '.join(missing)}; the header must hold a line "
            f"'# columns: {' '.join(_COLUMNS)}' (any order)."
        )
    table: dict[str, list] = {}
    for line, row in rows:
        if len(row) != len(columns):
            raise MeasurementError(f"{path}, line {line}: {len(row)} entries in {len(columns)} columns.")
        entry = dict(zip(columns, row, strict=True))
        numbers = [_number(path, line, entry[column], column) for column in _COLUMNS[1:]]
        table.setdefault(entry["statistic"], []).append(numbers)
    return {statistic: Bins(*np.array(numbers).T) for statistic, numbers in table.items()}


def _read_text(path: Path, expected: str) -> tuple[dict[str, Any], list[tuple[int, list[str]]]]:
    """Header of a file of the format expected, and (line number, words) of each row of the body."""
    header, rows = [], []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MeasurementError(f"{path}: not a text file in UTF-8 ({error}).") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            # "# key" and "#key" are both fine, mixed or not; indentation beyond that belongs to YAML.
            header.append(line[1:].removeprefix(" "))
        elif line.strip():
            rows.append((number, line.split()))
    try:
        parsed = yaml.safe_load("\n".join(header)) or {}
    except yaml.YAMLError as error:
        raise MeasurementError(f"{path}: the lines behind '#' are not valid YAML: {error}") from error
    if not isinstance(parsed, dict):
        raise MeasurementError(f"{path}: the lines behind '#' must be 'key: value' pairs.")
    found = parsed.pop("format", None)
    if found != expected:
        raise MeasurementError(
            f"{path}: the header must hold '# format: {expected}', got {found!r}. Is it the right file?"
        )
    return parsed, rows


def _write_text(path: Path, header: Mapping[str, Any], rows: Sequence[str]) -> Path:
    text = yaml.safe_dump(dict(header), sort_keys=False, width=110, allow_unicode=True, default_flow_style=None)
    lines = [f"# {line}" for line in text.splitlines()] + list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(lines) + "\n")
    return path


def _number(path: Path, line: int, word: str, column: str = "number") -> float:
    try:
        return float(word)
    except ValueError:
        raise MeasurementError(f"{path}, line {line}: {column} is {word!r}, which is not a number.") from None

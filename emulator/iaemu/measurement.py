"""Measured alignment correlations, and the text format of the shipped data and of users' data.

A measurement is a text file. Its first lines are a YAML header behind ``#``, its body is a table::

    # format: iaemu measurement 1
    # description: TNG300-1, z = 0, galaxies of more than 10^10.5 Msun
    # source: arXiv:2311.07374
    # r_unit: Mpc/h
    # covariances: [sample_omega_covariance.txt]
    # columns: statistic r_low r_high value error
    omega 0.1 0.15 0.0793 0.0075
    ...

``statistic`` is ``xi``, ``omega`` or ``eta``; a bin extends from ``r_low`` to ``r_high``; ``error`` is the standard
error. What surveys measure (``w_gg``, ``w_gplus``, ``w_plusplus``, ``xi_gplus_2``) has the same columns. Then r is the
transverse separation r_p, values of w are in Mpc/h, and the header states ``pi_max`` [Mpc/h]. If only the separation of
a value is known, and not its bin, ``r_low`` and ``r_high`` are both that separation.

The optional ``covariances`` are files in the same folder, each with its own header and one row of the matrix per
line::

    # format: iaemu covariance 1
    # statistics: [omega]
    # estimator: jackknife
    # n_regions: 27
    2.2e-06 1.1e-06 ...

The rows are the bins of the file's ``statistics``, one statistic after the other, in order of increasing r. A file with
several statistics contains their cross-covariance. ``n_regions`` is the number of (jackknife) regions from which the
matrix was estimated; if it is given, the likelihood accounts for its noise. Other entries of the header are kept as
``metadata``.

Files from :meth:`Measurement.write` have two more lines, so that a truncated or damaged file is noticed::

    # bins: {omega: 14}
    # sha256: 0f3a...

``sha256`` is the hash of all other lines, without trailing spaces and with a newline after each. If you edit such a
file by hand, remove that line. In a file without it, the last line must end in a newline, and all statistics that the
header names in ``bins`` or ``statistics`` must be in the table.
"""

from __future__ import annotations

import hashlib
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from numpy.typing import ArrayLike

from iaemu.binning import EDGE_TOLERANCE, union_edges
from iaemu.display import html_table, shorten
from iaemu.files import Write, read_text, write_together
from iaemu.ranges import short
from iaemu.statistics import MEASURED, PROJECTED

_FORMAT = "iaemu measurement 1"
_COVARIANCE_FORMAT = "iaemu covariance 1"
_COLUMNS = ("statistic", "r_low", "r_high", "value", "error")
SUFFIX = ".txt"
_EXAMPLE = f"""
  # format: {_FORMAT}
  # r_unit: Mpc/h
  # columns: {" ".join(_COLUMNS)}
  omega 0.1 0.15 0.0793 0.0075
  omega 0.15 0.22 0.0651 0.0052
"""

#: Header entries that are not metadata.
_RESERVED = ("format", "r_unit", "columns", "statistics", "bins", "covariances", "replaces", "sha256")
_COVARIANCE_RESERVED = ("format", "statistics", "n_regions", "sha256")
_CHECKSUM = re.compile(r"#\s*sha256:\s*([0-9a-f]{64})\s*")
_BROKEN_CHECKSUM = re.compile(r"(?<!\w)sha256:\s*[0-9a-f]{8,}")

#: The diagonal of a covariance and the squared errors of its bins may differ by this fraction, because of rounding.
_DIAGONAL_TOLERANCE = 0.01


class MeasurementError(ValueError):
    """Raised if a measurement is malformed, incomplete or not physical; the message names the file and the entry."""


@dataclass(frozen=True)
class Bins:
    """One measured statistic in radial bins.

    Attributes
    ----------
    r_low, r_high : array (n_bins,)
        Limits of the bins [Mpc/h]. In a :class:`Measurement` they increase and do not overlap; gaps are allowed. Both
        are the separation of a projected statistic whose bin is not known.
    value, error : array (n_bins,)
        Correlation function and its standard error, dimensionless; in Mpc/h for w.

    Raises
    ------
    MeasurementError
        An array does not hold real numbers, has masked entries, or has another length than ``r_low``.
    """

    r_low: np.ndarray
    r_high: np.ndarray
    value: np.ndarray
    error: np.ndarray

    def __post_init__(self):
        for name in ("r_low", "r_high", "value", "error"):
            values = _real_array(getattr(self, name), f"{name} of the bins", 1)
            object.__setattr__(self, name, values)
            if values.shape != self.r_low.shape:
                raise MeasurementError(
                    f"{name} of the bins has {len(values)} entries, but r_low has {len(self.r_low)}. Give one per bin."
                )

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        return f"Bins({self._extent()})"

    def _extent(self) -> str:
        if not len(self):
            return "no bins"
        plural = "" if len(self) == 1 else "s"
        return f"{len(self)} bin{plural} from {self.r_low[0]:.4g} to {self.r_high[-1]:.4g} Mpc/h"

    @property
    def r(self) -> np.ndarray:
        """Bin centres, the arithmetic means of the limits, (n_bins,) [Mpc/h]."""
        return 0.5 * (self.r_low + self.r_high)

    def select(self, mask: ArrayLike) -> Bins:
        """Return some of the bins.

        Parameters
        ----------
        mask : array of bool (n_bins,), or array of indices

        Returns
        -------
        Bins
        """
        chosen = np.asarray(mask)
        return Bins(self.r_low[chosen], self.r_high[chosen], self.value[chosen], self.error[chosen])

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Return contiguous edges among which are the limits of all bins.

        Returns
        -------
        edges : array (n + 1,)
            [Mpc/h]; n is larger than n_bins if there are gaps between the bins.
        index : array of int (n_bins,)
            Position of each bin among the n bins of ``edges``.
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
        Rows and columns are the bins of the first statistic, then of the second, and so on.
    matrix : array (n, n)
        Symmetric, positive definite, in the units of the statistics.
    n_regions : int or None
        Number of regions from which it was estimated; None if it was not estimated from regions.
    metadata : dict
        Other entries of the header.

    Raises
    ------
    MeasurementError
        Statistics are unknown or repeated, the matrix is not a square matrix of real numbers, or ``n_regions`` is not
        a whole number above 1.
    """

    statistics: tuple[str, ...]
    matrix: np.ndarray
    n_regions: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        names = (self.statistics,) if isinstance(self.statistics, str) else self.statistics
        if (
            not isinstance(names, (list, tuple))
            or not names
            or any(not isinstance(name, str) or name not in MEASURED for name in names)
            or len(set(names)) < len(names)
        ):
            raise MeasurementError(
                f"'statistics' of a covariance must be one or more of {', '.join(MEASURED)}, without repetition; got "
                f"{short(names)}."
            )
        object.__setattr__(self, "statistics", tuple(names))
        matrix = _real_array(self.matrix, f"the covariance of {', '.join(names)}", 2)
        if matrix.shape[0] != matrix.shape[1]:
            raise MeasurementError(f"A covariance must have as many rows as columns; got shape {matrix.shape}.")
        object.__setattr__(self, "matrix", matrix)
        if self.n_regions is not None and (
            not isinstance(self.n_regions, numbers.Integral) or isinstance(self.n_regions, bool) or self.n_regions < 2
        ):
            raise MeasurementError(
                f"'n_regions' of a covariance must be a whole number above 1, or None; got {short(self.n_regions)}."
            )
        _check_metadata(self.metadata, _COVARIANCE_RESERVED)

    def __repr__(self) -> str:
        source = "" if self.n_regions is None else f", from {self.n_regions} regions"
        return f"Covariance({', '.join(self.statistics)}; {len(self.matrix)} x {len(self.matrix)}{source})"

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
            The format or the header is wrong, or the matrix is not square, finite, symmetric and positive definite.
        FileNotFoundError
            There is no such file.
        """
        path = Path(path)
        header, rows = read_header_and_rows(path, _COVARIANCE_FORMAT)
        lengths = {len(row) for _, row in rows}
        if not rows or lengths != {len(rows)}:
            raise MeasurementError(
                f"{path}: a covariance must have as many rows as columns; this one has {len(rows)} rows of "
                f"{' or '.join(map(str, sorted(lengths))) or 'no'} numbers."
            )
        matrix = np.array([[number_at(path, line, word) for word in row] for line, row in rows])
        try:
            covariance = cls(header.pop("statistics", None), matrix, header.pop("n_regions", None), header)
        except MeasurementError as error:
            raise MeasurementError(f"{path}: {error}") from None
        check_covariance(matrix, str(path))
        return covariance

    def write(self, path: str | Path) -> Path:
        """Write the covariance to a file, completely or not at all.

        Parameters
        ----------
        path : str or Path
            Missing folders are created.

        Returns
        -------
        Path

        Raises
        ------
        MeasurementError
            The metadata cannot be written.
        OSError
            The file cannot be written. An older file is unchanged.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_together({path: _writer(self._text())})
        return path

    def _text(self) -> str:
        header = {"format": _COVARIANCE_FORMAT, "statistics": list(self.statistics), **self.metadata}
        if self.n_regions is not None:
            header["n_regions"] = int(self.n_regions)
        return header_and_rows_as_text(header, [" ".join(map(repr, row)) for row in self.matrix.tolist()])


@dataclass(frozen=True)
class Measurement:
    """Measured correlation functions with errors, and their covariances if these are known.

    Attributes
    ----------
    bins : dict of statistic to Bins
    covariances : list of Covariance
        At most one that contains a statistic. The bins of statistics in none of them are taken as independent.
    metadata : dict
        Header entries, such as description, source and redshift.
    name : str
        Name in error messages; by default the path it was read from.

    Raises
    ------
    MeasurementError
        Bins overlap, are not sorted or have no positive error; a covariance is not positive definite or disagrees with
        the errors; or an argument is of the wrong type.
    """

    bins: Mapping[str, Bins]
    covariances: Sequence[Covariance] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str = "measurement"

    def __post_init__(self):
        if not isinstance(self.bins, Mapping) or not all(isinstance(bins, Bins) for bins in self.bins.values()):
            raise MeasurementError(f"{self.name}: 'bins' must map statistics to Bins; got {short(self.bins)}.")
        if not isinstance(self.covariances, (list, tuple)) or not all(
            isinstance(covariance, Covariance) for covariance in self.covariances
        ):
            raise MeasurementError(f"{self.name}: 'covariances' must be a list of Covariance.")
        _check_metadata(self.metadata, _RESERVED)
        if not self.bins:
            raise MeasurementError(f"{self.name} contains no measured bins.")
        for statistic, bins in self.bins.items():
            if not isinstance(statistic, str) or statistic not in MEASURED:
                raise MeasurementError(f"{self.name}: unknown statistic {short(statistic)}; use {', '.join(MEASURED)}.")
            _check_bins(f"{self.name}: {statistic}", bins, statistic in PROJECTED)
            if statistic in ("omega", "eta"):
                _check_cosines(f"{self.name}: {statistic}", bins)
        seen: set[str] = set()
        for covariance in self.covariances:
            label = f"{self.name}: the covariance of {', '.join(covariance.statistics)}"
            for statistic in covariance.statistics:
                if statistic not in self.bins:
                    raise MeasurementError(f"{label} is given, but {statistic} is not in the table.")
                if statistic in seen:
                    raise MeasurementError(f"{self.name}: more than one covariance contains {statistic}; give one.")
                seen.add(statistic)
            error = np.concatenate([self.bins[statistic].error for statistic in covariance.statistics])
            _check_against_errors(covariance.matrix, error, label)

    def __repr__(self) -> str:
        parts = [shorten(self.name), *(f"{name}: {bins._extent()}" for name, bins in self.bins.items())]
        covered = [", ".join(covariance.statistics) for covariance in self.covariances]
        parts.append(f"covariance of {' and of '.join(covered)}" if covered else "no covariance")
        return f"Measurement({'; '.join(parts)})"

    def _repr_html_(self) -> str:
        bins = self.bins.values()
        columns: dict[str, list] = {
            "statistic": [name for name, entry in self.bins.items() for _ in range(len(entry))],
            "r_low [Mpc/h]": [value for entry in bins for value in entry.r_low],
            "r_high [Mpc/h]": [value for entry in bins for value in entry.r_high],
            "value": [value for entry in bins for value in entry.value],
            "error": [value for entry in bins for value in entry.error],
        }
        caption = shorten(self.metadata.get("description", self.name))
        return html_table(columns, caption, [repr(covariance) for covariance in self.covariances])

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the measured statistics, a tuple of str."""
        return tuple(self.bins)

    def covariance_of(self, statistic: str) -> Covariance | None:
        """Return the covariance that contains a statistic.

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
        """Read and check a measurement and its covariances.

        Parameters
        ----------
        path : str or Path
            The file. Its covariances are in the same folder.
        name : str, optional
            Name in error messages; by default the path.

        Returns
        -------
        Measurement

        Raises
        ------
        MeasurementError
            The content is wrong; the message names the file, the line or bin, and the value.
        FileNotFoundError
            There is no such file.
        """
        path = Path(path)
        header, rows = read_header_and_rows(path, _FORMAT)
        unit = header.pop("r_unit", None)
        if unit != "Mpc/h":
            raise MeasurementError(f"{path}: 'r_unit' in the header must be 'Mpc/h'; got {unit!r}.")
        bins = _read_bins(path, str(header.pop("columns", "")).replace(",", " ").split(), rows)
        _check_complete(path, bins, header.pop("bins", None), header.pop("statistics", None))
        header.pop("replaces", None)
        files = _file_names(path, header.pop("covariances", None))
        for file in files:
            if not (path.parent / file).is_file():
                raise MeasurementError(
                    f"{path}: its header names the covariance {file!r}, but there is no such file in its folder."
                )
        return cls(bins, [Covariance.read(path.parent / file) for file in files], header, name or str(path))

    def write(self, path: str | Path, beside: Mapping[str | Path, Write] | None = None) -> Path:
        """Write the table, and its covariances in the same folder as ``<stem>_<statistics>_covariance.txt``.

        The table on disk belongs to the covariances that it names at any moment, also if the process is killed. If it
        replaces a table whose covariances have these names, the new covariances first get other names. Covariances
        that only the older table used are removed.

        Parameters
        ----------
        path : str or Path
            Missing folders are created.
        beside : mapping of path to callable, optional
            Further files to write together with the table, such as a plot of it. Each callable is called with the open
            binary file.

        Returns
        -------
        Path

        Raises
        ------
        MeasurementError
            The metadata cannot be written.
        OSError
            One of the files cannot be written. Older files are unchanged.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        stems = [f"{path.stem}_{'_'.join(covariance.statistics)}_covariance" for covariance in self.covariances]
        texts = [covariance._text() for covariance in self.covariances]
        plain, spare = [stem + SUFFIX for stem in stems], [f"{stem}_new{SUFFIX}" for stem in stems]

        def files(names: list[str], replaces: Sequence[str] = ()) -> dict[str | Path, Write]:
            contents = {path.parent / name: text for name, text in zip(names, texts, strict=True)}
            changed = {file: text for file, text in contents.items() if not _holds(file, text)}
            return {file: _writer(text) for file, text in {**changed, path: self._text(names, replaces)}.items()}

        present, replaced = _covariances_of(path)
        unused = [name for name in (*present, *replaced) if name not in (*plain, *spare)]
        if any(
            name in present and not _holds(path.parent / name, text) for name, text in zip(plain, texts, strict=True)
        ):
            write_together(files(spare, unused) | dict(beside or {}))
        elif unused:
            # The header names them until they are removed, so that they are found after the process was killed.
            write_together(files(plain, unused) | dict(beside or {}))
        for name in unused:
            (path.parent / name).unlink(missing_ok=True)
        write_together(files(plain) | dict(beside or {}))
        for name in spare:
            (path.parent / name).unlink(missing_ok=True)
        return path

    def _text(self, covariances: Sequence[str], replaces: Sequence[str] = ()) -> str:
        header: dict[str, Any] = {"format": _FORMAT, **self.metadata, "r_unit": "Mpc/h"}
        if covariances:
            header["covariances"] = list(covariances)
        if replaces:
            header["replaces"] = list(replaces)
        header["columns"] = " ".join(_COLUMNS)
        header["bins"] = {statistic: len(bins) for statistic, bins in self.bins.items()}
        # repr has as many digits as are needed to read the same number.
        rows = [
            f"{statistic:<5s} {low!r:<19s} {high!r:<19s} {value!r:<22s} {error!r}"
            for statistic, bins in self.bins.items()
            for low, high, value, error in np.stack([bins.r_low, bins.r_high, bins.value, bins.error], axis=1).tolist()
        ]
        return header_and_rows_as_text(header, rows)


#: What to do about a covariance of correlation functions that is not positive definite.
_REMEDY = "Estimate it from more regions than bins, use fewer bins, or use 'covariance: diagonal'."


def check_covariance(matrix: np.ndarray, label: str, remedy: str = _REMEDY) -> None:
    """Check that a matrix is finite, symmetric and positive definite.

    Parameters
    ----------
    matrix : array (n, n)
    label : str
        Name in messages.
    remedy : str
        What the message says to do if an eigenvalue is not positive.

    Raises
    ------
    MeasurementError
        It is not; the message names the entry.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise MeasurementError(f"{label}: the covariance must be a square matrix; got shape {matrix.shape}.")
    if not np.all(np.isfinite(matrix)):
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise MeasurementError(
            f"{label}: the covariance must be finite, but is {matrix[row, column]} at ({row}, {column})."
        )
    diagonal = np.diag(matrix)
    if np.any(diagonal <= 0):
        bad = int(np.argmax(diagonal <= 0))
        raise MeasurementError(
            f"{label}: variances must be positive, but the covariance has {diagonal[bad]:.6g} at bin {bad}."
        )
    # Compare correlations: bins of xi differ by many orders of magnitude, and products of them may overflow.
    sigma = np.sqrt(diagonal)
    with np.errstate(over="ignore"):
        correlation = matrix / sigma[:, None] / sigma
        large = np.abs(correlation) > 2.0
    if large.any():
        row, column = np.argwhere(large)[0]
        raise MeasurementError(
            f"{label}: the covariance is not positive definite: {matrix[row, column]:.6g} at ({row}, {column}) is more "
            f"than the variances {diagonal[row]:.6g} and {diagonal[column]:.6g} allow."
        )
    asymmetry = np.abs(correlation - correlation.T)
    if asymmetry.max() > 1e-6:
        row, column = np.unravel_index(np.argmax(asymmetry), matrix.shape)
        raise MeasurementError(
            f"{label}: the covariance is not symmetric: it is {matrix[row, column]:.6g} at ({row}, {column}) and "
            f"{matrix[column, row]:.6g} at ({column}, {row})."
        )
    eigenvalues = np.linalg.eigvalsh(correlation)
    if eigenvalues[0] <= 1e-12 * eigenvalues[-1]:
        raise MeasurementError(
            f"{label}: the covariance is not positive definite: its correlation matrix has the eigenvalue "
            f"{eigenvalues[0]:.3g}. {remedy}"
        )


def _check_against_errors(matrix: np.ndarray, error: np.ndarray, label: str) -> None:
    if matrix.shape != (len(error), len(error)):
        raise MeasurementError(
            f"{label} has shape {matrix.shape}, but the table has {len(error)} bins of these statistics."
        )
    check_covariance(matrix, label)
    with np.errstate(over="ignore"):
        apart = np.abs((np.sqrt(np.diag(matrix)) / error) ** 2 - 1.0) > _DIAGONAL_TOLERANCE
    if np.any(apart):
        bad = int(np.argmax(apart))
        raise MeasurementError(
            f"{label} and the errors in the table disagree: bin {bad} has the variance {matrix[bad, bad]:.6g} and the "
            f"error {error[bad]:.6g} (squared: {error[bad] ** 2:.6g})."
        )


def _check_bins(label: str, bins: Bins, points: bool = False) -> None:
    """Raise MeasurementError unless bins are in order; with ``points``, a bin may be one separation."""
    for name in ("r_low", "r_high", "value", "error"):
        values = getattr(bins, name)
        if len(values) == 0:
            raise MeasurementError(f"{label} has no bins.")
        if not np.all(np.isfinite(values)):
            bad = int(np.argmax(~np.isfinite(values)))
            raise MeasurementError(
                f"{label}: {name} is {values[bad]} in bin {bad} (r = {bins.r_low[bad]:.5g} .. {bins.r_high[bad]:.5g} "
                f"Mpc/h). Leave out bins without a measurement."
            )
    for bad in np.flatnonzero(bins.error <= 0).tolist():
        raise MeasurementError(
            f"{label}: the error of bin {bad} (r = {bins.r_low[bad]:.5g} .. {bins.r_high[bad]:.5g} Mpc/h) is "
            f"{bins.error[bad]:.6g}; errors must be positive."
        )
    single = bins.r_high == bins.r_low
    for bad in np.flatnonzero((bins.r_low <= 0) | (bins.r_high < bins.r_low) | (single & (not points))).tolist():
        raise MeasurementError(
            f"{label}: bin {bad} extends from {bins.r_low[bad]:.6g} to {bins.r_high[bad]:.6g} Mpc/h; "
            f"0 < r_low < r_high is required."
        )
    repeated = single[1:] & (bins.r_low[1:] <= bins.r_high[:-1])
    for bad in np.flatnonzero((bins.r_low[1:] < bins.r_high[:-1] * (1.0 - EDGE_TOLERANCE)) | repeated).tolist():
        raise MeasurementError(
            f"{label}: bins {bad} and {bad + 1} overlap or are not sorted: {bins.r_low[bad]:.6g} .. "
            f"{bins.r_high[bad]:.6g} and {bins.r_low[bad + 1]:.6g} .. {bins.r_high[bad + 1]:.6g} Mpc/h."
        )


def _check_cosines(label: str, bins: Bins) -> None:
    """Raise MeasurementError if a mean of cos^2 - 1/3 is far outside of its limits."""
    excess = np.maximum(-1.0 / 3.0 - bins.value, bins.value - 2.0 / 3.0)
    beyond = (excess > 3.0 * bins.error) | ((excess > 0.0) & (np.median(excess) > 0.0))
    for bad in np.flatnonzero(beyond).tolist():
        raise MeasurementError(
            f"{label} is {bins.value[bad]:.6g} in bin {bad}, with the error {bins.error[bad]:.6g}, but a mean of "
            "cos^2 - 1/3 lies between -1/3 and 2/3. If it is in per cent, divide it and its error by 100."
        )


def _read_bins(path: Path, columns: list[str], rows: list[tuple[int, list[str]]]) -> dict[str, Bins]:
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise MeasurementError(
            f"{path}: missing column(s) {', '.join(missing)}. The header must contain the line "
            f"'# columns: {' '.join(_COLUMNS)}', in the order of the columns of the table."
        )
    table: dict[str, list] = {}
    for line, row in rows:
        if len(row) != len(columns):
            raise MeasurementError(f"{path}, line {line}: there are {len(row)} entries for {len(columns)} columns.")
        entry = dict(zip(columns, row, strict=True))
        numbers = [number_at(path, line, entry[column], column) for column in _COLUMNS[1:]]
        table.setdefault(entry["statistic"], []).append(numbers)
    return {statistic: Bins(*np.array(numbers).T) for statistic, numbers in table.items()}


def _check_complete(path: Path, bins: Mapping[str, Bins], counts: Any, statistics: Any) -> None:
    """Raise unless there are as many bins of each statistic as the header says."""
    if counts is not None:
        found = {statistic: len(entry) for statistic, entry in bins.items()}
        if counts != found:
            raise MeasurementError(
                f"{path}: its header states the numbers of bins {short(counts)}, but the table has {found}. Is the "
                f"file complete? If you removed bins, change the line '# bins: ...' or remove it."
            )
    for statistic in [statistics] if isinstance(statistics, str) else statistics or ():
        if statistic not in bins:
            raise MeasurementError(
                f"{path}: its header names the statistic {short(statistic)}, but the table has no bins of it."
            )


def _file_names(path: Path, given: Any) -> list[str]:
    names = [given] if isinstance(given, str) else given or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise MeasurementError(f"{path}: 'covariances' in the header must list names of files; got {short(given)}.")
    return names


def _covariances_of(path: Path) -> tuple[list[str], list[str]]:
    """Return the covariances that a table on disk uses and replaces, if :meth:`Measurement.write` named them so."""
    statistic = f"_(?:{'|'.join(MEASURED)})"
    own = re.compile(re.escape(path.stem) + f"(?:{statistic})+_covariance(?:_new)?" + re.escape(SUFFIX))
    try:
        header, _ = read_header_and_rows(path, _FORMAT)
        present, replaced = (_file_names(path, header.get(key)) for key in ("covariances", "replaces"))
    except (MeasurementError, OSError):
        return [], []
    return [name for name in present if own.fullmatch(name)], [name for name in replaced if own.fullmatch(name)]


def read_header_and_rows(path: Path, expected: str) -> tuple[dict[str, Any], list[tuple[int, list[str]]]]:
    """Read a text file whose header is YAML behind ``#``, and check its format and checksum.

    Parameters
    ----------
    path : Path
    expected : str
        The format that the header must state, such as "iaemu covariance 1".

    Returns
    -------
    header : dict
        Without the format.
    rows : list of (int, list of str)
        Number of the line, and the words, of each row of the body.

    Raises
    ------
    MeasurementError
        The file cannot be read, is of another format, was cut short or has changed since it was written.
    FileNotFoundError
        There is no such file.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path} cannot be read: {error}") from error
    if expected == _FORMAT and not re.search(r"^#\s*format\s*:", text, re.MULTILINE):
        raise MeasurementError(
            f"{path} is not in the measurement format: it begins with lines '# key: value', and '# format: {_FORMAT}' "
            f"is one of them, as in\n{_EXAMPLE}\n"
            "From a plain table of numbers, 'iaemu convert TABLE -o own.txt' writes this format."
        )
    *lines, rest = text.split("\n")
    if rest:
        raise MeasurementError(
            f"{path}: its last line, {rest[:40]!r}, does not end in a newline, so the file may have been cut short. If "
            f"it is complete, add a newline."
        )
    header, rows = [], []
    checksums = set()
    for number, line in enumerate(lines, start=1):
        if checksum := _CHECKSUM.fullmatch(line):
            checksums.add(checksum[1])
        elif _BROKEN_CHECKSUM.search(line):
            checksums.add("of another line too")
        elif line.startswith("#"):
            # "# key" and "#key" are both allowed, even mixed; further indentation belongs to YAML.
            header.append(line[1:].removeprefix(" "))
        elif line.strip():
            rows.append((number, line.split()))
    parsed = _parsed_header(path, "\n".join(header))
    found = parsed.pop("format", None)
    if found != expected:
        raise MeasurementError(
            f"{path}: the header must hold '# format: {expected}', got {short(found)}. Is it the right file?"
        )
    if "sha256" in parsed or checksums - {_checksum(lines)}:
        raise MeasurementError(
            f"{path} has changed since it was written: the checksum in its header does not fit. If you changed it on "
            f"purpose, remove the line '# sha256: ...'. If not, the file is damaged: write or copy it again."
        )
    return parsed, rows


class _Loader(yaml.SafeLoader):
    """Reads YAML without aliases, of which a few lines can expand to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """See yaml.SafeLoader."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references (*) are not supported.")
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Writes YAML without aliases, and numbers of NumPy as numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        """See yaml.SafeDumper."""
        return True


_Dumper.add_multi_representer(np.generic, lambda dumper, value: dumper.represent_data(value.item()))
_Dumper.add_representer(np.ndarray, lambda dumper, value: dumper.represent_data(value.tolist()))


def _parsed_header(path: Path, text: str) -> dict[str, Any]:
    try:
        parsed = yaml.load(text, Loader=_Loader)
    except Exception as error:  # a bad date, a bad number or deep brackets raise various exceptions in PyYAML
        raise MeasurementError(f"{path}: the lines behind '#' are not valid YAML: {error}") from error
    if not isinstance(parsed or {}, dict) or any(not isinstance(key, str) for key in parsed or ()):
        raise MeasurementError(f"{path}: the lines behind '#' must be 'key: value' pairs.")
    return parsed or {}


def header_and_rows_as_text(header: Mapping[str, Any], rows: Sequence[str]) -> str:
    """Return the text of a file for :func:`read_header_and_rows`, with its checksum.

    Parameters
    ----------
    header : mapping
        With the format.
    rows : sequence of str

    Returns
    -------
    str

    Raises
    ------
    MeasurementError
        The header cannot be written as YAML.
    """
    try:
        text = yaml.dump(
            dict(header), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True, default_flow_style=None
        )
        lines = [*(f"# {line}".rstrip() for line in text.rstrip("\n").split("\n")), *rows]
        _parsed_header(Path("header"), text)
        "\n".join(lines).encode()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise MeasurementError(
            f"The metadata cannot be written ({error}). They may contain text, numbers, dates, and lists and mappings "
            f"of these."
        ) from error
    lines.insert(len(lines) - len(rows), f"# sha256: {_checksum(lines)}")
    return "\n".join(lines) + "\n"


def _checksum(lines: Sequence[str]) -> str:
    content = "".join(line.rstrip() + "\n" for line in lines if not _CHECKSUM.fullmatch(line))
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


def _writer(text: str) -> Callable:
    return lambda file: file.write(text.encode())


def _holds(path: Path, text: str) -> bool:
    """Return whether a file exists and contains exactly this text."""
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _real_array(values: Any, label: str, ndim: int) -> np.ndarray:
    """Return real numbers, finite or not, as float64 with ``ndim`` dimensions."""
    try:
        array = np.asanyarray(values)
    except Exception as error:  # the object's own conversion may raise anything
        raise MeasurementError(f"{label.capitalize()}: {short(values)} is not an array of numbers.") from error
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise MeasurementError(f"{label.capitalize()} has masked entries; leave out bins without a measurement.")
    if array.dtype.kind not in "iuf" or array.ndim != ndim:
        raise MeasurementError(
            f"{label.capitalize()} must be a {ndim}-dimensional array of real numbers; got {array.ndim} dimension(s) "
            f"of type {array.dtype}."
        )
    return np.array(array, dtype=np.float64, subok=False)


def _check_metadata(metadata: Any, taken: Sequence[str]) -> None:
    if not isinstance(metadata, Mapping) or any(not isinstance(key, str) for key in metadata):
        raise MeasurementError(f"Metadata must be a mapping of names to values; got {short(metadata)}.")
    reserved = [key for key in metadata if key in taken]
    if reserved:
        raise MeasurementError(
            f"Metadata cannot contain {', '.join(reserved)}: the file format uses these names. Choose others."
        )


def number_in(word: str) -> float | None:
    """Return the number in a word of a text file, or None if it is not a number.

    Parameters
    ----------
    word : str

    Returns
    -------
    float or None
    """
    # float() would also accept 1_000 and the digits of other scripts.
    if not word.isascii() or "_" in word:
        return None
    try:
        return float(word)
    except ValueError:
        return None


def number_at(path: Path, line: int, word: str, column: str = "number") -> float:
    """Return the number in a word of a text file.

    Parameters
    ----------
    path : Path
    line : int
        Number of the line, for messages.
    word : str
    column : str
        Name of the column, for messages.

    Returns
    -------
    float

    Raises
    ------
    MeasurementError
        It is not a number.
    """
    number = number_in(word)
    if number is None:
        raise MeasurementError(f"{path}, line {line}: {column} is {word[:60]!r}, which is not a number.")
    return number

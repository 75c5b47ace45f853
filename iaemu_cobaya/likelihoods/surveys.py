"""Read what surveys measure, w_gg and w_g+: FITS files of echo-IA, plain tables, and our own format."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iaemu.measurement import Bins, Covariance, Measurement, MeasurementError, check_covariance
from iaemu.ranges import Range, short
from iaemu.statistics import PROJECTED
from iaemu_cobaya.likelihoods import data_files
from iaemu_cobaya.likelihoods.plain_table import BY_NUMBER, PlainTable, edges_in, meaning, square_matrix
from iaemu_cobaya.likelihoods.survey_fits import SurveyFile, SurveyTable, read_2pt, statistic_of

#: Which statistics are read unless others are named: those that the models predict.
PREDICTED = ("w_gg", "w_gplus")
CORRELATIONS = ("joint", "separate", "none")

#: A bin has no measurement if its variance is zero or this small beside those of its neighbours. (A file of echo-IA has
#: 1e-20 beside 1.)
_NO_VARIANCE = 1e-6

#: Separations beyond this [Mpc/h] are in another unit.
_LARGEST = 500.0

#: Entries of a covariance from n realisations have noise 1/sqrt(n) of the errors. A matrix most of whose entries are
#: below this part of it was not estimated so.
_BELOW_NOISE = 0.1

_LARGEST_FILE = 2**28

#: What a message says of a text file that is not in our own format: a plain table, perhaps.
_TEXT = (
    "is a text file that does not say what it holds. Give plain tables as {w_gg: FILE, w_gplus: FILE}; or a file in "
    "our own format, which 'iaemu convert' writes."
)

#: What marks the error of a statistic in the name of a column: wgg_err, sigma_wgp.
_ERROR = re.compile(r"_?(error|err|sigma|std)_?")


def read_survey(
    source: str | Path | Mapping[str, str | Path],
    *,
    statistics: Sequence[str] | None = None,
    pi_max: float | None = None,
    redshift: float | None = None,
    n_regions: int | None = None,
    covariance: str | Path | Mapping[str, str | Path] | None = None,
    edges: ArrayLike | str | Path | Mapping[str, ArrayLike | str | Path] | None = None,
    pair: Mapping[str, int] | None = None,
    r_min: float | Mapping[str, float] | None = None,
    r_max: float | Mapping[str, float] | None = None,
    correlations: str = "joint",
    masked: str = "drop",
) -> Measurement:
    """Read measured projected correlation functions from the files of a survey.

    Bins whose variance is zero, or less than 1e-6 of those of their neighbours, are left out, with a warning. The
    number of realisations that a FITS file states (``NREAL``) is used only if the covariance has their noise.

    Parameters
    ----------
    source : path, name, or mapping of statistic to path
        A FITS file in the 2pt format of echo-IA (also compressed by gzip); a file in our own format, or the name of a
        packaged measurement, such as ``surveys/lowz``; or a plain table for each statistic, with columns ``r_p value
        error``, ``r_p value`` or ``r_low r_high value error`` (in another order, if the line above them names these).
        One table may hold several statistics, if the line above names them: ``rp wgg err wgp err``.
    statistics : sequence of str, optional
        Of w_gg, w_gplus, w_plusplus. By default w_gg and w_gplus, as far as the file has them.
    pi_max : float, optional
        Largest line-of-sight separation [Mpc/h]. Neither FITS files nor plain tables state it.
    redshift : float, optional
        By default from the redshift distributions of a FITS file.
    n_regions : int, optional
        Number of realisations or (jackknife) regions from which the covariance was estimated.
    covariance : path or mapping of statistic to path, optional
        Of plain tables: a matrix over the rows of all tables in the order of ``source``, or one for each statistic.
    edges : array (n + 1,) or path, or mapping of statistic to these, optional
        Limits of the bins [Mpc/h], or a text file that holds them. By default w is that at its separation, and not the
        mean over a bin.
    pair : mapping of str to int, optional
        Which rows to use if a FITS table holds several pairs of samples, such as ``{"BIN1": 2, "BIN2": 2}``.
    r_min, r_max : float, or mapping of statistic to float, optional
        Leave out bins that are not completely between them [Mpc/h].
    correlations : str
        ``joint``: the whole covariance; ``separate``: without the covariance between statistics; ``none``: errors only.
    masked : str
        ``drop`` or ``refuse`` bins that have no variance.

    Returns
    -------
    Measurement
        Its metadata have ``pi_max``, ``redshift``, ``redshift_of_samples`` and ``notes`` if these are known.

    Raises
    ------
    MeasurementError
        The content is damaged, not complete, not in Mpc/h or not a measurement; the message says what to give.
    FileNotFoundError
        There is no such file or packaged name.
    """
    for name, value, allowed in (
        ("correlations", correlations, CORRELATIONS),
        ("masked", masked, ("drop", "refuse")),
    ):
        if value not in allowed:
            raise MeasurementError(f"{name}: must be one of {', '.join(allowed)}; got {short(value)}.")
    metadata = _given(pi_max, redshift)
    found = _found(source, covariance, pair)
    if isinstance(found, Measurement):
        others = {"n_regions": n_regions, "edges": edges, "r_min": r_min, "r_max": r_max, "statistics": statistics}
        return _completed(found, metadata, [name for name, value in others.items() if value is not None])
    name = ", ".join(map(str, source.values())) if isinstance(source, Mapping) else str(source)
    found = _selected(found, name, statistics)
    limits, used, notes = {}, {}, list(found.notes)
    for statistic, table in found.tables.items():
        limits[statistic] = _limits(statistic, table, edges)
        empty = _without_variance(statistic, table, _variances(found, statistic))
        if empty.any():
            notes.append(_masked(statistic, table, _variances(found, statistic), empty, masked))
        used[statistic] = ~empty & _between(statistic, table, limits[statistic], r_min, r_max)
    for note in notes:
        warnings.warn(f"{name}: {note}.", stacklevel=2)
    bins, covariances = {}, []
    for statistic, table in found.tables.items():
        keep = used[statistic]
        error = np.sqrt(_variances(found, statistic)) if table.error is None else table.error
        low, high = limits[statistic][keep].T
        bins[statistic] = Bins(low, high, table.value[keep], error[keep])
    for names, matrix in found.covariances:
        keep = np.concatenate([used[statistic] for statistic in names])
        covariances += _parts(name, bins, names, matrix[np.ix_(keep, keep)], correlations)
    if n_regions is not None and not covariances:
        raise MeasurementError(f"n_regions: there is no covariance that came from {n_regions} regions; leave it out.")
    if n_regions is None and found.n_regions is not None and covariances:
        if _has_noise([matrix for _, matrix in covariances], found.n_regions):
            n_regions = found.n_regions
        else:
            notes.append(
                f"the covariance has less noise than {found.n_regions} realisations, which the file states (NREAL), "
                "would give: it is taken as exact"
            )
    metadata = {"description": f"Projected correlation functions from {name}", **found.metadata, **metadata}
    if notes:
        metadata["notes"] = "; ".join(notes)
    return Measurement(bins, [Covariance(*part, n_regions) for part in covariances], metadata, name)


def statistics_in(path: str | Path) -> list[str]:
    """Return the projected statistics that the line above the rows of a plain table names.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    list of str
        Empty for a file of another kind.
    """
    path = Path(path).expanduser()
    if not path.is_file() or _kind(_content(path)) != _TEXT:
        return []
    try:
        heading = PlainTable.read(path).heading
    except MeasurementError:
        return []
    return list(dict.fromkeys(name for word in heading if (name := statistic_of(word)) is not None))


def is_fits(path: str | Path) -> bool:
    """Return whether a file is a FITS file, also one compressed by gzip.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    bool
        False too if there is no such file.

    Raises
    ------
    MeasurementError
        The file is a damaged gzip file, or too large.
    """
    path = Path(path).expanduser()
    return path.is_file() and _kind(_content(path)) == "fits"


def _given(pi_max: float | None, redshift: float | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if redshift is not None:
        Range(at_least=0).check("redshift", redshift, error=MeasurementError)
        given["redshift"] = float(redshift)
    if pi_max is not None:
        Range(above=0).check("pi_max [Mpc/h]", pi_max, error=MeasurementError)
        given["pi_max"] = float(pi_max)
    return given


def _completed(found: Measurement, metadata: Mapping[str, Any], others: Sequence[str]) -> Measurement:
    """Return a measurement in our own format with what its header does not state."""
    if others:
        raise MeasurementError(
            f"{found.name} is in our own format, which states this itself: leave out {', '.join(others)}."
        )
    for key, value in metadata.items():
        if found.metadata.get(key, value) != value:
            raise MeasurementError(
                f"{found.name}: {key} is {found.metadata[key]} in its header, but {value:g} was given. Give one."
            )
    return type(found)(found.bins, found.covariances, {**found.metadata, **metadata}, found.name)


# ---------------------------------------------------------------------- files


def _found(source: Any, covariance: Any, pair: Mapping[str, int] | None) -> SurveyFile | Measurement:
    if isinstance(source, Mapping):
        if pair is not None:
            raise MeasurementError("pair: plain tables hold one pair of samples each; leave it out.")
        return _plain_tables(source, covariance)
    path = data_files.resolve(source)
    content = _content(path)
    kind = _kind(content)
    named = statistics_in(path) if kind == _TEXT else []
    if named:
        return _found(dict.fromkeys(named, path), covariance, pair)
    if covariance is not None:
        raise MeasurementError("covariance: is for plain tables; this file holds its own.")
    if kind == "fits":
        return read_2pt(content, str(path), pair)
    if kind == "own":
        if pair is not None:
            raise MeasurementError("pair: is for FITS files; leave it out.")
        return data_files.Measurement.read(source)
    raise MeasurementError(f"{path} {kind}")


def _content(path: Path) -> bytes:
    with open(path, "rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if content[:2] == b"\x1f\x8b":
        unpack = zlib.decompressobj(wbits=31)
        try:
            content = unpack.decompress(content, _LARGEST_FILE + 1)
        except zlib.error as error:
            raise MeasurementError(f"{path} is a damaged gzip file ({error}). Copy or download it again.") from error
        if not unpack.eof and len(content) <= _LARGEST_FILE:
            raise MeasurementError(f"{path} is a gzip file that was cut short. Copy or download it again.")
    if len(content) > _LARGEST_FILE:
        raise MeasurementError(f"{path} has more than {_LARGEST_FILE >> 20} MiB; it is not a file of w_gg and w_g+.")
    return content


def _kind(content: bytes) -> str:
    """Return "fits" or "own", or what a message says about a file of another kind."""
    head = content[:2000].lstrip()
    if not head:
        return "is empty. Copy or download it again."
    if head.startswith(b"SIMPLE"):
        return "fits"
    if re.match(rb"(<!doctype|<html|<\?xml)", head, re.IGNORECASE):
        return "is a web page, not a file of data. Download the file itself (on GitHub: 'Download raw file')."
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file. Get it with 'git lfs pull'."
    if re.search(rb"^#\s*format\s*:", content, re.MULTILINE):
        return "own"
    if b"\0" in content:
        return "is neither a FITS file nor text. Give a file in the 2pt format of echo-IA, plain tables, or our own."
    return _TEXT


def _plain_tables(source: Mapping[Any, Any], covariance: Any) -> SurveyFile:
    tables: dict[str, SurveyTable] = {}
    for key, path in source.items():
        statistic = key if key in PROJECTED else statistic_of(str(key))
        if statistic is None or statistic in tables:
            raise MeasurementError(
                f"{short(key)}: tables must be given as {{statistic: file}} with different statistics of "
                f"{', '.join(PROJECTED)}."
            )
        tables[statistic] = _plain_table(statistic, Path(path).expanduser())
    if not tables:
        raise MeasurementError("No table is given; give {w_gg: FILE, w_gplus: FILE}.")
    covariances: list[tuple[tuple[str, ...], np.ndarray]] = []
    if isinstance(covariance, Mapping):
        for key, path in covariance.items():
            statistic = key if key in PROJECTED else statistic_of(str(key))
            if statistic is None or statistic not in tables:
                raise MeasurementError(f"covariance: there is no table of {short(key)}; tables: {', '.join(tables)}.")
            covariances.append(((statistic,), square_matrix(Path(path).expanduser(), len(tables[statistic].r))))
    elif covariance is not None:
        rows = sum(len(table.r) for table in tables.values())
        covariances.append((tuple(tables), square_matrix(Path(covariance).expanduser(), rows)))
    covered = [statistic for names, _ in covariances for statistic in names]
    for statistic, table in tables.items():
        if table.error is None and statistic not in covered:
            raise MeasurementError(f"{table.label} has no errors: it needs a third column, or a covariance.")
    return SurveyFile(tables, covariances, None, {}, [])


def _plain_table(statistic: str, path: Path) -> SurveyTable:
    if path.is_file():
        content = _content(path)
        kind = _kind(content)
        if kind in ("fits", "own"):
            raise MeasurementError(f"{path} is no plain table: give its name alone, not for one statistic.")
        if kind != _TEXT:
            raise MeasurementError(f"{path} {kind}")
    table = PlainTable.read(path)
    names = _named(statistic, table.heading)
    width = len(table.rows[0][1])
    if "value" not in names or not ("r" in names or {"r_low", "r_high"} <= set(names)):
        if width not in BY_NUMBER or "r" in names[1:]:
            raise MeasurementError(
                f"{path} has {width} columns, and it is not clear what they are. Write above them, behind '#', 'r_p "
                "value error' in their order, and '-' for others."
            )
        names = list(BY_NUMBER[width])
    twice = [name for name in set(names) - {"-"} if names.count(name) > 1]
    if twice:
        raise MeasurementError(
            f"{path}: two columns are read as {', '.join(twice)} of {statistic}. Name them in the line above the rows, "
            "each value with its error behind it, as in '# r_p w_gg error w_gplus error', and '-' for others."
        )
    found = {name: table.column(names.index(name), name) for name in names if name != "-"}
    limits = None
    if "r_low" in found and "r_high" in found:
        limits = np.stack([found["r_low"], found["r_high"]], axis=1)
        found.setdefault("r", np.sqrt(np.abs(limits[:, 0] * limits[:, 1])))
    return SurveyTable(f"{path}, {statistic}", found["r"], found["value"], found.get("error"), limits)


def _named(statistic: str, heading: Sequence[str]) -> list[str]:
    """Return what the columns are for one statistic; an error belongs to the value that it names or stands behind."""
    names, last = [], None
    several = sum(statistic_of(word) is not None for word in heading) > 1
    for word in heading:
        name, of = meaning(word), statistic_of(word)
        error_of = statistic_of(_ERROR.sub("", word)) if _ERROR.search(word) else None
        if of is not None:
            name, last = "value", of
        elif error_of is not None:
            name, last = "error", error_of
        elif name not in ("r", "r_low", "r_high", "value", "error"):
            name = "-"
        if several and name in ("value", "error") and last != statistic:
            name = "-"
        names.append(name)
    return names


# ---------------------------------------------------------------------- checks


def _selected(found: SurveyFile, name: str, statistics: Sequence[str] | None) -> SurveyFile:
    wanted = [statistics] if isinstance(statistics, str) else list(statistics or ())
    names = wanted or [statistic for statistic in PREDICTED if statistic in found.tables] or list(found.tables)
    for statistic in names:
        if statistic not in found.tables:
            raise MeasurementError(f"{name} has no {short(statistic)}; it has {', '.join(found.tables)}.")
    covariances: list[tuple[tuple[str, ...], np.ndarray]] = []
    for held, matrix in found.covariances:
        kept = tuple(statistic for statistic in held if statistic in names)
        owner = np.concatenate([np.full(len(found.tables[statistic].r), statistic) for statistic in held])
        rows = np.flatnonzero(np.isin(owner, kept))
        if kept:
            covariances.append((kept, matrix[np.ix_(rows, rows)]))
    tables = {statistic: found.tables[statistic] for statistic in found.tables if statistic in names}
    return SurveyFile(tables, covariances, found.n_regions, found.metadata, found.notes)


def _variances(found: SurveyFile, statistic: str) -> np.ndarray:
    """Variances of all rows of a statistic, from its covariance if there is one."""
    for names, matrix in found.covariances:
        if statistic in names:
            start = sum(len(found.tables[name].r) for name in names[: names.index(statistic)])
            return np.diag(matrix)[start : start + len(found.tables[statistic].r)]
    error = found.tables[statistic].error
    assert error is not None
    return np.where(error < 0, -1.0, 1.0) * error**2


def _limits(statistic: str, table: SurveyTable, edges: Any) -> np.ndarray:
    """Limits of the bins (n, 2) [Mpc/h]; raises unless separations and values are what they should be."""
    r = table.r
    for name, values in (("r_p", r), ("the value", table.value)):
        for row in np.flatnonzero(~np.isfinite(values)).tolist():
            raise MeasurementError(
                f"{table.label}: {name} is {values[row]} in row {row + 1}; leave out rows without a measurement."
            )
    for row in np.flatnonzero(r <= 0).tolist():
        raise MeasurementError(f"{table.label}: r_p must be positive, but is {r[row]:g} in row {row + 1}.")
    for row in np.flatnonzero(np.diff(r) <= 0).tolist():
        kind = "repeated" if r[row + 1] == r[row] else "not sorted"
        raise MeasurementError(
            f"{table.label}: separations are {kind}: r_p is {r[row]:g} in row {row + 1} and {r[row + 1]:g} in row "
            f"{row + 2}. Each must be larger than the one before; sort the rows, and those of the covariance."
        )
    if r[-1] > _LARGEST:
        raise MeasurementError(
            f"{table.label}: separations from {r[0]:g} to {r[-1]:g} cannot be Mpc/h. If they are in kpc/h, or are "
            "angles, write r_p and w in Mpc/h."
        )
    given = edges.get(statistic) if isinstance(edges, Mapping) else edges
    if given is None:
        return np.stack([r, r], axis=1) if table.limits is None else table.limits
    if table.limits is not None:
        raise MeasurementError(f"edges: {table.label} has the limits of its bins; leave them out.")
    limits = edges_in(given) if isinstance(given, (str, Path)) else np.asarray(given, dtype=np.float64)
    if limits.shape != (len(r) + 1,) or not np.all(np.diff(limits) > 0):
        raise MeasurementError(
            f"edges: {table.label} has {len(r)} bins, whose edges are {len(r) + 1} increasing numbers; got "
            f"{short(limits.tolist())}."
        )
    for row in np.flatnonzero((r < limits[:-1] * (1 - 1e-4)) | (r > limits[1:] * (1 + 1e-4))).tolist():
        raise MeasurementError(
            f"edges: {table.label}: r_p = {r[row]:g} is not in its bin, {limits[row]:g} to {limits[row + 1]:g}."
        )
    return np.stack([limits[:-1], limits[1:]], axis=1)


def _without_variance(statistic: str, table: SurveyTable, variances: np.ndarray) -> np.ndarray:
    """Whether each row has no measurement, since its variance is zero or tiny beside those of its neighbours."""
    for row in np.flatnonzero(~(variances >= 0) | np.isinf(variances)).tolist():
        raise MeasurementError(
            f"{table.label}: the variance at r_p = {table.r[row]:g} is {variances[row]:g}; variances must be positive."
        )
    empty = np.zeros(len(variances), dtype=bool)
    for row in range(len(variances)):
        near = np.r_[variances[max(row - 3, 0) : row], variances[row + 1 : row + 4]]
        empty[row] = variances[row] <= _NO_VARIANCE * (np.median(near) if len(near) else 0.0)
    return empty


def _masked(statistic: str, table: SurveyTable, variances: np.ndarray, empty: np.ndarray, masked: str) -> str:
    """A note about rows without variance; raises if they are not to be left out, or are all."""
    rows = zip(table.r[empty], variances[empty], strict=True)
    where = ", ".join(f"{r:.4g} (variance {variance:.3g})" for r, variance in rows)
    text = f"{statistic} has no measurement at r_p = {where}"
    if masked == "refuse" or empty.all():
        remedy = (
            "Give its errors or its covariance" if empty.all() else "Remove these rows, or let 'masked: drop' do it"
        )
        raise MeasurementError(f"{table.label}: {text}. {remedy}.")
    return f"{text}, which is left out"


def _between(statistic: str, table: SurveyTable, limits: np.ndarray, r_min: Any, r_max: Any) -> np.ndarray:
    """Whether each bin is between r_min and r_max."""
    used = np.ones(len(limits), dtype=bool)
    for name, cut in (("r_min", r_min), ("r_max", r_max)):
        limit = cut.get(statistic) if isinstance(cut, Mapping) else cut
        if limit is not None:
            Range(above=0).check(f"{name} of {statistic} [Mpc/h]", limit, error=MeasurementError)
            low = name == "r_min"
            used &= (limits[:, 0] >= limit * (1 - 1e-6)) if low else (limits[:, 1] <= limit * (1 + 1e-6))
    if not used.any():
        raise MeasurementError(
            f"{table.label}: no bin is left between r_min = {r_min} and r_max = {r_max}; separations are "
            f"{table.r[0]:g} to {table.r[-1]:g} Mpc/h."
        )
    return used


def _parts(
    name: str, bins: Mapping[str, Bins], names: tuple[str, ...], matrix: np.ndarray, correlations: str
) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Covariances (statistics, matrix) of the used bins; raises unless they are positive definite."""
    if correlations == "none":
        return []
    stops = np.cumsum([len(bins[statistic]) for statistic in names])
    separate = [
        ((statistic,), matrix[stop - len(bins[statistic]) : stop, stop - len(bins[statistic]) : stop])
        for statistic, stop in zip(names, stops, strict=True)
    ]
    parts = separate if correlations == "separate" else [(names, matrix)]
    for held, part in parts:
        label = f"{name}: {', '.join(held)}"
        try:
            check_covariance(part, label)
        except MeasurementError as error:
            if "eigenvalue" not in str(error):
                raise
            where = [(statistic, row) for statistic in held for row in range(len(bins[statistic]))]
            raise MeasurementError(_remedy(label, part, where, bins, separate)) from None
    return [(held, (part + part.T) / 2) for held, part in parts]


def _remedy(
    label: str,
    matrix: np.ndarray,
    where: Sequence[tuple[str, int]],
    bins: Mapping[str, Bins],
    separate: Sequence[tuple[tuple[str, ...], np.ndarray]],
) -> str:
    """Say how far a covariance is from positive definite, and the least that makes it so."""
    least = _least_eigenvalue(matrix)
    text = f"{label}: the covariance is not positive definite: its correlation matrix has the eigenvalue {least:.3g}."
    ways = []
    without = [_least_eigenvalue(np.delete(np.delete(matrix, row, 0), row, 1)) for row in range(len(matrix))]
    best = int(np.argmax(without))
    statistic, row = where[best]
    if len(matrix) > 1 and without[best] > 1e-6:
        ends = {0: "r_min", len(bins[statistic]) - 1: "r_max"}
        kept = (
            bins[statistic].r_low[row + 1] if row == 0 and len(bins[statistic]) > 1 else bins[statistic].r_high[row - 1]
        )
        how = f"{ends[row]}: {{{statistic}: {kept:.4g}}}" if row in ends else "remove its row from the file"
        ways.append(f"leave out {statistic} at r_p = {bins[statistic].r[row]:.4g} (then {without[best]:.3g}): {how}")
    if len(separate) > 1 and len(matrix) == sum(len(part) for _, part in separate):
        eigenvalues = [_least_eigenvalue(part) for _, part in separate]
        if min(eigenvalues) > 1e-6:
            ways.append(
                "leave out the covariance between statistics (then "
                f"{', '.join(f'{value:.3g}' for value in eigenvalues)}): correlations: separate"
            )
    ways.append("use fewer bins (r_min, r_max), or the errors alone: correlations: none")
    return f"{text} Either {'; or '.join(ways)}."


def _least_eigenvalue(matrix: np.ndarray) -> float:
    error = np.sqrt(np.diag(matrix))
    return float(np.linalg.eigvalsh(matrix / np.outer(error, error))[0])


def _has_noise(covariances: Sequence[np.ndarray], n: int) -> bool:
    """Whether covariances can be estimates from n realisations, by the noise of their correlations."""
    found = []
    for matrix in covariances:
        error = np.sqrt(np.diag(matrix))
        found.append(np.abs((matrix / np.outer(error, error))[np.triu_indices(len(matrix), 1)]))
    correlation = np.concatenate(found)
    return len(correlation) == 0 or float(np.mean(correlation < _BELOW_NOISE / np.sqrt(n))) < 0.5

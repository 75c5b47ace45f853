"""Measured cosmic shear: xi_plus and xi_minus between source bins, their covariance, and redshift distributions.

Two formats are read: SACC (FITS or HDF5, https://sacc.readthedocs.io), and our own text format. That has a YAML header
behind ``#``, and rows of three kinds::

    # format: iaemu cosmic shear 1
    # description: DES Y1, 4 source bins
    nz 0.0051 0.0106 0.0033 0.0037 0.0068
    ...
    xi_plus 1 1 8.94802743 9.5804336888e-06
    ...
    covariance 4.5e-12
    covariance 1.2e-13 4.1e-12
    ...

``nz``: redshift, and the distribution of each source bin at it, in any normalisation. ``xi_plus`` and ``xi_minus``:
numbers of two source bins, from 1; separation [arcmin]; value. ``covariance``: the k-th row has the covariances of the
k-th point with the first k points, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from iaemu.extras import it_takes
from iaemu.files import write_text
from iaemu.measurement import (
    MeasurementError,
    check_covariance,
    header_and_rows_as_text,
    number_at,
    read_header_and_rows,
)

STATISTICS = ("xi_plus", "xi_minus")

#: Redshifts of sources that are supported. CCL's power spectra end at z = 9.
LARGEST_REDSHIFT = 5.0

#: Separations of a whole data vector end between these [arcmin]; else they are in another unit.
_ENDS_BETWEEN = (10.0, 1200.0)

#: Arcmin in a unit of angle.
UNITS = {"arcmin": 1.0, "degree": 60.0, "radian": 60.0 * 180.0 / np.pi, "arcsec": 1.0 / 60.0}

_FORMAT = "iaemu cosmic shear 1"
_REMEDY = "Estimate it from more realisations than points, or use fewer points (theta_min, theta_max)."


@dataclass(frozen=True)
class ShearData:
    """Measured xi_plus and xi_minus of all pairs of source bins.

    Attributes
    ----------
    statistic : array of str (n,)
        ``xi_plus`` or ``xi_minus``, for each point.
    pairs : array of int (n, 2)
        Source bins of each point, from 0.
    theta : array (n,)
        Separation [arcmin].
    values : array (n,)
        Dimensionless.
    covariance : array (n, n)
    z : array (n_z,)
        Redshifts at which the distributions are known.
    nz : array (n_bins, n_z)
        Redshift distribution of each source bin, with the integral one.
    metadata : dict
        Header entries.
    name : str
        Name in error messages.

    Raises
    ------
    MeasurementError
        A covariance is not positive definite, a distribution cannot be normalised or has redshifts beyond 5, a point is
        of a source bin without distribution, or separations are not in arcmin.
    """

    statistic: np.ndarray
    pairs: np.ndarray
    theta: np.ndarray
    values: np.ndarray
    covariance: np.ndarray
    z: np.ndarray
    nz: np.ndarray
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str = "cosmic shear"

    def __post_init__(self):
        self._check_points()
        self._check_distributions()
        if self.covariance.shape != (len(self.values),) * 2:
            shape, n = self.covariance.shape, len(self.values)
            raise MeasurementError(f"{self.name}: the covariance has shape {shape}, but there are {n} points.")
        check_covariance(self.covariance, self.name, _REMEDY)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} of {name}" for name, count in self.counts().items())
        return f"ShearData({self.name}: {len(self.nz)} source bins, {counts})"

    def counts(self) -> dict[str, int]:
        """Return the number of points of each statistic.

        Returns
        -------
        dict of str to int
        """
        return {name: int(np.sum(self.statistic == name)) for name in STATISTICS}

    def _check_points(self) -> None:
        if not len(self.values):
            raise MeasurementError(f"{self.name} has no points of {' or '.join(STATISTICS)}.")
        unknown = sorted(set(self.statistic.tolist()) - set(STATISTICS))
        if unknown:
            raise MeasurementError(f"{self.name}: unknown statistic {unknown[0]!r}; use {', '.join(STATISTICS)}.")
        outside = (self.pairs < 0) | (self.pairs >= len(self.nz))
        if outside.any():
            raise MeasurementError(
                f"{self.name}: there is a point of source bin {self.pairs[outside][0] + 1}, but there are redshift "
                f"distributions of {len(self.nz)} source bins. Give one of each, and count bins from 1."
            )
        for label, values in (("separations", self.theta), ("values", self.values)):
            if not np.all(np.isfinite(values)):
                raise MeasurementError(
                    f"{self.name}: {label} must be finite; point {_first(~np.isfinite(values))} is not."
                )
        if np.any(self.theta <= 0):
            raise MeasurementError(f"{self.name}: separations must be positive; got {self.theta.min():g} arcmin.")
        low, high = _ENDS_BETWEEN
        if not low <= self.theta.max() <= high:
            raise MeasurementError(
                f"{self.name}: the largest separation would be {self.theta.max():.3g} arcmin, which is not between "
                f"{low:g} and {high:g}. State the unit of the file: theta_unit, one of {', '.join(UNITS)}."
            )

    def _check_distributions(self) -> None:
        where = f"{self.name}: redshift distributions"
        if self.nz.ndim != 2 or self.nz.shape[1] != len(self.z) or len(self.z) < 2:
            raise MeasurementError(f"{where} must be known at two redshifts or more; got shape {self.nz.shape}.")
        if not np.all(np.isfinite(self.z)) or np.any(np.diff(self.z) <= 0):
            raise MeasurementError(f"{where}: redshifts must be finite and increasing.")
        if self.z[0] < 0 or self.z[-1] > LARGEST_REDSHIFT:
            raise MeasurementError(
                f"{where} extend from z = {self.z[0]:g} to {self.z[-1]:g}; supported are 0 to {LARGEST_REDSHIFT:g}. "
                "Leave out rows beyond, where there are no sources."
            )
        for number, row in enumerate(self.nz, start=1):
            total = np.trapezoid(row, self.z)
            if not np.all(np.isfinite(row)) or not total > 0:
                raise MeasurementError(
                    f"{where}: that of source bin {number} cannot be normalised, its integral is {total:g}."
                )
        object.__setattr__(self, "nz", self.nz / np.trapezoid(self.nz, self.z, axis=1)[:, None])

    def select(self, used: np.ndarray) -> ShearData:
        """Return some of the points.

        Parameters
        ----------
        used : bool array (n,)

        Returns
        -------
        ShearData
        """
        names = ("statistic", "pairs", "theta", "values")
        columns = {name: getattr(self, name)[used] for name in names}
        return replace(self, **columns, covariance=self.covariance[np.ix_(used, used)])

    # ------------------------------------------------------------------ files

    @classmethod
    def read(cls, path: str | Path, theta_unit: str = "arcmin", name: str | None = None) -> ShearData:
        """Read and check a SACC file, or a file in our own format.

        Parameters
        ----------
        path : str or Path
        theta_unit : str
            Unit of the separations in a SACC file: arcmin (SACC's convention), degree, radian or arcsec.
        name : str, optional
            Name in error messages; by default the path.

        Returns
        -------
        ShearData

        Raises
        ------
        MeasurementError
            The content is not valid; the message names what is wrong.
        FileNotFoundError
            There is no such file.
        ImportError
            The file is a SACC file, and sacc is not installed.
        """
        path = Path(path)
        if theta_unit not in UNITS:
            raise MeasurementError(f"theta_unit: must be one of {', '.join(UNITS)}; got {theta_unit!r}.")
        with open(path, "rb") as file:
            begins = file.read(8)
        if begins.startswith((b"SIMPLE", b"\x1f\x8b", b"\x89HDF")):
            return _read_sacc(path, begins.startswith(b"\x89HDF"), UNITS[theta_unit], name or str(path))
        if theta_unit != "arcmin":
            raise MeasurementError(
                f"theta_unit: {path} is in our own format, whose unit is arcmin; got {theta_unit!r}."
            )
        return _read_table(path, name or str(path))

    def write(self, path: str | Path) -> Path:
        """Write a file in our own format, completely or not at all.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path
        """
        rows = [" ".join(["nz", *map(repr, row)]) for row in np.column_stack([self.z, self.nz.T]).tolist()]
        points = zip(self.statistic, (self.pairs + 1).tolist(), self.theta.tolist(), self.values.tolist(), strict=True)
        rows += [f"{statistic} {i} {j} {theta!r} {value!r}" for statistic, (i, j), theta, value in points]
        for number, row in enumerate(self.covariance.tolist(), start=1):
            rows.append(" ".join(["covariance", *map(repr, row[:number])]))
        header = {"format": _FORMAT, **self.metadata, "points": self.counts()}
        write_text(path, header_and_rows_as_text(header, rows))
        return Path(path)


def _first(bad: np.ndarray) -> int:
    return int(np.argmax(bad)) + 1


def _read_table(path: Path, name: str) -> ShearData:
    header, rows = read_header_and_rows(path, _FORMAT)
    found: dict[str, list[list[float]]] = {"nz": [], "points": [], "covariance": []}
    statistics = []
    for line, (word, *numbers) in rows:
        if word in STATISTICS:
            statistics.append(word)
            if len(numbers) != 4:
                raise MeasurementError(f"{path}, line {line}: give {word}, two source bins, separation and value.")
        elif word not in found:
            known = ", ".join(("nz", *STATISTICS, "covariance"))
            raise MeasurementError(f"{path}, line {line}: rows begin with one of {known}; got {word[:40]!r}.")
        part = found["points" if word in STATISTICS else word]
        part.append([number_at(path, line, number) for number in numbers])
        wanted = {"nz": len(part[0]), "covariance": len(part)}.get(word, 4)
        if len(numbers) != wanted:
            raise MeasurementError(
                f"{path}, line {line}: {word} must be followed by {wanted} numbers; got {len(numbers)}."
            )
    if len(found["covariance"]) != len(statistics) or not found["nz"]:
        raise MeasurementError(
            f"{path}: there are {len(statistics)} points, {len(found['covariance'])} rows of the covariance and "
            f"{len(found['nz'])} of nz. Each point needs one of the covariance, and redshift distributions are needed."
        )
    points, nz = np.array(found["points"]).reshape(-1, 4), np.array(found["nz"])
    lower = np.array([row + [0.0] * (len(statistics) - len(row)) for row in found["covariance"]])
    covariance = lower + np.tril(lower, -1).T if len(lower) else np.zeros((0, 0))
    if np.any(points[:, :2] % 1):
        raise MeasurementError(f"{path}: source bins must be whole numbers, from 1.")
    pairs = points[:, :2].astype(int) - 1
    columns = (np.array(statistics, dtype=object), pairs, points[:, 2], points[:, 3])
    stated = header.pop("points", None)
    data = ShearData(*columns, covariance, nz[:, 0], nz[:, 1:].T, header, name)
    if stated not in (None, data.counts()):
        raise MeasurementError(f"{path}: its header states the points {stated}, but it has {data.counts()}.")
    return data


def _read_sacc(path: Path, is_hdf5: bool, unit: float, name: str) -> ShearData:
    try:
        from sacc import Sacc
    except ImportError as error:
        raise ImportError(it_takes(f"{name} is a SACC file, which needs sacc ({error})", "lensing")) from error
    try:
        sacc = Sacc.load_hdf5(str(path)) if is_hdf5 else Sacc.load_fits(str(path))
    except Exception as error:  # astropy, h5py and sacc raise many kinds for damaged files
        raise MeasurementError(f"{name} cannot be read as a SACC file: {error}") from error
    kinds = {f"galaxy_shear_{statistic}": statistic for statistic in STATISTICS}
    index = [number for number, point in enumerate(sacc.data) if point.data_type in kinds]
    if not index:
        raise MeasurementError(
            f"{name} has no points of {' or '.join(kinds)}; it has {', '.join(map(str, sacc.get_data_types()))}."
        )
    points = [sacc.data[number] for number in index]
    used = {tracer for point in points for tracer in point.tracers}
    # Source bins are numbered in the order of the file's tracers.
    names = [tracer for tracer in sacc.tracers if tracer in used]
    without = [tracer for tracer in used if getattr(sacc.tracers.get(tracer), "nz", None) is None]
    if without:
        raise MeasurementError(f"{name}: tracer(s) {', '.join(sorted(without))} have no redshift distribution.")
    angles = [point.get_tag("theta") for point in points]
    if None in angles:
        raise MeasurementError(f"{name}: point {index[angles.index(None)]} has no tag 'theta'.")
    if not sacc.has_covariance():
        raise MeasurementError(f"{name} has no covariance. Add one to the file with sacc's add_covariance.")
    pairs = np.array([[names.index(tracer) for tracer in point.tracers] for point in points])
    z, nz = _on_one_grid([sacc.tracers[tracer] for tracer in names], name)
    return ShearData(
        np.array([kinds[point.data_type] for point in points], dtype=object),
        pairs,
        np.array(angles, dtype=float) * unit,
        np.array([point.value for point in points], dtype=float),
        np.array(sacc.covariance.dense, dtype=float)[np.ix_(index, index)],
        z,
        nz,
        {"source_bins": names},
        name,
    )


def _on_one_grid(tracers: Sequence[Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return distributions of tracers, each at redshifts of its own, at all redshifts that any of them has."""
    grids = [np.asarray(tracer.z, dtype=float) for tracer in tracers]
    if any(grid.ndim != 1 or np.any(np.diff(grid) <= 0) for grid in grids):
        raise MeasurementError(f"{name}: redshift distributions: redshifts must be finite and increasing.")
    z = np.unique(np.concatenate(grids))
    rows = [np.interp(z, grid, tracer.nz, left=0.0, right=0.0) for grid, tracer in zip(grids, tracers, strict=True)]
    return z, np.array(rows)

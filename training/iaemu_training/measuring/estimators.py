"""Measurement of xi, omega and eta of a galaxy catalogue in a periodic box, with jackknife covariances.

:func:`measure` returns a measurement, whose ``write`` makes the files that the likelihood
``iaemu_cobaya.IACorrelations`` reads. On the command line it is ``iaemu measure``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike

from iaemu import __version__
from iaemu.binning import BINNINGS, PAPER_EDGES, BinningError, check_edges
from iaemu.measurement import Bins, Covariance, Measurement, MeasurementError, check_covariance
from iaemu.plots import LABELS, label_of_r
from iaemu.statistics import STATISTICS, check_statistics
from iaemu_training.measuring.jackknife import covariance, delete_one
from iaemu_training.measuring.jackknife import statistics as whole_box
from iaemu_training.pairs.galaxies import as_vectors, wrap_rounded
from iaemu_training.pairs.galaxies_by_region import count_pairs_by_region

#: Least number of pairs in a bin, and of regions that they are spread over, for a meaningful error.
MIN_PAIRS, MIN_REGIONS = 10, 5

#: How the errors were estimated, for the header of the file.
ESTIMATOR = "delete-one jackknife over cubes, pairs across borders as in arXiv:2109.07071"


class MeasureWarning(UserWarning):
    """A bin or a covariance could not be measured and was left out."""


def measure(
    positions: ArrayLike,
    axes: ArrayLike,
    Lbox: float,
    r_edges: ArrayLike = PAPER_EDGES,
    n_regions_per_side: int = 5,
    statistics: str | Sequence[str] = STATISTICS,
    joint: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Measurement:
    """Measure xi, omega and eta of galaxies in a periodic cubic box, with jackknife errors and covariances.

    The values agree with halotools' ``tpcf``, ``ed_3d`` and ``ee_3d`` with analytic randoms. How the errors are
    estimated: :mod:`iaemu_training.measuring.jackknife`.

    Parameters
    ----------
    positions : (n, 3)
        Positions in [0, Lbox] [Mpc/h]. Positions outside by a rounding error are wrapped, with a warning.
    axes : (n, 3)
        Major axes; only their directions count, and none may have length 0.
    Lbox : float
        Side of the box [Mpc/h].
    r_edges : (n_bins + 1,)
        Edges of the radial bins [Mpc/h]; by default the paper's 20 bins.
    n_regions_per_side : int
        Number of jackknife regions along each side of the box. Regions must be wider than the largest separation, and
        a covariance needs many more regions than bins: with 3 along each side, 27 in all, the noise of that of 20 bins
        nearly doubles the scatter of a fit.
    statistics : str or sequence of str
        Statistics to measure: "xi", "omega", "eta"; by default all.
    joint : bool
        Estimate one covariance over all statistics instead of one for each.
    metadata : mapping, optional
        Further entries of the header, such as ``description`` and ``redshift``; they come first.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    Measurement
        Bins with fewer than 10 pairs, or with pairs in fewer than 5 regions, are left out, because a jackknife cannot
        estimate their error. If there are too few regions for a covariance, there are errors only. Both give a
        MeasureWarning and an entry in ``metadata['notes']``.

    Raises
    ------
    ValueError
        Positions, axes, bins or regions are not as described.
    MeasurementError
        A statistic cannot be measured in any bin.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ValueError(f"metadata must be a mapping of names to values, got {type(metadata).__name__}.")
    names = check_statistics([statistics] if isinstance(statistics, str) else statistics)
    if not names:
        raise ValueError(f"statistics must name at least one of {', '.join(STATISTICS)}.")
    sums = count_pairs_by_region(positions, axes, Lbox, r_edges, n_regions_per_side, progress)
    values, estimates = whole_box(sums), delete_one(sums)
    enough = enough_pairs(sums.total.DD, sums.n_effective)
    return assemble(
        {name: (values[name], estimates[name], enough) for name in names},
        sums.r_edges,
        joint,
        notes_on_positions(positions, sums.Lbox),
        {**(metadata or {}), **box_header(sums.Lbox, sums.n_gal), "estimator": ESTIMATOR},
    )


def enough_pairs(DD: np.ndarray, n_effective: np.ndarray) -> np.ndarray:
    """Return whether bins have enough pairs, in enough regions, for an error from a jackknife."""
    return (DD >= 2 * MIN_PAIRS) & (n_effective >= MIN_REGIONS)  # DD counts each pair twice


def notes_on_positions(positions: ArrayLike, Lbox: float) -> list[str]:
    """Return what a user should know of the positions."""
    _, n_outside = wrap_rounded(as_vectors(positions, "positions"), Lbox)
    return [f"{n_outside} galaxies outside the box by a rounding error were wrapped to its other side"] * (
        n_outside > 0
    )


def box_header(Lbox: float, n_gal: np.ndarray) -> dict[str, Any]:
    """Return entries of the header on the box and its galaxies (by region)."""
    return {"Lbox": float(Lbox), "n_galaxies": int(n_gal.sum()), "n_regions": len(n_gal)}


def assemble(
    found: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    edges: np.ndarray,
    joint: bool,
    notes: list[str],
    header: Mapping[str, Any],
) -> Measurement:
    """Return a measurement from values and delete-one estimates, without the bins that have too few pairs.

    Parameters
    ----------
    found : mapping of statistic to (values, estimates, enough)
        Of shapes (n_bins,), (n_regions, n_bins), and (n_bins,) of bool: whether there are enough pairs.
    edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    joint : bool
        Estimate one covariance over all statistics instead of one for each.
    notes : list of str
        What a user should know; each gives a MeasureWarning, as do bins that are left out.
    header : mapping
        Entries of the header, with ``Lbox`` and ``n_galaxies``.

    Returns
    -------
    Measurement

    Raises
    ------
    MeasurementError
        A statistic cannot be measured in any bin.
    """
    bins, kept = {}, {}
    low, high = edges[:-1], edges[1:]
    for name, (values, estimates, enough) in found.items():
        with np.errstate(invalid="ignore"):
            errors = np.sqrt(np.diag(covariance(estimates)))
        used = enough & np.isfinite(estimates).all(axis=0) & (errors > 0)
        if not used.any():
            raise MeasurementError(
                f"{name} cannot be measured in any bin from {low[0]:.4g} to {high[-1]:.4g} Mpc/h: "
                f"{header['n_galaxies']} galaxies in a box of {header['Lbox']:g} Mpc/h have too few pairs there. Check "
                f"the unit of the positions (Mpc/h), or use larger separations."
            )
        if not used.all():
            where = ", ".join(f"{low[i]:.4g}-{high[i]:.4g}" for i in np.flatnonzero(~used))
            notes.append(
                f"{name}: left out {where} Mpc/h: fewer than {MIN_PAIRS} pairs, or in fewer than {MIN_REGIONS} regions"
            )
        bins[name] = Bins(low[used], high[used], values[used], errors[used])
        kept[name] = estimates[:, used]
    covariances = []
    for group in [tuple(found)] if joint else [(name,) for name in found]:
        columns = np.concatenate([kept[name] for name in group], axis=1)
        entry = _covariance(group, columns, header["estimator"], notes)
        covariances += [] if entry is None else [entry]
    for note in notes:
        warnings.warn(note, MeasureWarning, stacklevel=3)
    header = {**header, "measured_with": f"iaemu-cobaya {__version__}"}
    return Measurement(bins, covariances, {**header, "notes": notes} if notes else header)


def _covariance(names, estimates: np.ndarray, estimator: str, notes: list) -> Covariance | None:
    """Return the covariance of ``estimates`` (n_regions, n_bins); or None, and add a note, if it has no inverse."""
    n_regions, n_bins = estimates.shape
    label = ", ".join(names)
    # With fewer regions the variance of the inverse is infinite, and the likelihood rejects the covariance.
    if n_regions <= n_bins + 2:
        enough = int(np.floor(np.cbrt(n_bins + 2))) + 1
        notes.append(
            f"{label}: errors only, no covariance, since {n_regions} regions are too few for {n_bins} bins; use at "
            f"least {enough} regions along each side ({enough**3} in all; --regions {enough}), or fewer bins"
        )
        return None
    matrix = covariance(estimates)
    try:
        check_covariance(matrix, label)
    except MeasurementError as error:
        notes.append(f"errors only, no covariance: {error}")
        return None
    return Covariance(tuple(names), matrix, n_regions, {"estimator": estimator})


def parse_bins(text: str) -> np.ndarray:
    """Return the edges [Mpc/h] that a text names: ``paper``, ``tng300``, or numbers separated by commas.

    Parameters
    ----------
    text : str

    Returns
    -------
    (n_bins + 1,) array

    Raises
    ------
    BinningError
        The text is none of these, or the numbers do not increase.
    """
    if text in BINNINGS:
        return BINNINGS[text]
    try:
        return check_edges([float(word) for word in text.split(",")])
    except ValueError as error:
        raise BinningError(
            f"--bins {text}: give {', '.join(BINNINGS)}, or increasing edges in Mpc/h, such as 0.1,1,10 ({error})"
        ) from error


def draw(measurement: Measurement, file: IO[bytes]) -> None:
    """Plot all statistics with their errors, and write the plot to an open file as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(measurement.bins), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(measurement.bins)))
    for ax, (name, bins) in zip(panels, measurement.bins.items(), strict=True):
        ax.errorbar(bins.r, bins.value, bins.error, fmt="o", ms=4, color="#1f5fa8")
        ax.set(xscale="log", xlabel=label_of_r(name), ylabel=LABELS[name])
        if name in ("xi", "w_gg", "w_gplus") and np.all(bins.value > 0):
            ax.set_yscale("log")
        else:
            ax.axhline(0, color="0.6", lw=0.8)
    figure.savefig(file, format="png", dpi=110)

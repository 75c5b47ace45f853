"""xi, omega and eta of a galaxy catalogue in a periodic box, with jackknife covariances.

From a catalogue to what the likelihood ``iaemu_cobaya.IACorrelations`` reads: :func:`measure`, then ``write``; on the
command line ``iaemu measure``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike

from iaemu import __version__
from iaemu.binning import PAPER_EDGES, TNG_EDGES, BinningError, check_edges
from iaemu.measurement import Bins, Covariance, Measurement, MeasurementError, check_covariance
from iaemu.plots import LABELS, R_LABEL
from iaemu.prediction import STATISTICS, check_statistics
from iaemu_training.measuring.jackknife import covariance, delete_one
from iaemu_training.measuring.jackknife import statistics as whole_box
from iaemu_training.pairs.galaxies import as_vectors, wrapped
from iaemu_training.pairs.galaxies_by_region import count_pairs_by_region

#: Binnings by name.
BINNINGS = {"paper": PAPER_EDGES, "tng300": TNG_EDGES}

#: Bins of fewer pairs, or whose pairs are spread over fewer regions, get no error that means anything.
MIN_PAIRS, MIN_REGIONS = 10, 5

#: What the errors are, for the header of the file.
ESTIMATOR = "delete-one jackknife over cubes, pairs across borders as in arXiv:2109.07071"


class MeasureWarning(UserWarning):
    """Something that could not be measured and was left out; the message says what, and what to do."""


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
    """Correlation functions of galaxies in a periodic cube, with spatial jackknife errors and covariances.

    All pairs are met in one pass. Values are those of halotools' ``tpcf``, ``ed_3d`` and ``ee_3d`` with analytic
    randoms; for the errors see :mod:`iaemu_training.measuring.jackknife`.

    Parameters
    ----------
    positions : (n, 3)
        In [0, Lbox] [Mpc/h]; what is outside by rounding is put back, with a note.
    axes : (n, 3)
        Major axes, of any length but 0.
    Lbox : float
        Side of the box [Mpc/h].
    r_edges : (n_bins + 1,)
        [Mpc/h]; the paper's 20 bins by default.
    n_regions_per_side : int
        The box is cut into as many cubes along each side; they must be wider than the largest separation. A covariance
        takes more regions than bins: the Hartlap factor, (n_regions - n_bins - 2) / (n_regions - 1), is 0.83 for 20
        bins and 5 a side, but 0.19 for 3 a side.
    statistics : subset of ("xi", "omega", "eta")
    joint : bool
        One covariance over all statistics instead of one for each.
    metadata : mapping, optional
        Further entries of the header, such as ``description`` and ``redshift``; they come first.
    progress : bool
        Show a progress bar if it takes more than a few seconds.

    Returns
    -------
    Measurement
        Without bins of fewer than ``MIN_PAIRS`` pairs, or whose pairs lie in fewer than ``MIN_REGIONS`` regions (see
        ``RegionSums.n_effective``), so that the jackknife knows nothing of their scatter; and with errors only where
        regions are too few for a covariance. Either is a MeasureWarning, and an entry of ``metadata['notes']``.

    Raises
    ------
    ValueError
        Bad positions, axes, bins or regions, see
        :func:`~iaemu_training.pairs.galaxies_by_region.count_pairs_by_region`.
    MeasurementError
        A statistic could not be measured in any bin.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ValueError(f"metadata must be a mapping of names to values, got {type(metadata).__name__}.")
    names = check_statistics([statistics] if isinstance(statistics, str) else statistics)
    if not names:
        raise ValueError(f"statistics: name at least one of {', '.join(STATISTICS)}.")
    sums = count_pairs_by_region(positions, axes, Lbox, r_edges, n_regions_per_side, progress)
    notes, bins, kept = [], {}, {}
    _, n_outside = wrapped(as_vectors(positions, "positions"), sums.Lbox)
    if n_outside:
        notes.append(f"{n_outside} galaxies outside of the box by rounding were put back to the other side")
    values, estimates = whole_box(sums), delete_one(sums)
    low, high = sums.r_edges[:-1], sums.r_edges[1:]
    enough = (sums.total.DD >= 2 * MIN_PAIRS) & (sums.n_effective >= MIN_REGIONS)  # ordered pairs
    for name in names:
        with np.errstate(invalid="ignore"):
            errors = np.sqrt(np.diag(covariance(estimates[name])))
        used = enough & np.isfinite(estimates[name]).all(axis=0) & (errors > 0)
        if not used.any():
            raise MeasurementError(
                f"{name} cannot be measured in any bin from {low[0]:.4g} to {high[-1]:.4g} Mpc/h: {sums.n_gal.sum()} "
                f"galaxies in {Lbox:g} Mpc/h have too few pairs there. Check the unit of the positions (Mpc/h), or use "
                f"larger separations."
            )
        if not used.all():
            where = ", ".join(f"{low[i]:.4g}-{high[i]:.4g}" for i in np.flatnonzero(~used))
            notes.append(
                f"{name}: left out {where} Mpc/h: fewer than {MIN_PAIRS} pairs, or in fewer than {MIN_REGIONS} regions"
            )
        bins[name] = Bins(low[used], high[used], values[name][used], errors[used])
        kept[name] = estimates[name][:, used]
    covariances = []
    for group in [tuple(names)] if joint else [(name,) for name in names]:
        entry = _covariance(group, np.concatenate([kept[name] for name in group], axis=1), notes)
        covariances += [] if entry is None else [entry]
    for note in notes:
        warnings.warn(note, MeasureWarning, stacklevel=2)
    header = {
        **(metadata or {}),
        "Lbox": float(sums.Lbox),
        "n_galaxies": int(sums.n_gal.sum()),
        "estimator": ESTIMATOR,
        "n_regions": len(sums),
        "measured_with": f"iaemu-cobaya {__version__}",
    }
    if notes:
        header["notes"] = notes
    return Measurement(bins, covariances, header)


def _covariance(names, estimates: np.ndarray, notes: list) -> Covariance | None:
    """Covariance of ``estimates`` (n_regions, n_bins); None, and a note, if it cannot be inverted."""
    n_regions, n_bins = estimates.shape
    label = ", ".join(names)
    # The least number that has an unbiased inverse (Hartlap et al. 2007); the likelihood takes no fewer.
    if n_regions <= n_bins + 2:
        enough = int(np.floor(np.cbrt(n_bins + 2))) + 1
        notes.append(
            f"{label}: errors only, no covariance, since {n_regions} regions are too few for {n_bins} bins; use at "
            f"least {enough} regions a side ({enough**3} in all; --regions {enough}), or fewer bins"
        )
        return None
    matrix = covariance(estimates)
    try:
        check_covariance(matrix, label)
    except MeasurementError as error:
        notes.append(f"errors only, no covariance: {error}")
        return None
    return Covariance(tuple(names), matrix, n_regions, {"estimator": ESTIMATOR})


def parse_bins(text: str) -> np.ndarray:
    """Edges [Mpc/h] from ``paper``, ``tng300``, or numbers with commas between them; BinningError otherwise."""
    if text in BINNINGS:
        return BINNINGS[text]
    try:
        return check_edges([float(word) for word in text.split(",")])
    except ValueError as error:
        raise BinningError(
            f"--bins {text}: give {', '.join(BINNINGS)}, or increasing edges in Mpc/h with commas between ({error})"
        ) from error


def table(measurement: Measurement) -> str:
    """Values and errors as text, a row a bin."""
    lines = [f"{'':6s} {'r_low':>8s} {'r_high':>8s} {'value':>11s} {'error':>10s}"]
    for name, bins in measurement.bins.items():
        rows = zip(bins.r_low, bins.r_high, bins.value, bins.error, strict=True)
        lines += [f"{name:6s} {low:8.4f} {high:8.4f} {value:11.4g} {error:10.2g}" for low, high, value, error in rows]
    return "\n".join(lines)


def draw(measurement: Measurement, file: IO[bytes]) -> None:
    """A picture of all statistics with their errors, written to an open file as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(measurement.bins), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(measurement.bins)))
    for ax, (name, bins) in zip(panels, measurement.bins.items(), strict=True):
        ax.errorbar(bins.r, bins.value, bins.error, fmt="o", ms=4, color="#1f5fa8")
        ax.set(xscale="log", xlabel=R_LABEL, title=LABELS[name])
        if name == "xi" and np.all(bins.value > 0):
            ax.set_yscale("log")
        else:
            ax.axhline(0, color="0.6", lw=0.8)
    figure.savefig(file, format="png", dpi=110)

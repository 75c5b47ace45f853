"""The list of metrics of an evaluation, and the predictions, mocks and labels from which they are computed.

The metrics are defined in :mod:`iaemu_training.evaluation.metrics`. Sections, figures and equations are those of
arXiv:2504.05235.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from iaemu.binning import bin_centers
from iaemu_training.evaluation import metrics as m

#: Probabilities of the central intervals whose coverage is reported.
LEVELS = (0.68, 0.95)


# ---------------------------------------------------------------------- what is compared


@dataclass(frozen=True, repr=False)
class Case:
    """One statistic at n test points.

    Parameters
    ----------
    statistic : str
        Name of the statistic.
    r : (n_bins,)
        Centres of the bins [Mpc/h].
    prediction, label : (n, n_bins)
        Prediction of the emulator, and noise-free label.
    realisations : (n, k, n_bins)
        Mocks, with all boxes added as one volume.
    sigma_aleatoric, sigma_epistemic : (n, n_bins) or None
        Predicted standard deviation of one realisation in that volume, and of the prediction itself.
    """

    statistic: str
    r: np.ndarray
    prediction: np.ndarray
    label: np.ndarray
    realisations: np.ndarray
    sigma_aleatoric: Any = None  # Any, since metrics of uncertainties are computed only if there are some
    sigma_epistemic: Any = None

    @cached_property
    def moments(self) -> m.MockMoments:
        """Mean and scatter of the mocks."""
        return m.mock_moments(self.realisations)

    @cached_property
    def kept(self) -> np.ndarray:
        """Whether each point is kept by the rule for outliers, (n,) bool, see ``metrics.outliers``."""
        limit = m.OUTLIER_LIMITS.get(self.statistic)
        if limit is None:
            return np.ones(len(self.prediction), dtype=bool)
        return ~m.outliers(self.prediction, self.moments.mean, self.moments.sigma, limit)

    @cached_property
    def fractional_error(self) -> np.ndarray:
        """Fractional error of the prediction, with its sign, (n, n_bins)."""
        return m.fractional_error(self.prediction, self.moments.mean)

    @cached_property
    def residuals(self) -> np.ndarray:
        """Residuals in units of the mocks' standard deviation, (n, n_bins); of ln xi beyond 1 Mpc/h, as in figure 3."""
        logarithmic = (self.r > m.ONE_HALO_LIMIT) if self.statistic == "xi" else None
        return m.residuals(self.prediction, self.moments.mean, self.moments.sigma, logarithmic)

    @cached_property
    def pit_of_realisations(self) -> np.ndarray:
        """Probability integral transform of single mocks, (n, k, n_bins); NaN where a mock has no value."""
        pit = m.pit_of_realisations(self.realisations, self.prediction, self.sigma_aleatoric, self.sigma_epistemic)
        return np.where(np.isfinite(self.moments.mean)[:, None], pit, np.nan)

    @cached_property
    def pit_of_mean(self) -> np.ndarray:
        """Probability integral transform of means over mocks, (n, n_bins)."""
        return m.pit_of_mean(self.moments, self.prediction, self.sigma_aleatoric, self.sigma_epistemic)

    def take(self, rows: np.ndarray) -> Case:
        """Return the same statistic at some of the points.

        Parameters
        ----------
        rows : array
            Indices, possibly repeated, or a mask.

        Returns
        -------
        Case
        """
        names = ("prediction", "label", "realisations", "sigma_aleatoric", "sigma_epistemic")
        given: dict[str, Any] = {name: getattr(self, name)[rows] for name in names if getattr(self, name) is not None}
        taken = replace(self, **given)
        # Results for single points are not computed again for each sample of points.
        for name in ("kept", "fractional_error", "residuals"):
            taken.__dict__[name] = getattr(self, name)[rows]
        whole = self.moments
        taken.__dict__["moments"] = replace(whole, mean=whole.mean[rows], variance=whole.variance[rows])
        if self.sigma_aleatoric is not None:
            for name in ("pit_of_realisations", "pit_of_mean"):
                taken.__dict__[name] = getattr(self, name)[rows]
        return taken

    def ceiling(self) -> Case:
        """Return the case with the label in place of the prediction, for the same entries and outliers.

        Returns
        -------
        Case
        """
        label = np.where(np.isfinite(self.prediction), self.label, np.nan)
        case = replace(self, prediction=label, sigma_aleatoric=None, sigma_epistemic=None)
        case.__dict__.update(kept=self.kept, moments=self.moments)
        return case


@dataclass(frozen=True, repr=False)
class HeldOut:
    """Test points of a data set, with the predictions of an emulator.

    Parameters
    ----------
    theta : (n, 7)
        Parameters.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    cases : dict of str to Case
        Predictions, mocks and labels by statistic.
    n_outside, n_cleaned : int
        Number of test points with mocks that were left out: outside the supported region, and by the paper's cleaning.
    """

    theta: np.ndarray
    r_edges: np.ndarray
    cases: dict[str, Case]
    n_outside: int = 0
    n_cleaned: int = 0

    @property
    def r(self) -> np.ndarray:
        """Centres of the bins [Mpc/h], (n_bins,)."""
        return bin_centers(self.r_edges)

    @property
    def has_sigmas(self) -> bool:
        """Whether the emulator predicts aleatoric standard deviations of all statistics."""
        return all(case.sigma_aleatoric is not None for case in self.cases.values())

    @property
    def has_epistemic(self) -> bool:
        """Whether it also predicts epistemic ones."""
        return self.has_sigmas and all(case.sigma_epistemic is not None for case in self.cases.values())


# ---------------------------------------------------------------------- figures of merit


@dataclass(frozen=True)
class Metric:
    """A metric.

    Parameters
    ----------
    key : str
        Name in the JSON report.
    label : str
        Name in tables.
    unit : str
        "%", "dex" or "".
    overall : callable
        Function of a :class:`Case` that returns one number.
    by_bin : callable or None
        Function of a :class:`Case` that returns the value in each bin, (n_bins,).
    paper : dict of str to float or str
        Value that the paper published, by statistic.
    group : "mocks", "uncertainties" or "noise-free"
        What the prediction is compared with; only "mocks" has ceilings.
    epistemic : bool
        Whether the metric needs epistemic standard deviations.
    bin_label : str
        Name in tables by bin, if it differs from ``label``.
    """

    key: str
    label: str
    unit: str
    overall: Callable[[Case], float]
    by_bin: Callable[[Case], np.ndarray] | None = None
    paper: dict = field(default_factory=dict)
    group: str = "mocks"
    epistemic: bool = False
    bin_label: str = ""


def _averaged(key, label, unit, by_bin, paper=None, group="mocks") -> Metric:
    """Make a metric that is averaged over bins."""
    return Metric(key, label, unit, lambda case: m.average(by_bin(case)), by_bin, paper or {}, group)


def _median(key, label, unit, entries, paper=None, group="mocks", epistemic=False) -> Metric:
    """Make a metric that is the median over all entries (n, n_bins), or by bin over points."""

    def overall(case):
        return m.percentile(entries(case), 50)

    return Metric(key, label, unit, overall, lambda case: m.bin_median(entries(case)), paper or {}, group, epistemic)


def _compared(function) -> Callable:
    """Make a function of a case from one of predictions and means over mocks."""
    return lambda case: function(case.prediction, case.moments.mean)


def _of_sigma(function) -> Callable:
    return lambda case: function(case.sigma_aleatoric, case.moments)


def _epistemic_ratio(case: Case) -> np.ndarray:
    return m.epistemic_ratio(case.sigma_aleatoric, case.sigma_epistemic)


def _of_statistics(xi=None, omega=None, eta=None) -> dict:
    values = {"xi": xi, "omega": omega, "eta": eta}
    return {name: value for name, value in values.items() if value is not None}


def _mean_absolute_error(case: Case) -> np.ndarray:
    return m.bin_mean(np.abs(case.fractional_error[case.kept]))


def _signed_mean_error(case: Case) -> np.ndarray:
    return m.bin_mean(case.fractional_error[case.kept])


def coverage_key(kind: str, level: float) -> str:
    """Return the name of a coverage in the JSON report.

    Parameters
    ----------
    kind : str
        "realisations" or "mean".
    level : float
        Probability of the interval.

    Returns
    -------
    str
    """
    return f"{kind}_{round(100 * level)}"


def _covered(name: str, level: float, label: str) -> Metric:
    def by_bin(case):
        return m.coverage(getattr(case, name), level)

    def overall(case):
        return m.pooled_coverage(getattr(case, name), level)[0]

    short = name.removeprefix("pit_of_")
    return Metric(f"coverage_{coverage_key(short, level)}", label, "%", overall, by_bin, group="uncertainties")


def _epistemic(n_sigma: int, label: str) -> Metric:
    """Make the share of noise-free labels that are within some epistemic standard deviations of the prediction."""

    def by_bin(case):
        error = np.abs(case.prediction - case.label)
        within = np.where(np.isfinite(error), error <= n_sigma * case.sigma_epistemic, np.nan)
        return m.bin_mean(within)

    key = f"epistemic_within_{n_sigma}"
    return Metric(key, label, "%", lambda case: m.average(by_bin(case)), by_bin, group="noise-free", epistemic=True)


def _of_truth(key: str, label: str, percent: float) -> Metric:
    def overall(case):
        return m.percentile(m.relative_rms(case.prediction, case.label), percent)

    return Metric(key, label, "%", overall, group="noise-free")


#: The paper's mean fractional errors (section 4.1), for both possible readings of the term.
_PAPER_ERROR = _of_statistics(0.032, 0.049, 0.538)

METRICS: tuple[Metric, ...] = (
    _averaged("mean_fractional_error", "mean absolute fractional error", "%", _mean_absolute_error, _PAPER_ERROR),
    Metric(
        "signed_fractional_error",
        "absolute mean of signed fractional error",
        "%",
        lambda case: m.average(np.abs(_signed_mean_error(case))),
        _signed_mean_error,
        _PAPER_ERROR,
        bin_label="mean signed fractional error",
    ),
    Metric(
        "mean_fractional_error_r_weighted",
        "mean absolute fractional error, r-weighted",
        "%",
        lambda case: m.average(_mean_absolute_error(case), case.r),
        paper=_of_statistics(0.055, 0.052, 0.674),
    ),
    Metric(
        "signed_fractional_error_r_weighted",
        "absolute mean of signed fractional error, r-weighted",
        "%",
        lambda case: m.average(np.abs(_signed_mean_error(case)), case.r),
        paper=_of_statistics(0.055, 0.052, 0.674),
    ),
    Metric(
        "mean_fractional_error_all",
        "mean absolute fractional error, with outliers",
        "%",
        lambda case: m.average(m.bin_mean(np.abs(case.fractional_error))),
    ),
    _averaged(
        "median_fractional_error",
        "median absolute fractional error",
        "%",
        lambda case: m.bin_median(np.abs(case.fractional_error)),
    ),
    Metric(
        "share_within_10_percent",
        "predictions with median fractional error below 10 %",
        "%",
        _compared(m.share_accurate),
        paper=_of_statistics(omega=0.66),
    ),
    Metric(
        "median_residual",
        "largest absolute median residual of a bin [sigma-hat]",
        "",
        lambda case: float(np.max(np.abs(m.bin_median(case.residuals)), initial=0.0, where=_filled(case.residuals))),
        lambda case: m.bin_median(case.residuals),
        paper=_of_statistics(omega="< 1", eta="< 1"),
        bin_label="median residual [sigma-hat]",
    ),
    _averaged("scc", "Spearman correlation (SCC)", "", _compared(m.spearman), _of_statistics(0.99, 0.98, 0.55)),
    _averaged("nrmse", "NRMSE", "", _compared(m.nrmse), _of_statistics(0.19, 0.19, 0.69)),
    _averaged("smape", "SMAPE", "", _compared(m.smape), _of_statistics(0.10, 0.30, 1.11)),
    _median("amplitude_bias", "median bias of amplitudes", "dex", _compared(m.amplitude_bias), _of_statistics(xi=0.01)),
    _median(
        "sigma_bias",
        "aleatoric sigma, median bias",
        "dex",
        _of_sigma(m.sigma_bias),
        _of_statistics(0.38, 0.34, 0.18),
        "uncertainties",
    ),
    _averaged(
        "sigma_bias_pooled",
        "aleatoric sigma, ratio of mean variances",
        "dex",
        _of_sigma(m.pooled_sigma_bias),
        group="uncertainties",
    ),
    _averaged(
        "sigma_bias_ratio",
        "aleatoric sigma, mean ratio of variances",
        "dex",
        _of_sigma(m.variance_ratio_bias),
        group="uncertainties",
    ),
    _median(
        "epistemic_ratio",
        "epistemic over aleatoric sigma, median",
        "dex",
        _epistemic_ratio,
        group="uncertainties",
        epistemic=True,
    ),
    Metric(
        "epistemic_below",
        "epistemic below aleatoric sigma, share of entries",
        "%",
        lambda case: float(np.mean(_epistemic_ratio(case) < 0)),
        group="uncertainties",
        epistemic=True,
    ),
    _covered("pit_of_realisations", 0.68, "single mocks inside 68 %"),
    _covered("pit_of_realisations", 0.95, "single mocks inside 95 %"),
    _covered("pit_of_mean", 0.68, "means over mocks inside 68 %"),
    _covered("pit_of_mean", 0.95, "means over mocks inside 95 %"),
    _of_truth("relative_rms_median", "error over bins, median over points", 50),
    _of_truth("relative_rms_p95", "error over bins, 95 % of points are within", 95),
    _epistemic(1, "labels within one epistemic sigma"),
    _epistemic(2, "labels within two epistemic sigma"),
)


def _filled(entries) -> np.ndarray:
    return np.isfinite(entries).any(axis=0)

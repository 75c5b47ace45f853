"""Metrics of accuracy: the paper's, the calibration of uncertainties, and errors relative to noise-free labels.

The functions take arrays of one statistic: rows are parameter points, columns are radial bins. Mocks have k
realisations at each point, (n, k, n_bins). NaN marks an entry without a value, such as omega in a bin without pairs.
All functions leave such entries out, and return NaN if nothing remains; :func:`count_entries` counts the entries that
are used. Sections, figures and equations are those of arXiv:2504.05235.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

#: Fractional error beyond which the paper calls a prediction an outlier, by statistic (section 4.1).
OUTLIER_LIMITS = {"omega": 100.0, "eta": 450.0}

#: Added to the denominator of SMAPE, equation 12.
SMAPE_EPSILON = 1e-8

#: Separation between the one-halo and the two-halo regime in the paper's figure 3 [Mpc/h].
ONE_HALO_LIMIT = 1.0

#: Least number of points for a rank correlation.
_MIN_RANKED = 3


# ---------------------------------------------------------------------- mocks


@dataclass(frozen=True)
class MockMoments:
    """Mean and scatter over the realisations at each point.

    Parameters
    ----------
    mean : (n, n_bins)
        Mean over realisations, which the paper calls ground truth.
    variance : (n, n_bins)
        Variance of a single realisation, unbiased (ddof = 1).
    n_realisations : int
        Number of realisations at each point, k.
    """

    mean: np.ndarray
    variance: np.ndarray
    n_realisations: int

    @property
    def sigma(self) -> np.ndarray:
        """Unbiased standard deviation of one realisation: the square root of the variance divided by :func:`c4`."""
        return np.sqrt(self.variance) / c4(self.n_realisations)


def mock_moments(realisations: ArrayLike) -> MockMoments:
    """Compute mean and variance over realisations.

    An entry is NaN if any of its realisations is NaN: the others would be a selection of mocks that have pairs.

    Parameters
    ----------
    realisations : (n, k, n_bins)
        Values of the mocks.

    Returns
    -------
    MockMoments

    Raises
    ------
    ValueError
        There are fewer than 2 realisations.
    """
    realisations = np.asarray(realisations, dtype=np.float64)
    if realisations.ndim != 3 or realisations.shape[1] < 2:
        raise ValueError(
            f"Moments need an array (points, at least 2 realisations, bins), got shape {realisations.shape}."
        )
    return MockMoments(realisations.mean(axis=1), realisations.var(axis=1, ddof=1), realisations.shape[1])


def c4(k: int) -> float:
    """Return the mean of the standard deviation (ddof = 1) of ``k`` normal draws, relative to the true one.

    Parameters
    ----------
    k : int
        Number of draws; for 10 the result is 0.973.

    Returns
    -------
    float
    """
    return float(np.sqrt(2.0 / (k - 1)) * np.exp(special.gammaln(k / 2) - special.gammaln((k - 1) / 2)))


def chi_median(k: int) -> float:
    """Return the median of the standard deviation (ddof = 1) of ``k`` normal draws, relative to the true one.

    Parameters
    ----------
    k : int
        Number of draws; for 10 the result is 0.963.

    Returns
    -------
    float
    """
    return float(np.sqrt(stats.chi2(k - 1).median() / (k - 1)))


# ---------------------------------------------------------------------- from entries to bins, from bins to a figure


def count_entries(*arrays: ArrayLike) -> np.ndarray:
    """Count the points at which all arrays are finite, by bin.

    Parameters
    ----------
    *arrays : (n, n_bins)

    Returns
    -------
    (n_bins,) int
    """
    return np.sum(_finite(*arrays), axis=0)


def bin_mean(values: ArrayLike) -> np.ndarray:
    """Return the mean over points in each bin.

    Parameters
    ----------
    values : (n, n_bins)

    Returns
    -------
    (n_bins,)
    """
    values = np.asarray(values, dtype=np.float64)
    ok = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(ok, values, 0.0).sum(axis=0) / ok.sum(axis=0)


def bin_median(values: ArrayLike) -> np.ndarray:
    """Return the median over points in each bin.

    Parameters
    ----------
    values : (n, n_bins)

    Returns
    -------
    (n_bins,)
    """
    values = np.asarray(values, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    result = np.full(values.shape[1], np.nan)
    filled = np.isfinite(values).any(axis=0)  # numpy would warn of columns that are all NaN
    if filled.any():
        result[filled] = np.nanmedian(values[:, filled], axis=0)
    return result


def average(by_bin: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean over the bins that have a value.

    Parameters
    ----------
    by_bin : (n_bins,)
        Values by bin.
    weights : (n_bins,), optional
        Weights, such as the centres of the bins for r-weighted metrics.

    Returns
    -------
    float
    """
    by_bin = np.asarray(by_bin, dtype=np.float64)
    weights = np.ones_like(by_bin) if weights is None else np.asarray(weights, dtype=np.float64)
    ok = np.isfinite(by_bin)
    return float(np.sum(weights[ok] * by_bin[ok]) / np.sum(weights[ok])) if ok.any() else np.nan


def percentile(values: ArrayLike, percent: float) -> float:
    """Return a percentile over all finite entries.

    Parameters
    ----------
    values : array
        The values.
    percent : float
        Percentage, 50 for the median.

    Returns
    -------
    float
    """
    (values,) = _floats(values)
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, percent)) if len(finite) else np.nan


# ---------------------------------------------------------------------- accuracy, as in section 4.1


def fractional_error(prediction: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return (prediction - truth) / truth, with its sign; NaN where the truth is 0.

    The paper gives no formula for its mean fractional error. It cannot be the mean of absolute values. A term of SMAPE
    (equation 12) is at most twice the absolute fractional error, so the paper's SMAPE, allowing for rounding and 1 % of
    outliers, implies at least 4.7 % for xi and 13 % for omega, but the paper states 3.2 % and 4.9 %. The absolute value
    of the mean with sign is possible, and so are medians.

    Parameters
    ----------
    prediction, truth : (n, n_bins)

    Returns
    -------
    (n, n_bins)
    """
    prediction, truth = _floats(prediction, truth)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (prediction - truth) / truth
    return np.where(truth == 0, np.nan, error)


def outliers(prediction: ArrayLike, truth: ArrayLike, sigma: ArrayLike, limit: float) -> np.ndarray:
    """Find the outliers that the paper leaves out of its mean fractional errors for omega and eta (section 4.1).

    An outlier agrees with the mocks, but has a fractional error above ``limit`` because the mean over mocks is close to
    zero. It agrees if the rank correlation over bins is above 0.5, or if the deviation is less than ``sigma`` in more
    than half of the bins. The paper does not say which fractional error of a prediction it means. Here it is that of
    the worst bin, by which about 1 % of noise-free predictions are outliers, as the paper says of its own. (By the mean
    over bins a tenth of these would be.)

    Parameters
    ----------
    prediction, truth, sigma : (n, n_bins)
        Prediction, mean over mocks, and standard deviation of one mock.
    limit : float
        Limit of the fractional error, see ``OUTLIER_LIMITS``.

    Returns
    -------
    (n,) bool
    """
    error = np.abs(fractional_error(prediction, truth))
    extreme = np.max(np.where(np.isfinite(error), error, 0.0), axis=1) > limit
    follows = np.zeros(len(extreme), dtype=bool)
    rows = np.flatnonzero(extreme)  # ranking all points would be slow
    if len(rows):
        prediction, truth, sigma = (np.asarray(array)[rows] for array in (prediction, truth, sigma))
        ok = _finite(prediction, truth, sigma)
        within = np.where(ok, np.abs(prediction - truth) < sigma, np.nan)
        follows[rows] = (spearman(prediction.T, truth.T) > 0.5) | (_row_mean(within) > 0.5)
    return extreme & follows


def share_accurate(prediction: ArrayLike, truth: ArrayLike, limit: float = 0.1) -> float:
    """Return the share of points whose median over bins of the absolute fractional error is small (section 4.1).

    Parameters
    ----------
    prediction, truth : (n, n_bins)
        Prediction and truth.
    limit : float
        Limit of the median.

    Returns
    -------
    float
    """
    by_point = bin_median(np.abs(fractional_error(prediction, truth)).T)
    by_point = by_point[np.isfinite(by_point)]
    return float(np.mean(by_point < limit)) if len(by_point) else np.nan


def residuals(
    prediction: ArrayLike, truth: ArrayLike, sigma: ArrayLike, logarithmic: ArrayLike | None = None
) -> np.ndarray:
    """Return (prediction - truth) / sigma, whose median by bin is the middle row of figure 3.

    Parameters
    ----------
    prediction, truth, sigma : (n, n_bins)
        Prediction, mean over mocks, and standard deviation of one mock.
    logarithmic : (n_bins,) bool, optional
        Bins with logarithmic residuals, ln(prediction / truth) / (sigma / truth), as in the paper for xi beyond the
        one-halo regime. They are NaN unless prediction and truth are positive.

    Returns
    -------
    (n, n_bins)
    """
    prediction, truth, sigma = _floats(prediction, truth, sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        linear = (prediction - truth) / sigma
        if logarithmic is None:
            return np.where(sigma > 0, linear, np.nan)
        log = np.log(prediction / truth) * truth / sigma
    log = np.where((prediction > 0) & (truth > 0), log, np.nan)
    return np.where(sigma > 0, np.where(logarithmic, log, linear), np.nan)


def spearman(prediction: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return Spearman's rank correlation over points, by bin (section 4.1; figure 3, bottom row).

    It is NaN for fewer than 3 points, or if prediction or truth is constant.

    Parameters
    ----------
    prediction, truth : (n, n_bins)

    Returns
    -------
    (n_bins,)
    """
    prediction, truth = _floats(prediction, truth)
    ok = _finite(prediction, truth)
    result = np.full(prediction.shape[1], np.nan)
    whole = ok.all(axis=0)
    if len(prediction) >= _MIN_RANKED and whole.any():
        result[whole] = _rank_correlation(prediction[:, whole], truth[:, whole])
    for column in np.flatnonzero(~whole):
        rows = ok[:, column]
        if rows.sum() >= _MIN_RANKED:
            result[column] = _rank_correlation(prediction[rows, column, None], truth[rows, column, None])[0]
    return result


def _rank_correlation(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    a, b = (stats.rankdata(values, axis=0) - (len(values) + 1) / 2 for values in (prediction, truth))
    with np.errstate(invalid="ignore"):
        return np.sum(a * b, axis=0) / np.sqrt(np.sum(a**2, axis=0) * np.sum(b**2, axis=0))


def nrmse(prediction: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return the rms error over points divided by the rms of the truth, by bin (equation 11).

    Parameters
    ----------
    prediction, truth : (n, n_bins)

    Returns
    -------
    (n_bins,)
    """
    prediction, truth = _floats(prediction, truth)
    ok = _finite(prediction, truth)
    error = np.where(ok, prediction - truth, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.sum(error**2, axis=0) / np.sum(np.where(ok, truth, 0.0) ** 2, axis=0))


def smape(prediction: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return the symmetric mean absolute percentage error over points, by bin, between 0 and 2 (equation 12).

    Parameters
    ----------
    prediction, truth : (n, n_bins)

    Returns
    -------
    (n_bins,)
    """
    prediction, truth = _floats(prediction, truth)
    return bin_mean(2.0 * np.abs(prediction - truth) / (np.abs(prediction) + np.abs(truth) + SMAPE_EPSILON))


def amplitude_bias(prediction: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return log10 |prediction / truth| [dex] (figure 5, and figure B1, right).

    Parameters
    ----------
    prediction, truth : (n, n_bins)

    Returns
    -------
    (n, n_bins)
    """
    return _dex(np.abs(prediction), np.abs(truth))


# ---------------------------------------------------------------------- against noise-free truth


def relative_rms(prediction: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return the error at each point: the rms over bins of prediction - truth, divided by that of the truth.

    The truth must have no noise. Bins without a truth are left out. If a prediction is missing in another bin, the
    result for the point is NaN.

    Parameters
    ----------
    prediction, truth : (n, n_bins)

    Returns
    -------
    (n,)
    """
    prediction, truth = _floats(prediction, truth)
    ok = np.isfinite(truth)
    error = np.where(ok, prediction - truth, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.sum(error**2, axis=-1) / np.sum(np.where(ok, truth, 0.0) ** 2, axis=-1))


# ---------------------------------------------------------------------- uncertainties, as in section 4.2


def sigma_bias(sigma_aleatoric: ArrayLike, moments: MockMoments) -> np.ndarray:
    """Return log10 of the ratio of predicted and mocks' standard deviations [dex] (figures 4 and B1, left).

    Its median is 0 for a perfect prediction, because the mocks' standard deviation is divided by :func:`chi_median`.
    With :func:`c4` instead, the bias would be 0.004 dex for 10 realisations; without a correction, 0.016 dex.

    Parameters
    ----------
    sigma_aleatoric : (n, n_bins)
        Predicted standard deviation of one realisation.
    moments : MockMoments
        Mean and variance of the mocks.

    Returns
    -------
    (n, n_bins)
    """
    return _dex(sigma_aleatoric, np.sqrt(moments.variance) / chi_median(moments.n_realisations))


def pooled_sigma_bias(sigma_aleatoric: ArrayLike, moments: MockMoments) -> np.ndarray:
    """Return half of log10 of the mean predicted variance divided by the mean variance of the mocks [dex], by bin.

    It needs no correction for the number of mocks, but the noisiest points of a bin dominate it.

    Parameters
    ----------
    sigma_aleatoric : (n, n_bins)
        Predicted standard deviation of one realisation.
    moments : MockMoments
        Mean and variance of the mocks.

    Returns
    -------
    (n_bins,)
    """
    variance = np.asarray(sigma_aleatoric, dtype=np.float64) ** 2
    ok = _finite(variance, moments.variance)
    return 0.5 * _dex(bin_mean(np.where(ok, variance, np.nan)), bin_mean(np.where(ok, moments.variance, np.nan)))


def variance_ratio_bias(sigma_aleatoric: ArrayLike, moments: MockMoments) -> np.ndarray:
    """Return minus half of log10 of the mean ratio of the mocks' variance to the predicted one [dex], by bin.

    Like :func:`pooled_sigma_bias` it needs no correction, and each point has the same weight. It is sensitive to
    predicted variances that are much too small.

    Parameters
    ----------
    sigma_aleatoric : (n, n_bins)
        Predicted standard deviation of one realisation.
    moments : MockMoments
        Mean and variance of the mocks.

    Returns
    -------
    (n_bins,)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = moments.variance / np.asarray(sigma_aleatoric, dtype=np.float64) ** 2
        return -0.5 * np.log10(bin_mean(ratio))


def epistemic_ratio(sigma_aleatoric: ArrayLike, sigma_epistemic: ArrayLike) -> np.ndarray:
    """Return log10 of the ratio of epistemic and aleatoric standard deviations [dex] (figure 4: distance from 1:1).

    Parameters
    ----------
    sigma_aleatoric, sigma_epistemic : (n, n_bins)

    Returns
    -------
    (n, n_bins)
    """
    return _dex(sigma_epistemic, sigma_aleatoric)


def pit_of_realisations(
    realisations: ArrayLike,
    prediction: ArrayLike,
    sigma_aleatoric: ArrayLike,
    sigma_epistemic: ArrayLike | None = None,
) -> np.ndarray:
    """Return the probability integral transform of single realisations under the predicted normal distribution.

    It is uniform in [0, 1] if the prediction is calibrated and mocks are normal. The variance is the sum of the
    aleatoric and the epistemic one.

    Parameters
    ----------
    realisations : (n, k, n_bins)
    prediction, sigma_aleatoric, sigma_epistemic : (n, n_bins)

    Returns
    -------
    (n, k, n_bins)
    """
    variance = np.asarray(sigma_aleatoric) ** 2 + (0.0 if sigma_epistemic is None else np.asarray(sigma_epistemic) ** 2)
    return _pit(realisations, np.asarray(prediction)[:, None], np.sqrt(variance)[:, None])


def pit_of_mean(
    moments: MockMoments, prediction: ArrayLike, sigma_aleatoric: ArrayLike, sigma_epistemic: ArrayLike | None = None
) -> np.ndarray:
    """Return the same for the mean of the k realisations; the variance is aleatoric / k plus epistemic.

    Parameters
    ----------
    moments : MockMoments
    prediction, sigma_aleatoric, sigma_epistemic : (n, n_bins)

    Returns
    -------
    (n, n_bins)
    """
    variance = np.asarray(sigma_aleatoric) ** 2 / moments.n_realisations
    if sigma_epistemic is not None:
        variance = variance + np.asarray(sigma_epistemic) ** 2
    return _pit(moments.mean, np.asarray(prediction), np.sqrt(variance))


def inside(pit: ArrayLike, level: float) -> np.ndarray:
    """Return 1 for values inside a central interval, 0 for those outside, and NaN for NaN.

    Parameters
    ----------
    pit : (n, n_bins) or (n, k, n_bins)
    level : float
        Probability of the interval.

    Returns
    -------
    array in the shape of ``pit``
    """
    pit = np.asarray(pit, dtype=np.float64)
    return np.where(np.isfinite(pit), np.abs(2.0 * pit - 1.0) <= level, np.nan)


def coverage(pit: ArrayLike, level: float) -> np.ndarray:
    """Return the share of values inside a central interval, by bin.

    Parameters
    ----------
    pit : (n, n_bins) or (n, k, n_bins)
    level : float
        Probability of the interval.

    Returns
    -------
    (n_bins,)
    """
    pit = np.asarray(pit)
    return bin_mean(inside(pit, level).reshape(-1, pit.shape[-1]))


def pooled_coverage(pit: ArrayLike, level: float) -> tuple[float, float]:
    """Return the coverage over all bins, and its standard error.

    Each point has the same weight. The error is from the scatter between points, because the bins of a mock are not
    independent, nor are the realisations if the prediction is biased.

    Parameters
    ----------
    pit : (n, n_bins) or (n, k, n_bins)
    level : float
        Probability of the interval.

    Returns
    -------
    (float, float)
    """
    pit = np.asarray(pit)
    values = inside(pit, level).reshape(len(pit), -1)
    by_point = _row_mean(values)
    by_point = by_point[np.isfinite(by_point)]
    if len(by_point) < 2:
        return (float(by_point[0]) if len(by_point) else np.nan), np.nan
    return float(by_point.mean()), float(by_point.std(ddof=1) / np.sqrt(len(by_point)))


def binomial_error(level: float, n: ArrayLike) -> np.ndarray:
    """Return the standard deviation of the coverage for independent values and a calibrated prediction.

    Parameters
    ----------
    level : float
        Probability of the interval.
    n : array of int
        Number of values.

    Returns
    -------
    array
    """
    with np.errstate(divide="ignore"):
        return np.sqrt(level * (1.0 - level) / np.asarray(n, dtype=np.float64))


def terciles(values: ArrayLike) -> list[tuple[float, float, np.ndarray]]:
    """Divide points into three regions with a third of the points each.

    Parameters
    ----------
    values : (n,)

    Returns
    -------
    list of (float, float, (n,) bool)
        Lowest value, highest value and mask of each.
    """
    values = np.asarray(values, dtype=np.float64)
    parts = [part for part in np.array_split(np.argsort(values, kind="stable"), 3) if len(part)]
    regions = []
    for part in parts:
        mask = np.zeros(len(values), dtype=bool)
        mask[part] = True
        regions.append((float(values[part].min()), float(values[part].max()), mask))
    return regions


# ---------------------------------------------------------------------- helpers


def _floats(*arrays: ArrayLike) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(array, dtype=np.float64) for array in arrays)


def _finite(*arrays: ArrayLike) -> np.ndarray:
    return np.logical_and.reduce([np.isfinite(array) for array in arrays])


def _row_mean(values: np.ndarray) -> np.ndarray:
    return bin_mean(values.T)


def _dex(above: ArrayLike, below: ArrayLike) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log10(np.asarray(above, dtype=np.float64) / np.asarray(below, dtype=np.float64))
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _pit(values: ArrayLike, mean: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return special.ndtr((np.asarray(values, dtype=np.float64) - mean) / sigma)

"""Distributions of data whose covariance was estimated from few regions, with the error of the prediction.

The covariance S of n_d bins, estimated from n regions, is uncertain. Averaged over the true covariances that could have
given S, the normal distribution becomes a multivariate t-distribution,

    log L = -m/2 log[1 + chi^2 / (n - 1)],    chi^2 = d^T S^-1 d.

Sellentin and Heavens (2016, MNRAS 456, L132) have m = n, for a prior on the covariance that does not depend on the
parameters. Percival et al. (2022, MNRAS 510, 3207, equations 50 to 56) choose m such that the width of the posterior of
n_theta parameters equals the scatter of its mean between measurements, as a frequentist expects. The normal
distribution with the factor of Hartlap et al. (2007, A&A 464, 399) corrects the mean of S^-1 only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import stats
from torch.autograd.function import once_differentiable

from iaemu.measurement import MeasurementError

DISTRIBUTIONS = ("t", "sellentin-heavens", "hartlap", "gaussian")

#: A covariance needs more regions than bins by at least this number.
_SPARE_REGIONS = {"t": 5, "sellentin-heavens": 3, "hartlap": 3}


@dataclass
class Block:
    """Bins whose covariance is independent of that of the other bins.

    Attributes
    ----------
    names : sequence of str
        Statistics.
    bins : int array (n_bins,)
        Positions in the data vector.
    n_regions : int or None
        Number of regions from which the covariance was estimated, if it was.
    distribution : str
        ``gaussian`` if the covariance is known; otherwise one of ``DISTRIBUTIONS``.
    """

    names: Sequence[str]
    bins: np.ndarray
    n_regions: int | None
    distribution: str

    def __post_init__(self):
        if self.n_regions is None:
            self.distribution = "gaussian"
            return
        spare = _SPARE_REGIONS.get(self.distribution)
        if spare is not None and self.n_regions < len(self.bins) + spare:
            raise MeasurementError(
                f"The covariance of {', '.join(self.names)} comes from {self.n_regions} regions, too few for "
                f"{len(self.bins)} bins with 'distribution: {self.distribution}', which needs {spare} more regions "
                f"than bins. Use at most {max(self.n_regions - spare, 0)} bins (options r_min, r_max, statistics), or "
                "'covariance: diagonal', or 'distribution: gaussian' if you accept errors that are too small."
            )

    @property
    def hartlap_factor(self) -> float:
        """Factor of the inverse covariance, (n - n_bins - 2) / (n - 1) (Hartlap et al. 2007, equation 17), or 1."""
        if self.distribution != "hartlap":
            return 1.0
        assert self.n_regions is not None
        return (self.n_regions - len(self.bins) - 2) / (self.n_regions - 1)

    def power(self, n_parameters: int) -> float | None:
        """Return m of the t-distribution, or None for a normal distribution.

        Parameters
        ----------
        n_parameters : int
            Number of fitted parameters.

        Returns
        -------
        float or None
        """
        n, n_bins = self.n_regions, len(self.bins)
        if self.distribution == "sellentin-heavens":
            return n
        if self.distribution != "t":
            return None
        assert n is not None
        fitted = min(n_parameters, n_bins)
        extra = (n - n_bins - 2) / ((n - n_bins - 1) * (n - n_bins - 4)) * (n_bins - fitted)
        return fitted + 2 + (n - 1 + extra) / (1 + extra)

    def log_normalisation(self, n_parameters: int) -> float:
        """Return the logarithm by which a density of 1 at its maximum becomes normalised, for whitened residuals.

        Parameters
        ----------
        n_parameters : int
            Number of fitted parameters.

        Returns
        -------
        float
        """
        power, n_bins = self.power(n_parameters), len(self.bins)
        if power is None:
            return -0.5 * n_bins * math.log(2.0 * math.pi)
        assert self.n_regions is not None
        gammas = math.lgamma(0.5 * power) - math.lgamma(0.5 * (power - n_bins))
        return gammas - 0.5 * n_bins * math.log(math.pi * (self.n_regions - 1))

    def widening(self, n_parameters: int) -> float:
        """Return by which factor the distribution has larger variances than S, for residuals of a typical best fit.

        The log-likelihood has the slope of a normal one with the covariance S (n - 1 + chi^2) / m. At a best fit chi^2
        is (n_bins - n_parameters) (n - 1) / (n - n_bins - 2) on average.

        Parameters
        ----------
        n_parameters : int
            Number of fitted parameters.

        Returns
        -------
        float
            1 for a normal distribution.
        """
        power, n, n_bins = self.power(n_parameters), self.n_regions, len(self.bins)
        if power is None:
            return 1.0
        assert n is not None
        chi2 = max(n_bins - n_parameters, 0) * (n - 1) / (n - n_bins - 2)
        return (n - 1 + chi2) / power

    def describe(self) -> str:
        """Return what stands for the uncertainty of the covariance, for messages; "" for a normal distribution.

        Returns
        -------
        str
        """
        return {
            "t": "t-distribution",
            "sellentin-heavens": "t-distribution of Sellentin and Heavens",
            "hartlap": f"Hartlap factor {self.hartlap_factor:.4g}",
            "gaussian": "",
        }[self.distribution]


def hotelling_p_value(chi2: float, n_bins: int, n_parameters: int, n_regions: int | None) -> float:
    """Return the probability of a larger chi^2 at the best fit of a correct linear model.

    For a covariance S from n regions, chi^2 = d^T S^-1 d is Hotelling's T^2: with k = n_bins - n_parameters,
    T^2 (n - k) / (k (n - 1)) follows an F-distribution with k and n - k degrees of freedom.

    Parameters
    ----------
    chi2 : float
        Without a Hartlap factor.
    n_bins, n_parameters : int
    n_regions : int or None
        None for a known covariance, with which chi^2 has its usual distribution.

    Returns
    -------
    float
        NaN if there are no degrees of freedom.
    """
    k = n_bins - n_parameters
    if k <= 0 or (n_regions is not None and n_regions <= k):
        return float("nan")
    if n_regions is None:
        return float(stats.chi2.sf(chi2, k))
    return float(stats.f.sf(chi2 * (n_regions - k) / (k * (n_regions - 1)), k, n_regions - k))


@lru_cache(maxsize=16)
def least_eigenvalues_of_noise(n_bins: int, n_regions: int, n: int = 1000) -> np.ndarray:
    """Return the least eigenvalue of correlation matrices of independent bins, estimated from few regions.

    Parameters
    ----------
    n_bins, n_regions : int
    n : int
        Number of simulated matrices.

    Returns
    -------
    array (n,)
        Sorted.
    """
    rng = np.random.default_rng([n_bins, n_regions])
    matrices = stats.wishart(n_regions - 1, np.eye(n_bins)).rvs(n, random_state=rng).reshape(n, n_bins, n_bins)
    errors = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    return np.sort(np.linalg.eigvalsh(matrices / (errors[:, :, None] * errors[:, None, :]))[:, 0])


def log_likelihoods(
    residuals: torch.Tensor,
    deviations: torch.Tensor | None,
    terms: Sequence[tuple[torch.Tensor, float, int]],
    matrix: np.ndarray | None = None,
) -> torch.Tensor:
    """Return log-likelihoods, which are 0 for residuals of zero without deviations.

    With deviations the covariance becomes C = 1 + sum_k d_k d_k^T, and log L gets the term -log det C / 2. Each block
    has its own chi^2: that of its residuals given those of the bins before it, so that the sum over blocks is
    r^T C^-1 r. For normal distributions this is exact. For a t-distribution it is an approximation, in which C_emu is a
    part of its scale.

    Parameters
    ----------
    residuals : tensor (m, n)
        Whitened: their covariance is the unit matrix.
    deviations : tensor (m, K, n) or (m, J), or None
        Deviations of the prediction; or factors of J fixed rows of them.
    terms : sequence of (int tensor, float, int)
        The bins, the power m and the number of regions of each block with a t-distribution.
    matrix : array, optional
        (n, n): by which deviations are multiplied; None if they are whitened like the residuals. With factors:
        (J * J, n * n), from :func:`products_of` the whitened rows.

    Returns
    -------
    tensor (m,)
        NaN where it is not defined.
    """
    if deviations is not None:
        return _WithDeviations.apply(residuals, deviations, terms, matrix)
    return _of_whitened(residuals, terms)[0]


def products_of(rows: np.ndarray) -> np.ndarray:
    """Return the products of fixed rows of deviations, of which C_emu is a sum, each times two factors.

    Parameters
    ----------
    rows : array (J, K, n)

    Returns
    -------
    array (J * J, n * n)
        Symmetrised in n.
    """
    products = np.einsum("jka,lkb->jlab", rows, rows)
    products = 0.5 * (products + products.transpose(0, 1, 3, 2))
    return products.reshape(len(rows) ** 2, -1)


def _of_whitened(values: torch.Tensor, terms) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Return log-likelihoods (m,) of whitened residuals (m, n), and -1/2 of their derivative by chi^2, (m, n) or 1."""
    squares = values.square()
    if not terms:
        return -0.5 * squares.sum(dim=1), 1.0
    total, weights = squares.new_zeros(len(squares)), torch.ones_like(squares)
    rest = squares.sum(dim=1)
    for bins, power, n_regions in terms:
        whole = len(bins) == squares.shape[1]
        chi2 = rest if whole else squares[:, bins].sum(dim=1)
        total = total - 0.5 * power * torch.log1p(chi2 / (n_regions - 1))
        weight = (power / (n_regions - 1 + chi2))[:, None]
        weights = weight if whole else weights.index_copy(1, bins, weight.expand(-1, len(bins)))
        rest = rest - chi2
    return total - 0.5 * rest, weights


def _inverse_of_lower(factor: np.ndarray) -> np.ndarray:
    """Return the inverses of lower triangular matrices (m, n, n), row by row, faster than those of full ones."""
    inverse, scale = np.zeros_like(factor), 1.0 / np.diagonal(factor, axis1=1, axis2=2)
    for i in range(factor.shape[1]):
        inverse[:, i, :i] = -scale[:, i, None] * (factor[:, i, None, :i] @ inverse[:, :i, :i])[:, 0]
        inverse[:, i, i] = scale[:, i]
    return inverse


class _WithDeviations(torch.autograd.Function):
    """Log-likelihoods for residuals (m, n) and deviations (m, K, n), with their gradient in closed form.

    With C = L L^T and z = L^-1 r, the gradient by C follows from that of the Cholesky factor (Murray 2016,
    arXiv:1602.07527, equation 10). A gradient of single operations takes three times as long. Products of many small
    matrices are NumPy's: those of torch start threads, and wait milliseconds for them if another process is busy.
    """

    @staticmethod
    def forward(ctx, residuals, deviations, terms, matrix):
        rows, unit = deviations.numpy(), np.eye(residuals.shape[1])
        with np.errstate(invalid="ignore", over="ignore"):  # found below
            if rows.ndim == 2:  # factors
                pairs = (rows[:, :, None] * rows[:, None]).reshape(len(rows), -1)
                total = unit + (pairs @ matrix).reshape(-1, *unit.shape)
            else:
                rows = rows if matrix is None else rows @ matrix
                total = unit + rows.transpose(0, 2, 1) @ rows
        failed = ~np.isfinite(total).all(axis=(1, 2))
        total[failed] = unit
        try:
            factor = np.linalg.cholesky(total)
        except np.linalg.LinAlgError:  # for one of them, of numbers near the largest
            found, info = torch.linalg.cholesky_ex(torch.as_tensor(total))
            failed |= info.numpy() > 0
            factor = np.where(failed[:, None, None], unit, found.numpy())
        # The eigenvalues of C are at least 1, so the inverse of L is safe.
        inverse = _inverse_of_lower(factor)
        whitened = torch.as_tensor((inverse @ residuals.numpy()[:, :, None])[:, :, 0])
        value, weights = _of_whitened(whitened, terms)
        value = value - torch.as_tensor(np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1))
        ctx.symmetric = all(len(bins) == len(unit) for bins, *_ in terms)  # slope and whitened are parallel
        ctx.kept = rows, inverse, whitened.numpy(), (whitened * weights).numpy(), matrix
        return torch.where(torch.as_tensor(failed), torch.nan, value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, inverse, whitened, slope, matrix = ctx.kept
        inner = slope[:, :, None] * whitened[:, None, :]
        if not ctx.symmetric:
            inner = np.tril(inner) + np.tril(inner, -1).transpose(0, 2, 1)
        inner = inner - np.eye(whitened.shape[1])
        transposed, scale = inverse.transpose(0, 2, 1), grad.numpy()
        by_covariance = transposed @ (inner @ inverse)  # twice the gradient by C
        by_residual = -scale[:, None] * (transposed @ slope[:, :, None])[:, :, 0]
        by_covariance = by_covariance * scale[:, None, None]
        if rows.ndim == 2:
            by_product = (by_covariance.reshape(len(rows), -1) @ matrix.T).reshape(len(rows), rows.shape[1], -1)
            by_deviation = (by_product @ rows[:, :, None])[:, :, 0]
        else:
            by_deviation = rows @ by_covariance if matrix is None else (rows @ by_covariance) @ matrix.T
        return torch.as_tensor(by_residual), torch.as_tensor(by_deviation), None, None

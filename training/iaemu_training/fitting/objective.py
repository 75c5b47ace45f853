"""Objectives of mean-variance networks, with entries that have no target left out (arXiv:2504.05235, section 3.2).

Everywhere: ``mean``, ``variance`` and ``target`` are tensors (..., 3, n_bins), the statistics on the last axis but one;
NaN in the target masks that entry. Losses are means over the entries of a statistic that are left, summed over the
statistics, so that a statistic with few entries weighs as much as the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from iaemu.ranges import Range, check_fields

#: Variances below this are raised to it in the losses: softplus can give zero in single precision. In units of the
#: variance of the training set.
VARIANCE_FLOOR = 1e-10

_Share = Annotated[float, Range(at_least=0, at_most=1)]


def mse(mean: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error, summed over statistics.

    Parameters
    ----------
    mean, target : tensor

    Returns
    -------
    scalar tensor
    """
    residual, mask = _residual(mean, target)
    return _total(residual**2, mask)


def gaussian_nll(mean: torch.Tensor, variance: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of normal distributions without its constant, equation 7, summed over statistics.

    Parameters
    ----------
    mean, variance, target : tensor

    Returns
    -------
    scalar tensor
    """
    return beta_nll(mean, variance, target, (0.0,) * mean.shape[-2])


def beta_nll(mean: torch.Tensor, variance: torch.Tensor, target: torch.Tensor, beta: Sequence[float]) -> torch.Tensor:
    """beta-NLL of Seitzer et al. 2022 (arXiv:2203.09168), equation 6, summed over statistics.

    The weight sigma^(2 beta) is held fixed in the gradient, so that the gradient for the mean is
    (mean - target) / sigma^(2 - 2 beta), equation 8, and that for the variance equation 9: beta = 0 is the Gaussian
    NLL, beta = 1 learns the mean as half the squared error would.

    Parameters
    ----------
    mean, variance, target : tensor
    beta : sequence of float
        One a statistic.

    Returns
    -------
    scalar tensor
    """
    residual, mask = _residual(mean, target)
    variance = variance.clamp(min=VARIANCE_FLOOR)
    exponent = torch.as_tensor(beta, dtype=variance.dtype, device=variance.device)[:, None]
    weight = variance.detach() ** exponent
    return _total(weight * 0.5 * (torch.log(variance) + residual**2 / variance), mask)


def criterion(
    mean: torch.Tensor, variance: torch.Tensor, target: torch.Tensor, mse_weight: float = 0.7
) -> torch.Tensor:
    """The paper's measure on the validation set (Appendix C): 0.7 of the MSE and 0.3 of the Gaussian NLL.

    Parameters
    ----------
    mean, variance, target : tensor
    mse_weight : float
        Of the MSE; the NLL has the rest.

    Returns
    -------
    scalar tensor
    """
    return mse_weight * mse(mean, target) + (1.0 - mse_weight) * gaussian_nll(mean, variance, target)


@dataclass(frozen=True)
class BetaSchedule:
    """beta of each statistic by epoch: 1 in the warm-up, where the means are learned; equation 10.

    Parameters
    ----------
    warmup_epochs : int
    beta : (float, float, float)
        Of xi, omega and eta after it.
    """

    warmup_epochs: Annotated[int, Range(at_least=0)] = 100
    beta: tuple[_Share, _Share, _Share] = (0.9, 0.5, 0.5)

    def __post_init__(self):
        check_fields(self)

    def __call__(self, epoch: int) -> tuple[float, ...]:
        return (1.0,) * len(self.beta) if epoch < self.warmup_epochs else self.beta


def _residual(mean, target):
    """Residuals, zero without gradient where there is no target, and the mask of those that count."""
    mask = torch.isfinite(target)
    # A NaN times zero is NaN, also in the gradient: masked targets are replaced before they are used.
    return mean - torch.where(mask, target, mean.detach()), mask


def _total(values, mask):
    """Means over all axes but the statistics', summed over statistics; a statistic without entries counts nothing."""
    axes = [axis for axis in range(values.ndim) if axis != values.ndim - 2]
    count = mask.sum(dim=axes).clamp(min=1)
    return ((values * mask).sum(dim=axes) / count).sum()

"""Loss functions of networks that predict means and variances (arXiv:2504.05235, section 3.2).

``mean``, ``variance`` and ``target`` are tensors (..., 3, n_bins), with the statistics on the last axis but one.
Entries whose target is NaN are left out. A loss is the mean over the remaining entries of each statistic, summed over
statistics, so that all statistics have the same weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from iaemu.ranges import Range, check_fields

#: Least variance in the losses, in units of the variance of the training set: softplus can give 0 in single precision.
VARIANCE_FLOOR = 1e-10

_Share = Annotated[float, Range(at_least=0, at_most=1)]


def mse(mean: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error, summed over statistics.

    Parameters
    ----------
    mean, target : tensor
        Prediction and target.

    Returns
    -------
    scalar tensor
    """
    residual, mask = _residual(mean, target)
    return _total(residual**2, mask)


def gaussian_nll(mean: torch.Tensor, variance: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of normal distributions (equation 7, without its constant).

    Parameters
    ----------
    mean, variance, target : tensor
        Predicted mean and variance, and target.

    Returns
    -------
    scalar tensor
    """
    return beta_nll(mean, variance, target, (0.0,) * mean.shape[-2])


def beta_nll(mean: torch.Tensor, variance: torch.Tensor, target: torch.Tensor, beta: Sequence[float]) -> torch.Tensor:
    """Return the beta-NLL of Seitzer et al. 2022 (arXiv:2203.09168), equation 6, summed over statistics.

    The weight sigma^(2 beta) has no gradient. So the gradient with respect to the mean is (mean - target) /
    sigma^(2 - 2 beta) (equation 8; for the variance see equation 9). beta = 0 is the Gaussian NLL; with beta = 1 the
    mean has the gradient of half the squared error.

    Parameters
    ----------
    mean, variance, target : tensor
        Predicted mean and variance, and target.
    beta : sequence of float
        beta of each statistic.

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
    """Return the paper's validation loss (Appendix C): 0.7 times the MSE plus 0.3 times the Gaussian NLL.

    Parameters
    ----------
    mean, variance, target : tensor
        Predicted mean and variance, and target.
    mse_weight : float
        Weight of the MSE; the NLL has the rest.

    Returns
    -------
    scalar tensor
    """
    return mse_weight * mse(mean, target) + (1.0 - mse_weight) * gaussian_nll(mean, variance, target)


@dataclass(frozen=True)
class BetaSchedule:
    """beta of each statistic by epoch (equation 10): 1 in the warm-up, in which the means are learned.

    Parameters
    ----------
    warmup_epochs : int
        Number of epochs of the warm-up.
    beta : (float, float, float)
        beta of xi, omega and eta after the warm-up.
    """

    warmup_epochs: Annotated[int, Range(at_least=0)] = 100
    beta: tuple[_Share, _Share, _Share] = (0.9, 0.5, 0.5)

    def __post_init__(self):
        check_fields(self)

    def __call__(self, epoch: int) -> tuple[float, ...]:
        return (1.0,) * len(self.beta) if epoch < self.warmup_epochs else self.beta


def _residual(mean, target):
    """Return residuals, which are 0 without gradient where there is no target, and the mask of targets."""
    mask = torch.isfinite(target)
    # NaN times 0 is NaN, also in the gradient, so missing targets are replaced first.
    return mean - torch.where(mask, target, mean.detach()), mask


def _total(values, mask):
    """Return the means over all axes but that of the statistics, summed over statistics."""
    axes = [axis for axis in range(values.ndim) if axis != values.ndim - 2]
    count = mask.sum(dim=axes).clamp(min=1)
    return ((values * mask).sum(dim=axes) / count).sum()

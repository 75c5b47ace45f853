"""Standardisation of IAEmuNet's inputs and targets, and the way back (arXiv:2504.05235, section 3.2, Appendix B)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from iaemu.parameters import PARAMETERS
from iaemu.prediction import STATISTICS

#: What the prediction of xi can stand for, given a normal distribution of log xi.
XI_ESTIMATES = ("mean", "median")


class Standardiser(nn.Module):
    """Scalers of one training set, kept as buffers so that they travel with the network.

    Each of the seven parameters has a mean and a standard deviation. log xi, omega and eta have one of each, over all
    points, realisations and bins.

    Parameters
    ----------
    input_mean, input_std : arrays (7,)
    target_mean, target_std : arrays (3,)
        Of log xi, omega and eta.
    """

    input_mean: torch.Tensor
    input_std: torch.Tensor
    target_mean: torch.Tensor
    target_std: torch.Tensor

    def __init__(self, input_mean: ArrayLike, input_std: ArrayLike, target_mean: ArrayLike, target_std: ArrayLike):
        super().__init__()
        shapes = {"input": (len(PARAMETERS),), "target": (len(STATISTICS),)}
        given = {"input_mean": input_mean, "input_std": input_std, "target_mean": target_mean, "target_std": target_std}
        for name, value in given.items():
            tensor = torch.as_tensor(np.asarray(value, dtype=np.float64)).clone()
            shape = shapes[name.split("_")[0]]
            if tensor.shape != shape or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} must be {shape[0]} finite numbers, got {tensor.tolist()}.")
            if name.endswith("std") and bool((tensor <= 0).any()):
                raise ValueError(f"{name} must be positive, got {tensor.tolist()}.")
            self.register_buffer(name, tensor)

    @classmethod
    def fit(cls, theta: np.ndarray, y: np.ndarray) -> Standardiser:
        """Scalers of a training set.

        Parameters
        ----------
        theta : array (n, 7)
        y : array (n, ..., 3, n_bins)
            xi, omega, eta; NaN where a bin is empty. Bins with xi <= 0 are left out of the scalers of log xi.

        Returns
        -------
        Standardiser

        Raises
        ------
        ValueError
            Wrong shapes, or nothing to take a mean of, or a parameter or statistic that is constant.
        """
        theta, y = np.asarray(theta, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if theta.ndim != 2 or theta.shape[1] != len(PARAMETERS):
            raise ValueError(f"theta must have shape (n, {len(PARAMETERS)}), got {theta.shape}.")
        if y.ndim < 3 or len(y) != len(theta) or y.shape[-2] != len(STATISTICS):
            raise ValueError(f"y must have shape ({len(theta)}, ..., {len(STATISTICS)}, n_bins), got {y.shape}.")
        log_xi = _log_positive(y[..., 0, :])
        means, stds = [], []
        for name, values in zip(STATISTICS, (log_xi, y[..., 1, :], y[..., 2, :]), strict=True):
            values = values[np.isfinite(values)]
            if len(values) == 0:
                raise ValueError(f"The training set has no finite value of {name} (xi must also be positive).")
            means.append(values.mean())
            stds.append(values.std())
        return cls(theta.mean(axis=0), theta.std(axis=0), means, stds)

    def inputs(self, theta: torch.Tensor) -> torch.Tensor:
        """Standardised parameters, equation 5.

        Parameters
        ----------
        theta : tensor (..., 7)

        Returns
        -------
        tensor (..., 7)
        """
        return (theta - self.input_mean) / self.input_std

    def targets(self, y: ArrayLike | torch.Tensor) -> torch.Tensor:
        """Standardised log xi, omega and eta of xi, omega and eta.

        NaN where a bin is empty, and for log xi also where xi <= 0: such an entry is masked in the loss, and nothing
        else of the mock is lost. (Dropping the mock selects by noise, most at large r. Even so a network of log xi
        learns the distribution of xi given xi > 0.)

        Parameters
        ----------
        y : array or tensor (..., 3, n_bins)

        Returns
        -------
        tensor (..., 3, n_bins)
        """
        y = torch.as_tensor(y)
        y = torch.cat([_log_positive(y[..., :1, :]), y[..., 1:, :]], dim=-2)
        return (y - self.target_mean[:, None]) / self.target_std[:, None]

    def physical(
        self, mean: torch.Tensor, variance: torch.Tensor, xi_estimate: str = "mean"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """xi, omega, eta and their aleatoric standard deviations from a network's outputs; Appendix B.

        omega and eta are scaled back. With m and s the mean and standard deviation of log xi, scaled back, xi is
        log-normal: its standard deviation is sqrt(exp(s^2) - 1) exp(m + s^2/2), the paper's. Its mean is
        exp(m + s^2/2); the paper's exp(m) is its median, lower than the average over realisations by exp(-s^2/2).
        The paper's equation shows the standardised sigma of log xi; it must be multiplied by the standard deviation
        of log xi, as for omega and eta.

        Parameters
        ----------
        mean, variance : tensors (..., 3, n_bins), or of shapes that broadcast to it
        xi_estimate : "mean" or "median" (the paper's)

        Returns
        -------
        values, sigma : tensors (..., 3, n_bins)
        """
        check_xi_estimate(xi_estimate)
        mean, variance = torch.broadcast_tensors(mean, variance)
        linear = mean * self.target_std[:, None] + self.target_mean[:, None]
        sigma = torch.sqrt(variance) * self.target_std[:, None]
        log_xi, s2 = linear[..., :1, :], sigma[..., :1, :] ** 2
        expected = torch.exp(log_xi + 0.5 * s2)
        xi = expected if xi_estimate == "mean" else torch.exp(log_xi)
        values = torch.cat([xi, linear[..., 1:, :]], dim=-2)
        return values, torch.cat([torch.sqrt(torch.expm1(s2)) * expected, sigma[..., 1:, :]], dim=-2)

    def physical_epistemic(self, sigma: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Epistemic standard deviations of xi, omega, eta; Appendix B.

        Those of omega and eta are scaled back; that of log xi is scaled back and carried through the exponential to
        first order, by xi itself.

        Parameters
        ----------
        sigma : tensor (..., 3, n_bins)
            Standard deviation over passes of the standardised means.
        values : tensor (..., 3, n_bins)
            From :meth:`physical`.

        Returns
        -------
        tensor (..., 3, n_bins)
        """
        sigma = sigma * self.target_std[:, None]
        return torch.cat([values[..., :1, :] * sigma[..., :1, :], sigma[..., 1:, :]], dim=-2)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The scalers by name.

        Returns
        -------
        dict of str to array
        """
        return {name: value.detach().cpu().numpy() for name, value in self.state_dict().items()}


def _log_positive(xi):
    """log(xi), NaN where xi is not positive; array or tensor."""
    if isinstance(xi, torch.Tensor):
        return torch.log(torch.where(xi > 0, xi, torch.full_like(xi, torch.nan)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(xi > 0, np.log(xi), np.nan)


def check_xi_estimate(name: str) -> None:
    """ValueError if it is none of ``XI_ESTIMATES``.

    Parameters
    ----------
    name : str
    """
    if name not in XI_ESTIMATES:
        raise ValueError(f"xi_estimate must be one of {', '.join(XI_ESTIMATES)}, got {name!r}.")

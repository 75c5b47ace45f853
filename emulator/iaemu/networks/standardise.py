"""Standardisation of IAEmuNet's inputs and targets, and its inverse (arXiv:2504.05235, section 3.2, Appendix B)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from iaemu.parameters import PARAMETERS
from iaemu.statistics import STATISTICS

#: Estimates of xi, if log xi has a normal distribution.
XI_ESTIMATES = ("mean", "median")


class Standardiser(nn.Module):
    """Means and standard deviations of a training set, kept as buffers beside the network.

    There is one of each for each of the seven parameters, and for each of log xi, omega and eta, taken over all points,
    realisations and bins.

    Parameters
    ----------
    input_mean, input_std : arrays (7,)
        Of the parameters.
    target_mean, target_std : arrays (3,)
        Of log xi, omega and eta.

    Raises
    ------
    ValueError
        An array has another length, a value is not finite, or a standard deviation is not positive.
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
                raise ValueError(f"{name} must be {shape[0]} finite numbers; got {tensor.tolist()}.")
            if name.endswith("std") and bool((tensor <= 0).any()):
                raise ValueError(f"{name} must be positive; got {tensor.tolist()}.")
            self.register_buffer(name, tensor)

    @classmethod
    def fit(cls, theta: np.ndarray, y: np.ndarray) -> Standardiser:
        """Return the standardiser of a training set.

        Parameters
        ----------
        theta : array (n, 7)
            Parameters.
        y : array (n, ..., 3, n_bins)
            xi, omega and eta, NaN in empty bins. Bins with xi <= 0 are not used for log xi.

        Returns
        -------
        Standardiser

        Raises
        ------
        ValueError
            A shape is wrong, a statistic has no finite value, or a parameter or statistic is constant.
        """
        theta, y = np.asarray(theta, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if theta.ndim != 2 or theta.shape[1] != len(PARAMETERS):
            raise ValueError(f"theta must have shape (n, {len(PARAMETERS)}); got {theta.shape}.")
        if y.ndim < 3 or len(y) != len(theta) or y.shape[-2] != len(STATISTICS):
            raise ValueError(f"y must have shape ({len(theta)}, ..., {len(STATISTICS)}, n_bins); got {y.shape}.")
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
        """Return standardised parameters, equation 5.

        Parameters
        ----------
        theta : tensor (..., 7)

        Returns
        -------
        tensor (..., 7)
        """
        return (theta - self.input_mean) / self.input_std

    def targets(self, y: ArrayLike | torch.Tensor) -> torch.Tensor:
        """Return standardised log xi, omega and eta.

        Entries are NaN where a bin is empty, and for log xi also where xi <= 0. The loss masks these entries and keeps
        the rest of the mock; to drop whole mocks would select by noise, most of all at large r. Still, a network for
        log xi learns the distribution of xi given xi > 0.

        Parameters
        ----------
        y : array or tensor (..., 3, n_bins)
            xi, omega and eta.

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
        """Return xi, omega, eta and their aleatoric errors from the outputs of a network; Appendix B.

        omega and eta are scaled back. xi is log-normal: if m and s are the mean and standard deviation of log xi,
        scaled back, the standard deviation of xi is sqrt(exp(s^2) - 1) exp(m + s^2/2). (The paper prints this with
        exp(2 m + s^2) in place of exp(m + s^2/2), which would be the variance without its square root, and with the
        standardised s, which must be multiplied by the standard deviation of log xi.) The mean of xi is
        exp(m + s^2/2). The paper uses the median exp(m), which is lower by exp(-s^2/2).

        Parameters
        ----------
        mean, variance : tensors (..., 3, n_bins), or of shapes that broadcast to it
            Outputs of the network.
        xi_estimate : "mean" or "median"
            The paper uses the median.

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
        """Return the epistemic errors of xi, omega and eta; Appendix B.

        Those of omega and eta are scaled back. That of log xi is scaled back and multiplied by xi, which propagates it
        to first order.

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
        """Return the means and standard deviations by name.

        Returns
        -------
        dict of str to array
        """
        return {name: value.detach().cpu().numpy() for name, value in self.state_dict().items()}


class Calibration(nn.Module):
    """Corrections of the errors that an IAEmuNet predicts, found after its training.

    The network learns its variances with dropout, so that they contain the scatter due to dropout, which is also the
    epistemic error, and hardly depend on the parameters where that dominates. The calibrated variance is
    v^b exp(a + c.x) for standardised parameters x, the calibrated epistemic error f times the spread of passes. The
    paper names such a calibration as future work (section 6).

    Parameters
    ----------
    offset, slope, factor : arrays (3, n_bins)
        a, b and f of each statistic and bin, for standardised statistics.
    gradient : array (3, n_bins, 7)
        c.

    Raises
    ------
    ValueError
        A shape is wrong, a value is not finite, or a factor is negative.
    """

    offset: torch.Tensor
    slope: torch.Tensor
    factor: torch.Tensor
    gradient: torch.Tensor

    def __init__(self, offset: ArrayLike, slope: ArrayLike, factor: ArrayLike, gradient: ArrayLike):
        super().__init__()
        given = {"offset": offset, "slope": slope, "factor": factor, "gradient": gradient}
        values = {name: torch.as_tensor(np.asarray(value, dtype=np.float64)).clone() for name, value in given.items()}
        shape = (len(STATISTICS), *values["offset"].shape[1:2])
        for name, value in values.items():
            wanted = (*shape, len(PARAMETERS)) if name == "gradient" else shape
            if tuple(value.shape) != wanted or len(shape) != 2:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be ({len(STATISTICS)}, n_bins, ...).")
            if not bool(torch.isfinite(value).all()) or (name == "factor" and bool((value < 0).any())):
                raise ValueError(f"{name} must be finite numbers, and factor at least 0.")
            self.register_buffer(name, value)

    def variance(self, variance: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Return calibrated variances.

        Parameters
        ----------
        variance : tensor (..., 3, n_bins)
            From the network.
        inputs : tensor (..., 7)
            Standardised parameters.

        Returns
        -------
        tensor (..., 3, n_bins)
        """
        trend = torch.einsum("sbp,...p->...sb", self.gradient, inputs)
        return torch.exp(self.offset + trend) * variance**self.slope

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the corrections by name.

        Returns
        -------
        dict of str to array
        """
        return {name: value.detach().cpu().numpy() for name, value in self.state_dict().items()}


def _log_positive(xi):
    """Return log(xi) of an array or tensor, NaN where xi is not positive."""
    if isinstance(xi, torch.Tensor):
        return torch.log(torch.where(xi > 0, xi, torch.full_like(xi, torch.nan)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(xi > 0, np.log(xi), np.nan)


def check_xi_estimate(name: str) -> None:
    """Check the name of an estimate of xi.

    Parameters
    ----------
    name : str

    Raises
    ------
    ValueError
        It is not one of ``XI_ESTIMATES``.
    """
    if name not in XI_ESTIMATES:
        raise ValueError(f"xi_estimate must be one of {', '.join(XI_ESTIMATES)}; got {name!r}.")

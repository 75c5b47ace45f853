"""The product of the 1-d priors of a Cobaya model as a differentiable function of batches of points."""

from __future__ import annotations

import math

import numpy as np
import torch
from cobaya.prior import Prior
from torch.autograd.function import once_differentiable

from iaemu_cobaya.gradients.torch_functions import differences

#: Step of numerical derivatives of a prior's log-density, in its standard deviations. Rounding then matters at 1e-10.
_STEP = 1e-5


class TorchPrior:
    """Log-density of the 1-d priors, normalised as in Cobaya.

    Uniform and normal distributions have closed forms; others are differentiated numerically.

    Parameters
    ----------
    prior : Prior

    Attributes
    ----------
    low, high : tensors (d,)
        Limits outside which the density is zero; infinite if there is none.
    can_be_zero : bool
        Whether the density may be zero within these limits.
    """

    def __init__(self, prior: Prior):
        bounds = np.array(prior.bounds(), dtype=np.float64).reshape(-1, 2)
        self.low, self.high = (torch.as_tensor(column.copy()) for column in bounds.T)
        kinds = [pdf.dist.name for pdf in prior.pdf]
        uniform = [index for index, kind in enumerate(kinds) if kind == "uniform"]
        normal = [index for index, kind in enumerate(kinds) if kind == "norm"]
        self._others = [(index, prior.pdf[index]) for index in range(len(kinds)) if index not in uniform + normal]
        self.can_be_zero = bool(self._others)
        self._constant = -float(np.log(bounds[uniform, 1] - bounds[uniform, 0]).sum())
        self._normal = slice(None) if len(normal) == len(kinds) else torch.tensor(normal)
        self._has_normal = bool(normal)
        self._loc = torch.tensor([float(prior.pdf[index].mean()) for index in normal], dtype=torch.float64)
        self._scale = torch.tensor([float(prior.pdf[index].std()) for index in normal], dtype=torch.float64)
        self._constant -= float(torch.log(self._scale).sum()) + 0.5 * math.log(2.0 * math.pi) * len(normal)

    def inside(self, x: torch.Tensor) -> torch.Tensor:
        """Return whether points lie within the bounds, or on them.

        Parameters
        ----------
        x : tensor (n, d)

        Returns
        -------
        tensor of bool (n,)
            False for NaN.
        """
        x = x.detach()
        return ((x >= self.low) & (x <= self.high)).all(dim=1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor | float:
        """Return the log-density of points within the bounds.

        Parameters
        ----------
        x : tensor (n, d)

        Returns
        -------
        tensor (n,), or float if it is the same everywhere
        """
        value: torch.Tensor | float = self._constant
        if self._has_normal:
            value = value - 0.5 * ((x[:, self._normal] - self._loc) / self._scale).square().sum(dim=1)
        for index, pdf in self._others:
            value = value + _LogDensity.apply(x[:, index], pdf)
        return value


class _LogDensity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pdf):
        ctx.points, ctx.pdf = x.detach().numpy(), pdf
        return torch.as_tensor(np.asarray(pdf.logpdf(ctx.points), dtype=np.float64))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        width = float(ctx.pdf.std())
        if not (np.isfinite(width) and width > 0):  # heavy tails
            width = float(np.diff(ctx.pdf.interval(0.68))[0])
        low, high = ctx.pdf.interval(1)

        def logpdf(points):
            with np.errstate(all="ignore"):
                return ctx.pdf.logpdf(points[:, 0])

        slope = differences(logpdf, ctx.points[:, None], _STEP * width, (np.array([low]), np.array([high])))
        return grad * torch.as_tensor(slope[:, 0]), None

"""Cobaya's own log-posterior: at many points, term by term, and with a numerical gradient."""

from __future__ import annotations

import numpy as np
import torch
from cobaya.model import Model
from torch.autograd.function import once_differentiable

from iaemu_cobaya.gradients.cobaya_internals import evaluation_order
from iaemu_cobaya.gradients.torch_functions import differences

#: Step of numerical derivatives, in units of the scale of each parameter: larger than the noise of a log-posterior, and
#: smaller than its width.
STEP = 1e-3

#: "prior" or "likelihood", and its name in Cobaya.
Term = tuple[str, str]


def log_posteriors(model: Model, points: np.ndarray) -> np.ndarray:
    """Return the log-posteriors of many points.

    Parameters
    ----------
    model : Model
    points : array (n, d)

    Returns
    -------
    array (n,)
        -inf in place of NaN.
    """
    values = np.array([model.logposterior(point, return_derived=False).logpost for point in points])
    return np.where(np.isnan(values), -np.inf, values)


def log_posterior_terms(model: Model, point: np.ndarray) -> dict[Term, float]:
    """Return the terms whose sum is the log-posterior of a point.

    Parameters
    ----------
    model : Model
    point : array (d,)

    Returns
    -------
    dict of Term to float
        Empty if the posterior is zero.
    """
    result = model.logposterior(point, return_derived=False)
    if not np.isfinite(result.logpost):
        return {}
    terms = {("prior", name): float(value) for name, value in zip(model.prior, result.logpriors, strict=True)}
    evaluated = {one.component.get_name() for one in evaluation_order(model) if one.is_likelihood}
    likes = zip(model.likelihood, result.loglikes, strict=True)
    # Cobaya's likelihood "one" is not a component that is evaluated.
    terms.update({("likelihood", name): float(value) for name, value in likes if name in evaluated})
    return terms


class NumericalLogPosterior(torch.autograd.Function):
    """Log-posteriors (n,) of points (n, d), with gradients by central differences."""

    @staticmethod
    def forward(ctx, x, model, scales, bounds):
        ctx.model, ctx.steps, ctx.bounds, ctx.points = model, STEP * scales, bounds, x.detach().numpy().copy()
        values = log_posteriors(model, ctx.points)
        ctx.finite = np.isfinite(values)
        return torch.as_tensor(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        slopes = np.zeros_like(ctx.points)
        if ctx.finite.any():
            found = differences(lambda x: log_posteriors(ctx.model, x), ctx.points[ctx.finite], ctx.steps, ctx.bounds)
            slopes[ctx.finite] = found
        return grad[:, None] * torch.as_tensor(slopes), None, None, None

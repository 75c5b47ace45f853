"""Compare the differentiable log-posterior with Cobaya's own: values and slopes, term by term."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cobaya.log import LoggedError

from iaemu_cobaya.gradients.cobaya_values import STEP, Term, log_posterior_terms, log_posteriors
from iaemu_cobaya.gradients.torch_functions import RejectedRows

#: Largest allowed differences: of log-densities, and of slopes in units of the scale of each parameter.
VALUE_TOLERANCE = 1e-7
SLOPE_TOLERANCE = 1e-4


def check_points(density: Any, points: np.ndarray) -> None:
    """Compare values and gradient at single points, and the values of all points evaluated together.

    Parameters
    ----------
    density : LogPosterior
    points : array (n, d)

    Raises
    ------
    LoggedError
        They differ. The message names the prior or likelihood, the point, and both numbers.
    """
    for point in points:
        _check_point(density, np.asarray(point, dtype=np.float64))
    with torch.no_grad():
        together = density(torch.as_tensor(points, dtype=torch.float64)).numpy()
    expected = log_posteriors(density.model, points)
    if not np.allclose(together, expected, rtol=VALUE_TOLERANCE, atol=VALUE_TOLERANCE):
        raise LoggedError(
            density.log,
            "Log-posteriors of %d points evaluated together are %s, but %s in Cobaya: the rows of a forward_torch or "
            "logp_torch depend on one another. Correct it, or set 'gradient: finite_difference'.",
            *(len(points), together, expected),
        )


def _check_point(density: Any, point: np.ndarray) -> None:
    x = torch.as_tensor(point)[None].clone().requires_grad_()
    expected = log_posterior_terms(density.model, point)
    with torch.enable_grad():
        try:
            terms = density.terms(x)
        except RejectedRows as rejected:
            raise LoggedError(
                density.log,
                "At %s, Cobaya's log-posterior is finite, %.10g, but forward_torch rejects the point. Correct it, or "
                "set 'gradient: finite_difference'.",
                *(_describe(density, point), sum(expected.values())),
            ) from rejected
        slopes = {}
        for key, term in terms.items():
            slope = None
            if isinstance(term, torch.Tensor) and term.requires_grad:
                (slope,) = torch.autograd.grad(term.sum(), x, retain_graph=True, allow_unused=True)
            slopes[key] = np.zeros(len(point)) if slope is None else slope[0].numpy()
    for key, term in terms.items():
        value = float(torch.as_tensor(term, dtype=torch.float64).detach().sum())
        if not abs(value - expected[key]) <= VALUE_TOLERANCE * max(1.0, abs(expected[key])):
            _refuse(density, key, f"is {value:.10g}, but {expected[key]:.10g} in Cobaya", point)
    for index, (name, scale) in enumerate(zip(density.names, density.scales, strict=True)):
        numerical = _numerical_slopes(density, point, index, expected)
        if numerical is None:
            density.log.debug(
                "The slope with %s at %s is not checked: numerical derivatives are too rough there.",
                name,
                _describe(density, point),
            )
            continue
        for key, (by_differences, error) in numerical.items():
            slope = slopes[key][index] * scale
            allowed = SLOPE_TOLERANCE * abs(by_differences) + error + 1e-6 * max(1.0, abs(expected[key]))
            if not abs(slope - by_differences) <= allowed:
                found = f"{slope / scale:.8g} with {name}, but {by_differences / scale:.8g} by differences of Cobaya's"
                _refuse(density, key, f"has the slope {found}", point)


def _numerical_slopes(density: Any, point, index: int, centre) -> dict[Term, tuple[float, float]] | None:
    """Return slopes in units of the scale of a parameter, and their errors, by Richardson extrapolation.

    None if the numerical derivatives are too rough.
    """

    def moved(size):
        there = point.copy()
        there[index] += size * density.scales[index]
        return log_posterior_terms(density.model, there)

    def slopes(size):
        above, below = moved(size), moved(-size)
        return {key: (above.get(key, np.nan) - below.get(key, np.nan)) / (2 * size) for key in centre}

    for step in (10.0 * STEP, STEP, 0.1 * STEP):
        coarse, fine = slopes(step), slopes(0.5 * step)
        error = {key: abs(fine[key] - coarse[key]) for key in centre}
        # This is also False for NaN, outside the domain of a function.
        if all(error[key] <= 0.01 * max(1.0, abs(fine[key])) for key in centre):
            return {key: ((4.0 * fine[key] - coarse[key]) / 3.0, error[key]) for key in centre}
    return None


def _refuse(density: Any, key: Term, difference: str, point: np.ndarray) -> None:
    kind, name = key
    if kind == "prior":
        first = next(iter(density.model.prior))
        what = "product of the 1-d priors" if name == first else f"external prior {name}"
    else:
        what = f"log-likelihood of {name}"
    raise LoggedError(
        density.log,
        "The %s, computed with gradients, %s at %s. Correct its logp_torch or the forward_torch of what it requires, "
        "or set 'gradient: finite_difference'.",
        *(what, difference, _describe(density, point)),
    )


def _describe(density: Any, point: np.ndarray) -> str:
    return ", ".join(f"{name} = {value:.10g}" for name, value in zip(density.names, point, strict=True))

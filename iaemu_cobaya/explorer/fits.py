"""Best fits of the packaged data, which the explorer offers to begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from iaemu.models.factorised import Emulator
from iaemu.parameters import ZHENG07_LINE
from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.theories.derived import SHAPE_PARAMETERS

#: How far inside the limits of the supported region a best fit must be, so that rounded values are supported too.
_MARGIN = 2e-4

#: Where the fit of an unknown occupation starts: on the Zheng et al. 2007 line, at galaxies of massive halos.
_LOGMMIN = 13.0


def best_fits(model: Emulator, likelihoods: Sequence[IACorrelations]) -> list[dict[str, Any]]:
    """Return the parameters with the least chi^2 of the data alone, for each of some packaged measurements.

    If the likelihood's defaults state the occupation, the strengths are fitted; otherwise all seven, with the rms
    ellipticity in the middle of its prior, since only its product with the strengths is measured.

    Parameters
    ----------
    model : Emulator
    likelihoods : sequence of IACorrelations

    Returns
    -------
    list of dict
        The name of the likelihood, the redshift of the data, the parameters and, for projected data, ``a_shape``.
    """
    return [_best_fit(model, like) for like in likelihoods]


def _best_fit(model: Emulator, like: IACorrelations) -> dict[str, Any]:
    redshift = float(like.measurement.metadata["redshift"])
    model = model.at_redshift(redshift)
    defaults = type(like).get_defaults()["params"]
    fixed = {name: float(entry["value"]) for name, entry in defaults.items() if "value" in entry}
    start = {"mu_cen": 0.6, "mu_sat": 0.1, "logMmin": _LOGMMIN}
    start |= {name: float(line(_LOGMMIN)) for name, line in ZHENG07_LINE.items()} | fixed
    found: dict[str, Any] = {"likelihood": type(like).__name__, "redshift": redshift}
    a_shape = 1.0
    if "e_rms" in defaults:
        found["a_shape"] = a_shape = round(SHAPE_PARAMETERS["e_rms"] * defaults["e_rms"]["prior"]["loc"], 4)
    values = np.array([start[name] for name in model.parameters])
    free = [column for column, name in enumerate(model.parameters) if name not in fixed]
    best = _minimum(model, _chi2_of(model, like, a_shape), values, free)
    return found | {"parameters": {name: round(float(x), 4) for name, x in zip(model.parameters, best, strict=True)}}


def _chi2_of(model: Emulator, like: IACorrelations, a_shape: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return chi^2 of the data alone as a differentiable function of the parameters (7,)."""
    data, inverse = torch.as_tensor(like.data_vector), torch.as_tensor(like.inverse_covariance)
    request = like.requests[like.statistics[0]]

    def chi2(theta: torch.Tensor) -> torch.Tensor:
        values: Any
        if "projection" in request:
            values = model.project(theta, request["projection"], a_shape=a_shape, support="reject")
        else:
            values = model.predict(theta, request["r_edges"], like.statistics, support="reject")
        residuals = data - torch.cat([getattr(values, name) for name in like.statistics])
        return residuals @ inverse @ residuals

    return chi2


def _minimum(
    model: Emulator, chi2: Callable[[torch.Tensor], torch.Tensor], start: np.ndarray, free: list[int]
) -> np.ndarray:
    """Return the parameters with the least chi^2 in the supported region; only some columns are free."""
    matrix, limits = model.support.inequalities()
    matters = np.any(matrix[:, free] != 0, axis=1)
    matrix, limits = matrix[matters], limits[matters] - _MARGIN

    def whole(x: np.ndarray) -> np.ndarray:
        values = start.copy()
        values[free] = x
        return values

    def value_and_slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.tensor(whole(x), requires_grad=True)
        value = chi2(theta)
        (slope,) = torch.autograd.grad(value, theta)
        return float(value.detach()), slope.numpy()[free]

    inside = {
        "type": "ineq",
        "fun": lambda x: limits - matrix @ whole(x),
        "jac": lambda x: -matrix[:, free],
    }
    done = minimize(value_and_slope, start[free], jac=True, method="SLSQP", constraints=inside, options={"ftol": 1e-7})
    return whole(done.x)

"""Find the region of the sampled parameters outside which the posterior is zero, and coordinates that cover it.

A theory may know linear inequalities that its parameters satisfy at all points that it does not reject (its method
``inequalities``). A parameter of it can be sampled, constant, or a linear function of sampled ones. Then these are
inequalities of the sampled parameters, and together with the bounds of the prior they make a region that the sampler
need not leave. Inequalities of other parameters are left out: there, points are evaluated and rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import Logger
from typing import Any

import numpy as np
from cobaya.model import Model

from iaemu.sampling import Transform, region
from iaemu_cobaya.gradients import cobaya_internals
from iaemu_cobaya.gradients.plan import Plan


class NotLinear(TypeError):
    """Raised by an operation whose result is not a linear function of the sampled parameters."""


class Linear:
    """A linear function of the sampled parameters, ``slopes @ x + constant``, that can be calculated with.

    A function that is called with such arguments and returns one is linear everywhere, not only at some points:
    whatever else it does, a comparison included, raises an error.

    Parameters
    ----------
    slopes : array (d,)
    constant : float
    """

    #: numpy leaves operations with its own numbers to this class.
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, slopes: np.ndarray, constant: float):
        self.slopes, self.constant = slopes, constant

    def __add__(self, other: Any) -> Linear:
        if isinstance(other, Linear):
            return Linear(self.slopes + other.slopes, self.constant + other.constant)
        return Linear(self.slopes, self.constant + _number(other))

    def __mul__(self, other: Any) -> Linear:
        if isinstance(other, Linear):
            if not other.slopes.any():
                return self * other.constant
            if self.slopes.any():
                raise NotLinear
            return other * self.constant
        factor = _number(other)
        return Linear(self.slopes * factor, self.constant * factor)

    def __truediv__(self, other: Any) -> Linear:
        if isinstance(other, Linear):
            if other.slopes.any():
                raise NotLinear
            other = other.constant
        return self * (1.0 / _number(other))

    def __neg__(self) -> Linear:
        return self * -1.0

    def __pos__(self) -> Linear:
        return self

    def __sub__(self, other: Any) -> Linear:
        return self + (-other)

    def __rsub__(self, other: Any) -> Linear:
        return -self + other

    __radd__, __rmul__ = __add__, __mul__

    def _refuse(self, *_: Any) -> Any:
        raise NotLinear

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __bool__ = __float__ = __int__ = __index__ = __abs__ = __round__ = __pow__ = __rpow__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __array__ = __iter__ = __getitem__ = __len__ = _refuse


def _number(value: Any) -> float:
    if isinstance(value, Linear) or np.ndim(value):
        raise NotLinear
    return float(value)


def transform_of(model: Model, plan: Plan | None, bounds: tuple[np.ndarray, np.ndarray], log: Logger) -> Transform:
    """Return unbounded coordinates of the region where the posterior of a model can be positive.

    Parameters
    ----------
    model : Model
    plan : Plan, optional
        Without it, only the bounds of the prior are known.
    bounds : pair of arrays (d,)
        Limits of the prior.
    log : Logger

    Returns
    -------
    Transform
        That of the bounds alone if nothing else is known.
    """
    box = Transform.from_bounds(*bounds)
    if plan is None:
        return box
    values = linear_parameters(model, plan)
    rows, limits = [], []
    for theory, *_ in plan.theories:
        find = getattr(theory, "inequalities", None)
        for coefficients, limit in find() if callable(find) else ():
            used = {name: factor for name, factor in coefficients.items() if factor}
            if not used.keys() <= values.keys():
                continue
            total = sum((factor * values[name] for name, factor in used.items()), Linear(np.zeros(box.dimension), 0.0))
            rows.append(total.slopes)
            limits.append(limit - total.constant)
    try:
        return region(*bounds, np.array(rows), np.array(limits)) if rows else box
    except ValueError as error:
        log.debug("The supported region is left to rejection: %s", error)
        return box


def linear_parameters(model: Model, plan: Plan) -> dict[str, Linear]:
    """Return the input parameters that are linear functions of the sampled ones, by name.

    Parameters
    ----------
    model : Model
    plan : Plan

    Returns
    -------
    dict of str to Linear
        Constants included.
    """
    sampled = list(model.parameterization.sampled_params())
    zero = np.zeros(len(sampled))
    values = {name: Linear(zero, float(value)) for name, value in plan.constants.items()}
    values.update({name: Linear(row, 0.0) for name, row in zip(sampled, np.eye(len(sampled)), strict=True)})
    for name, (function, arguments) in cobaya_internals.input_functions(model).items():
        found = _called(function, {argument: values.get(argument) for argument in arguments})
        if found is not None:
            values[name] = found
    return values


def _called(function: Callable, arguments: Mapping[str, Linear | None]) -> Linear | None:
    """Return the value of a function of a user, or None if it is not linear."""
    if any(value is None for value in arguments.values()):
        return None
    try:
        found = function(**arguments)
    except Exception:  # a user's function can raise anything
        return None
    return found if isinstance(found, Linear) else None

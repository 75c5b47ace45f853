"""Transform of bounded parameters to unbounded coordinates: logit for two bounds, logarithm for one, else identity.

    low < theta < high    theta = low + (high - low) / (1 + exp(-u))
    low < theta           theta = low + exp(u)
    theta < high          theta = high - exp(-u)

All are increasing in u. Their derivatives are written out, see ``iaemu.sampling.density.Density``. The transforms are
those of Stan's reference manual (section "Transforms of constrained variables"), up to the sign of the third.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

#: Points on a bound, where u would be infinite, are moved inside by this fraction of the width (or of max(1, |bound|)).
EDGE = 1e-9


#: One bound for all parameters, or one for each; None if there is none.
Bound = float | None | Sequence[float | None] | np.ndarray | torch.Tensor


def real_numbers(name: str, value: Any, device: str | torch.device | None = None) -> torch.Tensor:
    """Return real numbers as a tensor.

    Parameters
    ----------
    name : str
        Name in messages.
    value : object
    device : optional

    Returns
    -------
    tensor, float64
        Without gradient.

    Raises
    ------
    ValueError
        The value does not consist of real numbers.
    """
    try:
        found = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
        plain = found.layout is torch.strided and not found.is_nested
        if plain and not (found.is_complex() or found.dtype == torch.bool):
            return torch.as_tensor(value, dtype=torch.float64, device=device).detach()
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise ValueError(f"{name} must be real numbers; got {reprlib.repr(value)}.")


class Transform:
    """The transform of d bounded parameters to unbounded coordinates; made by :meth:`from_bounds`.

    Parameters
    ----------
    low, high : tensors (d,)
        Bounds, infinite if there is none. They are also attributes, as is ``dimension``, the number d.
    """

    def __init__(self, low: torch.Tensor, high: torch.Tensor):
        self.low, self.high, self.dimension = low, high, len(low)
        has_low, has_high = torch.isfinite(low), torch.isfinite(high)
        self._two = has_low & has_high
        self._low, self._high = has_low & ~has_high, has_high & ~has_low
        self._only_two, self._only_free = bool(self._two.all()), not bool((has_low | has_high).any())
        # Finite values replace masked ones, so that no infinity is multiplied by zero.
        self._start = torch.where(has_low, low, 0.0)
        self._end = torch.where(has_high, high, 1.0)
        self._start_two = torch.where(self._two, low, 0.0)
        self._end_two = torch.where(self._two, high, 1.0)
        self._width = self._end_two - self._start_two
        self._sign = self._low.to(low.dtype) - self._high.to(low.dtype)

    @classmethod
    def from_bounds(
        cls, low: Bound, high: Bound, dimension: int | None = None, device: str | torch.device = "cpu"
    ) -> Transform:
        """Return the transform for given bounds, in double precision.

        Parameters
        ----------
        low, high : numbers, or sequences, arrays or tensors (d,)
            Bounds; None or infinite if there is none.
        dimension : int, optional
            Number of parameters; by default that of the bounds.
        device : str or torch.device

        Returns
        -------
        Transform

        Raises
        ------
        ValueError
            A bound is NaN, a lower bound is not below its upper bound, or their number is not the dimension.
        """
        bounds = []
        for name, value, default in (("low", low, -math.inf), ("high", high, math.inf)):
            if value is None:
                value = default
            elif isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim):
                value = [default if one is None else one for one in value]
            bound = real_numbers(f"The bounds {name}", value, device).clone()
            if bool(torch.isnan(bound).any()) or bound.ndim > 1:
                raise ValueError(f"The bounds {name} must be one number, or one for each parameter; got {value}.")
            bounds.append(bound)
        shape = torch.broadcast_shapes(bounds[0].shape, bounds[1].shape)
        if dimension is None:
            dimension = shape[0] if shape else 1
        if shape not in ((), (1,), (dimension,)):
            raise ValueError(f"There are bounds for {shape[0]} parameters, but the density has {dimension}.")
        bounds = [bound.expand(dimension).contiguous() for bound in bounds]
        wrong = torch.nonzero(~(bounds[0] < bounds[1]))
        if len(wrong):
            index = int(wrong[0])
            raise ValueError(
                f"The lower bound of parameter {index}, {float(bounds[0][index])}, is not below its upper bound, "
                f"{float(bounds[1][index])}."
            )
        return cls(*bounds)

    def numbers(self) -> torch.Tensor:
        """Return all numbers that define the transform, to compare it with another one.

        Returns
        -------
        tensor (m,)
        """
        return torch.cat([self.low, self.high])

    def contains(self, physical: torch.Tensor) -> torch.Tensor:
        """Return whether physical points are within the bounds.

        Parameters
        ----------
        physical : tensor (n, d)

        Returns
        -------
        tensor of bool (n,)
        """
        return ((physical >= self.low) & (physical <= self.high)).all(dim=1)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return the physical points of unbounded coordinates, which are within the bounds also after rounding.

        Parameters
        ----------
        points : tensor (..., d)

        Returns
        -------
        tensor (..., d)
        """
        return self.forward_and_slopes(points)[0]

    def log_jacobian(self, points: torch.Tensor) -> torch.Tensor:
        """Return ``log |d theta / d u|`` at unbounded points.

        Parameters
        ----------
        points : tensor (..., d)

        Returns
        -------
        tensor (...)
        """
        log_jacobian = self.forward_and_slopes(points)[2]
        return torch.zeros_like(points[..., 0]) if log_jacobian is None else log_jacobian

    def forward_and_slopes(
        self, points: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Return physical points and the derivatives that the chain rule needs.

        Parameters
        ----------
        points : tensor (..., d)
            Unbounded coordinates u.

        Returns
        -------
        physical : tensor (..., d)
            theta.
        slope : tensor (..., d) or None
            d theta / d u. It is None, like the next two, if the transform is the identity.
        log_jacobian : tensor (...) or None
            Sum of ``log |d theta / d u|`` over the parameters.
        curvature : tensor (..., d) or None
            Gradient of ``log_jacobian``.
        """
        if self._only_free:
            return points, None, None, None
        if self._only_two:
            return self._logit(points)
        zero = torch.zeros_like(points)
        physical, slope, log_jacobian, curvature = self._logit(torch.where(self._two, points, zero), reduce=False)
        signed = points * self._sign  # 0, so that its exponential is 1, where there are two bounds or none
        size = torch.exp(signed)
        physical = torch.where(self._two, physical, points)
        physical = torch.where(self._low, self._start + size, physical)
        physical = torch.where(self._high, self._end - size, physical)
        slope = torch.where(self._two, slope, size)
        log_jacobian = torch.where(self._two, log_jacobian, signed).sum(dim=-1)
        return physical, slope, log_jacobian, torch.where(self._two, curvature, self._sign)

    def inverse(self, physical: torch.Tensor) -> torch.Tensor:
        """Return the unbounded coordinates of physical points; points on a bound are moved inside by 1e-9 of the range.

        Parameters
        ----------
        physical : tensor (..., d)

        Returns
        -------
        tensor (..., d)

        Raises
        ------
        ValueError
            A point is outside the bounds, or NaN.
        """
        outside = ~((physical >= self.low) & (physical <= self.high))
        if bool(outside.any()):
            index = int(torch.nonzero(outside.reshape(-1, self.dimension).any(dim=0))[0])
            value = float(physical[..., index][outside[..., index]].reshape(-1)[0])
            raise ValueError(
                f"Parameter {index} is {value:.6g}, outside its bounds "
                f"[{float(self.low[index]):.6g}, {float(self.high[index]):.6g}]."
            )
        if self._only_free:
            return physical.clone()
        fraction = ((physical - self._start_two) / self._width).clamp(EDGE, 1.0 - EDGE)
        rest = ((self._end_two - physical) / self._width).clamp(EDGE, 1.0 - EDGE)
        above = (physical - self._start) / torch.clamp(self._start.abs(), min=1.0)
        below = (self._end - physical) / torch.clamp(self._end.abs(), min=1.0)
        from_low = torch.log(above.clamp(min=EDGE)) + self._start.abs().clamp(min=1.0).log()
        from_high = -torch.log(below.clamp(min=EDGE)) - self._end.abs().clamp(min=1.0).log()
        result = torch.where(self._two, torch.log(fraction) - torch.log(rest), physical)
        return torch.where(self._high, from_high, torch.where(self._low, from_low, result))

    def _logit(self, points, reduce=True):
        fraction = torch.sigmoid(points)
        # lerp computes from the nearer end, so that fractions of 0 and 1 give the bounds exactly.
        physical = torch.lerp(self._start_two, self._end_two, fraction)
        curvature = 1.0 - 2.0 * fraction
        # log s(u) + log s(-u) = -|u| - 2 log(1 + exp(-|u|)) has no cancellation and no overflow.
        size = points.abs()
        log_slope = torch.log(self._width) - size - 2.0 * F.softplus(-size)
        slope = torch.exp(log_slope)
        return physical, slope, log_slope.sum(dim=-1) if reduce else log_slope, curvature

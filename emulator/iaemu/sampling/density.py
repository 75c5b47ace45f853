"""The density to sample: value and gradient at many points at once, in unbounded coordinates.

The user's function is called only here. Where its value or gradient is not finite, the value becomes -inf and the
gradient 0. Such points are rejected, and the integrator remains reversible and volume-preserving.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from iaemu.sampling.transforms import Transform


class Density:
    """The log-density as a function of unbounded coordinates u; the user's function gets the physical point theta(u).

    log p(u) = log p(theta(u)) + log |d theta / d u|. The chain rule for the transform is written out, because autograd
    would double the number of tensor operations, which dominate the time of a small batch.

    Parameters
    ----------
    function : callable, tensor (n, d) -> tensor (n,)
        Log-density of physical points up to a constant, differentiable by autograd. The value of a row must not depend
        on other rows.
    transform : Transform
    chunk : int
        Largest number of points in one call.

    Attributes
    ----------
    n_gradients : int
        Number of points whose gradient has been computed.
    n_calls : int
        Number of calls of ``function``.
    n_values : int
        Number of points whose value alone has been computed.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], transform: Transform, chunk: int = 256):
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1; got {chunk}.")
        self.function = function
        self.transform = transform
        self.chunk = chunk
        self.n_gradients = 0
        self.n_calls = 0
        self.n_values = 0

    def values(self, physical: torch.Tensor) -> torch.Tensor:
        """Return the log-density of physical points, without gradient; -inf outside the bounds and where not finite.

        Parameters
        ----------
        physical : tensor (n, d)

        Returns
        -------
        tensor (n,)
            Without the Jacobian of the transform.
        """
        result = physical.new_full((len(physical),), -torch.inf)
        rows = torch.nonzero(self.transform.contains(physical))[:, 0]
        with torch.inference_mode(False), torch.no_grad():
            for part in rows.split(self.chunk):
                self.n_values += len(part)
                self.n_calls += 1
                value = self.function(physical[part]).to(result.dtype)
                result[part] = torch.where(torch.isfinite(value), value, -torch.inf)
        return result

    def __call__(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-density (n,) and its gradient (n, d) at unbounded points (n, d).

        Raises
        ------
        ValueError
            The function returned another shape than (n,), or a value that autograd cannot differentiate.
        """
        # Gradients are needed also if the caller is in no_grad or inference mode.
        with torch.inference_mode(False), torch.no_grad():
            if points.is_inference():
                points = points.clone()
            physical, slope, log_jacobian, curvature = self.transform.forward_and_slopes(points)
            if len(physical) <= self.chunk:
                value, gradient = self._physical(physical)
            else:
                parts = [self._physical(part) for part in physical.split(self.chunk)]
                value, gradient = (torch.cat(columns) for columns in zip(*parts, strict=True))
            if not (slope is None or log_jacobian is None or curvature is None):
                value = value + log_jacobian
                if slope.ndim > gradient.ndim:
                    gradient = curvature + (gradient[:, None] @ slope)[:, 0]
                else:
                    gradient = torch.addcmul(curvature, gradient, slope)
            finite = torch.isfinite(gradient.sum(dim=1) + value)
            return torch.where(finite, value, -torch.inf), torch.where(finite[:, None], gradient, 0.0)

    def _physical(self, points):
        self.n_gradients += len(points)
        self.n_calls += 1
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            value = self.function(leaf)
            if not isinstance(value, torch.Tensor) or value.shape != leaf.shape[:1]:
                shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(
                    f"For points of shape {tuple(leaf.shape)} the log-density must return a tensor of shape "
                    f"{tuple(leaf.shape[:1])}, one value for each row; got {shape}."
                )
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
                if gradient is not None:
                    return value.detach().to(points.dtype), gradient
        # A function that rejects a whole batch may return a constant -inf. Any other constant means a broken graph.
        if bool(torch.isfinite(value).any()):
            raise ValueError(
                "The log-density has no gradient, because it is not computed from its argument by torch operations. Do "
                "not detach tensors or convert them to numpy in it."
            )
        return value.detach().to(points.dtype), torch.zeros_like(points)

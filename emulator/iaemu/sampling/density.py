"""The density to sample: value and gradient at many points at once, in unbounded coordinates.

The only place where the user's function is called. Points where it, or its gradient, is not finite have the value
-inf and the gradient 0: they are rejected, whatever the function did there, and the map of the integrator through
them is still reversible and keeps volumes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from iaemu.sampling.transforms import Transform


class Density:
    """Log-density of unbounded coordinates u, of which the user's function sees the physical point theta(u).

    log p(u) = log p(theta(u)) + log |d theta / d u|. The chain rule through the transform is written out rather than
    left to autograd, which would double the number of tensor operations that a small batch spends its time on.

    Parameters
    ----------
    function : callable, tensor (n, d) -> tensor (n,)
        Log-density of physical points, up to a constant; differentiable by autograd. Row by row: the value of one
        point may not depend on the others.
    transform : Transform
    chunk : int
        Most points in one call.

    Attributes
    ----------
    n_gradients : int
        Points whose gradient has been computed.
    n_calls : int
        Calls of ``function``.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], transform: Transform, chunk: int = 256):
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 point, got {chunk}.")
        self.function = function
        self.transform = transform
        self.chunk = chunk
        self.n_gradients = 0
        self.n_calls = 0

    def __call__(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-density (n,) and its gradient (n, d) at unbounded points (n, d).

        Raises
        ------
        ValueError
            The function returned another shape than (n,), or what autograd cannot differentiate.
        """
        # A caller's no_grad or inference mode must not take the gradient away.
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
                    f"The log-density of points of shape {tuple(leaf.shape)} must be a tensor of shape "
                    f"{tuple(leaf.shape[:1])}, one value for each row; got {shape}."
                )
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
                if gradient is not None:
                    return value.detach().to(points.dtype), gradient
        # A function may return a constant -inf when it rejects a whole batch; any other constant is a broken graph.
        if bool(torch.isfinite(value).any()):
            raise ValueError(
                "The log-density does not depend on its argument by torch operations, so that it has no gradient: "
                "do not detach or convert to numpy inside it."
            )
        return value.detach().to(points.dtype), torch.zeros_like(points)

"""Reversible, volume-preserving integrators of Hamilton's equations for unit mass, for many chains at once.

All are symmetric sequences of kicks (the gradient changes the momentum) and drifts (the momentum changes the position),
so that the last gradient of a step is the first of the next:

``leapfrog``
    One gradient per step, stable below step 2 / frequency (Neal 2011, section 5.2.3).
``two-stage``
    Two gradients per step, with one coefficient b = (3 - sqrt 3) / 6 = 0.211, near which the energy error for Gaussians
    is smallest over all steps up to 2 (Blanes, Casas & Sanz-Serna 2014, SIAM J. Sci. Comput. 36, A1556).
``rotation``
    One gradient per step. The density is split into a standard normal, whose motion is a rotation in phase space and is
    solved exactly, and the remainder, which kicks (Shahbaba et al. 2014, Stat. Comput. 24, 339; Beskos et al. 2011,
    Stoch. Proc. Appl. 121, 2201). It is exact for a Gaussian at any step and dimension, if the metric is that of the
    Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

INTEGRATORS = ("leapfrog", "two-stage", "rotation")

_TWO_STAGE = (3.0 - math.sqrt(3.0)) / 6.0

#: Number of gradients in one step.
GRADIENTS = {"leapfrog": 1, "two-stage": 2, "rotation": 1}

#: Returns log-density (n,) and gradient (n, d) at points (n, d); -inf and 0 where they are not defined.
LogDensity = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: Position, momentum, log-density and gradient.
PhasePoint = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def integrate(
    density: LogDensity,
    position: torch.Tensor,
    momentum: torch.Tensor,
    log_density: torch.Tensor,
    gradient: torch.Tensor,
    step: float | torch.Tensor,
    n_steps: int,
    integrator: str = "leapfrog",
) -> PhasePoint:
    """Integrate the motion from (``position``, ``momentum``) for ``n_steps`` steps.

    Parameters
    ----------
    density : LogDensity
    position, momentum : tensors (n, d)
    log_density, gradient : tensors (n,) and (n, d)
        At the position.
    step : float, or tensor (n, 1)
        Step size, negative for motion backwards in time.
    n_steps : int
    integrator : "leapfrog", "two-stage" or "rotation"

    Returns
    -------
    position, momentum : tensors (n, d)
    log_density : tensor (n,)
    gradient : tensor (n, d)
    """
    if integrator == "rotation":
        return _rotation(density, position, momentum, log_density, gradient, step, n_steps)
    if integrator == "two-stage":
        first, drift = _TWO_STAGE * step, 0.5 * step
        inner, last = (1.0 - 2.0 * _TWO_STAGE) * step, 2.0 * first
    else:
        first = 0.5 * step
        inner = last = drift = step
    momentum = momentum + first * gradient
    n_stages = n_steps * GRADIENTS[integrator]
    for stage in range(1, n_stages + 1):
        position = position + drift * momentum
        log_density, gradient = density(position)
        kick = first if stage == n_stages else inner if stage % 2 else last
        momentum = momentum + kick * gradient
    return position, momentum, log_density, gradient


def _rotation(density, position, momentum, log_density, gradient, step, n_steps):
    module = torch if isinstance(step, torch.Tensor) else math
    cosine, sine = module.cos(step), module.sin(step)
    # The force of the remainder is that of the density minus that of the standard normal, which is -z.
    momentum = momentum + (0.5 * step) * (gradient + position)
    for stage in range(1, n_steps + 1):
        position, momentum = cosine * position + sine * momentum, cosine * momentum - sine * position
        log_density, gradient = density(position)
        momentum = momentum + (step if stage < n_steps else 0.5 * step) * (gradient + position)
    return position, momentum, log_density, gradient

"""Hamiltonian Monte Carlo with trajectories of random length, the same for all chains.

Duane et al. 1987; Neal 2011 (arXiv:1206.1901). For each transition the length of the trajectory is drawn from a uniform
distribution about a nominal length, so that trajectories do not follow periodic orbits (Mackenzie 1989). The length is
the same for all chains, so that each call of the density has a full batch. This makes many chains cheap; NUTS
(``iaemu.sampling.nuts``), with trees of different depth, does not have this advantage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from iaemu.sampling.integrators import GRADIENTS, LogDensity, integrate

#: Energy error above which a trajectory is called divergent, as in Stan.
DIVERGENCE = 1000.0


class State(NamedTuple):
    """Positions of the chains, with log-density and gradient, in whitened coordinates.

    Attributes
    ----------
    position : tensor (n_chains, d)
    log_density : tensor (n_chains,)
        Log-density of the unbounded coordinates, which includes the log-Jacobian of the bounds.
    gradient : tensor (n_chains, d)
    """

    position: torch.Tensor
    log_density: torch.Tensor
    gradient: torch.Tensor


class HMCInfo(NamedTuple):
    """Diagnostics of one transition of Hamiltonian Monte Carlo.

    Attributes
    ----------
    acceptance : tensor (n_chains,)
        Acceptance probability of the end of the trajectory.
    accepted : tensor of bool (n_chains,)
        Whether the end was accepted.
    divergent : tensor of bool (n_chains,)
        Whether the energy error exceeded 1000 or was not finite. Then the density has features finer than the step, or
        the trajectory ended where the density is zero (``energy_error`` is infinite in this case).
    energy : tensor (n_chains,)
        Energy of the new state, with the momentum at which it was reached; for E-BFMI.
    energy_error : tensor (n_chains,)
        Energy at the end of the trajectory minus that at its beginning.
    n_leapfrog : tensor of int (n_chains,)
        Number of gradients of each chain.
    step_size : tensor (n_chains,)
        Step size of the trajectory.
    jumped : tensor of bool (n_chains,)
        Whether the chain jumped to another point before the trajectory, see :mod:`iaemu.sampling.jumps`.
    """

    acceptance: torch.Tensor
    accepted: torch.Tensor
    divergent: torch.Tensor
    energy: torch.Tensor
    energy_error: torch.Tensor
    n_leapfrog: torch.Tensor
    step_size: torch.Tensor
    jumped: torch.Tensor


def init(position: torch.Tensor, density: LogDensity) -> State:
    """Return the state of chains at given positions.

    Parameters
    ----------
    position : tensor (n_chains, d)
        Whitened coordinates.
    density : LogDensity

    Returns
    -------
    State
    """
    return State(position, *density(position))


def choose(new: Iterable[torch.Tensor], old: Iterable[torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return tensors with some rows from new tensors and the others from old ones.

    Parameters
    ----------
    new, old : tensors (n, d) or (n,)
    rows : tensor of bool (n,)
        Rows to take from ``new``.

    Returns
    -------
    tuple of tensors
    """
    column = rows[:, None]
    return tuple(torch.where(column if x.ndim == 2 else rows, x, y) for x, y in zip(new, old, strict=True))


def step(
    state: State,
    density: LogDensity,
    step_size: float,
    generator: torch.Generator,
    trajectory_length: float = 0.5 * math.pi,
    jitter: float = 0.3,
    integrator: str = "leapfrog",
    max_steps: int = 1024,
    always: bool = False,
) -> tuple[State, HMCInfo]:
    """Make one transition of all chains.

    Parameters
    ----------
    state : State
    density : LogDensity
    step_size : float
        Largest step size: a trajectory is divided into the smallest possible number of equal steps.
    generator : torch.Generator
    trajectory_length : float
        Nominal length; pi / 2 is a quarter of an orbit in a standard normal density.
    jitter : float in [0, 1)
        Lengths are uniform within this fraction of the nominal length on both sides.
    integrator : "leapfrog", "two-stage" or "rotation"
    max_steps : int
        Largest number of steps; trajectories that would need more are shortened.
    always : bool
        Whether to move to the end of the trajectory without an acceptance step. This does not leave the density
        invariant; it is used to measure how far trajectories lead.

    Returns
    -------
    state : State
    info : HMCInfo
    """
    position, log_density, gradient = state
    options: dict[str, Any] = dict(generator=generator, dtype=position.dtype, device=position.device)
    momentum = torch.randn(position.shape, **options)
    uniform = torch.rand(len(position), **options)
    length = trajectory_length
    if jitter:
        length = length * (1.0 + jitter * (2.0 * float(torch.rand((), **options)) - 1.0))
    n_steps = min(max(1, math.ceil(length / step_size)), max_steps)
    size = min(length / n_steps, step_size)
    end = integrate(density, position, momentum, log_density, gradient, size, n_steps, integrator)
    kinetic = 0.5 * momentum.square().sum(dim=1)
    energy = kinetic - log_density
    proposed = 0.5 * end[1].square().sum(dim=1) - end[2]
    error = torch.nan_to_num(proposed - energy, nan=torch.inf, posinf=torch.inf)
    acceptance = torch.exp(-error).clamp(max=1.0)
    accepted = torch.ones_like(uniform, dtype=torch.bool) if always else uniform < acceptance
    new = State(*choose((end[0], *end[2:]), state, accepted))
    n_gradients = n_steps * GRADIENTS[integrator]
    info = HMCInfo(
        acceptance=acceptance,
        accepted=accepted,
        divergent=error > DIVERGENCE,
        energy=torch.where(accepted, proposed, energy),
        energy_error=error,
        n_leapfrog=torch.full(accepted.shape, n_gradients, device=position.device),
        step_size=torch.full_like(energy, size),
        jumped=torch.zeros_like(accepted),
    )
    return new, info

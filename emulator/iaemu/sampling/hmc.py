"""Hamiltonian Monte Carlo with trajectories of jittered length, one length for all chains.

Duane et al. 1987; Neal 2011 (arXiv:1206.1901). The length of a trajectory is drawn afresh for each transition, uniform
about a nominal one, so that no orbit is periodic (Mackenzie 1989). It is the same for all chains, so that every call
of the density is of a full batch; that is what makes many chains cheap, and what trees of different depth
(:mod:`iaemu.sampling.nuts`) lose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from iaemu.sampling.integrators import GRADIENTS, LogDensity, integrate

#: Energy error beyond which a trajectory is called divergent, as in Stan.
DIVERGENCE = 1000.0


class State(NamedTuple):
    """Where the chains are, in whitened coordinates.

    Attributes
    ----------
    position : tensor (n_chains, d)
    log_density : tensor (n_chains,)
        In the unbounded coordinates (with the log-Jacobian of the bounds).
    gradient : tensor (n_chains, d)
    """

    position: torch.Tensor
    log_density: torch.Tensor
    gradient: torch.Tensor


class HMCInfo(NamedTuple):
    """What one transition did.

    Attributes
    ----------
    acceptance : tensor (n_chains,)
        Probability that the end of the trajectory was accepted with.
    accepted : tensor of bool (n_chains,)
    divergent : tensor of bool (n_chains,)
        The energy error exceeded 1000 or was not finite: the density has features finer than the step, or the
        trajectory ended outside its support (``energy_error`` is infinite then).
    energy : tensor (n_chains,)
        Of the state moved to, with the momentum that it was reached with; for E-BFMI.
    energy_error : tensor (n_chains,)
        At the end of the trajectory, against its beginning.
    n_leapfrog : tensor of int (n_chains,)
        Gradients of each chain.
    step_size : tensor (n_chains,)
        Step that the trajectory was divided into.
    """

    acceptance: torch.Tensor
    accepted: torch.Tensor
    divergent: torch.Tensor
    energy: torch.Tensor
    energy_error: torch.Tensor
    n_leapfrog: torch.Tensor
    step_size: torch.Tensor


def init(position: torch.Tensor, density: LogDensity) -> State:
    """The state of chains.

    Parameters
    ----------
    position : tensor (n_chains, d)
    density : LogDensity

    Returns
    -------
    State
    """
    return State(position, *density(position))


def choose(new: Iterable[torch.Tensor], old: Iterable[torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Some rows of new tensors, the others of old ones.

    Parameters
    ----------
    new, old : tensors (n, d) or (n,)
    rows : tensor of bool (n,)
        Where to take the new.

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
    """One transition of all chains.

    Parameters
    ----------
    state : State
    density : LogDensity
    step_size : float
        Largest step: a trajectory is divided into the fewest equal steps not above it.
    generator : torch.Generator
    trajectory_length : float
        Nominal, in units in which a quarter of an orbit of the standard normal is pi / 2.
    jitter : float in [0, 1)
        Lengths are uniform within this fraction of the nominal one, on either side.
    integrator : str
        One of :data:`iaemu.sampling.integrators.INTEGRATORS`.
    max_steps : int
        Trajectories that would need more are cut short.
    always : bool
        Move to the end whatever the acceptance: no transition that leaves the density invariant, but of use to measure
        how far trajectories lead.

    Returns
    -------
    State, HMCInfo
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
    )
    return new, info

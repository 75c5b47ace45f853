"""Warm-up: the step size from dual averaging, the metric from the draws of growing windows, pooled over the chains.

Many chains learn from one transition what one chain learns from many. So the warm-up follows the schedule of Stan (Stan
reference manual, "Automatic parameter tuning") at a fraction of its length. At first only the step size is adapted.
Then come windows, each twice as long as the one before, after each of which the metric is updated. At the end again
only the step size is adapted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from iaemu.sampling import hmc
from iaemu.sampling.integrators import GRADIENTS, LogDensity
from iaemu.sampling.metric import Metric

#: Numbers of steps in a trajectory with which integrators are compared, and repetitions of each.
_TRIED_STEPS, _TRIALS = (1, 2, 3, 4), 4
#: Smallest harmonic mean of the acceptance at which the rotation is considered. Below, the density is not close enough
#: to a Gaussian, and chains may be stuck in its tails, which a short trial may not show.
_NEAR_GAUSSIAN = 0.9
#: Fraction of the warm-up before the first window.
BEFORE_WINDOWS = 0.15
#: gamma, t0 and kappa of dual averaging, as Hoffman & Gelman recommend.
_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75


@dataclass(frozen=True)
class DualAveraging:
    """State of the step-size adaptation of Hoffman & Gelman 2014 (JMLR 15, 1593), in natural logarithms.

    Attributes
    ----------
    log_step : float
        Log of the step size to try next.
    log_step_average : float
        Log of the result: a weighted average of the steps that were tried.
    error : float
        Running average of the target minus the acceptance.
    count : int
        Number of iterations.
    attractor : float
        Value towards which the log of early steps is drawn.
    """

    log_step: float
    log_step_average: float
    error: float
    count: int
    attractor: float

    @classmethod
    def begin(cls, step_size: float) -> DualAveraging:
        """Return the state before the first iteration, which draws early steps towards twice the step size.

        Hoffman & Gelman use ten times the step size, because small steps are expensive. The acceptance of many chains
        has little noise, so the step size is found in few iterations from both sides, and larger first steps would
        waste whole batches.

        Parameters
        ----------
        step_size : float

        Returns
        -------
        DualAveraging
        """
        log_step = math.log(step_size)
        return cls(log_step, log_step, 0.0, 0, log_step + math.log(2.0))

    def update(self, acceptance: float, target: float, largest: float = math.inf) -> DualAveraging:
        """Return the state after one more iteration: equation 6 and algorithm 5.

        Parameters
        ----------
        acceptance : float
            Acceptance probability of one transition, averaged over the chains.
        target : float
            Acceptance probability to reach.
        largest : float
            Largest step size.

        Returns
        -------
        DualAveraging
        """
        count = self.count + 1
        weight = 1.0 / (count + _T0)
        error = (1.0 - weight) * self.error + weight * (target - acceptance)
        log_step = min(self.attractor - math.sqrt(count) / _GAMMA * error, math.log(largest))
        forget = count**-_KAPPA
        average = forget * log_step + (1.0 - forget) * self.log_step_average
        return DualAveraging(log_step, average, error, count, self.attractor)


def pooled_acceptance(acceptance: torch.Tensor, energy_error: torch.Tensor, harmonic: bool) -> float:
    """Return the mean acceptance over the chains, for dual averaging.

    Parameters
    ----------
    acceptance, energy_error : tensors (n_chains,)
        Chains that ended where the density is zero (infinite error) are left out, unless they are most of the chains:
        no step size prevents trajectories from leaving the domain of the density, so it would shrink without end.
    harmonic : bool
        Whether to take the harmonic mean, as Hoffman, Radul & Sountsov 2021 (ChEES-HMC, AISTATS) do. It is small if the
        acceptance of one chain is small, so that steps stay small until all chains have left steep slopes. It is meant
        for the early warm-up; later it would make steps smaller than necessary.

    Returns
    -------
    float
    """
    inside = torch.isfinite(energy_error)
    if int(inside.sum()) > 0.25 * len(inside):
        acceptance = acceptance[inside]
    if harmonic:
        return float(1.0 / (1.0 / acceptance.clamp(min=1e-10)).mean())
    return float(acceptance.mean())


def initial_step_size(
    acceptance: Callable[[float], float], step_size: float, target: float = 0.8, largest: float = 1e10
) -> float:
    """Double or halve a step size until the mean acceptance of a single step crosses the target.

    This is algorithm 4 of Hoffman & Gelman 2014 for the mean over the chains. The result is at least 1e-10.

    Parameters
    ----------
    acceptance : callable, float -> float
        Returns the mean acceptance probability of trajectories of one step of a given size.
    step_size : float
        Step size to start from.
    target : float
        Acceptance probability to reach.
    largest : float
        Largest step size.

    Returns
    -------
    float
    """
    smallest = 1e-10
    up = acceptance(step_size) > target
    factor = 2.0 if up else 0.5
    while smallest < step_size * factor <= largest and (acceptance(step_size * factor) > target) == up:
        step_size *= factor
    return step_size if up else max(step_size * factor, smallest)


def fastest_integrator(
    state: hmc.State, density: LogDensity, generator: torch.Generator, length: float
) -> tuple[str, float]:
    """Return the integrator and step size with the largest expected squared jump per gradient.

    The jumps (Pasarica & Gelman 2010, Statistica Sinica 20, 343) are those of trial trajectories from the positions of
    the chains, which do not move. They are multiplied by the harmonic mean of the acceptance, so that an integrator for
    which chains get stuck in the tails is not chosen, although few chains are there at any time.

    Parameters
    ----------
    state : State
    density : LogDensity
    generator : torch.Generator
    length : float
        Length of the trajectories.

    Returns
    -------
    integrator : str
    step_size : float
    """
    best = (-1.0, "leapfrog", 1.0)
    for name, n_gradients in GRADIENTS.items():
        for n_steps in _TRIED_STEPS:
            size = length / n_steps
            jumps, acceptances, errors = [], [], []
            for _ in range(_TRIALS):
                new, info = hmc.step(state, density, size, generator, length, 0.0, name, always=True)
                jump = (new.position - state.position).square().sum(dim=1)
                # Where the acceptance is zero the position may be infinite.
                jumps.append(torch.where(info.acceptance > 0, jump, 0.0))
                acceptances.append(info.acceptance)
                errors.append(info.energy_error)
            acceptance = pooled_acceptance(torch.cat(acceptances), torch.cat(errors), harmonic=True)
            if name == "rotation" and acceptance < _NEAR_GAUSSIAN:
                continue
            best = max(best, (float(torch.cat(jumps).mean()) * acceptance / (n_steps * n_gradients), name, size))
    return best[1:]


@dataclass(frozen=True)
class Moments:
    """Number, mean and scatter matrix of draws.

    Attributes
    ----------
    count : int
        Number of draws.
    mean : tensor (d,)
    scatter : tensor (d, d)
        Sum of the outer products of deviations from the mean.
    """

    count: int
    mean: torch.Tensor
    scatter: torch.Tensor

    @classmethod
    def empty(cls, like: torch.Tensor) -> Moments:
        """Return the moments of no draws.

        Parameters
        ----------
        like : tensor (d,)
            A tensor with the dimension, dtype and device of the moments.

        Returns
        -------
        Moments
        """
        return cls(0, torch.zeros_like(like), torch.zeros_like(like).outer(like))

    def update(self, points: torch.Tensor) -> Moments:
        """Return the moments with further draws included (Chan, Golub & LeVeque 1979).

        Parameters
        ----------
        points : tensor (n, d)

        Returns
        -------
        Moments
        """
        mean = points.mean(dim=0)
        deviation = points - mean
        count = self.count + len(points)
        shift = mean - self.mean
        scatter = self.scatter + deviation.T @ deviation
        scatter = scatter + torch.outer(shift, shift) * (self.count * len(points) / count)
        return Moments(count, self.mean + shift * (len(points) / count), scatter)

    def metric(self, metric: Metric) -> Metric:
        """Return the metric of these draws.

        The covariance is shrunk as in Stan (``covar_adaptation``: by 5 / (n + 5) towards 1e-3 of the identity), but in
        whitened coordinates, so that the result does not depend on units.

        Parameters
        ----------
        metric : Metric
            The metric that defines the whitened coordinates of the draws.

        Returns
        -------
        Metric
        """
        n = self.count
        covariance = self.scatter * (n / ((n - 1.0) * (n + 5.0)))
        covariance = covariance + 1e-3 * (5.0 / (n + 5.0)) * torch.eye(len(self.mean)).to(covariance)
        inner = Metric.from_covariance(self.mean, covariance)
        factor, inverse = metric.factor @ inner.factor, inner.inverse_factor @ metric.inverse_factor
        return Metric(metric.colour(inner.mean[None])[0], factor.tril(), inverse.tril())


def window_ends(n_warmup: int, shortest: int = 10) -> list[int]:
    """Return the numbers of transitions after which the metric is updated: not in the first 15 % or the last 25 %.

    Parameters
    ----------
    n_warmup : int
        Transitions of the warm-up.
    shortest : int
        Length of the first window.

    Returns
    -------
    list of int
    """
    begin, end = round(BEFORE_WINDOWS * n_warmup), n_warmup - math.ceil(0.25 * n_warmup)
    ends, length = [], shortest
    while begin + length <= end:
        # If what is left is too short for the next window, twice as long, this window takes all of it.
        begin = begin + length if begin + 3 * length <= end else end
        ends.append(begin)
        length *= 2
    return ends

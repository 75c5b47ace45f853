"""Warm-up: step size by dual averaging, metric from the draws of growing windows, both pooled over the chains.

Many chains measure in one transition what one chain takes many for, so that Stan's schedule (Stan reference manual,
"Automatic parameter tuning") is followed at a fraction of its length: a beginning in which only the step size moves,
windows of which each is twice the last and ends with a new metric, and an end for the step size alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from iaemu.sampling import hmc
from iaemu.sampling.integrators import GRADIENTS, LogDensity
from iaemu.sampling.metric import Metric

#: Steps to a trajectory, and repetitions of each, with which integrators are compared.
_TRIED_STEPS, _TRIALS = (1, 2, 3, 4), 4
#: Harmonic mean of the acceptance above which the rotation is taken into consideration: below, the density is no
#: Gaussian, and chains may stand for long in its tails although they rarely do so while it is tried.
_NEAR_GAUSSIAN = 0.9
#: Share of the warm-up before the first window.
BEFORE_WINDOWS = 0.15
#: gamma, t0 and kappa of dual averaging, as Hoffman & Gelman recommend.
_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75


@dataclass(frozen=True)
class DualAveraging:
    """State of the step-size adaptation of Hoffman & Gelman 2014 (JMLR 15, 1593); all logarithms natural.

    Attributes
    ----------
    log_step : float
        To be tried next.
    log_step_average : float
        The answer: a weighted average of those tried.
    error : float
        Running average of target less acceptance.
    count : int
    attractor : float
        Log-step that early steps are drawn to.
    """

    log_step: float
    log_step_average: float
    error: float
    count: int
    attractor: float

    @classmethod
    def begin(cls, step_size: float) -> DualAveraging:
        """The state before the first iteration, drawn to twice the step.

        Hoffman & Gelman use ten times, against the cost of small steps: from a pooled acceptance, which has little
        noise, the step is found in few iterations from either side, and too large a first step wastes whole batches.

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
        """One iteration: equation 6 and algorithm 5.

        Parameters
        ----------
        acceptance : float
            Mean over the chains of one transition.
        target : float
        largest : float
            Steps are kept below.

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
    """The mean over the chains that dual averaging is fed.

    Parameters
    ----------
    acceptance, energy_error : tensors (n_chains,)
        Chains that ended where the density vanishes (error infinite) are left out, unless they are most of them: no
        step size keeps a trajectory from crossing the edge of the support, and it would be made smaller without end.
    harmonic : bool
        Take the harmonic mean, which Hoffman, Radul & Sountsov 2021 (ChEES-HMC, AISTATS) use. It is small if one
        chain's acceptance is: it makes steps small until chains that began on a steep slope have come down, which the
        mean of many does not notice. For the early warm-up; later it would make steps smaller than they need be.

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
    """Double or halve a step until the mean acceptance of one crosses the target; at least 1e-10.

    Hoffman & Gelman 2014, algorithm 4, for the pooled acceptance.

    Parameters
    ----------
    acceptance : callable, float -> float
        Mean acceptance probability of trajectories of one step of the size given.
    step_size, target, largest : float

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
    """The integrator, and its step size, of the largest squared jump for a gradient.

    Expected squared jump distance of trajectories from where the chains are (Pasarica & Gelman 2010, Statistica Sinica
    20, 343), which are not made. The acceptance enters by its harmonic mean, so that an integrator loses that leaves
    chains standing in the tails, where few of them are at any time.

    Parameters
    ----------
    state : State
    density : LogDensity
    generator : torch.Generator
    length : float
        Of the trajectories.

    Returns
    -------
    str, float
    """
    best = (-1.0, "leapfrog", 1.0)
    for name, n_gradients in GRADIENTS.items():
        for n_steps in _TRIED_STEPS:
            size = length / n_steps
            jumps, acceptances, errors = [], [], []
            for _ in range(_TRIALS):
                new, info = hmc.step(state, density, size, generator, length, 0.0, name, always=True)
                jump = (new.position - state.position).square().sum(dim=1)
                # Where nothing is accepted the position may be infinite.
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
    """Count and moments of draws.

    Attributes
    ----------
    count : int
    mean : tensor (d,)
    scatter : tensor (d, d)
        Sum of squared deviations.
    """

    count: int
    mean: torch.Tensor
    scatter: torch.Tensor

    @classmethod
    def empty(cls, like: torch.Tensor) -> Moments:
        """Those of no draw yet.

        Parameters
        ----------
        like : tensor (d,)

        Returns
        -------
        Moments
        """
        return cls(0, torch.zeros_like(like), torch.zeros_like(like).outer(like))

    def update(self, points: torch.Tensor) -> Moments:
        """The moments with more draws: Chan, Golub & LeVeque 1979.

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
        """The metric of these draws.

        The covariance is shrunk as in Stan (``covar_adaptation``: by 5 / (n + 5) to 1e-3 of the identity), but in the
        whitened coordinates, so that it does not depend on units.

        Parameters
        ----------
        metric : Metric
            In whose whitened coordinates the draws are.

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
    """Numbers of transitions after which the metric is renewed: none in the first 15% or the last 25%.

    Parameters
    ----------
    n_warmup : int
    shortest : int
        Length of the first window.

    Returns
    -------
    list of int
    """
    begin, end = round(BEFORE_WINDOWS * n_warmup), n_warmup - math.ceil(0.25 * n_warmup)
    ends, length = [], shortest
    while begin + length <= end:
        # A window that would leave too little for the next, twice as long, takes it all.
        begin = begin + length if begin + 3 * length <= end else end
        ends.append(begin)
        length *= 2
    return ends

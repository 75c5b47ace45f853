"""Warm-up: step size by dual averaging, metric from the draws of growing windows, both pooled over the chains.

Many chains measure in one transition what one chain takes many for, so that Stan's schedule (Stan reference manual,
"Automatic parameter tuning") is followed at a fraction of its length: a beginning in which only the step size moves,
windows of which each is twice the last and ends with a new metric, and an end for the step size alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from iaemu.sampling.metric import Metric


class DualAveraging(NamedTuple):
    """State of the step-size adaptation; all logarithms natural.

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


def dual_averaging_init(step_size: float) -> DualAveraging:
    """Begin at ``step_size``, drawn to twice that.

    Hoffman & Gelman use ten times, against the cost of small steps: from a pooled acceptance, which has little noise,
    the step is found in few iterations from either side, and too large a first step wastes whole batches.
    """
    log_step = math.log(step_size)
    return DualAveraging(log_step, log_step, 0.0, 0, log_step + math.log(2.0))


def dual_averaging_update(
    state: DualAveraging,
    acceptance: float,
    target: float,
    largest: float = math.inf,
    gamma: float = 0.05,
    t0: float = 10.0,
    kappa: float = 0.75,
) -> DualAveraging:
    """One iteration: Hoffman & Gelman 2014 (JMLR 15, 1593), equation 6 and algorithm 5.

    Parameters
    ----------
    acceptance : float
        Mean over the chains of one transition.
    target : float
    largest : float
        Steps are kept below.
    gamma, t0, kappa : float
        As recommended there.
    """
    count = state.count + 1
    weight = 1.0 / (count + t0)
    error = (1.0 - weight) * state.error + weight * (target - acceptance)
    log_step = min(state.attractor - math.sqrt(count) / gamma * error, math.log(largest))
    forget = count**-kappa
    average = forget * log_step + (1.0 - forget) * state.log_step_average
    return DualAveraging(log_step, average, error, count, state.attractor)


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
    """
    inside = torch.isfinite(energy_error)
    if int(inside.sum()) > 0.25 * len(inside):
        acceptance = acceptance[inside]
    if harmonic:
        return float(1.0 / (1.0 / acceptance.clamp(min=1e-10)).mean())
    return float(acceptance.mean())


def initial_step_size(acceptance, step_size: float, target: float = 0.8, smallest=1e-10, largest=1e10) -> float:
    """Double or halve ``step_size`` until the mean acceptance of one step crosses ``target``.

    Hoffman & Gelman 2014, algorithm 4, for the pooled acceptance.

    Parameters
    ----------
    acceptance : callable, float -> float
        Mean acceptance probability of trajectories of one step of the size given.
    """
    up = acceptance(step_size) > target
    factor = 2.0 if up else 0.5
    while smallest < step_size * factor <= largest and (acceptance(step_size * factor) > target) == up:
        step_size *= factor
    return step_size if up else max(step_size * factor, smallest)


class Moments(NamedTuple):
    """Count, mean (d,) and sum of squared deviations (d, d) of draws."""

    count: int
    mean: torch.Tensor
    scatter: torch.Tensor

    @classmethod
    def empty(cls, like: torch.Tensor) -> Moments:
        return cls(0, torch.zeros_like(like), torch.zeros_like(like).outer(like))

    def update(self, points: torch.Tensor) -> Moments:
        """With points (n, d) added: Chan, Golub & LeVeque 1979."""
        mean = points.mean(dim=0)
        deviation = points - mean
        count = self.count + len(points)
        shift = mean - self.mean
        scatter = self.scatter + deviation.T @ deviation
        scatter = scatter + torch.outer(shift, shift) * (self.count * len(points) / count)
        return Moments(count, self.mean + shift * (len(points) / count), scatter)

    def metric(self, metric: Metric) -> Metric:
        """The metric of these draws, which are in the whitened coordinates of ``metric``.

        The covariance is shrunk as in Stan (``covar_adaptation``: by 5 / (n + 5) to 1e-3 of the identity), but in the
        whitened coordinates, so that it does not depend on units.
        """
        n = self.count
        covariance = self.scatter * (n / ((n - 1.0) * (n + 5.0)))
        covariance = covariance + 1e-3 * (5.0 / (n + 5.0)) * torch.eye(len(self.mean)).to(covariance)
        inner = Metric.from_covariance(self.mean, covariance)
        factor = metric.factor @ inner.factor
        return Metric(
            metric.colour(inner.mean[None])[0], factor.tril(), (inner.inverse_factor @ metric.inverse_factor).tril()
        )


def window_begin(n_warmup: int) -> int:
    """Transitions before the first window."""
    return round(0.15 * n_warmup)


def window_ends(n_warmup: int, shortest: int = 10) -> list[int]:
    """Numbers of transitions after which the metric is renewed: none in the first 15% or the last 25%.

    Parameters
    ----------
    n_warmup : int
    shortest : int
        Length of the first window.
    """
    begin, end = window_begin(n_warmup), n_warmup - math.ceil(0.25 * n_warmup)
    ends, length = [], shortest
    while begin + length <= end:
        # A window that would leave too little for the next, twice as long, takes it all.
        begin = begin + length if begin + 3 * length <= end else end
        ends.append(begin)
        length *= 2
    return ends

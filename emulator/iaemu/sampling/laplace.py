"""Where to begin: maxima of the density, their Gaussian approximation, and starting points spread about them.

The maximum is found by Newton's method on the batch: a Hessian by central differences of the gradient is one call of
2 d points, and a line search one call of many steps at once, both about the price of a single point. Negative or
vanishing curvature is taken by its absolute size ("saddle-free", Dauphin et al. 2014, arXiv:1406.2572), so that each
direction leads uphill, and steps that leave the domain (density -inf) lose in the line search.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from iaemu.sampling.errors import SamplingError
from iaemu.sampling.integrators import LogDensity
from iaemu.sampling.metric import Metric

#: Displacement of the differences, in standard deviations of the approximation so far.
_DIFFERENCE = 1e-2
#: Steps tried along the Newton direction.
_STEPS = (2.0, 1.0, 0.5, 0.25, 0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-6)
#: Curvatures are kept within this range of those so far: a deviation grows at most tenfold in one iteration.
_CURVATURES = (1e-2, 1e16)
#: Curvature taken where the density vanishes within one displacement: the deviation shrinks tenfold.
_UNSEEN = 1e2
#: Maxima of which the mass is below exp(-this) of the largest are not started from.
_NEGLIGIBLE = 12.0
#: Rounds of redrawing starting points that are no good, each closer to the maximum by this factor.
_ROUNDS, _CLOSER = 40, 0.75
#: A starting point may lie this much lower than the maximum, for each parameter and in all: a draw of twice the
#: deviations of a Gaussian lies 2 d lower on average, and rarely lower than this.
_DROP = (4.0, 20.0)
#: Starting points that are tried around one that is not in the support.
_ATTEMPTS = 1000


class Laplace(NamedTuple):
    """Gaussian approximation at a maximum, in unbounded coordinates.

    Attributes
    ----------
    metric : Metric
        Mean and covariance.
    log_density : float
        At the maximum.
    n_iterations : int
    converged : bool
        Whether the last Newton step was a small part of a standard deviation.
    """

    metric: Metric
    log_density: float
    n_iterations: int
    converged: bool

    @property
    def log_mass(self) -> float:
        """Log of the integral of the approximation, up to a constant common to all.

        Returns
        -------
        float
        """
        return self.log_density + float(self.metric.factor.diagonal().log().sum())


def _maximise(density: LogDensity, start: torch.Tensor, max_iterations: int = 50) -> Laplace:
    """Newton's method from ``start`` (d,), where the density is finite.

    Returns
    -------
    Laplace
        Also where the search has not converged: the covariance is positive definite in any case.
    """
    (value,), (gradient,) = density(start[None])
    # Units are unknown before the first Hessian.
    scale = 0.1 * start.abs().clamp(min=1.0)
    metric = Metric(start, torch.diag(scale), torch.diag(1.0 / scale))
    steps = torch.tensor(_STEPS).to(start)[:, None]
    converged = False
    for iteration in range(1, max_iterations + 1):  # noqa: B007
        size, vectors = torch.linalg.eigh(_curvature(density, metric, gradient))
        size = size.abs().clamp(*_CURVATURES)
        # L sqrt(inverse curvature) is a factor of the covariance; QR makes it triangular.
        metric = _from_factor(metric.mean, metric.factor @ (vectors * size.rsqrt()))
        settled = bool((size.log().abs() < 0.2).all())
        # In whitened coordinates the Newton step is the gradient, and its length in standard deviations.
        direction = gradient @ metric.factor
        length = float(direction.norm())
        if length < 1e-3 and settled:
            converged = True
            break
        # The quadratic form is not to be trusted over hundreds of deviations.
        trial = metric.mean + steps * (metric.factor @ (direction * min(1.0, 100.0 / max(length, 1e-300))))
        values, gradients = density(trial)
        best = int(values.argmax())
        if values[best] > value:
            value, gradient = values[best], gradients[best]
            metric = metric._replace(mean=trial[best])
        elif settled:
            converged = length < 0.1
            break
    return Laplace(metric, float(value), iteration, converged)


def approximate(density: LogDensity, starts: torch.Tensor) -> list[Laplace]:
    """Laplace approximations, the one of the largest mass first.

    Those that are alike are given once, those of negligible mass left out.

    Parameters
    ----------
    density : LogDensity
    starts : tensor (m, d)

    Returns
    -------
    list of Laplace

    Raises
    ------
    SamplingError
        The density is finite at none of the points, or too narrow.
    """
    values, _ = density(starts)
    finite = torch.isfinite(values)
    if not bool(finite.any()):
        raise SamplingError(
            f"The log-density or its gradient is not finite at any of the {len(starts)} starting points: start inside "
            "the support of the prior, and check the log-density there by hand."
        )
    found: list[Laplace] = []
    for start in starts[finite]:
        new = _maximise(density, start)
        if not any(_alike(new, old) for old in found):
            found.append(new)
    found = [one for one in found if math.isfinite(one.log_mass)]
    if not found:
        raise SamplingError(
            "The posterior has no width at its maximum that numbers can hold: its log-density is too large or too "
            "small, as of errors that are zero. Check the log-density and its gradient there by hand."
        )
    found.sort(key=lambda one: one.log_mass, reverse=True)
    return [one for one in found if one.log_mass >= found[0].log_mass - _NEGLIGIBLE]


def in_support(density: LogDensity, points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The points, if the density is finite at one of them, or else one found about them.

    Searched at distances that grow from a thousandth of a unit to several (a unit of the logit is a good part of the
    range between two bounds).

    Parameters
    ----------
    density : LogDensity
    points : tensor (m, d)
    generator : torch.Generator

    Returns
    -------
    tensor (m, d) or (1, d)

    Raises
    ------
    SamplingError
        The density is not finite at any point that was tried.
    """
    if bool(torch.isfinite(density(points)[0]).any()):
        return points
    rows = torch.randint(len(points), (_ATTEMPTS,), generator=generator, device=points.device)
    centre = points[rows]
    distance = torch.logspace(-3.0, 0.7, _ATTEMPTS, dtype=points.dtype, device=points.device)[:, None]
    noise = torch.randn(centre.shape, generator=generator, dtype=points.dtype, device=points.device)
    tried = centre + distance * centre.abs().clamp(min=1.0) * noise
    values, _ = density(tried)
    if not bool(torch.isfinite(values).any()):
        raise SamplingError(
            f"The log-density or its gradient is not finite at any of {len(points) + _ATTEMPTS} points: the "
            f"{len(points)} given and {_ATTEMPTS} about them. Start where the log-density is finite, and check its "
            "value and gradient there; bounds that exclude what it cannot compute help too."
        )
    return tried[values.argmax()][None]


def scatter(
    density: LogDensity, maxima: list[Laplace], n_points: int, generator: torch.Generator, dispersion: float = 2.0
) -> torch.Tensor:
    """Starting points that are over-dispersed about the maxima, which take turns.

    Points where the density is not finite, or lower than any Gaussian would be there, are drawn again and closer.

    Parameters
    ----------
    density : LogDensity
    maxima : list of Laplace
    n_points : int
    generator : torch.Generator
    dispersion : float
        Points are normal, of this many times the deviations of the approximation.

    Returns
    -------
    tensor (n_points, d)

    Raises
    ------
    SamplingError
        No such point was found for one of the chains.
    """
    centres = [maxima[index % len(maxima)] for index in range(n_points)]
    mean = torch.stack([one.metric.mean for one in centres])
    factor = torch.stack([one.metric.factor for one in centres])
    lowest = torch.tensor([one.log_density for one in centres]).to(mean) - _DROP[0] * mean.shape[1] - _DROP[1]
    points = mean.clone()
    todo = torch.arange(n_points, device=mean.device)
    for _ in range(_ROUNDS):
        noise = torch.randn((len(todo), mean.shape[1]), generator=generator, dtype=mean.dtype, device=mean.device)
        points[todo] = mean[todo] + dispersion * torch.einsum("nij,nj->ni", factor[todo], noise)
        todo = todo[~(density(points[todo])[0] > lowest[todo])]
        if not len(todo):
            return points
        dispersion *= _CLOSER
    raise SamplingError(
        f"{len(todo)} of {n_points} chains found no starting point of finite log-density in {_ROUNDS} draws about the "
        "maximum, each closer to it: the log-density is not continuous there. Give starting points, or a prior that "
        "keeps away from where it is not defined."
    )


def _curvature(density, metric, gradient):
    """Minus the Hessian at the mean of ``metric``, in its whitened coordinates, by differences of the gradient.

    Central; one-sided beside a wall, where the density vanishes on the other side.
    """
    dimension = len(metric.mean)
    columns = _DIFFERENCE * metric.factor.T
    values, gradients = density(torch.cat([metric.mean + columns, metric.mean - columns]))
    finite = torch.isfinite(values)
    gradients = torch.where(finite[:, None], gradients, gradient) @ metric.factor
    n_sides = finite.reshape(2, dimension).sum(dim=0)
    curvature = (gradients[dimension:] - gradients[:dimension]) / (_DIFFERENCE * n_sides.clamp(min=1)[:, None])
    seen = n_sides > 0
    curvature = torch.where(seen[:, None] & seen, 0.5 * (curvature + curvature.T), 0.0)
    return curvature + torch.diag(torch.where(seen, 0.0, _UNSEEN))


def _from_factor(mean, factor):
    """The metric of the covariance ``factor`` ``factor``^T."""
    upper = torch.linalg.qr(factor.T).R
    lower = upper.T * torch.where(upper.diagonal() < 0, -1.0, 1.0)
    identity = torch.eye(len(mean)).to(mean)
    return Metric(mean, lower, torch.linalg.solve_triangular(lower, identity, upper=False))


def _alike(one, other):
    return float(other.metric.whiten(one.metric.mean[None]).norm()) < 0.1

"""The start of the chains: maxima of the density, Gaussian approximations there, and starting points about them.

Maxima are found by Newton's method. A Hessian from central differences of the gradient is one call with 2 d points, and
a line search is one call with many steps; each costs about as much as a single point. The absolute value of the
curvature is used ("saddle-free" Newton, Dauphin et al. 2014, arXiv:1406.2572), so that each step leads uphill. Steps
that leave the domain of the density (value -inf) are not chosen by the line search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from iaemu.sampling.errors import SamplingError
from iaemu.sampling.integrators import LogDensity
from iaemu.sampling.metric import Metric

#: Displacement for differences of the gradient, in standard deviations of the current approximation.
_DIFFERENCE = 1e-2
#: Steps that are tried along the Newton direction.
_STEPS = (2.0, 1.0, 0.5, 0.25, 0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-6)
#: Range of the curvatures relative to the current ones: a standard deviation grows at most tenfold in one iteration.
_CURVATURES = (1e-2, 1e16)
#: Curvature used if the density is zero within one displacement: the standard deviation shrinks tenfold.
_UNSEEN = 1e2
#: No chains start at maxima whose mass is below exp(-_NEGLIGIBLE) of the largest mass.
_NEGLIGIBLE = 12.0
#: Number of times that unsuitable starting points are redrawn, each time closer to the maximum by this factor.
_ROUNDS, _CLOSER = 40, 0.75
#: A starting point may be lower than the maximum by the first number times d plus the second. Draws with twice the
#: standard deviations of a Gaussian are lower by 2 d on average, and rarely by as much as this.
_DROP = (4.0, 20.0)
#: Number of points that are tried about the given ones if the density is zero there.
_ATTEMPTS = 1000


class Laplace(NamedTuple):
    """The Gaussian approximation at a maximum of the density, in unbounded coordinates.

    Attributes
    ----------
    metric : Metric
        Mean and covariance.
    log_density : float
        Log-density at the maximum.
    n_iterations : int
        Number of Newton steps.
    converged : bool
        Whether the last Newton step was a small fraction of a standard deviation.
    """

    metric: Metric
    log_density: float
    n_iterations: int
    converged: bool

    @property
    def log_mass(self) -> float:
        """Log of the integral of the approximation, up to a constant."""
        return self.log_density + float(self.metric.factor.diagonal().log().sum())


def _maximise(density: LogDensity, start: torch.Tensor, max_iterations: int = 50) -> Laplace:
    """Maximise by Newton's method from ``start`` (d,), where the density is finite.

    Returns
    -------
    Laplace
        The covariance is positive definite even if the search has not converged.
    """
    (value,), (gradient,) = density(start[None])
    # The scales of the parameters are unknown before the first Hessian.
    scale = 0.1 * start.abs().clamp(min=1.0)
    metric = Metric(start, torch.diag(scale), torch.diag(1.0 / scale))
    steps = torch.tensor(_STEPS).to(start)[:, None]
    converged = False
    for iteration in range(1, max_iterations + 1):  # noqa: B007
        size, vectors = torch.linalg.eigh(_curvature(density, metric, gradient))
        size = size.abs().clamp(*_CURVATURES)
        # L / sqrt(curvature) is a factor of the covariance; QR makes it triangular.
        metric = _from_factor(metric.mean, metric.factor @ (vectors * size.rsqrt()))
        settled = bool((size.log().abs() < 0.2).all())
        # In whitened coordinates the Newton step is the gradient, with a length in standard deviations.
        direction = gradient @ metric.factor
        length = float(direction.norm())
        if length < 1e-3 and settled:
            converged = True
            break
        # The quadratic form does not hold over hundreds of standard deviations.
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


def approximate(
    density: LogDensity, starts: torch.Tensor, callback: Callable[[], object] | None = None
) -> list[Laplace]:
    """Return Gaussian approximations at the maxima of the density, the one with the largest mass first.

    Equal maxima are returned once, and those of negligible mass are left out.

    Parameters
    ----------
    density : LogDensity
    starts : tensor (m, d)
        Points to search from.
    callback : callable, optional
        Called after the search from each starting point.

    Returns
    -------
    list of Laplace

    Raises
    ------
    SamplingError
        The density is not finite at any of the points, or its width is zero or infinite in floating point.
    """
    values, _ = density(starts)
    finite = torch.isfinite(values)
    if not bool(finite.any()):
        raise SamplingError(
            f"The log-density or its gradient is not finite at any of the {len(starts)} starting points. Start where "
            "the prior is not zero, and check the value of the log-density there."
        )
    found: list[Laplace] = []
    for start in starts[finite]:
        new = _maximise(density, start)
        if not any(_alike(new, old) for old in found):
            found.append(new)
        if callback is not None:
            callback()
    found = [one for one in found if math.isfinite(one.log_mass)]
    if not found:
        raise SamplingError(
            "The width of the posterior at its maximum is zero or infinite in floating point: its log-density is too "
            "large or too small there, for example because an error is zero. Check the log-density and its gradient."
        )
    found.sort(key=lambda one: one.log_mass, reverse=True)
    return [one for one in found if one.log_mass >= found[0].log_mass - _NEGLIGIBLE]


def in_support(density: LogDensity, points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the points if the density is finite at one of them, otherwise a point near them where it is.

    The search is at distances from a thousandth of a unit to several units. (One unit of the logit is a large part of
    the range between two bounds.)

    Parameters
    ----------
    density : LogDensity
    points : tensor (m, d)
        Unbounded coordinates.
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
            f"{len(points)} given and {_ATTEMPTS} near them. Start where the log-density is finite, and check its "
            "value and gradient there. Bounds that exclude values where it cannot be computed also help."
        )
    return tried[values.argmax()][None]


def scatter(
    density: LogDensity, maxima: list[Laplace], n_points: int, generator: torch.Generator, dispersion: float = 2.0
) -> torch.Tensor:
    """Draw starting points that are widely spread about the maxima, in turn.

    Points where the density is not finite, or much lower than a Gaussian would be, are redrawn closer to the maximum.

    Parameters
    ----------
    density : LogDensity
    maxima : list of Laplace
    n_points : int
    generator : torch.Generator
    dispersion : float
        Points have a normal distribution with this many times the standard deviations of the approximation.

    Returns
    -------
    tensor (n_points, d)

    Raises
    ------
    SamplingError
        No such point was found for some of the chains.
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
        f"For {len(todo)} of {n_points} chains no starting point of finite log-density was found in {_ROUNDS} draws "
        "closer and closer to the maximum, so the log-density is not continuous there. Give other starting points, or "
        "a prior that excludes values where it is not defined."
    )


def _curvature(density, metric, gradient):
    """Return minus the Hessian at the mean of ``metric``, in its whitened coordinates.

    It is computed from central differences of the gradient, which are one-sided if the density is zero on one side.
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
    """Return the metric of the covariance ``factor`` ``factor``^T."""
    upper = torch.linalg.qr(factor.T).R
    lower = upper.T * torch.where(upper.diagonal() < 0, -1.0, 1.0)
    identity = torch.eye(len(mean)).to(mean)
    return Metric(mean, lower, torch.linalg.solve_triangular(lower, identity, upper=False))


def _alike(one, other):
    return float(other.metric.whiten(one.metric.mean[None]).norm()) < 0.1

"""Mixture of multivariate t-distributions: fit to draws, density and draws of its own.

It approximates a density from which draws are at hand, also a curved or multimodal one. The tails of the components,
heavier than those of a normal distribution, keep the ratio of density and mixture bounded where there are few draws.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from iaemu.sampling.metric import Metric

#: Degrees of freedom of all components, a whole number.
_FREEDOM = 5.0
#: Iterations of the fit: the approximation need not be at the maximum of the likelihood.
_ITERATIONS = 30
#: Largest number of components, and draws for each at least, in units of the dimension.
_MOST, _DRAWS_EACH = 16, 20
#: Weight of the covariance of all draws in that of each component, in draws in units of the dimension.
_PRIOR = 0.5


class Mixture(NamedTuple):
    """A mixture of t-distributions.

    Attributes
    ----------
    log_weights : tensor (k,)
    means : tensor (k, d)
    factors : tensor (k, d, d)
        Lower triangular Cholesky factors of the scale matrices.
    """

    log_weights: torch.Tensor
    means: torch.Tensor
    factors: torch.Tensor

    @classmethod
    def fit(cls, draws: torch.Tensor, generator: torch.Generator) -> Mixture:
        """Fit a mixture by expectation maximisation (Peel & McLachlan 2000, Stat. Comput. 10, 339).

        Parameters
        ----------
        draws : tensor (n, d)
        generator : torch.Generator
            Chooses the draws that are the first means.

        Returns
        -------
        Mixture
        """
        n, d = draws.shape
        k = max(1, min(_MOST, n // (_DRAWS_EACH * d)))
        whole = Metric.from_covariance(draws.mean(dim=0), torch.cov(draws.T).reshape(d, d))
        draws = whole.whiten(draws)
        # The shape of all draws, scaled as one of k parts of them would be.
        shape = torch.eye(d).to(draws) / k ** (2.0 / d)
        means, covariances = _scattered(draws, k, generator), shape.expand(k, d, d)
        log_weights = draws.new_full((k,), -math.log(k))
        for _ in range(_ITERATIONS):
            mixture = cls(log_weights, means, torch.linalg.cholesky(covariances))
            distances = mixture._distances(draws)
            share = torch.softmax(mixture._log_terms(distances), dim=1)
            # Draws far out in the tails count less, by the expectation of the scale that the t-distribution hides.
            pull = share * ((_FREEDOM + d) / (_FREEDOM + distances))
            means = (pull.T @ draws) / pull.sum(dim=0).clamp(min=1e-9)[:, None]
            deviations = draws[None] - means[:, None]
            scatter = (pull.T[..., None] * deviations).mT @ deviations
            count = share.sum(dim=0)
            covariances = (scatter + _PRIOR * d * shape) / (count + _PRIOR * d)[:, None, None]
            log_weights = torch.log((count + 1e-3) / (n + 1e-3 * k))
        return cls(log_weights, whole.colour(means), whole.factor @ torch.linalg.cholesky(covariances))

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """Return the log-density at points, up to a constant.

        Parameters
        ----------
        points : tensor (n, d)

        Returns
        -------
        tensor (n,)
        """
        return torch.logsumexp(self._log_terms(self._distances(points)), dim=1)

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw points.

        Parameters
        ----------
        n : int
        generator : torch.Generator

        Returns
        -------
        tensor (n, d)
        """
        like: dict[str, Any] = dict(dtype=self.means.dtype, device=self.means.device)
        d = self.means.shape[1]
        component = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        normal = torch.randn(n, d, generator=generator, **like)
        chi2 = torch.randn(n, int(_FREEDOM), generator=generator, **like).square().sum(dim=1)
        scaled = normal * torch.sqrt(_FREEDOM / chi2)[:, None]
        return self.means[component] + (self.factors[component] @ scaled[..., None])[..., 0]

    def _distances(self, points: torch.Tensor) -> torch.Tensor:
        """Return squared distances from the means, in units of the scales of the components, (n, k)."""
        deviations = (points[None] - self.means[:, None]).mT
        whitened = torch.linalg.solve_triangular(self.factors, deviations, upper=False)
        return whitened.square().sum(dim=1).T

    def _log_terms(self, distances: torch.Tensor) -> torch.Tensor:
        d = self.means.shape[1]
        log_volume = self.factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return self.log_weights - log_volume - 0.5 * (_FREEDOM + d) * torch.log1p(distances / _FREEDOM)


def _scattered(draws: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """Return k draws that lie far from each other (the start of k-means++, Arthur & Vassilvitskii 2007)."""
    index = torch.randint(len(draws), (1,), generator=generator, device=draws.device)
    chosen, nearest = draws[index], draws.new_full((len(draws),), math.inf)
    for _ in range(k - 1):
        nearest = torch.minimum(nearest, (draws - draws[index]).square().sum(dim=1))
        index = torch.multinomial(nearest.clamp(min=1e-300), 1, generator=generator)
        chosen = torch.cat([chosen, draws[index]])
    return chosen

"""Dense metric, as the linear map to coordinates in which the density has about zero mean and unit covariance.

A Gaussian kinetic energy of mass matrix M = covariance^-1 in coordinates x is the same as unit mass in the whitened
coordinates z of x = mean + L z, L L^T = covariance (Neal 2011, section 5.4.1). The kernels therefore know of no metric:
momenta are standard normal draws, and a kinetic energy or U-turn criterion costs no product with a matrix. The
gradient costs two products (n, d)(d, d), small beside the density.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from iaemu.sampling.integrators import LogDensity


class Metric(NamedTuple):
    """Location and scale of a density in unbounded coordinates.

    Attributes
    ----------
    mean : tensor (d,)
    factor : tensor (d, d)
        L, lower triangular: the Cholesky factor of the covariance, which is the inverse mass matrix.
    inverse_factor : tensor (d, d)
        L^-1.
    """

    mean: torch.Tensor
    factor: torch.Tensor
    inverse_factor: torch.Tensor

    @classmethod
    def from_covariance(cls, mean: torch.Tensor, covariance: torch.Tensor) -> Metric:
        """The metric of a mean and a covariance.

        Parameters
        ----------
        mean : tensor (d,)
        covariance : tensor (d, d)
            Positive definite.

        Returns
        -------
        Metric
        """
        # Scaled to unit diagonal first: parameters of very different size are no loss of precision.
        scale = covariance.diagonal().sqrt()
        factor = scale[:, None] * torch.linalg.cholesky(covariance / torch.outer(scale, scale))
        identity = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        return cls(mean, factor, torch.linalg.solve_triangular(factor, identity, upper=False))

    def colour(self, whitened: torch.Tensor) -> torch.Tensor:
        """x of z.

        Parameters
        ----------
        whitened : tensor (n, d)

        Returns
        -------
        tensor (n, d)
        """
        return torch.addmm(self.mean, whitened, self.factor.T)

    def whiten(self, points: torch.Tensor) -> torch.Tensor:
        """z of x.

        Parameters
        ----------
        points : tensor (n, d)

        Returns
        -------
        tensor (n, d)
        """
        return (points - self.mean) @ self.inverse_factor.T

    def whitened(self, density: LogDensity) -> LogDensity:
        """A density as a function of z.

        Parameters
        ----------
        density : LogDensity

        Returns
        -------
        callable
        """

        def _density(points):
            value, gradient = density(self.colour(points))
            return value, gradient @ self.factor

        return _density

"""Dense metric: the linear map to coordinates in which the density has approximately zero mean and unit covariance.

A Gaussian kinetic energy with mass matrix M = covariance^-1 in coordinates x equals that of unit mass in the whitened
coordinates z, where x = mean + L z and L L^T = covariance (Neal 2011, section 5.4.1). HMC and NUTS therefore work in
whitened coordinates: momenta are standard normal draws, and kinetic energies and U-turn criteria need no product with
a matrix. The gradient needs two products (n, d)(d, d), which cost little compared to the density.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from iaemu.sampling.integrators import LogDensity


class Metric(NamedTuple):
    """Mean and covariance of a density in unbounded coordinates, which define its whitened coordinates.

    Attributes
    ----------
    mean : tensor (d,)
    factor : tensor (d, d)
        L, the lower triangular Cholesky factor of the covariance, which is the inverse mass matrix.
    inverse_factor : tensor (d, d)
        L^-1.
    """

    mean: torch.Tensor
    factor: torch.Tensor
    inverse_factor: torch.Tensor

    @classmethod
    def from_covariance(cls, mean: torch.Tensor, covariance: torch.Tensor) -> Metric:
        """Return the metric of a mean and a covariance.

        Parameters
        ----------
        mean : tensor (d,)
        covariance : tensor (d, d)
            Positive definite.

        Returns
        -------
        Metric
        """
        # Scaled to unit diagonal first, so that parameters of very different scales lose no precision.
        scale = covariance.diagonal().sqrt()
        factor = scale[:, None] * torch.linalg.cholesky(covariance / torch.outer(scale, scale))
        identity = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        return cls(mean, factor, torch.linalg.solve_triangular(factor, identity, upper=False))

    def colour(self, whitened: torch.Tensor) -> torch.Tensor:
        """Return the unbounded coordinates x of whitened coordinates z.

        Parameters
        ----------
        whitened : tensor (n, d)

        Returns
        -------
        tensor (n, d)
        """
        return torch.addmm(self.mean, whitened, self.factor.T)

    def whiten(self, points: torch.Tensor) -> torch.Tensor:
        """Return the whitened coordinates z of unbounded coordinates x.

        Parameters
        ----------
        points : tensor (n, d)

        Returns
        -------
        tensor (n, d)
        """
        return (points - self.mean) @ self.inverse_factor.T

    def whitened(self, density: LogDensity) -> LogDensity:
        """Return a density as a function of the whitened coordinates z.

        Parameters
        ----------
        density : LogDensity
            Log-density and gradient as functions of unbounded coordinates x.

        Returns
        -------
        LogDensity
            Log-density and gradient with respect to z, as functions of z. The log-density is still that of x.
        """

        def _density(points):
            value, gradient = density(self.colour(points))
            return value, gradient @ self.factor

        return _density

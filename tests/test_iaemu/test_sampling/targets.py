"""Densities of known moments, for the tests."""

import math

import torch
from scipy import stats


def correlated_normal(dimension, seed=0):
    """Log-density, mean (d,) and covariance (d, d) of a normal with strong correlations and unequal units."""
    generator = torch.Generator().manual_seed(1000 + seed)
    draw = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64) / math.sqrt(dimension)
    units = torch.logspace(-2, 2, dimension, dtype=torch.float64)
    covariance = (draw @ draw.T + 0.05 * torch.eye(dimension, dtype=torch.float64)) * torch.outer(units, units)
    mean = units * torch.arange(dimension, dtype=torch.float64)
    precision = torch.linalg.inv(covariance)

    def log_density(x):
        return -0.5 * (((x - mean) @ precision) * (x - mean)).sum(dim=1)

    return log_density, mean, covariance


def banana(x):
    """x0 ~ N(0, 1), x1 | x0 ~ N(x0^2 / 2, 1): mean of x1 1/2, variance 3/2."""
    return -0.5 * x[:, 0] ** 2 - 0.5 * (x[:, 1] - 0.5 * x[:, 0] ** 2) ** 2


def funnel(x):
    """Neal 2003: v ~ N(0, 3^2), five others N(0, exp(v))."""
    v = x[:, 0]
    return -(v**2) / 18.0 - 0.5 * (x[:, 1:] ** 2).sum(dim=1) * torch.exp(-v) - 0.5 * (x.shape[1] - 1) * v


def truncated_exponential(x):
    return -5.0 * x[:, 0]


TRUNCATED_EXPONENTIAL = stats.truncexpon(b=5.0, scale=0.2)

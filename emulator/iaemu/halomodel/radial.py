"""Functions of the distance of a satellite from the centre of its host, in units of the virial radius: x = r / Rvir.

An alignment strength that depends on x is known at a few radii, ``RADII``, and its factor q(mu(x)) is linear in log x
between them. In pairs of a satellite with its own central, x follows from the separation and the mass of the host. In
sums over all other pairs the factor is projected onto a few functions: 1, and the principal components of the factors
of power laws for the distribution of the satellites (:func:`strength_basis`). The error of the projection is orthogonal
to them, so it nearly vanishes in sums over many satellites. A factor that does not depend on x is exact. This converges
faster than classes of x: eight functions leave a tenth of the factor of a steep law, as some thirty classes do.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.halomodel.alignment import mean_p2
from iaemu.halomodel.strengths import satellite_strengths

#: Radii at which a law is evaluated; it is constant beyond.
RADII = np.geomspace(0.03, 1.5, 40)

#: Number of functions for one satellite, and for each of two satellites.
N_ONE, N_TWO = 8, 5

#: Least share of satellites at a radius, for the few that are borrowed from larger hosts and are beyond Rvir.
_LEAST = 1e-4

#: Strengths and slopes of the laws whose factors the functions represent.
_STRENGTHS, _SLOPES = np.linspace(-1.0, 1.0, 41), np.linspace(-2.0, 2.0, 41)


def between_radii(x: ArrayLike) -> np.ndarray:
    """Return the weights of the radii in a function that is linear in log x between them, and constant beyond.

    Parameters
    ----------
    x : array (...)
        Distances from the centre [Rvir].

    Returns
    -------
    array (..., n_radii)
        Their sum is 1.
    """
    log_x = np.log(np.clip(x, RADII[0], RADII[-1]))
    place = np.clip((log_x - np.log(RADII[0])) / np.log(RADII[1] / RADII[0]), 0.0, len(RADII) - 1.0)
    return np.maximum(1.0 - np.abs(place[..., None] - np.arange(len(RADII))), 0.0)


def strength_basis(profile: ArrayLike) -> np.ndarray:
    """Return functions that represent the factors q of power laws, orthonormal for the distribution of satellites.

    Parameters
    ----------
    profile : array (n_radii,)
        Share of the satellites at each radius.

    Returns
    -------
    array (n_radii, N_ONE)
        The first column is 1.
    """
    root = np.sqrt(_weights(profile))
    strengths, slopes = (torch.as_tensor(part.ravel()) for part in np.meshgrid(_STRENGTHS, _SLOPES))
    factors = mean_p2(satellite_strengths(strengths, slopes, torch.as_tensor(RADII))).numpy() * root
    norm = np.linalg.norm(factors, axis=1, keepdims=True)
    factors = np.divide(factors, norm, out=np.zeros_like(factors), where=norm > 0)
    factors = factors - np.outer(factors @ root, root)
    _, _, vectors = np.linalg.svd(factors, full_matrices=False)
    return np.concatenate([root[None], vectors[: N_ONE - 1]]).T / root[:, None]


def to_basis(basis: ArrayLike, profile: ArrayLike) -> np.ndarray:
    """Return the matrix that projects a function, given at the radii, onto those of :func:`strength_basis`.

    Parameters
    ----------
    basis : array (n_radii, n_functions)
    profile : array (n_radii,)

    Returns
    -------
    array (n_radii, n_functions)
    """
    return _weights(profile)[:, None] * np.asarray(basis)


def pair_matrices(values: torch.Tensor) -> torch.Tensor:
    """Return sums by pairs of functions as symmetric matrices.

    Parameters
    ----------
    values : tensor (n, N_TWO (N_TWO + 1) / 2 - 1, n_bins)
        In the order of ``numpy.triu_indices`` without the first, which does not depend on the radius.

    Returns
    -------
    tensor (n, N_TWO, N_TWO, n_bins)
        The first entry is 0.
    """
    matrix = values.new_zeros(len(values), N_TWO, N_TWO, values.shape[-1])
    k, m = (torch.as_tensor(index[1:]) for index in np.triu_indices(N_TWO))
    matrix[:, k, m] = matrix[:, m, k] = values
    return matrix


def _weights(profile: ArrayLike) -> np.ndarray:
    weights = np.maximum(np.asarray(profile, dtype=np.float64), _LEAST)
    return weights / weights.sum()

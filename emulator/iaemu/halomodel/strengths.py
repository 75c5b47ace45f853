"""Alignment strengths that depend on where a galaxy sits: halotools' laws (Van Alfen et al. 2024, arXiv:2311.07374).

Strengths are limited to [-0.99, 0.99], as in halotools. A strength that exceeds 0.99 where the law does not change it
is its own limit, so that laws without a slope are constant strengths.
"""

from __future__ import annotations

import torch

#: Largest strength that a law gives, as in halotools.
LIMIT = 0.99


def central_strengths(
    mu_cen: torch.Tensor, slope: torch.Tensor, log_mass: torch.Tensor, pivot: float, clip_width: float = 0.0
) -> torch.Tensor:
    """Return mu_cen(M), limited to [-0.99, 0.99], or to [-mu_cen, mu_cen] if that is wider.

    Parameters
    ----------
    mu_cen, slope : tensors (n,)
        Strength at the pivot, and its slope [1 / dex].
    log_mass : tensor (n_masses,)
        Host masses [log10 Msun/h].
    pivot : float
        [log10 Msun/h]
    clip_width : float
        Range about each mass over which the limit is averaged [dex].

    Returns
    -------
    tensor (n, n_masses)
    """
    line = mu_cen[:, None] + slope[:, None] * (log_mass - pivot)
    limit = mu_cen.abs().clamp(min=LIMIT)[:, None]
    if clip_width == 0.0:
        return torch.maximum(torch.minimum(line, limit), -limit)
    half = (0.5 * clip_width * slope.abs()).clamp(min=1e-12)[:, None]
    # Few masses, if any, are near the limit.
    near = torch.nonzero((line.detach().abs() > (limit - half).detach()).any(dim=0)).flatten()
    if not len(near):
        return line
    part = line[:, near]
    clipped = part - _mean_excess(part - limit, half) + _mean_excess(-part - limit, half)
    return line.index_copy(1, near, torch.maximum(torch.minimum(clipped, limit), -limit))


def _mean_excess(x: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """Return the mean of max(x + u, 0) over u in [-half, half]."""
    reach = (x + half).clamp(min=0.0)
    return torch.where(reach < 2.0 * half, reach.square() / (4.0 * half), reach - half)


def satellite_strengths(
    mu_sat: torch.Tensor, slope: torch.Tensor, radius: torch.Tensor, clip_width: float = 0.0
) -> torch.Tensor:
    """Return mu_sat(r) = mu_sat (r / Rvir)^slope, limited to [-0.99, 0.99], or to [-mu_sat, mu_sat] if that is wider.

    Parameters
    ----------
    mu_sat, slope : tensors (n,)
        Strength at the virial radius, and the exponent.
    radius : tensor (n_radii,)
        Distances from the centre of the host [Rvir], positive.
    clip_width : float
        Half of the base of the triangle with which the limit is averaged over the natural logarithm of the radius. The
        average has continuous second derivatives, so that gradients can be checked by differences.

    Returns
    -------
    tensor (n, n_radii)
    """
    limit = mu_sat.abs().clamp(min=LIMIT)[:, None]
    most = torch.log(limit / mu_sat.abs().clamp(min=1e-30)[:, None])
    growth = slope[:, None] * torch.log(radius)
    if clip_width > 0.0:
        width = (clip_width * slope.abs()).clamp(min=1e-12)[:, None]
        growth = growth - _triangular_excess(growth - most, width)
    return mu_sat[:, None] * torch.exp(torch.minimum(growth, most))


def _triangular_excess(x: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Return the mean of max(x + u, 0) over u with the density (width - |u|) / width^2."""
    rest = (width - x.abs()).clamp(min=0.0) ** 3 / (6.0 * width**2)
    return rest + x.clamp(min=0.0)

"""Misalignment of galaxies: the Dimroth-Watson distribution of halotools, and its effect on omega and eta.

The orientation e of a galaxy is drawn about a reference axis a with p(cos t) ~ exp(kappa cos^2 t), where
kappa = tan(pi mu / 2), cos t = e.a, and the azimuth is uniform (Van Alfen et al. 2024, arXiv:2311.07374, section 3;
halotools stores k = -kappa). Averaged over such draws, every second-rank statistic of e equals that of a times

    q(mu) = <P2(cos t)> = (3 <cos^2 t> - 1) / 2,

so that E[(e.r)^2] - 1/3 = q [(a.r)^2 - 1/3] and, for independent misalignments,
E[(e1.e2)^2] - 1/3 = q1 q2 [(a1.a2)^2 - 1/3]. q(-1) = -1/2, q(0) = 0, q(1) = 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import lru_cache

import numpy as np
import torch

#: Ingredients of omega and eta at given strengths, see :func:`orientation_statistics`.
ORIENTATION_INGREDIENTS = {"omega": ("A_c", "A_s"), "eta": ("E_cc", "E_cs", "E_ss")}

_SERIES_LIMIT = 1.0  # |kappa| below which the power series is used
_ASYMPTOTIC_LIMIT = 50.0  # kappa above which the asymptotic series is used
_N_SERIES = 18  # 1 / 18! ~ 1e-16
_N_ASYMPTOTIC = 20  # the terms of sum (2n - 1)!! / (2 kappa)^n fall to 1e-15 at kappa = 50
_RYBICKI_STEP = 0.2  # error exp(-(pi / 2 h)^2) ~ 1e-27
_RYBICKI_TERMS = 31  # exp(-(n h)^2) < 1e-16 beyond n = 31

#: mean_p2 is tabulated as polynomials about the nodes n / _N_NODES. Above kappa = 50 it is smooth to rounding. Below,
#: the nearest zero of the normalisation in the complex plane is 26 half-widths away, so degree 10 reaches 1e-15.
_N_NODES = 512
_DEGREE = 10
_MAX_ORDER = 3  # highest tabulated derivative; the polynomials of higher ones have lost their precision
_FEW = 256  # up to this number of strengths, the number of operations matters more than memory


def mean_p2(mu: torch.Tensor) -> torch.Tensor:
    """Return q(mu) = <P2(cos t)>, the fraction of an alignment signal that is left at alignment strength mu.

    Parameters
    ----------
    mu : tensor, any shape
        Alignment strength in [-1, 1], dimensionless.

    Returns
    -------
    tensor of the same shape and dtype
        In [-1/2, 1]; four times differentiable, also at the ends. Exact to rounding at -1, 0 and 1.

    Raises
    ------
    ValueError
        A value is outside [-1, 1], or NaN.
    """
    # The comparison is False for NaN. An empty tensor has no maximum.
    if mu.numel() and not float(mu.detach().abs().amax()) <= 1.0:
        bad = mu[~((mu >= -1) & (mu <= 1))].flatten()[0]
        raise ValueError(f"Alignment strength mu = {float(bad):.6g} is outside [-1, 1].")
    return _MeanP2.apply(mu, 0)


class _MeanP2(torch.autograd.Function):
    """A derivative of q(mu), of any order up to ``_MAX_ORDER``, with the next one as its gradient.

    This takes a dozen operations. The exact expressions take hundreds, which would dominate the cost of a likelihood.
    """

    @staticmethod
    def forward(ctx, mu, order):
        if order > _MAX_ORDER:
            raise NotImplementedError(f"Derivatives of mean_p2 above order {_MAX_ORDER} are not tabulated.")
        node = torch.round(mu * _N_NODES)
        offset = mu - node / _N_NODES
        value, slope = (_by_powers if mu.numel() <= _FEW else _by_horner)(node.long() + _N_NODES, offset, order)
        ctx.order = order
        ctx.save_for_backward(mu, slope)
        return value

    @staticmethod
    def backward(ctx, grad):
        mu, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a higher derivative: the saved tensor has no graph
            slope = _MeanP2.apply(mu, ctx.order + 1)
        return grad * slope, None


def _by_powers(node, offset, order) -> tuple[torch.Tensor, torch.Tensor]:
    """Return value and slope of the polynomials about the nodes of these indices, in few operations."""
    table = _polynomials(offset.dtype, offset.device)[order]
    offset = offset.unsqueeze(-1)
    powers = torch.cumprod(offset.expand(*node.shape, _DEGREE), dim=-1)
    # (..., 2, _DEGREE + 1): value and slope. The first coefficient is added last, so that values at nodes are exact.
    coefficients = table[node]
    value, slope = (coefficients[..., 1:] * powers.unsqueeze(-2)).sum(dim=-1).add_(coefficients[..., 0]).unbind(dim=-1)
    return value.clone(), slope


def _by_horner(node, offset, order) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same for many strengths, one coefficient at a time so that the tensors fit in the cache."""
    columns = _polynomial_columns(offset.dtype, offset.device, order)
    flat = node.flatten()
    value = columns[_DEGREE].index_select(0, flat).view_as(offset)
    slope = torch.zeros_like(value)
    for column in columns[:_DEGREE].flip(0).unbind():
        slope = torch.addcmul(value, slope, offset)
        value = torch.addcmul(column.index_select(0, flat).view_as(offset), value, offset)
    return value, slope


@lru_cache(maxsize=16)
def _polynomial_columns(dtype: torch.dtype, device: torch.device, order: int) -> torch.Tensor:
    """Return the coefficients (_DEGREE + 1, 2 _N_NODES + 1) of one derivative of q."""
    with torch.inference_mode(False), torch.no_grad():
        return _polynomials(dtype, device)[order][:, 0].T.contiguous()


@lru_cache(maxsize=8)
def _polynomials(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """Return, for each order, the coefficients (2 _N_NODES + 1, 2, _DEGREE + 1) of that derivative and the next."""
    # Tensors made under inference mode could not be used in a later gradient.
    with torch.inference_mode(False), torch.no_grad():
        half_width = 0.5 / _N_NODES
        # Chebyshev points and the middle, so that values at the nodes are exact.
        points = np.cos(np.pi * (np.arange(_DEGREE) + 0.5) / _DEGREE)
        nodes = np.arange(-_N_NODES, _N_NODES + 1) / _N_NODES
        centre = _mean_p2_exact(torch.as_tensor(nodes)).numpy()
        values = _mean_p2_exact(torch.as_tensor(nodes[:, None] + half_width * points)).numpy()
        powers = points[:, None] ** np.arange(1, _DEGREE + 1)
        scaled = np.linalg.solve(powers, (values - centre[:, None]).T).T
        coefficients = np.concatenate([centre[:, None], scaled / half_width ** np.arange(1, _DEGREE + 1)], axis=1)
        derivatives = [coefficients]
        for _ in range(_MAX_ORDER + 1):
            slope = np.zeros_like(coefficients)
            slope[:, :-1] = derivatives[-1][:, 1:] * np.arange(1, _DEGREE + 1)
            derivatives.append(slope)
        return [
            torch.as_tensor(np.stack(derivatives[order : order + 2], axis=1), dtype=dtype, device=device)
            for order in range(_MAX_ORDER + 1)
        ]


def _mean_p2_exact(mu: torch.Tensor) -> torch.Tensor:
    """Return q(mu) from its series and closed forms, continued smoothly a little beyond the ends."""
    near = mu.abs() < 2.0 / math.pi * math.atan(_SERIES_LIMIT)
    aligned = ~near & (mu > 0)
    result = torch.zeros_like(mu)
    if bool(near.any()):
        kappa = torch.tan(0.5 * math.pi * torch.where(near, mu, torch.zeros_like(mu)))
        result = torch.where(near, _mean_p2_series(kappa), result)
    # cot(pi |mu| / 2) = 1 / |kappa|, computed from 1 - |mu| so that it is exactly 0 at the ends.
    for mask, branch in ((aligned, _mean_p2_aligned), (~near & ~aligned, _mean_p2_perpendicular)):
        if bool(mask.any()):
            strength = torch.where(mask, mu, torch.full_like(mu, 0.75)).abs()
            result = torch.where(mask, branch(torch.tan(0.5 * math.pi * (1.0 - strength))), result)
    return result


def orientation_statistics(
    mu: torch.Tensor, ingredients: Mapping[str, torch.Tensor], statistics: Collection[str] = ("omega", "eta")
) -> dict[str, torch.Tensor]:
    """Return omega and eta from their ingredients, which do not depend on the alignment strengths, and the strengths.

    omega = q_cen A_c + q_sat A_s and eta = q_cen^2 E_cc + 2 q_cen q_sat E_cs + q_sat^2 E_ss.

    Parameters
    ----------
    mu : tensor (n, 2)
        Strengths of centrals and satellites; clamped to [-1, 1].
    ingredients : mapping of A_c, A_s, E_cc, E_cs, E_ss to tensors (n, n_bins)
        Means over pairs, or sums over pairs, for which sums are returned. Only the ingredients of ``statistics`` are
        needed.
    statistics : collection of str
        Names other than omega and eta are ignored.

    Returns
    -------
    dict of str to tensor (n, n_bins)
    """
    values = {}
    if "omega" in statistics or "eta" in statistics:
        q_cen, q_sat = mean_p2(mu.clamp(-1.0, 1.0)).split(1, dim=1)
    if "omega" in statistics:
        values["omega"] = q_cen * ingredients["A_c"] + q_sat * ingredients["A_s"]
    if "eta" in statistics:
        values["eta"] = (
            q_cen**2 * ingredients["E_cc"] + 2.0 * q_cen * q_sat * ingredients["E_cs"] + q_sat**2 * ingredients["E_ss"]
        )
    return values


def _mean_p2_series(kappa):
    """q = sum 2 n k^n / (n! (2n+1)(2n+3)) / sum k^n / (n! (2n+1)), from Z = 1F1(1/2; 3/2; k), without cancellation."""
    numerator = torch.zeros_like(kappa)
    denominator = torch.zeros_like(kappa)
    for n in range(_N_SERIES, 0, -1):
        coefficient = 1.0 / math.factorial(n)
        numerator = (numerator + 2.0 * n * coefficient / ((2 * n + 1) * (2 * n + 3))) * kappa
        denominator = (denominator + coefficient / (2 * n + 1)) * kappa
    return numerator / (1.0 + denominator)


def _mean_p2_perpendicular(inverse):
    """kappa = -1 / inverse < 0: <cos^2> = 1/(2k) - exp(-k) / (sqrt(pi k) erf(sqrt k)), k = |kappa|."""
    small = inverse < 1e-3  # the second term vanishes as exp(-1000), and its gradient would be 0 * inf
    k = 1.0 / torch.where(small, torch.ones_like(inverse), inverse)
    tail = torch.exp(-k) / (torch.sqrt(math.pi * k) * torch.erf(torch.sqrt(k)))
    cos2 = 0.5 * inverse - torch.where(small, torch.zeros_like(tail), tail)
    return 1.5 * cos2 - 0.5


def _mean_p2_aligned(inverse):
    """kappa = 1 / inverse > 0: <cos^2> = 1 / (2 x D(x)) - 1 / (2 x^2), x = sqrt(kappa), D Dawson's integral."""
    asymptotic = inverse < 1.0 / _ASYMPTOTIC_LIMIT
    x = torch.rsqrt(torch.where(asymptotic, torch.ones_like(inverse), inverse))
    two_x_dawson = 2.0 * x * _dawson(x)
    # 2 x D(x) -> 1 + sum (2n-1)!! / (2 kappa)^n
    series = torch.zeros_like(inverse)
    tiny = torch.where(asymptotic, inverse, torch.zeros_like(inverse))
    for n in range(_N_ASYMPTOTIC, 0, -1):
        series = (series + 1.0) * (2 * n - 1) * 0.5 * tiny
    cos2 = 1.0 / torch.where(asymptotic, 1.0 + series, two_x_dawson) - 0.5 * inverse
    return 1.5 * cos2 - 0.5


def _dawson(x: torch.Tensor) -> torch.Tensor:
    """Return Dawson's integral exp(-x^2) int_0^x exp(t^2) dt for x >= 0.2 by Rybicki's method.

    G. B. Rybicki, Computers in Physics 3, 85 (1989): a sum of Gaussians that converges exponentially in its step.
    """
    n0 = 2.0 * torch.round(0.5 * x.detach() / _RYBICKI_STEP)
    offset = x - n0 * _RYBICKI_STEP
    odd = torch.arange(-_RYBICKI_TERMS, _RYBICKI_TERMS + 1, 2, dtype=x.dtype, device=x.device)
    terms = torch.exp(-((offset[..., None] - odd * _RYBICKI_STEP) ** 2)) / (n0[..., None] + odd)
    return terms.sum(dim=-1) / math.sqrt(math.pi)

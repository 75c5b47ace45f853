"""Mean halo occupation of Zheng et al. 2007, and the probabilities of satellite ranks that follow from it.

Centrals are Bernoulli with mean <Ncen>, satellites Poisson with mean <Nsat>, independent of each other: the model of
halotools' ``Zheng07Cens`` and ``Zheng07Sats`` with ``modulate_with_cenocc=False``.

Satellites fill a host's sub-halos in order of rank, so the sub-halo of rank k is occupied with probability
P(N >= k), N ~ Poisson(<Nsat>). Sums of these over ranges of k have closed forms.
"""

from __future__ import annotations

import math

import torch


def mean_ncen(log_mass: torch.Tensor, logMmin: torch.Tensor, sigma_logM: torch.Tensor) -> torch.Tensor:
    """Mean number of centrals, equation 2 of Zheng et al. 2007 (ApJ 667, 760).

    Parameters
    ----------
    log_mass, logMmin, sigma_logM : tensors that broadcast
        Masses [log10 Msun/h].

    Returns
    -------
    tensor
    """
    return 0.5 * (1.0 + torch.erf((log_mass - logMmin) / sigma_logM))


def mean_nsat(log_mass: torch.Tensor, logM0: torch.Tensor, logM1: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Mean number of satellites ((M - M0) / M1)^alpha, 0 below M0: equation 5 of Zheng et al. 2007.

    Gradients are finite at and below M0 (above it, for alpha < 1, they grow without limit towards it).

    Parameters
    ----------
    log_mass, logM0, logM1, alpha : tensors that broadcast
        Masses [log10 Msun/h].

    Returns
    -------
    tensor
    """
    fraction = 1.0 - 10.0 ** (logM0 - log_mass)
    above = fraction > 0
    log_ratio = torch.log(torch.where(above, fraction, torch.ones_like(fraction))) + (log_mass - logM1) * math.log(10.0)
    return torch.where(above, torch.exp(alpha * log_ratio), torch.zeros_like(log_ratio))


class _PoissonTail(torch.autograd.Function):
    """P(N >= k) for N ~ Poisson(lam), with d/dlam = P(N = k - 1): torch's own derivative is NaN at lam = 0."""

    @staticmethod
    def forward(ctx, lam, k):
        ctx.save_for_backward(lam, k)
        tail = torch.special.gammainc(k.clamp(min=1.0).expand(torch.broadcast_shapes(lam.shape, k.shape)), lam)
        return torch.where(k <= 0, torch.ones_like(tail), tail)

    @staticmethod
    def backward(ctx, grad):
        lam, k = ctx.saved_tensors
        slope = _poisson_pmf(lam, k - 1.0)
        return (grad * slope).sum_to_size(lam.shape), None


def _poisson_pmf(lam, k):
    """P(N = k), N ~ Poisson(lam); 0 for k < 0."""
    safe = k.clamp(min=0.0)
    log_lam = torch.log(lam.clamp(min=torch.finfo(lam.dtype).tiny))
    pmf = torch.exp(safe * log_lam - lam - torch.lgamma(safe + 1.0))
    return torch.where(k < 0, torch.zeros_like(pmf), pmf)


def rank_probability(lam: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """P(N >= k) that the k-th ranked sub-halo is occupied, N ~ Poisson(lam).

    Parameters
    ----------
    lam : tensor
        Mean number of satellites.
    k : tensor of the same dtype, broadcasting with ``lam``
        Whole numbers.

    Returns
    -------
    tensor
        1 for k <= 0.
    """
    return _PoissonTail.apply(lam, k)


class _RankTailSums(torch.autograd.Function):
    """Both tail sums from one incomplete gamma function, with their exact derivatives (finite at lam = 0)."""

    @staticmethod
    def forward(ctx, lam, k):
        given = lam
        # In place where possible: for the tables this is most of the work, and bound by memory.
        lam = lam.expand(torch.broadcast_shapes(lam.shape, k.shape))
        beyond = torch.special.gammainc(k.expand(lam.shape), lam)
        # At lam = 0 the pmf, and P(N = k - 2) = P(N = k - 1) (k - 1) / lam, hold in the limit.
        positive = lam.clamp(min=torch.finfo(lam.dtype).tiny)
        one_less = torch.log(positive).mul_(k - 1.0).sub_(lam).sub_(torch.lgamma(k)).exp_()
        two_less = (one_less * (k - 1.0)).div_(positive)
        one_less.add_(beyond)
        two_less.add_(one_less)
        ctx.save_for_backward(given, k, one_less, two_less)
        single = (lam * one_less).sub_((k - 1.0) * beyond)
        pair = (lam * two_less).mul_(lam).sub_(beyond.mul_((k - 1.0) * (k - 2.0))).mul_(0.5)
        return single, pair

    @staticmethod
    def backward(ctx, grad_single, grad_pair):
        lam, k, one_less, two_less = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will be asked for: what was saved has no graph
            one_less, two_less = rank_probability(lam, k - 1.0), rank_probability(lam, k - 2.0)
        return (grad_single * one_less + grad_pair * lam * two_less).sum_to_size(lam.shape), None


def rank_tail_sums(lam: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected satellites, and pairs of them, of rank k and beyond; N ~ Poisson(lam).

    Parameters
    ----------
    lam : tensor
        Mean number of satellites.
    k : tensor of the same dtype, broadcasting with ``lam``
        Whole numbers, at least 1.

    Returns
    -------
    single : tensor
        Sum over l >= k of P(N >= l) = E[(N - k + 1)+].
    pair : tensor
        Sum over l >= k of (l - 1) P(N >= l): pairs of ranks whose larger is l; E[N (N - 1) / 2] at k = 1.
    """
    return _RankTailSums.apply(lam, k)

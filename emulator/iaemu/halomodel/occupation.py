"""Mean halo occupation of Zheng et al. 2007, and the probabilities that sub-halos of given rank are occupied.

Centrals follow a Bernoulli distribution with mean <Ncen> and satellites a Poisson distribution with mean <Nsat>,
independent of each other: the model of halotools' ``Zheng07Cens`` and ``Zheng07Sats`` with
``modulate_with_cenocc=False``.

Satellites occupy the sub-halos of their host in order of rank, so the sub-halo of rank k is occupied with probability
P(N >= k), N ~ Poisson(<Nsat>). Sums of these probabilities over ranges of k have closed forms.
"""

from __future__ import annotations

import math

import torch


def mean_ncen(log_mass: torch.Tensor, logMmin: torch.Tensor, sigma_logM: torch.Tensor) -> torch.Tensor:
    """Return the mean number of centrals <Ncen>, equation 2 of Zheng et al. 2007 (ApJ 667, 760).

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
    """Return the mean number of satellites ((M - M0) / M1)^alpha, or 0 below M0: equation 5 of Zheng et al. 2007.

    Gradients are finite at and below M0. For alpha < 1 they diverge as M approaches M0 from above.

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
    """P(N >= k) for N ~ Poisson(lam), with d/dlam = P(N = k - 1). The derivative of torch is NaN at lam = 0."""

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
    """Return P(N = k) for N ~ Poisson(lam), and 0 for k < 0."""
    safe = k.clamp(min=0.0)
    log_lam = torch.log(lam.clamp(min=torch.finfo(lam.dtype).tiny))
    pmf = torch.exp(safe * log_lam - lam - torch.lgamma(safe + 1.0))
    return torch.where(k < 0, torch.zeros_like(pmf), pmf)


def rank_probability(lam: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the probability P(N >= k) that the sub-halo of rank k is occupied, N ~ Poisson(lam).

    Parameters
    ----------
    lam : tensor
        Mean number of satellites.
    k : tensor of the same dtype that broadcasts with ``lam``
        Rank, a whole number.

    Returns
    -------
    tensor
        1 for k <= 0.
    """
    return _PoissonTail.apply(lam, k)


class _RankTailSums(torch.autograd.Function):
    """Both tail sums from one incomplete gamma function, with exact derivatives that are finite at lam = 0."""

    @staticmethod
    def forward(ctx, lam, k):
        given = lam
        # In place where possible: this is most of the work of the tables, and memory limits its speed.
        lam = lam.expand(torch.broadcast_shapes(lam.shape, k.shape))
        beyond = torch.special.gammainc(k.expand(lam.shape), lam)
        # At lam = 0 the pmf, and P(N = k - 2) = P(N = k - 1) (k - 1) / lam, are taken as limits.
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
        if torch.is_grad_enabled():  # for a second derivative: the saved tensors have no graph
            one_less, two_less = rank_probability(lam, k - 1.0), rank_probability(lam, k - 2.0)
        return (grad_single * one_less + grad_pair * lam * two_less).sum_to_size(lam.shape), None


def rank_tail_sums(lam: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the expected numbers of satellites of rank k or larger, and of pairs whose larger rank is at least k.

    The number of satellites of a host is N ~ Poisson(lam).

    Parameters
    ----------
    lam : tensor
        Mean number of satellites.
    k : tensor of the same dtype that broadcasts with ``lam``
        Rank, a whole number of at least 1.

    Returns
    -------
    single : tensor
        Sum over l >= k of P(N >= l), which is E[max(N - k + 1, 0)].
    pair : tensor
        Sum over l >= k of (l - 1) P(N >= l), as l is the larger rank of l - 1 pairs; E[N (N - 1) / 2] at k = 1.
    """
    return _RankTailSums.apply(lam, k)

"""The No-U-Turn sampler with multinomial sampling along the trajectory, for many chains at once.

The algorithm is that of Hoffman & Gelman 2014 (JMLR 15, 1593), with the multinomial weights, the biased progressive
sampling and the generalised criterion of Betancourt 2017 (arXiv:1701.02434, appendix A). Further criteria across the
two halves of a tree, as in Stan since 2.21, stop trajectories that would continue beyond a whole period. The tree is
built without recursion, as in Phan et al. 2019 (arXiv:1912.11554) and Lao & Dillon 2019: for each level of the tree one
slot keeps what is needed of earlier leaves.

All chains double together, so that they share the index of the leaf and differ only in direction. Chains whose
trajectory has ended are left out of the batch. The longest tree decides how many calls of the density a transition
needs, so ``iaemu.sampling.hmc`` is faster. NUTS serves as a cross-check that needs no trajectory length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from iaemu.sampling.hmc import DIVERGENCE, State, choose
from iaemu.sampling.integrators import LogDensity, integrate


class NUTSInfo(NamedTuple):
    """Diagnostics of one transition of NUTS. Fields that are not listed are those of :class:`HMCInfo`.

    Attributes
    ----------
    acceptance : tensor (n_chains,)
        Metropolis acceptance probability relative to the start, averaged over all leaves.
    accepted : tensor of bool (n_chains,)
        Whether the chain moved.
    divergent : tensor of bool (n_chains,)
        Whether the energy error of any leaf exceeded 1000 or was not finite.
    energy, energy_error : tensors (n_chains,)
        Energy of the chosen leaf, and its difference from the start.
    tree_depth : tensor of int (n_chains,)
        Number of doublings, including an unfinished last one.
    """

    acceptance: torch.Tensor
    accepted: torch.Tensor
    divergent: torch.Tensor
    energy: torch.Tensor
    energy_error: torch.Tensor
    n_leapfrog: torch.Tensor
    step_size: torch.Tensor
    tree_depth: torch.Tensor


class _Tree(NamedTuple):
    """The trajectories of the chains: their two ends, the sums of momenta, the draws, their weights, and counts."""

    position: torch.Tensor  # (2, n, d): at the earlier and the later end, like the next two
    momentum: torch.Tensor
    gradient: torch.Tensor
    momentum_sum: torch.Tensor  # (n, d)
    draw: torch.Tensor  # (n, d)
    draw_log_density: torch.Tensor
    draw_gradient: torch.Tensor
    draw_energy: torch.Tensor
    log_weight: torch.Tensor  # (n,): log sum exp(energy at the start - energy)
    acceptance_sum: torch.Tensor
    n_leaves: torch.Tensor
    divergent: torch.Tensor
    depth: torch.Tensor


class _Half(NamedTuple):
    """The new half of a trajectory that is doubled; the counts include those of the old half."""

    end: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # position, momentum and gradient at the outer end
    inner_momentum: torch.Tensor
    momentum_sum: torch.Tensor
    draw: tuple[torch.Tensor, ...]  # position, log-density, gradient and energy
    log_weight: torch.Tensor
    acceptance_sum: torch.Tensor
    n_leaves: torch.Tensor
    divergent: torch.Tensor
    valid: torch.Tensor  # whether it neither diverged nor turned within


def step(
    state: State, density: LogDensity, step_size: float, generator: torch.Generator, max_tree_depth: int = 10
) -> tuple[State, NUTSInfo]:
    """Make one transition of all chains.

    Parameters
    ----------
    state : State
    density : LogDensity
    step_size : float
    generator : torch.Generator
    max_tree_depth : int
        A trajectory has at most 2**max_tree_depth - 1 steps.

    Returns
    -------
    state : State
    info : NUTSInfo
    """
    position, log_density, gradient = state
    options: dict[str, Any] = dict(generator=generator, dtype=position.dtype, device=position.device)
    momentum = torch.randn(position.shape, **options)
    start = 0.5 * momentum.square().sum(dim=1) - log_density
    zero = torch.zeros_like(log_density)
    count = torch.zeros_like(log_density, dtype=torch.long)
    tree = _Tree(
        position=torch.stack([position, position]),
        momentum=torch.stack([momentum, momentum]),
        gradient=torch.stack([gradient, gradient]),
        momentum_sum=momentum,
        draw=position,
        draw_log_density=log_density,
        draw_gradient=gradient,
        draw_energy=start,
        log_weight=zero,
        acceptance_sum=zero,
        n_leaves=count,
        divergent=count.bool(),
        depth=count,
    )
    moved = torch.zeros_like(tree.divergent)
    active = torch.arange(len(position), device=position.device)
    for depth in range(max_tree_depth):
        part = _Tree(*(x[:, active] if x.ndim == 3 else x[active] for x in tree))
        part, chosen, going = _double(part, density, step_size, start[active], depth, options)
        if len(active) == len(position):
            tree, moved = part, moved | chosen
        else:
            # The first doubling is of all chains and made new tensors, so they can be changed in place here.
            for whole, new in zip(tree, part, strict=True):
                whole[(slice(None), active) if whole.ndim == 3 else active] = new
            moved[active] = moved[active] | chosen
        active = active[going]
        if not len(active):
            break
    new_state = State(tree.draw, tree.draw_log_density, tree.draw_gradient)
    info = NUTSInfo(
        acceptance=tree.acceptance_sum / tree.n_leaves,
        accepted=moved,
        divergent=tree.divergent,
        energy=tree.draw_energy,
        energy_error=tree.draw_energy - start,
        n_leapfrog=tree.n_leaves,
        step_size=torch.full_like(start, step_size),
        tree_depth=tree.depth,
    )
    return new_state, info


def _double(tree: _Tree, density, step_size, start, depth, options):
    """Double trajectories of 2**depth states in a random direction.

    Returns
    -------
    tree : _Tree
    chosen : tensor of bool (n,)
        Whether the draw is in the new half.
    going : tensor of bool (n,)
        Whether the trajectory may double again.
    """
    rows = torch.arange(len(start), device=start.device)
    forward = (torch.rand(len(start), **options) < 0.5).long()  # which end grows
    uniform = torch.rand((2**depth + 1, len(start)), **options)
    signed = (step_size * (2.0 * forward - 1.0))[:, None].to(start.dtype)
    half = _grow(tree, density, signed, start, uniform[:-1], (forward, rows))

    # Biased progressive sampling between the halves: the new one is preferred where its weight is larger.
    chosen = half.valid & (torch.log(uniform[-1]) < half.log_weight - tree.log_weight)
    momentum_sum = tree.momentum_sum + half.momentum_sum
    far, near = tree.momentum[1 - forward, rows], tree.momentum[forward, rows]
    turned = _turned(far, half.end[1], momentum_sum)
    turned = turned | _turned(far, half.inner_momentum, tree.momentum_sum + half.inner_momentum)
    turned = turned | _turned(near, half.end[1], half.momentum_sum + near)
    ends = [x.clone() for x in (tree.position, tree.momentum, tree.gradient)]
    for grown, new in zip(ends, half.end, strict=True):
        grown[forward, rows] = new
    old = tree.draw, tree.draw_log_density, tree.draw_gradient, tree.draw_energy
    log_weight = torch.where(half.valid, torch.logaddexp(tree.log_weight, half.log_weight), tree.log_weight)
    counts = half.acceptance_sum, half.n_leaves, half.divergent, tree.depth + 1
    result = _Tree(*(*ends, momentum_sum, *choose(half.draw, old, chosen), log_weight, *counts))
    return result, chosen, half.valid & ~turned


def _grow(tree: _Tree, density, signed, start, uniform, outer) -> _Half:
    """Grow as many leaves as ``uniform`` (n_leaves, n) has rows, beyond the ends of index ``outer``."""
    n_new = len(uniform)
    depth = n_new.bit_length() - 1
    # The outer end of the new half, which moves, and its draw.
    position, momentum, gradient = (x[outer] for x in (tree.position, tree.momentum, tree.gradient))
    total, inner_momentum, log_density = torch.zeros_like(momentum), momentum, start
    log_weight = torch.full_like(start, -torch.inf)
    draw: tuple[torch.Tensor, ...] = (position, start, gradient, start)
    acceptance_sum, n_leaves, divergent = tree.acceptance_sum, tree.n_leaves, tree.divergent
    valid = torch.ones_like(divergent)

    # Slot l holds two things. For the subtree of 2**l leaves that is being built: the momentum of its first leaf and
    # the sum before it. For the finished subtree whose sibling is being built: the momentum of its last leaf and the
    # sum up to it.
    first, before, last, until = torch.zeros((4, depth + 1, *position.shape), dtype=start.dtype, device=start.device)
    for leaf in range(n_new):
        position, momentum, log_density, gradient = integrate(
            density, position, momentum, log_density, gradient, signed, 1
        )
        energy = 0.5 * momentum.square().sum(dim=1) - log_density
        error = torch.nan_to_num(energy - start, nan=torch.inf, posinf=torch.inf)
        acceptance_sum = acceptance_sum + torch.where(valid, torch.exp(-error).clamp(max=1.0), 0.0)
        n_leaves = n_leaves + valid
        wild = valid & (error > DIVERGENCE)
        divergent = divergent | wild
        valid = valid & ~wild
        # Multinomial within the new half: each leaf replaces the draw with a probability that is its fraction of the
        # weight so far.
        log_weight = torch.where(valid, torch.logaddexp(log_weight, -error), log_weight)
        take = valid & (torch.log(uniform[leaf]) < -error - log_weight)
        draw = choose((position, log_density, gradient, energy), draw, take)
        inner_momentum = momentum if leaf == 0 else inner_momentum
        sum_before, total = total, total + momentum
        level = _trailing_zeros(leaf, depth)
        first[: level + 1] = momentum
        before[: level + 1] = sum_before
        ended = _trailing_ones(leaf)
        if ended:
            valid = valid & ~_turns_within(first, before, last, until, momentum, total, ended)
        last[ended] = momentum
        until[ended] = total
        if leaf + 1 < n_new and not bool(valid.any()):
            break
    end = (position, momentum, gradient)
    return _Half(end, inner_momentum, total, draw, log_weight, acceptance_sum, n_leaves, divergent, valid)


def _turned(one, other, total):
    """Return whether either end moves against the sum of momenta: the generalised criterion for unit mass."""
    return ((one * total).sum(dim=-1) <= 0) | ((other * total).sum(dim=-1) <= 0)


def _turns_within(first, before, last, until, momentum, total, ended):
    """Return whether any of the subtrees of levels 1 to ``ended``, which all end in the current leaf, turns back."""
    whole = slice(1, ended + 1)
    turned = _turned(first[whole], momentum, total - before[whole]).any(dim=0)
    if ended > 1:
        # Criteria across the two halves. For two leaves they equal the criterion above.
        whole, half = slice(2, ended + 1), slice(1, ended)
        left = until[half] - before[whole]
        turned = turned | _turned(first[whole], first[half], left + first[half]).any(dim=0)
        turned = turned | _turned(last[half], momentum, total - until[half] + last[half]).any(dim=0)
    return turned


def _trailing_zeros(leaf: int, most: int) -> int:
    return most if leaf == 0 else min(most, (leaf & -leaf).bit_length() - 1)


def _trailing_ones(leaf: int) -> int:
    return (~leaf & (leaf + 1)).bit_length() - 1

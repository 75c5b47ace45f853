"""Jumps: transitions that draw new points from an approximation of the whole density.

A trajectory follows the density from where a chain is. Along a narrow, curved ridge its steps are small, and it takes
many of them to get from end to end. A jump chooses between the current point and several draws of an approximation in
proportion to density / approximation ("iterated sampling importance resampling"; Tjelmeland 2004; Andrieu, Doucet &
Holenstein 2010, J. R. Stat. Soc. B 72, 269, section 4). It leaves the density invariant whatever the approximation, and
if that is good the new point is almost independent of the old one. It needs values of the density only, at many points
at once. Jumps and trajectories in turn make up for each other's weakness (Samsonov et al. 2022, arXiv:2111.02702).

The approximation is one of the density of the physical parameters, without the Jacobian of their bounds: mass at an
edge or in a corner is cut off there, but long and thin in unbounded coordinates.
"""

from __future__ import annotations

import torch

from iaemu.sampling.density import Density
from iaemu.sampling.hmc import State, choose
from iaemu.sampling.metric import Metric
from iaemu.sampling.mixture import Mixture

#: Number of points among which a chain chooses, besides its own, unless the settings say otherwise.
PROPOSALS = 16
#: Jumps are made if so many proposals hold at least this many effective draws, as measured with so many points.
_LEAST, _TRIED = 0.5, 1024


def efficiency(mixture: Mixture, density: Density, generator: torch.Generator) -> float:
    """Return the number of effective draws that a draw of the mixture is worth, by importance weights.

    Parameters
    ----------
    mixture : Mixture
    density : Density
    generator : torch.Generator

    Returns
    -------
    float
        Between 0 and 1.
    """
    points = mixture.draw(_TRIED, generator)
    log_weights = density.values(points) - mixture.log_density(points)
    if not bool(torch.isfinite(log_weights).any()):
        return 0.0
    weights = torch.exp(log_weights - log_weights.max())
    return float(weights.sum().square() / weights.square().sum()) / _TRIED


def pays(mixture: Mixture, density: Density, generator: torch.Generator) -> bool:
    """Return whether jumps by means of a mixture lead to new points often enough.

    Parameters
    ----------
    mixture, density, generator
        See :func:`efficiency`.

    Returns
    -------
    bool
    """
    return PROPOSALS * efficiency(mixture, density, generator) > _LEAST


def jump(
    state: State, density: Density, metric: Metric, mixture: Mixture, n_proposals: int, generator: torch.Generator
) -> tuple[State, torch.Tensor]:
    """Make one jump of all chains.

    Parameters
    ----------
    state : State
        In the whitened coordinates of the metric.
    density : Density
    metric : Metric
    mixture : Mixture
        Of physical points.
    n_proposals : int
    generator : torch.Generator

    Returns
    -------
    state : State
    moved : tensor of bool (n_chains,)
        Which chains have chosen another point than their own.
    """
    n, d = state.position.shape
    here, _, log_jacobian, _ = density.transform.forward_and_slopes(metric.colour(state.position))
    value = state.log_density if log_jacobian is None else state.log_density - log_jacobian
    points = mixture.draw(n * n_proposals, generator)
    log_weights = torch.cat(
        [
            (value - mixture.log_density(here))[:, None],
            (density.values(points) - mixture.log_density(points)).reshape(n, n_proposals),
        ],
        dim=1,
    )
    # The largest of sums with Gumbel noise is a draw in proportion to the weights.
    noise = torch.rand(log_weights.shape, generator=generator, dtype=points.dtype, device=points.device)
    chosen = (log_weights - torch.log(-torch.log(noise))).argmax(dim=1)
    moved = chosen > 0
    rows = torch.nonzero(moved)[:, 0]
    if not len(rows):
        return state, moved
    position = state.position.clone()
    there = points.reshape(n, n_proposals, d)[rows, chosen[rows] - 1]
    position[rows] = metric.whiten(density.transform.inverse(there))
    new = State(position, *metric.whitened(density)(position))
    return State(*choose(new, state, moved)), moved

"""The function that samples a density from start to end, and its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.display import html_table, shorten
from iaemu.progress import tqdm
from iaemu.sampling import diagnostics
from iaemu.sampling.hmc import HMCInfo
from iaemu.sampling.metric import Metric
from iaemu.sampling.nuts import NUTSInfo
from iaemu.sampling.sampler import Draws, Sampler
from iaemu.sampling.settings import Settings
from iaemu.sampling.transforms import Bound

#: Draws of each chain before the first check of convergence, and between updates of the progress bar.
_FIRST_CHECK, _UPDATE = 50, 25


@dataclass(frozen=True)
class SamplingResult:
    """Draws of a density with their diagnostics; the result of :func:`sample`. ``print`` shows a table.

    Attributes
    ----------
    draws : tensor (n_chains, n_draws, d)
        Points in the user's coordinates.
    log_density : tensor (n_chains, n_draws)
        Values of the user's function.
    info : HMCInfo or NUTSInfo
        Diagnostics of each transition, tensors (n_chains, n_draws).
    names : tuple of str
        Names of the parameters.
    metric : Metric
        Metric of the chains, in unbounded coordinates.
    step_size : float
    acceptance : float
        Mean acceptance probability.
    n_divergences : int
        Number of divergent transitions of all chains.
    rhat, ess_bulk, ess_tail, ess_mean : arrays (d,)
        R-hat, and effective sample sizes of the bulk, the tails and the mean.
    bfmi : array (n_chains,)
        E-BFMI of each chain.
    n_gradients : int
        Number of points whose gradient was computed, including the search for the maximum and the warm-up.
    seconds : float
        Wall time, without the time for the diagnostics of the result.
    sampler : Sampler
        The sampler, from which further draws can be made.
    """

    draws: torch.Tensor
    log_density: torch.Tensor
    info: HMCInfo | NUTSInfo
    names: tuple[str, ...]
    metric: Metric
    step_size: float
    acceptance: float
    n_divergences: int
    rhat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    ess_mean: np.ndarray
    bfmi: np.ndarray
    n_gradients: int
    seconds: float
    sampler: Sampler

    def summary(self) -> diagnostics.Summary:
        """Return moments, quantiles and convergence of each parameter, which print as a table.

        Returns
        -------
        Summary
        """
        return diagnostics.summarise(self.draws, self.names)

    def __repr__(self) -> str:
        n_chains, n_draws, _ = self.draws.shape
        n_warnings = len(self.warnings())
        return (
            f"SamplingResult({n_chains} chains of {n_draws} draws of {shorten(', '.join(self.names))}; R-hat at most "
            f"{self.rhat.max():.4f}, at least {self._smallest_ess():.0f} effective draws"
            f"{f'; {n_warnings} warning(s), see print(result)' if n_warnings else ''})"
        )

    def _smallest_ess(self) -> float:
        return float(min(self.ess_bulk.min(), self.ess_tail.min(), self.ess_mean.min()))

    def _repr_html_(self) -> str:
        return html_table(self.summary().columns(), notes=self._remarks())

    def __str__(self) -> str:
        return "\n".join([str(self.summary()), *self._remarks()])

    def _remarks(self) -> list[str]:
        """Lines below the table."""
        smallest = self._smallest_ess()
        n_chains, n_draws, _ = self.draws.shape
        line = (
            f"{n_chains} chains of {n_draws} draws; acceptance {self.acceptance:.2f}, step size {self.step_size:.3g}, "
            f"{self.n_divergences} divergences, mean E-BFMI {np.nanmean(self.bfmi):.2f}; {self.n_gradients} "
            f"gradients, {self.seconds:.1f} s, {smallest / max(self.seconds, 1e-9):.0f} effective draws a second."
        )
        return [line, *(f"Warning: {warning}" for warning in self.warnings())]

    def warnings(self) -> list[str]:
        """Return sentences about problems of the draws; the list is empty if there are none.

        Returns
        -------
        list of str
        """
        lines = []
        if not self.rhat.max() < 1.01:
            worst = self.names[int(np.nanargmax(self.rhat))] if np.isfinite(self.rhat).any() else "all parameters"
            lines.append(f"R-hat of {worst} is {self.rhat.max():.3f}: the chains do not agree. Make more draws.")
        outside = int(torch.isinf(self.info.energy_error).sum())
        if self.n_divergences > outside:
            lines.append(
                f"{self.n_divergences - outside} trajectories diverged: part of the density is too narrow for the step "
                "size. Raise target_accept, or use other parameters."
            )
        if outside > 0.05 * self.info.divergent.numel():
            lines.append(
                f"{outside} trajectories ended where the log-density is not finite, which makes sampling less "
                "efficient. Set bounds that exclude this region if you can."
            )
        if np.nanmean(self.bfmi) < diagnostics.LOW_BFMI:
            lines.append(f"E-BFMI is {np.nanmean(self.bfmi):.2f}: the tails are hardly explored. Use other parameters.")
        return lines


def sample(
    log_density: Callable[[torch.Tensor], torch.Tensor],
    start: ArrayLike | torch.Tensor,
    bounds: tuple[Bound, Bound] | None = None,
    method: str = "hmc",
    n_chains: int | None = None,
    n_draws: int = 1000,
    n_warmup: int = 200,
    seed: int | torch.Generator = 1,
    progress: bool = True,
    names: Sequence[str] | None = None,
    target_rhat: float | None = None,
    target_ess: float | None = None,
    **settings: Any,
) -> SamplingResult:
    """Sample a differentiable density with many chains.

    Parameters
    ----------
    log_density : callable, tensor (n, d) -> tensor (n,)
        Log-density of n points up to a constant, differentiable by autograd. The value of a row must not depend on
        other rows. Points where it is NaN or -inf are rejected.
    start : array or tensor (d,) or (m, d)
        One or more points from which the maximum is searched. The chains are on the device of a tensor.
    bounds : (low, high), optional
        Lower and upper bounds, each a number or d numbers; None or infinite if there is none.
    method : "hmc" or "nuts"
    n_chains : int, optional
        Number of chains; by default 64, or 512 on a GPU.
    n_draws : int
        Number of draws of each chain, or the largest number if there is a target.
    n_warmup : int
        Number of transitions of the warm-up, before the draws.
    seed : int or torch.Generator
    progress : bool
        Whether to show a progress bar with the remaining time, R-hat, effective sample size and divergences. With a
        target, the remaining time is that of all ``n_draws``.
    names : d names, optional
        Names of the parameters in tables.
    target_rhat, target_ess : float, optional
        Stop at the first check at which the largest R-hat is below ``target_rhat``, and the smallest effective sample
        size, of bulk, tails and mean, above ``target_ess``. If only one is given, the other is 1.01 or 400.
    **settings
        Further fields of :class:`~iaemu.sampling.Settings`.

    Returns
    -------
    SamplingResult

    Raises
    ------
    SamplingError
        The density is not finite at any starting point that was tried.
    ValueError
        A setting, bound or shape is wrong; the message names it.
    """
    begun = time.perf_counter()
    options = Settings(method=method, n_chains=n_chains, n_warmup=n_warmup, **settings)
    if n_draws < 4:
        raise ValueError(f"n_draws must be at least 4, because R-hat needs so many; got {n_draws}.")
    device = start.device if isinstance(start, torch.Tensor) else None
    dimension = (torch.as_tensor(start).shape or (1,))[-1]
    if names is not None and len(names) != dimension:
        raise ValueError(f"There are {len(names)} names for {dimension} parameters.")
    sampler = Sampler(log_density, dimension, bounds, options, seed, device)
    target = None
    if target_rhat is not None or target_ess is not None:
        target = 1.01 if target_rhat is None else target_rhat, 400.0 if target_ess is None else target_ess
    with tqdm(total=options.n_warmup + n_draws, disable=not progress, unit="draw") as bar:
        bar.set_description("maximum")
        sampler.begin(start)
        # The estimate of the remaining time is of transitions only.
        bar.unpause()
        bar.set_description("warm-up")
        sampler.warm_up(callback=lambda *_: bar.update())
        bar.set_description("sampling")
        draws = _draw(sampler, n_draws, target, bar)
    seconds = time.perf_counter() - begun
    return SamplingResult(
        draws=draws.positions,
        log_density=draws.log_density,
        info=draws.info,
        names=tuple(f"x{index}" for index in range(dimension)) if names is None else tuple(names),
        metric=sampler.metric,
        step_size=sampler.step_size,
        acceptance=float(draws.info.acceptance.mean()),
        n_divergences=int(draws.info.divergent.sum()),
        rhat=diagnostics.rhat(draws.positions),
        **{f"ess_{method}": diagnostics.ess(draws.positions, method) for method in diagnostics.ESS_METHODS},
        bfmi=diagnostics.bfmi(draws.info.energy),
        n_gradients=sampler.density.n_gradients,
        seconds=seconds,
        sampler=sampler,
    )


def _draw(sampler: Sampler, n_draws: int, target: tuple[float, float] | None, bar: tqdm) -> Draws:
    """Make ``n_draws`` draws, or fewer if R-hat and the effective sample size reach the target before."""
    parts: list[Draws] = []
    done, divergences = 0, 0
    while done < n_draws:
        # The time of a check is proportional to the number of draws, so the intervals between checks grow.
        n = min(max(_FIRST_CHECK, done // 2 if target else n_draws // 5), n_draws - done)
        for size in [_UPDATE] * (n // _UPDATE) + [n % _UPDATE] * (n % _UPDATE > 0):
            parts.append(sampler.draw(size))
            divergences += int(parts[-1].info.divergent.sum())
            bar.update(size)
        done += n
        if done < 4 or (target is None and bar.disable):
            continue
        so_far = torch.cat([part.positions for part in parts], dim=1)
        worst = float(diagnostics.rhat(so_far).max())
        smallest = min(float(diagnostics.ess(so_far, method).min()) for method in diagnostics.ESS_METHODS)
        bar.set_postfix(rhat=f"{worst:.3f}", ess=f"{smallest:.0f}", divergences=divergences)
        if target is not None and worst < target[0] and smallest > target[1]:
            bar.total = bar.n  # the run is complete, and no time remains
            bar.refresh()
            break
    positions, log_densities, infos = zip(*parts, strict=True)
    info = type(infos[0])(*(torch.cat(fields, dim=1) for fields in zip(*infos, strict=True)))
    return Draws(torch.cat(positions, dim=1), torch.cat(log_densities, dim=1), info)

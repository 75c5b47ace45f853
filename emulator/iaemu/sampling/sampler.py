"""The sampler: starting points, warm-up and draws of many chains, resumable; and one function that does it all.

A run is a sequence of single transitions, each a function of the state before it and of a private random generator.
:meth:`Sampler.state_dict` holds both, so that a run that was stored and restored anywhere, the warm-up included, goes
on bit for bit as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from iaemu.sampling import diagnostics, hmc, nuts
from iaemu.sampling.adaptation import (
    DualAveraging,
    Moments,
    dual_averaging_init,
    dual_averaging_update,
    initial_step_size,
    pooled_acceptance,
    window_begin,
    window_ends,
)
from iaemu.sampling.density import Density
from iaemu.sampling.errors import SamplingError
from iaemu.sampling.integrators import GRADIENTS
from iaemu.sampling.laplace import approximate, scatter
from iaemu.sampling.metric import Metric
from iaemu.sampling.settings import Settings
from iaemu.sampling.transforms import Transform

#: Chains by type of device: a batch of 64 costs a processor little more than one of 1, one of 512 a GPU.
N_CHAINS = {"cpu": 64}
N_CHAINS_GPU = 512

#: Acceptance that the step size is adapted to. For HMC 0.8 gives a quarter more effective draws for a gradient on many
#: densities, but the worst of several seeds is a third of the median on curved ones, where chains get caught.
TARGET_ACCEPT = {"hmc": 0.9, "nuts": 0.8}

#: Starting points that are tried around one that is not in the support.
_ATTEMPTS = 1000
#: Steps of HMC's longest trajectory, and in the early warm-up, when the steps may have to be very small.
_MAX_STEPS = {False: 256, True: 16}
#: Steps to a trajectory, and repetitions of each, with which integrators are compared.
_TRIED_STEPS, _TRIALS = (1, 2, 3, 4), 4
#: Harmonic mean of the acceptance above which the rotation is taken into consideration: below, the density is no
#: Gaussian, and chains may stand for long in its tails although they rarely do so while it is tried.
_NEAR_GAUSSIAN = 0.9
#: Draws of each chain before the first check of convergence, and between movements of the progress bar.
_FIRST_CHECK, _UPDATE = 50, 25


class Draws(NamedTuple):
    """Draws of all chains.

    Attributes
    ----------
    positions : tensor (n_chains, n, d)
        Physical.
    log_density : tensor (n_chains, n)
        Of the user's function, without the Jacobian of the transform.
    info : HMCInfo or NUTSInfo
        Its fields are tensors (n_chains, n).
    """

    positions: torch.Tensor
    log_density: torch.Tensor
    info: hmc.HMCInfo | nuts.NUTSInfo

    @classmethod
    def join(cls, parts: Sequence[Draws]) -> Draws:
        """Consecutive draws in one."""
        if len(parts) == 1:
            return parts[0]
        infos = [part.info for part in parts]
        return cls(
            torch.cat([part.positions for part in parts], dim=1),
            torch.cat([part.log_density for part in parts], dim=1),
            type(infos[0])(*(torch.cat(fields, dim=1) for fields in zip(*infos, strict=True))),
        )


class Sampler:
    """Chains that sample a density together.

    Parameters
    ----------
    log_density : callable, tensor (n, d) -> tensor (n,)
        Log-density of physical points, up to a constant, differentiable by autograd; -inf or NaN rejects a point.
    dimension : int
    bounds : pair of low, high, optional
        Each a number or (d,), None or infinite where there is none. The density is never asked beyond them.
    settings : Settings, optional
    seed : int or torch.Generator
        Of the sampler's own generator; the global one is neither read nor changed.
    device : optional
        Where the chains are; by default that of the generator, or the CPU.

    Attributes
    ----------
    density : Density
        Counts ``n_gradients``.
    maxima : list of Laplace
        The approximations that the chains began with; empty after a restart from a state.
    metric : Metric
    step_size : float
    integrator : str
        In use; of "auto", the one chosen when the metric is renewed for the last time.
    n_steps : int
        Transitions made, those of the warm-up included.
    """

    def __init__(
        self,
        log_density: Callable[[torch.Tensor], torch.Tensor],
        dimension: int,
        bounds=None,
        settings: Settings | None = None,
        seed: int | torch.Generator = 0,
        device=None,
    ):
        self.settings = settings or Settings()
        if isinstance(seed, torch.Generator):
            self.generator = seed
        else:
            self.generator = torch.Generator(device=device or "cpu")
            self.generator.manual_seed(int(seed))
        self.device = torch.device(device or self.generator.device)
        low, high = (None, None) if bounds is None else bounds
        self.transform = Transform.from_bounds(low, high, dimension, device=self.device)
        self.density = Density(log_density, self.transform, self.settings.chunk)
        default = N_CHAINS.get(self.device.type, N_CHAINS_GPU)
        self.n_chains = default if self.settings.n_chains is None else int(self.settings.n_chains)
        self.maxima: list = []
        self.n_steps = 0
        self._state: hmc.State | None = None
        # A covariance of fewer draws than a few times the dimension is worse than none.
        self._ends = window_ends(self.settings.n_warmup, max(10, math.ceil(5 * dimension / self.n_chains)))
        self._nuts = self.settings.method == "nuts"
        # The one that copes best with a metric that is not yet adapted.
        self._first_integrator = (
            "leapfrog" if self._nuts or self.settings.integrator == "auto" else self.settings.integrator
        )
        self._integrator = self._first_integrator
        # A trajectory has at least one step, and larger steps would change nothing.
        longest = self.settings.trajectory_length * (1.0 + self.settings.jitter)
        self._largest_step = math.inf if self._nuts else longest
        self._target = self.settings.target_accept or TARGET_ACCEPT[self.settings.method]

    @property
    def dimension(self) -> int:
        return self.transform.dimension

    @property
    def integrator(self) -> str:
        return self._integrator

    @property
    def has_begun(self) -> bool:
        return self._state is not None

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up is over, and the step size and metric are fixed."""
        return self.has_begun and self.n_steps >= self.settings.n_warmup

    @property
    def step_size(self) -> float:
        return math.exp(self._averaging.log_step_average if self.is_warm else self._averaging.log_step)

    # ------------------------------------------------------------------ warm-up

    def begin(self, start) -> None:
        """Find the maximum, and starting points about it.

        Parameters
        ----------
        start : array or tensor (d,) or (m, d)
            Physical. With several points, chains take turns at the maxima that these lead to.

        Raises
        ------
        SamplingError
            The density is not finite at any point that was tried.
        ValueError
            Points outside the bounds, or of another dimension.
        """
        starts = torch.as_tensor(start, dtype=torch.float64, device=self.device).detach()
        starts = starts[None] if starts.ndim == 1 else starts
        if starts.ndim != 2 or starts.shape[1] != self.dimension:
            raise ValueError(
                f"Starting points must be of shape ({self.dimension},) or (m, {self.dimension}); got "
                f"{tuple(torch.as_tensor(start).shape)}."
            )
        self.maxima = approximate(self.density, self._in_support(self.transform.inverse(starts)))
        points = scatter(self.density, self.maxima, self.n_chains, self.generator, self.settings.dispersion)
        self.n_steps = 0
        self._take(points, self.maxima[0].metric)
        self._integrator = self._first_integrator
        self._adapt_afresh(1.0)

    def warm_up(self, start=None, callback: Callable | None = None) -> None:
        """Begin, unless that is done, and make the transitions of the warm-up that are left.

        Parameters
        ----------
        start : see :meth:`begin`
        callback : callable, optional
            Called with the sampler and the info after each transition.
        """
        if not self.has_begun:
            if start is None:
                raise ValueError("The chains need a starting point.")
            self.begin(start)
        while not self.is_warm:
            info = self._warm_up_step()
            if callback is not None:
                callback(self, info)

    def _warm_up_step(self):
        first = window_begin(self.settings.n_warmup)
        early = self.n_steps < first
        info = self._step(early)
        acceptance = pooled_acceptance(info.acceptance, info.energy_error, early)
        self._averaging = dual_averaging_update(self._averaging, acceptance, self._target, largest=self._largest_step)
        if self._ends and first < self.n_steps <= self._ends[-1]:
            self._moments = self._moments.update(self._state.position)
            if self.n_steps in self._ends:
                metric = self._moments.metric(self.metric)
                points, step_size = self.metric.colour(self._state.position), math.exp(self._averaging.log_step_average)
                self._take(points, metric)
                if self.settings.integrator == "auto" and not self._nuts and self.n_steps == self._ends[-1]:
                    self._integrator, step_size = self._fastest()
                self._adapt_afresh(step_size)
        return info

    def _fastest(self) -> tuple[str, float]:
        """The integrator, and its step size, of the largest squared jump for a gradient.

        Expected squared jump distance of trajectories of the nominal length from where the chains are (Pasarica &
        Gelman 2010, Statistica Sinica 20, 343), which are not made. The acceptance enters by its harmonic mean, so that
        an integrator loses that leaves chains standing in the tails, where few of them are at any time.
        """
        best = (-1.0, "leapfrog", 1.0)
        length = self.settings.trajectory_length
        for name, n_gradients in GRADIENTS.items():
            for n_steps in _TRIED_STEPS:
                size = length / n_steps
                jumps, acceptances, errors = [], [], []
                for _ in range(_TRIALS):
                    new, info = hmc.step(
                        self._state, self._whitened, size, self.generator, length, 0.0, name, always=True
                    )
                    jump = (new.position - self._state.position).square().sum(dim=1)
                    # Where nothing is accepted the position may be infinite.
                    jumps.append(torch.where(info.acceptance > 0, jump, 0.0))
                    acceptances.append(info.acceptance)
                    errors.append(info.energy_error)
                acceptance = pooled_acceptance(torch.cat(acceptances), torch.cat(errors), harmonic=True)
                if name == "rotation" and acceptance < _NEAR_GAUSSIAN:
                    continue
                best = max(best, (float(torch.cat(jumps).mean()) * acceptance / (n_steps * n_gradients), name, size))
        return best[1:]

    def _adapt_afresh(self, step_size):
        """Begin the adaptation of the step size, and the moments of the next window."""
        self._moments = Moments.empty(self._state.position[0])

        def acceptance(size):
            info = hmc.step(self._state, self._whitened, size, self.generator, size, 0.0, self._integrator)[1]
            return pooled_acceptance(info.acceptance, info.energy_error, harmonic=False)

        largest = min(self._largest_step, 1e10)
        step_size = initial_step_size(acceptance, min(step_size, largest), self._target, largest=largest)
        self._averaging = dual_averaging_init(step_size)

    def _take(self, points, metric):
        self.metric = metric
        self._whitened = metric.whitened(self.density)
        self._state = hmc.init(metric.whiten(points), self._whitened)

    # ------------------------------------------------------------------ draws

    def draw(self, n: int) -> Draws:
        """The next ``n`` transitions of all chains, after the warm-up."""
        if not self.is_warm:
            raise SamplingError("The sampler is not warmed up: call warm_up first.")
        if n < 1:
            raise ValueError(f"The number of draws must be at least 1, got {n}.")
        whitened, log_density, infos = [], [], []
        for _ in range(n):
            infos.append(self._step())
            whitened.append(self._state.position)
            log_density.append(self._state.log_density)
        points = self.metric.colour(torch.stack(whitened, dim=1).reshape(-1, self.dimension))
        shape = (self.n_chains, n)
        physical = self.transform.forward(points).reshape(*shape, self.dimension)
        log_jacobian = self.transform.log_jacobian(points).reshape(shape)
        info = type(infos[0])(*(torch.stack(fields, dim=1) for fields in zip(*infos, strict=True)))
        return Draws(physical, torch.stack(log_density, dim=1) - log_jacobian, info)

    def _step(self, early=False):
        settings = self.settings
        if settings.method == "nuts":
            options = dict(max_tree_depth=min(settings.max_tree_depth, 4) if early else settings.max_tree_depth)
            kernel = nuts
        else:
            options = dict(
                trajectory_length=settings.trajectory_length,
                jitter=settings.jitter,
                integrator=self._integrator,
                max_steps=_MAX_STEPS[early],
            )
            kernel = hmc
        self._state, info = kernel.step(self._state, self._whitened, self.step_size, self.generator, **options)
        self.n_steps += 1
        return info

    def _check_begun(self):
        if not self.has_begun:
            raise SamplingError("The sampler has no state yet: call begin, warm_up or load_state_dict first.")

    def _in_support(self, points: torch.Tensor) -> torch.Tensor:
        """Those of the points (m, d) where the density is finite, or else one found about them.

        Searched at distances that grow from a thousandth of a unit to several (a unit of the logit is a good part of
        the range between two bounds).
        """
        if bool(torch.isfinite(self.density(points)[0]).any()):
            return points
        options = dict(generator=self.generator, dtype=points.dtype, device=points.device)
        rows = torch.randint(len(points), (_ATTEMPTS,), generator=self.generator, device=points.device)
        centre = points[rows]
        distance = torch.logspace(-3.0, 0.7, _ATTEMPTS, dtype=points.dtype, device=points.device)[:, None]
        tried = centre + distance * centre.abs().clamp(min=1.0) * torch.randn(centre.shape, **options)
        values, _ = self.density(tried)
        if not bool(torch.isfinite(values).any()):
            raise SamplingError(
                f"The log-density or its gradient is not finite at any of {len(points) + _ATTEMPTS} points: the "
                f"{len(points)} given and {_ATTEMPTS} about them. Start where the log-density is finite, and check its "
                "value and gradient there; bounds that exclude what it cannot compute help too."
            )
        return tried[values.argmax()][None]

    # ------------------------------------------------------------------ storage

    def state_dict(self) -> dict:
        """All that the next transitions depend on: tensors and plain values."""
        self._check_begun()
        return {
            "method": self.settings.method,
            "integrator": self._integrator,
            "position": self._state.position.clone(),
            "log_density": self._state.log_density.clone(),
            "gradient": self._state.gradient.clone(),
            "metric.mean": self.metric.mean.clone(),
            "metric.factor": self.metric.factor.clone(),
            "metric.inverse_factor": self.metric.inverse_factor.clone(),
            "moments.count": self._moments.count,
            "moments.mean": self._moments.mean.clone(),
            "moments.scatter": self._moments.scatter.clone(),
            **{f"averaging.{name}": value for name, value in self._averaging._asdict().items()},
            "generator": self.generator.get_state(),
            "n_steps": self.n_steps,
            "n_gradients": self.density.n_gradients,
            "n_calls": self.density.n_calls,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from what :meth:`state_dict` gave, of a sampler of the same density and settings.

        Raises
        ------
        ValueError
            The state is of another method, dimension or number of chains, or incomplete.
        """
        shape = (self.n_chains, self.dimension)
        try:
            if state["method"] != self.settings.method or tuple(state["position"].shape) != shape:
                raise ValueError(
                    f"The state is of {state['method']} with (chains, parameters) = {tuple(state['position'].shape)}, "
                    f"the sampler {self.settings.method} with {shape}."
                )

            def tensors(kind, prefix):
                return kind(*(state[prefix + name] for name in kind._fields))

            averaging, metric = tensors(DualAveraging, "averaging."), tensors(Metric, "metric.")
            moments, chains = tensors(Moments, "moments."), tensors(hmc.State, "")
            self._integrator = state["integrator"]
            generator, counts = state["generator"], [state[name] for name in ("n_steps", "n_gradients", "n_calls")]
        except KeyError as error:
            raise ValueError(f"The state is incomplete: it lacks {error}.") from None
        self.generator.set_state(generator.cpu())
        self.n_steps, self.density.n_gradients, self.density.n_calls = counts
        self._averaging, self._moments = averaging, Moments(moments.count, *(x.to(self.device) for x in moments[1:]))
        self.metric = Metric(*(x.to(self.device) for x in metric))
        self._whitened = self.metric.whitened(self.density)
        self._state = hmc.State(*(x.to(self.device) for x in chains))


@dataclass(frozen=True)
class SamplingResult:
    """What :func:`sample` returns.

    Attributes
    ----------
    draws : tensor (n_chains, n_draws, d)
        Physical.
    log_density : tensor (n_chains, n_draws)
        Of the user's function.
    info : HMCInfo or NUTSInfo
        Of each transition; tensors (n_chains, n_draws).
    names : tuple of str
    metric : Metric
        In unbounded coordinates.
    step_size : float
    rhat, ess_bulk, ess_tail : arrays (d,)
    bfmi : array (n_chains,)
    n_gradients : int
        Points whose gradient was computed in all, search of the maximum and warm-up included.
    seconds : float
        Of wall time, without the statistics of the result.
    sampler : Sampler
        To go on with.
    """

    draws: torch.Tensor
    log_density: torch.Tensor
    info: hmc.HMCInfo | nuts.NUTSInfo
    names: tuple[str, ...]
    metric: Metric
    step_size: float
    rhat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    bfmi: np.ndarray
    n_gradients: int
    seconds: float
    sampler: Sampler

    @property
    def acceptance(self) -> float:
        """Mean acceptance probability."""
        return float(self.info.acceptance.mean())

    @property
    def n_divergences(self) -> int:
        return int(self.info.divergent.sum())

    def summary(self) -> diagnostics.Summary:
        """Moments, quantiles and convergence of each parameter; prints as a table."""
        return diagnostics.summarise(self.draws, self.names)

    def __str__(self) -> str:
        smallest = min(self.ess_bulk.min(), self.ess_tail.min())
        n_chains, n_draws, _ = self.draws.shape
        lines = [
            str(self.summary()),
            f"{n_chains} chains of {n_draws} draws; acceptance {self.acceptance:.2f}, step size {self.step_size:.3g}, "
            f"{self.n_divergences} divergences, mean E-BFMI {np.nanmean(self.bfmi):.2f}; {self.n_gradients} "
            f"gradients, {self.seconds:.1f} s, {smallest / max(self.seconds, 1e-9):.0f} effective draws a second.",
        ]
        return "\n".join(lines + [f"Warning: {line}" for line in self.warnings()])

    def warnings(self) -> list[str]:
        """What speaks against the draws, in words; empty if nothing does."""
        lines = []
        if not self.rhat.max() < 1.01:
            worst = self.names[int(np.nanargmax(self.rhat))] if np.isfinite(self.rhat).any() else "all parameters"
            lines.append(f"R-hat is {self.rhat.max():.3f} in {worst}: the chains do not agree; draw more.")
        outside = int(torch.isinf(self.info.energy_error).sum())
        if self.n_divergences > outside:
            lines.append(
                f"{self.n_divergences - outside} divergent trajectories: part of the density is too narrow for the "
                "step size; raise target_accept, or change parameters."
            )
        if outside > 0.05 * self.info.divergent.numel():
            lines.append(
                f"{outside} trajectories ended where the log-density is not finite: an edge of its support inside the "
                "bounds costs efficiency; set bounds there if you can."
            )
        if np.nanmean(self.bfmi) < diagnostics.LOW_BFMI:
            lines.append(f"E-BFMI is {np.nanmean(self.bfmi):.2f}: the tails are hardly explored; change parameters.")
        return lines


def sample(
    log_density: Callable[[torch.Tensor], torch.Tensor],
    start,
    bounds=None,
    method: str = "hmc",
    n_chains: int | None = None,
    n_draws: int = 1000,
    n_warmup: int = 200,
    seed: int | torch.Generator = 1,
    progress: bool = True,
    names: Sequence[str] | None = None,
    target_rhat: float | None = None,
    target_ess: float | None = None,
    **settings,
) -> SamplingResult:
    """Sample a density from one or more starting points.

    Parameters
    ----------
    log_density : callable, tensor (n, d) -> tensor (n,)
        Of physical points, up to a constant; differentiable by autograd. NaN or -inf rejects a point.
    start : array or tensor (d,) or (m, d)
        Physical. A tensor's device is where the chains are.
    bounds : pair of low, high, optional
        Each a number or (d,), None or infinite where there is none.
    method : "hmc" or "nuts"
    n_chains, n_warmup, **settings
        See :class:`~iaemu.sampling.settings.Settings`.
    n_draws : int
        Draws of each chain; the most, if there is a target.
    seed : int or torch.Generator
    progress : bool
        Show a bar with R-hat, effective sample size and divergences.
    names : d names, optional
        Of the parameters, for tables.
    target_rhat, target_ess : float, optional
        Stop at the first check at which the largest R-hat is below, and the smallest bulk and tail effective sample
        sizes are above. With one of them given, the other is 1.01 or 100 for each of four chains, 400.

    Returns
    -------
    SamplingResult

    Raises
    ------
    SamplingError
        The density is not finite at any starting point tried.
    ValueError
        A setting, bound or shape is wrong; the message names it.
    """
    begun = time.perf_counter()
    options = Settings(method=method, n_chains=n_chains, n_warmup=n_warmup, **settings)
    if n_draws < 4:
        raise ValueError(f"n_draws must be at least 4, which R-hat needs; got {n_draws}.")
    device = start.device if isinstance(start, torch.Tensor) else None
    dimension = torch.as_tensor(start).shape[-1] if torch.as_tensor(start).ndim else 1
    if names is not None and len(names) != dimension:
        raise ValueError(f"There are {len(names)} names for {dimension} parameters.")
    sampler = Sampler(log_density, dimension, bounds, options, seed, device)
    adaptive = target_rhat is not None or target_ess is not None
    target_rhat = 1.01 if target_rhat is None else target_rhat
    target_ess = 400.0 if target_ess is None else target_ess
    parts: list[Draws] = []
    with tqdm(total=options.n_warmup + n_draws, disable=not progress, unit="draw") as bar:
        bar.set_description("warm-up")
        sampler.warm_up(start, lambda *_: bar.update())
        bar.set_description("sampling")
        done, divergences = 0, 0
        while done < n_draws:
            # Checks cost time in proportion to the draws so far: they come at a growing distance.
            n = min(max(_FIRST_CHECK, done // 2) if adaptive else max(_FIRST_CHECK, n_draws // 5), n_draws - done)
            for size in [_UPDATE] * (n // _UPDATE) + [n % _UPDATE] * (n % _UPDATE > 0):
                parts.append(sampler.draw(size))
                divergences += int(parts[-1].info.divergent.sum())
                bar.update(size)
            done += n
            if done < 4 or not (adaptive or progress):
                continue
            so_far = torch.cat([part.positions for part in parts], dim=1)
            worst = float(diagnostics.rhat(so_far).max())
            smallest = float(min(diagnostics.ess(so_far).min(), diagnostics.ess(so_far, "tail").min()))
            bar.set_postfix(rhat=f"{worst:.3f}", ess=f"{smallest:.0f}", divergences=divergences)
            if adaptive and worst < target_rhat and smallest > target_ess:
                break
    seconds = time.perf_counter() - begun
    draws = Draws.join(parts)
    return SamplingResult(
        draws=draws.positions,
        log_density=draws.log_density,
        info=draws.info,
        names=tuple(names) if names is not None else tuple(f"x{index}" for index in range(dimension)),
        metric=sampler.metric,
        step_size=sampler.step_size,
        rhat=diagnostics.rhat(draws.positions),
        ess_bulk=diagnostics.ess(draws.positions),
        ess_tail=diagnostics.ess(draws.positions, "tail"),
        bfmi=diagnostics.bfmi(draws.info.energy),
        n_gradients=sampler.density.n_gradients,
        seconds=seconds,
        sampler=sampler,
    )

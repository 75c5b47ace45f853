"""The sampler: starting points, warm-up and draws of many chains, which can be saved and resumed.

Each transition depends only on the state before it and on a private random generator. :meth:`Sampler.state_dict`
contains both. So a run that is resumed at any transition, also of the warm-up, gives the same draws bit for bit as an
uninterrupted run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numpy.typing import ArrayLike

from iaemu.sampling import hmc, jumps, nuts
from iaemu.sampling.adaptation import (
    BEFORE_WINDOWS,
    DualAveraging,
    Moments,
    fastest_integrator,
    initial_step_size,
    pooled_acceptance,
    window_ends,
)
from iaemu.sampling.density import Density
from iaemu.sampling.errors import SamplingError
from iaemu.sampling.integrators import LogDensity
from iaemu.sampling.laplace import Laplace, approximate, in_support, scatter
from iaemu.sampling.metric import Metric
from iaemu.sampling.mixture import Mixture
from iaemu.sampling.settings import Settings
from iaemu.sampling.transforms import Bound, Transform, real_numbers

#: Default number of chains by device: on a CPU 64 points cost little more than one, on a GPU 512 points.
_N_CHAINS, _N_CHAINS_GPU = {"cpu": 64}, 512

#: Acceptance probability that the step size is adapted to. With 0.8 HMC makes a quarter more effective draws per
#: gradient for many densities. But for curved ones, where chains get stuck, the worst of several seeds makes a third of
#: the median.
_TARGET_ACCEPT = {"hmc": 0.9, "nuts": 0.8}

#: Largest number of steps of a trajectory of HMC; it is smaller in the early warm-up, when steps may be very small.
_MAX_STEPS = {False: 256, True: 16}


class Draws(NamedTuple):
    """Draws of all chains with their log-densities and diagnostics.

    Attributes
    ----------
    positions : tensor (n_chains, n, d)
        Points in the user's coordinates.
    log_density : tensor (n_chains, n)
        Values of the user's function, without the Jacobian of the transform.
    info : HMCInfo or NUTSInfo
        Diagnostics of each transition, tensors (n_chains, n).
    """

    positions: torch.Tensor
    log_density: torch.Tensor
    info: hmc.HMCInfo | nuts.NUTSInfo


class Sampler:
    """Many chains that sample a density together, in steps that can be saved and resumed.

    Parameters
    ----------
    log_density : callable, tensor (n, d) -> tensor (n,)
        Log-density of n points up to a constant, differentiable by autograd. Points where it is NaN or -inf are
        rejected.
    dimension : int
        Number of parameters d.
    bounds : (low, high) or Transform, optional
        Lower and upper bounds, each a number or d numbers; None or infinite if there is none. Or a transform to
        unbounded coordinates, such as that of :func:`iaemu.sampling.region`. The density is never evaluated outside.
    settings : Settings, optional
    seed : int or torch.Generator
        Seed of the sampler's generator, or a generator. The global generator of torch is not used.
    device : optional
        Device of the chains; by default that of the generator, or the CPU.

    Attributes
    ----------
    density : Density
        The density in unbounded coordinates; it counts gradients in ``n_gradients``.
    maxima : list of Laplace
        Gaussian approximations at the maxima where the chains started; empty after ``load_state_dict``.
    metric : Metric
    step_size : float
    integrator : str
        The current integrator. With the setting "auto" it is chosen at the last update of the metric.
    mixture : Mixture or None
        Approximation of the density, by means of which chains jump; None if they do not.
    n_steps : int
        Number of transitions so far, including the warm-up.
    """

    metric: Metric
    _state: hmc.State
    _whitened: LogDensity
    _averaging: DualAveraging
    _moments: Moments

    def __init__(
        self,
        log_density: Callable[[torch.Tensor], torch.Tensor],
        dimension: int,
        bounds: tuple[Bound, Bound] | Transform | None = None,
        settings: Settings | None = None,
        seed: int | torch.Generator = 0,
        device: str | torch.device | None = None,
    ):
        self.settings = settings or Settings()
        if isinstance(seed, torch.Generator):
            self.generator = seed
        else:
            self.generator = torch.Generator(device=device or "cpu")
            self.generator.manual_seed(int(seed))
        self.device = torch.device(device or self.generator.device)
        self.dimension = dimension
        if not isinstance(bounds, Transform):
            low, high = (None, None) if bounds is None else bounds
            bounds = Transform.from_bounds(low, high, dimension, device=self.device)
        if bounds.dimension != dimension:
            raise ValueError(f"The transform is of {bounds.dimension} parameters, but the density has {dimension}.")
        self.transform = bounds
        self.density = Density(log_density, self.transform, self.settings.chunk)
        self.n_chains = int(self.settings.n_chains or _N_CHAINS.get(self.device.type, _N_CHAINS_GPU))
        self.maxima: list[Laplace] = []
        self.n_steps = 0
        self.mixture: Mixture | None = None
        self._window: list[torch.Tensor] = []  # positions of the chains in the last window
        self._has_begun = False
        # A covariance from fewer draws than a few times the dimension is worse than none.
        self._ends = window_ends(self.settings.n_warmup, max(10, math.ceil(5 * dimension / self.n_chains)))
        self._nuts = self.settings.method == "nuts"
        # The leapfrog is the most robust one while the metric is not adapted.
        self._first_integrator = (
            "leapfrog" if self._nuts or self.settings.integrator == "auto" else self.settings.integrator
        )
        self.integrator = self._first_integrator
        # A trajectory has at least one step, so larger steps would have no effect.
        longest = self.settings.trajectory_length * (1.0 + self.settings.jitter)
        self._largest_step = math.inf if self._nuts else longest
        self._target = self.settings.target_accept or _TARGET_ACCEPT[self.settings.method]

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up is complete, so that step size and metric are fixed."""
        return self._has_begun and self.n_steps >= self.settings.n_warmup

    @property
    def step_size(self) -> float:
        """The current step size, which changes during the warm-up."""
        return math.exp(self._averaging.log_step_average if self.is_warm else self._averaging.log_step)

    def begin(self, start: ArrayLike | torch.Tensor, callback: Callable[[], object] | None = None) -> None:
        """Find the maxima of the density, and starting points of the chains about them.

        Parameters
        ----------
        start : array or tensor (d,) or (m, d)
            Points from which maxima are searched. If there are several maxima, the chains start about them in turn.
        callback : callable, optional
            Called after the search for the maximum from each starting point.

        Raises
        ------
        SamplingError
            The density is not finite at any point that was tried.
        ValueError
            Points are outside the bounds, or of another dimension.
        """
        starts = real_numbers("Starting points", start, self.device)
        given = tuple(starts.shape)
        starts = starts[None] if starts.ndim == 1 else starts
        if starts.ndim != 2 or starts.shape[1] != self.dimension or not len(starts):
            raise ValueError(
                f"Starting points must have the shape ({self.dimension},) or (m, {self.dimension}); got {given}."
            )
        starts = in_support(self.density, self.transform.inverse(starts), self.generator)
        self.maxima = approximate(self.density, starts, callback)
        points = scatter(self.density, self.maxima, self.n_chains, self.generator, self.settings.dispersion)
        self.n_steps, self.mixture, self._window = 0, None, []
        self._move(points, self.maxima[0].metric)
        self.integrator = self._first_integrator
        self._adapt_afresh(1.0)

    def warm_up(self, start: ArrayLike | torch.Tensor | None = None, callback: Callable | None = None) -> None:
        """Make the remaining transitions of the warm-up.

        Parameters
        ----------
        start : array or tensor, optional
            Passed to :meth:`begin`, if that has not been called.
        callback : callable, optional
            Called after each transition with the sampler and the info.

        Raises
        ------
        ValueError
            The chains have not started, and there is no starting point.
        """
        if not self._has_begun:
            if start is None:
                raise ValueError("The chains need a starting point: give start, or call begin first.")
            self.begin(start)
        while not self.is_warm:
            info = self._warm_up_step()
            if callback is not None:
                callback(self, info)

    def draw(self, n: int, callback: Callable | None = None) -> Draws:
        """Make the next draws of all chains, after the warm-up.

        Parameters
        ----------
        n : int
            Number of draws of each chain.
        callback : callable, optional
            Called with the sampler and the info after each transition.

        Returns
        -------
        Draws

        Raises
        ------
        SamplingError
            The warm-up is not complete.
        ValueError
            ``n`` is below 1.
        """
        if not self.is_warm:
            raise SamplingError("The warm-up is not complete; call warm_up first.")
        if n < 1:
            raise ValueError(f"The number of draws must be at least 1; got {n}.")
        whitened, log_density, infos = [], [], []
        for _ in range(n):
            infos.append(self._step())
            whitened.append(self._state.position)
            log_density.append(self._state.log_density)
            if callback is not None:
                callback(self, infos[-1])
        points = self.metric.colour(torch.stack(whitened, dim=1).reshape(-1, self.dimension))
        physical = self.transform.forward(points).reshape(self.n_chains, n, self.dimension)
        log_jacobian = self.transform.log_jacobian(points).reshape(self.n_chains, n)
        info = type(infos[0])(*(torch.stack(fields, dim=1) for fields in zip(*infos, strict=True)))
        return Draws(physical, torch.stack(log_density, dim=1) - log_jacobian, info)

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which all further transitions depend, as tensors and plain values.

        Returns
        -------
        dict of str to tensor, str, int or float

        Raises
        ------
        SamplingError
            The chains have not started.
        """
        if not self._has_begun:
            raise SamplingError("The chains have not started; call begin, warm_up or load_state_dict first.")
        state = {
            "method": self.settings.method,
            "integrator": self.integrator,
            **self._state._asdict(),
            **{f"metric.{name}": value for name, value in self.metric._asdict().items()},
            **{f"moments.{name}": value for name, value in vars(self._moments).items()},
            **{f"averaging.{name}": value for name, value in vars(self._averaging).items()},
            **({} if self.mixture is None else {f"mixture.{k}": v for k, v in self.mixture._asdict().items()}),
            **({"window": torch.stack(self._window)} if self._window else {}),
            "transform": self.transform.numbers(),
            "generator": self.generator.get_state(),
            "n_steps": self.n_steps,
            "n_gradients": self.density.n_gradients,
            "n_calls": self.density.n_calls,
        }
        return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of a sampler with the same density and settings.

        Parameters
        ----------
        state : dict
            From :meth:`state_dict`.

        Raises
        ------
        ValueError
            The state has another method, dimension, number of chains or region, or is incomplete.
        """
        shape = (self.n_chains, self.dimension)

        def _read(kind: Any, prefix: str) -> Any:
            values = (state[prefix + name] for name in kind.__match_args__)
            return kind(*(x.to(self.device) if isinstance(x, torch.Tensor) else x for x in values))

        try:
            if state["method"] != self.settings.method or tuple(state["position"].shape) != shape:
                raise ValueError(
                    f"The state is that of {state['method']} with (chains, parameters) = "
                    f"{tuple(state['position'].shape)}, but the sampler is {self.settings.method} with {shape}."
                )
            averaging, metric = _read(DualAveraging, "averaging."), _read(Metric, "metric.")
            moments, chains = _read(Moments, "moments."), _read(hmc.State, "")
            mixture = _read(Mixture, "mixture.") if "mixture.means" in state else None
            if not torch.equal(state["transform"].to(self.device), self.transform.numbers()):
                raise ValueError("The state is that of a density with other bounds.")
            integrator, generator = state["integrator"], state["generator"]
            counts = [state[name] for name in ("n_steps", "n_gradients", "n_calls")]
        except KeyError as error:
            raise ValueError(f"The state is incomplete: it lacks {error}.") from None
        self.generator.set_state(generator.cpu())
        self.integrator, self.metric, self._averaging, self._moments = integrator, metric, averaging, moments
        self.n_steps, self.density.n_gradients, self.density.n_calls = counts
        self.mixture, self._window = mixture, [*state.get("window", torch.empty(0)).to(self.device)]
        self._whitened = metric.whitened(self.density)
        self._state, self._has_begun = chains, True

    def _step(self, early=False) -> hmc.HMCInfo | nuts.NUTSInfo:
        settings = self.settings
        info: hmc.HMCInfo | nuts.NUTSInfo
        here = self._state, self._whitened, self.step_size, self.generator
        if self._nuts:
            depth = min(settings.max_tree_depth, 4) if early else settings.max_tree_depth
            self._state, info = nuts.step(*here, depth)
        else:
            moved = None
            if self.mixture is not None:
                n_proposals = settings.n_proposals or jumps.PROPOSALS
                start, moved = jumps.jump(
                    self._state, self.density, self.metric, self.mixture, n_proposals, self.generator
                )
                here = start, *here[1:]
            how = settings.trajectory_length, settings.jitter, self.integrator, _MAX_STEPS[early]
            self._state, info = hmc.step(*here, *how)
            info = info if moved is None else info._replace(jumped=moved)
        self.n_steps += 1
        return info

    def _warm_up_step(self) -> hmc.HMCInfo | nuts.NUTSInfo:
        first = round(BEFORE_WINDOWS * self.settings.n_warmup)
        early = self.n_steps < first
        info = self._step(early)
        acceptance = pooled_acceptance(info.acceptance, info.energy_error, early)
        self._averaging = self._averaging.update(acceptance, self._target, self._largest_step)
        if self._ends and first < self.n_steps <= self._ends[-1]:
            self._moments = self._moments.update(self._state.position)
            last = self.n_steps > (self._ends[-2] if len(self._ends) > 1 else first)
            if last and not self._nuts and self.settings.n_proposals != 0:
                self._window.append(self._state.position)
            if self.n_steps in self._ends:
                step_size = math.exp(self._averaging.log_step_average)
                before = self.metric
                self._move(before.colour(self._state.position), self._moments.metric(before))
                if self.n_steps == self._ends[-1] and not self._nuts:
                    if self.settings.integrator == "auto":
                        how = self._state, self._whitened, self.generator, self.settings.trajectory_length
                        self.integrator, step_size = fastest_integrator(*how)
                    self._approximate(before)
                self._adapt_afresh(step_size)
        return info

    def _approximate(self, before: Metric) -> None:
        """Fit the approximation by means of which chains jump to the draws of the last window, if jumps pay."""
        given = self.settings.n_proposals
        # The rotation is chosen if trajectories lead to nearly independent points.
        if given != 0 and (given or self.integrator != "rotation"):
            # A generator of its own: chains that do not jump are the same as without this trial.
            generator = torch.Generator(device=self.device)
            generator.set_state(self.generator.get_state())
            generator.manual_seed(int(torch.randint(2**62, (), generator=generator, device=self.device)))
            draws = self.transform.forward(before.colour(torch.cat(self._window)))
            mixture: Mixture | None = None
            try:
                mixture = Mixture.fit(draws, generator)
            except torch.linalg.LinAlgError:
                pass  # a density too steep to have a width: the draws do not spread
            if mixture is not None and (given or jumps.pays(mixture, self.density, generator)):
                self.mixture = mixture
        self._window = []

    def _adapt_afresh(self, step_size: float) -> None:
        """Start a new adaptation of the step size, and the moments of a new window."""
        self._moments = Moments.empty(self._state.position[0])

        def acceptance(size: float) -> float:
            info = hmc.step(self._state, self._whitened, size, self.generator, size, 0.0, self.integrator)[1]
            return pooled_acceptance(info.acceptance, info.energy_error, harmonic=False)

        largest = min(self._largest_step, 1e10)
        self._averaging = DualAveraging.begin(
            initial_step_size(acceptance, min(step_size, largest), self._target, largest)
        )

    def _move(self, points: torch.Tensor, metric: Metric) -> None:
        """Move the chains to unbounded points, and set the metric."""
        self.metric = metric
        self._whitened = metric.whitened(self.density)
        self._state = hmc.init(metric.whiten(points), self._whitened)
        self._has_begun = True

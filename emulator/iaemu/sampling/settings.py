"""Settings of the sampler, and their checks."""

from __future__ import annotations

import math
import numbers
import reprlib
from dataclasses import dataclass, fields

from iaemu.sampling.integrators import INTEGRATORS

_METHODS = ("hmc", "nuts")

#: Largest number of chains, transitions and points, far more than is useful or fits in memory.
_MOST = 1_000_000


@dataclass(frozen=True)
class Settings:
    """Settings of a :class:`~iaemu.sampling.Sampler`.

    Attributes
    ----------
    method : "hmc" or "nuts"
    n_chains : int, optional
        Number of chains that move together; by default 64, or 512 on a GPU.
    n_warmup : int
        Number of transitions of the warm-up, which are not part of the draws.
    target_accept : float, optional
        Mean acceptance probability that the step size is adapted to; by default 0.9 for HMC and 0.8 for NUTS.
    trajectory_length : float
        Nominal length of the trajectories of HMC, in standard deviations. For a Gaussian, pi / 2 leads to independent
        draws.
    jitter : float
        Lengths are uniform within this fraction of the nominal length on both sides.
    integrator : "auto", "leapfrog", "two-stage" or "rotation"
        Integrator of HMC. "leapfrog" and "rotation" need one gradient per step, "two-stage" needs two with a smaller
        error; "rotation" is exact for Gaussians. "auto" measures in the warm-up which one moves furthest per gradient.
        NUTS always uses the leapfrog.
    max_tree_depth : int
        Largest tree depth of NUTS: at most ``2**max_tree_depth - 1`` steps.
    dispersion : float
        Spread of the starting points about the maximum, in standard deviations of the Gaussian approximation there.
    chunk : int
        Largest number of points in one call of the log-density.
    n_proposals : int, optional
        Number of points among which a chain of HMC may jump before each trajectory, see :mod:`iaemu.sampling.jumps`;
        0 for no jumps. By default 16, if the warm-up finds that trajectories are not nearly independent already, and
        that jumps succeed.

    Raises
    ------
    ValueError
        A value is out of range; the message names it.
    """

    method: str = "hmc"
    n_chains: int | None = None
    n_warmup: int = 200
    target_accept: float | None = None
    trajectory_length: float = 0.5 * math.pi
    jitter: float = 0.3
    integrator: str = "auto"
    max_tree_depth: int = 10
    dispersion: float = 2.0
    chunk: int = 256
    n_proposals: int | None = None

    def __post_init__(self):
        self._choice("method", _METHODS)
        self._choice("integrator", ("auto", *INTEGRATORS))
        self._number("n_chains", 2, _MOST, whole=True, optional=True)
        self._number("n_warmup", 20, _MOST, whole=True)
        self._number("target_accept", 0.1, 0.999, optional=True)
        self._number("trajectory_length", 1e-3, 1e3)
        self._number("jitter", 0.0, 0.99)
        self._number("max_tree_depth", 1, 20, whole=True)
        self._number("dispersion", 1e-3, 100.0)
        self._number("chunk", 1, _MOST, whole=True)
        self._number("n_proposals", 0, 10_000, whole=True, optional=True)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the settings.

        Returns
        -------
        tuple of str
        """
        return tuple(field.name for field in fields(cls))

    def _choice(self, name, choices):
        value = getattr(self, name)
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {reprlib.repr(value)}.")

    def _number(self, name, lowest, highest, whole=False, optional=False):
        value = getattr(self, name)
        if value is None and optional:
            return
        kind = "a whole number" if whole else "a number"
        good = isinstance(value, numbers.Real) and not isinstance(value, bool) and lowest <= value <= highest
        if not good or (whole and value != int(value)):
            bound = f"between {lowest:.7g} and {highest:.7g}"
            raise ValueError(f"{name} must be {kind} {bound}; got {reprlib.repr(value)}.")

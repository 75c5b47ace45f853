"""The Dimroth-Watson distribution of cos(t) by inversion of its cumulative distribution.

halotools draws from p(x) ~ exp(-k x^2), -1 <= x <= 1, by rejection: how many random numbers a draw takes depends on k,
so that with the same seed the draws at two strengths have little in common. Inversion takes one number a draw, and
moves each draw continuously with the strength. The distribution is the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import dawsn, erf, erfinv

# Below, a uniform distribution to rounding; and nothing is divided by 0.
_ISOTROPIC = 1e-12
_MAX_STEPS = 100


def quantile(u: ArrayLike, k: ArrayLike) -> np.ndarray:
    """x with cumulative probability ``u``, for p(x) ~ exp(-k x^2) on [-1, 1]; float64, the shape of both broadcast.

    Parameters
    ----------
    u : array in [0, 1]
    k : array
        halotools' shape parameter, -tan(pi mu / 2): negative for axes that are aligned. May be infinite.

    Raises
    ------
    ValueError
        ``u`` outside [0, 1], or NaN.
    """
    u, k = np.broadcast_arrays(np.asarray(u, dtype=np.float64), np.asarray(k, dtype=np.float64))
    if not np.all((u >= 0) & (u <= 1)) or np.isnan(k).any():
        raise ValueError("u must be in [0, 1], and k not NaN.")
    share, kappa = np.abs(2.0 * u - 1.0), np.clip(np.abs(k), _ISOTROPIC, 1e300)
    aligned = k < 0
    x = np.empty(u.shape)
    x[~aligned] = _girdle(share[~aligned], kappa[~aligned])
    x[aligned] = _bipolar(share[aligned], kappa[aligned])
    return np.copysign(np.minimum(x, 1.0), u - 0.5)


def _girdle(share, kappa):
    """|x| below which lies that share, for exp(-kappa x^2)."""
    root = np.sqrt(kappa)
    return erfinv(share * erf(root)) / root


def _bipolar(share, kappa):
    """The same for exp(kappa x^2).

    The logarithm of the share, kappa (x^2 - 1) + log D(root x) / D(root) with Dawson's integral D, is convex in log x:
    Newton's method from x = 1 comes down on the solution without passing it.
    """
    root = np.sqrt(kappa)
    with np.errstate(divide="ignore"):
        target, top = np.log(share), np.log(dawsn(root))
    log_x = np.zeros_like(share)
    todo = np.isfinite(target) & (target < 0)
    log_x[np.isneginf(target)] = -np.inf
    for _ in range(_MAX_STEPS):
        y, r = log_x[todo], root[todo]
        z = r * np.exp(y)
        d = dawsn(z)
        excess = kappa[todo] * np.expm1(2.0 * y) + np.log(d) - top[todo] - target[todo]
        step = excess * d / z
        log_x[todo] = y - step
        todo[todo] = np.abs(step) > 1e-12 * np.maximum(np.abs(y), 1e-2)
        if not todo.any():
            break
    return np.exp(log_x)

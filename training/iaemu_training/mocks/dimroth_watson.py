"""Draws from the Dimroth-Watson distribution by inversion of its cumulative distribution.

halotools draws x = cos(theta) from p(x) ~ exp(-k x^2), -1 <= x <= 1, by rejection. The number of random numbers for
each draw then depends on k, so that draws with the same seed at two alignment strengths are unrelated. Inversion needs
one random number for each draw, and each draw is a continuous function of the strength. The distribution is the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import dawsn, erf, erfinv

# For smaller |k| the distribution is uniform to rounding; the limit avoids a division by 0.
_ISOTROPIC = 1e-12
_MAX_STEPS = 100


def quantile(u: ArrayLike, k: ArrayLike) -> np.ndarray:
    """Return x with cumulative probability ``u``, for p(x) ~ exp(-k x^2) on [-1, 1].

    Parameters
    ----------
    u : array
        Probabilities in [0, 1].
    k : array
        halotools' shape parameter -tan(pi mu / 2) = -kappa, negative for aligned axes. May be infinite.

    Returns
    -------
    float64 array
        In the common shape of ``u`` and ``k``.

    Raises
    ------
    ValueError
        ``u`` is outside [0, 1], or a value is NaN.
    """
    u, k = np.broadcast_arrays(np.asarray(u, dtype=np.float64), np.asarray(k, dtype=np.float64))
    if not np.all((u >= 0) & (u <= 1)) or np.isnan(k).any():
        raise ValueError("u must be in [0, 1], and k must not be NaN.")
    share, kappa = np.abs(2.0 * u - 1.0), np.clip(np.abs(k), _ISOTROPIC, 1e300)
    aligned = k < 0
    x = np.empty(u.shape)
    x[~aligned] = _girdle(share[~aligned], kappa[~aligned])
    x[aligned] = _bipolar(share[aligned], kappa[aligned])
    return np.copysign(np.minimum(x, 1.0), u - 0.5)


def _girdle(share, kappa):
    """Return the |x| below which a share of the probability lies, for exp(-kappa x^2)."""
    root = np.sqrt(kappa)
    return erfinv(share * erf(root)) / root


def _bipolar(share, kappa):
    """Return the same for exp(kappa x^2).

    The logarithm of the share, kappa (x^2 - 1) + log D(root x) / D(root) with Dawson's integral D, is convex in log x,
    so Newton's method from x = 1 converges from above.
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

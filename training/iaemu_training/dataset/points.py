"""Parameter points that fill the supported region of a model."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import qmc

from iaemu.parameters import ALIGNMENT_PARAMETERS, OCCUPATION_PARAMETERS, PARAMETERS, Support

_LOGMMIN = PARAMETERS.index("logMmin")


def tube_points(support: Support, n: int, seed: int) -> np.ndarray:
    """Return the paper's points (arXiv:2504.05235, section 2.2), (n, 7): ``logMmin`` evenly spaced, the rest uniform.

    Parameters are uniform in the range that is supported at each ``logMmin``, within four standard deviations of the
    line of Zheng et al. 2007 or less.
    """
    unit = np.random.default_rng(seed).uniform(size=(_at_least_one(n), len(PARAMETERS)))
    unit[:, _LOGMMIN] = np.linspace(0.0, 1.0, n) if n > 1 else 0.5
    return support.from_unit_cube(unit)


def sobol_points(support: Support, n: int, seed: int) -> np.ndarray:
    """Return quasi-random points (scrambled Sobol) of all seven parameters, (n, 7): uniform, with fewer gaps."""
    return support.from_unit_cube(_sobol(len(PARAMETERS), n, seed))


def occupation_points(support: Support, n: int, seed: int) -> np.ndarray:
    """Return quasi-random (scrambled Sobol) occupation parameters (n, 5) that fill the supported region."""
    unit = np.full((n, len(PARAMETERS)), 0.5)
    unit[:, len(ALIGNMENT_PARAMETERS) :] = _sobol(len(OCCUPATION_PARAMETERS), n, seed)
    return support.from_unit_cube(unit)[:, len(ALIGNMENT_PARAMETERS) :]


#: Parameter sets by name, ``(support, n, seed) -> (n, 7)``.
PARAMETER_SETS = {"tube": tube_points, "sobol": sobol_points}


def _at_least_one(n: int) -> int:
    if n < 1:
        raise ValueError(f"The number of points must be at least 1, got {n}.")
    return n


def _sobol(dimensions: int, n: int, seed: int) -> np.ndarray:
    # A Sobol sequence is balanced for powers of two; a part of one is still better than random points.
    return qmc.Sobol(dimensions, seed=seed).random(2 ** math.ceil(math.log2(_at_least_one(n))))[:n]

"""Parameter points that fill the supported region of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import qmc

from iaemu.models.redshifts import snapshot_weights, support_at
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


def occupation_points(
    support: Support, n: int, seed: int, snapshots: Sequence[Mapping[str, Any]] | None = None
) -> np.ndarray:
    """Return quasi-random (scrambled Sobol) occupation parameters that fill the supported region.

    A quarter of the points has each parameter with probability one half at an end of its range, so that a network is
    trained at faces, edges and corners of the region. In half of the others, ranges are stretched by a tenth, and cut
    off. With several redshifts, half of the points are at those of the snapshots, in equal parts, and the redshifts of
    the others fill the range in the same way.

    Parameters
    ----------
    support : Support
        Not used with ``snapshots``.
    n, seed : int
    snapshots : sequence of mapping, optional
        The "redshift" and the "support" of each, redshifts increasing.

    Returns
    -------
    array (n, 5) or (n, 6)
        The redshift is the last column, if there are several.
    """
    n_occupation = len(OCCUPATION_PARAMETERS)
    cube = _sobol(n_occupation + (snapshots is not None), n, seed)
    # Not every fourth point: the numbers of a Sobol sequence with one remainder are in one part of the cube.
    order = np.random.default_rng(seed).permutation(n)
    stretch = np.where(order % 4 == 3, 2.0, np.where(order % 2 == 0, 1.1, 1.0))
    filled = np.clip(0.5 + (cube - 0.5) * stretch[:, None], 0.0, 1.0)
    unit = np.full((n, len(PARAMETERS)), 0.5)
    unit[:, len(ALIGNMENT_PARAMETERS) :] = filled[:, :n_occupation]
    if snapshots is None:
        return support.from_unit_cube(unit)[:, len(ALIGNMENT_PARAMETERS) :]
    known = [float(one["redshift"]) for one in snapshots]
    redshift = known[0] + filled[:, n_occupation] * (known[-1] - known[0])
    redshift = np.where(order // 4 % 2 == 0, np.take(known, order // 8 % len(known)), redshift)
    points = np.empty((n, n_occupation))
    used = snapshot_weights(known, redshift) != 0.0
    for pattern in np.unique(used, axis=0):  # the region is the same wherever the same snapshots are used
        rows = np.flatnonzero((used == pattern).all(axis=1))
        region = support_at(snapshots, redshift[rows[0]])
        points[rows] = region.from_unit_cube(unit[rows])[:, len(ALIGNMENT_PARAMETERS) :]
    return np.column_stack([points, redshift])


def boundary_points(support: Support, n_per_face: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points on the faces of the supported region of the occupation, and its corners.

    Parameters
    ----------
    support : Support
    n_per_face : int
        Number of random points on each of the 10 faces, of the five occupation parameters.
    seed : int

    Returns
    -------
    faces : array (10 n_per_face, 7)
    corners : array (32, 7)
        With random alignment strengths, as the faces.
    """
    rng, n_free = np.random.default_rng(seed), len(ALIGNMENT_PARAMETERS)
    faces = rng.uniform(size=(2, len(OCCUPATION_PARAMETERS), n_per_face, len(PARAMETERS)))
    for end in (0, 1):
        for column in range(len(OCCUPATION_PARAMETERS)):
            faces[end, column, :, n_free + column] = end
    corners = rng.uniform(size=(2 ** len(OCCUPATION_PARAMETERS), len(PARAMETERS)))
    corners[:, n_free:] = np.array(list(np.ndindex(*[2] * len(OCCUPATION_PARAMETERS))))
    return support.from_unit_cube(faces.reshape(-1, len(PARAMETERS))), support.from_unit_cube(corners)


#: Parameter sets by name, ``(support, n, seed) -> (n, 7)``.
PARAMETER_SETS = {"tube": tube_points, "sobol": sobol_points}


def _at_least_one(n: int) -> int:
    if n < 1:
        raise ValueError(f"The number of points must be at least 1, got {n}.")
    return n


def _sobol(dimensions: int, n: int, seed: int) -> np.ndarray:
    # A Sobol sequence is balanced for powers of two; a part of one is still better than random points.
    return qmc.Sobol(dimensions, seed=seed).random(2 ** math.ceil(math.log2(_at_least_one(n))))[:n]

"""Transform of a region bounded by linear inequalities to unbounded coordinates, one parameter after the other.

Each parameter lies between limits that are functions of the parameters before it,

    low_k(theta_<k) < theta_k < high_k(theta_<k),    theta_k = low_k + (high_k - low_k) Phi(u_k),

so that every u is a point of the region and every point of the region has one u: no trajectory leaves it. The limits
are the largest of several linear functions, and the smallest of others. They are found by eliminating one parameter
after the other (Fourier-Motzkin elimination; Schrijver 1986, "Theory of Linear and Integer Programming", section 12.2),
so that they are never empty.

Phi is the normal distribution function. A density that is flat between two limits, or cut off by them, is normal in u,
where the logit would give it exponential tails.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.sampling.transforms import EDGE, Transform, real_numbers

#: Smaller coefficients are rounding errors, after scaling rows and parameters to 1.
_ROUNDING = 1e-12
#: Largest number of inequalities during the elimination.
_MOST = 2000


def region(low: ArrayLike, high: ArrayLike, matrix: ArrayLike, limits: ArrayLike) -> Transform:
    """Return the transform of the points between bounds with ``matrix @ theta <= limits``.

    Parameters
    ----------
    low, high : arrays (d,)
        Bounds, infinite if there is none.
    matrix : array (m, d)
        One row for each inequality.
    limits : array (m,)

    Returns
    -------
    Transform
        A :class:`Polytope`, or the transform of a box if that is the same region.

    Raises
    ------
    ValueError
        No point, or a region of zero volume, satisfies the inequalities; or they are too many.
    """
    low, high = (real_numbers("The bounds", bound).clone().numpy() for bound in (low, high))
    rows = np.atleast_2d(np.asarray(matrix, dtype=float)).reshape(-1, len(low))
    inequalities = _Inequalities(low, high, rows, np.asarray(limits, dtype=float).reshape(len(rows)))
    if not len(inequalities.rows):
        return Transform.from_bounds(inequalities.low, inequalities.high)
    # Parameters in many inequalities come first. Those that come last have the most complicated limits.
    order = np.argsort(-(inequalities.rows != 0).sum(axis=0), kind="stable")
    pieces: dict[int, np.ndarray] = {}
    for index in order[::-1]:
        pieces[int(index)] = inequalities.eliminate(index)
    return Polytope(inequalities.low, inequalities.high, [int(index) for index in order], pieces)


class _Inequalities:
    """Bounds, and inequalities ``rows @ theta <= limits`` of two parameters or more that are not implied by them."""

    def __init__(self, low: np.ndarray, high: np.ndarray, rows: np.ndarray, limits: np.ndarray):
        self.low, self.high = low, high
        self.rows, self.limits = rows[:0], limits[:0]
        self._add(rows, limits)

    def eliminate(self, index: int) -> np.ndarray:
        """Remove a parameter, and return its limits as rows (slopes for d parameters, constant, -1 or 1).

        The last number tells lower limits from upper ones. The inequalities that remain hold for the other parameters
        if and only if there is a value of this one.
        """
        coefficient = self.rows[:, index]
        holds = coefficient != 0
        slopes = -self.rows[holds] / coefficient[holds, None]
        slopes[:, index] = 0.0
        sides = np.sign(coefficient[holds])
        found = np.column_stack([slopes, self.limits[holds] / coefficient[holds], sides])
        box = np.zeros((2, found.shape[1]))
        box[:, -2:] = (self.low[index], -1.0), (self.high[index], 1.0)
        found = np.vstack([found, box[np.isfinite(box[:, -2])]])
        lower, upper = found[found[:, -1] < 0], found[found[:, -1] > 0]
        differences = (lower[:, None] - upper[None]).reshape(-1, found.shape[1])
        self.rows, self.limits = self.rows[~holds], self.limits[~holds]
        self._add(differences[:, :-2], -differences[:, -2])
        return found

    def _add(self, rows: np.ndarray, limits: np.ndarray) -> None:
        """Add inequalities; those of one parameter become bounds."""
        if len(rows) + len(self.rows) > _MOST:
            raise ValueError(f"The inequalities of the region imply more than {_MOST} others.")
        size = np.abs(rows).max(axis=1, initial=0.0)
        constant = size == 0
        if np.any(limits[constant] < -_ROUNDING):
            raise ValueError("No point satisfies the inequalities of the region.")
        rows, limits = rows[~constant] / size[~constant, None], limits[~constant] / size[~constant]
        rows = np.where(np.abs(rows) < _ROUNDING, 0.0, rows)
        single = (rows != 0).sum(axis=1) == 1
        for row, limit in zip(rows[single], limits[single], strict=True):
            index = int(np.flatnonzero(row)[0])
            if row[index] > 0:
                self.high[index] = min(self.high[index], limit / row[index])
            else:
                self.low[index] = max(self.low[index], limit / row[index])
        if not np.all(self.low < self.high):
            index = int(np.flatnonzero(~(self.low < self.high))[0])
            raise ValueError(
                f"No point satisfies the inequalities of the region: the lower bound of parameter {index} would be "
                f"{self.low[index]:.6g}, and its upper bound {self.high[index]:.6g}."
            )
        self.rows = np.vstack([self.rows, rows[~single]])
        self.limits = np.concatenate([self.limits, limits[~single]])
        self._prune()

    def _prune(self) -> None:
        """Remove what follows from the bounds, and of parallel inequalities all but the strictest."""
        with np.errstate(invalid="ignore"):
            ends = np.where(self.rows > 0, self.rows * self.high, np.where(self.rows < 0, self.rows * self.low, 0.0))
        implied = ends.sum(axis=1) <= self.limits
        strictest: dict[tuple, int] = {}
        for number in np.flatnonzero(~implied):
            key = tuple(self.rows[number].round(12))
            if key not in strictest or self.limits[number] < self.limits[strictest[key]]:
                strictest[key] = int(number)
        kept = sorted(strictest.values())
        self.rows, self.limits = self.rows[kept], self.limits[kept]


class _Level:
    """Parameters whose limits depend on parameters of earlier levels only, so that they are computed together."""

    def __init__(self, indices: list[int], pieces: dict[int, np.ndarray], dimension: int):
        self.indices = torch.tensor(indices)
        self.slopes, self.constants = [], []
        for side, empty in ((-1.0, -math.inf), (1.0, math.inf)):
            found = [pieces[index][pieces[index][:, -1] == side] for index in indices]
            most = max(1, *(len(one) for one in found))
            slopes = torch.zeros(len(indices), most, dimension, dtype=torch.float64)
            constants = torch.full((len(indices), most), empty, dtype=torch.float64)
            for row, one in enumerate(found):
                slopes[row, : len(one)] = torch.as_tensor(one[:, :-2])
                constants[row, : len(one)] = torch.as_tensor(one[:, -2])
            self.slopes.append(slopes)
            self.constants.append(constants)
        self.has_low, self.has_high = (torch.isfinite(constants).any(dim=1) for constants in self.constants)
        self.two = self.has_low & self.has_high
        self.all_two = bool(self.two.all())
        self.moves = any(bool((slopes != 0).any()) for slopes in self.slopes)
        self._rows = torch.arange(len(indices))

    def limits(self, physical: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return lower and upper limits (n, k) of points (n, d), and their gradients (n, k, d).

        The points need to contain the parameters of earlier levels only. A limit that does not exist is zero.
        """
        found = []
        for slopes, constants, exists, upper in zip(
            self.slopes, self.constants, (self.has_low, self.has_high), (False, True), strict=True
        ):
            k, most, d = slopes.shape
            if most == 1:
                values, active = constants[:, 0].expand(len(physical), k), slopes[:, 0].expand(len(physical), k, d)
                if self.moves:
                    values = values + physical @ slopes[:, 0].T
            else:
                lines = (physical @ slopes.reshape(-1, d).T).reshape(-1, k, most) + constants
                values, numbers = lines.min(dim=2) if upper else lines.max(dim=2)
                active = slopes[self._rows, numbers]
            found += [values if self.all_two else torch.where(exists, values, 0.0), active]
        return tuple(found)


class Polytope(Transform):
    """The transform of a region bounded by linear inequalities; made by :func:`region`.

    Parameters
    ----------
    low, high : arrays (d,)
        Bounds of the region, infinite if there is none.
    order : list of int
        Order in which the parameters get their limits.
    pieces : dict of parameter to array (m, d + 2)
        Limits of each: slopes with the earlier parameters, constants, and -1 for a lower or 1 for an upper limit.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, order: list[int], pieces: dict[int, np.ndarray]):
        super().__init__(torch.as_tensor(low), torch.as_tensor(high))
        depth: dict[int, int] = {}
        for index in order:
            before = np.flatnonzero((pieces[index][:, :-2] != 0).any(axis=0))
            depth[index] = 1 + max((depth[int(one)] for one in before), default=-1)
        self.levels = [
            _Level([index for index in order if depth[index] == level], pieces, len(low))
            for level in range(1 + max(depth.values()))
        ]

    def numbers(self) -> torch.Tensor:
        """Return all numbers that define the transform, to compare it with another one.

        Returns
        -------
        tensor (m,)
        """
        parts = [[level.indices.double(), *level.slopes, *level.constants] for level in self.levels]
        return torch.cat([super().numbers(), *(part.flatten() for level in parts for part in level)])

    def contains(self, physical: torch.Tensor) -> torch.Tensor:
        """Return whether physical points are in the region.

        Parameters
        ----------
        physical : tensor (n, d)

        Returns
        -------
        tensor of bool (n,)
        """
        inside = torch.ones(len(physical), dtype=torch.bool, device=physical.device)
        for level in self.levels:
            low, _, high, _ = level.limits(physical)
            value = physical[:, level.indices]
            within = ((value >= low) | ~level.has_low) & ((value <= high) | ~level.has_high)
            inside &= within.all(dim=1)
        return inside

    def forward_and_slopes(
        self, points: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Return physical points and the derivatives that the chain rule needs.

        Parameters
        ----------
        points : tensor (..., d)
            Unbounded coordinates u.

        Returns
        -------
        physical : tensor (..., d)
            theta.
        slope : tensor (..., d, d)
            d theta_k / d u_i, for k the row.
        log_jacobian : tensor (...)
            ``log |det d theta / d u|``.
        curvature : tensor (..., d)
            Gradient of ``log_jacobian``.
        """
        shape = points.shape
        points = points.reshape(-1, self.dimension)
        # Parameters of later levels have no influence yet.
        physical = torch.zeros_like(points)
        slope = points.new_zeros(*points.shape, self.dimension)
        curvature = torch.zeros_like(points)
        log_jacobian = points.new_zeros(len(points))
        for level in self.levels:
            low, low_slope, high, high_slope = level.limits(physical)
            width = high - low if level.all_two else torch.where(level.two, high - low, 1.0)
            u = points[:, level.indices]
            value, own, log_own, bend, fraction = _between(level, u, low, high, width)
            physical = physical.index_copy(1, level.indices, value)
            log_jacobian = log_jacobian + log_own.sum(dim=1)
            if level.moves:
                moved = torch.lerp(low_slope, high_slope, fraction[..., None])
                slope[:, level.indices] = moved @ slope
                wider = (high_slope - low_slope) * level.two[:, None] / width[..., None]
                curvature = curvature + (wider.sum(dim=1, keepdim=True) @ slope)[:, 0]
            slope[:, level.indices, level.indices] = own
            curvature[:, level.indices] += bend
        result = physical, slope, log_jacobian, curvature
        return tuple(part.reshape(*shape[:-1], *part.shape[1:]) for part in result)  # type: ignore[return-value]

    def inverse(self, physical: torch.Tensor) -> torch.Tensor:
        """Return the unbounded coordinates of physical points; points on a limit are moved inside by 1e-9 of the range.

        Parameters
        ----------
        physical : tensor (..., d)

        Returns
        -------
        tensor (..., d)

        Raises
        ------
        ValueError
            A point is outside the region, or NaN.
        """
        flat = physical.reshape(-1, self.dimension)
        points = torch.empty_like(flat)
        for level in self.levels:
            low, _, high, _ = level.limits(flat)
            value = flat[:, level.indices]
            above, below = value - low, high - value
            slack = 1e-9 * torch.maximum(value.abs(), torch.ones_like(value))
            outside = ~((above >= -slack) | ~level.has_low) | ~((below >= -slack) | ~level.has_high)
            if bool(outside.any()):
                row, column = (int(one) for one in torch.nonzero(outside)[0])
                raise ValueError(
                    f"Parameter {int(level.indices[column])} is {float(value[row, column]):.6g}, outside its limits "
                    f"[{float(low[row, column]):.6g}, {float(high[row, column]):.6g}] at this point."
                )
            width = torch.where(level.two, (high - low).clamp(min=1e-300), 1.0)
            lower = torch.special.ndtri((above / width).clamp(EDGE, 1.0 - EDGE))
            upper = -torch.special.ndtri((below / width).clamp(EDGE, 1.0 - EDGE))
            u = torch.where(above < below, lower, upper)
            u = torch.where(level.two, u, torch.where(level.has_low, torch.log(above.clamp(min=EDGE)), value))
            u = torch.where(level.has_high & ~level.two, -torch.log(below.clamp(min=EDGE)), u)
            points[:, level.indices] = u
        return points.reshape(physical.shape)


def _between(level: _Level, u: torch.Tensor, low: torch.Tensor, high: torch.Tensor, width: torch.Tensor):
    """Return values between limits, d value / d u, its log, the gradient of that, and d value / d (high limit)."""
    # Computed from the nearer end, so that values are within the limits also after rounding.
    below = torch.special.ndtr(-u.abs())
    value = torch.where(u < 0, torch.addcmul(low, width, below), torch.addcmul(high, width, below, value=-1.0))
    log_own = torch.log(width) - 0.5 * u.square() - 0.5 * math.log(2.0 * math.pi)
    bend, fraction = -u, torch.where(u < 0, below, 1.0 - below)
    if level.all_two:
        return value, torch.exp(log_own), log_own, bend, fraction
    # One limit: an exponential distance from it. None: the identity, with a sign and a logarithm of zero.
    one = (level.has_low ^ level.has_high).to(u.dtype) * torch.where(level.has_low, 1.0, -1.0)
    distance = torch.exp(one * u)
    alone = torch.where(level.has_low, low + distance, torch.where(level.has_high, high - distance, u))
    value = torch.where(level.two, value, alone)
    log_own = torch.where(level.two, log_own, one * u)
    bend = torch.where(level.two, bend, one)
    fraction = torch.where(level.two, fraction, level.has_high.to(u.dtype))
    return value, torch.exp(log_own), log_own, bend, fraction

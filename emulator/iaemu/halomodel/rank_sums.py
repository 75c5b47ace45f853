"""Sums over the satellites of a host, weighted with the probability of each rank, as functions of <Nsat>.

The sub-halo of rank k is occupied with probability P(N >= k), N ~ Poisson(<Nsat>). So a sum over the sub-halos of hosts
of one mass, each with its probability, depends on the parameters only through lambda = <Nsat>, and is a smooth function
of it: the probabilities change over sqrt(lambda) ranks. Here such sums are kept as cubic splines in lambda at nodes of
host mass, instead of by rank. No bins of rank are needed, and few numbers: the knots are nearly uniform in
sqrt(lambda).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.artifact import ArtifactError

#: Knots are at whole numbers of y(lambda) = _RATE log(1 + x / _BEND), x = sqrt(lambda + _OFFSET) - sqrt(_OFFSET), which
#: is smooth at lambda = 0. Their distance in x grows from 0.4 at x = 0 to 0.8 at x = 14.
_RATE, _BEND, _OFFSET = 35.0, 14.0, 0.25

#: Number of B-splines that are not zero between two knots.
_ORDER = 4

#: Up to this number of points, only the rows that are needed are read; beyond, a matrix product is faster.
_FEW = 8


def knot_coordinate(nsat: torch.Tensor) -> torch.Tensor:
    """Return the coordinate y of a mean number of satellites, in which the knots are whole numbers.

    Parameters
    ----------
    nsat : tensor
        <Nsat>, not negative.

    Returns
    -------
    tensor
    """
    return _RATE * torch.log1p((torch.sqrt(nsat + _OFFSET) - _OFFSET**0.5) / _BEND)


def mean_at(coordinate: ArrayLike) -> np.ndarray:
    """Return the mean number of satellites at a coordinate y, the inverse of :func:`knot_coordinate`.

    Parameters
    ----------
    coordinate : array

    Returns
    -------
    array
    """
    x = _BEND * np.expm1(np.asarray(coordinate) / _RATE)
    return x * (x + 2.0 * _OFFSET**0.5)


def spline_weights(coordinate: torch.Tensor) -> torch.Tensor:
    """Return the four uniform cubic B-splines that are not zero at a fraction of the way between two knots.

    Parameters
    ----------
    coordinate : tensor
        In [0, 1].

    Returns
    -------
    tensor (..., 4)
    """
    t, rest = coordinate, 1.0 - coordinate
    t3, rest3 = t**3, rest**3
    second = 4.0 - 6.0 * t**2 + 3.0 * t3
    third = 4.0 - 6.0 * rest**2 + 3.0 * rest3
    return torch.stack([rest3, second, third, t3], dim=-1) / 6.0


class RankSums:
    """Sums over the satellites of hosts at nodes of mass, as splines in <Nsat>.

    Parameters
    ----------
    log_mass : array (n_nodes,)
        Host masses of the nodes [log10 Msun/h].
    n_rows : array of int (n_nodes,)
        Number of B-splines of each node, at least 4.
    values : array (sum of n_rows, n_columns)
        Coefficients of the sums divided by <Nsat>^power.
    power : int
        1 for sums over satellites, 2 for sums over pairs of satellites of one host.

    Raises
    ------
    ArtifactError
        The arrays do not fit together.
    """

    def __init__(self, log_mass: ArrayLike, n_rows: ArrayLike, values: ArrayLike, power: int):
        rows = np.asarray(n_rows, dtype=np.int64)
        self.log_mass = torch.as_tensor(np.asarray(log_mass, dtype=np.float64))
        self.values = torch.as_tensor(np.asarray(values, dtype=np.float64))
        if rows.shape != self.log_mass.shape or len(self.values) != rows.sum() or rows.min(initial=_ORDER) < _ORDER:
            raise ArtifactError(
                f"The sums over ranks have {len(self.values)} rows for {len(self.log_mass)} masses; expected "
                f"{rows.sum()} rows, at least {_ORDER} for each mass."
            )
        self.power, self.n_rows = power, rows
        self._first = torch.as_tensor(np.cumsum(rows) - rows)
        self._last = torch.as_tensor(rows - _ORDER + 1.0)  # the largest coordinate

    def weights(self, nsat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which rows contribute to the sums, and their weights.

        Parameters
        ----------
        nsat : tensor (n, n_nodes), float64
            <Nsat> at the masses of the nodes. Beyond the last knot the sums are taken as proportional to its power.

        Returns
        -------
        rows : tensor of int (n, n_nodes, 4)
        weights : tensor (n, n_nodes, 4)
        """
        coordinate = torch.minimum(knot_coordinate(nsat), self._last)
        interval = torch.minimum(coordinate.detach().floor(), self._last - 1.0)
        rows = (self._first + interval.long())[..., None] + torch.arange(_ORDER)
        return rows, spline_weights(coordinate - interval) * (nsat**self.power)[..., None]

    def total(self, rows: torch.Tensor, weights: torch.Tensor, values: torch.Tensor | None = None) -> torch.Tensor:
        """Return the sums over all hosts.

        Parameters
        ----------
        rows, weights : tensors (n, n_nodes, 4)
            From :meth:`weights`; the weights may be multiplied by a weight of each node.
        values : tensor (n_rows, n_columns), optional
            The table, if it is not ``self.values``.

        Returns
        -------
        tensor (n, n_columns)
        """
        values = self.values if values is None else values
        flat, n = weights.flatten(start_dim=1), len(weights)
        if 0 < n <= _FEW:
            index = rows.flatten(start_dim=1)
            return torch.stack([flat[k] @ values[index[k]] for k in range(n)])
        matrix = torch.zeros(n, len(values), dtype=flat.dtype)
        return matrix.scatter_add(1, rows.flatten(start_dim=1), flat) @ values

    def by_node(self, rows: torch.Tensor, weights: torch.Tensor, values: torch.Tensor | None = None) -> torch.Tensor:
        """Return the sums by node.

        Parameters
        ----------
        rows, weights, values
            See :meth:`total`.

        Returns
        -------
        tensor (n, n_nodes, n_columns)
        """
        values = self.values if values is None else values
        return torch.einsum("nmk,nmkc->nmc", weights, values[rows])

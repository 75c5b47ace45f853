"""What surveys measure: w_gg, w_g+ and the quadrupole of xi_g+, as linear maps of the models' correlation functions.

A galaxy whose light is stretched along the axis e has, seen along z, the ellipticity a (e_x^2 - e_y^2, 2 e_x e_y),
which is linear in the tensor of e. At fixed separation r the mean of that tensor, about its trace, is
(3/2) omega(r) (r_i r_j / r^2 - delta_ij / 3). Hence, exactly and in real space, with r^2 = r_p^2 + Pi^2::

    w_gg(r_p) = int_-Pi_max^Pi_max xi(r) dPi,
    w_g+(r_p) = (3/2) a int_-Pi_max^Pi_max [1 + xi(r)] omega(r) (r_p / r)^2 dPi

It is positive for radial alignment: what the estimator (S+D - S+R) / RR measures. The shape amplitude a is that of a
galaxy whose axis is perpendicular to the line of sight. Axes of random direction have a mean square of (8/15) a^2, so
that the rms ellipticity e_rms of a sample (both components) gives a = sqrt(15/8) e_rms. The quadrupole, with the
associated Legendre function L_{2,2} = 3 (1 - mu^2), is xi_g+,2(r) = (a/2) [1 + xi(r)] omega(r) (Singh et al. 2024,
arXiv:2307.02545).

Models know sums over pairs between nodes in r. The cumulative sums are interpolated as in
:class:`iaemu.binning.Rebinning`, and integrated exactly over the intersections of spheres with cylinders, so that
every statistic is a fixed matrix times xi, or (1 + xi) omega, between nodes. Beyond the last node the functions follow
those of matter (:mod:`iaemu.observables.large_scale`), with the amplitudes that fit best in the outermost nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iaemu.binning import EDGE_TOLERANCE, BinningError, check_edges, interpolation_weights, shell_volumes
from iaemu.observables.large_scale import LargeScales
from iaemu.ranges import Range, real_array

#: Of which correlation function each is the projection.
PROJECTION_OF = {"w_gg": "xi", "w_gplus": "omega", "xi_gplus_2": "omega"}

#: The same of the amplitudes of the large scales: xi = b^2 xi_mm, and (1 + xi) omega = K Xi_2.
AMPLITUDE_OF = {"b2": "xi", "K": "omega"}

#: Amplitudes on large scales are fitted to the bins between nodes beyond this separation [Mpc/h]. There (1 + xi) omega
#: of galaxies in halos has the shape of linear theory; below, it depends on the model of the non-linear matter power.
#: From 6 Mpc/h on, A_IA would be 14 to 20 % below that of the simulation's matter at k < 0.1 h/Mpc; now it is 5 to 9 %.
MATCH_FROM = 10.0


#: Largest Pi_max [Mpc/h], and largest r_p in units of the last node.
PI_LIMIT, RP_LIMIT = 200.0, 2.5

#: Parts of each bin between nodes, and of the range beyond them, in which functions are taken as constant.
_PARTS, _TAIL_PARTS = 6, 96

#: Fewest nodes of a model from which statistics are projected, and shells from which amplitudes are found.
_MIN_NODES, _MIN_SHELLS = 10, 3

#: Factors between a single separation and the limits of the bin about it: where its pairs are counted, and where a mean
#: over shells stands for a value.
_NEARBY, _CLOSE = 1.2, 1.05


def cylinder_weights(
    r_edges: ArrayLike, low: ArrayLike, high: ArrayLike, pi_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return how w_gg and w_g+ follow from functions that are constant in spherical shells.

    Parameters
    ----------
    r_edges : array (n_shells + 1,)
        Edges of the shells [Mpc/h]. They should reach from the least r_p to sqrt(r_p^2 + pi_max^2).
    low, high : arrays (n_rp,)
        Limits of the bins in r_p [Mpc/h], over whose area w is averaged; the same for w at one separation.
    pi_max : float
        [Mpc/h]

    Returns
    -------
    gg, gplus : arrays (n_rp, n_shells)
        ``w_gg = gg @ xi`` and ``w_gplus = gplus @ ((1 + xi) omega)``, for a shape amplitude of 1; [Mpc/h].
    """
    edges = np.asarray(r_edges, dtype=np.float64)[None]
    low, high = (np.asarray(values, dtype=np.float64)[:, None] for values in (low, high))
    single = high <= low
    wide = np.where(single, low * (1.0 + 1e-3), high)
    area = wide**2 - low**2

    with np.errstate(divide="ignore", invalid="ignore"):
        discs = zip(_disc(edges, wide, pi_max), _disc(edges, low, pi_max), strict=True)
        averaged = [(upper - lower) / area for upper, lower in discs]
    at_one = _line(edges, low, pi_max)
    gg, gplus = (np.diff(np.where(single, one, many), axis=1) for one, many in zip(at_one, averaged, strict=True))
    return gg, 1.5 * gplus


def _line(r: np.ndarray, rp: np.ndarray, pi_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the integrals of 1 and of (r_p / r)^2 over the line of sight at r_p, within the sphere of radius r."""
    reach = np.minimum(np.sqrt(np.clip(r**2 - rp**2, 0.0, None)), pi_max)
    return 2.0 * reach, 2.0 * rp * np.arctan2(reach, rp)


def _disc(r: np.ndarray, rp: np.ndarray, pi_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the integrals of :func:`_line` over d(r_p^2), from 0 to r_p."""
    # The line of sight ends at the sphere outside of the radius s, and at pi_max inside.
    s = np.clip(np.sqrt(np.clip(r**2 - pi_max**2, 0.0, None)), None, rp)
    rp = np.clip(rp, None, r)
    count = 2.0 * pi_max * s**2 + (4.0 / 3.0) * ((r**2 - s**2) ** 1.5 - (r**2 - rp**2) ** 1.5)

    def inside(x):  # the integral of 4 x^2 arctan(pi_max / x)
        log = np.log1p((x / pi_max) ** 2)
        return 4.0 * (x**3 / 3.0 * np.arctan2(pi_max, x) + pi_max / 6.0 * (x**2 - pi_max**2 * log))

    def outside(x):  # the integral of 4 x^2 arccos(x / r)
        root = np.sqrt(np.clip(r**2 - x**2, 0.0, None))
        return 4.0 * (x**3 / 3.0 * np.arctan2(root, x) - root * (x**2 + 2.0 * r**2) / 9.0)

    return count, inside(s) + outside(rp) - outside(s)


#: Limits of bins, (low, high) [Mpc/h].
Limits = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Projection:
    """Bins of projected statistics, and their matrices; it can be a key of dictionaries.

    Attributes
    ----------
    gg, gplus : tuple of (float, float)
        Limits of the bins in r_p of w_gg and of w_g+ [Mpc/h]; equal for a statistic at one separation. For the
        quadrupole, ``gplus`` are limits in r; for the amplitudes of the large scales both are.
    pi_max : float or None
        Largest line-of-sight separation [Mpc/h]; None for the quadrupole and for amplitudes.
    """

    gg: Limits
    gplus: Limits
    pi_max: float | None = None

    @classmethod
    def of(
        cls, rp_edges: ArrayLike | None = None, pi_max: float | None = None, rp: ArrayLike | None = None
    ) -> Projection:
        """Return the projection of w_gg and w_g+ onto the same contiguous bins, or single separations.

        Parameters
        ----------
        rp_edges : array (n_bins + 1,), optional
            Edges of bins in r_p [Mpc/h].
        pi_max : float
            Largest line-of-sight separation [Mpc/h].
        rp : array (n,), optional
            Separations [Mpc/h], in place of edges.

        Returns
        -------
        Projection

        Raises
        ------
        BinningError
            Not exactly one of ``rp_edges`` and ``rp`` is given, ``pi_max`` is missing, or a value is not allowed.
        """
        if (rp_edges is None) == (rp is None):
            raise BinningError("Give either rp_edges, the edges of bins in r_p, or rp, single separations [Mpc/h].")
        edges = None if rp_edges is None else check_edges(rp_edges)
        both = (rp, rp) if edges is None else (edges[:-1], edges[1:])
        return cls.between({"w_gg": both, "w_gplus": both}, pi_max)

    @classmethod
    def between(cls, limits: Mapping[str, tuple[Any, Any]], pi_max: float | None = None) -> Projection:
        """Return the projection onto bins that may have gaps, and may differ between statistics.

        Parameters
        ----------
        limits : mapping of statistic to pair of arrays (n,)
            Lower and upper limits [Mpc/h], in increasing order, of "w_gg", "w_gplus" or both, or of "xi_gplus_2".
        pi_max : float, optional
            [Mpc/h]; not for "xi_gplus_2".

        Returns
        -------
        Projection

        Raises
        ------
        BinningError
            A value is not allowed; the message names it.
        """
        quadrupole = set(limits) == {"xi_gplus_2"}
        if not quadrupole and not (limits and set(limits) <= {"w_gg", "w_gplus"}):
            raise BinningError(
                f"A projection has bins of w_gg, w_gplus or both, or of xi_gplus_2 alone; got {', '.join(limits)}."
            )
        if not quadrupole:
            if pi_max is None:
                raise BinningError(
                    "pi_max is missing: give the largest line-of-sight separation of w_gg and w_g+ [Mpc/h]."
                )
            Range(above=0, at_most=PI_LIMIT).check("pi_max [Mpc/h]", pi_max, error=BinningError)
        found = {name: _checked(name, *both) for name, both in limits.items()}
        gplus = found.get("w_gplus", found.get("xi_gplus_2", ()))
        return cls(found.get("w_gg", ()), gplus, None if quadrupole or pi_max is None else float(pi_max))

    @classmethod
    def of_large_scales(cls, r_min: float = MATCH_FROM) -> Projection:
        """Return the projection onto the amplitudes of the large scales, "b2" and "K", between r_min and the last node.

        Parameters
        ----------
        r_min : float
            [Mpc/h]

        Returns
        -------
        Projection

        Raises
        ------
        BinningError
            ``r_min`` is not allowed.
        """
        Range(at_least=1, at_most=100).check("r_min [Mpc/h]", r_min, error=BinningError)
        limits = ((float(r_min), math.inf),)
        return cls(limits, limits)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the statistics that have bins."""
        if self.pi_max is None:
            return tuple(AMPLITUDE_OF) if self.gg else ("xi_gplus_2",)
        return tuple(name for name, bins in (("w_gg", self.gg), ("w_gplus", self.gplus)) if bins)

    def limits(self, statistic: str) -> np.ndarray:
        """Return the limits of the bins of a statistic.

        Parameters
        ----------
        statistic : str

        Returns
        -------
        array (2, n) [Mpc/h]
        """
        return np.array(self.gg if statistic in ("w_gg", "b2") else self.gplus, dtype=np.float64).reshape(-1, 2).T

    def describe(self) -> str:
        """Return the numbers of bins and their ranges, in a few words.

        Returns
        -------
        str
        """
        parts = []
        for name in self.statistics:
            low, high = self.limits(name)
            until = f"to {high[-1]:.4g} Mpc/h" if np.isfinite(high[-1]) else "Mpc/h on"
            parts.append(f"{len(low)} of {name} from {low[0]:.4g} {until}")
        return ", ".join(parts) + ("" if self.pi_max is None else f", Pi_max = {self.pi_max:g}")

    def matrices(self, nodes: ArrayLike, redshift: float = 0.0) -> Matrices:
        """Return the matrices for a model.

        Parameters
        ----------
        nodes : array (n_nodes,)
            Nodes of the model [Mpc/h].
        redshift : float
            Redshift of its predictions, for the large scales.

        Returns
        -------
        Matrices

        Raises
        ------
        BinningError
            A separation is not within what nodes and large scales allow, or the redshift is not.
        """
        values = np.asarray(nodes, dtype=np.float64)
        if len(values) < _MIN_NODES or values[0] <= 0:
            raise BinningError(
                "This model does not know its correlations in narrow bins of r, which w_gg and w_g+ need. Use the "
                "emulator (IAEmu) or tables (TabulatedIA)."
            )
        try:
            large = LargeScales.shipped(float(redshift))
        except ValueError as error:
            raise BinningError(str(error)) from error
        return _matrices(self, tuple(check_edges(values).tolist()), large)


def _checked(name: str, low: Any, high: Any) -> Limits:
    low, high = (real_array(values, f"Separations of {name}", BinningError) for values in (low, high))
    if low.ndim != 1 or not len(low) or low.shape != high.shape:
        raise BinningError(f"{name} needs a list of separations [Mpc/h]; got shapes {low.shape} and {high.shape}.")
    if not np.all(np.isfinite([low, high])) or low.min() <= 0 or np.any(high < low):
        raise BinningError(f"Separations of {name} must be positive and finite [Mpc/h].")
    if np.any(low[1:] < high[:-1] * (1 - EDGE_TOLERANCE)) or np.any(np.diff(low) <= 0):
        raise BinningError(
            f"Separations of {name} must increase, without repetition; got {np.round(low, 4).tolist()} Mpc/h."
        )
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Matrices:
    """Matrices (n_rp, n_nodes - 1) that map means over the shells between nodes to projected statistics.

    Attributes
    ----------
    of_xi : array (n_gg, n_nodes - 1)
        w_gg from xi.
    of_omega : array (n_gplus, n_nodes - 1)
        w_g+, or the quadrupole, from (1 + xi) omega, for a shape amplitude of 1.
    pairs_gg, pairs_gplus : arrays (n_gg, n_nodes - 1), (n_gplus, n_nodes - 1)
        Pairs in or near each bin from those between nodes.
    bias, alignment : arrays (1, n_nodes - 1)
        b^2 of the large scales from xi, and K from (1 + xi) omega.
    tail_of_xi, tail_of_omega : arrays (n_gg,), (n_gplus,)
        What the large scales add to w_gg for b^2 = 1, and to w_g+ for K = 1; included in the matrices.
    """

    of_xi: np.ndarray
    of_omega: np.ndarray
    pairs_gg: np.ndarray
    pairs_gplus: np.ndarray
    bias: np.ndarray
    alignment: np.ndarray
    tail_of_xi: np.ndarray
    tail_of_omega: np.ndarray


@lru_cache(maxsize=64)
def _matrices(projection: Projection, node_values: tuple[float, ...], large: LargeScales) -> Matrices:
    nodes = np.array(node_values)
    if projection.statistics == tuple(AMPLITUDE_OF):
        return _of_amplitudes(nodes, projection.gg[0][0], large)
    bias, alignment = _large_scale_weights(nodes, min(MATCH_FROM, 0.5 * nodes[-1]), large)
    found = []
    for column, (limits, amplitude) in enumerate(((projection.gg, bias), (projection.gplus, alignment))):
        low, high = np.array(limits, dtype=np.float64).reshape(-1, 2).T
        if projection.pi_max is None:
            _check_reach(nodes, low, high, nodes[-1])
            mean = _mean_between(nodes, low, high)
            found.append((0.5 * mean, mean, np.zeros(len(low))))
        else:
            _check_reach(nodes, low, high, RP_LIMIT * nodes[-1])
            near = _within(node_values, limits, projection.pi_max)[column]
            tail = _beyond_nodes(nodes, low, high, projection.pi_max, column, large)
            found.append((near + np.outer(tail, amplitude), _pairs(nodes, low, high, projection.pi_max), tail))
    (of_xi, pairs_gg, tail_of_xi), (of_omega, pairs_gplus, tail_of_omega) = found
    return Matrices(of_xi, of_omega, pairs_gg, pairs_gplus, bias[None], alignment[None], tail_of_xi, tail_of_omega)


def _of_amplitudes(nodes: np.ndarray, r_min: float, large: LargeScales) -> Matrices:
    """Return the matrices whose statistics are the amplitudes themselves."""
    if np.sum(_beyond(nodes, r_min)) < _MIN_SHELLS:
        raise BinningError(
            f"The amplitudes of the large scales are fitted beyond r = {r_min:g} Mpc/h, but this model ends at "
            f"{nodes[-1]:.4g} Mpc/h. Use one that reaches further, such as the shipped emulator, or a smaller r_min."
        )
    bias, alignment = (weights[None] for weights in _large_scale_weights(nodes, r_min, large))
    pairs, none = _beyond(nodes, r_min)[None].astype(np.float64), np.zeros(1)
    return Matrices(bias, alignment, pairs, pairs, bias, alignment, none, none)


def _check_reach(nodes: np.ndarray, low: np.ndarray, high: np.ndarray, last: float) -> None:
    if len(low) and (low[0] < nodes[0] * (1 - EDGE_TOLERANCE) or high[-1] > last * (1 + EDGE_TOLERANCE)):
        raise BinningError(
            f"The separations from {low[0]:.5g} to {high[-1]:.5g} Mpc/h are not within {nodes[0]:.4g} to {last:.4g} "
            "Mpc/h, what the model and its continuation to large scales allow. Leave out those beyond (r_min, r_max)."
        )


@lru_cache(maxsize=64)
def _within(node_values: tuple[float, ...], limits: Limits, pi_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices (n_rp, n_nodes - 1) of w_gg and w_g+ up to the last node, the same at all redshifts."""
    nodes = np.array(node_values)
    if not limits:
        return (np.zeros((0, len(nodes) - 1)),) * 2
    low, high = np.array(limits).T
    fine = np.append(np.concatenate([np.geomspace(a, b, _PARTS + 1)[:-1] for a, b in pairwise(nodes)]), nodes[-1])
    means = _mean_between(nodes, fine[:-1], fine[1:])
    gg, gplus = cylinder_weights(fine, low, high, pi_max)
    return gg @ means, gplus @ means


def _beyond_nodes(nodes, low, high, pi_max: float, column: int, large: LargeScales) -> np.ndarray:
    """Return the integrals beyond the last node (n_rp,), of w_gg (column 0) or w_g+ (1)."""
    reach = float(np.hypot(high[-1], pi_max)) if len(high) else 0.0
    if reach <= nodes[-1]:
        return np.zeros(len(low))
    beyond = np.geomspace(nodes[-1], reach, _TAIL_PARTS + 1)
    return cylinder_weights(beyond, low, high, pi_max)[column] @ large.in_shells(beyond)[column]


def _pairs(nodes: np.ndarray, low: np.ndarray, high: np.ndarray, pi_max: float) -> np.ndarray:
    """Return the shares of the pairs between nodes that are in or near each bin."""
    # Nearly all pairs are beyond the nodes, or at their end: those in the last shells are enough.
    low, high = np.minimum(low, 0.5 * nodes[-1]), np.minimum(high, nodes[-1])
    low, high = np.where(high > low, low, low / _NEARBY), np.where(high > low, high, high * _NEARBY)
    volumes = cylinder_weights(nodes, low, high, pi_max)[0] * (np.pi * (high**2 - low**2))[:, None]
    return volumes / shell_volumes(nodes)


def _mean_between(nodes: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the matrix from means over the shells between nodes to means over other shells."""
    low, high = np.where(high > low, low, low / _CLOSE), np.where(high > low, high, high * _CLOSE)
    below = np.tri(len(nodes), len(nodes) - 1, -1) * shell_volumes(nodes)
    upper, lower = (
        np.array([interpolation_weights(nodes, r) for r in edges]).reshape(len(edges), len(nodes))
        for edges in (high, low)
    )
    return (upper - lower) @ below / (4.0 / 3.0 * np.pi * (high**3 - low**3))[:, None]


def _beyond(nodes: np.ndarray, r_min: float) -> np.ndarray:
    """Return which shells between nodes are beyond a separation."""
    return nodes[:-1] >= r_min * (1 - 1e-3)


def _large_scale_weights(nodes: np.ndarray, r_min: float, large: LargeScales) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of xi and (1 + xi) omega whose sums are b^2 and K, from least squares weighted by volume."""
    volumes = shell_volumes(nodes) * _beyond(nodes, r_min)
    return tuple(volumes * known / (volumes @ known**2) for known in large.in_shells(nodes))

"""Radial bins: those of the paper and of TNG300, the nodes of the models, and sums over any bins between them.

Models know their pair sums in narrow bins, whose edges are called nodes. The sums up to a node are exact; between nodes
they are interpolated, so that sums over bins with any edges follow (:class:`Rebinning`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from iaemu.ranges import Range, real_array

#: Edges of the 20 bins of IAEmu (arXiv:2504.05235, section 2.1) [Mpc/h].
PAPER_EDGES = np.logspace(-1.0, 1.2, 21)

#: Edges of the 12 published TNG300 bins that lie inside the paper's range [Mpc/h].
TNG_EDGES = np.logspace(-1.0, 1.5, 15)[:13]

#: Largest separation of the models, and largest width of the bins between their nodes [Mpc/h; dex].
R_MAX, NODE_WIDTH = 10.0**1.4, 0.06

#: Binnings that have a name.
BINNINGS = {"paper": PAPER_EDGES, "tng300": TNG_EDGES}

#: Edges that differ by less than this fraction count as the same.
EDGE_TOLERANCE = 1e-3


class BinningError(ValueError):
    """Raised if edges are malformed, or are not among the edges of the finer bins."""


def check_edges(r_edges: ArrayLike) -> np.ndarray:
    """Check the edges of bins and return them as a float64 array.

    Parameters
    ----------
    r_edges : array (n_bins + 1,) [Mpc/h]

    Returns
    -------
    array (n_bins + 1,)

    Raises
    ------
    BinningError
        The edges are not positive, finite and increasing real numbers, or a bin has no volume in floating point.
    """
    edges = real_array(r_edges, "r_edges", BinningError)
    if edges.ndim != 1 or len(edges) < 2:
        raise BinningError(f"r_edges must be one-dimensional, with at least 2 edges; got shape {edges.shape}.")
    if not np.all(np.isfinite(edges)):
        raise BinningError("r_edges contain NaN or infinite values.")
    if edges[0] <= 0 or np.any(np.diff(edges) <= 0):
        raise BinningError("r_edges must be positive and strictly increasing [Mpc/h].")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        volumes = np.diff(edges**3)
    # Far beyond any distance in the Universe, but within what powers of it can hold without becoming 0 or infinite.
    possible = (volumes > 1e-60) & (volumes < 1e60)
    if not np.all(possible):
        bad = int(np.argmin(possible))
        raise BinningError(
            f"The volume of the bin [{edges[bad]:.6g}, {edges[bad + 1]:.6g}] Mpc/h is zero or too large to compute "
            "with; change r_edges."
        )
    return edges


def bin_centers(r_edges: ArrayLike) -> np.ndarray:
    """Return the bin centres: arithmetic means of the edges, as in the paper and in the TNG300 files.

    Parameters
    ----------
    r_edges : array (n_bins + 1,) [Mpc/h]

    Returns
    -------
    array (n_bins,) [Mpc/h]
    """
    edges = check_edges(r_edges)
    return 0.5 * (edges[1:] + edges[:-1])


def shell_volumes(r_edges: ArrayLike) -> np.ndarray:
    """Return the volumes of the spherical shells.

    Parameters
    ----------
    r_edges : array (n_bins + 1,) [Mpc/h]

    Returns
    -------
    array (n_bins,) [(Mpc/h)^3]
    """
    return 4.0 / 3.0 * np.pi * np.diff(check_edges(r_edges) ** 3)


def pairs_inside_cube(r_edges: ArrayLike, side: float) -> np.ndarray:
    """Return the probability that the second member of an unclustered pair lies in the same cube as the first.

    A cube and its copy shifted by r overlap in the fraction ``prod(1 - |r_x| / side)`` over the three axes. The average
    over directions is 1 - 3/2 t + 2/pi t^2 - 1/(4 pi) t^3 with t = r / side, exact up to t = 1. It is averaged over
    each shell with weight r^2.

    Parameters
    ----------
    r_edges : array (n_bins + 1,)
        At most ``side`` [Mpc/h].
    side : float
        Side of the cube [Mpc/h].

    Returns
    -------
    array (n_bins,)

    Raises
    ------
    BinningError
        ``side`` is smaller than the largest edge, or not a positive number.
    """
    Range(above=0, at_most=1e6).check("side [Mpc/h]", side, error=BinningError)
    t = check_edges(r_edges) / side
    if t[-1] > 1.0:
        raise BinningError(
            f"r_edges reach {t[-1] * side:.4g} Mpc/h, beyond the side of a region, {side:.4g} Mpc/h. Use fewer "
            "regions, a larger box, or smaller separations."
        )
    integral = t**3 / 3 - 3 * t**4 / 8 + 2 * t**5 / (5 * np.pi) - t**6 / (24 * np.pi)
    return np.diff(integral) / np.diff(t**3 / 3)


def union_edges(*binnings: ArrayLike) -> np.ndarray:
    """Return the sorted edges of several binnings; edges equal within ``EDGE_TOLERANCE`` are merged.

    Parameters
    ----------
    *binnings : arrays (n_edges,)
        Edges of each binning [Mpc/h].

    Returns
    -------
    array (n_bins + 1,)
    """
    edges = np.sort(np.concatenate([check_edges(binning) for binning in binnings]))
    keep = np.concatenate([[True], np.diff(edges) > EDGE_TOLERANCE * edges[1:]])
    return edges[keep]


def find_edges(fine: ArrayLike, coarse: ArrayLike) -> np.ndarray:
    """Return the index in ``fine`` of each edge of ``coarse``.

    Parameters
    ----------
    fine, coarse : arrays (n_fine + 1,) and (n_coarse + 1,)
        Edges [Mpc/h].

    Returns
    -------
    array of int (n_coarse + 1,)

    Raises
    ------
    BinningError
        An edge of ``coarse`` is not an edge of ``fine``; the message names it and the nearest one.
    """
    fine, coarse = check_edges(fine), check_edges(coarse)
    index = np.clip(np.searchsorted(fine, coarse), 1, len(fine) - 1)
    index -= (coarse - fine[index - 1]) < (fine[index] - coarse)
    apart = np.abs(fine[index] - coarse) > EDGE_TOLERANCE * coarse
    if np.any(apart):
        bad = int(np.argmax(apart))
        raise BinningError(
            f"The bin edge {coarse[bad]:.8g} Mpc/h is not among the {len(fine)} available edges from {fine[0]:.4g} to "
            f"{fine[-1]:.4g} Mpc/h (nearest: {fine[index[bad]]:.8g}). Choose all edges among those of r_edges."
        )
    if np.any(np.diff(index) == 0):
        same = int(np.argmin(np.diff(index)))
        raise BinningError(
            f"The bin edges {coarse[same]:.10g} and {coarse[same + 1]:.10g} Mpc/h are equal within rounding."
        )
    return index


def make_nodes(r_max: float = R_MAX) -> np.ndarray:
    """Return nodes that contain the edges of the paper and of TNG300, not more than ``NODE_WIDTH`` apart.

    Parameters
    ----------
    r_max : float
        Largest separation [Mpc/h].

    Returns
    -------
    array (n_nodes,) [Mpc/h]
    """
    wide = union_edges(PAPER_EDGES, np.logspace(-1.0, 1.5, 15))
    wide = np.append(wide[wide < (1.0 - EDGE_TOLERANCE) * r_max], r_max)
    parts = [
        np.geomspace(low, high, int(np.ceil(np.log10(high / low) / NODE_WIDTH)) + 1)[:-1]
        for low, high in pairwise(wide)
    ]
    return np.append(np.concatenate(parts), r_max)


def nesting_matrix(fine: ArrayLike, coarse: ArrayLike) -> np.ndarray:
    """Return the matrix of zeros and ones that sums fine bins into coarse bins.

    Parameters
    ----------
    fine, coarse : arrays (n_fine + 1,) and (n_coarse + 1,)
        Edges [Mpc/h].

    Returns
    -------
    array (n_coarse, n_fine)

    Raises
    ------
    BinningError
        An edge of ``coarse`` is not an edge of ``fine``.
    """
    index = find_edges(fine, coarse)
    matrix = np.zeros((len(index) - 1, np.size(fine) - 1))
    for row, (start, stop) in enumerate(pairwise(index)):
        matrix[row, start:stop] = 1.0
    return matrix


class Rebinning(NamedTuple):
    """How sums over pairs in any bins follow from those between nodes.

    The sum up to an edge is that up to the node below it, and a part of the bin that the edge divides: the cubic
    polynomial in log r through the sums up to the four nodes around it. This is applied to sums whose slope in log r
    changes slowly. So of the number of pairs only its excess over that of unclustered galaxies is interpolated, and the
    latter, a volume, is exact.

    Attributes
    ----------
    weights : array (n_bins, n_nodes - 1)
        A sum in a bin is the sum over the bins between nodes with these weights; 0 and 1 if all edges are nodes.
    volumes : array (n_bins,)
        Volumes of the bins [(Mpc/h)^3].
    missing : array (n_bins,)
        Volumes of the bins, minus the sums of the volumes between nodes with the weights [(Mpc/h)^3].
    """

    weights: np.ndarray
    volumes: np.ndarray
    missing: np.ndarray

    @classmethod
    def between(cls, nodes: ArrayLike, r_edges: ArrayLike) -> Rebinning:
        """Return the weights for bins.

        Parameters
        ----------
        nodes : array (n_nodes,) [Mpc/h]
        r_edges : array (n_bins + 1,) [Mpc/h]

        Returns
        -------
        Rebinning

        Raises
        ------
        BinningError
            A bin is beyond the nodes, or thinner than they resolve; the message gives the limits.
        """
        nodes, edges = check_edges(nodes), check_edges(r_edges)
        if edges[0] < nodes[0] * (1 - EDGE_TOLERANCE) or edges[-1] > nodes[-1] * (1 + EDGE_TOLERANCE):
            raise BinningError(
                f"The bins from {edges[0]:.6g} to {edges[-1]:.6g} Mpc/h are not within {nodes[0]:.4g} to "
                f"{nodes[-1]:.5g} Mpc/h, the range of the model. Leave out the bins beyond it (r_min, r_max)."
            )
        nearest = np.abs(np.log(nodes[:, None] / edges)).argmin(axis=0)
        close = np.abs(nodes[nearest] / edges - 1.0) <= EDGE_TOLERANCE
        # A bin with both edges at nodes is a sum of whole bins. If only one is close, that may be by chance.
        aligned = close[:-1] & close[1:] & (nearest[:-1] < nearest[1:])
        widths, below, fine = np.diff(np.log10(nodes)), np.tri(len(nodes), len(nodes) - 1, -1), shell_volumes(nodes)
        weights, volumes = np.empty((len(aligned), len(fine))), shell_volumes(edges)
        for k, (low, high) in enumerate(pairwise(edges)):
            if aligned[k]:
                weights[k] = below[nearest[k + 1]] - below[nearest[k]]
                volumes[k] = weights[k] @ fine
                continue
            touched = slice(*np.clip(np.searchsorted(nodes, [low, high]) + [-1, 0], 0, len(nodes)))
            least, width = 0.9 * widths[touched].max(initial=0.0), np.log10(high / low)
            if width < least:
                raise BinningError(
                    f"The bin from {low:.6g} to {high:.6g} Mpc/h is {width:.3g} dex wide, less than the model resolves "
                    f"there ({least:.2g} dex). Use wider bins; narrower ones must have both edges among model.nodes."
                )
            weights[k] = (interpolation_weights(nodes, high) - interpolation_weights(nodes, low)) @ below
        return cls(weights, volumes, np.where(aligned, 0.0, volumes - weights @ fine))


def interpolation_weights(nodes: np.ndarray, edge: float) -> np.ndarray:
    """Return the weights of the nodes in a cubic polynomial in log r through the four nodes around an edge.

    Parameters
    ----------
    nodes : array (n_nodes,) [Mpc/h]
    edge : float [Mpc/h]

    Returns
    -------
    array (n_nodes,)
    """
    k = int(np.clip(np.searchsorted(nodes, edge) - 1, 0, len(nodes) - 2))
    around = np.arange(min(4, len(nodes))) + np.clip(k - 1, 0, max(len(nodes) - 4, 0))
    x, at = np.log(nodes[around]), np.log(edge)
    weights = np.zeros(len(nodes))
    weights[around] = [np.prod((at - np.delete(x, j)) / (x[j] - np.delete(x, j))) for j in range(len(x))]
    return weights


def rebin(values: Any, pairs: Any, nesting: Any) -> Any:
    """Average fine bins to coarse bins, weighted by pairs: ``sum(pairs * values) / sum(pairs)``.

    This is exact for omega and eta, and for 1 + xi if ``pairs`` are the random pairs (the shell volumes).

    Parameters
    ----------
    values, pairs : arrays or tensors (..., n_fine)
    nesting : array or tensor (n_coarse, n_fine)
        From :func:`nesting_matrix`.

    Returns
    -------
    array or tensor (..., n_coarse)
    """
    return ((values * pairs) @ nesting.T) / (pairs @ nesting.T)

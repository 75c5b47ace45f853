"""Spatial jackknife of xi, omega and eta in a periodic box: delete-one estimates and their covariance.

For each region k, the statistics are measured from the pairs that remain when the region is removed. The covariance is
(n - 1) / n times the sum, over the n regions, of the products of the deviations of these estimates from their mean.

A pair across the border of region k can be removed in full or in part. If it is removed in full, it is removed twice,
once with each of its regions, and its noise counts double. If half of it is removed (as in halotools'
``tpcf_jackknife``), its noise counts half. The share of Mohammad and Percival 2022 (arXiv:2109.07071, equation 27),
about 0.7 (:func:`matched_cross_weight`), gives these pairs the same noise as others. This matters more at larger
separations: a third of the pairs of separation r cross the borders of cubes of side 4 r.

Without a region the box is not periodic: galaxies beside the gap have fewer neighbours, and not on all sides. DD / RR -
1 and S / DD would then scatter with the number of these galaxies and with their axes, the more the denser the galaxies.
So the delete-one estimates subtract the result for random points: (DD - 2 DR + RR) / RR (Landy and Szalay 1993) and
(S_D - S_R) / DD, which are the plain ratios for the whole box. Random points are analytic: RR from
:func:`iaemu.binning.pairs_inside_cube`, DR and S_R from the shells around the galaxies.
"""

from __future__ import annotations

import numpy as np

from iaemu.binning import pairs_inside_cube, shell_volumes
from iaemu_training.pairs.galaxies import random_pairs
from iaemu_training.pairs.galaxies_by_region import RegionSums
from iaemu_training.pairs.random_points import RandomSums


def matched_cross_weight(n_regions: int) -> float:
    """Return the share of the pairs across its border to remove with a region (arXiv:2109.07071, equation 27)."""
    return n_regions / (2.0 + np.sqrt(2.0) * (n_regions - 1))


def statistics(sums: RegionSums) -> dict[str, np.ndarray]:
    """Return xi, omega and eta of the whole box, (n_bins,) each; omega and eta are NaN in bins without pairs."""
    DD, S_omega, S_eta = sums.total
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "xi": DD / random_pairs(sums.n_gal.sum(), sums.Lbox, sums.r_edges) - 1.0,
            "omega": S_omega / DD,
            "eta": S_eta / DD,
        }


def delete_one(sums: RegionSums, cross_weight: float | None = None) -> dict[str, np.ndarray]:
    """Return xi, omega and eta without each region in turn, (n_regions, n_bins) each; NaN where no pair remains.

    Parameters
    ----------
    sums : RegionSums
        Pair sums by region.
    cross_weight : float, optional
        Share of the pairs across its border that is removed with a region; by default :func:`matched_cross_weight`.

    Returns
    -------
    dict of str to (n_regions, n_bins)
    """
    n = len(sums)
    weight = matched_cross_weight(n) if cross_weight is None else cross_weight
    DD, S_omega, S_eta = sums.remaining(weight)
    DD = np.where(DD > 1e-9 * np.maximum(sums.total.DD, 1.0), DD, 0.0)  # differences of sums have rounding errors
    inside = pairs_inside_cube(sums.r_edges, sums.Lbox / sums.n_side)
    volume = shell_volumes(sums.r_edges)
    random = remaining_random_pairs(sums.n_gal, sums.Lbox, volume, inside, sums.random_auto, sums.random_cross, weight)
    DR, S_R, RR = random
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"xi": (DD - 2.0 * DR + RR) / RR, "omega": (S_omega - S_R) / DD, "eta": S_eta / DD}


def remaining_random_pairs(
    n_gal: np.ndarray,
    Lbox: float,
    volume: np.ndarray,
    inside: np.ndarray,
    auto: RandomSums,
    cross: RandomSums,
    weight: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs with random points in the box without each region in turn.

    Parameters
    ----------
    n_gal : (n_regions,)
        Number of galaxies in each region.
    Lbox : float
        Side of the box [Mpc/h].
    volume : (n_bins,)
        Volumes of the bins [(Mpc/h)^3].
    inside : (n_bins,)
        Probability that an unclustered pair whose first member is in a region has its second one there too.
    auto, cross : RandomSums
        Of :func:`~iaemu_training.pairs.random_points.spread`.
    weight : float
        Share of the pairs across its border that is removed with a region.

    Returns
    -------
    DR, S_R, RR : (n_regions, n_bins) each
        Pairs of galaxies and random points, the sum over shapes of the former, and pairs of random points.
    """
    n, total = len(n_gal), n_gal.sum()
    # Random points have the density of the galaxies that remain; ``expected`` is their number in a bin.
    density = (total - n_gal) / (Lbox**3 * (1.0 - 1.0 / n))
    expected = density[:, None] * volume
    # 1 / n of all ordered pairs have their first member in a region. Pairs across the border have either member in it.
    RR = density[:, None] * Lbox**3 * expected * (1.0 - (inside + 2.0 * weight * (1.0 - inside)) / n)
    DR = expected * (total - auto.D - weight * cross.D)
    S_R = -expected * (auto.S + weight * cross.S)
    return DR, S_R, RR


def covariance(estimates: np.ndarray) -> np.ndarray:
    """Return the jackknife covariance (n_bins, n_bins) of delete-one estimates (n_regions, n_bins)."""
    n = len(estimates)
    deviations = estimates - estimates.mean(axis=0)
    return (n - 1) / n * deviations.T @ deviations

"""Spatial jackknife of xi, omega and eta in a periodic box: delete-one estimates and their covariance.

Without region k, a statistic is measured again from the pairs that remain; the covariance is (n - 1) / n times the sum
over regions of the products of deviations from the mean of these estimates.

What remains of a pair of which one member lies in region k? If it goes altogether, it goes twice, with either of its
regions, and its noise counts double; if half of it goes (as in halotools' ``tpcf_jackknife``), its noise counts half.
The share :func:`matched_cross_weight` of Mohammad and Percival 2022 (arXiv:2109.07071, equation 27), about 0.7, makes
pairs across borders as noisy as others. The difference grows with separation: a third of the pairs of separation r
cross the borders of cubes of a side of 4 r.

The whole periodic box looks the same from every galaxy. Without a region it does not: galaxies beside the gap have
fewer neighbours, and these not on all sides, so that DD / RR - 1 and S / DD would scatter with the number of galaxies
there and with their axes, by more the denser the galaxies. So delete-one estimates take out what random points give:
(DD - 2 DR + RR) / RR (Landy and Szalay 1993) and (S_D - S_R) / DD, which in the whole box are the plain ratios. Random
points are analytic: RR by :func:`iaemu.binning.pairs_inside_cube`, DR and S_R from the shells about the galaxies.
"""

from __future__ import annotations

import numpy as np

from iaemu.binning import pairs_inside_cube, shell_volumes
from iaemu_training.pairs.galaxies import random_pairs
from iaemu_training.pairs.galaxies_by_region import RegionSums


def matched_cross_weight(n_regions: int) -> float:
    """Share of the pairs across its border that a deleted region takes along (arXiv:2109.07071, equation 27)."""
    return n_regions / (2.0 + np.sqrt(2.0) * (n_regions - 1))


def statistics(sums: RegionSums) -> dict[str, np.ndarray]:
    """xi, omega and eta of the whole box, (n_bins,) each, as halotools; omega and eta are NaN without pairs."""
    DD, S_omega, S_eta = sums.total
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "xi": DD / random_pairs(sums.n_gal.sum(), sums.Lbox, sums.r_edges) - 1.0,
            "omega": S_omega / DD,
            "eta": S_eta / DD,
        }


def delete_one(sums: RegionSums, cross_weight: float | None = None) -> dict[str, np.ndarray]:
    """xi, omega and eta without each region in turn, (n_regions, n_bins) each; NaN where no pair remains.

    Parameters
    ----------
    sums : RegionSums
    cross_weight : float, optional
        Share of the pairs across its border that goes with a region; by default :func:`matched_cross_weight`.
    """
    n = len(sums)
    weight = matched_cross_weight(n) if cross_weight is None else cross_weight
    DD, S_omega, S_eta = sums.remaining(weight)
    DD = np.where(DD > 1e-9 * np.maximum(sums.total.DD, 1.0), DD, 0.0)  # differences of sums: rounding
    n_gal = sums.n_gal.sum()
    # Random points are as dense as the galaxies that remain; a shell holds this many, (n, n_bins).
    density = (n_gal - sums.n_gal) / (sums.Lbox**3 * (1.0 - 1.0 / n))
    shell = density[:, None] * shell_volumes(sums.r_edges)
    inside = pairs_inside_cube(sums.r_edges, sums.Lbox / sums.n_side)
    # Of all pairs, 1 / n have their first member in a region; those across its border have it inside or outside.
    RR = density[:, None] * sums.Lbox**3 * shell * (1.0 - (inside + 2.0 * weight * (1.0 - inside)) / n)
    auto, cross = sums.random_auto, sums.random_cross
    DR = shell * (n_gal - auto.D - weight * cross.D)
    S_R = -shell * (auto.S_omega + weight * cross.S_omega)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"xi": (DD - 2.0 * DR + RR) / RR, "omega": (S_omega - S_R) / DD, "eta": S_eta / DD}


def covariance(estimates: np.ndarray) -> np.ndarray:
    """Jackknife covariance (n_bins, n_bins) of delete-one estimates (n_regions, n_bins)."""
    n = len(estimates)
    deviations = estimates - estimates.mean(axis=0)
    return (n - 1) / n * deviations.T @ deviations

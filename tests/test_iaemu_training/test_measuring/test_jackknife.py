"""Jackknife identities, its random pairs, and its normalisation where the truth is known."""

import numpy as np
import pytest

pytest.importorskip("numba")

from iaemu.binning import pairs_inside_cube
from iaemu_training.measuring import jackknife
from iaemu_training.pairs.galaxies import count_pairs
from iaemu_training.pairs.galaxies_by_region import count_pairs_by_region

LBOX = 40.0
EDGES = np.array([0.5, 1.0, 2.0, 4.0, 8.0])


def poisson(n, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, LBOX, (n, 3)), rng.normal(size=(n, 3))


def test_matched_share_is_between_half_and_all_and_tends_to_1_over_root_2():
    assert jackknife.matched_cross_weight(27) == pytest.approx(27 / (2 + 26 * np.sqrt(2)))
    assert jackknife.matched_cross_weight(10**6) == pytest.approx(np.sqrt(0.5), rel=1e-5)


def test_estimates_without_cross_shares_are_those_of_the_galaxies_outside():
    """All sums anew, random points by Monte Carlo."""
    x, e = poisson(600, 1)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    edges = np.array([3.0, 6.0])
    estimates = jackknife.delete_one(count_pairs_by_region(x, e, LBOX, edges, 2), cross_weight=1.0)
    region = np.ravel_multi_index((x * 2 / LBOX).astype(int).T, (2, 2, 2))
    rng = np.random.default_rng(2)
    n = 20_000
    r = np.cbrt(rng.uniform(edges[0] ** 3, edges[1] ** 3, n))
    u = rng.normal(size=(n, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    for k in (0, 5):
        x_k, e_k = x[region != k], e[region != k]
        ends = np.mod(x_k[:, None] + r[:, None] * u, LBOX)
        free = np.ravel_multi_index(np.moveaxis((ends * 2 / LBOX).astype(int), -1, 0), (2, 2, 2)) != k
        shell = len(x_k) / (LBOX**3 * 7 / 8) * 4 / 3 * np.pi * (edges[1] ** 3 - edges[0] ** 3)
        DR = shell * free.mean(axis=1).sum()
        S_R = shell * (free * ((e_k @ u.T) ** 2 - 1 / 3)).mean(axis=1).sum()
        RR = shell * len(x_k) * (1 - (1 - pairs_inside_cube(edges, LBOX / 2)[0]) / 7)
        DD, S_omega, S_eta = (part[0] for part in count_pairs(x_k, e_k, LBOX, edges))
        assert estimates["xi"][k, 0] == pytest.approx((DD - 2 * DR + RR) / RR, abs=2e-3)
        assert estimates["omega"][k, 0] == pytest.approx((S_omega - S_R) / DD, abs=3e-4)
        assert abs(DR / RR - 1) > 3e-3  # it matters
        assert estimates["eta"][k, 0] == pytest.approx(S_eta / DD, abs=1e-12)


def test_covariance_is_that_of_the_mean_for_independent_regions():
    # delete-one means of n numbers: the jackknife variance is s^2 / n exactly
    values = np.random.default_rng(0).normal(size=(12, 2))
    delete_one = (values.sum(axis=0) - values) / 11
    assert jackknife.covariance(delete_one) == pytest.approx(np.cov(values.T) / 12)


def test_values_are_those_of_halotools():
    pytest.importorskip("halotools")
    from halotools.mock_observables import ed_3d, ee_3d, tpcf

    x, e = poisson(1500, 2)
    found = jackknife.statistics(count_pairs_by_region(x, e, LBOX, EDGES, 2))
    np.testing.assert_allclose(found["xi"], tpcf(x, EDGES, period=LBOX), atol=1e-10)
    np.testing.assert_allclose(found["omega"], ed_3d(x, e, x, EDGES, period=LBOX), atol=1e-10)
    np.testing.assert_allclose(found["eta"], ee_3d(x, e, x, e, EDGES, period=LBOX), atol=1e-10)


def test_with_half_shares_it_is_the_jackknife_of_halotools():
    """halotools lets half of a pair across a border go, and counts random points where we integrate."""
    pytest.importorskip("halotools")
    from halotools.mock_observables import tpcf_jackknife

    rng = np.random.default_rng(3)
    centres = np.repeat(rng.uniform(0, LBOX, (150, 3)), 8, axis=0)
    x = np.mod(centres + rng.normal(scale=1.0, size=centres.shape), LBOX)
    edges = np.array([2.0, 4.0])
    randoms = rng.uniform(0, LBOX, (20_000, 3))
    xi, covariance = tpcf_jackknife(x, randoms, edges, Nsub=2, period=LBOX, estimator="Landy-Szalay")
    sums = count_pairs_by_region(x, np.ones_like(x), LBOX, edges, 2)
    assert jackknife.statistics(sums)["xi"] == pytest.approx(xi, rel=0.03)
    found = jackknife.covariance(jackknife.delete_one(sums, cross_weight=0.5)["xi"])
    assert np.sqrt(found[0, 0]) == pytest.approx(np.sqrt(np.ravel(covariance)[0]), rel=0.03)


def unclustered_ratios(name, expected_variance, n_catalogues=40):
    """Mean jackknife variance of unclustered, unaligned galaxies over the known one, (n_bins,)."""
    ratios = []
    for seed in range(n_catalogues):
        x, e = poisson(2000, seed)
        sums = count_pairs_by_region(x, e, LBOX, EDGES, 4)
        ratios.append(np.diag(jackknife.covariance(jackknife.delete_one(sums)[name])) / expected_variance(sums))
    return np.mean(ratios, axis=0)


def test_errors_of_omega_are_those_of_independent_axes():
    # The variance of (e.r)^2 is 4/45, one number for each ordered pair. Without S_R the last ratio would be 1.8.
    ratios = unclustered_ratios("omega", lambda sums: 4 / 45 / sums.total.DD)
    assert ratios == pytest.approx(1.0, abs=0.12)


def test_errors_of_eta_are_those_of_independent_axes():
    # (e1.e2)^2 is the same for both orders of a pair
    ratios = unclustered_ratios("eta", lambda sums: 4 / 45 / (0.5 * sums.total.DD))
    assert ratios == pytest.approx(1.0, abs=0.12)


def test_errors_of_xi_are_those_of_poisson_pairs_at_all_separations():
    # half of the ordered pairs are independent; the number of galaxies is divided out, and adds nothing
    ratios = unclustered_ratios("xi", lambda sums: 1 / (0.5 * sums.total.DD))
    assert ratios[0] == pytest.approx(1.0, abs=0.25)  # some 100 pairs
    assert ratios[1:] == pytest.approx(1.0, abs=0.12)


def test_deleting_all_or_half_of_the_pairs_across_borders_misses_those_errors():
    x, e = poisson(2000, 0)
    sums = count_pairs_by_region(x, e, LBOX, EDGES, 4)
    half, matched, whole = (
        np.diag(jackknife.covariance(jackknife.delete_one(sums, weight)["omega"]))[-1] for weight in (0.5, None, 1.0)
    )
    assert half < 0.9 * matched
    assert whole > 1.2 * matched

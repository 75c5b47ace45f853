"""Draws by inversion: exact quantiles, and the distribution that halotools draws from."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import ks_2samp

from iaemu_training.mocks.dimroth_watson import quantile


@pytest.mark.parametrize("k", [-700.0, -50.0, -3.0, -1e-3, 0.0, 1e-3, 3.0, 50.0, 700.0])
def test_quantiles_are_where_the_integral_of_the_density_is_u(k):
    def density(x):  # at most 1
        return np.exp(-k * x * x - max(-k, 0.0))

    def mass(x):  # from 0; the density may be a narrow peak at either end
        return quad(density, 0.0, x, points=[x / 30, x * (1 - min(1.0, 3 / (abs(k) + 1)))], epsabs=0, epsrel=1e-12)[0]

    u = np.array([1e-4, 0.03, 0.3, 0.49, 0.7, 0.999])
    for share, x in zip(2 * u - 1, quantile(u, k), strict=True):
        assert np.sign(x) == np.sign(share)
        assert mass(abs(x)) / mass(1.0) == pytest.approx(abs(share), rel=1e-9)


def test_ends_and_limits():
    assert np.array_equal(quantile([0.0, 0.5, 1.0], -5.0), [-1.0, 0.0, 1.0])
    assert np.array_equal(quantile([0.0, 0.5, 1.0], 5.0), [-1.0, 0.0, 1.0])
    u = np.random.default_rng(1).random(1000)
    assert quantile(u, 0.0) == pytest.approx(2 * u - 1, abs=1e-12)
    assert np.array_equal(np.abs(quantile(u, -np.inf)), np.ones(1000))
    assert quantile(u, np.inf) == pytest.approx(np.zeros(1000), abs=1e-100)


def test_draws_move_continuously_with_the_strength_and_keep_their_order():
    u = np.sort(np.random.default_rng(2).random(500))
    mu = np.concatenate([np.linspace(-1, 1, 2001), [0.0, 0.9991, 0.99912, 0.99915]])
    mu.sort()
    x = quantile(u, -np.tan(0.5 * np.pi * mu)[:, None])
    assert np.all(np.diff(x, axis=1) >= 0)
    assert np.all(np.diff(np.abs(x), axis=0) >= -1e-12)  # closer to the axis, the stronger
    assert np.abs(np.diff(x, axis=0))[50:-50].max() < 0.02


@pytest.mark.parametrize("k", [-20.0, -1.5, 0.4, 6.0])
def test_it_is_the_distribution_of_halotools(k):
    models = pytest.importorskip("halotools.empirical_models.ia_models.watson_distribution")
    theirs = models.DimrothWatson().rvs(np.full(40_000, k), random_state=np.random.RandomState(3))
    ours = quantile(np.random.default_rng(4).random(40_000), k)
    assert ks_2samp(theirs, ours).pvalue > 1e-3


def test_what_is_no_probability_is_refused():
    for u, k in ((1.1, 1.0), (-0.1, 1.0), (np.nan, 1.0), (0.5, np.nan)):
        with pytest.raises(ValueError, match="u must be in"):
            quantile(u, k)

"""Effective sample sizes of chains whose autocorrelations are known, and of HMC where tails are heavy."""

import numpy as np
import pytest
import torch
from scipy import signal, stats

from iaemu.sampling import Sampler, Settings, diagnostics

N_CHAINS, N_DRAWS = 32, 4000


def autoregressive(rho, seed=1):
    """Chains (n_chains, n_draws, 1) of x_t = rho x_(t-1) + noise, with a standard normal as their distribution."""
    noise = np.random.default_rng(seed).normal(size=(N_CHAINS, N_DRAWS))
    noise[:, 1:] *= np.sqrt(1 - rho**2)
    return signal.lfilter([1.0], [1.0, -rho], noise, axis=1)[..., None]


def heavy(seed=1, size=(N_CHAINS, N_DRAWS, 1)):
    return np.random.default_rng(seed).standard_t(3, size=size)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("method", ["bulk", "mean"])
def test_autoregressive_chains(rho, method):
    expected = N_CHAINS * N_DRAWS * (1 - rho) / (1 + rho)
    # The scatter over seeds is 1 to 4 %.
    assert diagnostics.ess(autoregressive(rho), method)[0] == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("rho", [-0.5, 0.8])
def test_the_mean_is_not_that_of_another_scale_and_the_bulk_is(rho):
    """exp(x) of autoregressive chains is lognormal, of autocorrelation (exp(rho^k) - 1) / (e - 1)."""
    x = autoregressive(rho)
    y = np.exp(x)
    lags = np.expm1(rho ** np.arange(1, 200)) / np.expm1(1.0)
    expected = N_CHAINS * N_DRAWS / (1 + 2 * lags.sum())
    assert diagnostics.ess(y, "mean")[0] == pytest.approx(expected, rel=0.15)
    assert abs(diagnostics.ess(y, "bulk")[0] / expected - 1) > 0.15
    for method in ("bulk", "tail"):
        np.testing.assert_allclose(diagnostics.ess(y, method), diagnostics.ess(x, method), rtol=1e-9)


def test_independent_draws_count_in_full_though_tails_are_heavy():
    for method in diagnostics.ESS_METHODS:
        assert diagnostics.ess(heavy(), method)[0] == pytest.approx(N_CHAINS * N_DRAWS, rel=0.1), method


def test_a_chain_held_far_out_in_a_tail_costs_the_mean_and_not_the_bulk():
    """As HMC in a t with 3 degrees of freedom: 60 standard deviations away, the log-density has hardly a slope."""
    draws = heavy()
    draws[5, 1000:1100] = 100.0 + 0.1 * heavy(2, (100, 1))
    bulk, tail, mean = (diagnostics.ess(draws, method)[0] for method in diagnostics.ESS_METHODS)
    assert min(bulk, tail) > 0.4 * N_CHAINS * N_DRAWS and diagnostics.rhat(draws)[0] < 1.001
    assert mean < 0.02 * N_CHAINS * N_DRAWS
    # The mean, 0, is displaced. By the draws in the bulk it would be excluded.
    pull = draws.mean() / draws.std() * np.sqrt([bulk, tail, mean])
    assert pull[2] < 2 and min(pull[:2]) > 5


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1.0, 1e200])
def test_units_and_origin_do_not_matter_to_the_mean(scale):
    x = autoregressive(0.5)
    expected = diagnostics.ess(x, "mean")
    assert expected[0] < 0.5 * x.size
    np.testing.assert_allclose(diagnostics.ess(scale * x, "mean"), expected, rtol=1e-9)
    np.testing.assert_allclose(diagnostics.ess(scale * (x + 1e3), "mean"), expected, rtol=1e-6)


def test_parameters_are_apart():
    both = np.concatenate([autoregressive(0.5), 1e-6 * heavy()], axis=-1)
    for method in diagnostics.ESS_METHODS:
        apart = [diagnostics.ess(both[..., [index]], method)[0] for index in (0, 1)]
        np.testing.assert_allclose(diagnostics.ess(both, method), apart, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n_proposals", [0, None], ids=["no jumps", "jumps"])
def test_the_error_of_the_mean_of_a_t_has_the_right_size(n_proposals):
    """Over 30 seeds; from the effective draws in the bulk it would be 1.5 times too small."""

    def log_density(x):
        return -2.0 * torch.log1p(x.square().sum(dim=1) / 3.0)

    pulls = []
    for seed in range(30):
        sampler = Sampler(log_density, 1, settings=Settings(n_warmup=150, n_proposals=n_proposals), seed=seed)
        sampler.warm_up([0.0])
        draws = sampler.draw(200).positions.numpy()
        sizes = [diagnostics.ess(draws, method)[0] for method in ("bulk", "mean")]
        pulls.append(draws.mean() / draws.std() * np.sqrt(sizes))
    bulk, mean = np.sqrt(np.square(pulls).mean(axis=0))
    # Of 30 normal pulls, the root mean square is within 0.6 and 1.4 in 999 of 1000 cases.
    low, high = np.sqrt(stats.chi2.ppf((0.0005, 0.9995), 30) / 30)
    assert low < mean < high
    assert bulk > 1.15 * mean

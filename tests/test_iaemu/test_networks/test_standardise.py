"""Standardisation: unit variance in, log-normal moments out."""

import numpy as np
import pytest
import torch

from iaemu.networks.standardise import Standardiser
from iaemu.parameters import Support


@pytest.fixture(scope="module")
def training_set():
    """Mocks of a sort: n points, 5 realisations; xi over decades and partly negative, some bins empty."""
    rng = np.random.default_rng(5)
    theta = Support().sample(200, rng)
    log_xi = np.linspace(6, -3, 20) + rng.normal(0, 0.3, (200, 5, 20)) + theta[:, None, 2:3] - 13
    omega, eta = (rng.normal(mean, scale, (200, 5, 20)) for mean, scale in ((0.01, 0.02), (0.001, 0.004)))
    y = np.stack([np.exp(log_xi), omega, eta], axis=2)
    y[3, 1, 0, 19] = -0.01
    y[7, :, :, 0] = np.nan
    return theta, y


@pytest.fixture(scope="module")
def standardiser(training_set):
    return Standardiser.fit(*training_set)


def test_inputs_and_each_statistic_have_mean_zero_and_unit_variance(training_set, standardiser):
    theta, y = training_set
    inputs = standardiser.inputs(torch.tensor(theta))
    torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(7, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(inputs.var(dim=0, correction=0), torch.ones(7, dtype=torch.float64))
    targets = standardiser.targets(y).numpy()
    for statistic in range(3):
        assert np.nanmean(targets[:, :, statistic]) == pytest.approx(0, abs=1e-9)
        assert np.nanvar(targets[:, :, statistic]) == pytest.approx(1)
    # One mean and one scale over all bins: the bins keep their differences.
    assert np.ptp(np.nanmean(targets[:, :, 0], axis=(0, 1))) > 2


def test_a_bin_with_negative_xi_loses_its_log_xi_and_nothing_else(training_set, standardiser):
    missing = ~torch.isfinite(standardiser.targets(training_set[1]))
    assert bool(missing[3, 1, 0, 19]) and bool(missing[7, :, :, 0].all())
    assert int(missing.sum()) == 1 + 5 * 3


def test_targets_go_back_to_what_they_were(training_set, standardiser):
    values, _ = standardiser.physical(standardiser.targets(training_set[1]), torch.zeros(3, 1, dtype=torch.float64))
    y = torch.tensor(training_set[1])
    keep = torch.isfinite(values)
    torch.testing.assert_close(values[keep], y[keep])
    assert int((~keep).sum()) == 16


def test_moments_of_xi_are_those_of_simulated_realisations(standardiser):
    rng = np.random.default_rng(8)
    mean = torch.tensor([[0.3], [-0.2], [1.1]], dtype=torch.float64)
    sigma = torch.tensor([[0.25], [0.4], [0.7]], dtype=torch.float64)  # s of log xi: 0.25 standard deviations of 2.9
    draws = mean.numpy() + sigma.numpy() * rng.normal(size=(1_000_000, 3, 1))
    simulated, _ = standardiser.physical(torch.tensor(draws), torch.zeros(3, 1, dtype=torch.float64))
    values, aleatoric = standardiser.physical(mean, sigma**2)
    assert float(sigma[0] * standardiser.target_std[0]) > 0.5
    np.testing.assert_allclose(values, simulated.mean(dim=0), rtol=0.005)
    np.testing.assert_allclose(aleatoric, simulated.std(dim=0), rtol=0.015)
    # The paper's exp(m) is the median, and its sigma the same.
    median, same = standardiser.physical(mean, sigma**2, xi_estimate="median")
    np.testing.assert_allclose(median, simulated.median(dim=0).values, rtol=0.005, atol=1e-4)
    assert float(median[0]) < 0.9 * float(values[0])
    torch.testing.assert_close(same, aleatoric)


def test_epistemic_sigma_is_that_of_simulated_passes(standardiser):
    rng = np.random.default_rng(9)
    mean, spread = torch.zeros(3, 1, dtype=torch.float64), torch.full((3, 1), 0.02, dtype=torch.float64)
    variance = torch.full((3, 1), 0.01, dtype=torch.float64)
    passes = torch.tensor(0.02 * rng.normal(size=(400_000, 3, 1)))
    simulated, _ = standardiser.physical(passes, variance)
    values, _ = standardiser.physical(mean, variance)
    np.testing.assert_allclose(standardiser.physical_epistemic(spread, values), simulated.std(dim=0), rtol=0.01)


def test_scalers_travel_with_the_module(standardiser):
    again = Standardiser(**standardiser.to_arrays())
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), standardiser.buffers(), strict=True))
    assert standardiser.float().input_mean.dtype == torch.float32
    standardiser.double()


def test_unusable_training_sets_are_refused(training_set):
    theta, y = training_set
    with pytest.raises(ValueError, match=r"theta must have shape \(n, 7\)"):
        Standardiser.fit(theta[:, :6], y)
    with pytest.raises(ValueError, match=r"y must have shape \(200, \.\.\., 3, n_bins\)"):
        Standardiser.fit(theta, y[:, :, :2])
    constant = theta.copy()
    constant[:, 6] = 1.0
    with pytest.raises(ValueError, match="input_std must be positive"):
        Standardiser.fit(constant, y)
    negative = y.copy()
    negative[:, :, 0] = -1.0
    with pytest.raises(ValueError, match="no finite value of xi"):
        Standardiser.fit(theta, negative)
    with pytest.raises(ValueError, match="xi_estimate must be one of mean, median"):
        Standardiser.fit(theta, y).physical(torch.zeros(3, 1), torch.ones(3, 1), "mode")

"""Objectives: the paper's gradients, their limits, and masked entries."""

import numpy as np
import pytest
import torch

from iaemu_training.fitting.objective import BetaSchedule, beta_nll, criterion, gaussian_nll, mse


@pytest.fixture
def batch():
    rng = np.random.default_rng(2)
    mean, target = (torch.tensor(rng.normal(size=(6, 3, 20))) for _ in range(2))
    variance = torch.tensor(rng.uniform(0.2, 3.0, size=(6, 3, 20)))
    return mean.requires_grad_(), variance.requires_grad_(), target


def gradients(loss, mean, variance):
    return torch.autograd.grad(loss, (mean, variance), allow_unused=True)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_gradients_are_equations_8_and_9(batch, beta):
    mean, variance, target = batch
    by_mean, by_variance = gradients(beta_nll(mean, variance, target, (beta,) * 3), mean, variance)
    n = 6 * 20  # entries of a statistic
    torch.testing.assert_close(by_mean, (mean - target) / variance ** (1 - beta) / n)
    torch.testing.assert_close(by_variance, (variance - (target - mean) ** 2) / (2 * variance ** (2 - beta)) / n)


def test_gradients_equal_central_differences_with_the_weight_held_fixed(batch):
    mean, variance, target = (tensor.detach() for tensor in batch)
    beta = torch.tensor([0.9, 0.5, 0.2])[:, None]
    fixed = variance**beta

    def loss(mean, variance):
        return (fixed * (0.5 * torch.log(variance) + (target - mean) ** 2 / (2 * variance))).mean(dim=(0, 2)).sum()

    by_mean, by_variance = gradients(beta_nll(*batch, beta.flatten()), *batch[:2])
    for place in ((0, 0, 0), (1, 1, 5), (5, 2, 19)):
        step = torch.zeros_like(mean)
        step[place] = 1e-6
        central = (loss(mean + step, variance) - loss(mean - step, variance)) / 2e-6
        assert float(by_mean[place]) == pytest.approx(float(central), rel=1e-6, abs=1e-9)
        central = (loss(mean, variance + step) - loss(mean, variance - step)) / 2e-6
        assert float(by_variance[place]) == pytest.approx(float(central), rel=1e-6, abs=1e-9)


def test_beta_zero_is_the_likelihood_of_a_normal_distribution(batch):
    mean, variance, target = batch
    expected = torch.nn.functional.gaussian_nll_loss(mean, target, variance, reduction="none").mean(dim=(0, 2)).sum()
    torch.testing.assert_close(beta_nll(mean, variance, target, (0.0,) * 3), expected)
    torch.testing.assert_close(gaussian_nll(mean, variance, target), expected)


def test_beta_one_learns_the_mean_as_the_squared_error_does(batch):
    mean, variance, target = batch
    by_mean, _ = gradients(beta_nll(mean, variance, target, (1.0,) * 3), mean, variance)
    expected, _ = gradients(0.5 * mse(mean, target), mean, variance)
    torch.testing.assert_close(by_mean, expected)


def test_the_likelihood_is_lowest_at_the_true_mean_and_variance():
    rng = np.random.default_rng(3)
    target = torch.tensor(rng.normal(0.3, 0.7, size=(200_000, 1, 1)))
    at = {
        (m, s): float(gaussian_nll(torch.full_like(target, m), torch.full_like(target, s**2), target))
        for m in (0.2, 0.3, 0.4)
        for s in (0.6, 0.7, 0.8)
    }
    assert min(at, key=at.get) == (0.3, 0.7)


def test_masked_entries_count_nothing_whatever_is_predicted_there(batch):
    mean, variance, target = batch
    target[1, 0, 3] = target[2, 2] = torch.nan
    keep = torch.isfinite(target)
    for loss in (mse(mean, target), beta_nll(mean, variance, target, (0.9, 0.5, 0.5)), criterion(*batch)):
        assert bool(torch.isfinite(loss))
        for gradient in gradients(loss, mean, variance):
            assert gradient is None or (bool(torch.isfinite(gradient).all()) and bool((gradient[~keep] == 0).all()))
    # The mean is over the entries that are left.
    expected = sum(((mean - target)[:, s][keep[:, s]] ** 2).mean() for s in range(3))
    torch.testing.assert_close(mse(mean, target), expected)


def test_a_statistic_without_entries_counts_nothing(batch):
    mean, _, target = batch
    target[:, 0] = torch.nan
    torch.testing.assert_close(mse(mean, target), mse(mean[:, 1:], target[:, 1:]))


def test_a_variance_that_underflows_does_not_spoil_the_loss(batch):
    mean, variance, target = batch
    with torch.no_grad():
        variance[0, 0, 0] = 0.0
    loss = beta_nll(mean, variance, target, (0.5,) * 3)
    assert bool(torch.isfinite(loss)) and all(bool(torch.isfinite(g).all()) for g in gradients(loss, mean, variance))


def test_the_criterion_is_seven_parts_of_mse_and_three_of_nll(batch):
    mean, variance, target = batch
    expected = 0.7 * mse(mean, target) + 0.3 * gaussian_nll(mean, variance, target)
    torch.testing.assert_close(criterion(mean, variance, target), expected)


def test_the_schedule_warms_up_for_a_hundred_epochs():
    schedule = BetaSchedule()
    assert schedule(0) == schedule(99) == (1.0, 1.0, 1.0)
    assert schedule(100) == schedule(499) == (0.9, 0.5, 0.5)

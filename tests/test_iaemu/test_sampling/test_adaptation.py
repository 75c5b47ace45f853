"""Dual averaging, the moments of pooled draws, the schedule, and the search of the maximum."""

import math

import pytest
import torch
from targets import correlated_normal

from iaemu.sampling import SamplingError, Transform
from iaemu.sampling.adaptation import DualAveraging, Moments, initial_step_size, pooled_acceptance, window_ends
from iaemu.sampling.density import Density
from iaemu.sampling.laplace import _maximise, approximate, scatter
from iaemu.sampling.metric import Metric


def covariance_of(metric):
    return metric.factor @ metric.factor.T


def density_of(function, dimension, bounds=(None, None), **options):
    return Density(function, Transform.from_bounds(*bounds, dimension=dimension), **options)


@pytest.mark.parametrize("start", [1e-3, 0.3, 100.0])
@pytest.mark.parametrize("target", [0.6, 0.8, 0.95])
def test_dual_averaging_finds_the_step_of_the_target(start, target):
    """For an acceptance exp(-step^2) with noise, of which the answer is known."""
    generator = torch.Generator().manual_seed(1)
    state = DualAveraging.begin(start)
    for _ in range(300):
        noise = 0.05 * float(torch.randn((), generator=generator))
        acceptance = min(1.0, max(0.0, math.exp(-math.exp(2 * state.log_step)) + noise))
        state = state.update(acceptance, target)
    step = math.exp(state.log_step_average)
    assert math.exp(-(step**2)) == pytest.approx(target, abs=0.03)


def test_dual_averaging_keeps_below_the_largest():
    state = DualAveraging.begin(0.1)
    for _ in range(100):
        state = state.update(1.0, 0.8, largest=2.0)
        assert math.exp(state.log_step) <= 2.0 * (1 + 1e-12)
    assert math.exp(state.log_step_average) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_initial_step_brackets_the_target(scale):
    step = initial_step_size(lambda size: math.exp(-((size / scale) ** 2)), 1.0)
    assert math.exp(-((step / scale) ** 2)) >= 0.8 >= math.exp(-((2 * step / scale) ** 2))


def test_harmonic_mean_notices_a_chain_that_stands_still():
    acceptance, error = torch.ones(64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    acceptance[3] = 1e-6
    assert pooled_acceptance(acceptance, error, harmonic=False) > 0.98
    assert pooled_acceptance(acceptance, error, harmonic=True) < 1e-4


def test_chains_that_left_the_support_say_nothing_of_the_step():
    acceptance, error = torch.full((64,), 0.8, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    acceptance[:40], error[:40] = 0.0, torch.inf
    for harmonic in (False, True):
        assert pooled_acceptance(acceptance, error, harmonic) == pytest.approx(0.8)
    # But when nearly all do, the step is to blame.
    acceptance[:60], error[:60] = 0.0, torch.inf
    assert pooled_acceptance(acceptance, error, harmonic=False) == pytest.approx(0.05)


def test_moments_and_the_metric_they_make():
    _, mean, covariance = correlated_normal(5)
    metric = Metric.from_covariance(mean, covariance)
    generator = torch.Generator().manual_seed(1)
    points = metric.colour(torch.randn(40000, 5, generator=generator, dtype=torch.float64))
    # From another metric, in parts.
    other = Metric.from_covariance(mean + covariance.diagonal().sqrt(), torch.diag(covariance.diagonal() * 3.0))
    moments = Moments.empty(mean)
    for part in other.whiten(points).split(700):
        moments = moments.update(part)
    new = moments.metric(other)
    assert moments.count == 40000
    torch.testing.assert_close(new.mean, points.mean(dim=0))
    size = covariance.diagonal().sqrt()
    torch.testing.assert_close(
        covariance_of(new) / torch.outer(size, size),
        torch.cov(points.T) / torch.outer(size, size),
        rtol=1e-3,
        atol=1e-3,
    )
    torch.testing.assert_close(new.factor @ new.inverse_factor, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(new.colour(new.whiten(points)), points)


def test_windows_grow_and_leave_the_ends_to_the_step_size():
    assert window_ends(200) == [40, 60, 150]
    for n_warmup in (50, 100, 333, 1000):
        ends = window_ends(n_warmup)
        lengths = [b - a for a, b in zip([round(0.15 * n_warmup), *ends], ends, strict=False)]
        assert lengths == sorted(lengths)
        assert ends[-1] == n_warmup - math.ceil(0.25 * n_warmup)
    assert window_ends(20, shortest=50) == []


@pytest.mark.parametrize("dimension", [2, 7, 50])
def test_maximum_of_a_normal(dimension):
    log_density, mean, covariance = correlated_normal(dimension)
    density = density_of(log_density, dimension)
    found = _maximise(density, mean + 30.0 * covariance.diagonal().sqrt())
    assert found.converged
    size = covariance.diagonal().sqrt()
    torch.testing.assert_close((found.metric.mean - mean) / size, torch.zeros(dimension).double(), rtol=0, atol=1e-3)
    whitened = found.metric.inverse_factor @ covariance @ found.metric.inverse_factor.T
    torch.testing.assert_close(whitened, torch.eye(dimension).double(), rtol=0, atol=1e-4)


def test_maximum_beside_a_wall():
    """Steps into where the density vanishes are shortened, in the search and in the differences."""

    def log_density(x):
        inside = (x[:, 0] > 0) & (x[:, 1] > 0)
        safe = torch.where(inside[:, None], x, 1.0)
        value = 2.0 * torch.log(safe).sum(dim=1) - 100.0 * safe.sum(dim=1)
        return torch.where(inside, value, -torch.inf)

    found = _maximise(density_of(log_density, 2), torch.tensor([5.0, 0.01], dtype=torch.float64))
    torch.testing.assert_close(found.metric.mean, torch.full((2,), 0.02).double(), rtol=1e-3, atol=0)
    # x^2 exp(-100 x): curvature 2 / x^2.
    torch.testing.assert_close(covariance_of(found.metric), torch.eye(2).double() * 2e-4, rtol=1e-2, atol=1e-7)


def test_saddles_and_plateaus_give_a_covariance_all_the_same():
    def log_density(x):
        return -(x[:, 0] ** 4) - (x[:, 1] ** 2 - 1.0) ** 2 + 0.0 * x[:, 2] - 1e-12 * x[:, 2] ** 2

    found = _maximise(density_of(log_density, 3), torch.zeros(3, dtype=torch.float64) + 1e-3)
    assert bool(torch.isfinite(covariance_of(found.metric)).all())
    assert float(torch.linalg.eigvalsh(covariance_of(found.metric)).min()) > 0
    assert float(found.metric.mean[1].abs()) == pytest.approx(1.0, abs=0.05)


def test_maxima_are_told_apart_and_negligible_ones_left_out():
    def log_density(x):
        heights = torch.tensor([0.0, -1.0, -40.0], dtype=torch.float64)
        centres = torch.tensor([-8.0, 0.0, 8.0], dtype=torch.float64)
        return torch.logsumexp(heights - 0.5 * (x - centres) ** 2, dim=1)

    starts = torch.tensor([[0.2], [-8.3], [-7.8], [8.1]], dtype=torch.float64)
    found = approximate(density_of(log_density, 1), starts)
    assert [round(float(one.metric.mean)) for one in found] == [-8, 0]


def test_scattered_points_are_overdispersed_and_in_the_support():
    log_density, mean, _ = correlated_normal(7)
    density = density_of(log_density, 7)
    maxima = [_maximise(density, mean)]
    generator = torch.Generator().manual_seed(1)
    points = scatter(density, maxima, 4000, generator, 2.0)
    size = maxima[0].metric.whiten(points).std(dim=0)
    torch.testing.assert_close(size, torch.full((7,), 2.0).double(), rtol=0.1, atol=0)

    def half(x):
        return torch.where(x[:, 0] > mean[0], log_density(x), torch.nan)

    points = scatter(density_of(half, 7), maxima, 100, generator, 2.0)
    assert bool((points[:, 0] > mean[0]).all())
    nowhere = density_of(lambda x: x.sum(dim=1) * torch.nan, 7)
    with pytest.raises(SamplingError, match="100 of 100 chains"):
        scatter(nowhere, maxima, 100, generator, 2.0)

"""Jumps and the mixture by means of which chains make them."""

import numpy as np
import pytest
import torch
from scipy import stats
from targets import banana, correlated_normal

from iaemu.sampling import Sampler, Settings, Transform, hmc, jumps, region, sample
from iaemu.sampling.density import Density
from iaemu.sampling.metric import Metric
from iaemu.sampling.mixture import Mixture

F8 = torch.float64


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def mixture_of_two():
    factors = torch.tensor([[[1.0, 0.0], [0.8, 0.6]], [[0.5, 0.0], [0.0, 2.0]]], dtype=F8)
    means = torch.tensor([[0.0, 0.0], [4.0, -1.0]], dtype=F8)
    return Mixture(torch.tensor([0.3, 0.7], dtype=F8).log(), means, factors)


def test_density_of_a_mixture_is_that_of_scipy():
    mixture = mixture_of_two()
    points = torch.randn(50, 2, generator=generator(), dtype=F8) * 3.0
    expected = sum(
        weight * stats.multivariate_t(mean, factor @ factor.T, df=5).pdf(points)
        for weight, mean, factor in zip((0.3, 0.7), mixture.means.numpy(), mixture.factors.numpy(), strict=True)
    )
    difference = mixture.log_density(points).numpy() - np.log(expected)
    np.testing.assert_allclose(difference, difference[0], atol=1e-10)


def test_draws_of_a_mixture_have_its_moments():
    mixture = mixture_of_two()
    draws = mixture.draw(200_000, generator()).numpy()
    first = draws[:, 0] - 0.3 * 0.0 - 0.7 * 4.0
    assert abs(first.mean()) < 0.03
    # The covariance of a t-distribution is freedom / (freedom - 2) times its scale.
    within = 5.0 / 3.0 * (0.3 * 1.0 + 0.7 * 0.25)
    assert draws[:, 0].var() == pytest.approx(within + 0.21 * 16.0, rel=0.02)


def test_a_fit_finds_the_parts_of_draws():
    draws = mixture_of_two().draw(4000, generator(5))
    fitted = Mixture.fit(draws, generator())
    fresh = mixture_of_two().draw(4000, generator(6))
    difference = mixture_of_two().log_density(fresh) - fitted.log_density(fresh)
    # A single component would differ by several times as much.
    assert float(difference.std()) < 0.3


@pytest.mark.parametrize("bounds", [(None, None), ([-3.0, None], [3.0, 4.0])], ids=["free", "bounded"])
def test_jumps_leave_the_density_invariant(bounds):
    """Chains that begin as exact draws remain so, although the mixture is a poor one."""
    transform = Transform.from_bounds(*bounds, dimension=2)
    exact = torch.randn(40_000, 2, generator=generator(), dtype=F8)
    exact = exact[transform.contains(exact)]
    density = Density(lambda x: -0.5 * x.square().sum(dim=1), transform, 100_000)
    metric = Metric(torch.tensor([0.1, -0.2], dtype=F8), 0.7 * torch.eye(2, dtype=F8), torch.eye(2, dtype=F8) / 0.7)
    state = hmc.init(metric.whiten(transform.inverse(exact)), metric.whitened(density))
    mixture = mixture_of_two()._replace(means=torch.tensor([[0.5, 0.5], [-1.0, 0.0]], dtype=F8))
    for seed in range(3):
        state, moved = jumps.jump(state, density, metric, mixture, 4, generator(10 + seed))
        assert 0.2 < float(moved.double().mean()) < 0.95
    found = transform.forward(metric.colour(state.position))
    again, gradient = metric.whitened(density)(state.position)
    torch.testing.assert_close(again, state.log_density)
    torch.testing.assert_close(gradient, state.gradient)
    error = 1.0 / np.sqrt(len(exact))
    for power in (1, 2, 4):
        difference = (found**power).mean(dim=0) - (exact**power).mean(dim=0)
        assert bool((difference.abs() < 5.0 * error * (exact**power).std(dim=0)).all())


def test_chains_jump_between_modes_in_proportion_to_their_mass():
    def two(x):
        left = -0.5 * ((x + 5.0) ** 2).sum(dim=1) + np.log(0.25)
        return torch.logaddexp(-0.5 * ((x - 5.0) ** 2).sum(dim=1) + np.log(0.75), left)

    result = sample(two, [[4.0, 4.5], [-4.0, -4.5]], n_draws=100, n_warmup=60, progress=False)
    assert result.rhat.max() < 1.02
    assert float((result.draws[..., 0] > 0).double().mean()) == pytest.approx(0.75, abs=0.03)
    assert float(result.info.jumped.double().mean()) > 0.5


def test_jumps_make_draws_of_a_curved_density_independent():
    options = dict(n_draws=100, n_warmup=100, progress=False)
    with_jumps, without = (sample(banana, [1.0, 1.0], n_proposals=n, **options) for n in (None, 0))
    assert with_jumps.sampler.mixture is not None and without.sampler.mixture is None
    assert with_jumps.ess_tail.min() > 1.5 * without.ess_tail.min()
    assert float(with_jumps.draws[..., 1].mean()) == pytest.approx(0.5, abs=0.1)
    assert float(with_jumps.draws[..., 1].var()) == pytest.approx(1.5, rel=0.15)


def test_a_nearly_normal_density_needs_no_jumps_and_is_sampled_as_without():
    log_density, mean, _ = correlated_normal(3)
    settings = [Settings(n_chains=16, n_warmup=60, n_proposals=n) for n in (None, 0)]
    samplers = [Sampler(log_density, 3, settings=one, seed=4) for one in settings]
    for sampler in samplers:
        sampler.warm_up(mean)
        assert sampler.integrator == "rotation" and sampler.mixture is None
    assert torch.equal(*(sampler.draw(10).positions for sampler in samplers))


def test_jumps_that_do_not_succeed_are_not_made():
    """A density of 40 parameters that no mixture fitted to few draws approximates."""

    def curved(x):
        return -0.5 * x.square().sum(dim=1) - (x[:, 1:] - 2.0 * x[:, :-1].square()).square().sum(dim=1)

    sampler = Sampler(curved, 40, settings=Settings(n_chains=8, n_warmup=40), seed=4)
    sampler.warm_up(torch.zeros(40, dtype=F8))
    assert sampler.integrator != "rotation" and sampler.mixture is None
    with pytest.raises(ValueError, match="n_proposals must be a whole number between 0 and 10000; got -1"):
        Settings(n_proposals=-1)


def test_a_density_too_steep_to_have_a_width_has_no_jumps():
    sampler = Sampler(lambda x: -1e300 * x.square().sum(dim=1), 2, (-3.0, 3.0), Settings(n_chains=4, n_warmup=20), 0)
    sampler.warm_up(np.zeros(2))
    assert sampler.mixture is None
    assert bool((sampler.draw(2).positions == 0).all())


def test_resumed_jumps_are_uninterrupted_bit_for_bit(tmp_path):
    """Stopped before the mixture is fitted, so that the draws of the window are part of the state, and after it."""
    bounds = region([-9.0, -9.0], [9.0, 9.0], [[1.0, 1.0]], [4.0])
    settings = Settings(n_chains=16, n_warmup=60, n_proposals=4)
    whole = Sampler(banana, 2, bounds, settings, 9)
    whole.warm_up([0.5, 0.5])
    expected = whole.draw(6)
    assert whole.mixture is not None and bool(expected.info.jumped.any())
    for stop in (40, 50, 60):
        first = Sampler(banana, 2, bounds, settings, 9)
        first.begin([0.5, 0.5])
        for _ in range(stop):
            first._warm_up_step()
        torch.save(first.state_dict(), tmp_path / "state")
        state = torch.load(tmp_path / "state", weights_only=True)
        assert ("window" in state) == (stop == 40) and ("mixture.means" in state) == (stop > 40)
        second = Sampler(banana, 2, bounds, settings, 1234)
        second.load_state_dict(state)
        second.warm_up()
        assert torch.equal(second.draw(6).positions, expected.positions)
    del state["transform"]
    with pytest.raises(ValueError, match="The state is incomplete: it lacks 'transform'"):
        second.load_state_dict(state)

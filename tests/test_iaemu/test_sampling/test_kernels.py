"""Integrators, HMC and NUTS as kernels: reversibility, volume, order, invariance."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from iaemu.sampling import hmc, nuts
from iaemu.sampling.integrators import GRADIENTS, INTEGRATORS, integrate


def quartic(x):
    """Log-density -sum(x^2 / 2 + x^4 / 8) - (x0 x1)^2 / 4 and its gradient: not Gaussian, not separable."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = -(0.5 * leaf**2 + leaf**4 / 8.0).sum(dim=1) - 0.25 * (leaf[:, 0] * leaf[:, 1]) ** 2
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def normal(x):
    return -0.5 * (x**2).sum(dim=1), -x


def phase_space(n=20, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=torch.float64)


def move(position, momentum, step, n_steps, integrator, density=quartic):
    return integrate(density, position, momentum, *density(position), step, n_steps, integrator)


def energy_of(position, momentum, density=quartic):
    return 0.5 * (momentum**2).sum(dim=1) - density(position)[0]


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_reversible(integrator):
    position, momentum = phase_space()
    end = move(position, momentum, 0.2, 7, integrator)
    assert float((end[0] - position).abs().max()) > 0.5
    for back in (move(end[0], -end[1], 0.2, 7, integrator), move(end[0], end[1], -0.2, 7, integrator)):
        torch.testing.assert_close(back[0], position, rtol=0, atol=1e-12)
    torch.testing.assert_close(back[1], momentum, rtol=0, atol=1e-12)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_keeps_volume(integrator):
    position, momentum = phase_space(n=1, d=2)

    def flow(z):
        return torch.cat(move(z[None, :2], z[None, 2:], 0.4, 3, integrator)[:2], dim=1)[0]

    point = torch.cat([position, momentum], dim=1)[0]
    step, columns = 1e-5, []
    for direction in torch.eye(4, dtype=torch.float64):
        columns.append((flow(point + step * direction) - flow(point - step * direction)) / (2 * step))
    jacobian = torch.stack(columns, dim=1)
    assert float((jacobian - torch.eye(4, dtype=torch.float64)).abs().max()) > 0.5
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_energy_error_is_of_second_order(integrator):
    position, momentum = phase_space(n=200)
    before = energy_of(position, momentum)
    errors = []
    for n_steps in (10, 20, 40):
        end = move(position, momentum, 1.0 / n_steps, n_steps, integrator)
        errors.append(float((energy_of(*end[:2]) - before).abs().mean()))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.1)


def test_rotation_is_exact_for_the_standard_normal():
    position, momentum = phase_space()
    end = move(position, momentum, 1.3, 2, "rotation", normal)
    torch.testing.assert_close(end[0], math.cos(2.6) * position + math.sin(2.6) * momentum)
    torch.testing.assert_close(energy_of(*end[:2], normal), energy_of(position, momentum, normal))


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_gradients_as_many_as_said(integrator):
    calls = []

    def counted(x):
        calls.append(len(x))
        return normal(x)

    position, momentum = phase_space()
    integrate(counted, position, momentum, *normal(position), 0.1, 5, integrator)
    assert len(calls) == 5 * GRADIENTS[integrator]


def marginal():
    """Cumulative distribution of one coordinate of ``quartic`` in one dimension, by quadrature."""
    grid = np.linspace(-6, 6, 20001)
    density = np.exp(-0.5 * grid**2 - grid**4 / 8)
    return lambda x: np.interp(x, grid, np.cumsum(density) / density.sum())


def one_dimension(x):
    return -(0.5 * x**2 + x**4 / 8.0).sum(dim=1), -(x + 0.5 * x**3)


KERNELS = {
    **{name: dict(integrator=name, jitter=0.5, trajectory_length=1.6) for name in INTEGRATORS},
    "nuts": None,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_leaves_the_density_invariant(kernel):
    """From exact draws of it, many chains are distributed as before after a few steps of any (large) step size."""
    generator = torch.Generator().manual_seed(5)
    distribution = marginal()
    grid = np.linspace(-6, 6, 20001)
    uniform = torch.rand(40000, generator=generator, dtype=torch.float64).numpy()
    exact = torch.as_tensor(np.interp(uniform, distribution(grid), grid))[:, None]
    state = hmc.init(exact, one_dimension)
    module, options = (nuts, {}) if kernel == "nuts" else (hmc, KERNELS[kernel])
    for _ in range(4):
        state, info = module.step(state, one_dimension, 1.8, generator, **options)
    moved = state.position[:, 0].numpy()
    assert 0.2 < float(info.acceptance.mean()) < 0.995  # the accept step is at work
    assert abs(np.corrcoef(moved, exact[:, 0])[0, 1]) < 0.5  # and they have moved
    assert stats.kstest(moved, distribution).pvalue > 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
def test_detailed_balance(kernel):
    """Transitions from A to B are as many as from B to A, in stationarity."""
    generator = torch.Generator().manual_seed(6)
    uniform = torch.rand(60000, generator=generator, dtype=torch.float64).numpy()
    grid = np.linspace(-6, 6, 20001)
    exact = torch.as_tensor(np.interp(uniform, marginal()(grid), grid))[:, None]
    module, options = (nuts, {}) if kernel == "nuts" else (hmc, KERNELS[kernel])
    state = hmc.init(exact, one_dimension)
    after, _ = module.step(state, one_dimension, 0.8, generator, **options)
    cells = [np.digitize(x[:, 0].numpy(), [-1.0, -0.3, 0.2, 0.9]) for x in (exact, after.position)]
    table = np.zeros((5, 5))
    np.add.at(table, tuple(cells), 1)
    upper = np.triu_indices(5, 1)
    there, back = table[upper], table.T[upper]
    there, back = there[there + back > 20], back[there + back > 20]
    assert len(there) > 6
    chi2 = ((there - back) ** 2 / (there + back)).sum()
    assert stats.chi2.sf(chi2, len(there)) > 1e-3


def test_state_of_nuts_is_consistent():
    generator = torch.Generator().manual_seed(1)
    state = hmc.init(phase_space(n=50)[0], quartic)
    for _ in range(5):
        state, info = nuts.step(state, quartic, 0.15, generator)
    value, gradient = quartic(state.position)
    torch.testing.assert_close(state.log_density, value)
    torch.testing.assert_close(state.gradient, gradient)
    # Complete trees have 2^depth - 1 leaves, those that ended within a doubling fewer.
    assert bool((info.n_leapfrog <= 2**info.tree_depth - 1).all())
    assert bool((info.n_leapfrog >= 2 ** (info.tree_depth - 1)).all())


def test_nuts_turns_round_at_half_an_orbit():
    """On a standard normal of one dimension a trajectory ends between a half and a whole period."""
    generator = torch.Generator().manual_seed(1)
    state = hmc.init(phase_space(n=500, d=1)[0], normal)
    _, info = nuts.step(state, normal, 0.1, generator)
    length = 0.1 * info.n_leapfrog.double()
    assert float(length.mean()) > 0.4 * math.pi
    assert float(length.max()) < 2.0 * math.pi + 0.1


def test_nuts_stops_at_the_maximum_depth():
    generator = torch.Generator().manual_seed(1)
    state = hmc.init(phase_space(n=8)[0], normal)
    _, info = nuts.step(state, normal, 1e-4, generator, max_tree_depth=4)
    assert info.tree_depth.tolist() == [4] * 8
    assert info.n_leapfrog.tolist() == [15] * 8


@pytest.mark.parametrize("module", [hmc, nuts])
def test_wild_steps_are_divergent_and_rejected(module):
    def narrow(x):
        return -0.5e8 * (x**2).sum(dim=1), -1e8 * x

    generator = torch.Generator().manual_seed(1)
    state = hmc.init(1e-4 * phase_space(n=8)[0], narrow)
    new, info = module.step(state, narrow, 1.0, generator)
    assert bool(info.divergent.all()) and not bool(info.accepted.any())
    assert torch.equal(new.position, state.position)


def test_trajectories_are_jittered_and_divided_evenly():
    generator = torch.Generator().manual_seed(1)
    state = hmc.init(phase_space(n=4)[0], normal)
    lengths = []
    for _ in range(300):
        state, info = hmc.step(state, normal, 0.4, generator, 2.0, 0.5)
        assert float(info.step_size[0]) <= 0.4
        lengths.append(float(info.step_size[0] * info.n_leapfrog[0]))
    assert stats.kstest(lengths, stats.uniform(1.0, 2.0).cdf).pvalue > 1e-3
    _, info = hmc.step(state, normal, 1e-3, generator, max_steps=10)
    assert int(info.n_leapfrog[0]) == 10 and float(info.step_size[0]) == 1e-3

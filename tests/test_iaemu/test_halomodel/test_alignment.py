"""Dimroth-Watson: limits, symmetries, the defining integral, gradients, and halotools' own sampler."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from iaemu.halomodel.alignment import _dawson, _mean_p2_exact, mean_p2


def concentration(mu):
    return np.tan(0.5 * np.pi * mu)


def by_quadrature(mu):
    kappa = concentration(mu)
    scale = max(kappa, 0.0)  # keeps the exponent below 0
    norm = quad(lambda c: np.exp(kappa * c**2 - scale), 0.0, 1.0, epsabs=0, epsrel=1e-12, limit=400)[0]
    cos2 = quad(lambda c: c**2 * np.exp(kappa * c**2 - scale), 0.0, 1.0, epsabs=0, epsrel=1e-12, limit=400)[0] / norm
    return 1.5 * cos2 - 0.5


def test_ends_and_zero_are_exact():
    assert mean_p2(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)).tolist() == [-0.5, 0.0, 1.0]


def test_equals_the_defining_integral_in_every_regime():
    mu = np.concatenate([np.linspace(-0.99, 0.99, 67), [1e-6, 0.4999, 0.5001, 0.987, 0.988, -0.4999, -0.5001]])
    expected = [by_quadrature(value) for value in mu]
    np.testing.assert_allclose(mean_p2(torch.tensor(mu)).numpy(), expected, atol=2e-11)


def test_small_mu_is_the_first_term_of_the_series():
    mu = torch.tensor([1e-8, -1e-8], dtype=torch.float64)
    np.testing.assert_allclose(mean_p2(mu), 2.0 / 15.0 * 0.5 * np.pi * mu, rtol=1e-7)


def test_monotonic_and_bounded():
    q = mean_p2(torch.linspace(-1, 1, 20001, dtype=torch.float64))
    assert bool((q.diff() > 0).all())
    assert float(q.min()) == -0.5 and float(q.max()) == 1.0


def test_gradient_is_finite_everywhere_and_right():
    mu = torch.linspace(-1, 1, 401, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mean_p2(mu).sum(), mu)
    assert bool(torch.isfinite(slope).all())
    # At the ends q = 1 - 3 / (2 kappa) and -1/2 + 3 / (4 |kappa|), 1 / |kappa| = pi (1 - |mu|) / 2.
    np.testing.assert_allclose(slope[[0, -1]], [3 * np.pi / 8, 3 * np.pi / 4], rtol=1e-12)
    inner = mu.detach()[1:-1]
    step = 1e-6
    central = (mean_p2(inner + step) - mean_p2(inner - step)) / (2 * step)
    np.testing.assert_allclose(slope[1:-1], central, rtol=1e-7, atol=1e-8)


def test_single_precision_agrees_with_double():
    mu = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    np.testing.assert_allclose(mean_p2(mu.float()).double(), mean_p2(mu), atol=5e-7)


@pytest.mark.parametrize("bad", [1.0001, -1.5, float("nan")])
def test_outside_the_range_is_an_error_naming_the_value(bad):
    with pytest.raises(ValueError, match=r"outside \[-1, 1\]"):
        mean_p2(torch.tensor([0.1, bad], dtype=torch.float64))


def test_concentration_follows_the_definition():
    np.testing.assert_allclose(concentration(np.array([-0.5, 0.0, 0.5])), [-1.0, 0.0, 1.0], atol=1e-15)


def test_dawson_equals_scipy():
    from scipy.special import dawsn

    x = np.linspace(0.2, 30.0, 4001)
    np.testing.assert_allclose(_dawson(torch.tensor(x)), dawsn(x), rtol=2e-14)


@pytest.mark.parametrize("mu", [-0.95, -0.6, -0.2, 0.1, 0.5, 0.8, 0.97])
def test_agrees_with_draws_of_halotools(mu):
    halotools = pytest.importorskip("halotools.empirical_models.ia_models.watson_distribution")
    n = 200_000
    k = np.full(n, -np.tan(0.5 * np.pi * mu))
    draws = halotools.DimrothWatson().rvs(k, size=n, random_state=np.random.RandomState(17))
    p2 = 1.5 * draws**2 - 0.5
    standard_error = p2.std() / np.sqrt(n)
    assert abs(p2.mean() - float(mean_p2(torch.tensor(mu, dtype=torch.float64)))) < 4 * standard_error


def test_tabulated_polynomials_reproduce_the_exact_expressions():
    rng = np.random.default_rng(3)
    ends = 1.0 - 10.0 ** rng.uniform(-12, -1, 500)
    mu = torch.tensor(np.concatenate([rng.uniform(-1, 1, 20000), ends, -ends]))
    np.testing.assert_allclose(mean_p2(mu), _mean_p2_exact(mu), rtol=0, atol=3e-15)
    exact = mu.clone().requires_grad_()
    (expected,) = torch.autograd.grad(_mean_p2_exact(exact).sum(), exact)
    given = mu.clone().requires_grad_()
    (slope,) = torch.autograd.grad(mean_p2(given).sum(), given)
    np.testing.assert_allclose(slope, expected, rtol=1e-10)


def test_second_derivative():
    mu = torch.tensor([-0.9, -0.3, 0.0, 0.35, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(mean_p2, mu)
    assert mean_p2(torch.tensor(0.5, dtype=torch.float64)).shape == ()

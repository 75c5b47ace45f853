"""Distributions of data with an estimated covariance: their limits, their calibration, and their gradients."""

import logging

import numpy as np
import pytest
import torch
from scipy import stats

from iaemu_cobaya import TNG300Sample1, TNG300Sample3
from iaemu_cobaya.likelihoods.distribution import (
    Block,
    hotelling_p_value,
    least_eigenvalues_of_noise,
    log_likelihoods,
    products_of,
)


def block(n_bins, n_regions, distribution="t"):
    return Block(["omega"], np.arange(n_bins), n_regions, distribution)


def terms(n_bins, n_regions, distribution="t", n_parameters=2):
    power = block(n_bins, n_regions, distribution).power(n_parameters)
    return [(torch.arange(n_bins), power, n_regions)]


def estimated(n, n_bins, n_regions, seed):
    """n data vectors of independent unit normal bins, and a covariance from n_regions for each."""
    rng = np.random.default_rng(seed)
    covariances = stats.wishart(n_regions - 1, np.eye(n_bins) / (n_regions - 1)).rvs(n, random_state=rng)
    return rng.standard_normal((n, n_bins)), covariances


def test_the_power_of_sample_3_in_14_bins_is_that_of_percival_et_al():
    # equations 54 to 56 by hand: B = 13 / (14 * 11), m = 4 + (26 + 10 B) / (1 + 10 B)
    b = 13 / (14 * 11)
    assert block(12, 27).power(2) == pytest.approx(4 + (26 + 10 * b) / (1 + 10 * b))
    assert block(12, 27, "sellentin-heavens").power(2) == 27


@pytest.mark.parametrize("distribution", ["t", "sellentin-heavens"])
def test_many_regions_give_the_normal_distribution(distribution):
    residuals = torch.linspace(-2, 3, 6, dtype=torch.float64)[None]
    found = log_likelihoods(residuals, None, terms(6, 10**7, distribution))
    assert float(found) == pytest.approx(-0.5 * float(residuals.square().sum()), rel=1e-5)
    assert block(6, 10**7, distribution).widening(2) == pytest.approx(1, rel=1e-5)


def test_the_density_of_sellentin_and_heavens_is_that_of_a_multivariate_t():
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(4, 5))
    dof = 20 - 5
    expected = stats.multivariate_t(shape=np.eye(5) * 19 / dof, df=dof).logpdf(rows)
    found = log_likelihoods(torch.as_tensor(rows), None, terms(5, 20, "sellentin-heavens")).numpy()
    assert found - found[0] == pytest.approx(expected - expected[0])


def test_pulls_with_the_t_distribution_are_one_wide_where_those_with_the_hartlap_factor_are_not():
    """A linear model of two parameters, 12 bins and 27 regions: the posterior by its curvature at the mean."""
    data, covariances = estimated(4000, 12, 27, seed=2)
    inverse = np.linalg.inv(covariances)
    # The model is the first two bins; the posterior of the others is at 0.
    precision = inverse[:, :2, :2]
    mean = data[:, :2] + np.linalg.solve(precision, inverse[:, :2, 2:] @ data[:, 2:, None])[..., 0]
    rest = np.concatenate([data[:, :2] - mean, data[:, 2:]], axis=1)
    chi2 = np.einsum("ni,nij,nj->n", rest, inverse, rest)
    # The posterior (1 + (chi2 + x^T P x) / 26)^(-m / 2) is a t-distribution of m - 2 degrees of freedom.
    power = block(12, 27).power(2)
    width = np.sqrt((26 + chi2) / (power - 4) * np.linalg.inv(precision)[:, 0, 0])
    assert np.std(mean[:, 0] / width) == pytest.approx(1.0, abs=0.04)
    hartlap = np.sqrt(26 / 13 * np.linalg.inv(precision)[:, 0, 0])
    assert np.std(mean[:, 0] / hartlap) > 1.15


@pytest.mark.parametrize("n_regions", [14, 27, 125])
def test_p_values_of_best_fits_are_uniform(n_regions):
    data, covariances = estimated(2000, 8, n_regions, seed=3)
    inverse = np.linalg.inv(covariances)
    # chi^2 at the best fit of a model whose parameters are the first two bins
    rest = np.linalg.inv(covariances[:, 2:, 2:])
    chi2 = np.einsum("ni,nij,nj->n", data[:, 2:], rest, data[:, 2:])
    p_values = [hotelling_p_value(value, 8, 2, n_regions) for value in chi2]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    # that of chi^2 for a known covariance is not
    usual = [hotelling_p_value(value, 8, 2, None) for value in chi2]
    assert np.mean(np.array(usual) < 0.05) > (0.05 if n_regions > 100 else 0.12)
    assert inverse.shape == covariances.shape


def test_without_degrees_of_freedom_there_is_no_p_value():
    assert np.isnan(hotelling_p_value(1.0, 2, 2, 27))
    assert hotelling_p_value(5.0, 7, 2, None) == pytest.approx(stats.chi2.sf(5.0, 5))


@pytest.mark.parametrize("distribution", ["t", "sellentin-heavens"])
def test_the_known_error_of_a_prediction_counts_once(distribution):
    """On average over estimated covariances, C_emu beside S has the effect of C_emu beside the true covariance."""
    n, n_bins, n_regions = 3000, 8, 20
    extra = 0.5 * np.random.default_rng(4).normal(size=(3, n_bins))
    noise, covariances = estimated(n, n_bins, n_regions, seed=5)
    data = noise + np.random.default_rng(6).normal(size=(n, 3)) @ extra
    whitening = np.linalg.inv(np.linalg.cholesky(covariances))
    widening = block(n_bins, n_regions, distribution).widening(0)

    def slope(shift):
        residuals = torch.as_tensor(np.einsum("nij,nj->ni", whitening, data - shift))
        rows = torch.as_tensor(np.einsum("nij,kj->nki", whitening, extra) / np.sqrt(widening))
        return log_likelihoods(residuals, rows, terms(n_bins, n_regions, distribution, 0)).numpy().mean()

    # Curvature of the mean log-likelihood along the direction of the largest deviation, in units of the true one.
    direction = extra[0] / np.linalg.norm(extra[0])
    true = direction @ np.linalg.solve(np.eye(n_bins) + extra.T @ extra, direction)
    step = 0.2 * direction
    curvature = -(slope(step) - 2 * slope(0 * step) + slope(-step)) / 0.04
    assert 0.6 < curvature / true < 1.25


@pytest.mark.parametrize("n_blocks", [0, 1, 2])
def test_gradients_with_the_error_of_the_prediction_are_those_of_finite_differences(n_blocks):
    generator = torch.Generator().manual_seed(1)
    residuals, deviations = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 5), (3, 4, 5))
    )
    parts = [(torch.tensor([0, 2]), 7.3, 12), (torch.tensor([1, 3, 4]), 9.1, 30)][: max(n_blocks, 0)]
    if n_blocks == 1:
        parts = [(torch.arange(5), 7.3, 12)]
    assert torch.autograd.gradcheck(lambda *inputs: log_likelihoods(*inputs, parts), (residuals, deviations))
    assert torch.autograd.gradcheck(lambda rows: log_likelihoods(rows, None, parts), (residuals,))
    without = log_likelihoods(residuals, 0 * deviations, parts)
    torch.testing.assert_close(without, log_likelihoods(residuals, None, parts))


@pytest.mark.parametrize("n_blocks", [0, 1])
def test_factors_of_fixed_rows_give_the_same_as_deviations(n_blocks):
    generator = torch.Generator().manual_seed(3)
    residuals, factors = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((4, 5), (4, 3))
    )
    rows = torch.randn((3, 6, 5), generator=generator, dtype=torch.float64)
    parts = [(torch.tensor([0, 2]), 7.3, 12)][:n_blocks]
    found = log_likelihoods(residuals, factors, parts, products_of(rows.numpy()))
    dense = log_likelihoods(residuals, torch.einsum("mj,jkn->mkn", factors, rows), parts)
    torch.testing.assert_close(found, dense)
    slopes, expected = (torch.autograd.grad(value.sum(), (residuals, factors)) for value in (found, dense))
    torch.testing.assert_close(slopes, expected)


def test_blocks_without_common_deviations_are_independent():
    generator = torch.Generator().manual_seed(2)
    residuals = torch.randn((3, 5), generator=generator, dtype=torch.float64)
    deviations = torch.randn((3, 4, 5), generator=generator, dtype=torch.float64)
    deviations[:, :2, 3:] = 0
    deviations[:, 2:, :3] = 0
    both = log_likelihoods(residuals, deviations, [(torch.arange(3), 7.3, 12)])
    first = log_likelihoods(residuals[:, :3], deviations[:, :, :3], [(torch.arange(3), 7.3, 12)])
    second = log_likelihoods(residuals[:, 3:], deviations[:, :, 3:], [])
    torch.testing.assert_close(both, first + second)


def test_noise_of_few_regions_is_warned_of_and_known_correlations_are_not(caplog):
    with caplog.at_level(logging.WARNING):
        TNG300Sample3()
        TNG300Sample1()
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        TNG300Sample3({"data": "tng300/sample3", "r_max": 13.9})
    assert "least eigenvalue of the correlation matrix of omega is 0.098" in caplog.text
    assert "from 27 regions" in caplog.text


def test_the_least_eigenvalue_of_noise_follows_marchenko_and_pastur():
    assert np.median(least_eigenvalues_of_noise(80, 8000, n=50)) == pytest.approx(
        (1 - np.sqrt(80 / 7999)) ** 2, rel=0.02
    )


def test_p_value_and_likelihood_of_sample_3():
    few = TNG300Sample3({"data": "tng300/sample3", "r_max": 13.9, "distribution": "gaussian"})
    (index,) = np.nonzero(few.used["omega"])
    assert len(index) == 12
    vector = few.data_vector + np.sqrt(42.9) * np.linalg.cholesky(few.covariance_matrix)[:, 0]
    assert few.chi2(vector) == pytest.approx(42.9)
    assert few.p_value(vector) == pytest.approx(0.0296, abs=1e-4)  # chi^2 of 10 degrees of freedom would have 5e-6
    t = TNG300Sample3({"data": "tng300/sample3", "r_max": 13.9})
    assert t.log_likelihood(vector) == pytest.approx(-0.5 * block(12, 27).power(2) * np.log1p(42.9 / 26))

"""Zheng07 occupations and rank probabilities: limits, sums over the Poisson distribution, gradients, halotools."""

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from iaemu.halomodel.occupation import _poisson_pmf, mean_ncen, mean_nsat, rank_probability, rank_tail_sums


def t(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def test_half_of_the_halos_at_logMmin_host_a_central():
    log_mass, logMmin, sigma = t([11.0, 12.0, 15.0], 12.0, 0.3)
    ncen = mean_ncen(log_mass, logMmin, sigma)
    assert float(ncen[1]) == 0.5
    assert float(ncen[0]) < 1e-5 and float(ncen[2]) == 1.0


def test_satellites_vanish_at_and_below_the_cutoff_with_finite_gradients():
    log_mass = torch.tensor([11.0, 12.0, 12.0001, 13.0], dtype=torch.float64)
    parameters = [p.requires_grad_() for p in t(12.0, 13.0, 1.1)]
    nsat = mean_nsat(log_mass, *parameters)
    assert nsat[:2].tolist() == [0.0, 0.0]
    assert float(nsat[3].detach()) == pytest.approx(0.9**1.1, rel=1e-12)
    assert all(bool(torch.isfinite(g)) for g in torch.autograd.grad(nsat.sum(), parameters))


def test_occupations_equal_halotools():
    occupation = pytest.importorskip("halotools.empirical_models").Zheng07Cens
    from halotools.empirical_models import Zheng07Sats

    mass = np.logspace(11, 15, 60)
    cens, sats = occupation(), Zheng07Sats(modulate_with_cenocc=False)
    cens.param_dict.update(logMmin=12.3, sigma_logM=0.35)
    sats.param_dict.update(logM0=12.1, logM1=13.4, alpha=1.07)
    log_mass = torch.tensor(np.log10(mass))
    np.testing.assert_allclose(
        mean_ncen(log_mass, *t(12.3, 0.35)), cens.mean_occupation(prim_haloprop=mass), atol=1e-14
    )
    np.testing.assert_allclose(
        mean_nsat(log_mass, *t(12.1, 13.4, 1.07)), sats.mean_occupation(prim_haloprop=mass), rtol=1e-11
    )


@pytest.mark.parametrize("lam", [0.0, 0.02, 1.0, 7.3, 150.0])
def test_rank_probability_is_the_poisson_tail(lam):
    k = np.arange(0, 260)
    expected = poisson.sf(k - 1, lam)
    np.testing.assert_allclose(rank_probability(*t(lam, k.astype(float))), expected, atol=1e-13)


@pytest.mark.parametrize("lam", [0.02, 1.0, 7.3, 150.0])
@pytest.mark.parametrize("k", [1, 2, 5, 30, 160])
def test_tail_sums_are_sums_of_rank_probabilities(lam, k):
    ranks = np.arange(k, 600)
    tail = poisson.sf(ranks - 1, lam)
    single, pair = rank_tail_sums(*t(lam, float(k)))
    assert float(single) == pytest.approx(tail.sum(), rel=1e-9, abs=1e-11)
    assert float(pair) == pytest.approx(((ranks - 1) * tail).sum(), rel=1e-9, abs=1e-8)


def test_all_ranks_give_the_mean_and_the_mean_number_of_pairs():
    lam = torch.tensor([0.0, 0.3, 4.0, 80.0], dtype=torch.float64)
    single, pair = rank_tail_sums(lam, torch.tensor(1.0, dtype=torch.float64))
    np.testing.assert_allclose(single, lam, rtol=1e-14)
    np.testing.assert_allclose(pair, lam**2 / 2, rtol=1e-14)


@pytest.mark.parametrize("function", [rank_probability, rank_tail_sums])
def test_gradients_are_exact_and_finite_at_zero(function):
    lam = torch.tensor([0.4, 2.5, 33.0], dtype=torch.float64, requires_grad=True)
    k = torch.tensor([[1.0], [2.0], [3.0], [20.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: function(x, k), (lam,), atol=1e-7)
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    values = function(zero, k)
    total = sum(value.sum() for value in values) if isinstance(values, tuple) else values.sum()
    (slope,) = torch.autograd.grad(total, zero)
    assert float(slope) == 1.0  # only rank 1 responds at first order


def test_poisson_pmf_is_zero_for_negative_counts():
    assert _poisson_pmf(*t(3.0, [-1.0, -2.0])).tolist() == [0.0, 0.0]

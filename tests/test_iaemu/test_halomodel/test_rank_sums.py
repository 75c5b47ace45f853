"""Sums over ranks as splines in <Nsat>: against sums of Poisson probabilities, and their derivatives."""

import numpy as np
import pytest
import torch

from iaemu.artifact import ArtifactError
from iaemu.halomodel.occupation import rank_probability
from iaemu.halomodel.rank_sums import RankSums, knot_coordinate, mean_at, spline_weights


def fitted(terms, power, largest):
    """The sum over ranks k of P(N >= k) terms[k - 1], as one node; fitted by least squares at many points."""
    n = int(np.ceil(float(knot_coordinate(torch.tensor(largest, dtype=torch.float64)))))
    coordinate = np.linspace(0.0, n, 4 * n + 1)
    interval = np.minimum(np.floor(coordinate).astype(int), n - 1)
    matrix = np.zeros((len(coordinate), n + 3))
    four = spline_weights(torch.as_tensor(coordinate - interval)).numpy()
    matrix[np.arange(len(coordinate))[:, None], interval[:, None] + np.arange(4)] = four
    nsat = np.maximum(mean_at(coordinate), 1e-6)
    values = exact(terms, torch.as_tensor(nsat)).numpy() / nsat[:, None] ** power
    return RankSums([12.0], [n + 3], np.linalg.lstsq(matrix, values)[0], power)


def exact(terms, nsat):
    ranks = torch.arange(1, len(terms) + 1, dtype=torch.float64)
    return rank_probability(nsat[:, None], ranks) @ torch.as_tensor(terms)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("largest", [0.3, 8.0, 150.0])
def test_splines_are_the_sums_over_ranks(power, largest):
    rng = np.random.default_rng(1)
    # Terms like those of many hosts: smooth, with a scatter of 5 %. Of a pair of ranks the larger counts.
    ranks = np.arange(1, 260.0)
    terms = ranks[:, None] ** (power - 1) * (1.0 + 0.05 * rng.standard_normal((len(ranks), 3)))
    terms[0] *= 0.0 if power == 2 else 1.0
    sums = fitted(terms, power, largest)
    nsat = largest * torch.linspace(1e-3, 1.0, 200, dtype=torch.float64) ** 2
    found = sums.total(*sums.weights(nsat[:, None]))
    np.testing.assert_allclose(found, exact(terms, nsat), rtol=3e-4)
    few = torch.cat([sums.total(*sums.weights(part[:, None])) for part in nsat.split(5)])
    np.testing.assert_allclose(few, found, rtol=1e-12)  # rows by rows, or one matrix product
    by_node = sums.by_node(*sums.weights(nsat[7:8, None]))
    np.testing.assert_allclose(by_node[0], found[7:8], rtol=1e-12)


def test_coordinate_and_mean_are_inverse():
    nsat = torch.tensor([0.0, 1e-3, 1.0, 30.0, 1e4], dtype=torch.float64)
    np.testing.assert_allclose(mean_at(knot_coordinate(nsat).numpy()), nsat, rtol=1e-10, atol=1e-14)


def test_b_splines_add_up_to_one_and_reproduce_lines():
    t = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    weights = spline_weights(t)
    np.testing.assert_allclose(weights.sum(dim=-1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(weights @ torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64), t, atol=1e-14)


def test_derivatives_are_finite_at_zero_and_right_elsewhere():
    sums = fitted(np.linspace(1.0, 2.0, 60)[:, None], 1, 20.0)
    nsat = torch.tensor([0.0, 0.4, 3.0, 15.0], dtype=torch.float64, requires_grad=True)

    def total(nsat):
        return sums.total(*sums.weights(nsat[:, None])).sum()

    (slope,) = torch.autograd.grad(total(nsat), nsat, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), nsat)
    step = 1e-5
    for k in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[k] = step
        low = nsat.detach() - (0.0 if k == 0 else 1.0) * shift
        above, below = total(nsat.detach() + shift), total(low)
        assert float(slope[k].detach()) == pytest.approx(
            float(above - below) / float((nsat.detach() + shift - low)[k]), rel=1e-4
        )
    assert bool(torch.isfinite(curvature).all())


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ArtifactError, match="have 5 rows for 1 masses; expected 4 rows"):
        RankSums([12.0], [4], np.zeros((5, 1)), 1)
    with pytest.raises(ArtifactError, match="at least 4 for each mass"):
        RankSums([12.0], [3], np.zeros((3, 1)), 1)

"""Centrals whose alignment depends on host mass, with the shipped tables."""

import numpy as np
import pytest
import torch

from iaemu.binning import PAPER_EDGES, TNG_EDGES
from iaemu.models.base import ForwardModel
from iaemu.models.laws import SLOPE, MassDependentModel, MassDependentSupport, central_strengths
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import PARAMETERS, Support, SupportError, as_theta

SAMPLE3 = dict(logMmin=11.61, sigma_logM=0.26, logM0=11.8, logM1=12.6, alpha=1.0)


def point(mu_cen=0.6, mu_sat=0.2, slope=0.3, **changes):
    return {"mu_cen": mu_cen, "mu_sat": mu_sat, **SAMPLE3, **changes, SLOPE: slope}


@pytest.fixture(scope="module")
def tables():
    return TabulatedModel.load()


@pytest.fixture(scope="module")
def model(tables):
    return MassDependentModel(tables)


def test_keeps_the_contract_of_forward_models(model):
    assert isinstance(model, ForwardModel)
    assert model.parameters == (*PARAMETERS, "mu_cen_slope")
    theta = model.support.sample(6, np.random.default_rng(1))
    flat, shaped = model.predict(theta), model.predict(theta.reshape(2, 3, 8))
    assert flat.omega.shape == (6, 55) and shaped.n_gal.shape == (2, 3)
    np.testing.assert_allclose(shaped.eta.reshape(6, 55), flat.eta, rtol=1e-10, atol=1e-15)
    assert isinstance(model.predict(torch.tensor(theta), statistics="omega").omega, torch.Tensor)


def test_a_slope_of_zero_is_one_strength_for_all(model, tables):
    theta = model.support.sample(20, np.random.default_rng(2))
    theta[:, -1] = 0.0
    found, expected = model.predict(theta), tables.predict(theta[:, :7])
    for name in ("xi", "omega", "eta", "n_gal", "f_sat"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-15)


def test_slope_and_pivot_are_one_line(tables):
    """mu_cen(M) is the same line, whichever pivot it is written with."""
    low, high = MassDependentModel(tables, 12.0), MassDependentModel(tables, 13.0)
    a, b = low.predict(point(0.5, slope=0.15), TNG_EDGES), high.predict(point(0.65, slope=0.15), TNG_EDGES)
    np.testing.assert_allclose(a.omega, b.omega, rtol=1e-10)
    np.testing.assert_allclose(a.eta, b.eta, rtol=1e-10)


def test_a_larger_strength_of_every_central_is_a_larger_omega_and_the_same_xi(tables):
    model = MassDependentModel(tables, pivot=10.5)  # all hosts lie above
    low, high = (model.predict(point(0.2, 0.0, slope), PAPER_EDGES) for slope in (0.05, 0.1))
    np.testing.assert_array_equal(low.xi, high.xi)
    assert (high.omega - low.omega).min() > 0
    assert (high.eta - low.eta)[1:].min() > 0  # within 0.13 Mpc/h there are pairs of satellites alone
    np.testing.assert_array_equal(model.predict(point(0.0, 0.0, 0.0)).omega, 0.0)


def test_strengths_are_clipped_at_perfect_alignment():
    log_mass = torch.tensor([11.0, 12.0, 13.0, 14.0], dtype=torch.float64)
    mu_cen, slope = torch.tensor([0.5], requires_grad=True), torch.tensor([0.4], requires_grad=True)
    strength = central_strengths(mu_cen, slope, log_mass, 13.0)
    torch.testing.assert_close(strength[0].detach(), torch.tensor([-0.3, 0.1, 0.5, 0.9], dtype=torch.float64))
    strength = central_strengths(mu_cen, 3 * slope, log_mass, 13.0)
    assert strength[0].tolist() == pytest.approx([-1.0, -0.7, 0.5, 1.0])
    # Beyond the clip nothing depends on the line.
    (gradient,) = torch.autograd.grad(strength[0, [0, 3]].sum(), mu_cen)
    assert float(gradient) == 0.0


def test_the_clip_can_be_averaged_over_mass():
    width, slope = 0.04, 0.7
    log_mass = torch.linspace(13.4, 13.6, 401, dtype=torch.float64)  # clipped at 13.5
    tensors = torch.tensor([0.65], dtype=torch.float64), torch.tensor([slope], dtype=torch.float64)
    for sign in (1, -1):
        averaged = central_strengths(sign * tensors[0], sign * tensors[1], log_mass, 13.0, width)[0]
        offset = width * (torch.arange(1000, dtype=torch.float64) + 0.5 - 500) / 1000
        within = (log_mass[:, None] + offset).flatten()
        fine = central_strengths(sign * tensors[0], sign * tensors[1], within, 13.0)
        torch.testing.assert_close(averaged, fine.reshape(401, 1000).mean(dim=1), rtol=0, atol=1e-8)


def test_all_strengths_beyond_the_clip_are_perfect_alignment(tables):
    model = MassDependentModel(tables, pivot=8.5)  # even the lightest host lies 2.5 dex above
    aligned = model.predict(point(1.0, 0.3, slope=1.0), TNG_EDGES)
    expected = tables.predict({**SAMPLE3, "mu_cen": 1.0, "mu_sat": 0.3}, TNG_EDGES)
    np.testing.assert_allclose(aligned.omega, expected.omega, rtol=1e-10)
    assert model.clipped_share(point(1.0, slope=1.0)) == pytest.approx(1.0)


def test_clipped_share_is_that_of_the_centrals(model, tables):
    assert model.clipped_share(point(0.6, slope=0.1)) == 0.0  # 1 at a mass of 10^17
    # All centrals above the pivot: mu_cen = 1 and a rising strength.
    share = float(model.clipped_share(point(1.0, slope=0.01)))
    log_mass, centrals = tables.expected_centrals(torch.tensor([list(SAMPLE3.values())], dtype=torch.float64))
    assert share == pytest.approx(float(centrals[:, log_mass > 13.0].sum() / centrals.sum()))
    assert 0.01 < share < 0.2
    assert model.clipped_share(np.tile(as_theta(point(), model.parameters), (2, 3, 1))).shape == (2, 3)


@pytest.mark.parametrize("edges", [None, TNG_EDGES], ids=["fine", "TNG"])
def test_at_occupation_equals_predict(model, edges):
    rng = np.random.default_rng(3)
    low, high = model.support.mu_cen_slope
    mu = torch.tensor(np.stack([rng.uniform(-1, 1, 8), rng.uniform(-1, 1, 8), rng.uniform(low, high, 8)], axis=1))
    fixed = model.at_occupation(SAMPLE3, edges)
    rows = torch.cat([mu[:, :2], torch.tensor([list(SAMPLE3.values())] * 8, dtype=torch.float64), mu[:, 2:]], dim=1)
    expected, found = model.predict(rows, edges), fixed(mu)
    assert set(found) == {"xi", "omega", "eta"}
    for name, value in found.items():
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-9, atol=1e-13)
    assert fixed.n_gal == pytest.approx(float(expected.n_gal[0]))
    assert set(model.at_occupation(SAMPLE3, edges, ("omega",))(mu)) == {"omega"}
    for outside in ([1.2, 0.0, 0.0], [0.0, -1.1, 0.0], [0.0, 0.0, 2.5], [float("nan"), 0.0, 0.0]):
        with pytest.raises(ValueError, match="outside"):
            fixed(torch.tensor([outside], dtype=torch.float64))


def test_gradients_equal_differences(model):
    """In all eight parameters, and with few and with many centrals clipped."""
    theta = torch.tensor([list(point(0.6, 0.2, slope).values()) for slope in (0.2, -0.7)], dtype=torch.float64)

    def summary(points):
        values = model.predict(points, TNG_EDGES)
        return torch.cat([10 * values.omega, 100 * values.eta], dim=1).sum(dim=1)

    rows = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(summary(rows).sum(), rows)
    step = 1e-5 * torch.eye(8, dtype=torch.float64)
    with torch.no_grad():
        up, down = (torch.stack([summary(theta + sign * row) for row in step], dim=1) for sign in (1, -1))
    torch.testing.assert_close(gradient, (up - down) / 2e-5, rtol=1e-5, atol=1e-5)
    fixed = model.at_occupation(SAMPLE3, TNG_EDGES, ("omega", "eta"))
    mu = theta[:, [0, 1, 7]].clone().requires_grad_()
    (quick,) = torch.autograd.grad((10 * fixed(mu)["omega"] + 100 * fixed(mu)["eta"]).sum(), mu)
    torch.testing.assert_close(quick, gradient[:, [0, 1, 7]], rtol=1e-8, atol=1e-10)


def test_no_kink_where_a_bin_of_mass_reaches_the_clip(model):
    """Gradients at points close together differ little: samplers, and checks by differences, rely on it."""
    fixed = model.at_occupation(SAMPLE3, TNG_EDGES, ("omega",))
    mu = torch.tensor([[0.79, 0.2, 0.16]] * 400, dtype=torch.float64)
    mu[:, 0] += 1e-5 * torch.arange(400)  # over 0.025 dex of the mass at which centrals are clipped
    mu.requires_grad_()
    (gradient,) = torch.autograd.grad(fixed(mu)["omega"].sum(), mu)
    assert float((gradient[1:, 0] / gradient[:-1, 0] - 1.0).abs().max()) < 1e-4


def test_points_outside_name_the_slope_and_its_range(model):
    with pytest.raises(SupportError, match=r"mu_cen_slope = 2.4 is outside \[-2, 2\] \(nearest supported point: 2\)"):
        model.predict(point(slope=2.4))
    with pytest.raises(SupportError, match="logMmin = 9"):
        model.at_occupation([9.0, *list(SAMPLE3.values())[1:]])
    with pytest.raises(ValueError, match=r"Missing parameter.*mu_cen_slope"):
        model.predict({name: value for name, value in point().items() if name != SLOPE})
    rejected = model.predict([list(point().values()), list(point(slope=-3.0).values())], support="reject")
    assert np.isfinite(rejected.omega[0]).all() and np.isnan(rejected.omega[1]).all()


def test_a_pivot_that_is_no_log_mass_is_refused(tables):
    with pytest.raises(
        ValueError, match=r"pivot, the log10 of a halo mass .* at least 8 and at most 17; got 10000000000000"
    ):
        MassDependentModel(tables, 1e13)


def test_support_is_that_of_the_tables_with_a_slope(tables, model):
    assert model.support.bounds("mu_cen_slope", 12.0) == (-2.0, 2.0)
    assert model.support.bounds("logM1", 12.0) == tables.support.bounds("logM1", 12.0)
    assert MassDependentSupport.of(Support()) != Support()
    points = model.support.sample(50, np.random.default_rng(5))
    assert points.shape == (50, 8) and bool(model.support.contains(points).all())
    assert model.support.nearest(point(slope=9.0))[-1] == 2.0

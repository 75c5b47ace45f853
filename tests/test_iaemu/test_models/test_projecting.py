"""Projected statistics of the models: the same whichever way they are computed, with gradients, parts and errors."""

import numpy as np
import pytest
import torch

import iaemu
from iaemu import Projection
from iaemu.observables.projected import cylinder_weights

EDGES = np.array([0.15, 0.3, 0.8, 2.0, 5.0, 12.0])
POINT = np.array([0.8, 0.3, 12.54, 0.26, 12.68, 13.48, 1.0])


@pytest.fixture(scope="module")
def tables():
    return iaemu.load("tables-pm160")


@pytest.fixture(scope="module")
def emulator():
    return iaemu.load()


@pytest.fixture(scope="module", params=["tables", "emulator", "laws"])
def model(request, tables, emulator):
    return {"tables": tables, "emulator": emulator, "laws": iaemu.VaryingStrengthModel(tables)}[request.param]


def point_of(model):
    return np.append(POINT, [0.1, -0.4][: len(model.parameters) - 7])


def test_is_the_integral_of_xi_and_omega(model):
    theta, nodes = point_of(model), model.nodes
    known = model.predict(theta, nodes, ("xi", "omega"))
    gg, gplus = cylinder_weights(nodes, EDGES[:-1], EDGES[1:], 15.0)
    found = model.project(theta, EDGES, 15.0)
    np.testing.assert_allclose(found.w_gg, gg @ known.xi, rtol=0.02)  # bins between nodes are taken as constant here
    np.testing.assert_allclose(found.w_gplus, gplus @ ((1 + known.xi) * known.omega), rtol=0.02)


def test_batches_arrays_and_tensors_agree(model):
    theta = np.stack([point_of(model)] * 2) + np.array([[0.0], [1.0]]) * np.eye(len(model.parameters))[2] * 0.1
    flat = model.project(theta, EDGES, 60.0, deviations=True)
    shaped = model.project(torch.as_tensor(theta.reshape(2, 1, -1)), EDGES, 60.0, deviations=True)
    for name in ("w_gg", "w_gplus", "centrals", "satellites", "tail_gg", "tail_gplus", "n_gal"):
        values = getattr(shaped, name)
        assert isinstance(values, torch.Tensor)
        np.testing.assert_array_equal(values[:, 0], getattr(flat, name))
    assert flat.deviations["w_gplus"].shape == (2, model.n_deviations, len(EDGES) - 1)
    one = model.project(theta[1], EDGES, 60.0)
    np.testing.assert_allclose(one.w_gplus, flat.w_gplus[1], rtol=1e-12)
    assert "w_gg, w_gplus at one point" in repr(one)


def test_parts_add_and_the_shape_amplitude_scales(model):
    found = model.project(point_of(model), EDGES, 60.0)
    np.testing.assert_allclose(found.centrals + found.satellites, found.w_gplus, rtol=1e-12)
    half = model.project(point_of(model), EDGES, 60.0, a_shape=0.5, deviations=True)
    np.testing.assert_allclose(half.w_gplus, 0.5 * found.w_gplus, rtol=1e-12)
    np.testing.assert_array_equal(half.w_gg, found.w_gg)
    whole = model.project(point_of(model), EDGES, 60.0, deviations=True)
    np.testing.assert_allclose(half.deviations["w_gplus"], 0.5 * whole.deviations["w_gplus"], rtol=1e-12, atol=1e-15)


def test_gradients_are_those_of_differences(model):
    theta = torch.tensor(point_of(model), requires_grad=True)
    weights = torch.cos(torch.arange(1.0, len(EDGES), dtype=torch.float64))

    def value(x):
        found = model.project(x, EDGES, 60.0, deviations=True)
        error = found.deviations["w_gplus"].square().sum(dim=-2).sqrt()
        return (found.w_gg * weights).sum() / 100 + (found.w_gplus * weights).sum() + 10 * (error * weights).sum()

    (gradient,) = torch.autograd.grad(value(theta), theta)
    for k in range(len(theta)):
        step = torch.zeros_like(theta)
        step[k] = 1e-4
        with torch.no_grad():
            difference = float((value(theta + step) - value(theta - step)) / 2e-4)
        assert float(gradient[k]) == pytest.approx(difference, rel=2e-4, abs=2e-5), model.parameters[k]


def test_a_fixed_occupation_gives_the_same(model):
    theta, projection = point_of(model), Projection.of(EDGES, 60.0)
    fixed = model.at_occupation(theta[2:7], projection, ("xi", "omega"))
    mu = torch.tensor(np.concatenate([theta[:2], theta[7:]]))[None]
    values, deviations = fixed(mu), fixed.deviations(mu)
    expected = model.project(theta, projection, deviations=True)
    np.testing.assert_allclose(values["xi"][0], expected.w_gg, rtol=1e-9)
    np.testing.assert_allclose(values["omega"][0], expected.w_gplus, rtol=1e-9)
    np.testing.assert_allclose(deviations["omega"][0], expected.deviations["w_gplus"], rtol=1e-7, atol=1e-9)


def test_statistics_may_have_their_own_bins(model):
    low, high = EDGES[:-1], EDGES[1:]
    projection = Projection.between({"w_gg": (low[2:], high[2:]), "w_gplus": (low[:4], high[:4])}, 60.0)
    both = model.project(point_of(model), EDGES, 60.0, deviations=True)
    found = model.project(point_of(model), projection, deviations=True)
    np.testing.assert_allclose(found.w_gg, both.w_gg[2:], rtol=1e-6)
    np.testing.assert_allclose(found.w_gplus, both.w_gplus[:4], rtol=1e-6)
    np.testing.assert_allclose(found.deviations["w_gg"], both.deviations["w_gg"][:, 2:], rtol=1e-5, atol=1e-9)
    fixed = model.at_occupation(POINT[2:], projection)
    assert [value.shape[1] for value in fixed(torch.zeros(1, len(model.parameters) - 5).double()).values()][:2] == [
        3,
        4,
    ]


def test_the_quadrupole_is_half_of_the_pair_weighted_omega(model):
    edges = model.nodes[[5, 15, 30, 45]]
    projection = Projection.between({"xi_gplus_2": (edges[:-1], edges[1:])})
    known = model.predict(point_of(model), edges, ("xi", "omega"))
    found = model.project(point_of(model), projection).xi_gplus_2
    np.testing.assert_allclose(found, 0.5 * (1 + known.xi) * known.omega, rtol=1e-6)


def test_slopes_of_zero_change_nothing(tables):
    laws = iaemu.VaryingStrengthModel(tables)
    found, expected = laws.project(np.append(POINT, [0, 0]), EDGES, 60.0), tables.project(POINT, EDGES, 60.0)
    np.testing.assert_allclose(found.w_gplus, expected.w_gplus, rtol=1e-9)


def test_the_emulator_agrees_with_the_tables(tables, emulator):
    theta = emulator.support.sample(100, np.random.default_rng(3))
    theta = theta[theta[:, 2] < 13.5]
    found, expected = (one.project(theta, EDGES, 60.0) for one in (emulator, tables))
    assert np.nanmedian(np.abs(found.w_gg / expected.w_gg - 1)) < 2e-3
    rms = np.sqrt(np.mean((found.w_gplus - expected.w_gplus) ** 2, axis=1) / np.mean(expected.w_gplus**2, axis=1))
    assert np.nanmedian(rms) < 5e-3


def test_the_box_error_is_that_of_the_sums_between_nodes(tables):
    occupation, projection = torch.tensor(POINT[None, 2:]), Projection.of(EDGES, 60.0)
    between = tables.box_error.deviations(occupation, tables.nodes, ("xi",))["xi"].numpy()
    found = tables.box_error.projected(occupation, projection)["xi"].numpy()
    np.testing.assert_allclose(found, between @ projection.matrices(tables.nodes).of_xi.T, rtol=1e-9, atol=1e-12)


def test_bins_without_pairs_are_not_predicted(tables):
    rare = np.array([0.5, 0.5, 14.0, 0.6, 14.2, 14.9, 1.0])
    with pytest.warns(iaemu.FewPairsWarning, match=r"bin from 0\.1 to 0\.11"):
        found = tables.project(rare, [0.1, 0.11, 5.0], 20.0)
    assert np.isnan(found.w_gg[0]) and np.isfinite(found.w_gg[1])
    assert np.isnan(found.w_gplus[0]) and np.isfinite(found.w_gplus[1])


def test_points_outside_are_refused_and_models_without_nodes_say_so(tables):
    with pytest.raises(iaemu.SupportError, match="logMmin"):
        tables.project(POINT + 3 * np.eye(7)[2], EDGES, 60.0)
    assert np.isnan(tables.project(POINT + 3 * np.eye(7)[2], EDGES, 60.0, support="reject").w_gg).all()
    with pytest.raises(ValueError, match="a_shape"):
        tables.project(POINT, EDGES, 60.0, a_shape=np.nan)

"""Scaled deviations of the shipped models: identities, shapes, bins, gradients, refusals."""

import numpy as np
import pytest
import torch
from scipy import stats

from iaemu.artifact import shipped_artifact
from iaemu.binning import PAPER_EDGES, TNG_EDGES, BinningError, nesting_matrix, rebin, shell_volumes
from iaemu.halomodel.alignment import mean_p2
from iaemu.models.box_error import BoxError
from iaemu.models.factorised import Emulator
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import SupportError
from iaemu.prediction import STATISTICS

SAMPLE1 = dict(mu_cen=0.8, mu_sat=0.3, logMmin=12.54, sigma_logM=0.26, logM0=12.68, logM1=13.48, alpha=1.0)


@pytest.fixture(scope="module")
def box_error():
    return BoxError.load()


@pytest.fixture(scope="module")
def emulator():
    return Emulator.load()


@pytest.fixture(scope="module")
def models(emulator):
    return {"emulator": emulator, "tables": TabulatedModel.load(), "iaemunet": Emulator.load("iaemunet-pm160")}


@pytest.fixture(scope="module")
def theta(emulator):
    """Points at which many pairs are expected in all bins."""
    points = emulator.support.sample(60, np.random.default_rng(42))
    return points[np.isfinite(emulator.predict(points, support="reject").xi).all(axis=1)][:24]


def test_number_of_deviations_is_that_of_members_and_regions(models, box_error):
    n = box_error.n_regions
    expected = {"emulator": 4 + n, "tables": n, "iaemunet": 50}  # the last is of an earlier pair of halo catalogues
    assert {name: model.n_deviations for name, model in models.items()} == expected


@pytest.mark.parametrize("name", ["emulator", "iaemunet"])
def test_squares_of_the_epistemic_ones_add_up_to_the_variance_of_the_errors(models, box_error, theta, name):
    """Errors in units of the spread of 4 networks follow Student's t; sigma_epistemic holds 68 % of them."""
    model, theta = models[name], theta[:4]
    t = stats.t(3)
    width = t.std() / t.ppf(0.5 + 0.6827 / 2) if name == "emulator" else 1.0
    sigma = model.predict(theta, uncertainties=True).sigma_epistemic
    deviations = model.deviations(theta)
    own = model.n_deviations - (0 if model.box_error is None else box_error.n_regions)
    for statistic in STATISTICS:
        squares = np.sum(deviations[statistic][:, :own] ** 2, axis=1)
        expected = (width * sigma[statistic]) ** 2
        np.testing.assert_allclose(squares, expected, rtol=1e-6, atol=1e-20, err_msg=statistic)


def test_those_of_coarser_bins_too(emulator, theta):
    edges = PAPER_EDGES[::4]
    sigma = emulator.predict(theta, edges, uncertainties=True).sigma_epistemic
    deviations = emulator.deviations(theta, edges)
    width = stats.t(3).std() / stats.t(3).ppf(0.5 + 0.6827 / 2)
    for statistic in STATISTICS:
        squares = np.sum(deviations[statistic][:, :4] ** 2, axis=1)
        np.testing.assert_allclose(squares, (width * sigma[statistic]) ** 2, rtol=1e-6, atol=1e-20)


def test_passes_of_the_papers_network_are_carried_through_coarser_bins(models, theta):
    """To first order: against averages of passes that are moved a little from their mean."""
    model, edges = models["iaemunet"], PAPER_EDGES[::4]
    native, coarse = (model.deviations(theta[:3], bins) for bins in (None, edges))
    nesting, volumes = nesting_matrix(PAPER_EDGES, edges), shell_volumes(PAPER_EDGES)
    at = model.predict(theta[:3])

    def averages(step, k):
        pairs = (1 + at.xi + step * native["xi"][:, k]) * volumes
        return {
            "xi": pairs @ nesting.T / (volumes @ nesting.T),
            **{n: rebin(getattr(at, n) + step * native[n][:, k], pairs, nesting) for n in ("omega", "eta")},
        }

    up, down = averages(1e-4, 7), averages(-1e-4, 7)
    for name in STATISTICS:
        expected = (up[name] - down[name]) / 2e-4
        np.testing.assert_allclose(coarse[name][:, 7], expected, rtol=1e-5, atol=1e-9 * np.abs(expected).max())


def test_both_models_have_the_same_box_error(models, box_error, theta):
    n = box_error.n_regions
    emulated, tabulated = (models[name].deviations(theta, TNG_EDGES) for name in ("emulator", "tables"))
    for name in STATISTICS:
        np.testing.assert_array_equal(emulated[name][:, -n:], tabulated[name])


@pytest.mark.parametrize("name", ["emulator", "tables"])
def test_those_of_xi_do_not_depend_on_mu_and_those_of_omega_are_linear_in_q(models, name):
    model = models[name]
    q = mean_p2(torch.tensor([0.8, 0.3], dtype=torch.float64)).tolist()
    both, central, satellite = (
        model.deviations({**SAMPLE1, **mu}, TNG_EDGES)
        for mu in ({}, dict(mu_cen=1.0, mu_sat=0.0), dict(mu_cen=0.0, mu_sat=1.0))
    )
    np.testing.assert_array_equal(both["xi"], central["xi"])
    np.testing.assert_allclose(
        both["omega"], q[0] * central["omega"] + q[1] * satellite["omega"], rtol=1e-9, atol=1e-15
    )
    nothing = model.deviations({**SAMPLE1, "mu_cen": 0.0, "mu_sat": 0.0}, TNG_EDGES)
    assert np.all(nothing["omega"] == 0) and np.all(nothing["eta"] == 0)


@pytest.mark.parametrize("name", ["emulator", "tables"])
def test_fixed_occupation_equals_the_general_case(models, name):
    model = models[name]
    occupation = {key: value for key, value in SAMPLE1.items() if not key.startswith("mu")}
    mu = torch.tensor([[0.8, 0.3], [-0.4, 0.9], [0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    fixed = model.at_occupation(occupation, TNG_EDGES)
    values = fixed.deviations(mu)
    assert fixed.n_deviations == model.n_deviations
    points = torch.cat([mu.detach(), torch.tensor([list(occupation.values())] * 3, dtype=torch.float64)], dim=1)
    general = model.deviations(points, TNG_EDGES)
    for statistic in STATISTICS:
        np.testing.assert_allclose(values[statistic].detach(), general[statistic], rtol=1e-9, atol=1e-14)
    assert bool(torch.autograd.grad(values["eta"].sum(), mu)[0].abs().sum() > 0)
    only = model.at_occupation(occupation, TNG_EDGES, statistics=("omega",)).deviations(mu)
    assert list(only) == ["omega"]


def test_caching_of_deviations_costs_nothing_until_they_are_asked_for(models, monkeypatch):
    calls = []
    monkeypatch.setattr(BoxError, "deviations", lambda *_: calls.append(1))
    occupation = {key: value for key, value in SAMPLE1.items() if not key.startswith("mu")}
    models["tables"].at_occupation(occupation, TNG_EDGES)(torch.zeros(2, 2, dtype=torch.float64))
    assert not calls


def test_batches_of_any_shape_and_tensors_for_tensors(emulator, theta):
    flat = emulator.deviations(theta, TNG_EDGES)
    shaped = emulator.deviations(torch.as_tensor(theta).reshape(2, 3, 4, 7), TNG_EDGES, statistics="omega")
    assert list(shaped) == ["omega"] and isinstance(flat["omega"], np.ndarray)
    assert shaped["omega"].shape == (2, 3, 4, emulator.n_deviations, 12)
    np.testing.assert_allclose(shaped["omega"].reshape(24, -1, 12), flat["omega"], rtol=1e-9, atol=1e-15)
    assert emulator.deviations(SAMPLE1)["xi"].shape == (emulator.n_deviations, 20)
    single = emulator.deviations(torch.as_tensor(theta, dtype=torch.float32), support="warn")
    assert single["xi"].dtype == torch.float64


def test_errors_stay_within_what_counts_allow_even_where_hardly_a_pair_is_expected(models):
    theta = models["tables"].support.sample(400, np.random.default_rng(5))
    theta[:100, 2:] = [13.95, 0.75, 14.15, 15.02, 1.3]
    deviations = models["tables"].deviations(theta, PAPER_EDGES)
    assert all(np.isfinite(value).all() for value in deviations.values())
    for name in ("omega", "eta"):  # means of numbers in [-1/3, 2/3]
        assert np.sqrt(np.sum(deviations[name] ** 2, axis=1)).max() < 0.5


@pytest.mark.parametrize("name", ["emulator", "tables", "iaemunet"])
def test_gradients_equal_central_differences(models, name):
    model, rng = models[name], np.random.default_rng(3)
    middle = model.support.from_unit_cube(np.full((1, 7), 0.5))
    n = 1 if name == "iaemunet" else 3  # 50 passes each
    theta = torch.tensor(0.5 * model.support.sample(n, rng) + 0.5 * middle).requires_grad_()
    edges = PAPER_EDGES[::4] if name == "iaemunet" else TNG_EDGES[::2]
    first = model.deviations(theta.detach(), edges)
    weights = {key: torch.as_tensor(rng.normal(size=value[0].shape)) / value.std() for key, value in first.items()}

    def summary(points):
        values = model.deviations(points, edges, support="warn")
        return sum((values[key] * weight).sum(dim=(1, 2)) for key, weight in weights.items())

    (gradient,) = torch.autograd.grad(summary(theta).sum(), theta)
    h = 1e-8 if name == "iaemunet" else 1e-5  # the paper's network has kinks
    for column in range(7):
        step = torch.zeros(7, dtype=torch.float64)
        step[column] = h
        with torch.no_grad():
            central = (summary(theta + step) - summary(theta - step)) / (2 * h)
        tolerance = 1e-3 if name == "iaemunet" else 1e-5
        np.testing.assert_allclose(gradient[:, column], central, atol=tolerance * float(gradient.norm()))


def test_bins_nest_exactly(box_error):
    """Fine bins whose pairs are summed by hand, with the weights that the fine deviations themselves imply."""
    occupation = torch.tensor([list(SAMPLE1.values())[2:]], dtype=torch.float64)
    tables = TabulatedModel.load()
    fine, coarse = box_error.deviations(occupation), box_error.deviations(occupation, TNG_EDGES)
    sums = tables.sums(occupation)
    nested = tables.rebin(sums, TNG_EDGES)
    # xi averages over volume, whatever the pairs: its deviations are linear in those of the fine bins.
    nesting, volumes = nesting_matrix(box_error.r_edges, TNG_EDGES), shell_volumes(box_error.r_edges)
    expected = (fine["xi"].numpy() * volumes) @ nesting.T / (volumes @ nesting.T)
    scale = np.sqrt(np.sum(expected**2, axis=1, keepdims=True))
    # Not exactly: the share of random pairs that leave a region varies over a coarse bin.
    np.testing.assert_allclose(coarse["xi"].numpy() / scale, expected / scale, atol=0.02)
    shift = fine["xi"].numpy() * (sums.RR * 1.0).numpy()[:, None]
    mean = (nested.A_c / nested.DD).numpy() @ nesting
    change = fine["A_c"].numpy() * sums.DD.numpy()[:, None] + ((sums.A_c / sums.DD).numpy() - mean)[:, None] * shift
    expected = change @ nesting.T / nested.DD.numpy()[:, None]
    scale = np.sqrt(np.sum(expected**2, axis=1, keepdims=True))
    np.testing.assert_allclose(coarse["A_c"].numpy() / scale, expected / scale, atol=0.1)


def test_bins_that_do_not_nest_and_points_outside_are_refused(models):
    for model in models.values():
        with pytest.raises(BinningError):
            model.deviations(SAMPLE1, [0.1, 0.2, 30.0])
        outside = {**SAMPLE1, "logMmin": 10.9}
        with pytest.raises(SupportError, match="logMmin"):
            model.deviations(outside)
        assert all(np.isnan(value).all() for value in model.deviations(outside, support="reject").values())


def test_a_model_of_other_catalogues_has_no_box_part(theta):
    emulator = Emulator.load()
    emulator.metadata |= {"catalogue_sha256": ["0" * 64], "snapshots": None}
    assert emulator.box_error is None and emulator.n_deviations == 4
    assert emulator.deviations(theta)["eta"].shape == (24, 4, 20)


def test_the_shipped_file_is_small_and_says_how_good_it_is(box_error):
    assert shipped_artifact(BoxError.shipped).stat().st_size < 2_000_000
    for name, ratio in box_error.metadata["held_out"]["sigma_ratio"].items():
        assert 0.95 < ratio["median"] < 1.05, name

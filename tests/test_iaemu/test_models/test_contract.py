"""What callers use of a forward model, whichever it is."""

import numpy as np
import pytest
import torch

import iaemu
from iaemu import BoxError, ForwardModel, VaryingStrengthModel, load
from iaemu.artifact import ArtifactError
from iaemu.binning import PAPER_EDGES, BinningError
from iaemu.models.fixed_occupation import dense
from iaemu.prediction import STATISTICS

EDGES = PAPER_EDGES[::4]


@pytest.fixture(scope="module")
def models():
    tables = load("tables-pm160")
    return {
        "emulator": load(),
        "iaemunet": load("iaemunet-pm160"),
        "tables": tables,
        "varying strengths": VaryingStrengthModel(tables),
    }


@pytest.fixture(params=["emulator", "iaemunet", "tables", "varying strengths"])
def model(models, request):
    return models[request.param]


def test_it_says_what_it_is(model):
    assert isinstance(model, ForwardModel) and model.statistics == STATISTICS
    assert model.parameters == model.support.parameters
    assert np.isin(model.r_edges, model.nodes).all()
    assert model.metadata["catalogues"] == ["pm160a", "pm160b"] and model.box_volumes.shape == (2,)


def test_bins_are_checked_before_they_are_needed(model):
    model.check_bins(EDGES)
    model.check_bins([0.11, 0.23, 0.7, 3.0, 12.0])
    with pytest.raises(BinningError, match=r"from 0\.01 to 1 Mpc/h are not within 0\.1 to"):
        model.check_bins([0.01, 1.0])
    with pytest.raises(BinningError, match=r"0\.0122 dex wide, less than the model resolves there"):
        model.check_bins([0.7, 0.72])


def test_one_occupation_gives_the_same_as_all_parameters(model):
    theta = torch.as_tensor(model.support.sample(1, np.random.default_rng(1)))
    fixed = model.at_occupation(theta[0, 2:7].tolist(), EDGES)
    strengths = torch.cat([theta[:, :2], theta[:, 7:]], dim=1)
    expected = model.predict(theta, EDGES)
    assert fixed.statistics == STATISTICS
    for name, value in fixed(strengths).items():
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-9, atol=1e-14)
    assert (fixed.n_gal is None) == (expected.n_gal is None)


def test_deviations_come_with_their_number_or_are_refused(model):
    theta = model.support.sample(2, np.random.default_rng(2))
    fixed = model.at_occupation(theta[0, 2:7], EDGES, "omega")
    strengths = torch.as_tensor(np.delete(theta[:1], slice(2, 7), axis=1))
    if not model.n_deviations:
        for call in (lambda: model.deviations(theta), lambda: fixed.with_deviations(strengths)):
            with pytest.raises(ValueError, match="is not known"):
                call()
        with pytest.raises(ArtifactError, match="does not apply to the model"):
            model.box_error = BoxError.load()
        return
    found = model.deviations(theta, EDGES, "omega")
    assert found["omega"].shape == (2, model.n_deviations, len(EDGES) - 1)
    at = fixed.deviations(strengths)
    np.testing.assert_allclose(at["omega"][0], found["omega"][0], rtol=1e-6, atol=1e-12)
    values, deviations = fixed.with_deviations(strengths)
    torch.testing.assert_close(values["omega"], fixed(strengths)["omega"])
    torch.testing.assert_close(dense(deviations["omega"]), at["omega"])


def test_uncertainties_are_given_for_a_volume_or_refused(model):
    theta = model.support.sample(2, np.random.default_rng(3))
    if not model.has_uncertainties:
        with pytest.raises(ValueError, match="no uncertainties"):
            model.predict(theta, uncertainties=True)
        return
    whole, half = (
        model.predict(theta, statistics="omega", uncertainties=True, volume=share * model.box_volumes.sum())
        for share in (1.0, 0.5)
    )
    usual = model.predict(theta, statistics="omega", uncertainties=True)
    np.testing.assert_allclose(whole.sigma_aleatoric["omega"], usual.sigma_aleatoric["omega"], rtol=1e-12)
    np.testing.assert_allclose(half.sigma_aleatoric["omega"], np.sqrt(2) * whole.sigma_aleatoric["omega"], rtol=1e-12)


def test_numbers_of_pairs_follow_from_numbers_of_galaxies(model):
    prediction = model.predict(model.support.sample(2, np.random.default_rng(4)), EDGES)
    if prediction.n_gal is None:
        with pytest.raises(ValueError, match="n_gal"):
            model.expected_pairs(prediction)
    else:
        assert (model.expected_pairs(prediction) > 0).all()


def test_public_names_are_there_on_first_use():
    for name in iaemu.__all__:
        assert getattr(iaemu, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Emulators'"):
        iaemu.Emulators  # noqa: B018


def test_arguments_that_are_none_are_one_documented_error(model):
    theta = model.support.sample(1, np.random.default_rng(4))[0]
    for edges in (
        [0.1, 1j],
        ["0.1", "1.0"],
        np.ma.array([0.1, 1.0], mask=[0, 1]),
        3.0,
        [1e-300, 1.0],
        [[1.0], 2],
    ):
        with pytest.raises(BinningError, match=r"r_edges|bin"):
            model.predict(theta, edges)
    with pytest.raises(BinningError, match="requires grad"):
        model.predict(theta, torch.tensor(EDGES, requires_grad=True))
    for statistics in (None, 3, [None], "omgea", [["xi"]]):
        with pytest.raises(ValueError, match="statistic"):
            model.predict(theta, statistics=statistics)
    for volume in (np.inf, np.nan, 0.5, -1.0, 10**400, "1e6", True):
        with pytest.raises(ValueError, match="volume"):
            model.predict(theta, volume=volume)
    for policy in (None, ["raise"], "Raise"):
        with pytest.raises(ValueError, match="support must be one of"):
            model.predict(theta, support=policy)
    assert model.predict(theta, statistics=()).xi is None
    with pytest.raises(ValueError, match=r"statistics is empty|is not known"):
        model.deviations(theta, statistics=())


def test_strengths_at_an_occupation_are_checked(model):
    theta = torch.as_tensor(model.support.sample(1, np.random.default_rng(1)))
    fixed = model.at_occupation(theta[0, 2:7], EDGES, "xi")
    good = torch.cat([theta[:, :2], theta[:, 7:]], dim=1)
    assert fixed(good.numpy())["xi"].shape == fixed(good)["xi"].shape == (1, len(EDGES) - 1)
    for mu, words in (
        (good[0], "mu has shape"),
        (good[:, :1], "mu has shape"),
        (good + 5.0, "mu_cen = .* is outside"),
        (good * torch.nan, "mu_cen = nan of point 0 is outside"),
        (good.to(torch.complex128), "real numbers"),
        (None, "mu must be real numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            fixed(mu)
    empty = model.at_occupation(theta[0, 2:7], EDGES, ())
    assert empty(good) == {} and empty.n_deviations == 0


def test_n_gal_is_a_number_density(models):
    theta = models["tables"].support.sample(3, np.random.default_rng(1))
    volumes = models["tables"].box_volumes
    counts = models["tables"].sums(theta).n_galaxies
    exact = models["tables"].predict(theta)
    np.testing.assert_allclose(exact.n_gal, counts.numpy() / volumes.mean(), rtol=1e-12)
    np.testing.assert_allclose(models["emulator"].predict(theta).n_gal, exact.n_gal, rtol=0.01)
    assert models["tables"].at_occupation(theta[0, 2:]).n_gal == pytest.approx(exact.n_gal[0], rel=1e-12)
    mass_dependent = models["varying strengths"].at_occupation(theta[0, 2:])
    assert mass_dependent.n_gal == pytest.approx(exact.n_gal[0], rel=1e-12)
    # Ordered pairs of all boxes, from a density and from the tables themselves.
    sums = models["tables"].sums(theta)
    np.testing.assert_allclose(models["tables"].expected_pairs(exact), sums.DD.numpy(), rtol=0.01)


@pytest.mark.parametrize("name", ["factorised-pm160", "iaemunet-pm160", "tables-pm160"])
def test_a_callers_default_precision_changes_nothing(name):
    theta = load().support.sample(1, np.random.default_rng(3))
    expected = load(name).predict(theta).omega
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = load(name).predict(theta).omega
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_array_equal(found, expected)

"""Theories whose strengths depend on host mass and on the radius of a satellite, in Cobaya models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cobaya.input import load_input_file
from cobaya.log import LoggedError
from cobaya.model import get_model

from iaemu.models import load
from iaemu.models.laws import SLOPES, VaryingStrengthModel
from iaemu.models.tables import TabulatedModel
from iaemu_cobaya import MassDependentIA, TabulatedIA
from iaemu_cobaya.gradients.log_posterior import LogPosterior

EXAMPLES = Path(__file__).parents[3] / "yaml_examples"
THEORY = "iaemu_cobaya.MassDependentIA"
SAMPLE3 = {"logMmin": 11.61, "sigma_logM": 0.26, "logM0": 11.80, "logM1": 12.60, "alpha": 1.0}
POINT = {"mu_cen": 0.7, "mu_sat": 0.05, "mu_cen_slope": 0.1}
LIKELIHOOD = {"iaemu_cobaya.TNG300Sample3": None}
BOTH = {"mu_cen_slope": {"prior": {"min": -1, "max": 1}}, "mu_sat_slope": {"prior": {"min": -2, "max": 2}, "ref": -0.5}}


@pytest.fixture(scope="module")
def tables():
    return TabulatedModel.load()


@pytest.fixture
def make_info(tables):
    def make(theory=None, likelihood=None, params=None, **others):
        info = {
            "theory": {THEORY: {"artifact": tables, **(theory or {})}},
            "likelihood": likelihood or LIKELIHOOD,
            **others,
        }
        return {**info, "params": params} if params else info

    return make


def test_a_minimal_input_samples_the_slope_too(make_info):
    model = get_model(make_info())
    assert set(model.parameterization.sampled_params()) == {"mu_cen", "mu_sat", "mu_cen_slope"}
    assert model.parameterization.constant_params() == {**SAMPLE3, "mu_sat_slope": 0.0}
    assert model.theory[THEORY].model.parameters[-1] == "mu_cen_slope"
    assert np.isfinite(model.logposterior(model.prior.reference()).logpost)
    assert "log" in model.parameterization.labels()["mu_cen_slope"]


def test_the_likelihood_sees_the_prediction_of_the_model(make_info, tables):
    for pivot in (12.0, 13.0):
        model = get_model(make_info({"pivot": pivot}))
        model.loglike(POINT, return_derived=False)
        edges = np.logspace(-1, 1.4, 20)[:18]
        expected = VaryingStrengthModel(tables, pivot).predict({**POINT, **SAMPLE3, "mu_sat_slope": 0.0}, edges).omega
        like = model.likelihood["iaemu_cobaya.TNG300Sample3"]
        assert like.theory_vector() == pytest.approx(expected, rel=1e-9)


def test_a_slope_of_zero_is_tabulated_ia(make_info, tables):
    sloped = get_model(make_info(params={"mu_cen_slope": 0.0}))
    ordinary = get_model(
        {
            "theory": {"iaemu_cobaya.TabulatedIA": {"artifact": tables}},
            "likelihood": LIKELIHOOD,
        }
    )
    for point in ({"mu_cen": 0.7, "mu_sat": 0.1}, {"mu_cen": -0.3, "mu_sat": 0.9}):
        assert sloped.loglike(point, return_derived=False) == pytest.approx(
            ordinary.loglike(point, return_derived=False), rel=1e-9
        )


FREE = {
    "fixed": {},
    "both slopes": {"mu_sat_slope": BOTH["mu_sat_slope"]},
    "logM1 free": {"mu_sat_slope": BOTH["mu_sat_slope"], "logM1": {"prior": {"min": 12.5, "max": 12.7}}},
}


@pytest.mark.parametrize("free", FREE.values(), ids=FREE)
def test_the_gradient_is_that_of_cobayas_posterior(make_info, free):
    """At a fixed occupation (contracted tables) and at a free one; in any order of the parameters."""
    density = LogPosterior(get_model(make_info(params=free)), rng=np.random.default_rng(1))
    density.check()
    assert set(density.names) == {*POINT, *free}
    here = {**POINT, "logM1": 12.62, "mu_sat_slope": -0.6}
    x = torch.tensor([[here[name] for name in density.names]] * 2, dtype=torch.float64)
    x[1, density.names.index("mu_cen_slope")] = -0.4
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(density(x).sum(), x)
    for row in range(2):
        for column in range(len(density.names)):
            values = []
            for sign in (1, -1):
                moved = x.detach().clone()
                moved[row, column] += sign * 1e-5
                point = dict(zip(density.names, moved[row].tolist(), strict=True))
                values.append(density.model.logposterior(point).logpost)
            assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3, abs=1e-2)


def test_a_prior_frees_the_slopes_of_the_other_theories(tables):
    """Slopes are constant at 0 unless the run says otherwise; then theories agree with the models in Python."""
    edges = np.logspace(-1, 1.4, 20)[:18]
    for name, artifact, slopes in (("TabulatedIA", tables, SLOPES), ("IAEmu", load(), SLOPES[1:])):
        theory = {f"iaemu_cobaya.{name}": {"artifact": artifact}}
        plain = get_model({"theory": theory, "likelihood": LIKELIHOOD})
        assert set(plain.parameterization.sampled_params()) == {"mu_cen", "mu_sat"}
        assert isinstance(plain.theory[f"iaemu_cobaya.{name}"].model, type(artifact))
        free = get_model({"theory": theory, "likelihood": LIKELIHOOD, "params": {key: BOTH[key] for key in slopes}})
        assert set(free.parameterization.sampled_params()) == {"mu_cen", "mu_sat", *slopes}
        like, strengths = free.likelihood["iaemu_cobaya.TNG300Sample3"], {"mu_cen": 0.6, "mu_sat": 0.1}
        free.loglike({**strengths, **dict.fromkeys(slopes, 0.0)}, return_derived=False)
        expected = artifact.predict({**strengths, **SAMPLE3}, edges).omega
        np.testing.assert_allclose(like.theory_vector(), expected, rtol=1e-8)
        point = {**strengths, **dict.fromkeys(slopes, 0.1), "mu_sat_slope": -0.7}
        free.loglike(point, return_derived=False)
        model = VaryingStrengthModel(artifact, slopes=slopes)
        np.testing.assert_allclose(like.theory_vector(), model.predict({**point, **SAMPLE3}, edges).omega, rtol=1e-8)
        assert like.n_fitted == 2 + len(slopes)


def test_slopes_that_a_file_does_not_know_are_refused_at_the_start(tables):
    """Tables of earlier versions, which the run works with as long as the slope is 0."""
    old = TabulatedModel(
        {name: value for name, value in tables._tensors.items() if not name.startswith("radial.")}, tables.metadata
    )
    theory = {"iaemu_cobaya.TabulatedIA": {"artifact": old}}
    assert get_model({"theory": theory, "likelihood": LIKELIHOOD})
    for value in (0.3, {"prior": {"min": -2, "max": 2}}):
        with pytest.raises(LoggedError, match=r"mu_sat_slope must be 0\. Make them again with `iaemu train tabulate`"):
            get_model({"theory": theory, "likelihood": LIKELIHOOD, "params": {"mu_sat_slope": value}})


def test_slopes_outside_the_support_are_rejected_and_said_at_the_start(make_info, caplog):
    wide = {"mu_cen_slope": {"prior": {"min": -5, "max": 5}}}
    model = get_model(make_info(params=wide))
    assert r"the prior of mu_cen_slope, [-5, 5], reaches outside the supported range [-2, 2];" in caplog.text
    assert model.loglike({**POINT, "mu_cen_slope": 3.0}, return_derived=False) == -np.inf
    with pytest.raises(LoggedError, match="mu_cen_slope = 4 lies outside"):
        get_model(make_info(params={"mu_cen_slope": 4.0}))


def test_names_can_be_mapped(make_info):
    names = {"mu_cen": "A", "mu_cen_slope": "B"}
    model = get_model(make_info({"param_map": names}))
    assert set(model.parameterization.sampled_params()) == {"A", "B", "mu_sat"}
    point = {names.get(name, name): value for name, value in POINT.items()}
    assert model.loglike(point, return_derived=False) == get_model(make_info()).loglike(POINT, return_derived=False)


def test_wrong_options_are_named(analytic):
    with pytest.raises(LoggedError, match="pivot must be a number, at least 8 and at most 17; got 50"):
        MassDependentIA({"pivot": 50.0})
    with pytest.raises(LoggedError, match="AnalyticModel does not know mu_cen_slope; use the tables"):
        without_error = {"iaemu_cobaya.TNG300Sample3": {"emulator_error": False}}
        get_model({"theory": {THEORY: {"artifact": analytic}}, "likelihood": without_error})
    with pytest.raises(LoggedError, match="cannot load nowhere"):
        MassDependentIA({"artifact": "nowhere.safetensors"})


def test_mass_dependent_ia_is_tabulated_ia_with_another_default():
    mine, theirs = MassDependentIA.get_defaults(), TabulatedIA.get_defaults()
    assert set(mine) == set(theirs) and mine["params"].keys() == theirs["params"].keys()
    assert "prior" in mine["params"]["mu_cen_slope"] and theirs["params"]["mu_cen_slope"]["value"] == 0


@pytest.mark.slow
def test_three_samples_at_once_share_the_strengths(tables):
    """The example with a theory for each sample: its chi^2 is the sum of theirs at the same strengths."""
    info = load_input_file(EXAMPLES / "tng_all.yaml")
    for options in info["theory"].values():
        options["artifact"] = tables
    joint = get_model(info)
    assert set(joint.parameterization.sampled_params()) == set(POINT)
    total = 0.0
    for sample in (1, 2, 3):
        like = f"iaemu_cobaya.TNG300Sample{sample}"
        alone = get_model({"theory": {THEORY: {"artifact": tables, "pivot": 13.0}}, "likelihood": {like: None}})
        occupation = alone.parameterization.constant_params()
        del occupation["mu_sat_slope"]
        found = {name: joint.parameterization.constant_params()[f"{name}_{sample}"] for name in occupation}
        assert found == occupation
        total += alone.loglike(POINT, return_derived=False)
    assert joint.loglike(POINT, return_derived=False) == pytest.approx(total, rel=1e-9)

"""The theories in runs of other cosmologies: what they say, and the option ``rescale``."""

import logging

import numpy as np
import pytest
import torch
from cobaya.likelihood import Likelihood
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.run import run
from cobaya.theory import Theory

from iaemu.binning import TNG_EDGES
from iaemu.models.growth import RescaledModel
from iaemu_cobaya.gradients import LogPosterior

BOLPLANCK = "flat LCDM Om0=0.30711 Ob0=0.048 h=0.678 sigma8=0.8228 ns=0.96, z=0"
OCCUPATION = {"logMmin": 12.54, "sigma_logM": 0.26, "logM0": 12.68, "logM1": 13.48, "alpha": 1.0}
POINT = {"mu_cen": 0.8, "mu_sat": 0.3}
THEORY, LIKELIHOOD = "iaemu_cobaya.TabulatedIA", "iaemu_cobaya.TNG300Sample1"


class Matter(Theory):
    """In place of CAMB or CLASS."""

    params = {"amplitude": None}

    def get_can_provide(self):
        return ["sigma8_z"]

    def must_provide(self, **requirements):
        self.redshifts = {*getattr(self, "redshifts", ()), *requirements.get("sigma8_z", {}).get("z", ())}

    def calculate(self, state, want_derived=True, **params):
        state["sigma8_z"] = {z: params["amplitude"] / (1 + z) for z in self.redshifts}

    def get_sigma8_z(self, z):
        return np.array([self.current_state["sigma8_z"][one] for one in z])


class Wants(Likelihood):
    """Asks for data at z = 0.5."""

    def get_requirements(self):
        return {"ia_xi": {"r_edges": TNG_EDGES, "redshift": 0.5}}

    def logp(self, **params):
        return 0.0


@pytest.fixture
def analytic(analytic, monkeypatch):
    monkeypatch.setattr(type(analytic), "metadata", {"cosmology": BOLPLANCK})
    return analytic


@pytest.fixture
def info(make_info):
    def make(amplitude, **options):
        found = make_info({"rescale": "growth", **options}, params={"amplitude": amplitude})
        found["theory"]["matter"] = {"external": Matter}
        return found

    return make


SAMPLED = {"prior": {"min": 0.2, "max": 1.2}, "ref": 0.8}


def test_the_prediction_follows_sigma8(info, analytic):
    model = get_model(info(SAMPLED))
    like = model.likelihood[LIKELIHOOD]
    for amplitude in (0.7, 0.8228, 0.95, 0.7):
        model.loglike({**POINT, "amplitude": amplitude})
        expected = RescaledModel(analytic, amplitude).predict({**POINT, **OCCUPATION}, TNG_EDGES)
        assert like.theory_vector() == pytest.approx(expected.omega, rel=1e-9)
    own = analytic.predict({**POINT, **OCCUPATION}, TNG_EDGES).omega
    model.loglike({**POINT, "amplitude": 0.8228})
    assert like.theory_vector() == pytest.approx(own, rel=1e-9)


def test_sigma8_is_that_at_the_redshift_of_the_data(info, make_analytic, monkeypatch):
    """The model goes to the redshift of the data after it has said what it needs."""

    def at(z):
        metadata = {"cosmology": BOLPLANCK, "redshift": z, "snapshots": [{"redshift": 0.0}, {"redshift": 1.0}]}
        found = make_analytic()
        found.metadata = metadata
        found._moved = at
        return found

    given = info(SAMPLED, artifact=at(0.0))
    given["likelihood"] = {"wants": {"external": Wants}}
    given["params"] |= OCCUPATION
    model = get_model(given)
    model.loglike({**POINT, "amplitude": 0.9})
    expected = RescaledModel(at(0.5), 0.9 / 1.5)
    assert expected.ratio == pytest.approx(0.6 / (0.8228 * 0.7714), rel=1e-3)  # of the growth factor at 0.5
    found = model.provider.get_ia_xi(r_edges=TNG_EDGES)
    assert found == pytest.approx(expected.predict({**POINT, **OCCUPATION}, TNG_EDGES).xi, rel=1e-9)


def test_a_sigma8_too_far_away_is_treated_as_the_option_support_says(info):
    assert get_model(info(SAMPLED)).loglike({**POINT, "amplitude": 0.3}, return_derived=False) == -np.inf
    for options in ({"support": "raise"}, {"stop_at_error": True}):
        with pytest.raises(LoggedError, match=r"rescale: sigma8\(z\) = 0.3 is 0.3646 times that of the model, 0.8228"):
            get_model(info(SAMPLED, **options)).loglike({**POINT, "amplitude": 0.3})


def test_options_that_cannot_be_are_refused(make_info, analytic, monkeypatch):
    with pytest.raises(LoggedError, match="rescale: must be 'growth' or null; got 'linear'"):
        get_model(make_info({"rescale": "linear"}))
    with pytest.raises(LoggedError, match="sigma8_z"):  # nothing provides it
        get_model(make_info({"rescale": "growth"}))
    monkeypatch.setattr(type(analytic), "metadata", {"cosmology": "toy cosmology"})
    with pytest.raises(LoggedError, match=r"rescale: The cosmology of this model is not known: .* Om, Ob, h, sigma8"):
        get_model(make_info({"rescale": "growth"}))


def test_hmc_has_gradients_if_the_cosmology_is_fixed(info):
    model = get_model(info(0.9))
    log_posterior = LogPosterior(model)
    log_posterior.check(np.array([[0.8, 0.3], [0.5, -0.2]]))
    x = torch.tensor([[0.8, 0.3], [0.7, 0.1]], dtype=torch.float64)
    expected = [model.logposterior(dict(zip(POINT, row, strict=True))).logpost for row in x.tolist()]
    assert log_posterior(x).tolist() == pytest.approx(expected, rel=1e-9)
    other = get_model(info(0.8))
    assert other.logposterior(POINT).logpost != pytest.approx(expected[0], rel=1e-6)


def test_hmc_says_what_has_no_gradient_if_the_cosmology_is_sampled(info):
    with pytest.raises(LoggedError, match=r"No gradient of: matter .*depends on amplitude.*mcmc.*fix amplitude"):
        run({**info(SAMPLED), "sampler": {"iaemu_cobaya.HMC": None}})


def warnings_of(caplog, info):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model = get_model(info)
    model.loglike(dict.fromkeys(model.parameterization.sampled_params(), 0.3))
    return [record.getMessage() for record in caplog.records if "fixed cosmology" in record.getMessage()]


def external(*names):
    """A likelihood of cosmological parameters."""
    return {"cosmology": {"external": eval(f"lambda {', '.join(names)}: 0.0")}, LIKELIHOOD: None}


def test_another_cosmology_is_named_once_with_the_figures(make_info, caplog):
    names = ("H0", "ns", "sigma8", "ombh2", "omch2", "omegam")
    fixed = dict(zip(names, (70.0, 0.9605, 0.81, 0.02207, 0.1191, 0.32), strict=True))
    (message,) = warnings_of(caplog, make_info(likelihood=external(*names), params=fixed))
    assert "This run fixes H0 = 70 (the model: 67.8), omegam = 0.32 (the model: 0.30711), sigma8 = 0.81" in message
    assert f"one fixed cosmology ({BOLPLANCK}): its prediction does not depend on them." in message
    assert (
        not {"ns =", "ombh2", "omch2"} & set(message.split(", ")) and "ombh2" not in message and "ns = " not in message
    )
    sampled = {**fixed, "H0": 67.8, "omegam": 0.307, "sigma8": {"prior": {"min": 0.2, "max": 1.2}}}
    (message,) = warnings_of(caplog, make_info(likelihood=external(*names), params=sampled))
    assert "This run samples cosmological parameters (sigma8), but" in message


def test_the_same_cosmology_needs_no_words(make_info, caplog):
    names = ("H0", "ns", "sigma8", "omch2")
    same = dict(zip(names, (67.8, 0.96, 0.8228, 0.11912), strict=True))
    assert not warnings_of(caplog, make_info(likelihood=external(*names), params=same))
    assert not warnings_of(caplog, make_info())


def test_what_follows_is_said_with_the_option(info, caplog):
    given = info(0.9)
    given["likelihood"] |= external("sigma8")
    given["likelihood"][LIKELIHOOD] = {"emulator_error": False}
    given["params"]["sigma8"] = 0.9
    (message,) = warnings_of(caplog, given)
    assert "fixes sigma8 = 0.9 (the model: 0.8228)" in message
    assert "of these, its prediction follows sigma8 at z = 0 alone" in message

"""The redshift of a run: that of the data, or the option of the theory."""

import logging

import numpy as np
import pytest
import torch
from cobaya.log import LoggedError
from cobaya.model import get_model

from iaemu import InterpolatedTables
from iaemu.measurement import Bins, Measurement
from iaemu_cobaya.gradients import LogPosterior

THEORY = "iaemu_cobaya.TabulatedIA"
OCCUPATION = {"logMmin": 13.0, "sigma_logM": 0.45, "logM0": 12.8, "logM1": 13.9, "alpha": 1.0}
STRENGTHS = {"mu_cen": 0.7, "mu_sat": 0.1}
SAMPLED = {name: {"prior": {"min": -1, "max": 1}, "ref": value} for name, value in STRENGTHS.items()}
EDGES = np.geomspace(0.5, 16.0, 6)


@pytest.fixture(scope="module")
def tables(snapshots):
    return InterpolatedTables([snapshots[0.0], snapshots[0.6]])


def data(redshift=None, scale=1.0):
    value = scale * np.linspace(0.05, 0.01, 5)
    header = {} if redshift is None else {"redshift": redshift}
    return Measurement({"omega": Bins(EDGES[:-1], EDGES[1:], value, 0.1 * value)}, metadata=header)


def model_of(tables, likelihoods, **theory):
    return get_model(
        {
            "theory": {THEORY: {"artifact": tables, **theory}},
            "likelihood": {
                name: {"class": "iaemu_cobaya.IACorrelations", "data": one, "statistics": ["omega"]}
                for name, one in likelihoods.items()
            },
            "params": {**SAMPLED, **OCCUPATION},
        }
    )


def test_a_model_goes_to_the_mean_redshift_of_the_data(tables, caplog):
    with caplog.at_level(logging.INFO):
        model = model_of(tables, {"survey": data(0.27)})
    assert model.theory[THEORY].model.redshift == 0.27
    assert "Predictions are at z = 0.27, for the mean redshift of the data (ia_omega)" in caplog.text
    assert "mean redshift of the model" not in caplog.text and "halo catalogues of the model are at" not in caplog.text
    model.logposterior(STRENGTHS)
    expected = tables.at_redshift(0.27).predict({**STRENGTHS, **OCCUPATION}, EDGES)
    np.testing.assert_allclose(model.likelihood["survey"].theory_vector(), expected.omega, rtol=1e-9)
    there, today = (tables.at_redshift(z).predict({**STRENGTHS, **OCCUPATION}, EDGES).omega for z in (0.27, 0.0))
    assert np.abs(there / today - 1).max() > 0.01


def test_gradients_are_those_of_the_log_posterior_at_that_redshift(tables):
    log_posterior = LogPosterior(model_of(tables, {"survey": data(0.27)}))
    log_posterior.check()
    x = torch.tensor([[0.6, 0.2]]).double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(log_posterior(x).sum(), x)
    for k in range(2):
        step = torch.zeros_like(x)
        step[0, k] = 1e-5
        with torch.no_grad():
            difference = float((log_posterior(x + step) - log_posterior(x - step)) / 2e-5)
        assert float(gradient[0, k]) == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize("redshift", [None, 0.0])
def test_data_of_today_or_without_a_redshift_are_predicted_today(tables, redshift):
    assert model_of(tables, {"survey": data(redshift)}).theory[THEORY].model.redshift == 0.0


def test_the_option_wins(tables, caplog):
    with caplog.at_level(logging.WARNING):
        model = model_of(tables, {"survey": data(0.55), "other": data(0.0)}, redshift=0.3)
    assert model.theory[THEORY].model.redshift == 0.3
    assert "redshift" not in caplog.text
    with pytest.raises(LoggedError, match=r"redshift = 0\.8 is outside 0 to 0\.6"):
        model_of(tables, {"survey": data(0.55)}, redshift=0.8)
    with pytest.raises(LoggedError, match=r"redshift must be a number, above -1"):
        model_of(tables, {"survey": data(0.55)}, redshift="far")


def test_data_of_two_redshifts_need_a_choice(tables):
    with pytest.raises(LoggedError, match=r"z = 0\.27, and ia_omega at z = 0, but .* option 'redshift' .* same 'tag'"):
        model_of(tables, {"survey": data(0.27), "other": data(0.0)})
    model = model_of(tables, {"survey": data(0.27), "other": data(0.272)})
    assert model.theory[THEORY].model.redshift == 0.27


def test_data_beyond_the_range_are_warned_of_and_predicted_at_its_end(tables, caplog):
    with caplog.at_level(logging.WARNING):
        model = model_of(tables, {"survey": data(0.9)})
    assert model.theory[THEORY].model.redshift == 0.6
    assert "is 0.9, but the halo catalogues of the model are at 0 to 0.6." in caplog.text


def test_a_model_of_one_redshift_stays_and_warns_as_before(tables, caplog):
    with caplog.at_level(logging.WARNING):
        model = model_of(tables.tables[0], {"survey": data(0.27), "other": data(0.0)})
    assert model.theory[THEORY].model.redshift == 0.0
    assert caplog.text.count("is 0.27, but the halo catalogues of the model are at 0.") == 1


def test_each_sample_can_have_a_theory_of_its_own(tables):
    renamed = {f"{name}_far": value for name, value in {**SAMPLED, **OCCUPATION}.items()}
    far = {
        "class": THEORY,
        "artifact": tables,
        "tag": "far",
        "param_map": {n: f"{n}_far" for n in (*SAMPLED, *OCCUPATION)},
    }
    options = {"class": "iaemu_cobaya.IACorrelations", "statistics": ["omega"]}
    model = get_model(
        {
            "theory": {"near": {"class": THEORY, "artifact": tables}, "far": far},
            "likelihood": {
                "today": {**options, "data": data(0.0)},
                "then": {**options, "data": data(0.5), "tag": "far"},
            },
            "params": {**SAMPLED, **OCCUPATION, **renamed},
        }
    )
    assert model.theory["near"].model.redshift == 0.0 and model.theory["far"].model.redshift == 0.5


def test_files_of_several_redshifts_are_one_artifact(snapshots, tmp_path):
    path = tmp_path / "later.safetensors"
    snapshots[0.6].save(path)
    model = model_of(["tables-pm160", str(path)], {"survey": data(0.4)})
    assert model.theory[THEORY].model.redshift == 0.4
    with pytest.raises(LoggedError, match=r"artifact: cannot load \['tables-pm160', 'missing'\]: There is no artifact"):
        model_of(["tables-pm160", "missing"], {"survey": data(0.4)})


def test_users_likelihoods_state_a_redshift_in_their_request(tables):
    requests = {"ia_omega": {"r_edges": EDGES, "redshift": 0.2}, "ia_wgg": {"rp": [2.0], "pi_max": 60, "redshift": 0.2}}
    model = get_model(
        {
            "theory": {THEORY: {"artifact": tables}},
            "likelihood": {"mine": {"external": lambda _self: 0.0, "requires": requests}},
            "params": {**SAMPLED, **OCCUPATION},
        }
    )
    model.logposterior(STRENGTHS)
    at, theta = tables.at_redshift(0.2), {**STRENGTHS, **OCCUPATION}
    np.testing.assert_allclose(model.provider.get_ia_omega(EDGES), at.predict(theta, EDGES).omega, rtol=1e-9)
    np.testing.assert_allclose(
        model.provider.get_ia_wgg(rp=[2.0], pi_max=60), at.project(theta, rp=[2.0], pi_max=60).w_gg
    )


@pytest.mark.parametrize(("redshift", "theory"), [(None, {}), (0.27, {}), (None, {"redshift": 0.27})])
def test_data_of_a_survey_without_a_redshift_are_told(redshift, theory, caplog):
    r = np.geomspace(0.5, 16.0, 6)
    header = {"pi_max": 60.0} | ({} if redshift is None else {"redshift": redshift})
    measured = Measurement({"w_gplus": Bins(r, r, np.ones(6), np.ones(6))}, metadata=header)
    with caplog.at_level(logging.WARNING):
        model = get_model(
            {
                "theory": {"iaemu_cobaya.IAEmu": theory},
                "likelihood": {"iaemu_cobaya.ProjectedCorrelations": {"data": measured, "statistics": ["w_gplus"]}},
                "params": {**SAMPLED, **OCCUPATION, "e_rms": 0.3},
            }
        )
    told = "do not state their redshift, so predictions are at z = 0" in caplog.text
    assert told == (redshift is None and not theory)
    assert model.theory["iaemu_cobaya.IAEmu"].model.redshift == (0.0 if told else 0.27)

"""What theories derive for chains and other components: A_IA, b_g, log10_M_h, n_gal and f_sat."""

import numpy as np
import pytest
import torch
from cobaya.likelihood import Likelihood
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.run import run

import iaemu
from iaemu.observables.projected import Projection
from iaemu_cobaya.gradients import LogPosterior

SAMPLE1 = {"logMmin": 12.54, "sigma_logM": 0.26, "logM0": 12.68, "logM1": 13.48, "alpha": 1.0}
POINT = {"mu_cen": 0.8, "mu_sat": 0.3}
DERIVED = {name: {"derived": True} for name in ("A_IA", "b_g", "log10_M_h", "n_gal_ia", "f_sat_ia")}


class Lensing(Likelihood):
    """A likelihood of somebody else that requires A_IA."""

    def get_requirements(self):
        return {"A_IA": None}

    def logp(self, **params):
        return -0.5 * ((self.provider.get_param("A_IA") - 3.0) / 0.5) ** 2

    def logp_torch(self, params, products):
        return -0.5 * ((params["A_IA"] - 3.0) / 0.5) ** 2


class ShortModel(iaemu.TabulatedModel):
    """Tables whose bins end at 4 Mpc/h."""

    @classmethod
    def made(cls):
        tables, short = iaemu.TabulatedModel.load(), cls.__new__(cls)
        vars(short).update(vars(tables), nodes=tables.nodes[tables.nodes < 4.0])
        return short


def make_info(theory=None, params=None, likelihood=None, **more):
    return {
        "theory": {"iaemu_cobaya.IAEmu": theory},
        "likelihood": likelihood or {"iaemu_cobaya.TNG300Sample1": None},
        "params": {"e_rms": 0.3, **(DERIVED if params is None else params)},
        **more,
    }


@pytest.fixture(scope="module")
def expected():
    return iaemu.load().large_scale({**POINT, **SAMPLE1}, np.sqrt(15 / 8) * 0.3)


def derived_of(model, point):
    return dict(zip(model.parameterization.derived_params(), model.logposterior(point).derived, strict=True))


def test_derived_parameters_are_those_of_the_model(expected):
    found = derived_of(get_model(make_info()), POINT)
    for name, attribute in (("A_IA", "A_IA"), ("b_g", "b_g"), ("log10_M_h", "log10_M_h"), ("n_gal_ia", "n_gal")):
        assert found[name] == pytest.approx(float(getattr(expected, attribute)), rel=1e-6)


def test_with_a_free_occupation_and_the_responsivity_too(expected):
    theory = {"responsivity": 0.9}
    params = {**DERIVED, **SAMPLE1, "logMmin": {"prior": {"min": 12, "max": 13}, "ref": 12.54}}
    likelihood = {"one": {"external": "lambda mu_cen, logMmin: 0.0"}}
    found = derived_of(get_model(make_info(theory, params, likelihood)), {**POINT, "logMmin": 12.54})
    assert found["A_IA"] == pytest.approx(float(expected.A_IA) / 1.8, rel=1e-4)
    assert found["log10_M_h"] == pytest.approx(float(expected.log10_M_h), rel=1e-9)


def test_a_likelihood_of_somebody_else_gets_A_IA(expected):
    model = get_model(make_info(params={}, likelihood={"lensing": Lensing, "iaemu_cobaya.TNG300Sample1": None}))
    assert model.loglikes(POINT, as_dict=True)[0]["lensing"] == pytest.approx(
        -0.5 * ((float(expected.A_IA) - 3.0) / 0.5) ** 2, rel=1e-4
    )


def test_its_gradient_is_that_of_differences():
    model = get_model(make_info(params={}, likelihood={"lensing": Lensing, "iaemu_cobaya.TNG300Sample1": None}))
    posterior = LogPosterior(model)
    point = torch.tensor([[0.8, 0.3], [0.4, -0.2]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(posterior(point).sum(), point)
    names = list(model.parameterization.sampled_params())
    for row in range(2):
        for column, name in enumerate(names):
            values = []
            for step in (1e-5, -1e-5):
                moved = dict(zip(names, point[row].tolist(), strict=True))
                moved[name] += step
                values.append(model.logpost(moved))
            assert gradient[row, column].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-4)


def test_names_follow_param_map_and_tag():
    theory = {"tag": "s1", "param_map": {"A_IA": "A_lowz"}}
    likelihood = {"iaemu_cobaya.TNG300Sample1": {"tag": "s1"}}
    params = {name: {"derived": True} for name in ("A_lowz", "b_g_s1", "log10_M_h_s1")}
    assert derived_of(get_model(make_info(theory, params, likelihood)), POINT)["A_lowz"] > 0


def test_a_run_that_samples_A_IA_does_not_take_it_from_the_theory():
    flat = {"A_IA": {"prior": {"min": -5, "max": 5}, "ref": 1.0, "proposal": 0.1}}
    likelihood = {"lensing": {"external": "lambda A_IA: -0.5 * A_IA**2"}, "iaemu_cobaya.TNG300Sample1": None}
    model = get_model(make_info(params=flat, likelihood=likelihood))
    assert "A_IA" in model.parameterization.sampled_params()
    assert model.loglikes({**POINT, "A_IA": 2.0}, as_dict=True)[0]["lensing"] == -2.0


def test_chains_have_it(tmp_path):
    info = make_info(sampler={"iaemu_cobaya.HMC": {"n_chains": 4, "max_samples": 20, "n_warmup": 20, "seed": 1}})
    _, sampler = run(info, output=None)
    table = sampler.products(combined=True)["sample"].data if hasattr(sampler, "products") else None
    values = table[["mu_cen", "mu_sat", "A_IA"]].to_numpy(dtype=float)
    theta = {**SAMPLE1, "mu_cen": values[:, 0], "mu_sat": values[:, 1]}
    np.testing.assert_allclose(values[:, 2], iaemu.load().large_scale(theta, np.sqrt(15 / 8) * 0.3).A_IA, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"params": {"A_IA": {"derived": True}, "e_rms": None}}, "A_IA needs the shape amplitude"),
        ({"theory": {"artifact": ShortModel.made()}}, r"A_IA, b_g, log10_M_h: .*fitted beyond r = 10 Mpc/h"),
    ],
)
def test_what_is_missing_is_said_at_the_start(change, words):
    info = make_info(change.get("theory"), likelihood={"iaemu_cobaya.TNG300Sample1": {"r_max": 3.5}})
    info["params"].update(change.get("params", {}))
    info["params"] = {name: value for name, value in info["params"].items() if value is not None}
    with pytest.raises(LoggedError, match=words):
        get_model(info)


def test_amplitudes_are_no_products():
    theory = get_model(make_info()).theory["iaemu_cobaya.IAEmu"]
    assert Projection.of_large_scales() in theory._evaluation.requests
    assert not any("b2" in name or name.endswith("K") for name in theory.get_can_provide())

"""The likelihood of w_gg and w_g+ in Cobaya: same value as by hand, gradients, options, clear errors."""

import logging
from functools import cache

import numpy as np
import pytest
import torch
from cobaya.log import LoggedError
from cobaya.model import get_model

import iaemu
from iaemu import Projection
from iaemu.measurement import Bins, Covariance, Measurement
from iaemu_cobaya import LOWZ, GAMARed, ProjectedCorrelations, TNG300Projected
from iaemu_cobaya.gradients import LogPosterior

OCCUPATION = {"logMmin": 13.0, "sigma_logM": 0.45, "logM0": 12.8, "logM1": 13.9, "alpha": 1.0}
STRENGTHS = {"mu_cen": 0.7, "mu_sat": 0.1}
NAME = "iaemu_cobaya.ProjectedCorrelations"


def flat(low, high, ref):
    return {"prior": {"min": low, "max": high}, "ref": ref}


SAMPLED = {"mu_cen": flat(-1, 1, 0.7), "mu_sat": flat(-1, 1, 0.1), "e_rms": flat(0.05, 0.6, 0.25)}


@cache
def emulator():
    return iaemu.load()


@cache
def tables():
    return iaemu.load("tables-pm160")


@cache
def measurement(statistics=("w_gg", "w_gplus"), pi_max=60.0, single=False, **metadata):
    """Values of the emulator, with errors of 5 %, in bins or at single separations."""
    edges = np.geomspace(0.3, 20, 9)
    low, high = (edges[:-1], edges[1:]) if not single else (edges[:-1], edges[:-1])
    names = [name for name in statistics if name.startswith("w_")]
    theta = np.array([*STRENGTHS.values(), *OCCUPATION.values()])
    values = {}
    if names:
        found = emulator().project(theta, Projection.between({name: (low, high) for name in names}, pi_max or 60.0))
        values = {name: getattr(found, name) * (0.3 if name == "w_gplus" else 1.0) for name in names}
    if "xi_gplus_2" in statistics:
        found = emulator().project(theta, Projection.between({"xi_gplus_2": (low, high)}))
        values["xi_gplus_2"] = 0.3 * found.xi_gplus_2
    bins = {name: Bins(low, high, value, 0.05 * np.abs(value)) for name, value in values.items()}
    errors = np.concatenate([one.error for one in bins.values()])
    matrix = np.outer(errors, errors) * (0.3 + 0.7 * np.eye(len(errors)))
    header = {} if pi_max is None else {"pi_max": pi_max}
    return Measurement(bins, [Covariance(tuple(bins), matrix)], {**header, **metadata})


def model_of(data=None, params=None, theory="iaemu_cobaya.IAEmu", theory_options=None, **options):
    artifact = tables() if "Tabulated" in theory else emulator()
    return get_model(
        {
            "theory": {theory: {"artifact": artifact, **(theory_options or {})}},
            "likelihood": {NAME: {"data": measurement() if data is None else data, **options}},
            "params": {**SAMPLED, **OCCUPATION} if params is None else params,
        }
    )


def test_is_chi_squared_of_the_prediction():
    model = model_of(emulator_error=False)
    like = model.likelihood[NAME]
    point = {"mu_cen": 0.6, "mu_sat": 0.2, "e_rms": 0.2}
    a_shape = np.sqrt(15 / 8) * 0.2
    theta = np.array([0.6, 0.2, *OCCUPATION.values()])
    found = emulator().project(theta, like.requests["w_gg"]["projection"], a_shape=a_shape)
    residuals = like.data_vector - np.concatenate([found.w_gg, found.w_gplus])
    expected = -0.5 * residuals @ np.linalg.solve(like.measurement.covariances[0].matrix, residuals)
    assert model.loglike(point, return_derived=False) == pytest.approx(expected, rel=1e-6)
    vector = like.theory_vector()
    block = like.measurement.covariances[0].matrix[:8, :8]
    expected = residuals[:8] @ np.linalg.solve(block, residuals[:8])
    assert like.chi2_of(vector, "w_gg") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("theory", "free"),
    [("iaemu_cobaya.IAEmu", False), ("iaemu_cobaya.IAEmu", True), ("iaemu_cobaya.TabulatedIA", False)],
)
def test_gradients_are_those_of_the_log_posterior(theory, free):
    params = {**SAMPLED, **OCCUPATION}
    if free:
        params |= {"logMmin": flat(12.8, 13.2, 13.0), "alpha": flat(0.8, 1.2, 1.0)}
    log_posterior = LogPosterior(model_of(params=params, theory=theory, n_gal=[5e-4, 1e-4]))
    log_posterior.check()
    x = torch.tensor([[0.5 * (params[n]["prior"]["min"] + params[n]["prior"]["max"]) for n in log_posterior.names]])
    x = x.double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(log_posterior(x).sum(), x)
    for k in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[0, k] = 1e-5
        with torch.no_grad():
            difference = float((log_posterior(x + step) - log_posterior(x - step)) / 2e-5)
        assert float(gradient[0, k]) == pytest.approx(difference, rel=1e-4, abs=1e-3)


def test_a_fixed_and_a_free_occupation_agree():
    free = {**SAMPLED, **OCCUPATION, "logMmin": flat(12.8, 13.2, 13.0)}
    point = {"mu_cen": 0.6, "mu_sat": 0.2, "e_rms": 0.22}
    fixed = model_of().loglike(point, return_derived=False)
    assert model_of(params=free).loglike({**point, "logMmin": 13.0}, return_derived=False) == pytest.approx(fixed)


def test_only_the_product_of_amplitude_and_strength_is_measured():
    """e_rms and a_shape are the same but for sqrt(15/8); the responsivity divides by 2 R."""
    point = {"mu_cen": 0.6, "mu_sat": 0.2}
    params = {**SAMPLED, **OCCUPATION}
    values = []
    for name, value, responsivity in (
        ("e_rms", 0.2, None),
        ("a_shape", 0.2 * np.sqrt(15 / 8), None),
        ("e_rms", 0.32, 0.8),
    ):
        chosen = {key: entry for key, entry in params.items() if key != "e_rms"} | {name: value}
        model = model_of(params=chosen, theory_options={"responsivity": responsivity})
        values.append(model.loglike(point, return_derived=False))
    np.testing.assert_allclose(values, values[0], rtol=1e-9)


def test_several_samples_have_tags_and_their_own_amplitude():
    renamed = {name: f"{name}_a" for name in ("mu_cen", "mu_sat", "e_rms", *OCCUPATION)}
    params = {renamed[name]: entry for name, entry in {**SAMPLED, **OCCUPATION}.items()}
    options = {"tag": "a", "param_map": renamed}
    model = model_of(params=params, theory_options=options, n_gal=[5e-4, 1e-4], **options)
    plain = model_of(n_gal=[5e-4, 1e-4])
    point = {"mu_cen": 0.6, "mu_sat": 0.2, "e_rms": 0.22}
    found = model.loglike({renamed[name]: value for name, value in point.items()}, return_derived=False)
    assert found == pytest.approx(plain.loglike(point, return_derived=False))
    assert "ia_wgplus_a" in model.theory["iaemu_cobaya.IAEmu"].get_can_provide()


def test_the_number_density_is_a_gaussian_constraint():
    point = {"mu_cen": 0.6, "mu_sat": 0.2, "e_rms": 0.22}
    with_density, plain = model_of(n_gal=[5e-4, 1e-4]), model_of()
    number = emulator().predict({**STRENGTHS, **OCCUPATION}, statistics=()).n_gal
    difference = with_density.loglike(point, return_derived=False) - plain.loglike(point, return_derived=False)
    assert difference == pytest.approx(-0.5 * ((number - 5e-4) / 1e-4) ** 2)


def test_the_quadrupole_is_fitted_too():
    model = model_of(measurement(("xi_gplus_2",)), statistics="xi_gplus_2", emulator_error=False)
    a_e = {"e_rms": 0.3 / np.sqrt(15 / 8)}
    assert model.loglike({**STRENGTHS, **a_e}, return_derived=False) == pytest.approx(0, abs=1e-9)


def test_separations_are_cut_and_masked_by_statistic():
    data = measurement()
    low = data.bins["w_gg"].r_low
    like = ProjectedCorrelations(
        {"data": data, "r_min": {"w_gg": 1.0}, "r_max": {"w_gplus": 10.0}, "mask": {"w_gplus": [0.4]}}
    )
    assert like.used["w_gg"].sum() == np.sum(low >= 1.0)
    assert not like.used["w_gplus"][0] and like.used["w_gplus"][1]
    low, high = like.requests["w_gplus"]["projection"].limits("w_gplus")
    np.testing.assert_array_equal(low, data.bins["w_gplus"].r_low[like.used["w_gplus"]])
    assert high[-1] <= 10.0


def test_plain_tables_of_each_statistic_are_read(tmp_path):
    data = measurement()
    files, covariances, size = {}, {}, len(data.bins["w_gg"])
    for k, (name, bins) in enumerate(data.bins.items()):
        files[name], covariances[name] = str(tmp_path / f"{name}.txt"), str(tmp_path / f"{name}_covariance.txt")
        np.savetxt(files[name], np.stack([bins.r, bins.value, bins.error], axis=1), header="r_p value error")
        np.savetxt(covariances[name], data.covariances[0].matrix[k * size : (k + 1) * size, k * size : (k + 1) * size])
    options = {"covariance": covariances, "redshift": 0.1}
    like = ProjectedCorrelations({"data": files, "pi_max": 60, "read_options": options})
    np.testing.assert_allclose(like.data_vector, ProjectedCorrelations({"data": data}).data_vector)
    assert like.measurement.metadata["redshift"] == 0.1
    assert np.count_nonzero(like.covariance_matrix) == 2 * size**2


def test_single_separations_are_not_averaged():
    single = ProjectedCorrelations({"data": measurement(single=True)})
    low, high = single.requests["w_gg"]["projection"].limits("w_gg")
    np.testing.assert_array_equal(low, high)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": {"pi_max": None}}, "pi_max is missing.*Neither the file nor the option 'pi_max'"),
        ({"data": {}, "pi_max": 400.0}, "pi_max"),
        ({"data": {}, "statistics": ["omega"]}, "statistics: give one or more of w_gg"),
        ({"data": {"statistics": ("w_gplus",)}}, "w_gg is not in measurement, which contains w_gplus"),
        ({"data": {}, "mask": {"w_gg": [100.0]}}, "mask: no bin of w_gg contains r = 100"),
        ({"data": {}, "mask": [1.0]}, "mask: give"),
        ({"data": {}, "n_gal": 3e-4}, r"n_gal: give \[mean, error\]"),
        ({"data": {}, "n_gal": [3e-4, 0]}, r"n_gal: give \[mean, error\]"),
        ({"data": "surveys/lowz", "read_options": {"edge": 1}}, "read_options: unknown option.*edges"),
        ({"data": None}, "data: give a file"),
        ({"data": 3}, "data: give a file, a name"),
    ],
)
def test_wrong_options_say_what_to_give(options, message):
    if isinstance(options["data"], dict):
        options = {**options, "data": measurement(**options["data"])}
    with pytest.raises(LoggedError, match=message):
        ProjectedCorrelations(options)


@pytest.mark.parametrize(("given", "message"), [([], "none is given"), (["e_rms", "a_shape"], "both are given")])
def test_the_shape_amplitude_is_asked_for(given, message):
    params = {**SAMPLED, **OCCUPATION}
    del params["e_rms"]
    with pytest.raises(LoggedError, match=f"need the shape amplitude.*{message}"):
        model_of(params=params | {name: 0.2 for name in given})


def test_clustering_alone_needs_no_amplitude():
    params = {**SAMPLED, **OCCUPATION}
    del params["e_rms"]
    model = model_of(params=params, statistics=["w_gg"])
    assert np.isfinite(model.loglike(STRENGTHS, return_derived=False))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"ia_wgg": {"rp_edges": [0.1, 1.0]}}, "pi_max is missing"),
        ({"ia_wgg": {"r_edges": [0.1, 1.0]}}, "unknown option.*rp_edges, rp, pi_max"),
        ({"ia_wgg": {"rp": [0.1, 100.0], "pi_max": 60}}, "bins that this model cannot give"),
        ({"ia_xigplus2": None}, "give 'r_edges'"),
    ],
)
def test_wrong_requests_are_named(request_, message):
    theory = model_of().theory["iaemu_cobaya.IAEmu"]
    with pytest.raises(LoggedError, match=message):
        theory.must_provide(**request_)


def test_other_likelihoods_can_request_them():
    model = model_of()
    model.add_requirements(
        {"ia_wgg": {"rp_edges": [1.0, 2.0, 4.0], "pi_max": 40}, "ia_wgplus": {"rp": [2.0], "pi_max": 40}}
    )
    model.loglike({**STRENGTHS, "e_rms": 0.22}, return_derived=False)
    found = model.provider.get_ia_wgg(rp_edges=[1.0, 2.0, 4.0], pi_max=40)
    theta = {**STRENGTHS, **OCCUPATION}
    np.testing.assert_allclose(found, emulator().project(theta, [1.0, 2.0, 4.0], 40).w_gg, rtol=1e-6)
    assert model.provider.get_ia_wgplus(rp=[2.0], pi_max=40).shape == (1,)


@pytest.mark.parametrize(("redshift", "warned"), [(0.05, False), (0.27, False), (1.5, True)])
def test_another_redshift_is_warned_of(redshift, warned, caplog):
    with caplog.at_level(logging.WARNING):
        model_of(measurement(redshift=redshift))
    assert ("mean redshift" in caplog.text) is warned


@pytest.mark.parametrize("kind", [LOWZ, GAMARed, TNG300Projected])
def test_packaged_surveys_are_fitted_at_their_separations(kind):
    like = kind()
    assert like.measurement.metadata["pi_max"] == like.requests["w_gplus"]["projection"].pi_max
    assert all(used.sum() > 5 for used in like.used.values())
    assert like.chi2(like.data_vector) == 0.0
    correlation = like.covariance_matrix / np.sqrt(np.outer(*[np.diag(like.covariance_matrix)] * 2))
    assert np.linalg.eigvalsh(correlation)[0] > 1e-6


def test_chi_squared_with_the_error_of_the_prediction_is_that_of_the_summed_covariance():
    like = ProjectedCorrelations({"data": measurement()})
    rng = np.random.default_rng(1)
    vector = like.data_vector * (1 + 0.1 * rng.normal(size=16))
    deviations = rng.normal(size=(5, 16)) * 0.03 * like.data_vector
    residuals = like.data_vector - vector
    whole = like.covariance_matrix + deviations.T @ deviations
    assert like.chi2(vector, deviations) == pytest.approx(residuals @ np.linalg.solve(whole, residuals), rel=1e-8)

"""The theories in Cobaya models, with an analytic forward model in place of the shipped ones."""

import numpy as np
import pytest
from cobaya.likelihood import Likelihood
from cobaya.log import LoggedError
from cobaya.model import get_model

from iaemu.binning import PAPER_EDGES, TNG_EDGES
from iaemu.models.box_error import BoxError
from iaemu.models.factorised import Emulator
from iaemu_cobaya import IAEmu, TabulatedIA

SAMPLE1 = {"logMmin": 12.54, "sigma_logM": 0.26, "logM0": 12.68, "logM1": 13.48, "alpha": 1.0}
POINT = {"mu_cen": 0.8, "mu_sat": 0.3}
THEORY = "iaemu_cobaya.TabulatedIA"


class Wants(Likelihood):
    """Asks for products in given bins."""

    products: dict = {}

    def get_requirements(self):
        return self.products

    def logp(self, **params):
        return 0.0


def wants(**products):
    return {"external": Wants, "products": products}


@pytest.fixture
def model(make_info):
    return get_model(make_info())


def test_a_minimal_input_samples_the_two_alignment_strengths(model):
    assert list(model.parameterization.sampled_params()) == ["mu_cen", "mu_sat"]
    assert model.parameterization.constant_params() == {**SAMPLE1, "mu_cen_slope": 0.0, "mu_sat_slope": 0.0}
    assert model.prior.bounds().tolist() == [[-1, 1], [-1, 1]]
    assert model.parameterization.labels()["mu_cen"] == r"\mu_\mathrm{cen}"
    assert model.parameterization.labels()["logMmin"] == r"\log M_\mathrm{min}"
    assert np.isfinite(model.logposterior(POINT).logpost)
    assert np.isfinite(model.logposterior(model.prior.reference()).logpost)


def test_likelihood_sees_the_prediction_of_the_model(model, analytic):
    like = model.likelihood["iaemu_cobaya.TNG300Sample1"]
    expected = analytic.predict({**POINT, **SAMPLE1}, TNG_EDGES).omega
    loglike = model.loglike(POINT, return_derived=False)
    assert like.theory_vector() == pytest.approx(expected, rel=1e-9)
    assert loglike == pytest.approx(like.log_likelihood(expected), rel=1e-9)


def test_only_what_is_requested_is_computed(model, analytic):
    analytic.calls.clear()
    model.loglike(POINT)
    assert [statistics for _, statistics in analytic.calls] == [("omega",)]
    assert len(analytic.calls[0][0]) == 13


def test_requests_of_several_likelihoods_are_merged(make_info, analytic):
    info = make_info(
        likelihood={
            "a": wants(ia_omega={"r_edges": TNG_EDGES}, ia_xi={"r_edges": TNG_EDGES}),
            "b": wants(ia_omega={"r_edges": PAPER_EDGES}),
            "c": wants(ia_omega={"r_edges": list(TNG_EDGES)}, ia_eta=None),
        },
        params=SAMPLE1,
    )
    model = get_model(info)
    model.loglike(POINT)
    assert len(analytic.calls) == 3
    provider = model.provider
    point = {**POINT, **SAMPLE1}
    assert provider.get_ia_omega(r_edges=TNG_EDGES) == pytest.approx(analytic.predict(point, TNG_EDGES).omega)
    assert provider.get_ia_omega(r_edges=tuple(PAPER_EDGES)) == pytest.approx(
        analytic.predict(point, PAPER_EDGES).omega
    )
    assert provider.get_ia_xi() == pytest.approx(analytic.predict(point, TNG_EDGES).xi)
    assert provider.get_ia_eta().shape == (len(analytic.r_edges) - 1,)
    assert provider.get_result("ia_xi", r_edges=TNG_EDGES).dtype == np.float64
    with pytest.raises(LoggedError, match=r"ia_omega was not requested.*12 bins from 0.1 to 13.895"):
        provider.get_ia_omega(r_edges=[0.1, 1.0])
    model.add_requirements({"ia_xi": {"r_edges": PAPER_EDGES}})
    model.loglike(POINT)
    assert len(provider.get_ia_xi(r_edges=PAPER_EDGES)) == 20


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([0.1, 0.11], r"bin from 0\.1 to 0\.11 Mpc/h is 0\.0414 dex wide, less than the model resolves"),
        (np.logspace(-1, 1.5, 15), r"0\.1 to 31\.6228 Mpc/h are not within 0\.1 to 15\.849 Mpc/h.*r_max"),
        ([0.2, 0.1], "increasing"),
    ],
)
def test_bins_that_the_model_cannot_give_are_named(make_info, edges, message):
    with pytest.raises(LoggedError, match=message):
        get_model(make_info(likelihood={"a": wants(ia_omega={"r_edges": edges})}, params=SAMPLE1))


def test_any_bins_within_the_range_of_the_model_may_be_requested(make_info):
    likelihood = {"a": wants(ia_omega={"r_edges": TNG_EDGES}), "b": wants(ia_omega={"r_edges": [0.2, 0.45, 0.9, 15]})}
    get_model(make_info(likelihood=likelihood, params=SAMPLE1))


def test_unknown_request_options_are_named(make_info):
    with pytest.raises(LoggedError, match=r"ia_xi: unknown option\(s\) edges"):
        get_model(make_info(likelihood={"a": wants(ia_xi={"edges": TNG_EDGES})}, params=SAMPLE1))


def test_two_likelihoods_add_up_in_the_aggregated_chi2(make_info):
    info = make_info(
        likelihood={
            "iaemu_cobaya.TNG300Sample1": None,
            "clustering": {
                "class": "iaemu_cobaya.TNG300Sample1",
                "statistics": ["xi"],
                "r_min": 0.5,
                "emulator_error": False,
            },
        }
    )
    model = get_model(info)
    result = model.logposterior(POINT, as_dict=True)
    chi2 = dict(zip(model.parameterization.derived_params(), model.logposterior(POINT).derived, strict=True))
    assert len(result["loglikes"]) == 2
    assert chi2["chi2__IA"] == pytest.approx(-2 * sum(result["loglikes"].values()))


# ---------------------------------------------------------------- support

OUTSIDE = {"logMmin": {"prior": {"min": 12.0, "max": 14.0}, "ref": 12.5, "proposal": 0.1}, "logM1": 14.2, "logM0": 13.3}


def test_reject_gives_zero_likelihood_and_goes_on(make_info):
    model = get_model(make_info(params=OUTSIDE))
    assert np.isfinite(model.loglike({**POINT, "logMmin": 12.8}, return_derived=False))
    assert model.loglike({**POINT, "logMmin": 13.9}, return_derived=False) == -np.inf
    assert np.isfinite(model.loglike({**POINT, "logMmin": 12.9}, return_derived=False))


@pytest.mark.parametrize("options", [{"support": "raise"}, {"support": "reject", "stop_at_error": True}])
def test_raise_stops_and_names_parameter_value_and_range(make_info, options):
    model = get_model(make_info(options, params=OUTSIDE))
    with pytest.raises(LoggedError, match=r"logMmin = 13\.9 is outside \[11\.5, 13\.5\].*nearest.*13\.5"):
        model.loglike({**POINT, "logMmin": 13.9})


def test_warn_extrapolates_and_says_so_once(make_info, caplog):
    model = get_model(make_info({"support": "warn"}, params=OUTSIDE))
    caplog.clear()
    for mass in (13.8, 13.9):
        assert np.isfinite(model.loglike({**POINT, "logMmin": mass}, return_derived=False))
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == 1
    assert "logMmin = 13.8 is outside [11.5, 13.5]" in messages[0]


def test_prior_beyond_the_support_is_said_once_with_both_ranges(make_info, caplog):
    model = get_model(make_info(params=OUTSIDE))
    model.add_requirements({"ia_xi": None})
    messages = [record.getMessage() for record in caplog.records if "prior of" in record.getMessage()]
    assert len(messages) == 1
    assert "logMmin, [12, 14], reaches outside the supported range [11.5, 13.5]" in messages[0]
    assert "zero likelihood" in messages[0]


def test_prior_inside_the_support_is_not_remarked(make_info, caplog):
    get_model(make_info(params={"logMmin": {"prior": {"min": 12.4, "max": 12.7}}}))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("policy", ["reject", "raise"])
def test_a_run_without_any_supported_point_is_refused(make_info, policy):
    with pytest.raises(LoggedError, match=r"No point.*logM0 = 15 lies outside.*\[10\..*, 13\..*\] at logMmin = 12\.54"):
        get_model(make_info({"support": policy}, params={"logM0": 15.0}))


def test_a_fixed_parameter_outside_is_an_extrapolation_with_warn(make_info, caplog):
    model = get_model(make_info({"support": "warn"}, params={"logM0": 15.0}))
    assert "logM0 = 15 lies outside" in caplog.text
    assert np.isfinite(model.loglike(POINT, return_derived=False))


# ---------------------------------------------------------------- names


def test_parameters_can_be_renamed(make_info, model):
    renamed = {"alpha": "alpha_hod", "mu_cen": "A_cen"}
    info = make_info(
        {"param_map": renamed},
        likelihood={"iaemu_cobaya.TNG300Sample1": {"param_map": renamed}},
    )
    other = get_model(info)
    assert set(other.parameterization.sampled_params()) == {"A_cen", "mu_sat"}
    assert other.parameterization.constant_params()["alpha_hod"] == 1.0
    assert other.parameterization.labels()["A_cen"] == r"\mu_\mathrm{cen}"
    expected = model.loglike(POINT, return_derived=False)
    assert other.loglike({"A_cen": 0.8, "mu_sat": 0.3}, return_derived=False) == pytest.approx(expected, rel=1e-12)


def test_a_name_taken_by_another_component_does_not_reach_the_theory(make_info, model):
    class Lensing(Likelihood):
        params = {"alpha": None}

        def logp(self, **params):
            return -0.5 * (params["alpha"] - 3.0) ** 2

    info = make_info(
        {"param_map": {"alpha": "alpha_hod"}},
        likelihood={
            "iaemu_cobaya.TNG300Sample1": {"param_map": {"alpha": "alpha_hod"}},
            "lensing": {"external": Lensing},
        },
        params={"alpha": {"prior": {"min": 0, "max": 9}, "ref": 3.0}},
    )
    both = get_model(info).loglikes({**POINT, "alpha": 3.5}, return_derived=False)
    assert both[0] == pytest.approx(model.loglike(POINT, return_derived=False))
    assert both[1] == pytest.approx(-0.125)


@pytest.mark.parametrize(
    ("param_map", "message"),
    [
        ({"beta": "b"}, r"param_map: unknown parameter\(s\) beta; the parameters are mu_cen"),
        ({"mu_cen": "mu_sat"}, "more than one parameter gets the name mu_sat"),
    ],
)
def test_bad_param_maps_are_named(analytic, param_map, message):
    with pytest.raises(LoggedError, match=message):
        TabulatedIA({"artifact": analytic, "param_map": param_map})


def test_users_keep_the_rest_of_a_parameter_that_they_redefine(make_info):
    info = make_info(params={"mu_cen": {"prior": {"min": 0, "max": 1}}, "mu_sat": 0.1})
    parameterization = get_model(info).parameterization
    assert list(parameterization.sampled_params()) == ["mu_cen"]
    assert parameterization.sampled_params_info()["mu_cen"]["proposal"] == 0.03
    assert parameterization.constant_params()["mu_sat"] == 0.1


def test_a_parameter_without_value_or_prior_is_named(make_info):
    with pytest.raises(LoggedError, match="logMmin"):
        get_model(make_info(likelihood={"a": wants(ia_omega=None)}))


def test_defaults_of_both_theories_agree():
    emulator, tables = IAEmu.get_defaults(), TabulatedIA.get_defaults()
    assert tables.pop("pivot") and tables["params"].pop("mu_cen_slope")["value"] == 0
    assert emulator == tables


# ---------------------------------------------------------------- the rest


def test_number_of_galaxies_and_satellite_fraction_are_derived_on_request(make_info):
    info = make_info(params={"n_gal_ia": {"derived": True}, "f_sat_ia": {"derived": True}})
    model = get_model(info)
    derived = dict(zip(model.parameterization.derived_params(), model.logposterior(POINT).derived, strict=True))
    assert derived["n_gal_ia"] == pytest.approx(1e4)
    assert derived["f_sat_ia"] == pytest.approx(0.25)


def test_derived_parameters_that_a_model_lacks_are_named(make_info, analytic):
    analytic.gives_counts = False
    model = get_model(make_info(params={"n_gal_ia": {"derived": True}}))
    with pytest.raises(LoggedError, match="n_gal_ia: this model does not predict it"):
        model.logposterior(POINT)


def test_sampling_a_cosmology_is_warned_of(make_info, caplog):
    class Background(Likelihood):
        params = {"H0": None}

        def logp(self, **params):
            return 0.0

    likelihood = {"iaemu_cobaya.TNG300Sample1": None, "background": {"external": Background}}
    get_model(make_info(likelihood=likelihood, params={"H0": 70.0}))
    assert "cosmolog" not in caplog.text
    get_model(make_info(likelihood=likelihood, params={"H0": {"prior": {"min": 60, "max": 80}}}))
    messages = [record.getMessage() for record in caplog.records if "cosmolog" in record.getMessage()]
    assert len(messages) == 1
    assert "(H0)" in messages[0]
    assert "toy cosmology" in messages[0]


def test_a_defect_of_the_model_is_not_taken_for_zero_likelihood(make_info, analytic, monkeypatch):
    model = get_model(make_info())

    def fail(*arguments, **options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(analytic, "predict", fail)
    with pytest.raises(LoggedError, match=r"prediction failed at mu_cen = 0\.8.*RuntimeError: mat1"):
        model.loglike(POINT)


def test_standalone_use(analytic):
    theory = TabulatedIA({"artifact": analytic})
    theory.must_provide(ia_omega={"r_edges": TNG_EDGES})
    state = {}
    theory.calculate(state, want_derived=False, **POINT, **SAMPLE1)
    assert state["ia_omega"][tuple(TNG_EDGES.tolist())] == pytest.approx(
        analytic.predict({**POINT, **SAMPLE1}, TNG_EDGES).omega
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"support": "ignore"}, "support: must be one of raise, reject, warn; got 'ignore'"),
        ({"artifact": "no/such/file.safetensors"}, r"artifact: cannot load no/such/file\.safetensors"),
    ],
)
def test_bad_options_are_named(analytic, options, message):
    with pytest.raises(LoggedError, match=message):
        TabulatedIA({"artifact": analytic, **options})


def test_global_state_of_torch_is_left_alone(make_info):
    import torch

    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    get_model(make_info()).loglike(POINT)
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == before


def test_versions_and_references_are_given():
    from cobaya.bib import get_bib_component

    for name in ("IAEmu", "TabulatedIA"):
        assert "@article" in get_bib_component(f"iaemu_cobaya.{name}", "theory")
    assert "Nelson2019" in get_bib_component("iaemu_cobaya.TNG300Sample3", "likelihood")


def test_theories_with_tags_live_in_one_run_and_feed_the_likelihood_of_their_tag(make_info, make_analytic, analytic):
    first, second = make_analytic(), make_analytic()
    heavy = {"logMmin": 12.9, "sigma_logM": 0.4, "logM0": 12.7, "logM1": 13.8, "alpha": 1.0}
    renamed = {name: f"{name}_b" for name in SAMPLE1}
    info = {
        "theory": {
            "a": {"class": THEORY, "artifact": first, "tag": "a"},
            "b": {"class": THEORY, "artifact": second, "tag": "b", "param_map": renamed},
        },
        "likelihood": {
            "like_a": {"class": "iaemu_cobaya.TNG300Sample1", "emulator_error": False, "tag": "a"},
            "like_b": {
                "class": "iaemu_cobaya.TNG300Sample1",
                "emulator_error": False,
                "tag": "b",
                "param_map": renamed,
            },
        },
        "params": {f"{name}_b": value for name, value in heavy.items()},
    }
    model = get_model(info)
    assert list(model.parameterization.sampled_params()) == ["mu_cen", "mu_sat"]
    model.loglike(POINT)
    for name, occupation in (("a", SAMPLE1), ("b", heavy)):
        expected = analytic.predict({**POINT, **occupation}, TNG_EDGES).omega
        assert model.likelihood[f"like_{name}"].theory_vector() == pytest.approx(expected, rel=1e-9)
        assert model.provider.get_result(f"ia_omega_{name}") == pytest.approx(expected, rel=1e-9)


def test_a_likelihood_with_a_tag_that_no_theory_has_is_refused(make_info):
    with pytest.raises(LoggedError, match="ia_omega_b"):
        get_model(make_info(theory={"tag": "a"}, likelihood={"iaemu_cobaya.TNG300Sample1": {"tag": "b"}}))


def test_a_tag_is_a_word(make_info):
    with pytest.raises(LoggedError, match=r"tag: use letters.*'a b'"):
        get_model(make_info(theory={"tag": "a b"}))


def test_a_tag_that_reads_as_the_error_of_a_prediction_is_refused(make_info):
    with pytest.raises(LoggedError, match="tag: 'deviations' would be taken"):
        get_model(make_info(theory={"tag": "deviations"}))


def test_derived_parameters_end_in_the_tag(make_info):
    info = make_info(theory={"tag": "a"}, likelihood={"iaemu_cobaya.TNG300Sample1": {"tag": "a"}})
    model = get_model({**info, "params": {"n_gal_ia_a": {"derived": True}}})
    assert model.loglike(POINT)[1][0] == pytest.approx(1e4)


def test_the_error_of_the_prediction_reaches_the_likelihood(make_info, make_analytic):
    model = make_analytic(n_deviations=3)
    options = {"emulator_error": True, "statistics": ["xi", "omega"], "r_min": {"xi": 1.0}}
    info = make_info(theory={"artifact": model}, likelihood={"iaemu_cobaya.TNG300Sample1": options})
    run = get_model(info)
    found = run.loglike(POINT, return_derived=False)
    like = run.likelihood["iaemu_cobaya.TNG300Sample1"]
    # Rows of xi and omega belong together, whatever their bins.
    expected = [
        model.deviations({**POINT, **SAMPLE1}, TNG_EDGES, (name,))[name][:, like.used[name][:12]]
        for name in ("xi", "omega")
    ]
    assert like.deviations() == pytest.approx(np.concatenate(expected, axis=1), rel=1e-9)
    assert found == pytest.approx(like.log_likelihood(like.theory_vector(), like.deviations()), rel=1e-9)
    assert found != pytest.approx(like.log_likelihood(like.theory_vector()), rel=1e-3)


def test_an_error_that_the_model_does_not_know_is_refused(make_info):
    with pytest.raises(LoggedError, match=r"ia_omega_deviations was requested.*emulator_error: False"):
        get_model(make_info(likelihood={"iaemu_cobaya.TNG300Sample1": {"emulator_error": True}}))


def test_an_emulator_of_other_catalogues_says_that_its_error_is_not_whole(make_info, caplog):
    emulator = Emulator.load()
    emulator.metadata = {**emulator.metadata, "catalogue_sha256": ["0" * 64], "snapshots": None}
    theory = {"iaemu_cobaya.IAEmu": {"artifact": emulator}}
    likelihood = {"iaemu_cobaya.TNG300Sample1": {"emulator_error": True}}
    get_model({"theory": theory, "likelihood": likelihood})
    assert "iaemu train box-error" in caplog.text
    caplog.clear()
    get_model({"theory": {"iaemu_cobaya.IAEmu": None}, "likelihood": likelihood})
    assert "box-error" not in caplog.text


def test_a_box_error_of_other_catalogues_is_refused(tmp_path):
    box_error = BoxError.load()
    box_error.metadata = {**box_error.metadata, "catalogue_sha256": ["0" * 64]}
    path = tmp_path / "foreign.safetensors"
    box_error.save(path)
    info = {"theory": {"iaemu_cobaya.IAEmu": {"box_error": str(path)}}, "likelihood": {"one": None}}
    with pytest.raises(LoggedError, match="does not apply to the model"):
        get_model({**info, "params": SAMPLE1})

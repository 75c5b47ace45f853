"""Chains of our likelihoods together with a cosmology from CAMB, by the shipped examples."""

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cobaya.component import ComponentNotInstalledError
from cobaya.input import load_input_file, update_info
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.post import post
from cobaya.run import run
from cobaya.yaml import yaml_load
from scipy.integrate import quad

from iaemu_cobaya.chains import data_plot, load_chain, plotting
from iaemu_cobaya.commands.door import plot as iaemu_plot

FOLDER = Path(__file__).parents[3] / "yaml_examples"
OURS = "iaemu_cobaya.TNG300Sample1"
NAMES = ("mu_cen", "mu_sat", "logMmin", "sigma_logM", "logM0", "logM1", "alpha")

needs_camb = pytest.mark.skipif(
    find_spec("camb") is None, reason="CAMB is not installed: pip install camb, or the extra 'test'"
)


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """Some dozen steps of the example: (sampler, output prefix)."""
    info = load_input_file(FOLDER / "joint_lensing.yaml")
    info["sampler"]["mcmc"].update(max_samples=36)
    info["output"] = str(tmp_path_factory.mktemp("joint") / "chain")
    _, sampler = run(info)
    return sampler, info["output"]


@pytest.fixture(scope="module")
def rows(joint):
    return load_chain(joint[1], burn_in=0.0)


@pytest.fixture(scope="module")
def alone():
    """The likelihood of the same data, with nothing beside it."""
    return get_model({"theory": {"iaemu_cobaya.IAEmu": None}, "likelihood": {OURS: None}})


@needs_camb
def test_alignment_is_that_of_a_run_of_its_own(rows, alone):
    for mu_cen, mu_sat, chi2 in zip(*map(rows.column, ("ia_mu_cen", "ia_mu_sat", "chi2__IA")), strict=True):
        expected = -2.0 * alone.loglike({"mu_cen": mu_cen, "mu_sat": mu_sat}, return_derived=False)
        assert chi2 == pytest.approx(expected, rel=1e-5)  # chains have eight digits


@needs_camb
def test_posterior_is_the_sum_of_its_parts(rows):
    parts = sum(rows.column(f"chi2__{kind}") for kind in ("IA", "lensing", "BAO"))
    assert rows.column("chi2") == pytest.approx(parts, rel=1e-6)
    assert rows.column("chi2__IA") == pytest.approx(rows.column(f"chi2__{OURS}"))
    assert rows.column("minuslogpost") == pytest.approx(rows.column("minuslogprior") + 0.5 * parts, rel=1e-6)


@needs_camb
def test_lensing_constraint_is_that_of_the_paper(rows):
    amplitude = rows.column("sigma8") * rows.column("omegam") ** 0.25
    assert np.ptp(amplitude) > 0.01
    assert rows.column("chi2__lensing") == pytest.approx(((amplitude - 0.589) / 0.020) ** 2, rel=1e-4, abs=1e-5)


@needs_camb
def test_bao_distances_are_those_of_a_flat_universe(rows):
    def d_v(z, h0, omega_m):
        # Matter, photons and massless neutrinos at T = 2.7255 K, and a cosmological constant, as Hogg (1999) has it.
        omega_r = 4.18e-5 / (h0 / 100.0) ** 2
        speed = 299792.458

        def hubble(z):
            omega_l = 1.0 - omega_m - omega_r
            return h0 * np.sqrt(omega_m * (1 + z) ** 3 + omega_r * (1 + z) ** 4 + omega_l)

        distance = speed * quad(lambda z: 1.0 / hubble(z), 0.0, z)[0]
        return (distance**2 * speed * z / hubble(z)) ** (1.0 / 3.0)

    data = ((0.295, 7.93, 0.15), (1.491, 26.07, 0.67))
    for h0, omega_m, r_d, chi2 in zip(*map(rows.column, ("H0", "omegam", "rdrag", "chi2__BAO")), strict=True):
        expected = sum(((d_v(z, h0, omega_m) / r_d - value) / error) ** 2 for z, value, error in data)
        assert chi2 == pytest.approx(expected, rel=0.02, abs=0.02)


@needs_camb
def test_cheap_camb_settings_keep_sigma8(rows):
    import camb

    best = rows.best()
    own = {name: best[name] for name in ("H0", "omch2", "As", "ns")}
    parameters = camb.set_params(ombh2=0.0222, mnu=0.06, num_massive_neutrinos=1, **own)
    parameters.WantCls = False
    parameters.set_matter_power(redshifts=[0.0])
    found = camb.get_results(parameters)
    assert best["sigma8"] == pytest.approx(found.get_sigma8_0(), rel=1e-3)
    assert best["rdrag"] == pytest.approx(found.get_derived_params()["rdrag"], rel=1e-5)
    assert found.get_derived_params()["thetastar"] == pytest.approx(1.0411, rel=1e-5)


@needs_camb
def test_camb_transfers_are_the_slow_block_and_alignment_a_fast_one(joint):
    """Speeds are measured at the start; those of the emulator and of CAMB's amplitude are near one another."""
    sampler, _ = joint
    slow, *fast = [set(block) for block in sampler.blocks]
    assert slow == {"omch2"}
    assert {"ia_mu_cen", "ia_mu_sat"} in fast
    assert {"logA", "ns"} in fast
    assert sampler.oversampling_factors[0] == 1
    assert min(sampler.oversampling_factors[1:]) > 1


@needs_camb
def test_every_name_of_ours_has_the_prefix(rows):
    params = rows.info["params"]
    assert not set(NAMES) & set(params)
    assert {f"ia_{name}" for name in NAMES} <= set(params)
    assert params["ia_logMmin"]["value"] == 12.54


@needs_camb
def test_the_cosmology_of_the_catalogue_is_named_at_the_start(capsys):
    get_model(load_input_file(FOLDER / "joint_lensing.yaml"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "samples cosmological parameters" in line]
    assert "logA, ns, omch2" in line
    assert "Om = 0.30711" in line


@needs_camb
def test_hmc_names_what_has_no_gradient():
    info = load_input_file(FOLDER / "joint_lensing.yaml")
    info.update(sampler={"iaemu_cobaya.HMC": None}, output=None)
    with pytest.raises(
        LoggedError, match=r"No gradient of: .*camb.transfers .*fix logA, ns, omch2; .*finite_difference"
    ):
        run(info)


@needs_camb
def test_plots_of_a_joint_chain(joint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plotting, "data_plot", partial(data_plot, n_band=12))
    assert iaemu_plot([joint[1], "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert f"{OURS}: chi2 =" in captured.out
    assert (tmp_path / "chain_data.png").stat().st_size > 10_000
    # In a few dozen rows the slow parameter hardly moves, and GetDist may find no density of it.
    assert (tmp_path / "chain_corner.png").is_file() or "no corner plot" in captured.err


@needs_camb
def test_another_covariance_can_be_put_in_afterwards(joint, rows):
    _, prefix = joint
    ours = rows.info["likelihood"][OURS]
    with_correlation = {"param_map": ours["param_map"], "covariance": "correlation"}
    _, result = post(
        {
            "output": prefix,
            "post": {
                "suffix": "correlated",
                "remove": {"likelihood": OURS},
                "add": {"likelihood": {OURS: with_correlation}},
            },
        }
    )
    (chain,) = result.samples()
    options = {"covariance": "correlation"}
    alone = get_model({"theory": {"iaemu_cobaya.IAEmu": None}, "likelihood": {OURS: options}})
    expected = [
        -2.0 * alone.loglike({"mu_cen": mu_cen, "mu_sat": mu_sat}, return_derived=False)
        for mu_cen, mu_sat in chain[["ia_mu_cen", "ia_mu_sat"]].to_numpy(dtype=float)
    ]
    assert chain["chi2__IA"].to_numpy(dtype=float) == pytest.approx(expected, rel=1e-5)
    others = rows.column("chi2__lensing") + rows.column("chi2__BAO")
    found = (chain["chi2"] - chain["chi2__IA"]).to_numpy(dtype=float)
    assert set(np.round(found, 3)) <= set(np.round(others, 3))  # rows of vanishing weight are dropped


def documented(word):
    """The YAML block of docs/how_to/joint_chains.md that holds a word."""
    text = (FOLDER.parent / "docs" / "how_to" / "joint_chains.md").read_text(encoding="utf-8")
    (block,) = [part for part in re.findall(r"```yaml\n(.*?)```", text, re.S) if word in part]
    return yaml_load(block)


def test_the_documented_lines_add_our_likelihood_to_a_run(alone):
    added = documented("param_map: &names {")
    others = {
        "likelihood": {"cosmology": {"external": "lambda alpha: -0.5 * (alpha - 3.0) ** 2"}},
        "params": {"alpha": {"prior": {"min": 0, "max": 10}}},
    }
    model = get_model({**others, **added, "likelihood": {**others["likelihood"], **added["likelihood"]}})
    point = {"alpha": 2.0, "ia_mu_cen": 0.7, "ia_mu_sat": 0.2}
    assert set(model.parameterization.sampled_params()) == set(point)
    expected = alone.loglike({"mu_cen": 0.7, "mu_sat": 0.2}, return_derived=False) - 0.5
    assert model.loglike(point, return_derived=False) == pytest.approx(expected)


def test_the_documented_run_of_two_samples_is_the_sum_of_each():
    model = get_model(documented("tag: s1"))
    strengths = {"1": (0.8, 0.3), "2": (0.7, 0.07)}
    point = {f"mu_cen_{n}": mu_cen for n, (mu_cen, _) in strengths.items()}
    point.update({f"mu_sat_{n}": mu_sat for n, (_, mu_sat) in strengths.items()})
    expected = 0.0
    for n, (mu_cen, mu_sat) in strengths.items():
        info = {"theory": {"iaemu_cobaya.IAEmu": None}, "likelihood": {f"iaemu_cobaya.TNG300Sample{n}": None}}
        expected += get_model(info).loglike({"mu_cen": mu_cen, "mu_sat": mu_sat}, return_derived=False)
    assert model.loglike(point, return_derived=False) == pytest.approx(expected)


def test_strengths_cannot_be_added_to_a_chain_but_values_of_them_can(tmp_path):
    """As the documentation says; with a chain of one parameter that has nothing to do with alignment."""
    output = str(tmp_path / "other")
    run(
        {
            "likelihood": {"other": {"external": "lambda x: -0.5 * x ** 2"}},
            "params": {"x": {"prior": {"min": -5, "max": 5}, "proposal": 1.0}},
            "sampler": {"mcmc": {"max_samples": 40, "seed": 1}},
            "output": output,
        }
    )
    add = {"theory": {"iaemu_cobaya.IAEmu": None}, "likelihood": {OURS: None}}
    with pytest.raises(LoggedError, match="Adding new sampled parameters is not possible"):
        post({"output": output, "post": {"suffix": "sampled", "add": add}})
    _, result = post(
        {"output": output, "post": {"suffix": "fixed", "add": {**add, "params": {"mu_cen": 0.8, "mu_sat": 0.3}}}}
    )
    (chain,) = result.samples()
    assert np.ptp(chain["chi2__IA"].to_numpy(dtype=float)) == 0.0
    assert chain["chi2__IA"].iloc[0] > 10.0


@pytest.fixture
def planck():
    info = load_input_file(FOLDER / "joint_planck_lensing.yaml")
    return {key: info[key] for key in ("theory", "likelihood", "params")}


@pytest.mark.parametrize(("likelihood", "calibration"), [("CMBMarged", False), ("native", True)])
def test_defaults_of_plancks_likelihood_and_ours_resolve_together(planck, likelihood, calibration):
    planck["likelihood"] = {OURS: planck["likelihood"][OURS], f"planck_2018_lensing.{likelihood}": None}
    params = update_info(planck)["params"]
    assert ("A_planck" in params) == calibration
    assert params["ia_mu_cen"]["proposal"] == 0.03
    assert params["ia_alpha"]["value"] == 1.0


@needs_camb
@pytest.mark.parametrize("likelihood", ["CMBMarged", "native"])
def test_without_plancks_data_cobaya_says_how_to_install_them(planck, likelihood, tmp_path):
    planck["likelihood"] = {OURS: planck["likelihood"][OURS], f"planck_2018_lensing.{likelihood}": None}
    with pytest.raises(ComponentNotInstalledError, match=f"cobaya-install planck_2018_lensing.{likelihood}"):
        get_model({**planck, "packages_path": str(tmp_path)})


@needs_camb
def test_the_rest_of_the_planck_example_gives_a_posterior(planck):
    """With the published amplitude in place of the likelihood whose data are not here."""
    other = load_input_file(FOLDER / "joint_lensing.yaml")["likelihood"]["planck_2018_lensing_amplitude"]
    planck["likelihood"] = {OURS: planck["likelihood"][OURS], "amplitude": other}
    model = get_model(planck)
    point = dict(ia_mu_cen=0.8, ia_mu_sat=0.3, logA=3.05, ns=0.965, theta_MC_100=1.04109, ombh2=0.0222, omch2=0.12)
    found = model.logposterior(point)
    derived = dict(zip(model.parameterization.derived_params(), found.derived, strict=True))
    assert 60 < derived["H0"] < 75
    assert derived["s8omegamp25"] == pytest.approx(derived["sigma8"] * derived["omegam"] ** 0.25)
    assert derived["chi2__lensing"] == pytest.approx(((derived["s8omegamp25"] - 0.589) / 0.020) ** 2)
    assert found.logpost == pytest.approx(
        sum(found.logpriors) - 0.5 * (derived["chi2__IA"] + derived["chi2__lensing"]), rel=1e-9
    )

"""Every shipped YAML file runs as it stands, from any folder, with the shipped artifacts."""

import shutil
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cobaya.input import load_input_file, update_info
from cobaya.model import get_model
from cobaya.run import run

from iaemu.parameters import OCCUPATION_PARAMETERS
from iaemu_cobaya.chains import data_plot, plotting
from iaemu_cobaya.commands.door import plot as iaemu_plot

FOLDER = Path(__file__).parents[3] / "yaml_examples"
#: Its data are not on a machine that runs tests; see test_joint.py, also for runs of the other one with CAMB.
NEEDS_DATA = {"joint_planck_lensing"}
NEEDS_CAMB = {"joint_lensing"}
NEEDS_CCL = {"joint_cosmic_shear"}
#: With a free occupation, as lowz_wgplus, which is run in their stead by default.
SLOW_TO_RUN = {
    "gama_red",
    "joint_cosmic_shear",
    "lowz_wgplus",
    "tng300_projected",
    "tng_all",
    "tng_sample1_joint",
}
EXAMPLES = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem not in NEEDS_DATA]
MCMC = [path for path in EXAMPLES if "\n  mcmc:" in path.read_text()]
HMC = [path for path in EXAMPLES if "\n  iaemu_cobaya.HMC:" in path.read_text()]
MOCKS = [path for path in EXAMPLES if "iaemu_cobaya.HalotoolsIA:" in path.read_text()]
OWN = FOLDER / "own_sample.yaml"
FIXED_OCCUPATION = [path for path in EXAMPLES if "logMmin: 1" in path.read_text() and path != OWN]

# mu_cen, mu_sat of arXiv:2504.05235, table 2; that catalogue is another one than ours
PAPER = {"tng_sample1": (0.80, 0.32), "tng_sample2": (0.69, 0.11), "tng_sample3": (0.56, 0.00)}


no_camb = pytest.mark.skipif(
    find_spec("camb") is None, reason="CAMB is not installed: pip install camb, or the extra 'test'"
)

no_ccl = pytest.mark.skipif(
    find_spec("pyccl") is None, reason="CCL is not installed: pip install pyccl, or the extra 'test'"
)


def cases(paths, slow=()):
    return [
        pytest.param(
            path,
            id=path.stem,
            marks=[no_camb] * (path.stem in NEEDS_CAMB)
            + [no_ccl] * (path.stem in NEEDS_CCL)
            + [pytest.mark.slow] * (path.stem in slow),
        )
        for path in paths
    ]


def load(path):
    """The example; where mocks are populated at each point, with fewer of them, and the bins that few suffice for."""
    info = load_input_file(path)
    if path in MOCKS:
        pytest.importorskip("halotools")
        info["theory"]["iaemu_cobaya.HalotoolsIA"]["n_realisations"] = 2
        info["likelihood"]["iaemu_cobaya.TNG300Sample1"]["r_min"] = 3.0
    return info


@cache
def model_of(path):
    """One for all tests that only evaluate it."""
    return get_model(load(path))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Not the folder of the files: names in them must not depend on where a user starts, but for paths of own data."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDER / "data", tmp_path / "yaml_examples" / "data")


def test_there_is_one_per_sample():
    assert {f"tng_sample{number}" for number in (1, 2, 3)} <= {path.stem for path in HMC}
    assert {"tng_sample1_mcmc", "tng_sample1_halotools", "joint_lensing", "joint_cosmic_shear"} <= {
        path.stem for path in MCMC
    }
    assert {"tng_sample1_evaluate", "tng_sample1_joint"} <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("path", cases(EXAMPLES))
def test_posterior_is_finite_at_the_starting_point(path):
    info = load(path)
    assert info["output"] == f"chains/{path.stem}"
    model = model_of(path)
    start = model.prior.reference(random_state=np.random.default_rng(1))
    assert np.isfinite(model.logposterior(start).logpost)


@pytest.mark.parametrize("path", cases(path for path in EXAMPLES if path not in MOCKS))
def test_it_passes_cobayas_own_test(path):
    run(str(path), test=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", cases(MOCKS))
def test_it_passes_cobayas_own_test_with_mocks(path):
    run(load(path), test=True)


@pytest.mark.parametrize("path", cases((path for path in EXAMPLES if path.stem not in NEEDS_CAMB), SLOW_TO_RUN))
def test_it_runs_and_can_be_plotted(path, capsys, monkeypatch):
    monkeypatch.setattr(plotting, "data_plot", partial(data_plot, n_band=4))
    info = load(path)
    if "mcmc" in info["sampler"]:
        info["sampler"]["mcmc"].update(max_samples=6 if path in MOCKS else 40, measure_speeds=False)
    if "iaemu_cobaya.HMC" in info["sampler"]:
        info["sampler"]["iaemu_cobaya.HMC"].update(n_chains=4, n_warmup=20, check_every=6, max_samples=24)
    run(info, force=True)
    assert Path("chains", f"{path.stem}.1.txt").is_file()
    assert iaemu_plot([f"chains/{path.stem}", "--out", "plots"]) == 0
    assert Path("plots", f"{path.stem}_data.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "chi2 =" in printed
    # By default; what depends on host mass does not know its error.
    with_error = "\n    emulator_error: False" not in path.read_text()
    for words in ("from the covariance of the data alone", "log-determinant"):
        assert (words in printed) == with_error


@pytest.mark.parametrize("path", cases(MCMC + HMC))
def test_a_covmat_of_its_parameters_is_beside_it(path):
    beside = path.with_suffix(".covmat")
    names = beside.read_text().splitlines()[0].lstrip("#").split()
    assert set(names) == set(model_of(path).parameterization.sampled_params())
    matrix = np.loadtxt(beside)
    assert matrix == pytest.approx(matrix.T)
    assert np.linalg.eigvalsh(matrix)[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", cases(HMC))
def test_it_converges_and_its_covmat_is_that_of_its_draws(path):
    _, sampler = run(str(path), force=True)
    assert sampler.converged
    found, expected = np.loadtxt(f"chains/{path.stem}.covmat"), np.loadtxt(path.with_suffix(".covmat"))
    scale = np.sqrt(np.diag(expected))
    assert found / np.outer(scale, scale) == pytest.approx(expected / np.outer(scale, scale), abs=0.2)


@pytest.mark.parametrize("path", cases(MCMC))
def test_its_proposal_is_that_of_the_covmat_beside_it(path):
    mcmc = load_input_file(path)["sampler"]["mcmc"]
    beside = path.with_suffix(".covmat")
    names = beside.read_text().splitlines()[0].lstrip("#").split()
    assert names == mcmc["covmat_params"]
    assert np.loadtxt(beside) == pytest.approx(np.array(mcmc["covmat"]), rel=1e-3)


@pytest.mark.parametrize("path", cases(FIXED_OCCUPATION))
def test_its_occupation_parameters_are_those_of_the_sample(path):
    info = load(path)
    (name,) = info["likelihood"]
    updated = update_info({"theory": info["theory"], "likelihood": {name: None}})["params"]
    defaults = {key: entry["value"] for key, entry in updated.items() if key in OCCUPATION_PARAMETERS}
    assert {key: info["params"][key] for key in defaults} == defaults


def chi2_at(model, mu_cen, mu_sat):
    """From the covariance of the data alone."""
    model.loglike({"mu_cen": mu_cen, "mu_sat": mu_sat}, return_derived=False)
    (likelihood,) = model.likelihood.values()
    return likelihood.chi2(likelihood.theory_vector())


@pytest.mark.parametrize("stem", PAPER)
def test_chi2_at_the_papers_best_fit_is_far_below_that_of_no_alignment(stem):
    model = model_of(FOLDER / f"{stem}.yaml")
    assert chi2_at(model, *PAPER[stem]) < 0.3 * chi2_at(model, 0.0, 0.0)


@pytest.mark.parametrize("stem", PAPER)
def test_emulator_and_tables_agree_in_chi2(stem):
    info = load_input_file(FOLDER / f"{stem}.yaml")
    models = [get_model({**info, "theory": {f"iaemu_cobaya.{name}": None}}) for name in ("IAEmu", "TabulatedIA")]
    chi2 = [chi2_at(model, *PAPER[stem]) for model in models]
    assert chi2[0] == pytest.approx(chi2[1], rel=0.1, abs=1.0)


def test_the_own_sample_is_the_mock_whose_truth_it_states_and_gives_that_truth():
    """Its posterior, on a grid, from the measured file as it stands."""
    model = model_of(OWN)
    (likelihood,) = model.likelihood.values()
    assert likelihood.n_regions == {"omega": 125} and len(likelihood.data_vector) == 12
    truth = {"mu_cen": 0.8, "mu_sat": 0.3}
    best = min(
        -2 * model.loglike({"mu_cen": c, "mu_sat": s}, return_derived=False)
        for c in np.linspace(0.7, 0.95, 11)
        for s in np.linspace(-0.2, 0.6, 17)
    )
    # two parameters: 95 % of posteriors hold the truth within 6
    assert -2 * model.loglike(truth, return_derived=False) - best < 6
    assert 2 < best < 30

"""iaemu compare: criteria and evidence against their known values."""

import json
import math

import numpy as np
import pytest
from cobaya.model import get_model
from cobaya.run import run
from scipy import stats

from iaemu_cobaya import IACorrelations, TNG300Sample1
from iaemu_cobaya.chains import load_chain
from iaemu_cobaya.chains.comparison import compare
from iaemu_cobaya.chains.evidence import LogLikelihood, evidence, log_external_mean
from iaemu_cobaya.chains.reading import ChainError
from iaemu_cobaya.commands.door import main
from iaemu_cobaya.likelihoods.distribution import Block

GAUSSIAN = "lambda a, b: -0.5 * ((a - 0.3) / 0.1) ** 2 - 0.5 * ((b - 0.4) / 0.2) ** 2"


def sample(root, params, likelihood=GAUSSIAN, n=3000):
    run(
        {
            "likelihood": {"gaussian": {"external": likelihood}},
            "params": params,
            "sampler": {"mcmc": {"max_samples": n, "seed": 1, "covmat": None}},
            "output": str(root),
        }
    )
    return root


def free(low, high, ref, proposal):
    return {"prior": {"min": low, "max": high}, "ref": ref, "proposal": proposal}


A, B = free(-1, 1, 0.3, 0.15), free(-2, 2, 0.4, 0.3)


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chains")
    return [sample(folder / "fixed", {"a": A, "b": 0.0}), sample(folder / "free", {"a": A, "b": B})]


def test_criteria_of_a_gaussian(chains):
    fixed, free_b = compare([load_chain(root) for root in chains], with_evidence=False)
    assert (fixed.n_parameters, free_b.n_parameters) == (1, 2)
    assert fixed.chi2 == pytest.approx(4.0, abs=0.01) and free_b.chi2 == pytest.approx(0.0, abs=0.01)
    assert fixed.aic == fixed.chi2 + 2 and free_b.aic == free_b.chi2 + 4
    assert fixed.n_effective == pytest.approx(1.0, abs=0.2) and free_b.n_effective == pytest.approx(2.0, abs=0.3)
    assert fixed.dic == pytest.approx(fixed.aic, abs=0.4) and free_b.dic == pytest.approx(free_b.aic, abs=0.6)


@pytest.mark.slow
def test_evidence_and_bayes_factor_of_a_gaussian(chains, tmp_path, capsys):
    pytest.importorskip("nautilus")
    output = tmp_path / "result.json"
    argv = ["compare", *map(str, chains), "--n-live", "200", "-o", str(output), "--json", "-q"]
    assert main(argv) == 0
    document = json.loads(capsys.readouterr().out)
    assert json.loads(output.read_text()) == document and not output.with_name("result.json.parts").exists()
    fixed, free_b = (model["evidence"] for model in document["models"])
    log_a = math.log(math.sqrt(2 * math.pi) * 0.1 / 2)
    assert fixed["log_z"] == pytest.approx(log_a - 2, abs=5 * fixed["error"])
    assert free_b["log_z"] == pytest.approx(log_a + math.log(math.sqrt(2 * math.pi) * 0.2 / 4), abs=5 * free_b["error"])
    assert fixed["error"] < 0.02


def test_external_priors_are_normalised(tmp_path):
    pytest.importorskip("nautilus")
    model = get_model(
        {
            "likelihood": {"gaussian": {"external": GAUSSIAN}},
            "params": {"a": A, "b": {"prior": {"dist": "norm", "loc": 0, "scale": 0.5}}},
            "prior": {"order": "lambda a, b: np.log(7.0 * (a > b))"},
        }
    )
    likelihood = LogLikelihood(model)
    log_mean, error = log_external_mean(likelihood)
    # By symmetry half of the prior has a > b; the factor 7 belongs to the prior, whose norm it is.
    assert log_mean == pytest.approx(math.log(3.5), abs=4 * error) and error < 0.01
    found = evidence(likelihood, n_live=150, n_effective=2000, seed=2)
    # The product of the Gaussians of b: its norm, mean 0.4 * 0.25 / 0.29 and variance 0.01 / 0.29.
    norm = stats.norm(0.0, math.sqrt(0.04 + 0.25)).pdf(0.4) * math.sqrt(2 * math.pi) * 0.2
    share = stats.norm(0.3 - 0.4 * 0.25 / 0.29, math.sqrt(0.01 + 0.01 / 0.29)).sf(0.0)
    exact = math.log(math.sqrt(2 * math.pi) * 0.1 / 2 * norm * share / 0.5)
    assert found.log_z == pytest.approx(exact, abs=5 * found.error) and found.error < 0.03


def test_narrow_external_priors_are_refused():
    model = get_model(
        {
            "likelihood": {"gaussian": {"external": GAUSSIAN}},
            "params": {"a": A, "b": B},
            "prior": {"narrow": "lambda a, b: -0.5 * ((a - b) / 1e-6) ** 2"},
        }
    )
    with pytest.raises(ChainError, match=r"The external prior \(narrow\) is so narrow"):
        log_external_mean(LogLikelihood(model), n_draws=500)


@pytest.mark.parametrize("distribution", ["t", "sellentin-heavens"])
@pytest.mark.parametrize("n_parameters", [1, 3])
def test_normalisation_of_the_t_distribution(distribution, n_parameters):
    """Against scipy's density of three bins."""
    block = Block(["omega"], np.arange(3), 20, distribution)
    power, chi2 = block.power(n_parameters), 4.0
    freedom = power - 3
    density = stats.multivariate_t(shape=np.eye(3) * 19 / freedom, df=freedom)
    log_density = -0.5 * power * math.log1p(chi2 / 19) + block.log_normalisation(n_parameters)
    assert log_density == pytest.approx(density.logpdf([2.0, 0.0, 0.0]))


def test_normalisation_of_a_likelihood_is_that_of_its_density():
    like = TNG300Sample1({"distribution": "gaussian", "emulator_error": False})
    vector = 0.9 * like.data_vector
    density = stats.multivariate_normal(vector, like.covariance_matrix)
    assert like.log_likelihood(vector) + like.log_normalisation() == pytest.approx(density.logpdf(like.data_vector))
    assert isinstance(like, IACorrelations)


def test_other_data_and_short_chains_are_refused(chains, tmp_path, capsys):
    other = sample(tmp_path / "other", {"a": A, "b": B}, GAUSSIAN.replace("0.3", "0.2"))
    assert main(["compare", str(chains[0]), str(other), "--no-evidence"]) == 1
    assert "fixed and other cannot be compared: gaussian differs in external" in capsys.readouterr().err
    short = sample(tmp_path / "short", {"a": A, "b": B}, n=60)
    assert main(["compare", str(chains[0]), str(short), "--no-evidence"]) == 1
    assert "short is too short to compare models: " in capsys.readouterr().err


def test_without_nautilus(chains, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "nautilus", None)
    assert main(["compare", str(chains[0]), "-q"]) == 1
    assert "pip install 'iaemu-cobaya[evidence]'" in capsys.readouterr().err

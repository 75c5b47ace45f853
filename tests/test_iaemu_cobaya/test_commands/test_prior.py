"""``iaemu prior``: what a chain says of A_IA."""

import json

import numpy as np
import pytest
import yaml
from cobaya.model import get_model
from cobaya.run import run

import iaemu
from iaemu_cobaya.chains import load_chain
from iaemu_cobaya.chains.amplitude import amplitude_priors, given_residuals
from iaemu_cobaya.chains.reading import ChainError
from iaemu_cobaya.commands.door import main

SAMPLE1 = {"logMmin": 12.54, "sigma_logM": 0.26, "logM0": 12.68, "logM1": 13.48, "alpha": 1.0}


def sample(root, params):
    run(
        {
            "theory": {"iaemu_cobaya.IAEmu": None},
            "likelihood": {"iaemu_cobaya.TNG300Sample1": None},
            "params": params,
            "sampler": {"iaemu_cobaya.HMC": {"n_chains": 4, "max_samples": 25, "n_warmup": 25, "seed": 1}},
            "output": str(root),
        }
    )
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    derived = {name: {"derived": True} for name in ("A_IA", "b_g")}
    return sample(tmp_path_factory.mktemp("chains") / "derived", {"e_rms": 0.3, **derived})


@pytest.fixture(scope="module")
def without_shapes(tmp_path_factory):
    return sample(tmp_path_factory.mktemp("chains") / "omega", {"n_gal_ia": {"derived": True}})


def test_the_prior_is_the_posterior_and_the_error_of_the_catalogues(root, capsys, tmp_path):
    picture = tmp_path / "prior.pdf"
    assert main(["prior", str(root), "--json", "-n", "4000", "-o", str(picture)]) == 0
    (one,) = json.loads(capsys.readouterr().out)["priors"]
    rows = load_chain(root).rows
    mean = np.average(rows["A_IA"], weights=rows["weight"])
    std = np.sqrt(np.average((rows["A_IA"] - mean) ** 2, weights=rows["weight"]))
    # The data know the sum of the amplitude at given strengths and of the error of the prediction better than either.
    alone = iaemu.load().large_scale({"mu_cen": 0.8, "mu_sat": 0.28, **SAMPLE1}, 0.41, deviations=True).sigma["A_IA"]
    assert 0 < one["A_IA"]["box"] < alone
    assert abs(one["A_IA"]["mean"] - mean) < 2 * alone and one["A_IA"]["std"] < np.hypot(std, alone)
    assert one["A_IA"]["std"] == pytest.approx(np.hypot(one["A_IA"]["posterior"], one["A_IA"]["box"]))
    assert one["b_g"]["mean"] == pytest.approx(np.average(rows["b_g"], weights=rows["weight"]), rel=1e-6)
    assert picture.read_bytes().startswith(b"%PDF")


def test_residuals_tell_the_error_of_the_prediction():
    rng = np.random.default_rng(3)
    deviations, z = rng.normal(size=(3, 5)), rng.normal(size=3)
    residuals = z @ deviations
    mean, covariance = given_residuals([(deviations, 1e12 * np.eye(5), residuals)])  # data without noise
    assert np.allclose(mean, z, atol=1e-9) and np.allclose(covariance, 0, atol=1e-9)
    mean, covariance = given_residuals([(deviations, 1e-12 * np.eye(5), residuals)])  # data that say nothing
    assert np.allclose(mean, 0, atol=1e-9) and np.allclose(covariance, np.eye(3), atol=1e-9)
    # The conditional of a joint normal distribution, in the form with the covariance of the data.
    noise = np.diag(rng.uniform(0.5, 2.0, 5))
    mean, covariance = given_residuals([(deviations, np.linalg.inv(noise), residuals)])
    gain = deviations @ np.linalg.inv(noise + deviations.T @ deviations)
    assert np.allclose(mean, gain @ residuals) and np.allclose(covariance, np.eye(3) - gain @ deviations.T)


def test_the_lines_for_cobaya_are_a_prior(root, capsys):
    assert main(["prior", str(root)]) == 0
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.strip().startswith("Cobaya"))
    params = yaml.safe_load(line.split("Cobaya", 1)[1].strip())
    model = get_model({"likelihood": {"one": None}, "params": params})
    (prior,) = amplitude_priors(load_chain(root))
    assert model.prior.pdf[0].mean() == pytest.approx(prior.mean, rel=1e-3)
    assert model.prior.pdf[0].std() == pytest.approx(prior.sigma, rel=1e-2)
    for words in ("A = gaussian", "ia_bias = ", "log10_average_halo_mass = ", "ia_a_1h = "):
        assert words in printed
    assert root.with_name("derived_A_IA.png").is_file()


def test_the_one_halo_amplitude_has_the_mean_of_the_models(root):
    pytest.importorskip("h5py")
    (prior,) = amplitude_priors(load_chain(root))
    assert np.all(prior.values["a_1h"] < prior.values["A_IA"]) and 1e-5 < prior.values["a_1h"].mean() < 0.05


def test_a_run_without_shapes_needs_their_amplitude(without_shapes, root, capsys):
    assert main(["prior", str(without_shapes)]) == 1
    assert "give the rms ellipticity of the sample with --e-rms" in capsys.readouterr().err
    (one,) = amplitude_priors(load_chain(without_shapes), amplitude=np.sqrt(15 / 8) * 0.3, n_draws=4000)
    (other,) = amplitude_priors(load_chain(root), n_draws=4000)
    assert one.mean == pytest.approx(other.mean, abs=2 * other.values["A_IA"].std())


def test_what_cannot_be_told_is_said(root, tmp_path, capsys):
    high = iaemu.load().redshift_range[1]
    with pytest.raises(ChainError, match=rf"A_IA of iaemu_cobaya\.IAEmu at z = {high + 1:g}: redshift"):
        amplitude_priors(load_chain(root), [high + 1.0])
    assert main(["prior", str(root), "-o", str(tmp_path / "prior.gif")]) == 1
    assert "the picture must end in .png or .pdf" in capsys.readouterr().err

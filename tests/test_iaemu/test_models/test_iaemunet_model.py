"""IAEmuNet as a forward model: files, bins, uncertainties, gradients; untrained, with the scalers of real data."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from iaemu.artifact import ArtifactError, read_artifact, write_artifact
from iaemu.binning import PAPER_EDGES, TNG_EDGES, BinningError, shell_volumes
from iaemu.models.base import ForwardModel
from iaemu.models.factorised import Emulator
from iaemu.models.iaemunet import IAEmuNetEmulator
from iaemu.networks.iaemunet import IAEmuNet
from iaemu.networks.standardise import Standardiser
from iaemu.parameters import SupportError, SupportWarning
from iaemu.prediction import STATISTICS


@pytest.fixture(scope="module")
def emulator():
    shipped = Emulator.load()
    theta = shipped.support.sample(500, np.random.default_rng(1))
    truth = shipped.predict(theta)
    y = np.stack([truth.xi, truth.omega, truth.eta], axis=1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = IAEmuNet()
        with torch.no_grad():
            for _ in range(5):
                network(torch.randn(64, 7))
    metadata = {"support": shipped.support.to_dict(), "description": "untrained"}
    return IAEmuNetEmulator(network, Standardiser.fit(theta, y), metadata)


@pytest.fixture(scope="module")
def theta(emulator):
    return emulator.support.sample(12, np.random.default_rng(2))


@pytest.fixture(scope="module")
def path(emulator, tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "iaemunet.safetensors"
    emulator.save(path)
    return path


def test_one_load_for_every_emulator(emulator, path, theta):
    loaded = Emulator.load(path)
    assert isinstance(loaded, IAEmuNetEmulator) and isinstance(loaded, ForwardModel)
    assert loaded.metadata["description"] == "untrained" and loaded.support == emulator.support
    np.testing.assert_array_equal(loaded.r_edges, PAPER_EDGES)
    again, before = (model.predict(theta, uncertainties=True, n_passes=3) for model in (loaded, emulator))
    for name in STATISTICS:
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name))
        np.testing.assert_array_equal(again.sigma_epistemic[name], before.sigma_epistemic[name])
    assert type(Emulator.load()) is Emulator
    assert type(IAEmuNetEmulator.load(path)) is IAEmuNetEmulator
    with pytest.raises(ArtifactError, match="holds 'emulator', but 'iaemunet-emulator'"):
        IAEmuNetEmulator.load()


def test_a_network_or_a_scaler_that_differs_from_the_golden_predictions_is_refused(path, tmp_path):
    tensors, metadata = read_artifact(path, "iaemunet-emulator")
    for name in ("network.decoders.eta.output.weight", "scaler.target_std"):
        write_artifact(
            tmp_path / "e.safetensors", "iaemunet-emulator", {**tensors, name: tensors[name] * 1.01}, metadata
        )
        with pytest.raises(ArtifactError, match=r"golden predictions of .* are not reproduced"):
            Emulator.load(tmp_path / "e.safetensors")
    without = {key: value for key, value in metadata["golden"].items() if key != "sigma_epistemic.xi"}
    write_artifact(tmp_path / "e.safetensors", "iaemunet-emulator", tensors, {**metadata, "golden": without})
    with pytest.raises(ArtifactError, match=r"has no golden predictions of sigma_epistemic\.xi"):
        Emulator.load(tmp_path / "e.safetensors")
    del tensors["scaler.input_mean"]
    write_artifact(tmp_path / "e.safetensors", "iaemunet-emulator", tensors, metadata)
    with pytest.raises(ArtifactError, match=r"lacks the tensor\(s\) scaler\.input_mean"):
        Emulator.load(tmp_path / "e.safetensors")


def test_predictions_are_the_networks_outputs_scaled_back(emulator, theta):
    trained = emulator._trained
    with torch.no_grad():
        inputs = trained["standardiser"].inputs(torch.tensor(theta)).float()
        mean, variance = trained["network"](inputs)
        expected, sigma = trained["standardiser"].physical(mean.double(), variance.double(), "median")
    prediction = emulator.predict(theta, uncertainties=True, n_passes=2)
    for index, name in enumerate(STATISTICS):
        np.testing.assert_allclose(getattr(prediction, name), expected[:, index], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(prediction.sigma_aleatoric[name], sigma[:, index], rtol=1e-4, atol=1e-6)
    assert prediction.n_gal is None and prediction.f_sat is None


def test_uncertainties_are_given_only_when_asked_for(emulator, theta):
    plain = emulator.predict(theta)
    assert plain.sigma_aleatoric is None and plain.sigma_epistemic is None
    full = emulator.predict(theta, statistics="omega", uncertainties=True, n_passes=4)
    np.testing.assert_allclose(full.omega, plain.omega, rtol=1e-12)
    assert set(full.sigma_aleatoric) == set(full.sigma_epistemic) == {"omega"}
    assert full.sigma_epistemic["omega"].shape == (12, 20) and np.all(full.sigma_epistemic["omega"] > 0)
    with pytest.raises(ValueError, match="n_passes must be a whole number, at least 2"):
        emulator.predict(theta, uncertainties=True, n_passes=1)


def test_epistemic_sigma_is_the_spread_of_reproducible_passes(emulator, theta):
    before = torch.random.get_rng_state()
    passes = emulator.passes(theta, n_passes=20, seed=5)
    prediction = emulator.predict(theta, uncertainties=True, n_passes=20, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert passes["omega"].shape == (20, 12, 20)
    for name in ("omega", "eta"):
        np.testing.assert_allclose(prediction.sigma_epistemic[name], passes[name].std(axis=0, ddof=1), rtol=1e-9)
    alone = emulator.predict(theta[3], uncertainties=True, n_passes=20, seed=5)
    np.testing.assert_allclose(alone.sigma_epistemic["xi"], prediction.sigma_epistemic["xi"][3], rtol=1e-9)
    other = emulator.predict(theta, uncertainties=True, n_passes=20, seed=6)
    assert not np.allclose(other.sigma_epistemic["xi"], prediction.sigma_epistemic["xi"])


def test_xi_is_the_papers_median_or_the_mean_of_the_lognormal(emulator, theta, tmp_path):
    median = emulator.predict(theta, uncertainties=True, n_passes=2)
    emulator.xi_estimate = "mean"
    mean = emulator.predict(theta, uncertainties=True, n_passes=2)
    emulator.save(tmp_path / "mean.safetensors")
    assert Emulator.load(tmp_path / "mean.safetensors").xi_estimate == "mean"
    with pytest.raises(ValueError, match="xi_estimate must be one of mean, median"):
        emulator.xi_estimate = "mode"
    emulator.xi_estimate = "median"
    # sigma^2 = (exp(s^2) - 1) mean^2 and mean = median exp(s^2 / 2)
    s2 = np.log1p((mean.sigma_aleatoric["xi"] / mean.xi) ** 2)
    np.testing.assert_allclose(mean.xi, median.xi * np.exp(s2 / 2), rtol=1e-9)
    np.testing.assert_array_equal(mean.sigma_aleatoric["xi"], median.sigma_aleatoric["xi"])


def test_coarser_bins_are_averages_over_volume_and_over_pairs(emulator, theta):
    fine, coarse = emulator.predict(theta), emulator.predict(theta, PAPER_EDGES[::5])
    volume = shell_volumes(PAPER_EDGES)
    joined = lambda values: values.reshape(12, 4, 5).sum(axis=2)  # noqa: E731
    pairs = volume * (1 + fine.xi)
    np.testing.assert_allclose(coarse.xi, joined(pairs) / volume.reshape(4, 5).sum(axis=1) - 1, rtol=1e-10)
    np.testing.assert_allclose(coarse.omega, joined(pairs * fine.omega) / joined(pairs), rtol=1e-10)
    np.testing.assert_allclose(coarse.eta, joined(pairs * fine.eta) / joined(pairs), rtol=1e-10)
    np.testing.assert_allclose(emulator.predict(theta, PAPER_EDGES[::5], "omega").omega, coarse.omega, rtol=1e-12)


def test_uncertainties_are_refused_where_bins_are_joined_and_given_where_some_are_left_out(emulator, theta):
    with pytest.raises(BinningError, match="uncertainties only in its own bins"):
        emulator.predict(theta, PAPER_EDGES[::5], uncertainties=True)
    full = emulator.predict(theta, uncertainties=True, n_passes=3)
    part = emulator.predict(theta, PAPER_EDGES[4:15], uncertainties=True, n_passes=3)
    np.testing.assert_allclose(part.eta, full.eta[:, 4:14], rtol=1e-12)
    np.testing.assert_allclose(part.sigma_aleatoric["eta"], full.sigma_aleatoric["eta"][:, 4:14], rtol=1e-12)
    np.testing.assert_allclose(part.sigma_epistemic["xi"], full.sigma_epistemic["xi"][:, 4:14], rtol=1e-12)
    with pytest.raises(BinningError, match="uncertainties only in its own bins"):
        emulator.predict(theta, TNG_EDGES, uncertainties=True)


def test_other_bins_are_interpolated(emulator, theta):
    """Between the values in the paper's bins that they overlap."""
    own, other = emulator.predict(theta), emulator.predict(theta, [0.2, 0.4, 1.0, 3.0, 9.0])
    for k, (low, high) in enumerate(pairwise(other.r_edges)):
        touched = (PAPER_EDGES[1:] > low) & (PAPER_EDGES[:-1] < high)
        for name in ("xi", "omega"):
            value, around = getattr(other, name)[:, k], getattr(own, name)[:, touched]
            slack = 0.1 * np.ptp(around, axis=1) + 0.02 * np.abs(around).max(axis=1)
            assert np.all((value > around.min(axis=1) - slack) & (value < around.max(axis=1) + slack))
    with pytest.raises(BinningError, match=r"not within 0\.1 to 15\.849"):
        emulator.predict(theta, [1.0, 20.0])


def test_gradients_equal_central_differences(emulator):
    rng = np.random.default_rng(3)
    weights = torch.tensor(rng.normal(size=20))
    middle = emulator.support.from_unit_cube(np.full((1, 7), 0.5))
    theta = torch.tensor(emulator.support.sample(128, rng) * 0.98 + 0.02 * middle).requires_grad_()

    def summary(points):
        value = emulator.predict(points, support="warn")
        return (torch.log(value.xi) + 30 * value.omega + 300 * value.eta) @ weights

    (gradient,) = torch.autograd.grad(summary(theta).sum(), theta)
    central = torch.empty_like(gradient)
    for column in range(7):
        step = torch.zeros(7, dtype=torch.float64)
        step[column] = 1e-7
        with torch.no_grad():
            central[:, column] = (summary(theta + step) - summary(theta - step)) / 2e-7
    error = (gradient - central).norm(dim=1) / gradient.norm(dim=1)
    # LeakyReLU has kinks, and a step may cross one.
    assert float(error.quantile(0.99)) < 1e-5


def test_uncertainties_have_gradients_too_even_after_inference_mode(emulator):
    theta = torch.tensor(emulator.support.sample(2, np.random.default_rng(4)))
    with torch.inference_mode():
        emulator.predict(theta, uncertainties=True, n_passes=3, seed=11)
    theta.requires_grad_()
    prediction = emulator.predict(theta, uncertainties=True, n_passes=3, seed=11)
    for sigma in (prediction.sigma_aleatoric, prediction.sigma_epistemic):
        (gradient,) = torch.autograd.grad(sum(value.sum() for value in sigma.values()), theta, retain_graph=True)
        assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())


def test_dtypes_and_batch_shapes(emulator, theta):
    single = emulator.predict(torch.tensor(theta, dtype=torch.float32), uncertainties=True, n_passes=2)
    assert single.xi.dtype == single.sigma_epistemic["xi"].dtype == torch.float32
    shaped = emulator.predict(theta.reshape(2, 1, 6, 7), uncertainties=True, n_passes=2)
    assert shaped.omega.shape == shaped.sigma_aleatoric["omega"].shape == (2, 1, 6, 20)
    assert emulator.passes(theta.reshape(2, 6, 7), n_passes=2)["xi"].shape == (2, 2, 6, 20)
    np.testing.assert_allclose(single.omega, shaped.omega.reshape(12, 20), rtol=1e-2, atol=1e-5)
    assert emulator.predict(theta[0]).xi.shape == (20,)


def test_support_policies(emulator, theta):
    outside = theta[:2].copy()
    outside[0, 2] = 10.9
    with pytest.raises(SupportError, match=r"logMmin = 10\.9 is outside"):
        emulator.predict(outside)
    rejected = emulator.predict(outside, support="reject", uncertainties=True, n_passes=2)
    assert np.isnan(rejected.xi[0]).all() and np.isfinite(rejected.xi[1]).all()
    assert np.isnan(rejected.sigma_epistemic["eta"][0]).all()
    with pytest.warns(SupportWarning) as caught:
        assert np.isfinite(emulator.predict(outside, support="warn").xi).all()
    assert caught[0].filename == __file__


@pytest.fixture(scope="module")
def shipped():
    return Emulator.load("iaemunet-pm160")


class TestShipped:
    def test_it_follows_the_default_emulator_as_far_as_it_can(self, shipped):
        default = Emulator.load()
        theta = default.support.sample(200, np.random.default_rng(3))
        theta = theta[default.support.contains(theta).numpy() & shipped.support.contains(theta).numpy()]
        ours, its = default.predict(theta, shipped.r_edges, support="reject"), shipped.predict(theta)
        known = np.isfinite(ours.xi)
        for values in (ours, its):
            for name in ("xi", "omega", "eta"):
                setattr(values, name, getattr(values, name)[known])
        assert np.corrcoef(np.log(ours.xi.ravel()), np.log(np.clip(its.xi, 1e-3, None)).ravel())[0, 1] > 0.98
        assert np.corrcoef(ours.omega.ravel(), its.omega.ravel())[0, 1] > 0.95
        assert np.corrcoef(ours.eta.ravel(), its.eta.ravel())[0, 1] > 0.5

    def test_it_has_both_uncertainties_in_any_batch(self, shipped):
        theta = shipped.support.sample(6, np.random.default_rng(4)).reshape(2, 3, 7)
        prediction = shipped.predict(theta, uncertainties=True)
        for sigma in (prediction.sigma_aleatoric, prediction.sigma_epistemic):
            assert {name: value.shape for name, value in sigma.items()} == dict.fromkeys(
                ("xi", "omega", "eta"), (2, 3, 20)
            )
            assert all((value > 0).all() for value in sigma.values())

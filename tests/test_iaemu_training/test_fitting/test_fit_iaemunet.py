"""Training of IAEmuNet on noisy mocks of a simple truth: it learns, keeps to the recipe, and bears missing entries."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from iaemu.models.factorised import Emulator
from iaemu.models.iaemunet import IAEmuNetEmulator
from iaemu.networks.standardise import Standardiser
from iaemu.parameters import Support
from iaemu_training.fitting import objective
from iaemu_training.fitting.calibration import calibrate
from iaemu_training.fitting.config import IAEmuNetSettings
from iaemu_training.fitting.iaemunet import IAEmuNetTraining, fit_iaemunet

SUPPORT = Support(logMmin=(12.0, 13.0))
SETTINGS = IAEmuNetSettings(
    epochs=6,
    batch_size=16,
    learning_rate=3e-3,
    warmup_epochs=3,
    validate_every=2,
    checkpoint_every=2,
    patience=50,
    threads=1,
)


def mocks(n, k, seed):
    """A truth that is smooth in all parameters, with noise; some bins empty, some xi negative at large r."""
    rng = np.random.default_rng(seed)
    theta = SUPPORT.sample(n, rng)
    x = np.linspace(0, 1, 20)
    log_xi = 5 - 7 * x + (theta[:, 2:3] - 12.5) * (1 + x)
    omega = 0.05 * theta[:, :1] * np.exp(-3 * x)
    eta = 0.02 * theta[:, 1:2] * np.exp(-5 * x)
    truth = np.stack([np.exp(log_xi), omega, eta], axis=1)[:, None]
    noise = rng.normal(size=(n, k, 3, 20)) * np.array([0.08, 0.003, 0.003])[:, None]
    y = truth + noise + 0.05 * truth * noise[:, :, :1]
    y[::7, 0, :, 0] = np.nan
    return theta, y


@pytest.fixture(scope="module")
def data():
    return (*mocks(64, 3, 1), *mocks(24, 2, 2))


@pytest.fixture(scope="module")
def emulator(data):
    return fit_iaemunet(*data, SUPPORT, SETTINGS, {"catalogues": ["none"]}, progress=False)


def state(emulator):
    return torch.cat([value.flatten().double() for value in emulator._trained.state_dict().values()])


def test_it_learns(emulator):
    history = emulator.metadata["history"]
    assert history[-1]["validation"] < 0.8 * history[0]["validation"]


def test_the_artifact_says_where_it_comes_from(emulator, tmp_path):
    emulator.save(tmp_path / "e.safetensors")
    loaded = Emulator.load(tmp_path / "e.safetensors")
    assert isinstance(loaded, IAEmuNetEmulator) and loaded.support == SUPPORT
    metadata = loaded.metadata
    assert metadata["catalogues"] == ["none"] and metadata["fit"]["batch_size"] == 16
    assert metadata["training_set"]["points"] == 64 and metadata["training_set"]["realisations"] == 3
    assert metadata["best"]["validation"] == min(entry["validation"] for entry in metadata["history"])
    theta = SUPPORT.sample(3, np.random.default_rng(0))
    np.testing.assert_array_equal(loaded.predict(theta).xi, emulator.predict(theta).xi)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_network(data, emulator, tmp_path, monkeypatch):
    before = torch.random.get_rng_state()
    with monkeypatch.context() as patch:
        loss = IAEmuNetTraining.batch_loss
        patch.setattr(
            IAEmuNetTraining, "batch_loss", lambda training, rows: loss(training, rows) if training.epoch < 3 else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            fit_iaemunet(*data, SUPPORT, SETTINGS, checkpoint=tmp_path / "c", progress=False)
    resumed = fit_iaemunet(*data, SUPPORT, SETTINGS, checkpoint=tmp_path / "c", progress=False)
    assert torch.equal(state(resumed), state(emulator))
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="belongs to other data"):
        other = data[0], data[1] + 1e-3, *data[2:]
        fit_iaemunet(*other, SUPPORT, SETTINGS, checkpoint=tmp_path / "c", progress=False)


def test_an_epoch_shows_every_realisation_alone_or_with_the_others_of_its_point(data):
    every = IAEmuNetTraining(*data, SETTINGS)
    rows = every.epoch_rows(torch.Generator().manual_seed(1))
    assert sorted(rows.tolist()) == list(range(64 * 3)) and every.n_batches == 12
    together = IAEmuNetTraining(*data, replace(SETTINGS, realisations="together"))
    rows = together.epoch_rows(torch.Generator().manual_seed(1))
    assert sorted(rows.tolist()) == list(range(64)) and together.n_batches == 4


def test_the_loss_of_realisations_together_is_that_of_all_of_them(data):
    alone = IAEmuNetTraining(*data, SETTINGS)
    together = IAEmuNetTraining(*data, replace(SETTINGS, realisations="together"))
    for training in (alone, together):
        training.network.eval()  # no dropout, which differs between rows
        training.trainer = Trainer()
    points = torch.tensor([3, 0, 40])
    rows = (3 * points[:, None] + torch.arange(3)).flatten()
    torch.testing.assert_close(together.batch_loss(points), alone.batch_loss(rows))


def test_calibration_finds_the_scatter_of_realisations_and_the_errors_of_the_mean(data):
    """Of an untrained network, whose variances mean nothing, on targets whose scatter follows the parameters."""
    rng = np.random.default_rng(5)
    theta = SUPPORT.sample(400, rng)
    truth = mocks(64, 3, 1)
    standardiser = Standardiser.fit(truth[0], truth[1])
    network = IAEmuNetTraining(*data, SETTINGS).network.eval()
    x = standardiser.inputs(torch.as_tensor(theta)).numpy()
    with torch.no_grad():
        mean = network(torch.as_tensor(x).float())[0].double().numpy()
    sigma = 0.2 * np.exp(0.3 * x[:, 2] - 0.2 * x[:, 4])[:, None, None]
    wrong = 0.5 * sigma * rng.normal(size=mean.shape)
    standard = (mean + wrong)[:, None] + sigma[:, None] * rng.normal(size=(400, 30, 3, 20))
    y = standard * standardiser.target_std.numpy()[:, None] + standardiser.target_mean.numpy()[:, None]
    y[:, :, 0] = np.exp(y[:, :, 0])
    y[:5, :, 1, 0] = np.nan
    found = calibrate(network, standardiser, theta, y, progress=False, n_points=30)
    with torch.no_grad():
        variance = network(torch.as_tensor(x).float())[1].double()
    calibrated = np.sqrt(found.variance(variance, torch.as_tensor(x)).numpy())
    np.testing.assert_allclose(calibrated / sigma, 1.0, atol=0.25)
    assert abs(np.median(calibrated / sigma) - 1) < 0.01
    with torch.no_grad():
        spread = network(torch.as_tensor(x[:20]).float(), network.draw_masks(50, 0))[0].std(dim=0).numpy()
    inside = np.abs(wrong[:20]) < found.factor.numpy() * spread
    assert abs(inside.mean() - 0.68) < 0.1


def test_a_calibration_is_part_of_the_file_and_can_be_taken_off(data, tmp_path):
    held = data[0][:4], data[1][:4]
    emulator = fit_iaemunet(*data[:2], *held, SUPPORT, replace(SETTINGS, epochs=1, warmup_epochs=1), progress=False)
    emulator.save(tmp_path / "e.safetensors")
    loaded = IAEmuNetEmulator.load(tmp_path / "e.safetensors")
    theta = SUPPORT.sample(3, np.random.default_rng(6))
    found, again = (model.predict(theta, uncertainties=True, n_passes=4) for model in (emulator, loaded))
    for name in ("sigma_aleatoric", "sigma_epistemic"):
        np.testing.assert_allclose(getattr(found, name)["omega"], getattr(again, name)["omega"], rtol=1e-12)
    loaded.calibration = None
    raw = loaded.predict(theta, uncertainties=True, n_passes=4)
    np.testing.assert_allclose(raw.omega, found.omega, rtol=1e-12)
    factor = emulator.calibration.factor.numpy()
    np.testing.assert_allclose(found.sigma_epistemic["omega"], factor[1] * raw.sigma_epistemic["omega"], rtol=1e-5)
    assert not np.allclose(raw.sigma_aleatoric["omega"], found.sigma_aleatoric["omega"])


@pytest.mark.slow
def test_mixed_precision_trains_32_bit_weights_to_nearly_the_same_loss(data):
    fits = [
        fit_iaemunet(
            *data, SUPPORT, replace(SETTINGS, realisations="together", precision=precision, epochs=4), progress=False
        )
        for precision in ("32-true", "bf16-mixed")
    ]
    losses = [[entry["validation"] for entry in fit.metadata["history"]] for fit in fits]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)
    assert losses[1] != losses[0]
    assert {value.dtype for value in fits[1].network.state_dict().values()} == {torch.float32, torch.int64}


def test_rows_pair_a_point_with_its_own_realisations(data):
    training = IAEmuNetTraining(*data, SETTINGS)
    seen = {}

    class Flat(torch.nn.Module):
        def forward(self, inputs):
            seen.update(inputs=inputs)
            return torch.zeros(2, 3, 20), torch.ones(2, 3, 20)

    training.network = Flat()
    training.schedule = lambda epoch: (0.0,) * 3
    loss = training.batch_loss(torch.tensor([4, 17]))  # realisation 1 of point 1, realisation 2 of point 5
    torch.testing.assert_close(seen["inputs"], training.data["train_inputs"][[1, 5]])
    expected = training.standardiser.targets(torch.tensor(np.stack([data[1][1, 1], data[1][5, 2]]))).float()
    torch.testing.assert_close(loss, objective.gaussian_nll(torch.zeros(2, 3, 20), torch.ones(2, 3, 20), expected))


def test_the_validation_loss_is_the_papers_criterion_over_all_realisations(data):
    training = IAEmuNetTraining(*data, SETTINGS)
    training.network.eval()
    with torch.no_grad():
        mean, variance = training.network(training.data["validation_inputs"].repeat_interleave(2, dim=0))
        targets = training.data["validation_targets"].flatten(0, 1)
        torch.testing.assert_close(training.validation_loss(), objective.criterion(mean, variance, targets))


def test_missing_entries_and_negative_xi_are_masked_one_by_one(data):
    targets = IAEmuNetTraining(*data, SETTINGS).data["train_targets"]
    y = torch.tensor(data[1])
    missing = ~torch.isfinite(targets)
    expected = torch.isnan(y)
    expected[:, :, 0] |= y[:, :, 0] <= 0
    assert torch.equal(missing, expected)
    assert int((y[:, :, 0] <= 0).sum()) > 10  # they are there, and their mocks are kept


def test_unusable_arrays_are_refused(data):
    theta, y, *validation = data
    for arrays, message in (
        ((theta[:, :6], y), r"theta must have shape \(n, 7\)"),
        ((theta, y[:, 0]), r"y must have shape \(64, n_realisations, 3, 20\)"),
        ((theta, y[:10]), r"y must have shape \(64, n_realisations, 3, 20\)"),
        ((theta, np.where(np.isnan(y), np.inf, y)), "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_iaemunet(*arrays, *validation, SUPPORT, SETTINGS, progress=False)
    with pytest.raises(ValueError, match="validation_y must have shape"):
        fit_iaemunet(theta, y, validation[0], validation[1][:, :, :2], SUPPORT, SETTINGS, progress=False)
    with pytest.raises(ValueError, match="batch_size = 512 exceeds the 192 rows"):
        fit_iaemunet(*data, SUPPORT, replace(SETTINGS, batch_size=512), progress=False)

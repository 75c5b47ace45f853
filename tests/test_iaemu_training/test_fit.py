"""Training: learns, is reproducible, resumes exactly; and the command line."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from iaemu.binning import PAPER_EDGES, TNG_EDGES
from iaemu.emulator import Emulator
from iaemu_training import fit as fit_module
from iaemu_training.cli import main
from iaemu_training.fit import FitSettings, fit
from iaemu_training.labels import make_labels
from iaemu_training.support import occupation_points

SMALL = FitSettings(n_train=1024, n_validation=128, width=64, depth=2, epochs=40, batch_size=32)


@pytest.fixture(scope="module")
def fitted(pm40_tables):
    return fit(pm40_tables, SMALL, progress=False)


def weights(emulator):
    return torch.cat([value.flatten() for value in emulator._trained.state_dict().values()])


def test_training_reduces_the_held_out_error(fitted):
    history = fitted.metadata["history"]
    assert history[-1]["validation"] < 0.3 * history[0]["validation"]
    assert history[-1]["validation"] < 0.25  # of the labels' variance: those of a box of 40 Mpc/h are jagged


def test_same_seed_same_network_and_torchs_generator_untouched(pm40_tables, fitted):
    before = torch.random.get_rng_state()
    again = fit(pm40_tables, SMALL, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(weights(again), weights(fitted))


def test_a_killed_training_goes_on_to_the_same_network(pm40_tables, fitted, tmp_path, monkeypatch):
    checkpoint = tmp_path / "fit.checkpoint"
    save = fit_module._save_checkpoint

    def save_and_die(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "_save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        fit(pm40_tables, SMALL, checkpoint=checkpoint, progress=False)
    monkeypatch.undo()
    resumed = fit(pm40_tables, SMALL, checkpoint=checkpoint, progress=False)
    assert torch.equal(weights(resumed), weights(fitted))
    with pytest.raises(ValueError, match="other settings"):
        fit(pm40_tables, replace(SMALL, seed=9), checkpoint=checkpoint, progress=False)
    theta = occupation_points(pm40_tables.support, SMALL.n_train, 77)
    other = make_labels(pm40_tables, theta, (PAPER_EDGES, TNG_EDGES), progress=False)
    with pytest.raises(ValueError, match="other labels"):
        fit(pm40_tables, SMALL, labels=other, checkpoint=checkpoint, progress=False)


def test_saved_emulators_predict_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "e.safetensors")
    again = Emulator.load(tmp_path / "e.safetensors")
    theta = fitted.support.sample(5, np.random.default_rng(0))
    np.testing.assert_array_equal(again.predict(theta).omega, fitted.predict(theta).omega)


def test_command_line_packs_tabulates_and_fits(pm40, tmp_path, capsys):
    assert main(["pack", "pm40", str(tmp_path / "copy.hdf5")]) == 0
    tables = tmp_path / "tables.safetensors"
    arguments = ["-c", str(tmp_path / "copy.hdf5"), "--logMmin", "11.8", "12.1", "--dlog-mass", "0.1"]
    assert main(["tabulate", str(tables), *arguments]) == 0
    small = ["--n-train", "256", "--n-validation", "64", "--width", "16", "--depth", "2", "--epochs", "2"]
    output = tmp_path / "emulator.safetensors"
    assert main(["fit", str(output), "--tables", str(tables), *small, "--batch-size", "64"]) == 0
    assert Emulator.load(output).metadata["catalogues"] == ["pm40"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "copy.hdf5",
        "emulator.safetensors",
        "tables.safetensors",
    ]


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    assert main(["fit", str(tmp_path / "nowhere" / "e.safetensors")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(["fit", str(tmp_path / "e.safetensors"), "--n-train", "32"]) == 1
    assert "batch_size = 512 exceeds n_train = 32" in capsys.readouterr().err
    assert main(["tabulate", str(tmp_path / "t.safetensors"), "-c", str(tmp_path / "none.hdf5")]) == 1
    assert "There is no catalogue file" in capsys.readouterr().err

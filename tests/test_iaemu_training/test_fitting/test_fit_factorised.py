"""Training: learns, is reproducible, resumes exactly; and the command line."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from iaemu.models.factorised import Emulator
from iaemu.models.laws import VaryingStrengthModel
from iaemu.models.tables import TabulatedModel
from iaemu_training.commands.iaemu_train import main
from iaemu_training.dataset.labels import make_labels
from iaemu_training.dataset.points import occupation_points
from iaemu_training.fitting import harness
from iaemu_training.fitting.config import checkpoint_paths, read_config
from iaemu_training.fitting.factorised import FitSettings, fit_factorised, fit_members

SMALL = FitSettings(n_train=1024, n_validation=128, width=64, depth=2, epochs=40, batch_size=32, members=1)


#: Where only the way to the network matters.
TINY = replace(SMALL, n_train=256, n_validation=64, epochs=12)


@pytest.fixture(scope="module")
def fitted(pm40_tables):
    return fit_factorised(pm40_tables, SMALL, progress=False)


@pytest.fixture(scope="module")
def without_radii(pm40_tables):
    """Tables that do not know where satellites are, for which there is one network less to train."""
    rest = {name: value for name, value in pm40_tables._tensors.items() if not name.startswith("radial.")}
    return TabulatedModel(rest, pm40_tables.metadata)


@pytest.fixture(scope="module")
def member(pm40_tables):
    (member,) = fit_members(pm40_tables, TINY, progress=False)
    return member


def weights(member):
    return torch.cat([value.flatten() for value in member.network.state_dict().values()])


def test_training_reduces_the_held_out_error(fitted):
    history = fitted.metadata["history"]
    assert history[-1]["validation"] < 0.3 * history[0]["validation"]
    assert history[-1]["validation"] < 0.25  # of the labels' variance: those of a box of 40 Mpc/h are jagged


def test_the_network_of_satellites_by_radius_learns_too(fitted, pm40_tables):
    """With a slope the emulator is nearer to the tables than without, by far."""
    theta = pm40_tables.support.sample(200, np.random.default_rng(4))
    theta[:, :2] = 0.2, 0.4
    steep = np.concatenate([theta, np.full((200, 1), -0.6)], axis=1)
    truth = VaryingStrengthModel(pm40_tables, slopes=("mu_sat_slope",)).predict(steep, fitted.r_edges).omega
    found, flat = VaryingStrengthModel(fitted).predict(steep).omega, fitted.predict(theta).omega
    rms = [np.sqrt(np.nanmean((values - truth) ** 2)) for values in (found, flat)]
    assert rms[0] < 0.4 * rms[1]
    assert fitted.metadata["radial"]["held_out"]["inside"]["n_points"] == 500


def test_same_seed_same_network_and_torchs_generator_untouched(pm40_tables, member):
    before = torch.random.get_rng_state()
    (again,) = fit_members(pm40_tables, TINY, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(weights(again), weights(member))


def test_a_killed_training_goes_on_to_the_same_network(pm40_tables, member, tmp_path, monkeypatch):
    checkpoint = tmp_path / "fit.checkpoint"
    write = harness.write_whole

    def write_and_die(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "write_whole", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        fit_members(pm40_tables, TINY, checkpoint=checkpoint, progress=False)
    monkeypatch.undo()
    (resumed,) = fit_members(pm40_tables, TINY, checkpoint=checkpoint, progress=False)
    assert torch.equal(weights(resumed), weights(member))
    with pytest.raises(ValueError, match="other settings"):
        fit_members(pm40_tables, replace(TINY, seed=9), checkpoint=checkpoint, progress=False)
    theta = occupation_points(pm40_tables.support, TINY.n_train, 77)
    other = make_labels(pm40_tables, theta, progress=False)
    with pytest.raises(ValueError, match="other labels"):
        fit_members(pm40_tables, TINY, labels=other, checkpoint=checkpoint, progress=False)


def test_members_of_an_ensemble_differ_in_their_seeds_only_and_go_on_one_by_one(pm40_tables, tmp_path):
    settings = replace(SMALL, epochs=3, n_train=256, members=2)
    theta = occupation_points(pm40_tables.support, settings.n_train, settings.seed)
    labels = make_labels(pm40_tables, theta, progress=False)
    options = dict(labels=labels, checkpoint=tmp_path / "c", progress=False)
    first, second = fit_members(pm40_tables, settings, **options)
    assert torch.equal(first.network.output_mean, second.network.output_mean)
    assert not torch.equal(first.network.output.weight, second.network.output.weight)
    assert len(second.history) == 3
    paths = checkpoint_paths(tmp_path / "c", 2)
    assert sorted(tmp_path.iterdir()) == paths
    paths[1].unlink()  # killed during the second
    before = paths[0].stat().st_mtime_ns
    again = fit_members(pm40_tables, settings, **options)
    assert paths[0].stat().st_mtime_ns == before
    for one, other in zip(again, (first, second), strict=True):
        assert torch.equal(one.network.output.weight, other.network.output.weight)
    (alone,) = fit_members(pm40_tables, replace(settings, members=1), labels=labels, progress=False)
    assert torch.equal(alone.network.output.weight, first.network.output.weight)
    emulator = fit_factorised(pm40_tables, settings, **options)
    assert torch.equal(emulator.network.output.weight, first.network.output.weight)
    assert torch.equal(emulator.members[0].output.weight, second.network.output.weight)
    assert set(emulator.metadata["epistemic_scale"]) == {"xi", "omega", "eta"}


def test_epistemic_sigma_is_calibrated_on_labels_of_its_own(pm40_tables, without_radii):
    emulator = fit_factorised(without_radii, replace(SMALL, epochs=5, members=3), progress=False)
    theta = pm40_tables.support.sample(400, np.random.default_rng(99))
    truth, guess = pm40_tables.predict(theta, emulator.r_edges), emulator.predict(theta, uncertainties=True)
    for name, sigma in guess.sigma_epistemic.items():
        inside = np.abs(getattr(guess, name) - getattr(truth, name)) < sigma
        assert np.mean(inside[np.isfinite(getattr(truth, name))]) == pytest.approx(0.68, abs=0.06)


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
    small = [
        "--n-train",
        "256",
        "--n-validation",
        "64",
        "--width",
        "16",
        "--depth",
        "2",
        "--epochs",
        "2",
        "--members",
        "2",
    ]
    output = tmp_path / "emulator.safetensors"
    capsys.readouterr()
    assert main(["fit", str(output), "--tables", str(tables), *small, "--batch-size", "64"]) == 0
    metadata = Emulator.load(output).metadata
    text = capsys.readouterr().out
    assert text.startswith("Training 2 networks one after the other, each 2 epochs, from 256 points.")
    assert f"| omega | {metadata['held_out']['inside']['omega']['median']:.2%} |" in text
    assert "95 % of the points inside the supported region" in text and "{" not in text
    assert metadata["catalogues"] == ["pm40"]
    given = dict(
        tables=str(tables), n_train=256, n_validation=64, width=16, depth=2, epochs=2, batch_size=64, members=2
    )
    assert metadata["config"] == read_config("factorised", given).to_dict()
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

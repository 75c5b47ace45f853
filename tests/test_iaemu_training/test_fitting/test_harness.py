"""The harness, on a network of a few weights: reproducible, resumable after any kill, leaves nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from iaemu_training.fitting import harness
from iaemu_training.fitting.config import TrainingSettings
from iaemu_training.fitting.harness import NetworkTraining, TrainingError, stream, train

SETTINGS = TrainingSettings(
    epochs=9,
    batch_size=32,
    validate_every=2,
    patience=6,
    checkpoint_every=2,
    gradient_clip=0.5,
    learning_rate=1e-2,
    # A sum split over threads depends on their number, and other tests change it.
    threads=1,
)


class Parabola(NetworkTraining):
    """Learns y = x^2 with everything that could spoil a resumption: dropout, batch norm, momentum, a schedule."""

    def __init__(self, settings=SETTINGS, seed=5):
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(160, 3, generator=generator)
        with harness.seeded(seed):
            network = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
        super().__init__(network, settings, seed, {"x": x, "y": x**2}, len(x))

    def epoch_rows(self, generator):
        return torch.randperm(len(self.data["x"]), generator=generator)

    def batch_loss(self, rows):
        return torch.mean((self.network(self.data["x"][rows]) - self.data["y"][rows]) ** 2)

    def validation_loss(self):
        return torch.mean((self.network(self.data["x"]) - self.data["y"]) ** 2)


def weights(network):
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


@pytest.fixture(scope="module")
def uninterrupted():
    training = Parabola()
    return weights(train(training, progress=False)), training.history


def test_training_learns(uninterrupted):
    _, history = uninterrupted
    assert [entry["epoch"] for entry in history] == list(range(9))
    assert [entry["epoch"] for entry in history if "validation" in entry] == [1, 3, 5, 7, 8]
    assert history[-1]["validation"] < 0.8 * history[1]["validation"]


def test_the_same_seed_gives_the_same_network_whatever_torchs_generator(uninterrupted):
    torch.rand(7)
    assert torch.equal(weights(train(Parabola(), progress=False)), uninterrupted[0])
    assert not torch.equal(weights(train(Parabola(seed=6), progress=False)), uninterrupted[0])


def test_nothing_global_changes_and_nothing_is_left_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def state():
        return (
            torch.random.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
            list(warnings.filters),
            dict(os.environ),
        )

    before = state()
    train(Parabola(), progress=False)
    assert state() == before
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_a_run_interrupted_at_every_checkpoint_gives_the_same_network(uninterrupted, tmp_path, monkeypatch):
    write = harness.write_whole

    def write_and_stop(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "write_whole", write_and_stop)
    handler = signal.getsignal(signal.SIGINT)  # ignored, in a shell's background
    done = []
    for _ in range(5):  # after epochs 2, 4, 6, 8 and the last
        training = Parabola()
        with pytest.raises(KeyboardInterrupt):
            train(training, checkpoint=tmp_path / "c", progress=False)
        done.append(len(training.history))
    assert done == [2, 4, 6, 8, 9]
    assert signal.getsignal(signal.SIGINT) is handler
    training = Parabola()
    assert torch.equal(weights(train(training, checkpoint=tmp_path / "c", progress=False)), uninterrupted[0])
    assert training.history == uninterrupted[1]


def test_a_run_killed_with_sigkill_goes_on_to_the_same_network(uninterrupted, tmp_path):
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_harness import Parabola, train
        class Killed(Parabola):
            def batch_loss(self, rows):
                if self.epoch == 5:  # one epoch after a checkpoint: in the middle of things
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().batch_loss(rows)
        train(Killed(), checkpoint={str(tmp_path / "c")!r}, progress=False)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    training = Parabola()
    network = train(training, checkpoint=tmp_path / "c", progress=False)
    assert training._first_epoch == 4
    assert torch.equal(weights(network), uninterrupted[0])


def test_a_finished_run_is_not_trained_again(uninterrupted, tmp_path, monkeypatch):
    train(Parabola(), checkpoint=tmp_path / "c", progress=False)
    monkeypatch.setattr(harness, "Trainer", None)
    assert torch.equal(weights(train(Parabola(), checkpoint=tmp_path / "c", progress=False)), uninterrupted[0])
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_checkpoint_of_another_run_or_a_broken_one_is_refused(tmp_path):
    path = tmp_path / "c"
    train(Parabola(), {"data": "abc"}, path, progress=False)
    with pytest.raises(TrainingError, match=r"belongs to other settings \(learning_rate: 0\.01, not 0\.02\)"):
        train(Parabola(replace(SETTINGS, learning_rate=0.02)), {"data": "abc"}, path, progress=False)
    with pytest.raises(TrainingError, match=r"belongs to other data \(abc, not xyz\)"):
        train(Parabola(), {"data": "xyz"}, path, progress=False)
    train(Parabola(replace(SETTINGS, checkpoint_every=1)), {"data": "abc"}, path, progress=False)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TrainingError, match="cannot be read"):
        train(Parabola(), {"data": "abc"}, path, progress=False)


class Worsens(Parabola):
    """Its validation loss is lowest after the fourth epoch."""

    def validation_loss(self):
        if self.epoch == 3:
            self.then = weights(self.network)
        return torch.tensor(float(abs(self.epoch - 3)))


def test_training_stops_after_the_patience_and_the_best_weights_are_kept():
    training = Worsens(replace(SETTINGS, epochs=50, patience=6))
    network = train(training, progress=False)
    assert len(training.history) == 4 + 6 and training.best["epoch"] == 3
    assert torch.equal(weights(network), training.then)


def test_without_a_patience_the_last_weights_are_kept():
    training = Worsens(replace(SETTINGS, patience=None))
    network = train(training, progress=False)
    assert len(training.history) == 9 and training.best is None
    assert not torch.equal(weights(network), training.then)


def test_the_learning_rate_follows_its_schedule():
    rates = {"cosine": [], "step": []}

    class Records(Parabola):
        def on_train_batch_end(self, *_):
            rates[self.settings.schedule].append(self.trainer.optimizers[0].param_groups[0]["lr"])

    for name in rates:
        train(Records(replace(SETTINGS, schedule=name, step_epochs=4, patience=None)), progress=False)
    cosine = 0.5e-2 * (1 + torch.cos(torch.arange(1, 46) / 45 * torch.pi))
    torch.testing.assert_close(torch.tensor(rates["cosine"]), cosine, atol=1e-9, rtol=1e-5)
    # After the last step of the fourth and eighth epoch, five steps each.
    assert rates["step"] == pytest.approx([1e-2] * 19 + [1e-3] * 20 + [1e-4] * 6)


def test_gradients_are_clipped():
    norms = []

    def norm(network):
        return float(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).norm())

    class Records(Parabola):
        def on_before_optimizer_step(self, optimiser):
            norms.append(norm(self.network))

        def batch_loss(self, rows):
            return 1e6 * super().batch_loss(rows)

        def configure_gradient_clipping(self, *arguments, **options):
            super().configure_gradient_clipping(*arguments, **options)
            norms.append(norm(self.network))

    train(Records(replace(SETTINGS, epochs=2)), progress=False)
    assert min(norms[0::2]) > 1e3 and max(norms[1::2]) < 0.51


def test_a_loss_that_is_not_finite_stops_the_run():
    class Diverges(Parabola):
        def batch_loss(self, rows):
            return super().batch_loss(rows) * (torch.nan if self.epoch == 2 else 1.0)

    with pytest.raises(TrainingError, match="not finite in epoch 2; lower learning_rate"):
        train(Diverges(), progress=False)


def test_impossible_runs_are_refused():
    with pytest.raises(TrainingError, match="batch_size = 512 exceeds the 160 rows of an epoch"):
        Parabola(replace(SETTINGS, batch_size=512))
    with pytest.raises(TrainingError, match="cannot be shared evenly by 3 devices"):
        train(Parabola(), devices=3)
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="There are 0 GPUs for devices = 1"):
            train(Parabola(), accelerator="gpu")


def test_the_progress_bar_tells_both_losses(capsys, monkeypatch):
    monkeypatch.setattr("iaemu.progress.LINES_APART", -1.0)
    train(Parabola(), progress=True, description="parabola")
    bar = capsys.readouterr().err
    assert "parabola, epoch 9/9" in bar and "45/45" in bar and "train=" in bar and "validation=" in bar


def test_streams_of_different_purposes_differ():
    seeds = {stream(seed, name, number) for seed in (0, 1) for name in ("order", "epoch") for number in range(3)}
    assert len(seeds) == 12
    assert stream(1, "order", 2) == stream(1, "order", 2)


@pytest.mark.slow
def test_two_processes_share_the_work(uninterrupted):
    training = Parabola()
    train(training, progress=False, accelerator="cpu", devices=2)
    assert len(training.history) == 9
    assert training.history[-1]["validation"] == pytest.approx(uninterrupted[1][-1]["validation"], rel=0.2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_as_a_cpu_does(uninterrupted):
    training = Parabola()
    network = train(training, progress=False, accelerator="auto")
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())
    assert training.history[-1]["validation"] == pytest.approx(uninterrupted[1][-1]["validation"], rel=0.2)

"""Training of all networks with PyTorch Lightning, on the CPU, one GPU or several; reproducible and resumable.

The module of each network subclasses :class:`NetworkTraining` and defines the rows of an epoch, the loss of a batch,
and the validation loss. All data are tensors on the device, since data sets are small. The random numbers of an epoch
depend on (seed, epoch) only, so that a run that was killed resumes to the same weights.
"""

from __future__ import annotations

import hashlib
import logging
import math
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from iaemu.files import write_whole
from iaemu.progress import tqdm
from iaemu_training.fitting.config import TrainingSettings

#: Settings that do not influence the weights, and may differ when training is resumed.
_NO_INFLUENCE = ("checkpoint_every", "members")


class TrainingError(ValueError):
    """Training cannot continue: the loss is not finite, or the checkpoint belongs to another run."""


class NetworkTraining(LightningModule):
    """A network to train, with its data and its loss.

    Subclasses implement :meth:`epoch_rows`, :meth:`batch_loss` and :meth:`validation_loss`.

    Parameters
    ----------
    network : nn.Module
        The network.
    settings : TrainingSettings
        Settings of the training.
    seed : int
        Seed of the order of batches and of dropout.
    data : dict of str to tensor
        All data, which are moved to the device at the start. They are not buffers, which several GPUs would exchange in
        each step.
    n_rows : int
        Number of rows in an epoch.

    Attributes
    ----------
    history : list of dict
        ``epoch``, ``train`` (mean loss of the batches) and, where it was computed, ``validation``.
    best : dict or None
        ``epoch``, ``validation`` and ``network`` (state) of the lowest validation loss, if there is a patience.
    """

    def __init__(self, network: nn.Module, settings: TrainingSettings, seed: int, data: dict, n_rows: int):
        super().__init__()
        self.network = network
        self.settings = settings
        self.seed = seed
        self.data = data
        self.n_batches = n_rows // settings.batch_size
        if self.n_batches == 0:
            raise TrainingError(
                f"batch_size = {settings.batch_size} exceeds the {n_rows} rows of an epoch; lower batch_size."
            )
        self.history: list[dict] = []
        self.best: dict | None = None
        self.train_loss: torch.Tensor | float = 0.0
        self._first_epoch = 0
        self._states: tuple[dict, dict] | None = None

    def epoch_rows(self, generator: torch.Generator) -> torch.Tensor:
        """Return row numbers in the order of an epoch.

        Parameters
        ----------
        generator : torch.Generator
            Generator of the epoch.

        Returns
        -------
        (n_rows,) tensor
        """
        raise NotImplementedError

    def batch_loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        rows : (batch_size,) tensor
            Row numbers.

        Returns
        -------
        scalar tensor
        """
        raise NotImplementedError

    def validation_loss(self) -> torch.Tensor:
        """Return the loss of the validation data; called in eval mode, without gradient.

        Returns
        -------
        scalar tensor
        """
        raise NotImplementedError

    def optimiser(self) -> torch.optim.Optimizer:
        """Make the optimiser that the settings name.

        Returns
        -------
        torch.optim.Optimizer
        """
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.settings.optimiser]
        return kind(self.network.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay)

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0 over all sessions of the run."""
        return self._first_epoch + (self.trainer.current_epoch if self._trainer is not None else 0)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the best weights are older than the patience."""
        done, patience = len(self.history), self.settings.patience
        return done >= self.settings.epochs or (
            self.best is not None and patience is not None and done - 1 - self.best["epoch"] >= patience
        )

    # ------------------------------------------------------------------ hooks of Lightning

    def train_dataloader(self) -> _Batches:
        return _Batches(self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        settings, optimiser = self.settings, self.optimiser()
        if settings.schedule == "cosine":
            schedule: LRScheduler = CosineAnnealingLR(optimiser, settings.epochs * self.n_batches)
        else:
            schedule = StepLR(optimiser, settings.step_epochs * self.n_batches, gamma=settings.step_factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        self.data = {name: value.to(self.device) for name, value in self.data.items()}
        if self._states is not None:
            optimiser, schedule = self._states
            self.trainer.optimizers[0].load_state_dict(optimiser)
            self.trainer.lr_scheduler_configs[0].scheduler.load_state_dict(schedule)
            self._states = None

    def on_train_epoch_start(self) -> None:
        self.train_loss = 0.0
        torch.manual_seed(stream(self.seed, "epoch", self.epoch, self.global_rank))

    def training_step(self, rows: torch.Tensor, index: int) -> torch.Tensor:
        loss = self.batch_loss(rows)
        # The sum stays on the device: reading it would make the host wait in every step.
        self.train_loss = self.train_loss + loss.detach()
        return loss

    # Several processes return their results to the first through the state of the module.

    def get_extra_state(self) -> dict:
        return {"history": self.history, "best": self.best}

    def set_extra_state(self, state: dict) -> None:
        self.history, self.best = state["history"], state["best"]

    # ------------------------------------------------------------------ checkpoints

    def to_checkpoint(self) -> dict:
        """Return the state for :meth:`restore`.

        Returns
        -------
        dict
        """
        return {
            "network": self.network.state_dict(),
            "optimiser": self.trainer.optimizers[0].state_dict(),
            "schedule": self.trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "history": self.history,
            "best": self.best,
        }

    def restore(self, state: dict) -> None:
        """Load the state of a checkpoint, before the trainer starts.

        Parameters
        ----------
        state : dict
            State from :meth:`to_checkpoint`.
        """
        self.network.load_state_dict(state["network"])
        self.history, self.best = state["history"], state["best"]
        self._states = state["optimiser"], state["schedule"]
        self._first_epoch = len(self.history)


class _Batches:
    """Row numbers of the batches of an epoch; of each batch, the share of this process."""

    def __init__(self, training: NetworkTraining):
        self.training = training

    def __len__(self) -> int:
        return self.training.n_batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        training = self.training
        generator = torch.Generator().manual_seed(stream(training.seed, "order", training.epoch))
        size, rank, world = training.settings.batch_size, training.global_rank, training.trainer.world_size
        rows = training.epoch_rows(generator)[: training.n_batches * size].to(training.device)
        for batch in rows.split(size):
            yield batch[rank::world]


class _EndOfEpoch(Callback):
    """Callback after each epoch: adds losses to the history, keeps the best weights, and ends the training."""

    def on_train_epoch_end(self, trainer, training):
        epoch, settings = training.epoch, training.settings
        train = _mean_over_processes(trainer, training.train_loss / training.n_batches)
        if not math.isfinite(train):
            raise TrainingError(
                f"The training loss is not finite in epoch {epoch}; lower learning_rate, or set gradient_clip."
            )
        entry = {"epoch": epoch, "train": train}
        if (epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs:
            training.network.eval()
            with torch.no_grad():
                entry["validation"] = _mean_over_processes(trainer, training.validation_loss())
            training.network.train()
            if settings.patience is not None and (
                training.best is None or entry["validation"] < training.best["validation"]
            ):
                network = {name: value.detach().cpu().clone() for name, value in training.network.state_dict().items()}
                training.best = {"epoch": epoch, "validation": entry["validation"], "network": network}
        training.history.append(entry)
        trainer.should_stop = training.finished


class _WriteCheckpoint(Callback):
    """Callback that writes a checkpoint every few epochs and at the end."""

    def __init__(self, path: Path, identity: dict):
        self.path, self.identity = path, identity

    def on_train_epoch_end(self, trainer, training):
        if training.finished or (training.epoch + 1) % training.settings.checkpoint_every == 0:
            if trainer.is_global_zero:
                state = {"identity": self.identity, **training.to_checkpoint()}
                write_whole(self.path, lambda file: torch.save(state, file))
            trainer.strategy.barrier()


class _Bar(Callback):
    """Callback with one progress bar for all steps, which shows the losses of the last epoch."""

    def __init__(self, description: str):
        self.description = description
        self.bar: tqdm | None = None

    def on_train_start(self, trainer, training):
        if trainer.is_global_zero:
            settings = training.settings
            self.bar = tqdm(
                total=settings.epochs * training.n_batches,
                initial=training.epoch * training.n_batches,
                unit="step",
                desc=self._describe(training),
                dynamic_ncols=True,
            )

    def _describe(self, training) -> str:
        return (
            f"{self.description}, epoch {min(training.epoch + 1, training.settings.epochs)}/{training.settings.epochs}"
        )

    def on_train_batch_end(self, trainer, training, *_):
        if self.bar is not None:
            self.bar.update()

    def on_train_epoch_start(self, trainer, training):
        if self.bar is not None:
            self.bar.set_description(self._describe(training), refresh=False)

    def on_train_epoch_end(self, trainer, training):
        if self.bar is not None:
            held = next(
                (entry["validation"] for entry in reversed(training.history) if "validation" in entry), math.nan
            )
            self.bar.set_postfix(train=f"{training.history[-1]['train']:.3g}", validation=f"{held:.3g}", refresh=False)

    def teardown(self, trainer, training, stage):
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def train(
    training: NetworkTraining,
    identity: dict | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    description: str = "fit",
    accelerator: str = "auto",
    devices: int = 1,
) -> nn.Module:
    """Train a network; torch's generators and other global state are restored afterwards.

    Parameters
    ----------
    training : NetworkTraining
        The network, its data and its loss.
    identity : dict, optional
        Values besides the settings that a checkpoint must agree with, such as a hash of the data.
    checkpoint : path-like, optional
        Checkpoint file, written every ``checkpoint_every`` epochs and at the end. If it exists, training resumes from
        it.
    progress : bool
        Show a progress bar.
    description : str
        Description of the bar.
    accelerator : "auto", "cpu" or "gpu"
        Device; auto takes a GPU if there is one.
    devices : int
        Number of GPUs, or of processes on the CPU, that share each batch. Several are spawned, so a script that calls
        this needs ``if __name__ == "__main__":``.

    Returns
    -------
    nn.Module
        The network, in eval mode on the CPU; the losses are in ``training.history``.

    Raises
    ------
    TrainingError
        The checkpoint belongs to another run, the loss is not finite, or there are fewer devices than asked for.
    """
    settings = training.settings
    if settings.batch_size % devices:
        raise TrainingError(
            f"batch_size = {settings.batch_size} cannot be shared evenly by {devices} devices; make it a multiple."
        )
    if accelerator == "auto":  # Lightning's own "auto" would take devices without double precision
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and torch.cuda.device_count() < devices:
        raise TrainingError(
            f"There are {torch.cuda.device_count()} GPUs for devices = {devices}; lower devices, or set accelerator: "
            "cpu."
        )
    influential = {key: value for key, value in asdict(settings).items() if key not in _NO_INFLUENCE}
    identity = {"settings": influential, **(identity or {})}
    callbacks: list[Callback] = [_EndOfEpoch()]
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        state = _read_checkpoint(checkpoint, identity)
        if state is not None:
            training.restore(state)
        callbacks.append(_WriteCheckpoint(checkpoint, identity))
    if progress:
        callbacks.append(_Bar(description))
    if not training.finished:
        with _untouched(), _threads(settings.threads), tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                accelerator=accelerator,
                devices=devices,
                precision=settings.precision,  # type: ignore[arg-type]  # checked by the settings
                strategy="ddp_spawn" if devices > 1 else "auto",
                plugins=[LightningEnvironment()],  # also under SLURM, this process starts the others
                max_epochs=settings.epochs - training.epoch,
                gradient_clip_val=settings.gradient_clip,
                callbacks=callbacks,
                limit_val_batches=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                default_root_dir=folder,
            )
            trainer.fit(training)
    if training.best is not None:
        training.network.load_state_dict(training.best["network"])
    return training.network.cpu().eval()


def stream(seed: int, *keys: int | str) -> int:
    """Derive a seed for one purpose from the seed of the run, independent of those for other purposes.

    Parameters
    ----------
    seed : int
        Seed of the run.
    *keys : int or str
        Names of the purpose.

    Returns
    -------
    int
    """
    numbers = [int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:4], "big") for key in keys]
    words = np.random.SeedSequence([seed, *numbers]).generate_state(2, np.uint32)
    return int(words[0]) << 31 ^ int(words[1])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, from which layers draw initial weights; restore it after the block.

    Parameters
    ----------
    seed : int
        The seed.

    Yields
    ------
    None
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of arrays, in hexadecimal.

    Parameters
    ----------
    *arrays : array
        The arrays.

    Returns
    -------
    str
    """
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def thinned(history: list[dict]) -> list[dict]:
    """Return about twenty entries of a history, the last among them.

    Parameters
    ----------
    history : list of dict
        Losses by epoch.

    Returns
    -------
    list of dict
    """
    return history[:: max(1, len(history) // 20)] + history[-1:]


def _read_checkpoint(path: Path, identity: dict) -> dict | None:
    """Read the state of a checkpoint; None if there is no file, TrainingError if its identity differs."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        found = state["identity"]
    except Exception as error:  # torch.load raises various classes
        raise TrainingError(f"The checkpoint {path} cannot be read ({error}). Remove it and run again.") from error
    for key, value in identity.items():
        if found.get(key) != value:
            raise TrainingError(
                f"The checkpoint {path} belongs to other {key} ({_difference(found.get(key), value)}). Remove it, or "
                f"use the {key} of the checkpoint."
            )
    return state


def _difference(found, wanted):
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        return ", ".join(f"{key}: {found.get(key)}, not {wanted.get(key)}" for key in keys)
    return f"{found}, not {wanted}"


def _mean_over_processes(trainer, value: torch.Tensor) -> float:
    return float(trainer.strategy.reduce(value, reduce_op="mean"))


@contextmanager
def _threads(number: int | None):
    """Set the number of torch's threads within the block; None to leave it."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _untouched():
    """Restore generators, logging, warnings and the handling of Ctrl-C, which Lightning changes."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    interrupt = signal.getsignal(signal.SIGINT)
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=cuda), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*treespec.*")  # between Lightning 2.6 and torch 2.13
        for logger in loggers:
            logger.setLevel(logging.WARNING)  # Lightning advertises products at level INFO
        try:
            yield
        except SystemExit as stop:
            # Lightning turns Ctrl-C into SystemExit, and ignores further ones.
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        finally:
            if interrupt is not None and signal.getsignal(signal.SIGINT) is not interrupt:
                signal.signal(signal.SIGINT, interrupt)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

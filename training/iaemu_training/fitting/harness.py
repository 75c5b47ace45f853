"""One harness that trains every network, on PyTorch Lightning: CPU, one GPU or several; reproducible; resumable.

A network's own module subclasses :class:`NetworkTraining`: which rows make an epoch, the loss of a batch of rows, the
validation loss. Data sets are small and networks tiny, so that all data lie on the device as tensors and a batch is one
gather by index. Everything random in an epoch comes from (seed, epoch), so that a run that was killed goes on to the
same weights without a generator's state being kept.
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
from tqdm import tqdm

from iaemu.files import write_whole
from iaemu_training.fitting.config import TrainingSettings

#: Settings that have no influence on the weights: a checkpoint can be gone on from with others.
_NO_INFLUENCE = ("checkpoint_every", "members")


class TrainingError(ValueError):
    """A training that cannot go on: its loss is not finite, or its checkpoint belongs to another run."""


class NetworkTraining(LightningModule):
    """What is trained: a network, its data, and its loss.

    Subclasses implement :meth:`epoch_rows`, :meth:`batch_loss` and :meth:`validation_loss`.

    Parameters
    ----------
    network : nn.Module
    settings : TrainingSettings
    seed : int
        Of the order of batches and of dropout.
    data : dict of str to tensor
        Moved to the device as a whole. Not buffers, which several GPUs would send each other in every step.
    n_rows : int
        Rows that an epoch shows.

    Attributes
    ----------
    history : list of dict
        ``epoch``, ``train`` (mean loss of the batches) and, where it was measured, ``validation``.
    best : dict or None
        ``epoch``, ``validation`` and ``network`` (its state) of the lowest validation loss, if there is a patience.
    """

    def __init__(self, network: nn.Module, settings: TrainingSettings, seed: int, data: dict, n_rows: int):
        super().__init__()
        self.network = network
        self.settings = settings
        self.seed = seed
        self.data = data
        self.n_batches = n_rows // settings.batch_size
        if self.n_batches == 0:
            raise TrainingError(f"batch_size = {settings.batch_size} exceeds the {n_rows} rows of an epoch; lower it.")
        self.history: list[dict] = []
        self.best: dict | None = None
        self.train_loss: torch.Tensor | float = 0.0
        self._first_epoch = 0
        self._states: tuple[dict, dict] | None = None

    def epoch_rows(self, generator: torch.Generator) -> torch.Tensor:
        """Row numbers in the order of an epoch.

        Parameters
        ----------
        generator : torch.Generator

        Returns
        -------
        (n_rows,) tensor
        """
        raise NotImplementedError

    def batch_loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Loss of a batch.

        Parameters
        ----------
        rows : (batch_size,) tensor

        Returns
        -------
        scalar tensor
        """
        raise NotImplementedError

    def validation_loss(self) -> torch.Tensor:
        """Loss of the validation data; called in eval mode, without gradient.

        Returns
        -------
        scalar tensor
        """
        raise NotImplementedError

    def optimiser(self) -> torch.optim.Optimizer:
        """The optimiser that the settings name.

        Returns
        -------
        torch.optim.Optimizer
        """
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.settings.optimiser]
        return kind(self.network.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay)

    @property
    def epoch(self) -> int:
        """The running epoch, from 0, over all sessions of the run."""
        return self._first_epoch + (self.trainer.current_epoch if self._trainer is not None else 0)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the best weights are as old as the patience."""
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
        # Added up on the device: reading a number would make the host wait for it in every step.
        self.train_loss = self.train_loss + loss.detach()
        return loss

    # Several processes give their results back to the first through the module's state.

    def get_extra_state(self) -> dict:
        return {"history": self.history, "best": self.best}

    def set_extra_state(self, state: dict) -> None:
        self.history, self.best = state["history"], state["best"]

    # ------------------------------------------------------------------ checkpoints

    def to_checkpoint(self) -> dict:
        """All that :meth:`restore` needs.

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
        """Go back to a checkpoint, before the trainer starts.

        Parameters
        ----------
        state : dict
            See :meth:`to_checkpoint`.
        """
        self.network.load_state_dict(state["network"])
        self.history, self.best = state["history"], state["best"]
        self._states = state["optimiser"], state["schedule"]
        self._first_epoch = len(self.history)


class _Batches:
    """Row numbers by batch, an epoch at each iteration; of each batch the share of this process."""

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
    """After each epoch: losses to the history, the best weights, the end of training."""

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
    """Every few epochs and at the end."""

    def __init__(self, path: Path, identity: dict):
        self.path, self.identity = path, identity

    def on_train_epoch_end(self, trainer, training):
        if training.finished or (training.epoch + 1) % training.settings.checkpoint_every == 0:
            if trainer.is_global_zero:
                state = {"identity": self.identity, **training.to_checkpoint()}
                write_whole(self.path, lambda file: torch.save(state, file))
            trainer.strategy.barrier()


class _Bar(Callback):
    """One progress bar of all steps, with the losses of the last epoch."""

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
    """Train a network; torch's generators, and whatever else is global, are left as they were.

    Parameters
    ----------
    training : NetworkTraining
    identity : dict, optional
        What else than the settings a checkpoint must agree in, such as a digest of the data.
    checkpoint : path-like, optional
        Written every ``checkpoint_every`` epochs and at the end; training goes on from it if it exists.
    progress : bool
        Show a progress bar.
    description : str
        Of the bar.
    accelerator : "auto", "cpu" or "gpu"
        ``auto``: a GPU if there is one.
    devices : int
        Number of GPUs, or of processes on the CPU; with several, a batch is shared among them. They are spawned, so
        that a script that calls this needs the usual ``if __name__ == "__main__":``.

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
        raise TrainingError(f"batch_size = {settings.batch_size} cannot be shared evenly by {devices} devices.")
    if accelerator == "auto":  # Lightning's own "auto" would take devices that lack double precision
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and torch.cuda.device_count() < devices:
        raise TrainingError(
            f"There are {torch.cuda.device_count()} GPUs for devices = {devices}; lower it, or set accelerator: cpu."
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
                strategy="ddp_spawn" if devices > 1 else "auto",
                plugins=[LightningEnvironment()],  # under SLURM too, the processes are ours to start
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
    """A seed for one purpose, from the seed of the run: streams of different purposes are independent.

    Parameters
    ----------
    seed : int
    *keys : int or str
        Name the purpose.

    Returns
    -------
    int
    """
    numbers = [int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:4], "big") for key in keys]
    words = np.random.SeedSequence([seed, *numbers]).generate_state(2, np.uint32)
    return int(words[0]) << 31 ^ int(words[1])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, then leave it as it was: layers draw their initial weights from it.

    Parameters
    ----------
    seed : int

    Yields
    ------
    None
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays.

    Parameters
    ----------
    *arrays : array

    Returns
    -------
    str
    """
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def thinned(history: list[dict]) -> list[dict]:
    """Some twenty entries of a history, the last among them.

    Parameters
    ----------
    history : list of dict

    Returns
    -------
    list of dict
    """
    return history[:: max(1, len(history) // 20)] + history[-1:]


def _read_checkpoint(path: Path, identity: dict) -> dict | None:
    """The state in a checkpoint of this identity, None if there is none."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        found = state["identity"]
    except Exception as error:  # torch.load raises whatever its parts do
        raise TrainingError(f"The checkpoint {path} cannot be read ({error}); remove it.") from error
    for key, value in identity.items():
        if found.get(key) != value:
            raise TrainingError(
                f"The checkpoint {path} belongs to other {key} ({_difference(found.get(key), value)}); remove it, or "
                "use those."
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
    """Let torch use so many threads; None: leave it."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _untouched():
    """Leave generators, logging, warnings and the handling of Ctrl-C as they were before Lightning."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    interrupt = signal.getsignal(signal.SIGINT)
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=cuda), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*treespec.*")  # between Lightning 2.6 and torch 2.13
        for logger in loggers:
            logger.setLevel(logging.WARNING)  # it advertises at level INFO
        try:
            yield
        except SystemExit as stop:
            # Lightning turns Ctrl-C into an exit and ignores further ones.
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        finally:
            if interrupt is not None and signal.getsignal(signal.SIGINT) is not interrupt:
                signal.signal(signal.SIGINT, interrupt)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

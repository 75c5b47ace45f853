"""Training of FactorisedNet on noise-free labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from iaemu import __version__
from iaemu.binning import PAPER_EDGES, TNG_EDGES
from iaemu.emulator import Emulator
from iaemu.network import FactorisedNet
from iaemu.tabulated import TabulatedModel

from .labels import Labels, make_labels
from .support import occupation_points

#: Weight of the number density and of the satellite fraction in the loss: two outputs among two hundred.
_SCALAR_WEIGHT = 20.0


@dataclass(frozen=True)
class FitSettings:
    """How a FactorisedNet is trained.

    Attributes
    ----------
    n_train, n_validation : int
        Labelled points; both sets are quasi-random in the support, from different seeds.
    width, depth : int
        Of the network.
    epochs, batch_size : int
    learning_rate : float
        At the start; falls to zero on a half cosine.
    seed : int
    """

    n_train: int = 65536
    n_validation: int = 4096
    width: int = 256
    depth: int = 4
    epochs: int = 300
    batch_size: int = 512
    learning_rate: float = 2e-3
    seed: int = 1

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value <= 0 and name != "seed":
                raise ValueError(f"{name} must be positive, got {value}.")
        if self.batch_size > self.n_train:
            raise ValueError(f"batch_size = {self.batch_size} exceeds n_train = {self.n_train}; lower it.")


def fit(
    model: TabulatedModel,
    settings: FitSettings | None = None,
    binnings: Sequence[np.ndarray] = (PAPER_EDGES, TNG_EDGES),
    labels: Labels | None = None,
    checkpoint=None,
    progress: bool = True,
) -> Emulator:
    """Train a network to reproduce tables over their support.

    Parameters
    ----------
    model : TabulatedModel
    settings : FitSettings, optional
    binnings : sequence of edges [Mpc/h] to predict natively
    labels : Labels, optional
        Training labels, if they exist already.
    checkpoint : path-like, optional
        Written every 10 epochs; training goes on from it if it exists and has the same settings.
    progress : bool

    Returns
    -------
    Emulator
        With the held-out errors in its metadata.

    Raises
    ------
    ValueError
        The checkpoint belongs to other settings, or labels are not finite.
    """
    settings = settings or FitSettings()
    if labels is not None and not all(map(np.array_equal, labels.binnings, binnings)):
        raise ValueError("The labels were made for other binnings than those asked for.")
    if labels is None:
        labels = make_labels(
            model, occupation_points(model.support, settings.n_train, settings.seed), binnings, progress
        )
    theta = occupation_points(model.support, settings.n_validation, settings.seed + 1000)
    validation = make_labels(model, theta, binnings, progress)
    keep = np.isfinite(labels.values).all(axis=1)
    if keep.mean() < 0.99:
        raise ValueError(
            f"{(~keep).sum()} of {len(keep)} labels have empty bins; restrict the support (logMmin) of the tables."
        )
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):  # nn.Linear initialises from the global generator
        torch.manual_seed(settings.seed)
        network = FactorisedNet(model.support, [len(edges) - 1 for edges in binnings], settings.width, settings.depth)
    values = torch.as_tensor(labels.values[keep])
    network.output_mean.copy_(values.mean(dim=0))
    network.output_std.copy_(values.std(dim=0).clamp(min=1e-8))
    inputs = network.inputs(torch.as_tensor(labels.theta[keep])).float()
    targets = ((values - network.output_mean) / network.output_std).float()
    finite = np.isfinite(validation.values).all(axis=1)
    held_inputs = network.inputs(torch.as_tensor(validation.theta[finite])).float()
    held_targets = (torch.as_tensor(validation.values[finite]) - network.output_mean) / network.output_std

    weight = torch.ones(targets.shape[1])
    weight[network.scalar_rows()] = _SCALAR_WEIGHT
    weight /= weight.mean()
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    n_batches = len(inputs) // settings.batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * n_batches)
    history: list[dict] = []
    identity = {"settings": asdict(settings), "labels": _digest(labels)}
    start = _resume(checkpoint, identity, network, optimiser, schedule, generator, history)
    bar = tqdm(range(start, settings.epochs), initial=start, total=settings.epochs, desc="fit", disable=not progress)
    for epoch in bar:
        order = torch.randperm(len(inputs), generator=generator)
        network.train()
        total = 0.0
        for batch in order[: n_batches * settings.batch_size].split(settings.batch_size):
            loss = torch.mean(weight * (network.output(network.hidden(inputs[batch])) - targets[batch]) ** 2)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        network.eval()
        with torch.no_grad():
            held = float(torch.mean(weight * (network.output(network.hidden(held_inputs)) - held_targets) ** 2))
        history.append({"epoch": epoch, "train": total / n_batches, "validation": held})
        bar.set_postfix(train=f"{total / n_batches:.2e}", validation=f"{held:.2e}")
        if checkpoint is not None and (epoch + 1) % 10 == 0:
            _save_checkpoint(checkpoint, identity, network, optimiser, schedule, generator, history)

    metadata = {
        key: model.metadata.get(key)
        for key in ("catalogues", "catalogue_sha256", "cosmology", "redshift", "box_sizes", "box_volumes", "support")
    }
    metadata.update(
        description="FactorisedNet trained on noise-free labels from tables",
        units="lengths Mpc/h, masses Msun/h",
        fit=asdict(settings),
        history=history[:: max(1, len(history) // 20)] + history[-1:],
        made_by=f"iaemu-train fit {__version__}",
    )
    emulator = Emulator(network, binnings, metadata)
    emulator.metadata["held_out"] = held_out_errors(emulator, model, np.random.default_rng(settings.seed + 2000))
    return emulator


def held_out_errors(emulator: Emulator, model: TabulatedModel, rng, n: int = 2000) -> dict:
    """Errors of the emulator against the tables at random points of the support.

    The error of a statistic at a point is the rms over bins of the difference over the rms over bins of the truth.

    Returns
    -------
    dict of binning ("20 bins to 15.849 Mpc/h", ...) and statistic to {"median", "p95"}; and "n_points"
    """
    theta = model.support.sample(n, rng)
    errors: dict = {"n_points": n}
    for edges in emulator.binnings:
        truth, guess = model.predict(theta, edges), emulator.predict(theta, edges)
        entry = {}
        for name in ("xi", "omega", "eta"):
            exact = getattr(truth, name)
            rms = np.sqrt(np.mean((getattr(guess, name) - exact) ** 2, axis=1) / np.mean(exact**2, axis=1))
            entry[name] = {"median": float(np.median(rms)), "p95": float(np.percentile(rms, 95))}
        errors[f"{len(edges) - 1} bins to {edges[-1]:.3f} Mpc/h"] = entry
    return errors


def _digest(labels: Labels) -> str:
    return hashlib.sha256(labels.theta.tobytes() + labels.values.tobytes()).hexdigest()


def _save_checkpoint(path, identity, network, optimiser, schedule, generator, history) -> None:
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    state = {
        "identity": identity,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": generator.get_state(),
        "history": history,
    }
    torch.save(state, temporary)
    os.replace(temporary, path)


def _resume(path, identity, network, optimiser, schedule, generator, history) -> int:
    """Restore a checkpoint; the number of epochs done."""
    if path is None or not Path(path).exists():
        return 0
    state = torch.load(path, weights_only=True)
    for key, value in identity.items():
        if state["identity"][key] != value:
            raise ValueError(
                f"The checkpoint {path} belongs to other {key} ({state['identity'][key]}); remove it, or use those."
            )
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    generator.set_state(state["generator"])
    history.extend(state["history"])
    return len(history)

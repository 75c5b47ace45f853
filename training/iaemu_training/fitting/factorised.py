"""Training of FactorisedNet on noise-free labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from iaemu import __version__
from iaemu.binning import PAPER_EDGES, TNG_EDGES
from iaemu.models.factorised import Emulator
from iaemu.models.tables import TabulatedModel
from iaemu.networks.factorised import FactorisedNet
from iaemu.prediction import STATISTICS
from iaemu_training.dataset.file import Dataset
from iaemu_training.dataset.labels import Labels, make_labels
from iaemu_training.dataset.points import occupation_points
from iaemu_training.evaluation.metrics import relative_rms
from iaemu_training.fitting.config import FitSettings, checkpoint_paths
from iaemu_training.fitting.harness import NetworkTraining, digest, seeded, stream, thinned, train
from iaemu_training.fitting.optimisers import MuonAdam
from iaemu_training.fitting.scatter import ScatterSettings, fit_scatter

#: Weight of the number density and of the satellite fraction in the loss: two outputs among two hundred.
_SCALAR_WEIGHT = 20.0


@dataclass
class Member:
    """A trained network.

    Parameters
    ----------
    network : FactorisedNet
    history : list of dict
        Losses by epoch, see :class:`iaemu_training.fitting.harness.NetworkTraining`.
    """

    network: FactorisedNet
    history: list[dict]


def fit_factorised(
    model: TabulatedModel,
    settings: FitSettings | None = None,
    binnings: Sequence[np.ndarray] = (PAPER_EDGES, TNG_EDGES),
    labels: Labels | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int = 1,
    mocks: Dataset | None = None,
) -> Emulator:
    """Train networks to reproduce tables over their support, and fit the scatter of mocks about them.

    Parameters
    ----------
    model : TabulatedModel
    settings : FitSettings, optional
    binnings : sequence of edges [Mpc/h] to predict natively
    labels : Labels, optional
        Training labels, if they exist already.
    checkpoint : path-like, optional
        Training goes on from it if it exists and has the same settings; see :func:`checkpoint_paths`.
    progress : bool
    accelerator, devices : str, int
        See :func:`iaemu_training.fitting.harness.train`.
    mocks : Dataset, optional
        Mocks of the tables' boxes, for the aleatoric part; without, the emulator has none.

    Returns
    -------
    Emulator
        With the held-out errors in its metadata. The first member predicts; the spread of all is the epistemic part.

    Raises
    ------
    ValueError
        The checkpoint belongs to other settings, labels are not finite, or the mocks are of other boxes.
    """
    settings = settings or FitSettings()
    if mocks is not None:
        _check_boxes(model, mocks)
    members = fit_members(model, settings, binnings, labels, checkpoint, progress, accelerator, devices)
    metadata = {
        key: model.metadata.get(key)
        for key in ("catalogues", "catalogue_sha256", "cosmology", "redshift", "box_sizes", "box_volumes", "support")
    }
    metadata.update(
        description="FactorisedNet trained on noise-free labels from tables",
        units="lengths Mpc/h, masses Msun/h",
        fit=asdict(settings),
        history=thinned(members[0].history),
        made_by=f"iaemu-train fit {__version__}",
    )
    emulator = Emulator(members[0].network, binnings, metadata, [member.network for member in members[1:]])
    if len(members) > 1:
        rng = np.random.default_rng(settings.seed + 3000)
        metadata["epistemic_scale"] = epistemic_scale(emulator, model, rng)
    if mocks is not None:
        emulator.aleatoric, report = fit_scatter(emulator, mocks, ScatterSettings(seed=settings.seed), progress)
        metadata["aleatoric"] = {"dataset": mocks.identity, **report}
    emulator.metadata["held_out"] = held_out_errors(emulator, model, np.random.default_rng(settings.seed + 2000))
    return emulator


def _check_boxes(model: TabulatedModel, mocks: Dataset) -> None:
    found, wanted = mocks.identity["boxes_sha256"], model.metadata["catalogue_sha256"]
    if sorted(found) != sorted(wanted):
        raise ValueError(
            f"The mocks of {mocks.path} are of other boxes than the tables, "
            f"{', '.join(model.metadata['catalogues'])}. "
            "Make a data set of these with iaemu-train dataset, or leave out the mocks (dataset: null)."
        )


def epistemic_scale(
    emulator: Emulator, model: TabulatedModel, rng: np.random.Generator, n: int = 2000
) -> dict[str, float]:
    """What to multiply the ensemble's spread by, so that it is the error against noise-free labels.

    Members share their labels and their architecture, and so a part of their errors, which their spread lacks. The
    factor makes 68 % of the errors, over points and bins, smaller than one standard deviation.

    Parameters
    ----------
    emulator : Emulator
        Of several members.
    model : TabulatedModel
        Gives the labels.
    rng : numpy.random.Generator
    n : int
        Points of the support.

    Returns
    -------
    dict of statistic to float
    """
    theta = model.support.sample(n, rng)
    emulator.metadata.pop("epistemic_scale", None)
    truth = model.predict(theta, emulator.r_edges)
    guess = emulator.predict(theta, uncertainties=True)
    assert guess.sigma_epistemic is not None
    scale = {}
    for name in STATISTICS:
        error = np.abs(getattr(guess, name) - getattr(truth, name))
        scale[name] = float(np.nanquantile(error / guess.sigma_epistemic[name], 0.6827))
    return scale


def fit_members(
    model: TabulatedModel,
    settings: FitSettings,
    binnings: Sequence[np.ndarray] = (PAPER_EDGES, TNG_EDGES),
    labels: Labels | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int = 1,
) -> list[Member]:
    """Train the members of an ensemble, one after the other: same labels, own initial weights and order of batches.

    Parameters
    ----------
    model, settings, binnings, labels, checkpoint, progress, accelerator, devices
        As for :func:`fit_factorised`, which also says what is raised.

    Returns
    -------
    list of Member
    """
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
    identity = {"labels": digest(labels.theta, labels.values)}
    members = []
    for number, path in enumerate(checkpoint_paths(checkpoint, settings.members)):
        training = FactorisedTraining(
            model, settings, binnings, labels, validation, stream(settings.seed, "member", number)
        )
        description = "fit" if settings.members == 1 else f"fit {number + 1}/{settings.members}"
        train(training, {**identity, "member": number}, path, progress, description, accelerator, devices)
        members.append(Member(training.network, training.history))
    return members


class FactorisedTraining(NetworkTraining):
    """A FactorisedNet and labels: mean squared error of standardised outputs, of xi and the scalars with weights.

    Parameters
    ----------
    model : TabulatedModel
        Gives the support.
    settings : FitSettings
    binnings : sequence of edges [Mpc/h]
    labels, validation : Labels
    seed : int
    """

    network: FactorisedNet
    settings: FitSettings

    def __init__(self, model, settings: FitSettings, binnings, labels: Labels, validation: Labels, seed: int):
        n_bins = [len(edges) - 1 for edges in binnings]
        with seeded(stream(seed, "weights")):
            network = FactorisedNet(model.support, n_bins, settings.width, settings.depth, settings.activation)
        values = torch.as_tensor(labels.values[np.isfinite(labels.values).all(axis=1)])
        network.output_mean.copy_(values.mean(dim=0))
        network.output_std.copy_(values.std(dim=0).clamp(min=1e-8))
        weight = torch.ones(values.shape[1])
        for number in range(len(binnings)):
            weight[network.rows(number, ["log_1p_xi"])] = settings.xi_weight
        weight[network.scalar_rows()] = _SCALAR_WEIGHT
        data = {"weight": weight / weight.mean()}
        for name, part in (("train", labels), ("validation", validation)):
            finite = np.isfinite(part.values).all(axis=1)
            targets = (torch.as_tensor(part.values[finite]) - network.output_mean) / network.output_std
            data[f"{name}_inputs"] = network.inputs(torch.as_tensor(part.theta[finite])).float()
            data[f"{name}_targets"] = targets.float()
        super().__init__(network, settings, seed, data, len(data["train_inputs"]))

    def optimiser(self) -> torch.optim.Optimizer:
        settings = self.settings
        if settings.optimiser != "muon":
            return super().optimiser()
        return MuonAdam(self.network, settings.learning_rate, settings.muon_learning_rate, settings.weight_decay)

    def epoch_rows(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(len(self.data["train_inputs"]), generator=generator)

    def batch_loss(self, rows: torch.Tensor) -> torch.Tensor:
        return self._loss(self.data["train_inputs"][rows], self.data["train_targets"][rows])

    def validation_loss(self) -> torch.Tensor:
        return self._loss(self.data["validation_inputs"], self.data["validation_targets"])

    def _loss(self, inputs, targets):
        # Inputs and targets were standardised beforehand, in double precision.
        outputs = self.network.output(self.network.hidden(inputs))
        return torch.mean(self.data["weight"] * (outputs - targets) ** 2)


def held_out_errors(emulator: Emulator, model: TabulatedModel, rng: np.random.Generator, n: int = 2000) -> dict:
    """Errors of the emulator against the tables at random points of the support.

    The error of a statistic at a point is the rms over bins of the difference over the rms over bins of the truth.

    Parameters
    ----------
    emulator, model, rng, n
        As for :func:`epistemic_scale`.

    Returns
    -------
    dict of binning ("20 bins to 15.849 Mpc/h", ...) and statistic to {"median", "p95"}; and "n_points"
    """
    theta = model.support.sample(n, rng)
    errors: dict = {"n_points": n}
    for edges in emulator.binnings:
        truth, guess = model.predict(theta, edges), emulator.predict(theta, edges)
        entry = {}
        for name in STATISTICS:
            rms = relative_rms(getattr(guess, name), getattr(truth, name))
            entry[name] = {"median": float(np.median(rms)), "p95": float(np.percentile(rms, 95))}
        errors[f"{len(edges) - 1} bins to {edges[-1]:.3f} Mpc/h"] = entry
    return errors

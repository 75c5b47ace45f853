"""Training of FactorisedNet on noise-free labels."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from iaemu import __version__
from iaemu.models.factorised import ONE_SIGMA, Emulator
from iaemu.models.tables import TabulatedModel
from iaemu.networks.factorised import FactorisedNet
from iaemu.prediction import FewPairsWarning
from iaemu.statistics import STATISTICS
from iaemu_training.dataset.file import Dataset
from iaemu_training.dataset.labels import Labels, make_labels
from iaemu_training.dataset.points import boundary_points, occupation_points
from iaemu_training.evaluation.metrics import relative_rms
from iaemu_training.fitting.config import FitSettings, checkpoint_paths
from iaemu_training.fitting.harness import NetworkTraining, digest, seeded, stream, thinned, train
from iaemu_training.fitting.optimisers import MuonAdam
from iaemu_training.fitting.scatter import ScatterSettings, fit_scatter

#: Least fraction of the training points at which a bin has enough pairs for a label.
_LEAST_KNOWN = 0.5

#: Weight of the number density and of the satellite fraction in the loss, since they are two of two hundred outputs.
_SCALAR_WEIGHT = 20.0


@dataclass
class Member:
    """A trained network of an ensemble.

    Parameters
    ----------
    network : FactorisedNet
        The network.
    history : list of dict
        Losses by epoch, see :class:`iaemu_training.fitting.harness.NetworkTraining`.
    """

    network: FactorisedNet
    history: list[dict]


def fit_factorised(
    model: TabulatedModel,
    settings: FitSettings | None = None,
    labels: Labels | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int = 1,
    mocks: Dataset | None = None,
) -> Emulator:
    """Train networks to reproduce tables in their supported region, and fit the scatter of mocks.

    Parameters
    ----------
    model : TabulatedModel
        Tables that give the labels and the supported region.
    settings : FitSettings, optional
        Sizes of the networks and settings of their training.
    labels : Labels, optional
        Training labels, if they were computed before.
    checkpoint : str or path-like, optional
        Checkpoint file. If it exists and has the same settings, training resumes from it. With several members, each
        has a file, with its number added to the name.
    progress : bool
        Show progress bars.
    accelerator : "auto", "cpu" or "gpu"
        Device; auto takes a GPU if there is one.
    devices : int
        Number of GPUs, or of processes on the CPU, see :func:`iaemu_training.fitting.harness.train`.
    mocks : Dataset, optional
        Mocks of the boxes of the tables, for the aleatoric error; without them the emulator has no aleatoric error.

    Returns
    -------
    Emulator
        Its first member predicts, and the spread of all members is the epistemic error. Its metadata hold its errors
        at points that it was not trained on.

    Raises
    ------
    ValueError
        The checkpoint belongs to other settings, labels are not finite, or the mocks are of other boxes.
    """
    settings = settings or FitSettings()
    if mocks is not None:
        _check_boxes(model, mocks)
    members = fit_members(model, settings, labels, checkpoint, progress, accelerator, devices)
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
    emulator = Emulator(members[0].network, model.nodes, metadata, [member.network for member in members[1:]])
    if len(members) > 1:
        rng = np.random.default_rng(settings.seed + 3000)
        metadata["epistemic_scale"] = epistemic_scale(emulator, model, rng)  # some seconds
    if mocks is not None:
        emulator.aleatoric, report = fit_scatter(emulator, mocks, ScatterSettings(seed=settings.seed), progress)
        metadata["aleatoric"] = {"dataset": mocks.identity, **report}
    emulator.metadata["held_out"] = held_out_errors(emulator, model, np.random.default_rng(settings.seed + 2000))
    return emulator


def _check_boxes(model: TabulatedModel, mocks: Dataset) -> None:
    found, wanted = mocks.identity["boxes_sha256"], model.metadata["catalogue_sha256"]
    if sorted(found) != sorted(wanted):
        raise ValueError(
            f"The mocks of {mocks.path} are not of the boxes of the tables, "
            f"{', '.join(model.metadata['catalogues'])}. "
            "Make a data set of these with iaemu train dataset, or leave out the mocks (dataset: null)."
        )


def epistemic_scale(
    emulator: Emulator, model: TabulatedModel, rng: np.random.Generator, n: int = 2000
) -> dict[str, float]:
    """Find the factor that turns the spread of the ensemble into its error against noise-free labels.

    Members have the same labels and architecture, so a part of their errors is common and not in their spread. With the
    factor, 68 % of the errors over points and bins are below one standard deviation.

    Parameters
    ----------
    emulator : Emulator
        Emulator of several members.
    model : TabulatedModel
        Tables that give the labels.
    rng : numpy.random.Generator
        Generator of the points.
    n : int
        Number of random points of the supported region.

    Returns
    -------
    dict of str to float
        Factor by statistic.
    """
    theta = model.support.sample(n, rng)
    emulator.metadata.pop("epistemic_scale", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewPairsWarning)
        truth = model.predict(theta, emulator.r_edges)
        guess = emulator.predict(theta, uncertainties=True)
    assert guess.sigma_epistemic is not None
    scale = {}
    for name in STATISTICS:
        error = np.abs(getattr(guess, name) - getattr(truth, name))
        scale[name] = float(np.nanquantile(error / guess.sigma_epistemic[name], ONE_SIGMA))
    return scale


def fit_members(
    model: TabulatedModel,
    settings: FitSettings,
    labels: Labels | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int = 1,
) -> list[Member]:
    """Train the members of an ensemble one after the other, with other initial weights and order of batches.

    Parameters
    ----------
    model, settings, labels, checkpoint, progress, accelerator, devices
        See :func:`fit_factorised`.

    Returns
    -------
    list of Member
    """
    if labels is not None and not np.array_equal(labels.nodes, model.nodes):
        raise ValueError("The labels were made for other bins than the tables'; make them again, or leave them out.")
    if labels is None:
        labels = make_labels(model, occupation_points(model.support, settings.n_train, settings.seed), progress)
    theta = occupation_points(model.support, settings.n_validation, settings.seed + 1000)
    validation = make_labels(model, theta, progress)
    known = np.isfinite(labels.values).mean(axis=0)
    if known.min() < _LEAST_KNOWN:
        raise ValueError(
            f"{1 - known.min():.0%} of the points have hardly any pairs in a bin; make tables with a smaller range of "
            "logMmin."
        )
    identity = {"labels": digest(labels.theta, labels.values)}
    members = []
    for number, path in enumerate(checkpoint_paths(checkpoint, settings.members)):
        training = FactorisedTraining(model, settings, labels, validation, stream(settings.seed, "member", number))
        description = "fit" if settings.members == 1 else f"fit {number + 1}/{settings.members}"
        train(training, {**identity, "member": number}, path, progress, description, accelerator, devices)
        members.append(Member(training.network, training.history))
    return members


class FactorisedTraining(NetworkTraining):
    """Training of a FactorisedNet; the loss is the weighted mean squared error of standardised outputs.

    Parameters
    ----------
    model : TabulatedModel
        Tables that give the supported region.
    settings : FitSettings
        Settings of the training.
    labels, validation : Labels
        Labels for training and for validation.
    seed : int
        Seed of this member.
    """

    network: FactorisedNet
    settings: FitSettings

    def __init__(self, model, settings: FitSettings, labels: Labels, validation: Labels, seed: int):
        n_bins = len(labels.nodes) - 1
        with seeded(stream(seed, "weights")):
            network = FactorisedNet(model.support, n_bins, settings.width, settings.depth, settings.activation)
        values = torch.as_tensor(labels.values)
        network.output_mean.copy_(torch.nanmean(values, dim=0))
        network.output_std.copy_(torch.nanmean((values - network.output_mean) ** 2, dim=0).sqrt().clamp(min=1e-8))
        weight = torch.ones(values.shape[1])
        weight[network.rows(["log_1p_xi"])] = settings.xi_weight
        weight[network.scalar_rows()] = _SCALAR_WEIGHT
        data = {"weight": weight / weight.mean()}
        for name, part in (("train", labels), ("validation", validation)):
            targets = (torch.as_tensor(part.values) - network.output_mean) / network.output_std
            data[f"{name}_inputs"] = network.inputs(torch.as_tensor(part.theta)).float()
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
        # Inputs and targets were standardised before, in double precision.
        outputs = self.network.output(self.network.hidden(inputs))
        # Labels are NaN in bins with hardly any pairs.
        return torch.mean(self.data["weight"] * torch.nan_to_num(outputs - targets, nan=0.0) ** 2)


def held_out_errors(emulator: Emulator, model: TabulatedModel, rng: np.random.Generator, n: int = 2000) -> dict:
    """Compute the errors of the emulator against the tables at random points of the supported region.

    The error of a statistic at a point is the rms over bins of the difference, divided by the rms over bins of the
    tables' prediction.

    Parameters
    ----------
    emulator, model, rng, n
        See :func:`epistemic_scale`.

    Returns
    -------
    dict
        For points "inside" the region, on its "faces" and at its "corners": "n_points"; and by statistic the "median"
        and the 95th percentile "p95" over points, in the paper's bins.
    """
    faces, corners = boundary_points(model.support, max(n // 20, 1), int(rng.integers(2**31)))
    places = {"inside": model.support.sample(n, rng), "faces": faces, "corners": corners}
    errors: dict = {place: {"n_points": len(theta)} for place, theta in places.items()}
    for place, theta in places.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewPairsWarning)
            truth, guess = model.predict(theta, emulator.r_edges), emulator.predict(theta)
        for name in STATISTICS:
            rms = relative_rms(getattr(guess, name), getattr(truth, name))
            rms = rms[np.isfinite(rms)]
            errors[place][name] = {"median": float(np.median(rms)), "p95": float(np.percentile(rms, 95))}
    return errors

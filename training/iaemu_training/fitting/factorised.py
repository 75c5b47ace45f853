"""Training of FactorisedNet on noise-free labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from iaemu import __version__
from iaemu.models.base import ForwardModel
from iaemu.models.factorised import ONE_SIGMA, Emulator
from iaemu.models.laws import StrengthSupport, VaryingStrengthModel
from iaemu.models.pair_sums import PairSumModel
from iaemu.networks.factorised import FactorisedNet
from iaemu.parameters import SLOPES
from iaemu.prediction import FewPairsWarning
from iaemu.statistics import STATISTICS
from iaemu_training.dataset.file import Dataset
from iaemu_training.dataset.labels import Labels, make_labels
from iaemu_training.dataset.points import boundary_points, occupation_points
from iaemu_training.evaluation.metrics import relative_rms
from iaemu_training.fitting.config import FitSettings, checkpoint_paths, radial_checkpoint
from iaemu_training.fitting.harness import digest, seeded, stream, thinned, train
from iaemu_training.fitting.occupation import OccupationTraining
from iaemu_training.fitting.radial import fit_radial, redshift_range, several_redshifts
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
    model: PairSumModel,
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
    model : PairSumModel
        Tables that give the labels and the supported region. Of :class:`iaemu.InterpolatedTables` the emulator learns
        all redshifts.
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
    mocked = None if mocks is None else _redshift_of(model, mocks)
    members = fit_members(model, settings, labels, checkpoint, progress, accelerator, devices)
    metadata = {
        key: model.metadata.get(key)
        for key in ("catalogues", "catalogue_sha256", "cosmology", "redshift", "box_sizes", "box_volumes", "support")
    }
    if "snapshots" in model.metadata:
        metadata["snapshots"] = model.metadata["snapshots"]
    metadata.update(
        description="FactorisedNet trained on noise-free labels from tables",
        units="lengths Mpc/h, masses Msun/h",
        fit=asdict(settings),
        history=thinned(members[0].history),
        made_by=f"iaemu train fit {__version__}",
    )
    radial = None
    if model.radial is not None:
        path = None if checkpoint is None else radial_checkpoint(checkpoint)
        radial = fit_radial(model, settings, path, progress, accelerator, devices)
    others = [member.network for member in members[1:]]
    emulator = Emulator(members[0].network, model.nodes, metadata, others, radial=radial)
    if len(members) > 1:
        rng = np.random.default_rng(settings.seed + 3000)
        emulator.metadata["epistemic_scale"] = epistemic_scale(emulator, model, rng)  # some seconds
    if mocks is not None:
        # What the scatter has besides the number of pairs is taken to be the same at all redshifts.
        there = emulator if mocked is None else emulator.at_redshift(mocked)
        emulator.aleatoric, report = fit_scatter(there, mocks, ScatterSettings(seed=settings.seed), progress)
        emulator.metadata["aleatoric"] = {"dataset": mocks.identity, **report}
    rng = np.random.default_rng(settings.seed + 2000)
    emulator.metadata["held_out"] = held_out_errors(emulator, model, rng)
    if radial is not None:
        emulator.metadata["radial"] = {"held_out": held_out_errors(emulator, model, rng, 500, SLOPES[1:])}
    return emulator


def _redshift_of(model: PairSumModel, mocks: Dataset) -> float | None:
    """Return the redshift of mocks among those of tables; ValueError if they are of other boxes."""
    found = sorted(mocks.identity["boxes_sha256"])
    for snapshot in model.metadata.get("snapshots") or [model.metadata]:
        if sorted(snapshot["catalogue_sha256"]) == found:
            return snapshot.get("redshift")
    raise ValueError(
        f"The mocks of {mocks.path} are not of the boxes of the tables, "
        f"{', '.join(model.metadata['catalogues'])}. "
        "Make a data set of these with iaemu train dataset, or leave out the mocks (dataset: null)."
    )


def _by_redshift(
    emulator: Emulator, model: PairSumModel, n: int
) -> Iterator[tuple[float | None, Emulator, PairSumModel, int]]:
    """Give emulator and tables at the redshifts of the tables and halfway between them, with a share of n points."""
    snapshots = several_redshifts(model)
    if snapshots is None:
        yield model.redshift, emulator, model, n
        return
    known = [snapshot["redshift"] for snapshot in snapshots]
    redshifts = sorted([*known, *(0.5 * sum(pair) for pair in pairwise(known))])
    for redshift in redshifts:
        yield redshift, emulator.at_redshift(redshift), model.at_redshift(redshift), max(n // len(redshifts), 1)


def epistemic_scale(
    emulator: Emulator, model: PairSumModel, rng: np.random.Generator, n: int = 2000
) -> dict[str, float]:
    """Find the factor that turns the spread of the ensemble into its error against noise-free labels.

    Members have the same labels and architecture, so a part of their errors is common and not in their spread. With the
    factor, 68 % of the errors over points and bins are below one standard deviation.

    Parameters
    ----------
    emulator : Emulator
        Emulator of several members.
    model : PairSumModel
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
    emulator.metadata.pop("epistemic_scale", None)
    pulls: dict[str, list[np.ndarray]] = {name: [] for name in STATISTICS}
    for _, tested, exact, share in _by_redshift(emulator, model, n):
        part = exact.support.sample(share, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewPairsWarning)
            truth = exact.predict(part, tested.r_edges)
            guess = tested.predict(part, uncertainties=True)
        assert guess.sigma_epistemic is not None
        for name in STATISTICS:
            error = np.abs(getattr(guess, name) - getattr(truth, name))
            pulls[name].append(error / guess.sigma_epistemic[name])
    return {name: float(np.nanquantile(np.concatenate(parts), ONE_SIGMA)) for name, parts in pulls.items()}


def fit_members(
    model: PairSumModel,
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
        points = occupation_points(model.support, settings.n_train, settings.seed, several_redshifts(model))
        labels = make_labels(model, points, progress)
    theta = occupation_points(model.support, settings.n_validation, settings.seed + 1000, several_redshifts(model))
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
        seed = stream(settings.seed, "member", number)
        network, weight = factorised_network(model, settings, seed)
        training = OccupationTraining(network, weight, settings, labels, validation, seed)
        description = "fit" if settings.members == 1 else f"fit {number + 1}/{settings.members}"
        train(training, {**identity, "member": number}, path, progress, description, accelerator, devices)
        members.append(Member(network, training.history))
    return members


def factorised_network(model: PairSumModel, settings: FitSettings, seed: int) -> tuple[FactorisedNet, torch.Tensor]:
    """Return a network with random weights, and the weights of its outputs in the loss.

    Parameters
    ----------
    model : PairSumModel
        Tables that give the supported region.
    settings : FitSettings
        Settings of the training.
    seed : int
        Seed of this member.

    Returns
    -------
    network : FactorisedNet
    weight : tensor (n_outputs,)
    """
    with seeded(stream(seed, "weights")):
        shape = (settings.width, settings.depth, settings.activation, redshift_range(several_redshifts(model)))
        network = FactorisedNet(model.support, len(model.nodes) - 1, *shape)
    weight = torch.ones(network.output.out_features)
    weight[network.rows(["log_1p_xi"])] = settings.xi_weight
    weight[network.scalar_rows()] = _SCALAR_WEIGHT
    return network, weight


def held_out_errors(
    emulator: Emulator,
    model: PairSumModel,
    rng: np.random.Generator,
    n: int = 2000,
    slopes: tuple[str, ...] = (),
) -> dict:
    """Compute the errors of the emulator against the tables at random points of the supported region.

    The error of a statistic at a point is the rms over bins of the difference, divided by the rms over bins of the
    tables' prediction.

    Parameters
    ----------
    emulator, model, rng, n
        See :func:`epistemic_scale`.
    slopes : tuple of str
        Slopes of :class:`iaemu.VaryingStrengthModel` that are free, uniform in their range.

    Returns
    -------
    dict
        For points "inside" the region, on its "faces" and at its "corners": "n_points"; and by statistic the "median"
        and the 95th percentile "p95" over points, in the paper's bins. For an emulator of several redshifts these are
        of all redshifts together, and "z = 0.3" and so on are those inside the region at each.
    """
    found: dict[str, dict] = {"inside": {}, "faces": {}, "corners": {}}
    for redshift, tested, exact, share in _by_redshift(emulator, model, n):
        faces, corners = boundary_points(exact.support, max(share // 20, 1), int(rng.integers(2**31)))
        places = {"inside": exact.support.sample(share, rng), "faces": faces, "corners": corners}
        low, high = np.array([StrengthSupport.of(exact.support).bounds(name, None) for name in slopes]).reshape(-1, 2).T
        for place, theta in places.items():
            free = low + rng.uniform(size=(len(theta), len(slopes))) * (high - low)
            found[place][redshift] = _relative_errors(tested, exact, np.concatenate([theta, free], axis=1), slopes)
    errors = {place: _quantiles(list(parts.values())) for place, parts in found.items()}
    if len(found["inside"]) > 1:
        errors |= {f"z = {redshift:.3g}": _quantiles([part]) for redshift, part in found["inside"].items()}
    return errors


def _relative_errors(
    emulator: Emulator, model: PairSumModel, theta: np.ndarray, slopes: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Return the error at each point (n,) by statistic."""
    exact: ForwardModel = VaryingStrengthModel(model, slopes=slopes) if slopes else model
    tested: ForwardModel = VaryingStrengthModel(emulator, slopes=slopes) if slopes else emulator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewPairsWarning)
        truth, guess = exact.predict(theta, emulator.r_edges), tested.predict(theta)
    return {name: relative_rms(getattr(guess, name), getattr(truth, name)) for name in STATISTICS}


def _quantiles(parts: list[dict[str, np.ndarray]]) -> dict:
    """Return the number of points, and the median and 95th percentile by statistic."""
    errors = {name: np.concatenate([part[name] for part in parts]) for name in STATISTICS}
    found: dict = {"n_points": len(errors[STATISTICS[0]])}
    for name, values in errors.items():
        known = values[np.isfinite(values)]
        found[name] = {"median": float(np.median(known)), "p95": float(np.percentile(known, 95))}
    return found

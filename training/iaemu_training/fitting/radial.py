"""Training of RadialNet: the orientation sums of satellites by their distance from the centre of their host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from iaemu.models.pair_sums import PairSumModel
from iaemu.networks.factorised import RadialNet
from iaemu.progress import tqdm
from iaemu_training.dataset.labels import BATCH, Labels, iterate_sums
from iaemu_training.dataset.points import occupation_points
from iaemu_training.fitting.config import FitSettings
from iaemu_training.fitting.harness import digest, seeded, stream, train
from iaemu_training.fitting.occupation import OccupationTraining

#: Number of principal components that the network predicts, and of points at which they are found.
N_COMPONENTS, _N_FOR_COMPONENTS = 96, 4096

#: Bins with fewer expected ordered pairs have the mean of the others as labels.
_LEAST_PAIRS = 1.0


def fit_radial(
    model: PairSumModel,
    settings: FitSettings,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int = 1,
) -> RadialNet:
    """Train the network of satellites by radius on tables, with half of the points of the other networks.

    Parameters
    ----------
    model : PairSumModel
        Tables that know where satellites are.
    settings, checkpoint, progress, accelerator, devices
        See :func:`iaemu_training.fitting.factorised.fit_factorised`.

    Returns
    -------
    RadialNet

    Raises
    ------
    ValueError
        The tables do not know where satellites are, or the checkpoint belongs to other settings.
    """
    support, n_bins, snapshots = model.support, len(model.nodes) - 1, several_redshifts(model)
    points = occupation_points(support, max(settings.n_train // 2, 2), settings.seed + 4000, snapshots)
    n_components = min(N_COMPONENTS, len(points[:_N_FOR_COMPONENTS]))
    with seeded(stream(settings.seed, "radial weights")):
        shape = settings.width, settings.depth, settings.activation, redshift_range(snapshots)
        network = RadialNet(support, n_bins, n_components, *shape)
    scale = _find_components(network, model, points[:_N_FOR_COMPONENTS], progress)
    labels = _labels(network, scale, model, points, progress)
    validation_points = occupation_points(support, settings.n_validation, settings.seed + 5000, snapshots)
    validation = _labels(network, scale, model, validation_points, progress)
    # A component matters as much as it contributes to the variance of the sums.
    weight = torch.as_tensor(labels.values.var(axis=0), dtype=torch.float32)
    seed = stream(settings.seed, "radial")
    training = OccupationTraining(network, weight, settings, labels, validation, seed)
    identity = {"labels": digest(labels.theta, labels.values), "member": "radial"}
    train(training, identity, checkpoint, progress, "fit of satellites by radius", accelerator, devices)
    network.components.mul_(torch.as_tensor(scale, dtype=torch.float32))
    return network


def several_redshifts(model: PairSumModel) -> list[dict] | None:
    """Return the snapshots of a model, with their "redshift" and "support"; None if it is for one redshift."""
    found = model.metadata.get("snapshots") or []
    return found if len(found) > 1 else None


def redshift_range(snapshots: list[dict] | None) -> tuple[float, float] | None:
    """Return the least and the largest redshift of snapshots."""
    return None if snapshots is None else (snapshots[0]["redshift"], snapshots[-1]["redshift"])


def _values(model: PairSumModel, theta: np.ndarray, progress: bool):
    """Give the sums of batches of points, each divided by the number of pairs, (n, n_values); NaN with few pairs."""
    batches = iterate_sums(model, theta)
    for part, sums in tqdm(batches, total=-(-len(theta) // BATCH), desc="labels by radius", disable=not progress):
        with torch.no_grad():
            found = model.satellite_parts(part, sums)
        pairs = torch.where(sums.DD < _LEAST_PAIRS, torch.nan, sums.DD)[:, None]
        k, m = (torch.as_tensor(index[1:]) for index in np.triu_indices(found["E_ss"].shape[1]))
        found["E_ss"] = found["E_ss"][:, k, m]
        yield torch.cat([(found[name] / pairs).flatten(start_dim=1) for name in RadialNet.SUMS], dim=1).numpy()


def _find_components(network: RadialNet, model: PairSumModel, theta: np.ndarray, progress: bool) -> np.ndarray:
    """Set the mean and the components of the network; return the scale (n_values,) of the sums."""
    values = np.concatenate(list(_values(model, theta, progress)))
    mean = np.nanmean(values, axis=0)
    values = np.nan_to_num(values - mean)
    # In each bin, the sums of one kind have one scale: that of their total deviation.
    by_bin, start = [], 0
    for number in network.SUMS.values():
        part = values[:, start : start + number * network.n_bins].reshape(len(values), number, network.n_bins)
        start += number * network.n_bins
        rms = np.sqrt(part.var(axis=0).sum(axis=0)).clip(min=1e-12)
        by_bin.append(np.tile(rms, number))
    scale = np.concatenate(by_bin)
    _, _, vectors = np.linalg.svd(values / scale, full_matrices=False)
    network.mean.copy_(torch.as_tensor(mean))
    network.components.copy_(torch.as_tensor(vectors[: len(network.components)]))
    assert model.radial is not None
    network.profile.copy_(model.radial.profile)
    network.basis.copy_(torch.as_tensor(model.radial.basis))
    return scale


def _labels(network: RadialNet, scale: np.ndarray, model: PairSumModel, theta: np.ndarray, progress: bool) -> Labels:
    """Return the amplitudes of the components at points (n, 5), or (n, 6) with redshifts."""
    mean, components = network.mean.double().numpy(), network.components.double().numpy()
    batches = _values(model, theta, progress)
    amplitudes = [(np.nan_to_num(values - mean) / scale) @ components.T for values in batches]
    return Labels(theta, np.concatenate(amplitudes), model.nodes)

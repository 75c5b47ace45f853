"""Fit of the aleatoric scatter to mock realisations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from tqdm import tqdm

from iaemu.binning import PAPER_EDGES
from iaemu.networks.aleatoric import Aleatoric, AleatoricNet
from iaemu.prediction import STATISTICS
from iaemu_training.dataset.file import SPLITS, Dataset, DatasetError


@dataclass(frozen=True)
class ScatterSettings:
    """How the scatter is fitted.

    Attributes
    ----------
    width, depth, n_members : int
        Of :class:`iaemu.networks.aleatoric.AleatoricNet`.
    steps : int
        Of Adam, on all points at once.
    learning_rate, weight_decay : float
    min_realisations : int
        A bin of a point is used if so many of its mocks have pairs there.
    seed : int
    """

    width: int = 64
    depth: int = 2
    n_members: int = 4
    steps: int = 1500
    learning_rate: float = 3e-3
    weight_decay: float = 0.3
    min_realisations: int = 5
    seed: int = 1


@dataclass
class Scatter:
    """Sample variances of mocks, in one binning.

    Attributes
    ----------
    variance : dict of statistic to (n, n_bins)
        Over realisations (ddof = 1), of those that have pairs.
    dof : dict of statistic to (n, n_bins)
        Realisations that have pairs, less one; 0 where they are too few to be used.
    residuals : dict of statistic to (n, n_realisations, n_bins)
        Value minus mean over realisations, NaN where there are no pairs.
    """

    variance: dict[str, np.ndarray]
    dof: dict[str, np.ndarray]
    residuals: dict[str, np.ndarray]


def measure_scatter(dataset: Dataset, rows: Sequence[int], r_edges, min_realisations: int = 5) -> Scatter:
    """Scatter of the mocks in the given rows of ``dataset.mocked``."""
    values = {name: [] for name in STATISTICS}
    for row in rows:
        mocks = dataset.realisations(row, r_edges)
        for name in STATISTICS:
            value = getattr(mocks, name)
            values[name].append(np.where(np.isfinite(value) & (mocks.DD > 0), value, np.nan))
    variance, dof, residuals = {}, {}, {}
    for name in STATISTICS:
        value = np.array(values[name])
        count = np.sum(np.isfinite(value), axis=1)
        used = count >= min_realisations
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(value, axis=1) / count
            residuals[name] = value - mean[:, None]
            variance[name] = np.where(used, np.nansum(residuals[name] ** 2, axis=1) / (count - 1), np.nan)
        dof[name] = np.where(used, count - 1, 0)
    return Scatter(variance, dof, residuals)


def fit_scatter(emulator, dataset: Dataset, settings: ScatterSettings | None = None, progress: bool = True):
    """Fit the scatter to the training points of a data set.

    The likelihood is that of sample variances of normal draws: s^2 dof / sigma^2 follows a chi^2 distribution.

    Parameters
    ----------
    emulator : Emulator
        Gives xi and the number of pairs; its binnings are fitted.
    dataset : Dataset with mocks

    Returns
    -------
    aleatoric : Aleatoric
    report : dict
        Loss per degree of freedom on training and validation points, the number of points and the settings.

    Raises
    ------
    DatasetError
        No training points with at least two mocks.
    """
    settings = settings or ScatterSettings()
    split = dataset.split[dataset.mocked]
    rows = np.flatnonzero(split == SPLITS.index("train"))
    held = np.flatnonzero(split == SPLITS.index("validation"))
    if not len(rows):
        raise DatasetError(f"{dataset.path} has no training points with mocks.")
    parts, measured = {}, []
    for key, chosen in (("train", rows), ("validation", held)):
        theta = torch.as_tensor(dataset.theta[dataset.mocked[chosen]])
        targets, dofs = [], []
        for edges in emulator.binnings:
            scatter = measure_scatter(dataset, chosen, edges, settings.min_realisations)
            if key == "train":
                measured.append(scatter)
            prediction = emulator.predict(theta, edges)
            pairs = emulator.expected_pairs(prediction)
            for name in STATISTICS:
                amplitude = (1.0 + prediction.xi) ** 2 if name == "xi" else 1.0
                targets.append(torch.as_tensor(scatter.variance[name]) * pairs / amplitude)
                dofs.append(torch.as_tensor(scatter.dof[name], dtype=torch.float64))
        # Bins in which all mocks are alike (two galaxies never apart, say) tell nothing.
        target, dof = torch.cat(targets, dim=1), torch.cat(dofs, dim=1)
        dof = torch.where(torch.isfinite(target) & (target > 0), dof, 0.0)
        target = torch.where(dof > 0, target, 1.0)
        parts[key] = (AleatoricNet.inputs(emulator.network, theta), target, dof)

    def loss_of(log_variance, target, dof):
        terms = 0.5 * dof * (log_variance + target * torch.exp(-log_variance))
        return terms.sum() / dof.sum()

    inputs, target, dof = parts["train"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = AleatoricNet(
            [len(edges) - 1 for edges in emulator.binnings], settings.width, settings.depth, settings.n_members
        ).double()
    mean = (dof * target).sum(dim=0) / dof.sum(dim=0).clamp(min=1)
    network.output_mean.copy_(torch.log(mean.clamp(min=1e-12)))
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    for _ in tqdm(range(settings.steps), desc="scatter", disable=not progress):
        optimiser.zero_grad(set_to_none=True)
        # Each member is fitted by itself; their mean is what is used.
        loss = sum(loss_of(member(inputs) + network.output_mean, target, dof) for member in network.members)
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    report = {"settings": asdict(settings), "n_points": len(rows)}
    with torch.no_grad():
        for key, (x, y, w) in parts.items():
            if len(x):
                report[f"loss_{key}"] = float(loss_of(network(x), y, w))
                report[f"loss_{key}_constant"] = float(loss_of(network.output_mean.expand_as(y), y, w))
    correlations = [_correlations(scatter) for scatter in measured]
    volume = float(np.sum(dataset.attributes["box_volumes"]))
    return Aleatoric(network, correlations, volume), report


def _correlations(scatter: Scatter) -> dict[str, np.ndarray]:
    """Correlation matrices of the scatter, averaged over points; symmetric, positive definite, unit diagonal."""
    matrices = {}
    for name in STATISTICS:
        with np.errstate(invalid="ignore", divide="ignore"):
            z = scatter.residuals[name] / np.sqrt(scatter.variance[name])[:, None]
        z = z.reshape(-1, z.shape[-1])
        ok = np.isfinite(z)
        z = np.where(ok, z, 0.0)
        matrix = (z.T @ z) / np.maximum(ok.T.astype(float) @ ok, 1.0)
        scale = 1.0 / np.sqrt(np.diag(matrix).clip(min=1e-12))
        matrix = matrix * scale[:, None] * scale
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        matrix = (vectors * values.clip(min=1e-3)) @ vectors.T
        scale = 1.0 / np.sqrt(np.diag(matrix))
        matrices[name] = matrix * scale[:, None] * scale
    return matrices


def training_arrays(dataset: Dataset, scatter, n_realisations: int, seed: int):
    """Realisations to train on: a data set's mocks, or its labels with draws of an emulator's scatter.

    Parameters
    ----------
    dataset : Dataset
        If all its points have mocks, these are taken. The points that the paper's cleaning removes are left out.
    scatter : callable
        Gives an emulator with an aleatoric part; called only if there are points without mocks.
    n_realisations : int
        Draws a point.
    seed : int

    Returns
    -------
    arrays : tuple
        theta (n, 7) and realisations (n, k, 3, 20) for training, then for validation.
    origin : dict
        What the artifact says of them.

    Raises
    ------
    DatasetError
        The emulator has no aleatoric part.
    """
    parts = {name: np.flatnonzero((dataset.split == SPLITS.index(name)) & dataset.cleaned) for name in SPLITS[:2]}
    origin = {
        "dataset": dataset.identity,
        **{
            key: dataset.attributes.get(key)
            for key in ("catalogues", "catalogue_sha256", "cosmology", "redshift", "box_sizes", "box_volumes")
        },
    }
    arrays = []
    if dataset.has_mocks and len(dataset.mocked) == len(dataset):
        for rows in parts.values():
            mocks = [dataset.realisations(row) for row in rows]
            arrays += [
                dataset.theta[rows],
                np.array([np.stack([getattr(mock, name) for name in STATISTICS], axis=1) for mock in mocks]),
            ]
        return tuple(arrays), {**origin, "trained_on": "halotools-IA mock realisations"}
    emulator = scatter()
    if emulator.aleatoric is None:
        raise DatasetError(f"{dataset.path} has no mocks at all points, and the emulator for draws has no scatter.")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(7,)))
    for rows in parts.values():
        theta = dataset.theta[rows]
        sigma = emulator.predict(theta, uncertainties=True).sigma_aleatoric
        y = np.empty((len(rows), n_realisations, len(STATISTICS), len(PAPER_EDGES) - 1))
        for column, name in enumerate(STATISTICS):
            factor = np.linalg.cholesky(np.asarray(emulator.aleatoric.correlations[0][name]))
            noise = rng.standard_normal((len(rows), n_realisations, len(factor))) @ factor.T
            y[:, :, column] = dataset.read(f"labels/{name}")[rows][:, None] + noise * sigma[name][:, None]
        arrays += [theta, y]
    return tuple(arrays), {
        **origin,
        "trained_on": "noise-free labels with draws of a bin covariance that was fitted to halotools-IA mocks",
    }

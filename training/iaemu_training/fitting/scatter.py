"""Fit of the aleatoric error to the scatter of mocks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import torch

from iaemu.binning import EDGE_TOLERANCE, PAPER_EDGES, Rebinning
from iaemu.models.factorised import Emulator
from iaemu.models.network import NetworkModel
from iaemu.networks.aleatoric import Aleatoric, AleatoricNet
from iaemu.prediction import FewPairsWarning
from iaemu.progress import BAR_AFTER, tqdm
from iaemu.ranges import Range, Seed, check_fields
from iaemu.statistics import STATISTICS
from iaemu_training.dataset.file import SPLITS, Dataset, DatasetError, at_redshift_of

#: Number of bins whose trend continues the scatter beyond the mocks: a factor of three in r.
_N_TREND = 12

#: Width of the bins beyond the mocks [dex].
_NEW_WIDTH = 0.1


@dataclass(frozen=True)
class ScatterSettings:
    """Settings of the fit of the scatter.

    Parameters
    ----------
    width : int
        Number of units in each hidden layer of :class:`iaemu.networks.aleatoric.AleatoricNet`.
    depth : int
        Number of its hidden layers.
    n_members : int
        Number of networks whose mean is used.
    steps : int
        Number of steps of Adam, each on all points.
    learning_rate : float
        Learning rate at the start.
    weight_decay : float
        Weight decay of the optimiser.
    min_realisations : int
        Least number of mocks with pairs in a bin, for the bin of a point to be used.
    seed : int
        Seed of the initial weights.
    """

    width: Annotated[int, Range(at_least=1, at_most=4096)] = 64
    depth: Annotated[int, Range(at_least=1, at_most=64)] = 2
    n_members: Annotated[int, Range(at_least=1, at_most=64)] = 4
    steps: Annotated[int, Range(at_least=1, at_most=10**7)] = 1500
    learning_rate: Annotated[float, Range(above=0, at_most=10)] = 3e-3
    weight_decay: Annotated[float, Range(at_least=0, at_most=1000)] = 0.3
    min_realisations: Annotated[int, Range(at_least=2)] = 5
    seed: Seed = 1

    def __post_init__(self):
        check_fields(self)


@dataclass
class Scatter:
    """Sample variances of mocks at n points, in one set of bins.

    Parameters
    ----------
    variance : dict of str to (n, n_bins)
        Variance over the mocks that have pairs (ddof = 1), by statistic.
    dof : dict of str to (n, n_bins)
        Number of mocks that have pairs, minus one; 0 if there are too few of them.
    residuals : dict of str to (n, n_realisations, n_bins)
        Value of each mock minus the mean, NaN where there are no pairs.
    """

    variance: dict[str, np.ndarray]
    dof: dict[str, np.ndarray]
    residuals: dict[str, np.ndarray]


def measure_scatter(
    dataset: Dataset, rows: Sequence[int] | np.ndarray, r_edges: np.ndarray, min_realisations: int = 5
) -> Scatter:
    """Measure the scatter of the mocks at some points.

    Parameters
    ----------
    dataset : Dataset
        Data set with mocks.
    rows : sequence of int
        Indices into ``dataset.mocked``.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    min_realisations : int
        Least number of mocks with pairs in a bin, for the bin of a point to be used.

    Returns
    -------
    Scatter
    """
    mocks = [dataset.realisations(int(row), r_edges) for row in rows]
    variance, dof, residuals = {}, {}, {}
    for name in STATISTICS:
        value = np.array([np.where(mock.DD > 0, getattr(mock, name), np.nan) for mock in mocks])
        value[~np.isfinite(value)] = np.nan
        count = np.sum(np.isfinite(value), axis=1)
        used = count >= min_realisations
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(value, axis=1) / count
            residuals[name] = value - mean[:, None]
            variance[name] = np.where(used, np.nansum(residuals[name] ** 2, axis=1) / (count - 1), np.nan)
        dof[name] = np.where(used, count - 1, 0)
    return Scatter(variance, dof, residuals)


def fit_scatter(
    emulator: Emulator, dataset: Dataset, settings: ScatterSettings | None = None, progress: bool = True
) -> tuple[Aleatoric, dict]:
    """Fit the aleatoric error to the scatter of mocks at the training points of a data set.

    The likelihood is that of sample variances of normal draws: s^2 dof / sigma^2 follows a chi^2 distribution.

    Parameters
    ----------
    emulator : Emulator
        Emulator that gives xi and the number of pairs.
    dataset : Dataset
        Data set with mocks.
    settings : ScatterSettings, optional
        Settings of the fit.
    progress : bool
        Show a progress bar.

    Returns
    -------
    aleatoric : Aleatoric
        The fitted aleatoric error.
    report : dict
        Loss per degree of freedom at training and validation points, number of points, and settings.

    Raises
    ------
    DatasetError
        There are no training points with mocks.
    """
    settings = settings or ScatterSettings()
    split = dataset.split[dataset.mocked]
    rows = {name: np.flatnonzero(split == SPLITS.index(name)) for name in ("train", "validation")}
    if not len(rows["train"]):
        raise DatasetError(f"{dataset.path} has no training points with mocks; make it with a larger --n-mocked.")
    r_edges = dataset.fine_edges
    scatters = {
        name: measure_scatter(dataset, chosen, r_edges, settings.min_realisations)
        for name, chosen in rows.items()
        if len(chosen)
    }
    parts = {name: _targets(emulator, dataset, rows[name], measured) for name, measured in scatters.items()}

    inputs, target, dof = parts["train"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = AleatoricNet(len(r_edges) - 1, settings.width, settings.depth, settings.n_members).double()
    mean = (dof * target).sum(dim=0) / dof.sum(dim=0).clamp(min=1)
    network.output_mean.copy_(torch.log(mean.clamp(min=1e-12)))
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    for _ in tqdm(range(settings.steps), desc="scatter", unit="step", delay=BAR_AFTER, disable=not progress):
        optimiser.zero_grad(set_to_none=True)
        # Each member is fitted by itself; their mean is used.
        losses = [_loss(member(inputs) + network.output_mean, target, dof) for member in network.members]
        torch.stack(losses).sum().backward()
        optimiser.step()
        schedule.step()
    network.eval()
    report = {"settings": asdict(settings), "n_points": len(rows["train"])}
    with torch.no_grad():
        for key, (x, y, w) in parts.items():
            report[f"loss_{key}"] = float(_loss(network(x), y, w))
            report[f"loss_{key}_constant"] = float(_loss(network.output_mean.expand_as(y), y, w))
    correlations = _correlations(scatters["train"])
    volume = float(np.sum(dataset.attributes["box_volumes"]))
    return _extended(Aleatoric(network, r_edges, correlations, volume), float(emulator.nodes[-1])), report


def _extended(aleatoric: Aleatoric, r_max: float) -> Aleatoric:
    """Return the scatter in further bins up to ``r_max``, beyond those of the mocks.

    log(variance x pairs) is extrapolated linearly in log r, as in the last bins. Correlations are those of the last bin
    at the same distance.
    """
    edges, n = aleatoric.r_edges, aleatoric.network.n_bins
    if r_max <= edges[-1] * (1.0 + EDGE_TOLERANCE):
        return aleatoric
    n_new = max(1, round(np.log10(r_max / edges[-1]) / _NEW_WIDTH))
    edges = np.concatenate([edges, np.geomspace(edges[-1], r_max, n_new + 1)[1:]])
    x = np.log(edges[1:] * edges[:-1]) / 2.0
    last = np.arange(max(n - _N_TREND, 0), n)
    design = np.stack([np.ones(len(last)), x[last]], axis=1)
    mix = np.eye(n + n_new, n)
    # The line through the last bins, shifted to go through the last value.
    trend = np.stack([np.zeros(n_new), x[n:] - x[n - 1]], axis=1) @ np.linalg.pinv(design)
    mix[n:, n - 1] = 1.0
    mix[n:, last] += trend
    network = AleatoricNet(**{**aleatoric.network.config, "n_bins": n + n_new}).double()
    state = aleatoric.network.state_dict()
    full = torch.as_tensor(np.kron(np.eye(len(STATISTICS)), mix))
    outputs = [name for name, value in state.items() if value.shape[:1] == (len(STATISTICS) * n,)]
    network.load_state_dict(state | {name: full @ state[name] for name in outputs})
    correlations = {}
    for name, matrix in aleatoric.correlations.items():
        wide = np.eye(n + n_new)
        wide[:n, :n] = matrix
        for k in range(n, n + n_new):
            distance = np.abs(np.log(edges[k] / edges[:k]))
            known = np.log(edges[n - 1] / edges[:n])[::-1]
            wide[k, :k] = wide[:k, k] = np.interp(distance, known[1:], matrix[n - 1, :-1][::-1])
        correlations[name] = _positive(wide)
    return Aleatoric(network, edges, correlations, aleatoric.volume)


def _targets(emulator: Emulator, dataset: Dataset, rows: np.ndarray, scatter: Scatter) -> tuple:
    """Return the inputs of the network (n, 7), its targets (n, n_outputs), and degrees of freedom.

    A target is the variance times the number of pairs.
    """
    theta = torch.as_tensor(dataset.theta[dataset.mocked[rows]])
    targets, dofs = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewPairsWarning)
        prediction = emulator.predict(theta, dataset.fine_edges)
    pairs, xi = emulator.expected_pairs(prediction), torch.as_tensor(prediction.xi)
    for name in STATISTICS:
        amplitude = (1.0 + xi) ** 2 if name == "xi" else 1.0
        targets.append(torch.as_tensor(scatter.variance[name]) * pairs / amplitude)
        dofs.append(torch.as_tensor(scatter.dof[name], dtype=torch.float64))
    # Bins in which all mocks are equal carry no information.
    target, dof = torch.cat(targets, dim=1), torch.cat(dofs, dim=1)
    dof = torch.where(torch.isfinite(target) & (target > 0), dof, 0.0)
    return AleatoricNet.inputs(emulator.network, theta), torch.where(dof > 0, target, 1.0), dof


def _loss(log_variance: torch.Tensor, target: torch.Tensor, dof: torch.Tensor) -> torch.Tensor:
    return torch.sum(0.5 * dof * (log_variance + target * torch.exp(-log_variance))) / dof.sum()


def _correlations(scatter: Scatter) -> dict[str, np.ndarray]:
    """Return the correlation matrices of the scatter between bins, averaged over points, made positive definite."""
    matrices = {}
    for name in STATISTICS:
        with np.errstate(invalid="ignore", divide="ignore"):
            z = scatter.residuals[name] / np.sqrt(scatter.variance[name])[:, None]
        z = z.reshape(-1, z.shape[-1])
        ok = np.isfinite(z)
        z = np.where(ok, z, 0.0)
        matrix = (z.T @ z) / np.maximum(ok.T.astype(float) @ ok, 1.0)
        scale = 1.0 / np.sqrt(np.diag(matrix).clip(min=1e-12))
        matrices[name] = _positive(matrix * scale[:, None] * scale)
    return matrices


def _positive(matrix: np.ndarray) -> np.ndarray:
    """Return the nearest correlation matrix without eigenvalues below 1e-3, up to the scale of rows and columns."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    matrix = (vectors * values.clip(min=1e-3)) @ vectors.T
    scale = 1.0 / np.sqrt(np.diag(matrix))
    return matrix * scale[:, None] * scale


def training_arrays(
    dataset: Dataset, scatter: Callable[[], NetworkModel], n_realisations: int, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], dict]:
    """Return the realisations to train on: mocks, or labels with draws of the aleatoric error of an emulator.

    Parameters
    ----------
    dataset : Dataset
        Data set. If all its points have mocks, these are used. Points that the paper's cleaning removes are left out.
    scatter : callable
        Function that loads an emulator with aleatoric errors; called only if there are points without mocks.
    n_realisations : int
        Number of draws at each point.
    seed : int
        Seed of the draws.

    Returns
    -------
    arrays : tuple
        theta (n, 7) and realisations (n, k, 3, 20) for training, then for validation.
    origin : dict
        Metadata for the artifact.

    Raises
    ------
    DatasetError
        The emulator has no aleatoric errors.
    """
    keys = ("catalogues", "catalogue_sha256", "cosmology", "redshift", "box_sizes", "box_volumes")
    origin = {"dataset": dataset.identity, **{key: dataset.attributes.get(key) for key in keys}}
    train, held = (np.flatnonzero((dataset.split == code) & dataset.cleaned) for code in range(2))
    if dataset.has_mocks and len(dataset.mocked) == len(dataset):
        origin["trained_on"] = "halotools-IA mock realisations"
        y, held_y = _mocks(dataset, train), _mocks(dataset, held)
    else:
        origin["trained_on"] = "noise-free labels with draws of a bin covariance that was fitted to halotools-IA mocks"
        emulator, rng = (
            at_redshift_of(dataset, scatter()),
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(7,))),
        )
        y, held_y = (_draws(dataset, rows, emulator, n_realisations, rng) for rows in (train, held))
    return (dataset.theta[train], y, dataset.theta[held], held_y), origin


def _mocks(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    mocks = [dataset.realisations(int(row)) for row in rows]
    return np.array([np.stack([getattr(mock, name) for name in STATISTICS], axis=1) for mock in mocks])


def _draws(dataset: Dataset, rows: np.ndarray, emulator: NetworkModel, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return labels with draws of the aleatoric error of the emulator."""
    if not isinstance(emulator, Emulator) or emulator.aleatoric is None:
        raise DatasetError(
            f"{dataset.path} does not have mocks at all points, and the emulator for draws (scatter) has no aleatoric "
            "errors. Choose another emulator, or a data set with mocks at all points."
        )
    sigma = emulator.predict(dataset.theta[rows], uncertainties=True).sigma_aleatoric
    assert sigma is not None
    y = np.empty((len(rows), n, len(STATISTICS), len(PAPER_EDGES) - 1))
    # In joined bins the correlation is that for pairs proportional to the width of a bin, nearly as they are.
    fitted = emulator.aleatoric.r_edges
    share = Rebinning.between(fitted, PAPER_EDGES).weights * np.sqrt(np.diff(fitted))
    for column, name in enumerate(STATISTICS):
        covariance = share @ emulator.aleatoric.correlations[name] @ share.T
        factor = np.linalg.cholesky(covariance) / np.sqrt(np.diag(covariance))[:, None]
        noise = rng.standard_normal((len(rows), n, len(factor))) @ factor.T
        y[:, :, column] = dataset.read(f"labels/{name}")[rows][:, None] + noise * sigma[name][:, None]
    return y

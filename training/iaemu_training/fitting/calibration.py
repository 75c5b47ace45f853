"""Calibration of the errors that IAEmuNet predicts, on validation points after its training."""

from __future__ import annotations

import numpy as np
import torch

from iaemu.models.factorised import ONE_SIGMA
from iaemu.networks.iaemunet import IAEmuNet
from iaemu.networks.standardise import Calibration, Standardiser
from iaemu.progress import BAR_AFTER, tqdm

#: Number of passes with dropout at a point.
_N_PASSES = 50
#: Least number of realisations from which a variance is estimated.
MIN_REALISATIONS = 3
#: Number of points in each pass through the network without dropout.
_CHUNK = 256
#: Weight of (slope - 1)^2 in the fit of variances: a slope is not known where the predicted variance hardly varies.
_RIDGE = 1e-2


def calibrate(
    network: IAEmuNet,
    standardiser: Standardiser,
    theta: np.ndarray,
    y: np.ndarray,
    seed: int = 0,
    progress: bool = True,
    n_points: int = 300,
) -> Calibration:
    """Find corrections of the predicted errors from realisations at points that were not used in training.

    v^b exp(a + c.x) is fitted to the variances over the realisations of each point, by the likelihood of sample
    variances of normal draws: s^2 dof / sigma^2 follows a chi^2 distribution. The factor of the epistemic error is that
    with which 68 % of the differences between prediction and mean over realisations are within one standard deviation,
    apart from the noise of this mean.

    Parameters
    ----------
    network : IAEmuNet
        In eval mode.
    standardiser : Standardiser
    theta : array (n, 7)
        Points.
    y : array (n, k, 3, n_bins)
        Realisations of xi, omega and eta at each, NaN in empty bins.
    seed : int
        Seed of the choice of points and of the dropout masks.
    progress : bool
        Show a progress bar.
    n_points : int
        Number of points at which passes with dropout are compared with the data.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        There are fewer than ``MIN_REALISATIONS`` realisations.
    """
    if y.shape[1] < MIN_REALISATIONS:
        raise ValueError(
            f"A calibration needs at least {MIN_REALISATIONS} realisations at each point; got {y.shape[1]}."
        )
    inputs = standardiser.inputs(torch.as_tensor(theta)).float()
    with torch.no_grad():
        outputs = [network(part) for part in inputs.split(_CHUNK)]
    mean, variance = (torch.cat(parts).double().numpy() for parts in zip(*outputs, strict=True))
    targets = standardiser.targets(torch.as_tensor(y)).numpy()
    count = np.isfinite(targets).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.nansum(targets, axis=1) / count
        scatter = np.nansum((targets - centre[:, None]) ** 2, axis=1) / (count - 1)
    known = (count >= MIN_REALISATIONS) & (scatter > 0)
    offset, slope, gradient = _fit_variances(np.log(variance), inputs.double(), scatter, count - 1, known)
    rows = np.random.default_rng(seed).permutation(len(theta))[:n_points]
    masks, spreads = network.draw_masks(_N_PASSES, seed), []
    with torch.no_grad():
        # One point at a time: the activations of all its passes stay in the cache.
        for part in tqdm(inputs[rows].split(1), "calibration", delay=BAR_AFTER, disable=not progress):
            spreads.append(network(part, masks)[0].std(dim=0))
    spread = torch.cat(spreads).double().numpy()
    noise = np.where(known, scatter / np.maximum(count, 1), np.nan)[rows]
    factor = _one_sigma_factor(np.abs(mean - centre)[rows], spread, noise)
    return Calibration(offset, slope, factor, gradient)


def _fit_variances(log_variance, inputs, scatter, dof, known) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offset and slope (3, n_bins), and gradient (3, n_bins, 7), of log sigma^2."""
    x, target = torch.as_tensor(log_variance), torch.as_tensor(np.where(known, scatter, 1.0))
    weight = torch.as_tensor(np.where(known, dof, 0).astype(float))
    weight = weight / weight.sum(dim=0).clamp(min=1.0)
    centre = (weight * x).sum(dim=0)
    shape, n_inputs = x.shape[1:], inputs.shape[1]
    # About the centre, the parameters are nearly independent. The slope starts, and is drawn to, 1.
    parameters = torch.zeros(2 + n_inputs, *shape, dtype=torch.float64)
    parameters[0] = torch.log((weight * target).sum(dim=0).clamp(min=1e-30))
    parameters[1] = 1.0
    parameters.requires_grad_(True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def loss():
        optimiser.zero_grad()
        trend = torch.einsum("psb,np->nsb", parameters[2:], inputs)
        model = parameters[0] + parameters[1] * (x - centre) + trend
        value = (weight * (model + target * torch.exp(-model))).sum() + _RIDGE * (parameters[1] - 1.0).square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    offset, slope = parameters.detach()[:2]
    return (offset - slope * centre).numpy(), slope.numpy(), parameters.detach()[2:].movedim(0, -1).numpy()


def _one_sigma_factor(error, spread, noise) -> np.ndarray:
    """Return the factor (3, n_bins) of the spread with which 68 % of the errors are within one sigma, by bisection."""
    low, high = np.zeros(error.shape[1:]), np.full(error.shape[1:], 100.0)
    used = np.isfinite(error) & np.isfinite(noise)
    for _ in range(50):
        factor = 0.5 * (low + high)
        with np.errstate(invalid="ignore"):
            inside = (error < np.sqrt((factor * spread) ** 2 + noise)) & used
        enough = inside.sum(axis=0) >= ONE_SIGMA * used.sum(axis=0)
        low, high = np.where(enough, low, factor), np.where(enough, factor, high)
    return high

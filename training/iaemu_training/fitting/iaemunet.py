"""Training of IAEmuNet on mocks with the paper's recipe (arXiv:2504.05235, section 3.2 and Appendix C)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from iaemu import __version__
from iaemu.models.iaemunet import IAEmuNetEmulator
from iaemu.networks.iaemunet import N_BINS, IAEmuNet
from iaemu.networks.standardise import Standardiser
from iaemu.parameters import PARAMETERS, Support
from iaemu.statistics import STATISTICS
from iaemu_training.fitting.calibration import MIN_REALISATIONS, calibrate
from iaemu_training.fitting.config import IAEmuNetSettings
from iaemu_training.fitting.harness import NetworkTraining, digest, seeded, stream, thinned, train
from iaemu_training.fitting.objective import BetaSchedule, beta_nll, criterion

#: Number of validation points in each pass through the network.
_CHUNK = 256


def fit_iaemunet(
    theta: np.ndarray,
    y: np.ndarray,
    validation_theta: np.ndarray,
    validation_y: np.ndarray,
    support: Support,
    settings: IAEmuNetSettings | None = None,
    metadata: Mapping | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int = 1,
) -> IAEmuNetEmulator:
    """Train an IAEmuNet on mocks in the paper's 20 bins, and calibrate its errors on the validation points.

    Parameters
    ----------
    theta : (n, 7)
        Parameters in the order of ``iaemu.parameters.PARAMETERS``.
    y : (n, n_realisations, 3, 20)
        xi, omega and eta of mocks at these points, NaN in bins without pairs. Only these entries, and log xi where xi
        <= 0, are left out of the loss.
    validation_theta, validation_y : (m, 7), (m, m_realisations, 3, 20)
        The same for validation: the choice of the best weights, early stopping, and the calibration of the errors,
        which needs three realisations.
    support : Support
        Supported region that the points fill.
    settings : IAEmuNetSettings, optional
        Settings of the network and its training.
    metadata : mapping, optional
        Further metadata of the artifact: catalogues, cosmology, data set.
    checkpoint : path-like, optional
        Checkpoint file. If it exists and has the same settings and data, training resumes from it.
    progress : bool
        Show a progress bar.
    accelerator, devices : str, int
        See :func:`iaemu_training.fitting.harness.train`.

    Returns
    -------
    IAEmuNetEmulator

    Raises
    ------
    ValueError
        An array has a wrong shape or infinite values, there are fewer rows than in a batch, the checkpoint belongs to
        another run, or the loss is not finite.
    """
    settings = settings or IAEmuNetSettings()
    theta, y = _check("", theta, y)
    validation_theta, validation_y = _check("validation_", validation_theta, validation_y)
    training = IAEmuNetTraining(theta, y, validation_theta, validation_y, settings)
    identity = {"data": digest(theta, y, validation_theta, validation_y)}
    train(training, identity, checkpoint, progress, "fit", accelerator, devices)
    metadata = {
        "description": "IAEmuNet trained on mocks with the beta-NLL",
        "units": "lengths Mpc/h, masses Msun/h",
        **(metadata or {}),
        "support": support.to_dict(),
        "fit": asdict(settings),
        "history": thinned([entry for entry in training.history if "validation" in entry]),
        "training_set": {
            "points": len(theta),
            "realisations": y.shape[1],
            "validation_points": len(validation_theta),
            "sha256": identity["data"],
        },
        "made_by": f"iaemu train fit {__version__}",
    }
    if training.best is not None:
        metadata["best"] = {key: training.best[key] for key in ("epoch", "validation")}
    calibration = None
    if validation_y.shape[1] >= MIN_REALISATIONS:
        calibration = calibrate(
            training.network, training.standardiser, validation_theta, validation_y, settings.seed, progress
        )
    return IAEmuNetEmulator(training.network, training.standardiser, metadata, calibration=calibration)


class IAEmuNetTraining(NetworkTraining):
    """Training of an IAEmuNet; the loss is the beta-NLL of single mocks in standardised log xi, omega and eta.

    Parameters
    ----------
    theta, y, validation_theta, validation_y, settings
        See :func:`fit_iaemunet`.
    """

    network: IAEmuNet
    settings: IAEmuNetSettings
    standardiser: Standardiser

    def __init__(self, theta, y, validation_theta, validation_y, settings: IAEmuNetSettings):
        seed = stream(settings.seed, "member", 0)
        with seeded(stream(seed, "weights")):
            network = IAEmuNet(settings.dropout, settings.variance_bias)
        standardiser = Standardiser.fit(theta, y)
        data = {}
        for name, points, values in (("train", theta, y), ("validation", validation_theta, validation_y)):
            data[f"{name}_inputs"] = standardiser.inputs(torch.as_tensor(points)).float()
            data[f"{name}_targets"] = standardiser.targets(torch.as_tensor(values)).float()
        self.n_points, self.n_realisations = y.shape[:2]
        self.together = settings.realisations == "together"
        super().__init__(network, settings, seed, data, self.n_points * (1 if self.together else self.n_realisations))
        # Not a submodule, since it has nothing to train.
        self.__dict__["standardiser"] = standardiser
        self.schedule = BetaSchedule(settings.warmup_epochs, (settings.beta_xi, settings.beta_omega, settings.beta_eta))

    def epoch_rows(self, generator: torch.Generator) -> torch.Tensor:
        # A row is a point, or a pair (point, realisation), numbered so that realisations of a point are consecutive.
        return torch.randperm(self.n_points * (1 if self.together else self.n_realisations), generator=generator)

    def batch_loss(self, rows: torch.Tensor) -> torch.Tensor:
        inputs, targets = self.data["train_inputs"], self.data["train_targets"]
        if self.together:
            targets = targets[rows]
        else:
            rows, realisation = rows // self.n_realisations, rows % self.n_realisations
            targets = targets[rows, realisation].unsqueeze(1)
        # Of mixed precision only the network's passes have 16 bits.
        mean, variance = (output.float().unsqueeze(1).expand_as(targets) for output in self.network(inputs[rows]))
        return beta_nll(mean, variance, targets, self.schedule(self.epoch))

    def validation_loss(self) -> torch.Tensor:
        inputs, targets = self.data["validation_inputs"], self.data["validation_targets"]
        outputs = [self.network(part) for part in inputs.split(_CHUNK)]
        # One prediction for each point, (m, 1, 3, 20), for all its realisations.
        mean, variance = (torch.cat(parts).unsqueeze(1).expand_as(targets) for parts in zip(*outputs, strict=True))
        return criterion(mean, variance, targets, self.settings.mse_weight)


def _check(prefix: str, theta, y) -> tuple[np.ndarray, np.ndarray]:
    theta, y = np.asarray(theta, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if theta.ndim != 2 or theta.shape[1] != len(PARAMETERS) or len(theta) == 0:
        raise ValueError(f"{prefix}theta must have shape (n, {len(PARAMETERS)}), got {theta.shape}.")
    if y.ndim != 4 or len(y) != len(theta) or y.shape[1] == 0 or y.shape[2:] != (len(STATISTICS), N_BINS):
        raise ValueError(
            f"{prefix}y must have shape ({len(theta)}, n_realisations, {len(STATISTICS)}, {N_BINS}), got {y.shape}."
        )
    if not np.isfinite(theta).all() or np.isinf(y).any():
        raise ValueError(
            f"{prefix}theta must be finite, and {prefix}y must be finite or NaN (which marks bins without pairs)."
        )
    return theta, y

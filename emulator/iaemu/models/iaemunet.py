"""IAEmuNetEmulator: the paper's network as a forward model, with its aleatoric and epistemic errors."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import nn

from iaemu.artifact import check_shapes
from iaemu.binning import PAPER_EDGES, BinningError
from iaemu.models.deviations import combine, scaled
from iaemu.models.network import NativeBins, NetworkModel, on_meta, rebinned, state_shapes, with_prefix
from iaemu.networks.iaemunet import IAEmuNet
from iaemu.networks.standardise import Calibration, Standardiser, check_xi_estimate
from iaemu.parameters import ALIGNMENT_PARAMETERS, PARAMETERS, as_theta, has_tensor
from iaemu.prediction import Prediction, in_parts
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS, check_statistics

#: Number of Monte Carlo passes whose spread is the epistemic error, as in the paper.
_N_PASSES = 50


class IAEmuNetEmulator(NetworkModel):
    """The network of the paper (IAEmu, arXiv:2504.05235), trained on noisy mocks.

    It is loaded with ``iaemu.load("iaemunet-pm160")`` and made by ``iaemu train fit --config iaemunet``. It predicts in
    the precision of the parameters; on a CPU, single precision is twice as fast as double. Its nodes are the edges of
    the paper's bins; in other bins its predictions are interpolated, which is less exact than for other models.

    ``predict`` switches dropout off. The paper's prediction is the mean of 50 passes with dropout,
    ``passes(theta)["omega"].mean(0)``; without dropout the network approximates it at a fiftieth of the cost.

    Attributes
    ----------
    xi_estimate : "median" or "mean"
        Whether xi is the median or the mean of the log-normal distribution that the network predicts. The median is the
        default, as in the paper. The average over many mocks tends to the mean, but the mean depends on the predicted
        variance. If a scatter of 0.3 in log xi is predicted 0.38 dex too high, as the paper finds, the mean is 24 % too
        high, while the median is 4 % too low.

    calibration : Calibration or None
        Corrections of the predicted errors, found after the training; None for the errors as the network learned them.
        It can be set.

    The other attributes are those of :class:`iaemu.ForwardModel`.
    """

    kind = "iaemunet-emulator"
    _at_once = 64
    # This is enough to check masks and scaling.
    _golden_options = {"n_passes": 4}

    def __init__(
        self,
        network: IAEmuNet,
        standardiser: Standardiser,
        metadata: dict,
        r_edges: ArrayLike = PAPER_EDGES,
        calibration: Calibration | None = None,
    ):
        trained = nn.ModuleDict({"network": network, "standardiser": standardiser})
        super().__init__(trained, r_edges, dict(metadata))
        self.calibration = calibration
        self.network = network
        self._masks: tuple | None = None
        self.xi_estimate = metadata.get("xi_estimate", "median")

    @property
    def xi_estimate(self) -> str:
        """Estimate of xi, "median" or "mean"; it can be set."""
        return self.metadata["xi_estimate"]

    @xi_estimate.setter
    def xi_estimate(self, name: str) -> None:
        check_xi_estimate(name)
        self.metadata["xi_estimate"] = name

    @property
    def calibration(self) -> Calibration | None:
        """Corrections of the predicted errors, or None; it can be set."""
        return self._trained["calibration"] if "calibration" in self._trained else None

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        self._copies = {}
        if calibration is not None:
            self._trained["calibration"] = calibration
        elif "calibration" in self._trained:
            del self._trained["calibration"]

    def _details(self) -> list[str]:
        errors = "calibrated errors" if self.calibration is not None else "errors as learned"
        return [f"the paper's network; {self.xi_estimate} of xi; {errors}"]

    @property
    def has_uncertainties(self) -> bool:
        return True

    # ------------------------------------------------------------------ files

    def _contents(self):
        tensors = {f"network.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        tensors |= {f"scaler.{name}": value for name, value in self._trained["standardiser"].to_arrays().items()}
        if self.calibration is not None:
            tensors |= {f"calibration.{name}": value for name, value in self.calibration.to_arrays().items()}
        return tensors, self.network.config

    @classmethod
    def _check_layout(cls, metadata, shapes, path) -> None:
        wanted = state_shapes(lambda: IAEmuNet(**metadata["network"]), "network.")
        # Single numbers, such as counters, have one axis in a file.
        wanted = {name: shape or (1,) for name, shape in wanted.items()}
        scalers = dict.fromkeys(("input_mean", "input_std"), (len(PARAMETERS),))
        scalers |= dict.fromkeys(("target_mean", "target_std"), (len(STATISTICS),))
        wanted |= {f"scaler.{name}": shape for name, shape in scalers.items()}
        if any(name.startswith("calibration.") for name in shapes):
            shape = (len(STATISTICS), IAEmuNet.n_bins)
            wanted |= {f"calibration.{name}": shape for name in ("offset", "slope", "factor")}
            wanted["calibration.gradient"] = (*shape, len(PARAMETERS))
        check_shapes(shapes, {**wanted, "nodes": (IAEmuNet.n_bins + 1,)}, path)

    @classmethod
    def _restore(cls, tensors, metadata, path) -> IAEmuNetEmulator:
        network = on_meta(lambda: IAEmuNet(**metadata["network"]))
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        state = {name: value.reshape(shapes[name]) for name, value in with_prefix(tensors, "network.").items()}
        network.load_state_dict(state, assign=True)
        found = with_prefix(tensors, "calibration.")
        calibration = Calibration(**found) if found else None
        return cls(network, Standardiser(**with_prefix(tensors, "scaler.")), metadata, tensors["nodes"], calibration)

    # ------------------------------------------------------------------ predictions

    def predict(
        self,
        theta: Any,
        r_edges: ArrayLike | None = None,
        statistics: str | Iterable[str] = STATISTICS,
        support: str = "raise",
        uncertainties: bool = False,
        volume: float | None = None,
        n_passes: int = _N_PASSES,
        seed: int = 0,
    ) -> Prediction:
        """Predict correlation functions at one or more points, without ``n_gal`` and ``f_sat``.

        Parameters
        ----------
        theta, r_edges, statistics, support
            See :meth:`iaemu.ForwardModel.predict`.
        uncertainties : bool
            Whether to predict errors too: ``sigma_aleatoric`` is the scatter of one mock as the network learned it,
            ``sigma_epistemic`` the standard deviation over Monte Carlo passes with dropout. They are known only in the
            paper's bins: the error in others depends on their correlation, which the network does not predict.
        volume : float, optional
            See :meth:`iaemu.ForwardModel.predict`.
        n_passes : int
            Number of passes, each at the cost of a prediction.
        seed : int
            Seed of the dropout masks, which are the same for all points and calls. The global generator of torch is not
            used.

        Returns
        -------
        Prediction

        Raises
        ------
        ValueError
            An argument is not allowed, see :meth:`iaemu.ForwardModel.predict`. It is an
            :class:`iaemu.binning.BinningError` also if ``uncertainties`` is True and bins are not the paper's.
        """
        if not uncertainties:
            return self._predict_batch(theta, r_edges, statistics, support, None, volume)
        self._check_passes(n_passes, seed)
        sigmas = partial(self._sigmas, n_passes=n_passes, seed=seed)
        return self._predict_batch(
            theta, r_edges, statistics, support, sigmas, volume, at_once=max(1, self._at_once // n_passes)
        )

    def passes(
        self,
        theta: Any,
        statistics: str | Iterable[str] = STATISTICS,
        support: str = "raise",
        n_passes: int = _N_PASSES,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Return the predictions of each Monte Carlo pass with dropout.

        Their mean is the paper's prediction; they also have the covariance between bins.

        Parameters
        ----------
        theta, statistics, support, n_passes, seed
            See :meth:`iaemu.ForwardModel.predict`; ``n_passes`` and ``seed`` as for ``predict``.

        Returns
        -------
        dict of statistic to array or tensor (n_passes, ..., 20)

        Raises
        ------
        ValueError
            An argument is not allowed.
        """
        names = check_statistics(statistics)
        self._check_passes(n_passes, seed)
        points = as_theta(theta)
        inside = self.support.enforce(points, support)

        def evaluate(part):
            trained = self._network(part)
            outputs = trained["network"](trained["standardiser"].inputs(part), self._draw_masks(n_passes, seed, part))
            values, _ = trained["standardiser"].physical(*outputs, self.xi_estimate)
            return {name: values[:, :, STATISTICS.index(name)].transpose(0, 1) for name in names}

        at_once = max(1, self._at_once // n_passes)
        values = in_parts(points, evaluate, inside if support == "reject" else None, at_once)
        values = {name: value.movedim(-2, 0) for name, value in values.items()}
        return values if has_tensor(theta) else {name: value.numpy() for name, value in values.items()}

    def _predict(self, theta, bins, names) -> dict[str, torch.Tensor]:
        outputs, _ = self._outputs(theta)
        columns = dict(zip(STATISTICS, outputs.unbind(dim=1), strict=True))
        if bins.weights is None:
            return {name: columns[name][:, bins.used] for name in names}
        columns = {name: value[:, bins.used] for name, value in columns.items()}
        pairs, others = rebinned(1.0 + columns["xi"], {name: columns[name] for name in names if name != "xi"}, bins)
        return {name: pairs - 1.0 if name == "xi" else others[name] for name in names}

    def _outputs(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return statistics and their aleatoric errors, (n, 3, 20), without dropout."""
        trained = self._network(theta)
        inputs = trained["standardiser"].inputs(theta)
        mean, variance = trained["network"](inputs)
        if "calibration" in trained:
            variance = trained["calibration"].variance(variance, inputs)
        return trained["standardiser"].physical(mean, variance, self.xi_estimate)

    # ------------------------------------------------------------------ uncertainties

    def _sigmas(
        self, theta, values, bins: NativeBins, names, volume, n_passes: int = _N_PASSES, seed: int = 0
    ) -> dict[str, torch.Tensor]:
        if bins.weights is not None and bool((bins.weights.amax(dim=1) < bins.weights.abs().sum(dim=1)).any()):
            raise BinningError(
                "This emulator predicts uncertainties only in its own bins: those of others depend on the correlation "
                "of bins, which it does not predict. Leave out r_edges, or take consecutive edges of the model's "
                "r_edges, or set uncertainties=False."
            )
        outputs, sigma = self._outputs(theta)
        if volume is not None:  # the network learned the scatter of mocks in all boxes together
            sigma = sigma * (float(self.box_volumes.sum()) / volume) ** 0.5
        trained = self._network(theta)
        spread = self._calibrated(self._passes(theta, n_passes, seed).std(dim=0))
        sigmas = {"aleatoric": sigma, "epistemic": trained["standardiser"].physical_epistemic(spread, outputs)}
        sigmas = {kind: value[..., bins.used] for kind, value in sigmas.items()}
        if bins.weights is not None:  # here they select bins, and join none
            sigmas = {kind: value @ bins.weights.to(value).T for kind, value in sigmas.items()}
        return {
            f"sigma_{kind}.{name}": value[:, STATISTICS.index(name)] for kind, value in sigmas.items() for name in names
        }

    @property
    def _n_epistemic(self) -> int:
        return _N_PASSES

    def _deviations(self, theta, r_edges, names) -> dict[str, torch.Tensor]:
        """Return deviations of the Monte Carlo passes, scaled as ``sigma_epistemic``, and those of the box error.

        In other bins than the paper's the deviations of the passes are propagated to first order.
        """
        bins, trained, parts = self._bins(r_edges), self._network(theta), []
        for part in theta.split(1):  # all passes of a point are evaluated together
            outputs = self._outputs(part)[0].unsqueeze(1)
            spread = self._calibrated(scaled(self._passes(part, _N_PASSES, 0).transpose(0, 1)))
            spread = trained["standardiser"].physical_epistemic(spread, outputs)
            spread, outputs = spread[..., bins.used], outputs[..., bins.used]
            parts.append(spread if bins.weights is None else _rebinned_deviations(outputs, spread, bins))
        found = torch.cat(parts)
        values = {name: found[:, :, STATISTICS.index(name)] for name in names}
        if self.box_error is not None:
            boxes = self._box_deviations(theta, r_edges, names)
            boxes = combine(theta[:, : len(ALIGNMENT_PARAMETERS)], boxes, names)
            values = {name: torch.cat([value, boxes[name]], dim=1) for name, value in values.items()}
        return values

    def _calibrated(self, spread: torch.Tensor) -> torch.Tensor:
        """Return calibrated epistemic errors, or deviations, (..., 3, 20) of standardised outputs."""
        trained = self._network(spread)
        return spread * trained["calibration"].factor if "calibration" in trained else spread

    def _passes(self, theta: torch.Tensor, n_passes: int, seed: int) -> torch.Tensor:
        """Return standardised outputs (n_passes, n, 3, 20) with dropout."""
        trained = self._network(theta)
        inputs = trained["standardiser"].inputs(theta)
        return trained["network"](inputs, self._draw_masks(n_passes, seed, theta))[0]

    def _draw_masks(self, n_passes: int, seed: int, theta: torch.Tensor) -> list[torch.Tensor]:
        key = (n_passes, seed, theta.device)
        if self._masks is None or self._masks[0] != key:
            # Masks made under inference mode could not be used in a later gradient.
            with torch.inference_mode(False):
                masks = [mask.to(theta.device) for mask in self.network.draw_masks(n_passes, seed)]
            self._masks = (key, masks)
        return self._masks[1]

    @staticmethod
    def _check_passes(n_passes: int, seed: int) -> None:
        # A standard deviation needs two passes; the masks of more than 10,000 would not fit in memory.
        Range(at_least=2, at_most=10_000).check("n_passes", n_passes, int)
        Range(at_least=0, below=2**63).check("seed", seed, int)


def _rebinned_deviations(values, deviations, bins: NativeBins) -> torch.Tensor:
    """Return deviations (..., 3, n_bins) of xi, omega and eta, see ``iaemu.models.network.rebinned``."""
    assert bins.weights is not None
    native, weights, volumes, missing = (
        part.to(values) for part in (bins.native, bins.weights.T, bins.volumes, bins.missing)
    )
    number, oriented = (1.0 + values[..., :1, :]) * native, values[..., 1:, :]
    shift = deviations[..., :1, :] * native
    total, change = number @ weights + missing, shift @ weights
    mean = ((oriented * number) @ weights) / total
    part = (deviations[..., 1:, :] * number + oriented * shift) @ weights - mean * change
    return torch.cat([change / volumes, part / total], dim=-2)

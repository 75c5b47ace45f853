"""IAEmuNetEmulator: the network of IAEmu as a forward model, with its aleatoric and epistemic uncertainties."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from iaemu.binning import PAPER_EDGES, BinningError, check_edges, rebin
from iaemu.models.base import combine, scaled
from iaemu.models.factorised import Emulator, as_prediction, coarser, with_prefix
from iaemu.networks.iaemunet import IAEmuNet
from iaemu.networks.standardise import Standardiser, check_xi_estimate
from iaemu.parameters import ALIGNMENT_PARAMETERS, as_theta, has_tensor
from iaemu.prediction import STATISTICS, Prediction, check_statistics

KIND = "iaemunet-emulator"

#: Monte Carlo passes whose spread is the epistemic part: the paper's number.
_N_PASSES = 50

#: Monte Carlo passes of the golden predictions: enough to check masks and scaling.
_GOLDEN_PASSES = 4


class IAEmuNetEmulator(Emulator):
    """An IAEmuNet as a forward model; differentiable, in the precision of the parameters given.

    Load with ``Emulator.load(path)``; made by ``iaemu-train fit --config iaemunet``. Single precision is twice as fast
    as double on a CPU.

    The prediction is that of the whole network, dropout off. The paper's is the mean of 50 passes with dropout, of
    which this is the usual approximation at a fiftieth of the cost: ``passes(theta)["omega"].mean(0)`` is the paper's.

    Attributes
    ----------
    xi_estimate : "median" or "mean"
        Of the log-normal distribution of xi that the network gives, see
        :meth:`iaemu.networks.standardise.Standardiser.physical`. The default, the paper's, is the median. The mean is
        what an average over mocks tends to, but only as good as the network's variance: with a sigma of log xi of 0.3
        that is predicted 0.38 dex too high, as the paper finds, the mean comes out 24 % too high, the median 4 % too
        low.

    The other attributes are those of :class:`iaemu.models.factorised.Emulator`.
    """

    kind = KIND
    _chunk = 64

    def __init__(self, network: IAEmuNet, standardiser: Standardiser, metadata: dict, r_edges=PAPER_EDGES):
        super().__init__(network, [r_edges], dict(metadata))
        self._trained = nn.ModuleDict({"network": network, "standardiser": standardiser}).eval().requires_grad_(False)
        self._masks: tuple | None = None
        self.xi_estimate = metadata.get("xi_estimate", "median")

    @property
    def xi_estimate(self) -> str:
        return self.metadata["xi_estimate"]

    @xi_estimate.setter
    def xi_estimate(self, name: str) -> None:
        check_xi_estimate(name)
        self.metadata["xi_estimate"] = name

    @property
    def has_uncertainties(self) -> bool:
        return True

    # ------------------------------------------------------------------ files

    def _contents(self):
        tensors = {
            f"network.{name}": value.cpu().numpy() for name, value in self._trained["network"].state_dict().items()
        }
        tensors.update({f"scaler.{name}": v for name, v in self._trained["standardiser"].to_arrays().items()})
        return tensors, self._trained["network"].config

    @classmethod
    def _restore(cls, tensors, metadata) -> IAEmuNetEmulator:
        network = IAEmuNet(**metadata["network"])
        network.load_state_dict(with_prefix(tensors, "network."))
        return cls(network, Standardiser(**with_prefix(tensors, "scaler.")), metadata, tensors["binning.0"])

    def _golden(self, theta) -> dict[str, np.ndarray]:
        return super()._golden(theta, n_passes=_GOLDEN_PASSES)

    # ------------------------------------------------------------------ predictions

    def predict(
        self,
        theta,
        r_edges=None,
        statistics=STATISTICS,
        support: str = "raise",
        uncertainties: bool = False,
        n_passes: int = _N_PASSES,
        seed: int = 0,
    ) -> Prediction:
        """Correlation functions at one or more points.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., 7)
            Computed in its floating dtype; arrays and numbers in float64.
        r_edges : array (n_bins + 1,), optional
            The paper's 20 bins by default, or edges that nest in them: 1 + xi is then averaged over volume, omega and
            eta over pairs.
        statistics : subset of ("xi", "omega", "eta")
        support : "raise", "reject" (NaN outside) or "warn"
        uncertainties : bool
            Also give ``sigma_aleatoric``, the scatter of one mock about the prediction as the network learned it, and
            ``sigma_epistemic``, the standard deviation over Monte Carlo passes. Only for bins of the network itself:
            that of a sum of bins depends on their correlation, which the network does not predict.
        n_passes : int
            Passes with dropout, at the cost of as many predictions.
        seed : int
            Of the dropout masks. They are the same for all points and calls; torch's generator is left alone.

        Returns
        -------
        Prediction
            Statistics (..., n_bins); no ``n_gal`` and ``f_sat``, which this network does not predict.

        Raises
        ------
        SupportError, ValueError
        iaemu.binning.BinningError
            Bins do not nest; or uncertainties were asked for in bins that join several of the network's.
        """
        statistics = check_statistics(statistics)
        binning, nesting = self._plan(r_edges)
        if uncertainties:
            self._check_passes(n_passes)
            if nesting is not None and bool((nesting[0].sum(dim=1) > 1).any()):
                raise BinningError(
                    "This emulator has uncertainties in its own bins only: the sigma of bins that join several of them "
                    "depends on their correlation. Leave out r_edges or take neighbouring edges of its r_edges, or set "
                    "uncertainties=False."
                )
        edges = self.binnings[binning] if r_edges is None else check_edges(r_edges)
        points = as_theta(theta)
        inside = self.support.enforce(points, support)
        masks = self._draw_masks(n_passes, seed, points.device) if uncertainties else None
        values = self._evaluate(
            points,
            lambda part: self._predict_part(part, nesting, statistics, masks),
            inside if support == "reject" else None,
            chunk=max(1, self._chunk // n_passes) if uncertainties else None,
        )
        prediction = as_prediction(edges, values)
        return prediction if has_tensor(theta) else prediction.numpy()

    def passes(
        self, theta, statistics=STATISTICS, support: str = "raise", n_passes: int = _N_PASSES, seed: int = 0
    ) -> dict:
        """Each of the Monte Carlo passes: for the paper's mean over them, or their covariance between bins.

        Returns
        -------
        dict of statistic to array or tensor (n_passes, ..., 20)
        """
        statistics = check_statistics(statistics)
        self._check_passes(n_passes)
        points = as_theta(theta)
        inside = self.support.enforce(points, support)
        masks = self._draw_masks(n_passes, seed, points.device)

        def predict(part):
            trained = self._network(part)
            mean, variance = trained["network"](trained["standardiser"].inputs(part), masks)
            values, _ = trained["standardiser"].physical(mean, variance, self.xi_estimate)
            return {name: values[:, :, STATISTICS.index(name)].transpose(0, 1) for name in statistics}

        values = self._evaluate(
            points, predict, inside if support == "reject" else None, chunk=max(1, self._chunk // n_passes)
        )
        values = {name: value.movedim(-2, 0) for name, value in values.items()}
        return values if has_tensor(theta) else {name: value.numpy() for name, value in values.items()}

    def at_occupation(self, occupation, r_edges=None, statistics=STATISTICS, support: str = "raise"):
        """Not for this network, whose inputs the alignment strengths are: NotImplementedError. Use :meth:`predict`."""
        raise NotImplementedError(
            "The alignment strengths are inputs of this network: its prediction cannot be reduced to one occupation. "
            "Use predict."
        )

    def _predict_part(self, theta, nesting, statistics, masks) -> dict[str, torch.Tensor]:
        trained = self._network(theta)
        network, standardiser = trained["network"], trained["standardiser"]
        inputs = standardiser.inputs(theta)
        outputs, sigma = standardiser.physical(*network(inputs), self.xi_estimate)
        columns = dict(zip(STATISTICS, outputs.unbind(dim=1), strict=True))
        values = {name: columns[name] for name in statistics}
        if nesting is not None:
            pairs, others = coarser(1.0 + columns["xi"], {k: v for k, v in values.items() if k != "xi"}, *nesting)
            values = {name: pairs - 1.0 if name == "xi" else others[name] for name in statistics}
        if masks is not None:
            spread = network(inputs, masks)[0].std(dim=0)
            sigmas = {"sigma_aleatoric": sigma, "sigma_epistemic": standardiser.physical_epistemic(spread, outputs)}
            for field, value in sigmas.items():
                if nesting is not None:  # it selects bins, and joins none
                    value = value @ nesting[0].to(value).T
                values.update({f"{field}.{name}": value[:, STATISTICS.index(name)] for name in statistics})
        return values

    @property
    def _n_epistemic(self) -> int:
        return _N_PASSES

    def _deviations(self, theta, r_edges, statistics) -> dict[str, torch.Tensor]:
        """Those of the Monte Carlo passes, scaled as ``sigma_epistemic``; and those of the boxes.

        In bins that join several of the network's they are carried through the averages to first order.
        """
        _, nesting = self._plan(r_edges)
        masks = self._draw_masks(_N_PASSES, 0, theta.device)
        trained = self._network(theta)
        parts = []
        for part in theta.split(1):  # points times passes go through the network at once
            inputs = trained["standardiser"].inputs(part)
            outputs, _ = trained["standardiser"].physical(*trained["network"](inputs), self.xi_estimate)
            spread = scaled(trained["network"](inputs, masks)[0].transpose(0, 1))
            spread = trained["standardiser"].physical_epistemic(spread, outputs.unsqueeze(1))
            parts.append(_coarser_deviations(outputs.unsqueeze(1), spread, *nesting) if nesting else spread)
        found = torch.cat(parts)
        values = {name: found[:, :, STATISTICS.index(name)] for name in statistics}
        if self.box_error is not None:
            boxes = self._box_deviations(theta, r_edges, statistics)
            boxes = combine(theta[:, : len(ALIGNMENT_PARAMETERS)], boxes, statistics)
            values = {name: torch.cat([value, boxes[name]], dim=1) for name, value in values.items()}
        return values

    def _draw_masks(self, n_passes, seed, device) -> list[torch.Tensor]:
        key = (n_passes, seed, device)
        if self._masks is None or self._masks[0] != key:
            # Masks made under inference mode could not take part in a later gradient.
            with torch.inference_mode(False):
                masks = [mask.to(device) for mask in self._trained["network"].draw_masks(n_passes, seed)]
            self._masks = (key, masks)
        return self._masks[1]

    @staticmethod
    def _check_passes(n_passes: int) -> None:
        if n_passes < 2:
            raise ValueError(f"n_passes must be at least 2 for a standard deviation, got {n_passes}.")


def _coarser_deviations(values, deviations, nesting, volumes):
    """Deviations (..., 3, n_bins) of xi, omega and eta in coarser bins, see :func:`iaemu.models.factorised.coarser`."""
    nesting, volumes = nesting.to(values), volumes.to(values)
    pairs = 1.0 + values[..., :1, :]
    shift = deviations[..., :1, :]
    oriented, weight = values[..., 1:, :], pairs * volumes
    mean = rebin(oriented, weight, nesting) @ nesting
    change = deviations[..., 1:, :] + (oriented - mean) * shift / pairs
    return torch.cat([rebin(shift, volumes, nesting), rebin(change, weight, nesting)], dim=-2)

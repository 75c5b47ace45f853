"""The error of a prediction as scaled deviations: vectors d_k such that the sum of d_k d_k^T is its covariance.

Two parts follow each other in k: the epistemic part of an emulator, whose members are the deviations, and the error
that the size of the simulated boxes gives, whose regions are (:mod:`iaemu.models.box_error`). k means the same in all
statistics and bins, so deviations of several binnings joined along the bins have the cross-covariance too.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from iaemu.artifact import ArtifactError
from iaemu.halomodel.alignment import orientation_statistics
from iaemu.models.box_error import BoxError
from iaemu.parameters import ALIGNMENT_PARAMETERS, PARAMETERS, as_theta, has_tensor
from iaemu.prediction import STATISTICS, check_statistics, reject

#: Largest batch whose deviations are computed at once.
_CHUNK = 512

_NOT_LOOKED_FOR = object()


class Deviations:
    """What a forward model needs for :meth:`deviations`; it gives ``support``, ``metadata`` and the hooks below."""

    _box_error = _NOT_LOOKED_FOR

    @property
    def box_error(self) -> BoxError | None:
        """The error from the size of the boxes: the shipped one if the model is of its catalogues, or None; settable.

        Setting raises ArtifactError if it belongs to other catalogues or covers less than the model's support.
        """
        if self._box_error is _NOT_LOOKED_FOR:
            shipped = _shipped_box_error()
            self._box_error = shipped if shipped.why_not(self.metadata) is None else None
        return self._box_error

    @box_error.setter
    def box_error(self, box_error: BoxError | None) -> None:
        reason = None if box_error is None else box_error.why_not(self.metadata)
        if reason is not None:
            raise ArtifactError(f"This box error does not belong to the model: {reason}.")
        self._box_error = box_error

    @property
    def n_deviations(self) -> int:
        """Number of deviations; 0: the model does not know its error."""
        return self._n_epistemic + (0 if self.box_error is None else self.box_error.n_regions)

    def deviations(self, theta, r_edges=None, statistics=STATISTICS, support: str = "raise") -> dict:
        """Scaled deviations of the prediction; the sum over k of d_k d_k^T is the covariance of its error.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., 7)
            Computed in float64, whatever its dtype.
        r_edges, statistics
            As in ``predict``.
        support : "raise", "reject" (NaN outside) or "warn"

        Returns
        -------
        dict of statistic to array or tensor (..., n_deviations, n_bins)
            Tensors, differentiable, if the parameters came as tensors.

        Raises
        ------
        ValueError
            The model has none (``n_deviations`` is 0); or an unknown statistic.
        SupportError, iaemu.binning.BinningError
        """
        self._require_deviations()
        statistics = check_statistics(statistics)
        points = as_theta(theta)
        device, points = points.device, points.double()
        inside = self.support.enforce(points, support)
        shape, flat = points.shape[:-1], points.reshape(-1, len(PARAMETERS))
        with torch.set_grad_enabled(torch.is_grad_enabled() and flat.requires_grad):
            parts = [self._deviations(part, r_edges, statistics) for part in flat.split(_CHUNK)]
            values = {name: torch.cat([part[name] for part in parts]) for name in statistics}
            if support == "reject":
                values = reject(values, inside)
            values = {name: value.reshape(shape + value.shape[1:]).to(device) for name, value in values.items()}
        return values if has_tensor(theta) else {name: value.cpu().numpy() for name, value in values.items()}

    # ------------------------------------------------------------------ hooks

    @property
    def _n_epistemic(self) -> int:
        """Deviations that are the model's own, before those of the boxes."""
        return 0

    def _epistemic_deviations(self, theta, r_edges, statistics) -> dict[str, torch.Tensor]:
        """Those of xi and the ingredients (n, n_epistemic, n_bins) by name, at ``theta`` (n, 7)."""
        return {}

    def _deviations(self, theta, r_edges, statistics) -> dict[str, torch.Tensor]:
        ingredients = self._ingredient_deviations(theta, r_edges, statistics)
        return combine(theta[:, : len(ALIGNMENT_PARAMETERS)], ingredients, statistics)

    # ------------------------------------------------------------------

    def _ingredient_deviations(self, theta, r_edges, statistics) -> dict[str, torch.Tensor]:
        """All deviations of xi and the ingredients (n, n_deviations, n_bins), which do not depend on alignment."""
        parts = []
        if self._n_epistemic:
            parts.append(self._epistemic_deviations(theta, r_edges, statistics))
        if self.box_error is not None:
            parts.append(self._box_deviations(theta, r_edges, statistics))
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    def _fixed_deviations(self, theta, r_edges, statistics):
        """A function without arguments that gives those of one point (1, 7) as (n_deviations, n_bins), or None."""

        def compute():
            if not self.n_deviations:
                return None
            # Tensors made under inference mode could not take part in a later gradient.
            with torch.inference_mode(False), torch.no_grad():
                found = self._ingredient_deviations(theta.double(), r_edges, statistics)
                return {name: value[0].clone() for name, value in found.items()}

        return compute

    def _box_deviations(self, theta, r_edges, statistics) -> dict[str, torch.Tensor]:
        occupation = theta[:, len(ALIGNMENT_PARAMETERS) :].to(device="cpu", dtype=torch.float64)
        edges = self.r_edges if r_edges is None else r_edges
        return {
            name: value.to(theta.device)
            for name, value in self.box_error.deviations(occupation, edges, statistics).items()
        }

    def _require_deviations(self) -> None:
        if not self.n_deviations:
            catalogues = ", ".join(map(str, self.metadata.get("catalogues") or ["unknown catalogues"]))
            raise ValueError(
                f"This model ({catalogues}) does not know its error: it is no ensemble, and the shipped box error "
                "belongs to other catalogues. Make one with `iaemu-train box-error`, and set "
                "model.box_error = BoxError.load(path)."
            )


@lru_cache(maxsize=1)
def _shipped_box_error() -> BoxError:
    return BoxError.load()


def combine(mu: torch.Tensor, ingredients: dict[str, torch.Tensor], statistics) -> dict[str, torch.Tensor]:
    """Deviations (n, K, n_bins) of the statistics from those of the ingredients, at strengths ``mu`` (n, 2)."""
    flat = {name: value.flatten(start_dim=1) for name, value in ingredients.items()}
    found = orientation_statistics(mu, flat, statistics)
    shape = next(iter(ingredients.values())).shape
    values = {name: value.reshape(shape) for name, value in found.items()}
    if "xi" in statistics:
        values["xi"] = ingredients["xi"]
    return values


def scaled(values: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """``scale`` (x_m - mean) / sqrt(M - 1) along dimension 1: the sum of squares is (scale times their std)^2."""
    return (values - values.mean(dim=1, keepdim=True)) * (scale / (values.shape[1] - 1.0) ** 0.5)

"""The error of a prediction as scaled deviations: vectors d_k such that the sum of d_k d_k^T is its covariance.

Two parts follow each other in k: the epistemic part of an emulator, whose members are the deviations, and the error
that the size of the simulated boxes gives, whose regions are (:mod:`iaemu.models.box_error`). k means the same in all
statistics and bins, so deviations of several binnings joined along the bins have the cross-covariance too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.artifact import ArtifactError
from iaemu.halomodel.alignment import orientation_statistics
from iaemu.models.box_error import BoxError
from iaemu.parameters import ALIGNMENT_PARAMETERS, Support, as_theta, has_tensor
from iaemu.prediction import STATISTICS, check_statistics, in_parts

#: Points at which deviations are computed together.
_AT_ONCE = 512


class Deviations:
    """The part of :class:`iaemu.models.base.ForwardModel` that is about the error of its predictions."""

    parameters: tuple[str, ...]
    support: Support
    metadata: dict[str, Any]
    _box_error: BoxError | None

    #: Whether regions of the boxes say something of its error.
    _takes_box_error: ClassVar[bool] = True

    @property
    def r_edges(self) -> np.ndarray:
        """Edges of its default bins, (n_bins + 1,) [Mpc/h]."""
        raise NotImplementedError

    @property
    def box_error(self) -> BoxError | None:
        """The error from the size of the boxes: the shipped one if the model is of its catalogues, or None; settable.

        Setting raises ArtifactError if it belongs to other catalogues or covers less than the model's support.
        """
        if "_box_error" not in vars(self):
            shipped = _shipped_box_error() if self._takes_box_error else None
            self._box_error = None if shipped is None or shipped.why_not(self.metadata) else shipped
        return self._box_error

    @box_error.setter
    def box_error(self, box_error: BoxError | None) -> None:
        reason = None if box_error is None else box_error.why_not(self.metadata)
        if box_error is not None and not self._takes_box_error:
            reason = "its predictions are of other sums over the boxes"
        if reason is not None:
            raise ArtifactError(f"This box error does not belong to the model: {reason}.")
        self._box_error = box_error

    @property
    def n_deviations(self) -> int:
        """Number of deviations; 0: the model does not know its error."""
        return self._n_epistemic + (0 if self.box_error is None else self.box_error.n_regions)

    def deviations(
        self,
        theta: Any,
        r_edges: ArrayLike | None = None,
        statistics: str | Iterable[str] = STATISTICS,
        support: str = "raise",
    ) -> dict[str, Any]:
        """Scaled deviations: vectors d_k such that the sum of d_k d_k^T is the covariance of the prediction's error.

        Two parts follow each other in k: the epistemic part of an emulator, whose members are the deviations, and the
        error that the size of the simulated boxes gives, whose regions are (:mod:`iaemu.models.box_error`). k means the
        same in all statistics and bins, so deviations of several binnings joined along the bins have the
        cross-covariance too.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)
            Computed in float64, whatever its dtype.
        r_edges, statistics
            As in :meth:`predict`.
        support : "raise", "reject" (NaN outside) or "warn"

        Returns
        -------
        dict of statistic to array or tensor (..., n_deviations, n_bins)
            Tensors, differentiable, if the parameters came as tensors.

        Raises
        ------
        ValueError
            The model has none (``n_deviations`` is 0); no statistic is asked for, or an unknown one; or as of
            :meth:`predict`.
        """
        if not self.n_deviations:
            catalogues = ", ".join(map(str, self.metadata.get("catalogues") or ["unknown catalogues"]))
            raise ValueError(
                f"This model ({catalogues}) does not know its error: it is no ensemble, and the shipped box error "
                "belongs to other catalogues. Make one with `iaemu-train box-error`, and set "
                "model.box_error = BoxError.load(path)."
            )
        names = check_statistics(statistics)
        if not names:
            raise ValueError(f"statistics is empty; give some of {', '.join(STATISTICS)}.")
        points = as_theta(theta, self.parameters)
        inside = self.support.enforce(points.double(), support)
        values = in_parts(
            points.double(),
            lambda part: self._deviations(part, r_edges, names),
            inside if support == "reject" else None,
            _AT_ONCE,
        )
        return values if has_tensor(theta) else {name: value.cpu().numpy() for name, value in values.items()}

    # ------------------------------------------------------------------ hooks

    @property
    def _n_epistemic(self) -> int:
        """Deviations that are the model's own, before those of the boxes."""
        return 0

    def _epistemic_deviations(self, theta, r_edges, names) -> dict[str, torch.Tensor]:
        """Those of xi and the ingredients (n, n_epistemic, n_bins) by name, at points (n, 7)."""
        return {}

    def _deviations(self, theta: torch.Tensor, r_edges, names) -> dict[str, torch.Tensor]:
        ingredients = self._ingredient_deviations(theta, r_edges, names)
        return combine(theta[:, : len(ALIGNMENT_PARAMETERS)], ingredients, names)

    # ------------------------------------------------------------------

    def _ingredient_deviations(self, theta: torch.Tensor, r_edges, names) -> dict[str, torch.Tensor]:
        """All deviations of xi and the ingredients (n, n_deviations, n_bins), which do not depend on alignment."""
        parts = []
        if self._n_epistemic:
            parts.append(self._epistemic_deviations(theta, r_edges, names))
        if self.box_error is not None:
            parts.append(self._box_deviations(theta, r_edges, names))
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    def _box_deviations(self, theta: torch.Tensor, r_edges, names) -> dict[str, torch.Tensor]:
        assert self.box_error is not None
        occupation = theta[:, len(ALIGNMENT_PARAMETERS) :].to(device="cpu", dtype=torch.float64)
        edges = self.r_edges if r_edges is None else r_edges
        found = self.box_error.deviations(occupation, edges, names)
        return {name: value.to(theta.device) for name, value in found.items()}


@lru_cache(maxsize=1)
def _shipped_box_error() -> BoxError:
    return BoxError.load()


def combine(
    mu: torch.Tensor, ingredients: Mapping[str, torch.Tensor], statistics: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Deviations of the statistics from those of the ingredients.

    Parameters
    ----------
    mu : tensor (n, 2)
        Alignment strengths.
    ingredients : mapping of "xi", "A_c", ... to tensors (n, K, n_bins)
    statistics : sequence of str

    Returns
    -------
    dict of statistic to tensor (n, K, n_bins)
    """
    flat = {name: value.flatten(start_dim=1) for name, value in ingredients.items()}
    found = orientation_statistics(mu, flat, statistics)
    shape = next(iter(ingredients.values())).shape
    values = {name: value.reshape(shape) for name, value in found.items()}
    if "xi" in statistics:
        values["xi"] = ingredients["xi"]
    return values


def scaled(values: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Deviations whose sum of squares is (scale times the standard deviation)^2.

    Parameters
    ----------
    values : tensor (n, M, ...)
    scale : float

    Returns
    -------
    tensor (n, M, ...)
        scale (x_m - mean) / sqrt(M - 1), along the second axis.
    """
    return (values - values.mean(dim=1, keepdim=True)) * (scale / (values.shape[1] - 1.0) ** 0.5)

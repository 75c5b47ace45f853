"""The error of a prediction as deviations: vectors d_k such that the sum of d_k d_k^T is its covariance.

The first deviations are the epistemic error of an emulator, one for each network of the ensemble. The others are the
box error, one for each jackknife region (``iaemu.models.box_error``). Deviation k belongs to the same network or region
in all statistics and bins. So if deviations of several statistics or binnings are joined along the bins, the sum also
has their cross-covariance.
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
from iaemu.observables.projected import Projection
from iaemu.parameters import ALIGNMENT_PARAMETERS, Support, as_theta, has_tensor
from iaemu.prediction import in_parts
from iaemu.statistics import STATISTICS, check_statistics

#: Number of points at which deviations are computed together.
_AT_ONCE = 512


class Deviations:
    """The part of :class:`iaemu.ForwardModel` for the errors of its predictions."""

    parameters: tuple[str, ...]
    support: Support
    metadata: dict[str, Any]
    _box_error: BoxError | None

    #: Whether a box error can apply to the model.
    _takes_box_error: ClassVar[bool] = True

    @property
    def r_edges(self) -> np.ndarray:
        """Edges of the default bins, (n_bins + 1,) [Mpc/h]."""
        raise NotImplementedError

    @property
    def box_error(self) -> BoxError | None:
        """The box error of the model, or None; it can be set.

        By default it is the shipped one if that has the halo catalogues of the model. A model of several redshifts
        takes that of its catalogues at one of them for all: the boxes have the same structure at all redshifts. Setting
        a box error of other catalogues, or one that does not cover the supported region, raises
        :class:`iaemu.artifact.ArtifactError`.
        """
        if "_box_error" not in vars(self):
            shipped = _shipped_box_error() if self._takes_box_error else None
            self._box_error = None if shipped is None or shipped.why_not(self.metadata) else shipped
        return self._box_error

    @box_error.setter
    def box_error(self, box_error: BoxError | None) -> None:
        reason = None if box_error is None else box_error.why_not(self.metadata)
        if box_error is not None and not self._takes_box_error:
            reason = "box errors are not known for a model of this kind"
        if reason is not None:
            raise ArtifactError(f"This box error does not apply to the model: {reason}.")
        self._box_error = box_error

    @property
    def n_deviations(self) -> int:
        """Number of deviations; 0 if the error of the model is not known."""
        return self._n_epistemic + (0 if self.box_error is None else self.box_error.n_regions)

    def deviations(
        self,
        theta: Any,
        r_edges: ArrayLike | Projection | None = None,
        statistics: str | Iterable[str] = STATISTICS,
        support: str = "raise",
    ) -> dict[str, Any]:
        """Return deviations: vectors d_k such that the sum of d_k d_k^T is the covariance of the prediction's error.

        The first deviations are the epistemic error of an emulator, one for each network of its ensemble. The others
        are the box error, one for each jackknife region. Deviation k belongs to the same network or region in all
        statistics and bins. So if deviations of several statistics or binnings are joined along the bins, the sum also
        has their cross-covariance.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)
            Deviations are computed in float64.
        r_edges, statistics, support
            As for ``predict``; ``statistics`` must not be empty. With a :class:`iaemu.Projection` in place of edges,
            "xi" are deviations of w_gg, and "omega" of w_g+ or the quadrupole.

        Returns
        -------
        dict of statistic to array or tensor (..., n_deviations, n_bins)
            Differentiable tensors if the parameters are tensors.

        Raises
        ------
        ValueError
            The error of the model is not known (``n_deviations`` is 0), or an argument is not allowed.
        """
        if not self.n_deviations:
            catalogues = ", ".join(map(str, self.metadata.get("catalogues") or ["unknown catalogues"]))
            raise ValueError(
                f"The error of this model ({catalogues}) is not known: it is not an ensemble of networks, and has no "
                "box error. Make one for its halo catalogues with `iaemu train box-error`, and set "
                "model.box_error = BoxError.load(path)."
            )
        names = check_statistics(statistics)
        if not names:
            raise ValueError(f"statistics is empty; give one or more of {', '.join(STATISTICS)}.")
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
        """Number of deviations of the epistemic error."""
        return 0

    def _epistemic_deviations(self, theta, r_edges, names) -> dict[str, torch.Tensor]:
        """Return epistemic deviations of xi and the ingredients (n, n_epistemic, n_bins) by name, at points (n, 7)."""
        return {}

    def _deviations(self, theta: torch.Tensor, r_edges, names) -> dict[str, torch.Tensor]:
        ingredients = self._ingredient_deviations(theta, r_edges, names)
        return combine(theta[:, : len(ALIGNMENT_PARAMETERS)], ingredients, names)

    # ------------------------------------------------------------------

    def _ingredient_deviations(self, theta: torch.Tensor, r_edges, names) -> dict[str, torch.Tensor]:
        """Return all deviations of xi and the ingredients (n, n_deviations, n_bins), which do not depend on mu."""
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
        if isinstance(edges, Projection):
            found = self.box_error.projected(occupation, edges, self.redshift or 0.0)  # type: ignore
        else:
            found = self.box_error.deviations(occupation, edges, names)
        return {name: value.to(theta.device) for name, value in found.items()}


@lru_cache(maxsize=1)
def _shipped_box_error() -> BoxError:
    return BoxError.load()


def combine(
    mu: torch.Tensor, ingredients: Mapping[str, torch.Tensor], statistics: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Return the deviations of the statistics, given those of their ingredients.

    Parameters
    ----------
    mu : tensor (n, 2)
        Alignment strengths of centrals and satellites.
    ingredients : mapping of "xi", "A_c", ... to tensors (n, n_deviations, n_bins)
    statistics : sequence of str

    Returns
    -------
    dict of statistic to tensor (n, n_deviations, n_bins)
    """
    flat = {name: value.flatten(start_dim=1) for name, value in ingredients.items()}
    found = orientation_statistics(mu, flat, statistics)
    n_deviations = next(iter(ingredients.values())).shape[1]
    values = {name: value.unflatten(1, (n_deviations, -1)) for name, value in found.items()}
    if "xi" in statistics:
        values["xi"] = ingredients["xi"]
    return values


def scaled(values: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Return deviations whose sum of squares is the variance of values times the square of a factor.

    Parameters
    ----------
    values : tensor (n, M, ...)
        M values x_m along the second axis.
    scale : float
        The factor.

    Returns
    -------
    tensor (n, M, ...)
        scale (x_m - mean) / sqrt(M - 1).
    """
    return (values - values.mean(dim=1, keepdim=True)) * (scale / (values.shape[1] - 1.0) ** 0.5)

"""Predictions of forward models: correlation functions at one or more parameter points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from iaemu.display import describe_bins, html_table
from iaemu.observables.projected import Projection
from iaemu.statistics import STATISTICS

#: Fields of a prediction that hold standard deviations.
SIGMAS = ("sigma_aleatoric", "sigma_epistemic")


class FewPairsWarning(UserWarning):
    """Issued if bins are not predicted, because hardly any pairs of galaxies are expected in them."""


@dataclass
class Prediction:
    """Correlation functions at one or more parameter points.

    Values are arrays if the parameters were numbers or arrays, and differentiable tensors if they were tensors.

    Attributes
    ----------
    r_edges : array (n_bins + 1,)
        Edges of the radial bins [Mpc/h].
    xi : (..., n_bins), or None
        Position-position correlation, equation 1 of arXiv:2504.05235; dimensionless, like the next two.
    omega : (..., n_bins), or None
        Position-orientation correlation <(e.r)^2> - 1/3, equation 2.
    eta : (..., n_bins), or None
        Orientation-orientation correlation <(e1.e2)^2> - 1/3, equation 3.
    sigma_aleatoric : dict of statistic to (..., n_bins), or None
        Standard deviation of one measurement about the prediction.
    sigma_epistemic : dict of statistic to (..., n_bins), or None
        Standard error of the prediction of a network.
    n_gal : (...), or None
        Expected number density of galaxies [(h/Mpc)^3].
    f_sat : (...), or None
        Expected fraction of satellites.
    """

    r_edges: np.ndarray
    xi: Any = None
    omega: Any = None
    eta: Any = None
    sigma_aleatoric: dict | None = None
    sigma_epistemic: dict | None = None
    n_gal: Any = None
    f_sat: Any = None

    @classmethod
    def of(cls, r_edges: np.ndarray, values: Mapping[str, Any]) -> Prediction:
        """Return the prediction of values by name.

        Parameters
        ----------
        r_edges : array (n_bins + 1,)
            [Mpc/h]
        values : mapping
            Values of fields by name. Standard deviations have names such as ``sigma_aleatoric.xi``.

        Returns
        -------
        Prediction
        """
        sigmas = {
            field: {name: values[f"{field}.{name}"] for name in STATISTICS if f"{field}.{name}" in values} or None
            for field in SIGMAS
        }
        return cls(r_edges, **{name: value for name, value in values.items() if "." not in name}, **sigmas)

    @property
    def r(self) -> np.ndarray:
        """Bin centres: arithmetic means of the edges [Mpc/h]."""
        return 0.5 * (self.r_edges[1:] + self.r_edges[:-1])

    def __repr__(self) -> str:
        held = [name for name in STATISTICS if getattr(self, name) is not None]
        others = [name for name in (*SIGMAS, "n_gal", "f_sat") if getattr(self, name) is not None]
        shape = self._batch_shape()
        where = "one point" if shape == () else f"a batch of shape {shape}"
        extra = f"; also {', '.join(others)}" if others else ""
        return f"Prediction({', '.join(held) or 'no statistic'} at {where}; {describe_bins(self.r_edges)}{extra})"

    def _repr_html_(self) -> str | None:
        """A table of one point; None for a batch, which is then shown by its repr."""
        if self._batch_shape() != ():
            return None
        values = self.numpy()
        columns = {"r [Mpc/h]": values.r}
        for name in STATISTICS:
            if getattr(values, name) is not None:
                columns[name] = getattr(values, name)
            for field in SIGMAS:
                sigmas = getattr(values, field) or {}
                if name in sigmas:
                    columns[f"{field} of {name}"] = sigmas[name]
        counts = {"n_gal": " (h/Mpc)^3", "f_sat": ""}
        found = {name: getattr(values, name) for name in counts}
        notes = [f"{name} = {float(value):.5g}{counts[name]}" for name, value in found.items() if value is not None]
        return html_table(columns, "Prediction at one point", [", ".join(notes)] if notes else [])

    def _batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of points: () for one point."""
        for name in STATISTICS:
            if getattr(self, name) is not None:
                return tuple(np.shape(getattr(self, name)))[:-1]
        return () if self.n_gal is None else tuple(np.shape(self.n_gal))

    def numpy(self) -> Prediction:
        """Return the same prediction with arrays in place of tensors, without gradients.

        Returns
        -------
        Prediction
        """
        return Prediction(**{field.name: _as_arrays(getattr(self, field.name)) for field in fields(self)})


@dataclass
class ProjectedPrediction:
    """Projected statistics at one or more parameter points, see :mod:`iaemu.observables.projected`.

    Values are arrays if the parameters were numbers or arrays, and differentiable tensors if they were tensors.

    Attributes
    ----------
    projection : Projection
        The bins.
    w_gg, w_gplus : (..., n_rp), or None
        [Mpc/h]
    xi_gplus_2 : (..., n_rp), or None
        Quadrupole of the position-shape correlation, dimensionless.
    centrals, satellites : (..., n_rp), or None
        Parts of w_gplus, or of the quadrupole, in which the shape is that of a central or of a satellite. None if the
        model does not know them.
    deviations : dict of statistic to (..., K, n_rp), or None
        Vectors d_k whose products sum to the covariance of the prediction's error, see ``ForwardModel.deviations``.
    tail_gg, tail_gplus : (..., n_rp), or None
        Parts of w_gg and w_gplus from separations beyond the last node of the model, where xi = b^2 xi_mm and
        (1 + xi) omega = K Xi_2.
    n_gal, f_sat : (...), or None
        See :class:`Prediction`.
    b2, K : (..., 1), or None
        Amplitudes of the large scales, in a projection of these.
    """

    projection: Projection
    w_gg: Any = None
    w_gplus: Any = None
    xi_gplus_2: Any = None
    centrals: Any = None
    satellites: Any = None
    deviations: dict | None = None
    tail_gg: Any = None
    tail_gplus: Any = None
    n_gal: Any = None
    f_sat: Any = None
    b2: Any = None
    K: Any = None

    def __repr__(self) -> str:
        names = [name for name in self.projection.statistics if getattr(self, name) is not None]
        shape = tuple(np.shape(getattr(self, names[0])))[:-1]
        where = "one point" if shape == () else f"a batch of shape {shape}"
        return f"ProjectedPrediction({', '.join(names)} at {where}; {self.projection.describe()})"

    def numpy(self) -> ProjectedPrediction:
        """Return the same prediction with arrays in place of tensors, without gradients.

        Returns
        -------
        ProjectedPrediction
        """
        return ProjectedPrediction(**{field.name: _as_arrays(getattr(self, field.name)) for field in fields(self)})


@dataclass
class LargeScalePrediction:
    """What galaxies are on large scales, see :meth:`iaemu.ForwardModel.large_scale`.

    Values are arrays if the parameters were numbers or arrays, and differentiable tensors if they were tensors.

    Attributes
    ----------
    b_g : (...)
        Linear bias.
    A_IA : (...)
        Amplitude of the intrinsic alignment of the NLA model, positive for radial alignment.
    log10_M_h : (...)
        Mean of the log10 host mass over galaxies [log10 Msun/h], with the mass function of Tinker et al. 2010.
    n_gal, f_sat : (...)
        See :class:`Prediction`.
    deviations : dict of "b_g" and "A_IA" to (..., K), or None
        Vectors whose sums of squares are the variances of the prediction's error, and of products the covariance.
    """

    b_g: Any
    A_IA: Any
    log10_M_h: Any
    n_gal: Any
    f_sat: Any
    deviations: dict | None = None

    @property
    def sigma(self) -> dict[str, Any] | None:
        """Standard deviations of the errors of ``b_g`` and ``A_IA``, each (...); None without ``deviations``."""
        if self.deviations is None:
            return None
        return {name: (vectors**2).sum(-1) ** 0.5 for name, vectors in self.deviations.items()}


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_arrays(entry) for key, entry in value.items()}
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def in_parts(
    theta: torch.Tensor,
    evaluate: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    inside: torch.Tensor | None,
    at_once: int,
    in_double: bool = False,
) -> dict[str, torch.Tensor]:
    """Evaluate a function at points of any batch shape, some of them at a time.

    Gradients are computed only if ``theta`` requires them.

    Parameters
    ----------
    theta : tensor (..., n_parameters)
    evaluate : callable
        Maps points (n, n_parameters) to tensors (n, ...) by name.
    inside : tensor of bool (...), or None
        Values are NaN at points where it is False.
    at_once : int
        Number of points that are evaluated together.
    in_double : bool
        Whether to evaluate on the CPU in double precision.

    Returns
    -------
    dict of str to tensor
        Batch shape first; on the device of ``theta``.
    """
    shape, device = theta.shape[:-1], theta.device
    if in_double:
        theta = theta.to(device="cpu", dtype=torch.float64)
    flat = theta.reshape(-1, theta.shape[-1])
    with torch.set_grad_enabled(torch.is_grad_enabled() and flat.requires_grad):
        parts = [evaluate(part) for part in flat.split(at_once)]
        values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if inside is not None:
            outside = ~inside.reshape(-1)
            values = {
                name: torch.where(outside.reshape(-1, *[1] * (value.ndim - 1)), torch.nan, value)
                for name, value in values.items()
            }
        return {name: value.reshape(shape + value.shape[1:]).to(device) for name, value in values.items()}

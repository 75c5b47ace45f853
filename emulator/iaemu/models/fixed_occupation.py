"""Predictions at one occupation, as functions of the alignment strengths alone.

At fixed occupation xi is a constant, omega linear and eta quadratic in q(mu), see :mod:`iaemu.halomodel.alignment`:
whatever the forward model costs is paid once, and a batch of strengths takes one small matrix product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from iaemu.halomodel.alignment import mean_p2
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, as_theta, real_tensor


class AtOccupation(ABC):
    """A forward model at one occupation; float64 or the precision of mu, differentiable.

    Made by :meth:`iaemu.models.base.ForwardModel.at_occupation`.

    Attributes
    ----------
    statistics : tuple of str
        What it predicts.
    r_edges : array (n_bins + 1,)
        [Mpc/h]
    n_gal, f_sat : float or None
        As in :class:`iaemu.prediction.Prediction`.

    Parameters
    ----------
    limits : mapping of str to (float, float)
        Ranges of the strengths, by name.
    """

    statistics: tuple[str, ...]
    r_edges: np.ndarray
    n_gal: float | None
    f_sat: float | None

    def __init__(self, limits: Mapping[str, tuple[float, float]]):
        self._limits = limits
        self._low, self._high = torch.tensor(list(limits.values()), dtype=torch.float64).T

    def __call__(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        """Statistics at a batch of strengths.

        Parameters
        ----------
        mu : tensor (n, n_strengths)
            ``mu_cen, mu_sat`` in [-1, 1], and what else the model has beside the occupation.

        Returns
        -------
        dict of statistic to tensor (n, n_bins)

        Raises
        ------
        ValueError
            Another shape; or a value that is no real number, outside its range, or NaN.
        """
        return self._at(self._checked(mu))

    @property
    def n_deviations(self) -> int:
        """Number of deviations; 0: the model has none."""
        return 0

    def deviations(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scaled deviations: the sum of d_k d_k^T is the covariance of the error.

        Parameters
        ----------
        mu : tensor (n, n_strengths)

        Returns
        -------
        dict of statistic to tensor (n, n_deviations, n_bins)

        Raises
        ------
        ValueError
            The model has no deviations (``n_deviations`` is 0); or as for the statistics.
        """
        if not self.n_deviations:
            raise ValueError(
                "The model of this occupation does not know its error (its n_deviations is 0): it is no ensemble, and "
                "has no box error for its catalogues; or no statistics were asked for. `iaemu-train box-error` makes a "
                "box error."
            )
        return self._deviations_at(self._checked(mu))

    @abstractmethod
    def _at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        """Statistics at strengths (n, n_strengths) within their ranges."""

    def _deviations_at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        """Deviations at strengths (n, n_strengths) within their ranges."""
        raise NotImplementedError

    def _checked(self, mu: Any) -> torch.Tensor:
        mu = real_tensor(mu, "mu")
        if mu.ndim != 2 or mu.shape[1] != len(self._limits):
            raise ValueError(
                f"mu has shape {tuple(mu.shape)}; it must be (n, {len(self._limits)}), with a column each of "
                f"{', '.join(self._limits)}."
            )
        values = mu.detach()
        outside = ~((values >= self._low.to(mu)) & (values <= self._high.to(mu)))  # NaN is outside
        if bool(outside.any()):
            row, column = torch.nonzero(outside)[0].tolist()
            name, (low, high) = list(self._limits.items())[column]
            raise ValueError(
                f"{name} = {float(values[row, column]):.6g} of point {row} is outside [{low:g}, {high:g}]."
            )
        return mu


class FixedOccupation(AtOccupation):
    """From what does not depend on alignment: whatever the forward model costs is paid once.

    Parameters
    ----------
    r_edges : array (n_bins + 1,)
        [Mpc/h]
    ingredients : mapping of "xi", "A_c", "A_s", "E_cc", "E_cs", "E_ss" to tensors (n_bins,)
        Means over pairs. Statistics whose ingredients are not there are not predicted.
    limits : mapping of str to (float, float)
        Ranges of the two strengths.
    n_gal, f_sat : float or None
    deviations : function without arguments, optional
        Gives the scaled deviations (K, n_bins) of the ingredients by name, or None if there are none; called once, when
        they are asked for.
    """

    def __init__(
        self,
        r_edges,
        ingredients: Mapping[str, torch.Tensor],
        limits: Mapping[str, tuple[float, float]],
        n_gal=None,
        f_sat=None,
        deviations: Callable[[], Mapping[str, torch.Tensor] | None] | None = None,
    ):
        super().__init__(limits)
        self.r_edges = r_edges
        self._find_deviations = deviations
        self.n_gal, self.f_sat = n_gal, f_sat
        self._xi = ingredients.get("xi")
        self._omega, self._eta = _omega_rows(ingredients), _eta_rows(ingredients)
        held = {"xi": self._xi, "omega": self._omega, "eta": self._eta}
        self.statistics = tuple(name for name, value in held.items() if value is not None)

    def _at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {}
        if self._xi is not None:
            values["xi"] = self._xi.to(mu).expand(len(mu), -1)
        return values | self._oriented(mu, self._omega, self._eta)

    @property
    def n_deviations(self) -> int:
        return 0 if self._held_deviations is None else len(next(iter(self._held_deviations.values())))

    def _deviations_at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        held = self._held_deviations
        values = {}
        if "xi" in held:
            values["xi"] = held["xi"].to(mu).expand(len(mu), -1, -1)
        n_bins = len(self.r_edges) - 1
        # Bins of all deviations side by side are as one long row of bins.
        flat = self._oriented(mu, *self._deviation_rows)
        return values | {name: value.reshape(len(mu), self.n_deviations, n_bins) for name, value in flat.items()}

    @cached_property
    def _held_deviations(self):
        return None if self._find_deviations is None else self._find_deviations()

    @cached_property
    def _deviation_rows(self):
        flat = {name: value.flatten() for name, value in self._held_deviations.items()}
        return _omega_rows(flat), _eta_rows(flat)

    @staticmethod
    def _oriented(mu, omega, eta) -> dict[str, torch.Tensor]:
        if omega is None and eta is None:
            return {}
        q = mean_p2(mu)
        values = {}
        if omega is not None:
            values["omega"] = q @ omega.to(mu)
        if eta is not None:
            q_cen, q_sat = q.unbind(dim=1)
            values["eta"] = torch.stack([q_cen**2, q_cen * q_sat, q_sat**2], dim=1) @ eta.to(mu)
        return values


class EvaluatedOccupation(AtOccupation):
    """Of a model whose strengths are no factors: it is evaluated at each call.

    Parameters
    ----------
    model : ForwardModel
    theta : tensor (1, n_parameters)
        The occupation, with any strengths, which are its first columns.
    r_edges : array (n_bins + 1,) or None
        [Mpc/h]; None: the model's own.
    statistics : tuple of str
    """

    def __init__(self, model: Any, theta: torch.Tensor, r_edges: Any, statistics: tuple[str, ...]):
        super().__init__(model._limits())
        self._model, self._r_edges, self.statistics = model, r_edges, statistics
        self._occupation = dict(zip(model.parameters, theta[0], strict=True))
        counts = model.predict(theta, r_edges, (), support="warn")
        self.r_edges = counts.r_edges
        self.n_gal, self.f_sat = (None if value is None else float(value) for value in (counts.n_gal, counts.f_sat))

    def _at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        values = self._model.predict(self._theta(mu), self._r_edges, self.statistics, support="warn")
        return {name: getattr(values, name) for name in self.statistics}

    @property
    def n_deviations(self) -> int:
        return self._model.n_deviations if self.statistics else 0

    def _deviations_at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._model.deviations(self._theta(mu), self._r_edges, self.statistics, support="warn")

    def _theta(self, mu: torch.Tensor) -> torch.Tensor:
        """Parameters (n, n_parameters) of the strengths (n, n_strengths)."""
        strengths = dict(zip(self._limits, mu.unbind(dim=1), strict=True))
        columns = (strengths.get(name, value.to(mu).expand(len(mu))) for name, value in self._occupation.items())
        return torch.stack(list(columns), dim=1)


def _omega_rows(ingredients) -> torch.Tensor | None:
    """Rows (2, n) that q_cen and q_sat multiply, or None if the ingredients are not there."""
    return torch.stack([ingredients["A_c"], ingredients["A_s"]]) if "A_c" in ingredients else None


def _eta_rows(ingredients) -> torch.Tensor | None:
    """Rows (3, n) that q_cen^2, q_cen q_sat and q_sat^2 multiply, or None if the ingredients are not there."""
    if "E_cc" not in ingredients:
        return None
    return torch.stack([ingredients["E_cc"], 2.0 * ingredients["E_cs"], ingredients["E_ss"]])


def without_alignment(occupation: Any, parameters: Sequence[str] = PARAMETERS) -> torch.Tensor:
    """Parameters at one occupation, with strengths of zero.

    Parameters
    ----------
    occupation : mapping of names, or sequence of the five numbers in the order of ``OCCUPATION_PARAMETERS``
    parameters : sequence of str
        Of the model.

    Returns
    -------
    tensor (1, n_parameters), float64

    Raises
    ------
    ValueError
        A parameter is missing, unknown, not one number, or not finite.
    """
    values = as_theta(occupation, OCCUPATION_PARAMETERS).detach().to(device="cpu", dtype=torch.float64)
    if values.ndim != 1:
        raise ValueError(f"at_occupation takes one occupation, not a batch of shape {tuple(values.shape[:-1])}.")
    theta = torch.zeros(1, len(parameters), dtype=torch.float64)
    theta[0, [parameters.index(name) for name in OCCUPATION_PARAMETERS]] = values
    return theta

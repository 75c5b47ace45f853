"""Predictions at one occupation, as functions of the alignment strengths alone.

At fixed occupation xi is constant, omega is linear and eta quadratic in q(mu), see ``iaemu.halomodel.alignment``. The
model is therefore evaluated once, and a batch of strengths costs one small matrix product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from iaemu.halomodel.alignment import mean_p2
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, as_theta, real_tensor


class Factored(NamedTuple):
    """Deviations (n, n_deviations, n_bins) as a sum of fixed rows, each times a factor: sum_j factors_j rows_j.

    Attributes
    ----------
    factors : tensor (n, J)
        Powers of the strengths, such as q(mu_cen) and q(mu_sat).
    rows : tensor (J, n_deviations, n_bins)
        The same object in every call.
    """

    factors: torch.Tensor
    rows: torch.Tensor

    def dense(self) -> torch.Tensor:
        """Return the deviations.

        Returns
        -------
        tensor (n, n_deviations, n_bins)
        """
        return (self.factors @ self.rows.flatten(start_dim=1)).unflatten(1, self.rows.shape[1:])


def dense(deviations: torch.Tensor | Factored) -> torch.Tensor:
    """Return deviations as one tensor, factored or not.

    Parameters
    ----------
    deviations : tensor (n, n_deviations, n_bins), or Factored

    Returns
    -------
    tensor (n, n_deviations, n_bins)
    """
    return deviations.dense() if isinstance(deviations, Factored) else deviations


class AtOccupation(ABC):
    """A forward model at one occupation: a differentiable function of the alignment strengths.

    It is made by :meth:`iaemu.ForwardModel.at_occupation`. It computes in the precision of the strengths or in float64.

    Attributes
    ----------
    statistics : tuple of str
        Names of the statistics that it predicts.
    r_edges : array (n_bins + 1,)
        Edges of the bins [Mpc/h].
    n_gal, f_sat : float or None
        See :class:`iaemu.Prediction`.

    Parameters
    ----------
    limits : mapping of str to (float, float)
        Ranges of the strengths by name.
    """

    statistics: tuple[str, ...]
    r_edges: np.ndarray
    n_gal: float | None
    f_sat: float | None

    def __init__(self, limits: Mapping[str, tuple[float, float]]):
        self._limits = limits
        self._low, self._high = torch.tensor(list(limits.values()), dtype=torch.float64).T

    def __call__(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predict the statistics at a batch of strengths.

        Parameters
        ----------
        mu : tensor (n, n_strengths)
            ``mu_cen`` and ``mu_sat`` in [-1, 1], and further parameters of the model that are not of the occupation.

        Returns
        -------
        dict of statistic to tensor (n, n_bins)

        Raises
        ------
        ValueError
            The shape is wrong, or a value is not a real number in its range.
        """
        return self._at(self._checked(mu))

    @property
    def n_deviations(self) -> int:
        """Number of deviations; 0 if the error of the model is not known."""
        return 0

    def deviations(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return deviations d_k: the sum of d_k d_k^T is the covariance of the prediction's error.

        Parameters
        ----------
        mu : tensor (n, n_strengths)
            As for a prediction.

        Returns
        -------
        dict of statistic to tensor (n, n_deviations, n_bins)

        Raises
        ------
        ValueError
            The error of the model is not known (``n_deviations`` is 0), or ``mu`` is not allowed.
        """
        self._require_deviations()
        return self._deviations_at(self._checked(mu))

    def with_deviations(self, mu: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor | Factored]]:
        """Return predictions and their deviations, at less cost than one after the other.

        Parameters
        ----------
        mu : tensor (n, n_strengths)
            As for a prediction.

        Returns
        -------
        values : dict of statistic to tensor
            As from a call.
        deviations : dict of statistic to tensor or Factored
            As from :meth:`deviations`, or their factors.

        Raises
        ------
        ValueError
            See :meth:`deviations`.
        """
        self._require_deviations()
        return self._both_at(self._checked(mu))

    @abstractmethod
    def _at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predict statistics at strengths (n, n_strengths) within their ranges."""

    def _deviations_at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return deviations at strengths (n, n_strengths) within their ranges."""
        raise NotImplementedError

    def _both_at(self, mu: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return predictions and deviations at strengths (n, n_strengths) within their ranges."""
        return self._at(mu), self._deviations_at(mu)

    def _require_deviations(self) -> None:
        if not self.n_deviations:
            raise ValueError(
                "The error of this model is not known (n_deviations is 0): it is not an ensemble of networks and has "
                "no box error, or no statistic was chosen. `iaemu train box-error` makes a box error."
            )

    def _checked(self, mu: Any) -> torch.Tensor:
        mu = real_tensor(mu, "mu")
        if mu.ndim != 2 or mu.shape[1] != len(self._limits):
            raise ValueError(
                f"mu has shape {tuple(mu.shape)}; it must be (n, {len(self._limits)}), with the columns "
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
    """A model whose strengths enter as factors: it is evaluated once, to get its ingredients.

    Parameters
    ----------
    r_edges : array (n_bins + 1,)
        Edges of the bins [Mpc/h].
    ingredients : mapping of "xi", "A_c", "A_s", "E_cc", "E_cs", "E_ss" to tensors (n_bins,)
        Means over pairs. A statistic is predicted if its ingredients are given.
    limits : mapping of str to (float, float)
        Ranges of the two strengths by name.
    n_gal, f_sat : float or None
    deviations : callable, optional
        A function without arguments that returns deviations (n_deviations, n_bins) of the ingredients by name, or None
        if there are none. It is called at most once, when deviations are needed.
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

    def _at(self, mu: torch.Tensor, powers: tuple | None = None) -> dict[str, torch.Tensor]:
        values = {}
        if self._xi is not None:
            values["xi"] = self._xi.to(mu).expand(len(mu), -1)
        return values | self._oriented(self._powers(mu) if powers is None else powers, self._omega, self._eta)

    def _both_at(self, mu: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        powers = self._powers(mu)
        return self._at(mu, powers), self._factored(mu, powers)

    @property
    def n_deviations(self) -> int:
        return 0 if self._held_deviations is None else len(next(iter(self._held_deviations.values())))

    def _deviations_at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: value.dense() for name, value in self._factored(mu, self._powers(mu)).items()}

    def _factored(self, mu: torch.Tensor, powers: tuple) -> dict[str, Factored]:
        factors = dict(zip(("xi", "omega", "eta"), (mu.new_ones(len(mu), 1), *powers), strict=True))
        if self._deviation_rows[0] != mu.dtype:
            self._deviation_rows = (mu.dtype, {name: row.to(mu) for name, row in self._deviation_rows[1].items()})
        return {name: Factored(factors[name], row) for name, row in self._deviation_rows[1].items()}

    @cached_property
    def _held_deviations(self):
        return None if self._find_deviations is None else self._find_deviations()

    @cached_property
    def _deviation_rows(self) -> tuple[torch.dtype, dict[str, torch.Tensor]]:
        """Rows (J, n_deviations, n_bins) by statistic, and their type."""
        held = self._held_deviations
        rows = {"xi": held["xi"][None] if "xi" in held else None, "omega": _omega_rows(held), "eta": _eta_rows(held)}
        found = {name: row for name, row in rows.items() if row is not None}
        return next(iter(found.values())).dtype, found

    def _powers(self, mu: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the factors in which omega (n, 2) and eta (n, 3) are linear; None if they are not needed."""
        if self._omega is None and self._eta is None:
            return None, None
        q = mean_p2(mu)
        if self._eta is None:
            return q, None
        q_cen, q_sat = q.unbind(dim=1)
        return q, torch.stack([q_cen**2, q_cen * q_sat, q_sat**2], dim=1)

    @staticmethod
    def _oriented(powers, omega, eta) -> dict[str, torch.Tensor]:
        rows = {"omega": omega, "eta": eta}
        return {
            name: factors @ row.to(factors)
            for (name, row), factors in zip(rows.items(), powers, strict=True)
            if row is not None
        }


class EvaluatedOccupation(AtOccupation):
    """A model whose strengths do not enter as factors: it is evaluated at each call.

    Parameters
    ----------
    model : ForwardModel
    theta : tensor (1, n_parameters)
        The occupation; the strengths among the parameters are ignored.
    r_edges : array (n_bins + 1,) or None
        Edges of the bins [Mpc/h]; by default those of the model.
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
        """Return the parameters (n, n_parameters) for strengths (n, n_strengths)."""
        strengths = dict(zip(self._limits, mu.unbind(dim=1), strict=True))
        columns = (strengths.get(name, value.to(mu).expand(len(mu))) for name, value in self._occupation.items())
        return torch.stack(list(columns), dim=1)


def _omega_rows(ingredients) -> torch.Tensor | None:
    """Return the rows (2, n) that are multiplied by q_cen and q_sat, or None without the ingredients."""
    return torch.stack([ingredients["A_c"], ingredients["A_s"]]) if "A_c" in ingredients else None


def _eta_rows(ingredients) -> torch.Tensor | None:
    """Return the rows (3, n) multiplied by q_cen^2, q_cen q_sat and q_sat^2, or None without the ingredients."""
    if "E_cc" not in ingredients:
        return None
    return torch.stack([ingredients["E_cc"], 2.0 * ingredients["E_cs"], ingredients["E_ss"]])


def without_alignment(occupation: Any, parameters: Sequence[str] = PARAMETERS) -> torch.Tensor:
    """Return all parameters for one occupation, with strengths of zero.

    Parameters
    ----------
    occupation : mapping of names, or sequence of the five numbers in the order of ``OCCUPATION_PARAMETERS``
    parameters : sequence of str
        Parameters of the model.

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
        raise ValueError(f"at_occupation needs one occupation; got a batch of shape {tuple(values.shape[:-1])}.")
    theta = torch.zeros(1, len(parameters), dtype=torch.float64)
    theta[0, [parameters.index(name) for name in OCCUPATION_PARAMETERS]] = values
    return theta

"""Evaluate a forward model at batches of points of a run, and apply the option ``support`` to points outside."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from logging import Logger
from typing import Any

import numpy as np
import torch
from cobaya.log import LoggedError
from numpy.typing import ArrayLike

from iaemu.models.base import ForwardModel
from iaemu.models.fixed_occupation import AtOccupation
from iaemu.observables.projected import AMPLITUDE_OF, PROJECTION_OF, Projection
from iaemu.parameters import OCCUPATION_PARAMETERS, SupportError
from iaemu.prediction import FewPairsWarning
from iaemu.statistics import STATISTICS
from iaemu_cobaya.gradients.torch_functions import RejectedRows

#: Attributes of a prediction that are single numbers.
COUNTS = ("n_gal", "f_sat")

#: Of which correlation function each statistic of a projection is made.
_OF = PROJECTION_OF | AMPLITUDE_OF

#: Bins as a dictionary key: edges, or a projection; None stands for the edges of the model.
EdgesKey = tuple[float, ...] | Projection | None


class Evaluation:
    """The requests to a model, and their evaluation.

    Points are given as one entry for each parameter of the model: a tensor (n,), or a number if it is constant.

    Parameters
    ----------
    model : ForwardModel
    names : sequence of str
        Names of the parameters in the run, for messages.
    policy : "raise", "reject" or "warn"
        What to do with points outside the supported region.
    log : logging.Logger
    stop_at_error : callable
        Returns whether ``reject`` stops the run.

    Attributes
    ----------
    requests, deviation_requests : dict of EdgesKey to set of str
        Requested statistics for each binning.
    n_few_pairs : int
        Number of points that were rejected because a requested bin has hardly any pairs.
    """

    def __init__(
        self,
        model: ForwardModel,
        names: Sequence[str],
        policy: str,
        log: Logger,
        stop_at_error: Callable[[], bool],
    ):
        self._policy, self._log, self._stop_at_error = policy, log, stop_at_error
        self.requests: dict[EdgesKey, set[str]] = {}
        self.deviation_requests: dict[EdgesKey, set[str]] = {}
        self._warned = False
        self.n_few_pairs = 0
        self.use(model, names)

    def use(self, model: ForwardModel, names: Sequence[str]) -> None:
        """Evaluate this model from now on; requests stay.

        Parameters
        ----------
        model : ForwardModel
        names : sequence of str
            Names of its parameters in the run.
        """
        self.model, self._names = model, names
        # Positions of the alignment strengths and the occupation parameters among the parameters.
        self._occupation = [model.parameters.index(name) for name in OCCUPATION_PARAMETERS]
        self._strengths = [i for i, name in enumerate(model.parameters) if name not in OCCUPATION_PARAMETERS]
        limits = [model.support.bounds(model.parameters[column], None) for column in self._strengths]
        self._low, self._high = torch.tensor(limits, dtype=torch.float64).T
        self._fixed: dict[EdgesKey, tuple[Any, AtOccupation]] = {}

    def predict(self, values: Sequence, key: EdgesKey, counts: bool) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Predict what is requested in one binning, at a batch of points.

        Parameters
        ----------
        values : sequence of tensors (n,) or numbers
        key : EdgesKey
        counts : bool
            Whether to predict n_gal and f_sat as well.

        Returns
        -------
        predictions : mapping of str to tensor (n, n_bins)
            ``n_gal`` and ``f_sat`` are (n,), or None.
        deviations : mapping of str to tensor (n, K, n_bins)
            See :meth:`iaemu.models.base.ForwardModel.deviations`; empty if they are not requested.

        Raises
        ------
        RejectedRows
            Points are outside the supported region, with the policy ``reject``, or have hardly any pairs in a bin.
        LoggedError
            Points are outside with ``raise``, the prediction failed, or a constant occupation has hardly any pairs in a
            bin.
        """
        statistics, with_error = self.requests.get(key, set()), self.deviation_requests.get(key, set())
        fixed, mu = self._at_occupation(values, key)
        if fixed is None:
            theta = columns(values)
            found: Mapping[str, Any] = {}
            if statistics or counts:
                found = vars(self._guarded(self._predict, theta, key, statistics))
            self._reject_few_pairs(found, theta, key, statistics)
            deviations = self._guarded(self.model.deviations, theta, key, with_error) if with_error else {}
            return found, _projections(deviations, with_error)
        predictions, deviations = fixed.with_deviations(mu) if with_error else (fixed(mu), {})
        values_there: dict[str, Any] = _projections(predictions, statistics)
        deviations = _projections(deviations, with_error)
        if counts:
            for name, count in ((name, getattr(fixed, name)) for name in COUNTS):
                values_there[name] = None if count is None else mu.new_full((len(mu),), count)
        return values_there, deviations

    def _predict(self, theta, bins, statistics, support: str) -> Any:
        if isinstance(bins, Projection):
            return self.model.project(theta, bins, support=support)
        return self.model.predict(theta, bins, statistics, support)

    def _at_occupation(self, values: Sequence, key: EdgesKey) -> tuple[AtOccupation | None, Any]:
        """Return the model at a constant occupation, and the alignment strengths (n, n_strengths).

        None if the occupation varies, if the model does not factorise in the strengths so that nothing is gained, or if
        strengths are outside their limits, so that the policy applies.
        """
        occupation = tuple(values[column] for column in self._occupation)
        if not self.model.factorises or any(isinstance(value, torch.Tensor) for value in occupation):
            return None, None
        mu = columns([values[column] for column in self._strengths])
        if not bool(((mu.detach() >= self._low) & (mu.detach() <= self._high)).all()):
            return None, None
        statistics = self.requests.get(key, set()) | self.deviation_requests.get(key, set())
        held = self._fixed.get(key)
        if held is None or held[0] != (occupation, statistics):
            theta = torch.zeros(1, len(self._names), dtype=torch.float64)
            theta[0, self._occupation] = torch.tensor(occupation, dtype=torch.float64)

            def at_occupation(theta, *arguments, **options):
                return self.model.at_occupation(occupation, *arguments, **options)

            held = (occupation, statistics), self._guarded(at_occupation, theta, key, statistics)
            values_there = held[1](torch.zeros(1, len(self._strengths), dtype=torch.float64))
            if any(bool(torch.isnan(value).any()) for value in values_there.values()):
                message = self.few_pairs(theta, key)
                if message is not None:
                    raise LoggedError(self._log, "The occupation of this run cannot be fitted: %s", message)
            self._fixed[key] = held
        return held[1], mu

    def few_pairs(self, theta: torch.Tensor, key: EdgesKey) -> str | None:
        """Return which requested bin has hardly any pairs at points, for messages; None if all bins have enough.

        Parameters
        ----------
        theta : tensor (n, n_parameters)
        key : EdgesKey

        Returns
        -------
        str or None
        """
        if "box_volumes" not in self.model.metadata:
            return None  # the model does not know how many pairs to expect
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._predict(theta.detach(), _bins_of(key), self.requests.get(key, STATISTICS), "warn")
        return next((str(entry.message) for entry in caught if issubclass(entry.category, FewPairsWarning)), None)

    def _reject_few_pairs(self, found: Mapping, theta: torch.Tensor, key: EdgesKey, statistics: set[str]) -> None:
        """Raise RejectedRows for points at which a requested bin has hardly any pairs."""
        rows = torch.zeros(len(theta), dtype=torch.bool)
        for name in statistics:
            rows |= torch.isnan(found[name].detach()).any(dim=1)
        if not bool(rows.any()):
            return
        message = self.few_pairs(theta[rows], key)
        if message is None:
            return  # NaN for another reason; the likelihood reports it
        if not self.n_few_pairs:
            self._log.warning("%s Such points get zero likelihood. (This warning is not repeated.)", message)
        self.n_few_pairs += int(rows.sum())
        raise RejectedRows(rows)

    def _guarded(self, call: Callable, theta: torch.Tensor, key: EdgesKey, statistics: set[str]) -> Any:
        """Return ``call(theta, edges, statistics)``, with the policy applied to points outside the supported region."""
        edges = _bins_of(key)
        wanted = {_OF.get(name, name) for name in statistics}
        names = tuple(name for name in STATISTICS if name in wanted)
        try:
            try:
                self.model.support.enforce(theta)
                return call(theta, edges, statistics=names, support="reject")
            except SupportError as error:
                if self._policy == "raise" or (self._policy == "reject" and self._stop_at_error()):
                    raise LoggedError(self._log, "%s", error) from error
                if self._policy == "reject":
                    self._log.debug("Rejected: %s", error)
                    raise RejectedRows(~self.model.support.contains(theta)) from error
                self._warn(error)
                with warnings.catch_warnings():
                    # Cobaya's log has the warning already.
                    warnings.simplefilter("ignore")
                    return call(theta, edges, statistics=names, support="warn")
        except (LoggedError, RejectedRows):
            raise
        except Exception as error:
            # Cobaya would treat ValueError and RuntimeError as zero likelihood, and hide a defect.
            point = ", ".join(
                f"{name} = {value:.6g}" for name, value in zip(self._names, theta[0].tolist(), strict=True)
            )
            where = point if len(theta) == 1 else f"one of {len(theta)} points (the first is {point})"
            raise LoggedError(
                self._log, "The prediction failed at %s: %s: %s", where, type(error).__name__, error
            ) from error

    def _warn(self, error: SupportError) -> None:
        if self._warned:
            self._log.debug("%s", error)
            return
        self._warned = True
        self._log.warning(
            "%s The prediction is an extrapolation. (This warning is not repeated for later points.)", error
        )


def _projections(found: Mapping[str, Any], statistics: set[str]) -> dict[str, Any]:
    """Return predictions or deviations, with those of projected statistics under their own names."""
    return {**found, **{name: found[_OF[name]] for name in statistics if name in _OF}}


def _bins_of(key: EdgesKey) -> Any:
    """Return what models take as bins."""
    return key if key is None or isinstance(key, Projection) else np.array(key)


def edges_key(r_edges: ArrayLike | Projection | None) -> EdgesKey:
    """Return bins as a dictionary key.

    Parameters
    ----------
    r_edges : array (n_bins + 1,), Projection or None
        [Mpc/h]

    Returns
    -------
    EdgesKey
    """
    if r_edges is None or isinstance(r_edges, (tuple, Projection)):
        return r_edges
    return tuple(np.asarray(r_edges, dtype=np.float64).ravel().tolist())


def columns(values: Sequence) -> torch.Tensor:
    """Return numbers and tensors (n,) as the columns of one float64 tensor; n = 1 if there are only numbers.

    Parameters
    ----------
    values : sequence of float or tensor (n,)

    Returns
    -------
    tensor (n, n_values)
    """
    n = next((len(value) for value in values if isinstance(value, torch.Tensor)), None)
    if n is None:
        return torch.tensor([values], dtype=torch.float64)
    return torch.stack(
        [
            value if isinstance(value, torch.Tensor) else torch.full((n,), float(value), dtype=torch.float64)
            for value in values
        ],
        dim=1,
    )

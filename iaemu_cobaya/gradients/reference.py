"""Where a Cobaya model is tried before it is sampled: points of its reference, and the widths of its parameters."""

from __future__ import annotations

import math
import numbers
from logging import Logger

import numpy as np
from cobaya.log import LoggedError
from cobaya.model import Model

from iaemu_cobaya.gradients.cobaya_values import log_posteriors

_MAX_TRIES = 1000


def widths(model: Model) -> np.ndarray:
    """Typical widths of the posterior: the proposal widths, else those of the reference, else those of the prior.

    Parameters
    ----------
    model : Model

    Returns
    -------
    array (d,)
    """
    prior, proposals = model.prior, model.parameterization.get_sampled_params_proposals()
    scales = []
    for proposal, pdf, reference in zip(proposals.values(), prior.pdf, prior.ref_pdf, strict=True):
        candidates = [proposal or np.nan]
        candidates.append(float(reference.std()) if hasattr(reference, "std") else np.nan)
        candidates += [float(pdf.std()), 0.5 * float(np.diff(pdf.interval(0.68))[0]), 1.0]
        scale = next(value for value in candidates if np.isfinite(value) and value > 0)
        low, high = pdf.interval(1)
        scales.append(min(scale, high - low))
    return np.array(scales)


class Reference:
    """Points of a model's reference.

    Parameters
    ----------
    model : Model
    scales : array (d,)
        Widths of the parameters: one with a number as reference is moved by about a third of its own.
    bounds : pair of arrays (d,)
        Of the prior.
    log : Logger
    """

    def __init__(self, model: Model, scales: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], log: Logger):
        self._model, self._scales, self._bounds, self._log = model, scales, bounds, log

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A point of finite log-posterior.

        Parameters
        ----------
        rng : Generator

        Returns
        -------
        array (d,)

        Raises
        ------
        LoggedError
            None was found.
        """
        for _ in range(_MAX_TRIES):
            point = self.draw_of_prior(rng)
            if np.isfinite(log_posteriors(self._model, point[None])[0]):
                return point
        raise LoggedError(
            self._log,
            "No point of finite log-posterior in %d draws of the reference: give the sampled parameters a 'ref' in the "
            "region that the model supports.",
            _MAX_TRIES,
        )

    def draw_of_prior(self, rng: np.random.Generator) -> np.ndarray:
        """A point of positive prior, different from the next one also if the reference is a point.

        Parameters
        ----------
        rng : Generator

        Returns
        -------
        array (d,)

        Raises
        ------
        LoggedError
            None was found.
        """
        prior = self._model.prior
        pointlike = np.array([isinstance(ref, numbers.Real) and not math.isnan(ref) for ref in prior.ref_pdf])
        for _ in range(_MAX_TRIES):
            point = prior.reference(max_tries=_MAX_TRIES, warn_if_no_ref=False, random_state=rng)
            point[pointlike] += 0.3 * (self._scales * rng.standard_normal(len(point)))[pointlike]
            # Not at an edge, where differences are one-sided.
            margin = 0.02 * self._scales
            low, high = self._bounds
            if ((point > low + margin) & (point < high - margin)).all() and prior.logp(point) > -np.inf:
                return point
        raise LoggedError(
            self._log,
            "No point within the prior in %d draws of the reference: widen the prior or the 'ref'.",
            _MAX_TRIES,
        )

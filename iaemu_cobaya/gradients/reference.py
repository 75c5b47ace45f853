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


class Reference:
    """Widths of a model's sampled parameters, and points of its reference.

    Parameters
    ----------
    model : Model
    bounds : pair of arrays (d,)
        Of the prior.
    scales : array (d,), optional
        Typical widths of the posterior: by default the proposal widths, else those of the reference, else those of the
        prior. A parameter with a number as reference is moved by about a third of its own.
    log : Logger

    Attributes
    ----------
    scales : array (d,)

    Raises
    ------
    LoggedError
        Scales that are not positive, or not one for each parameter.
    """

    def __init__(self, model: Model, bounds: tuple[np.ndarray, np.ndarray], scales: np.ndarray | None, log: Logger):
        self._model, self._bounds, self._log = model, bounds, log
        self.scales = self._widths() if scales is None else np.asarray(scales, dtype=np.float64)
        if self.scales.shape != bounds[0].shape or not (self.scales > 0).all():
            names = ", ".join(model.parameterization.sampled_params())
            raise LoggedError(log, "scales: needs a positive number for each of %s, got %s.", names, scales)
        self.scales = np.minimum(self.scales, bounds[1] - bounds[0])

    def _widths(self) -> np.ndarray:
        prior, proposals = self._model.prior, self._model.parameterization.get_sampled_params_proposals()
        widths = []
        for proposal, pdf, reference in zip(proposals.values(), prior.pdf, prior.ref_pdf, strict=True):
            candidates = [proposal or np.nan, float(reference.std()) if hasattr(reference, "std") else np.nan]
            candidates += [float(pdf.std()), 0.5 * float(np.diff(pdf.interval(0.68))[0]), 1.0]
            width = next(value for value in candidates if np.isfinite(value) and value > 0)
            low, high = pdf.interval(1)
            widths.append(min(width, high - low))
        return np.array(widths)

    def draw(self, rng: np.random.Generator, finite: bool = True) -> np.ndarray:
        """A point of positive prior, different from the next one also if the reference is a point.

        Parameters
        ----------
        rng : Generator
        finite : bool
            Of finite log-posterior, too.

        Returns
        -------
        array (d,)

        Raises
        ------
        LoggedError
            None was found.
        """
        for _ in range(_MAX_TRIES):
            point = self._draw_of_prior(rng)
            if not finite or np.isfinite(log_posteriors(self._model, point[None])[0]):
                return point
        raise LoggedError(
            self._log,
            "No point of finite log-posterior in %d draws of the reference: give the sampled parameters a 'ref' in the "
            "region that the model supports.",
            _MAX_TRIES,
        )

    def _draw_of_prior(self, rng: np.random.Generator) -> np.ndarray:
        prior = self._model.prior
        pointlike = np.array([isinstance(ref, numbers.Real) and not math.isnan(ref) for ref in prior.ref_pdf])
        for _ in range(_MAX_TRIES):
            point = prior.reference(max_tries=_MAX_TRIES, warn_if_no_ref=False, random_state=rng)
            point[pointlike] += 0.3 * (self.scales * rng.standard_normal(len(point)))[pointlike]
            # Not at an edge, where differences are one-sided.
            margin = 0.02 * self.scales
            low, high = self._bounds
            if ((point > low + margin) & (point < high - margin)).all() and prior.logp(point) > -np.inf:
                return point
        message = "No point within the prior in %d draws of the reference: widen the prior or the 'ref'."
        raise LoggedError(self._log, message, _MAX_TRIES)

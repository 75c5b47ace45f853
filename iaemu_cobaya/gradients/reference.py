"""Points of the reference distribution of a Cobaya model, and typical widths of its parameters."""

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
    """Widths of the sampled parameters of a model, and points from its reference distribution.

    Parameters
    ----------
    model : Model
    bounds : pair of arrays (d,)
        Limits of the prior.
    scales : array (d,), optional
        Typical widths of the posterior. By default the widths of the proposals, otherwise of the reference
        distribution, otherwise of the prior. A parameter with a single number as reference is moved by about a third
        of its width.
    log : Logger

    Attributes
    ----------
    scales : array (d,)

    Raises
    ------
    LoggedError
        Scales are not positive, or there is not one for each parameter.
    """

    def __init__(self, model: Model, bounds: tuple[np.ndarray, np.ndarray], scales: np.ndarray | None, log: Logger):
        self._model, self._bounds, self._log = model, bounds, log
        self.scales = self._widths() if scales is None else np.asarray(scales, dtype=np.float64)
        if self.scales.shape != bounds[0].shape or not (self.scales > 0).all():
            names = ", ".join(model.parameterization.sampled_params())
            raise LoggedError(log, "scales: needs a positive number for each of %s; got %s.", names, scales)
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
        """Draw a point of positive prior. Points differ even if the reference is a single number.

        Parameters
        ----------
        rng : Generator
        finite : bool
            Whether the log-posterior must be finite, too.

        Returns
        -------
        array (d,)

        Raises
        ------
        LoggedError
            No such point was found.
        """
        for _ in range(_MAX_TRIES):
            point = self._draw_of_prior(rng)
            if not finite or np.isfinite(log_posteriors(self._model, point[None])[0]):
                return point
        raise LoggedError(
            self._log,
            "None of %d draws from the reference distribution has a finite log-posterior. Give sampled parameters a "
            "'ref' inside the supported region of the model.",
            _MAX_TRIES,
        )

    def _draw_of_prior(self, rng: np.random.Generator) -> np.ndarray:
        prior = self._model.prior
        pointlike = np.array([isinstance(ref, numbers.Real) and not math.isnan(ref) for ref in prior.ref_pdf])
        for _ in range(_MAX_TRIES):
            point = prior.reference(max_tries=_MAX_TRIES, warn_if_no_ref=False, random_state=rng)
            point[pointlike] += 0.3 * (self.scales * rng.standard_normal(len(point)))[pointlike]
            # Avoid edges, where numerical derivatives are one-sided.
            margin = 0.02 * self.scales
            low, high = self._bounds
            if ((point > low + margin) & (point < high - margin)).all() and prior.logp(point) > -np.inf:
                return point
        message = (
            "None of %d draws from the reference distribution is within the prior: widen the prior, or change 'ref'."
        )
        raise LoggedError(self._log, message, _MAX_TRIES)

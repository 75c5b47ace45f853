"""Cobaya likelihood of projected correlation functions, as surveys measure them: w_gg and w_g+, or the quadrupole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from cobaya.log import LoggedError

from iaemu.binning import BinningError
from iaemu.measurement import Measurement, MeasurementError
from iaemu.observables.projected import PROJECTION_OF, Projection
from iaemu.ranges import Range
from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.likelihoods.surveys import read_survey


class ProjectedCorrelations(IACorrelations):
    """Likelihood of w_gg, w_g+, both with their joint covariance, or of the quadrupole of the position-shape correlation.

    The theory needs the shape amplitude for w_g+: the parameter ``e_rms`` or ``a_shape``, see its YAML.

    Attributes
    ----------
    pi_max : float or None
        Largest line-of-sight separation [Mpc/h].

    The others are those of :class:`IACorrelations`, with r_p in place of r, and w in Mpc/h.
    """

    pi_max: Annotated[float, Range(above=0)] | None
    covariance_files: Any
    edges: Any

    _known: ClassVar[tuple[str, ...]] = tuple(PROJECTION_OF)

    def _read_source(self) -> Measurement:
        return read_survey(self.data, pi_max=self.pi_max)

    def _find_bins(self) -> None:
        """Request each statistic at its own separations, all in one projection for each Pi_max."""
        pi_max = self.pi_max if self.pi_max is not None else self.measurement.metadata.get("pi_max")
        self.pi_max = None if pi_max is None else float(pi_max)
        groups = [[name for name in self.statistics if name != "xi_gplus_2"], ["xi_gplus_2"]]
        for group in groups:
            names = [name for name in group if name in self.statistics]
            if not names:
                continue
            try:
                limits = {name: (self.bins[name].r_low, self.bins[name].r_high) for name in names}
                projection = Projection.between(limits, self.pi_max)
            except BinningError as error:
                raise MeasurementError(f"{self.measurement.name}: {error} (Option 'pi_max' of the likelihood.)") from error
            for name in names:
                self._keys[name], self._options_of[name] = projection, {"projection": projection}
                self._index[name] = slice(None)

"""Cobaya likelihood of projected correlation functions, as surveys measure them: w_gg and w_g+, or the quadrupole."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, cast

from cobaya.log import LoggedError

from iaemu.measurement import Measurement, MeasurementError
from iaemu.observables.projected import PROJECTION_OF, Projection
from iaemu.ranges import Range
from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.likelihoods.surveys import read_survey


class ProjectedCorrelations(IACorrelations):
    """Likelihood of w_gg and w_g+ with their joint covariance, and of the quadrupole of the position-shape correlation.

    The theory needs the shape amplitude for w_g+: the parameter ``e_rms`` or ``a_shape``, see its YAML.

    Attributes
    ----------
    pi_max : float or None
        Largest line-of-sight separation [Mpc/h].

    The others are those of :class:`IACorrelations`, with r_p in place of r, and w in Mpc/h.
    """

    data: Any
    pi_max: Annotated[float, Range(above=0)] | None
    read_options: dict | None

    _known: ClassVar[Sequence[str]] = tuple(PROJECTION_OF)

    def _read_source(self) -> Measurement:
        if not isinstance(self.data, (str, os.PathLike, Mapping)):
            raise LoggedError(self.log, "data: give a file, a name, or {statistic: file}; got %s.", self.data)
        options = dict(self.read_options or {})
        known = list(inspect.signature(read_survey).parameters)[1:]
        unknown = [str(name) for name in options if name not in known]
        if unknown or "pi_max" in options:
            raise LoggedError(
                self.log,
                "read_options: unknown option(s) %s; the options are %s.",
                ", ".join(unknown) or "pi_max (give it beside read_options)",
                ", ".join(name for name in known if name != "pi_max"),
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            measurement = read_survey(cast(Any, self.data), pi_max=self.pi_max, **options)
        for warning in caught:
            self.mpi_warning("%s", warning.message)
        return measurement

    def _find_bins(self) -> None:
        """Request each statistic at its own separations, all in one projection for each Pi_max."""
        pi_max = self.pi_max if self.pi_max is not None else self.measurement.metadata.get("pi_max")
        for group in (("w_gg", "w_gplus"), ("xi_gplus_2",)):
            names = [name for name in group if name in self.statistics]
            if not names:
                continue
            try:
                limits = {name: (self.bins[name].r_low, self.bins[name].r_high) for name in names}
                projection = Projection.between(limits, pi_max)
            except ValueError as error:
                raise MeasurementError(
                    f"{self.measurement.name}: {error} Neither the file nor the option 'pi_max' states it."
                    if pi_max is None
                    else f"{self.measurement.name}: {error}"
                ) from error
            for name in names:
                self._keys[name], self.requests[name] = projection, {"projection": projection}
                self._index[name] = slice(None)

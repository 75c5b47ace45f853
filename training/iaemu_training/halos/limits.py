"""The region of parameters that halo catalogues support, from their resolution and their volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iaemu.parameters import ZHENG07_LINE, Support
from iaemu.ranges import Range
from iaemu_training.halos.catalogue import BORROWING_EDGES, CatalogueError, HaloCatalogue
from iaemu_training.halos.columns import MIN_PARTICLES

#: The paper's range of logMmin, beyond which the line of Zheng et al. 2007 is an extrapolation.
PAPER_LOGMMIN = (11.0, 15.0)
#: Least number of hosts above 10^logMmin in all boxes together. With 200, the innermost of the paper's bins, which has
#: the fewest pairs, expects one or two pairs on the line of Zheng et al. 2007.
MIN_HOSTS = 200
#: Least number of hosts above 10^logM0, the mass below which a host has no satellites.
MIN_SATELLITE_HOSTS = 100

#: Values allowed for a log10 of a mass in Msun/h.
_LOG_MASS = Range(at_least=0, at_most=20)


@dataclass(frozen=True)
class CatalogueLimits:
    """Limits of the parameters that halo catalogues support; masses in log10 Msun/h.

    Attributes
    ----------
    log_mass_complete : float or None
        Mass above which the catalogue is complete; None if it does not state its particle mass.
    logMmin_low : float or None
        Smallest ``logMmin`` that the resolution supports, rounded up to 0.1: with ``sigma_logM`` one standard deviation
        above the line of Zheng et al. 2007, 99 % of the centrals live in halos above ``log_mass_complete``.
    logMmin_high : float
        Largest ``logMmin`` that the volume supports, rounded down to 0.1; see ``MIN_HOSTS``.
    logM0_max : float
        Largest ``logM0`` that the volume supports, rounded down to 0.01; see ``MIN_SATELLITE_HOSTS``.
    n_hosts : int
        Number of hosts above ``10^logMmin_high``.
    """

    log_mass_complete: float | None
    logMmin_low: float | None
    logMmin_high: float
    logM0_max: float
    n_hosts: int

    @classmethod
    def of(cls, catalogues: Sequence[HaloCatalogue], log_mass_complete: float | None = None) -> CatalogueLimits:
        """Return the limits of catalogues whose pair sums are added.

        Parameters
        ----------
        catalogues : sequence of HaloCatalogue
            One or more catalogues.
        log_mass_complete : float, optional
            Mass above which the catalogues are complete [log10 Msun/h]. By default the largest of: the mass of 40
            particles, if all catalogues state their ``particle_mass``; the ``min_mass`` at which a catalogue was cut;
            and 10^10.5 Msun/h, below which halotools' model takes no hosts.

        Returns
        -------
        CatalogueLimits

        Raises
        ------
        CatalogueError
            There is no catalogue, or ``log_mass_complete`` is not between 0 and 20.
        """
        if not catalogues or not all(isinstance(catalogue, HaloCatalogue) for catalogue in catalogues):
            raise CatalogueError(f"catalogues must be one or more halo catalogues, got {catalogues!r:.100}.")
        if log_mass_complete is not None:
            _LOG_MASS.check("log_mass_complete (--complete-above)", log_mass_complete, error=CatalogueError)
        if log_mass_complete is None and all("particle_mass" in c.attributes for c in catalogues):
            log_mass_complete = round(max(_log_mass_complete(catalogue) for catalogue in catalogues), 4)
        low = None
        if log_mass_complete is not None:
            low = max(PAPER_LOGMMIN[0], math.ceil(10 * _smallest_logMmin(log_mass_complete)) / 10)
        masses = np.sort(np.concatenate([catalogue.log_mass for catalogue in catalogues]))
        high = min(PAPER_LOGMMIN[1], _round_down(_mass_with_hosts_above(masses, MIN_HOSTS), 10))
        return cls(
            log_mass_complete=log_mass_complete,
            logMmin_low=low,
            logMmin_high=high,
            logM0_max=_round_down(_mass_with_hosts_above(masses, MIN_SATELLITE_HOSTS), 100),
            n_hosts=int(np.sum(masses > high)),
        )

    def support(self, logMmin: tuple[float, float] | None = None, logM0_max: float | None = None) -> Support:
        """Return the supported region within these limits.

        Parameters
        ----------
        logMmin : (float, float), optional
            Range of ``logMmin`` [log10 Msun/h]; by default from ``logMmin_low`` to ``logMmin_high``.
        logM0_max : float, optional
            Largest ``logM0`` [log10 Msun/h]; by default that of the catalogues.

        Returns
        -------
        Support

        Raises
        ------
        CatalogueError
            The range exceeds the limits or is empty; or ``logMmin_low`` is not known and no range is given.
        ValueError
            At an end of the range, no value of another parameter is allowed.
        """
        if logMmin is None:
            if self.logMmin_low is None:
                raise CatalogueError(
                    "The catalogue does not state its particle_mass, so the smallest logMmin that its resolution "
                    "supports is not known. Give --complete-above (log10 of the mass in Msun/h above which the "
                    "catalogue is complete), or the range of logMmin."
                )
            logMmin = (self.logMmin_low, self.logMmin_high)
            if logMmin[0] >= logMmin[1]:
                raise CatalogueError(
                    f"The catalogue supports no logMmin: its resolution requires at least {logMmin[0]:g}, its volume "
                    f"at most {logMmin[1]:g} ({MIN_HOSTS} hosts above it). Use a larger box, more boxes, or one of "
                    "higher resolution."
                )
        if not isinstance(logMmin, (tuple, list)) or len(logMmin) != 2:
            raise CatalogueError(f"logMmin must be a pair, the lower and the upper limit; got {logMmin!r:.60}.")
        for limit in logMmin:
            _LOG_MASS.check("A limit of logMmin", limit, error=CatalogueError)
        if logMmin[0] >= logMmin[1]:
            raise CatalogueError(f"The lower limit of logMmin must be below the upper one, got {logMmin}.")
        if self.logMmin_low is not None and logMmin[0] < self.logMmin_low - 1e-9:
            raise CatalogueError(
                f"logMmin = {logMmin[0]:g} is below {self.logMmin_low:g}, the smallest that the catalogue's resolution "
                f"supports: it is complete above 10^{self.log_mass_complete:g} Msun/h, and more than 1 % of the "
                f"centrals would live in smaller halos. Raise logMmin, or use a catalogue of higher resolution."
            )
        if logMmin[1] > self.logMmin_high + 1e-9:
            raise CatalogueError(
                f"logMmin = {logMmin[1]:g} is above {self.logMmin_high:g}, the largest that the catalogue's volume "
                f"supports: with fewer than {MIN_HOSTS} hosts above it, bins at small r have too few pairs. Lower "
                f"logMmin, or use a larger box or more boxes."
            )
        logM0_max = self.logM0_max if logM0_max is None else logM0_max
        _LOG_MASS.check("logM0_max", logM0_max, error=CatalogueError)
        if logM0_max > self.logM0_max + 1e-9:
            raise CatalogueError(
                f"logM0_max = {logM0_max:g} is above {self.logM0_max:g}, beyond which the catalogue has fewer than "
                f"{MIN_SATELLITE_HOSTS} hosts. Lower logM0_max, or use a larger box or more boxes."
            )
        return Support(logMmin=(logMmin[0], logMmin[1]), log_mass_complete=self.log_mass_complete, logM0_max=logM0_max)

    def __str__(self) -> str:
        low = (
            "unknown (the catalogue states no particle_mass)"
            if self.logMmin_low is None
            else f"{self.logMmin_low:g} (catalogue complete above 10^{self.log_mass_complete:g} Msun/h)"
        )
        return (
            f"logMmin from {low} to {self.logMmin_high:g} ({self.n_hosts} hosts above it); "
            f"logM0 up to {self.logM0_max:g}"
        )


def _log_mass_complete(catalogue: HaloCatalogue) -> float:
    smallest = MIN_PARTICLES * float(catalogue.attributes["particle_mass"])
    cut = float(catalogue.attributes.get("min_mass") or 0.0)
    return max(math.log10(max(smallest, cut)), float(BORROWING_EDGES[0]))


def _smallest_logMmin(log_mass_complete: float, support: Support | None = None) -> float:
    """Return the ``logMmin`` at which the limit on ``sigma_logM`` is one standard deviation above its line."""
    n_sigma = (support or Support()).n_sigma_complete
    slope, intercept, rmse = ZHENG07_LINE["sigma_logM"]
    return (log_mass_complete + n_sigma * (intercept + rmse)) / (1.0 - n_sigma * slope)


def _mass_with_hosts_above(sorted_log_mass: np.ndarray, n: int) -> float:
    return float(sorted_log_mass[-min(n, len(sorted_log_mass))])


def _round_down(value: float, steps: int) -> float:
    return math.floor(steps * value) / steps

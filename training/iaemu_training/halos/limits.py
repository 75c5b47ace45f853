"""Where in parameter space to train: the range that a catalogue supports, and sets of points that fill it."""

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
#: Hosts above 10^logMmin, in all boxes together, below which radial bins run empty: with 200, the emptiest of the
#: paper's bins (the innermost) expects one or two pairs at the middle of the tube.
MIN_HOSTS = 200
#: Hosts above 10^logM0, without which hardly any host has a satellite.
MIN_SATELLITE_HOSTS = 100

#: Of what is a log10 of a mass in Msun/h.
_LOG_MASS = Range(at_least=0, at_most=20)


@dataclass(frozen=True)
class CatalogueLimits:
    """What halo catalogues support; masses in log10 Msun/h.

    Attributes
    ----------
    log_mass_complete : float or None
        Mass above which the halos are complete; None if the catalogue does not state its particle mass.
    logMmin_low : float or None
        Smallest ``logMmin`` that the resolution supports: there, ``sigma_logM`` one RMSE above its line still leaves
        99 % of the centrals in halos that the catalogue holds. Rounded up to 0.1.
    logMmin_high : float
        Largest ``logMmin`` that the volume supports, see ``MIN_HOSTS``. Rounded down to 0.1.
    logM0_max : float
        See ``MIN_SATELLITE_HOSTS``. Rounded down to 0.01.
    n_hosts : int
        Hosts above ``10^logMmin_high``.
    """

    log_mass_complete: float | None
    logMmin_low: float | None
    logMmin_high: float
    logM0_max: float
    n_hosts: int

    @classmethod
    def of(cls, catalogues: Sequence[HaloCatalogue], log_mass_complete: float | None = None) -> CatalogueLimits:
        """Limits of catalogues that are used together, their pair sums added.

        Parameters
        ----------
        catalogues : sequence of HaloCatalogue
        log_mass_complete : float, optional
            By default the largest of: the mass of 40 particles, if all catalogues state their ``particle_mass``; the
            ``min_mass`` to which one was cut; the lowest mass of hosts that halotools' model takes.

        Raises
        ------
        CatalogueError
            There is no catalogue, or ``log_mass_complete`` is no log10 of a mass.
        """
        if not catalogues or not all(isinstance(catalogue, HaloCatalogue) for catalogue in catalogues):
            raise CatalogueError(f"Limits are those of one or more halo catalogues, got {catalogues!r:.100}.")
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
        """The tube within the limits.

        Parameters
        ----------
        logMmin : (float, float), optional
            A narrower range; the limits by default.
        logM0_max : float, optional
            A lower limit than the catalogue's.

        Raises
        ------
        CatalogueError
            A range beyond the limits, with the limit and its reason, or none at all; or no lower limit is known and
            none is given.
        ValueError
            At the ends of the range, nothing is left of the range of another parameter.
        """
        if logMmin is None:
            if self.logMmin_low is None:
                raise CatalogueError(
                    "The catalogue does not state its particle_mass, so the smallest logMmin that its resolution "
                    "supports is not known. Give --complete-above (the log10 mass above which its halos are complete) "
                    "or the range of logMmin."
                )
            logMmin = (self.logMmin_low, self.logMmin_high)
            if logMmin[0] >= logMmin[1]:
                raise CatalogueError(
                    f"The catalogue supports no logMmin: its resolution supports {logMmin[0]:g} and more, its volume "
                    f"{logMmin[1]:g} and less ({MIN_HOSTS} hosts above). Use a larger box, more boxes, or one of "
                    "higher resolution."
                )
        if not isinstance(logMmin, (tuple, list)) or len(logMmin) != 2:
            raise CatalogueError(f"logMmin must be a lower and an upper limit, got {logMmin!r:.60}.")
        for limit in logMmin:
            _LOG_MASS.check("A limit of logMmin", limit, error=CatalogueError)
        if logMmin[0] >= logMmin[1]:
            raise CatalogueError(f"The lower limit of logMmin must be below the upper one, got {logMmin}.")
        if self.logMmin_low is not None and logMmin[0] < self.logMmin_low - 1e-9:
            raise CatalogueError(
                f"logMmin = {logMmin[0]:g} is below {self.logMmin_low:g}, the smallest that the catalogue's resolution "
                f"supports: its halos are complete above 10^{self.log_mass_complete:g} Msun/h, and more than 1 % of "
                f"the centrals would live in smaller ones. Raise it, or use a catalogue of higher resolution."
            )
        if logMmin[1] > self.logMmin_high + 1e-9:
            raise CatalogueError(
                f"logMmin = {logMmin[1]:g} is above {self.logMmin_high:g}, the largest that the catalogue's volume "
                f"supports: at least {MIN_HOSTS} hosts must lie above it, or bins at small r run empty. Lower it, or "
                f"use a larger box or more boxes."
            )
        logM0_max = self.logM0_max if logM0_max is None else logM0_max
        _LOG_MASS.check("logM0_max", logM0_max, error=CatalogueError)
        if logM0_max > self.logM0_max + 1e-9:
            raise CatalogueError(
                f"logM0_max = {logM0_max:g} is above {self.logM0_max:g}, beyond which the catalogue holds fewer than "
                f"{MIN_SATELLITE_HOSTS} hosts. Lower it, or use a larger box or more boxes."
            )
        return Support(logMmin=(logMmin[0], logMmin[1]), log_mass_complete=self.log_mass_complete, logM0_max=logM0_max)

    def __str__(self) -> str:
        low = (
            "unknown (the catalogue states no particle_mass)"
            if self.logMmin_low is None
            else f"{self.logMmin_low:g} (halos complete above 10^{self.log_mass_complete:g} Msun/h)"
        )
        return (
            f"logMmin from {low} to {self.logMmin_high:g} ({self.n_hosts} hosts above); logM0 up to {self.logM0_max:g}"
        )


def _log_mass_complete(catalogue: HaloCatalogue) -> float:
    smallest = MIN_PARTICLES * float(catalogue.attributes["particle_mass"])
    cut = float(catalogue.attributes.get("min_mass") or 0.0)
    return max(math.log10(max(smallest, cut)), float(BORROWING_EDGES[0]))


def _smallest_logMmin(log_mass_complete: float, support: Support | None = None) -> float:
    """``logMmin`` at which the cap on ``sigma_logM`` meets the line plus one RMSE."""
    n_sigma = (support or Support()).n_sigma_complete
    slope, intercept, rmse = ZHENG07_LINE["sigma_logM"]
    return (log_mass_complete + n_sigma * (intercept + rmse)) / (1.0 - n_sigma * slope)


def _mass_with_hosts_above(sorted_log_mass: np.ndarray, n: int) -> float:
    return float(sorted_log_mass[-min(n, len(sorted_log_mass))])


def _round_down(value: float, steps: int) -> float:
    return math.floor(steps * value) / steps

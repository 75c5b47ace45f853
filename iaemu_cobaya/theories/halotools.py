"""The Cobaya theory that populates halotools-IA mocks at every point."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any

from cobaya.log import LoggedError

from iaemu.extras import it_takes
from iaemu.models.base import ForwardModel
from iaemu.parameters import SLOPES
from iaemu.ranges import Range
from iaemu_cobaya.theories.base import ForwardModelTheory

#: Number of points between two lines of the log.
_REPORT_EVERY = 50


class HalotoolsIA(ForwardModelTheory):
    """Galaxy alignment correlation functions of halotools-IA mocks, populated at every point (no gradient).

    The products are those of the other theories. Predictions are ratios of pair sums over all mocks of a point. Their
    standard error, from a jackknife over the realisations, is in ``ia_<statistic>_deviations``. The strengths may
    depend on host mass and on the radius of a satellite, by halotools' own components for these laws.

    Attributes
    ----------
    pivot : float
        log10 of the host mass [Msun/h] at which the strength of centrals is ``mu_cen``.
    model : iaemu_training.mocks.ensemble.MockEnsemble
        Its ``n_mocks`` is the number of mocks populated so far.
    """

    catalogue: list | tuple | str | os.PathLike
    n_realisations: Annotated[int, Range(at_least=2, at_most=100_000)]
    seeds: str
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)]
    processes: Annotated[int, Range(at_least=1, at_most=1024)]
    pivot: Annotated[float, Range(at_least=8, at_most=17)]

    model: Any  # a MockEnsemble, whose package is imported only when needed

    # The number of processes may change: the mocks stay the same.
    _at_resume_prefer_new = [*ForwardModelTheory._at_resume_prefer_new, "processes"]

    def _load_model(self) -> ForwardModel:
        catalogues = [self.catalogue] if isinstance(self.catalogue, str | os.PathLike) else list(self.catalogue)
        try:
            from iaemu_training.mocks.ensemble import MockEnsemble

            options = (self.n_realisations, self.seed, self.seeds, self.processes)
            model = MockEnsemble(catalogues, *options, slopes=SLOPES, pivot=self.pivot)
        except ImportError as error:
            raise LoggedError(self.log, "%s", it_takes(error)) from error
        except (ValueError, OSError) as error:
            raise LoggedError(self.log, "%s", error) from error
        self._began: float | None = None
        self.mpi_info(
            "Mocks of %s: %d of each at every point, with %s seeds from %d.",
            ", ".join(model.catalogues),
            self.n_realisations,
            self.seeds,
            self.seed,
        )
        return model

    def _warn_without_box_error(self) -> None:
        """Do nothing: the deviations of mocks are their standard error at the given halo catalogues."""

    def calculate(self, state: dict, want_derived: bool = True, **params_values_dict: float) -> bool:
        """Populate mocks at one point, and store their statistics in ``state``.

        Parameters
        ----------
        state, want_derived, **params_values_dict
            See :meth:`ForwardModelTheory.calculate`.

        Returns
        -------
        bool
        """
        before = self.model.n_points
        if self._began is None:
            self._began = time.monotonic()
        done = super().calculate(state, want_derived, **params_values_dict)
        if self.model.n_points > before and self.model.n_points % _REPORT_EVERY == 0:
            self._report()
        return done

    def _report(self) -> None:
        elapsed = time.monotonic() - (self._began or time.monotonic())
        self.log.info(
            "%d mocks populated at %d points, %.3g s per point.",
            self.model.n_mocks,
            self.model.n_points,
            elapsed / self.model.n_points,
        )

    def close(self, *args: Any) -> None:
        """End the worker processes, and log the number of mocks.

        Parameters
        ----------
        *args
            Arguments of Cobaya.
        """
        if self.model.n_points:
            self._report()
        self.model.close()
        super().close()
        super().close(*args)

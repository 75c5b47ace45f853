"""The Cobaya theories that predict with a trained network or with tables."""

from __future__ import annotations

import os
from typing import Annotated

from cobaya.log import LoggedError

from iaemu.models import BoxError, Emulator, ForwardModel, MassDependentModel, TabulatedModel
from iaemu.ranges import Range
from iaemu_cobaya.theories.base import DifferentiableTheory


class IAEmu(DifferentiableTheory):
    """Emulator of galaxy alignment correlation functions (after IAEmu, arXiv:2504.05235)."""

    box_error: str | os.PathLike | None

    def _load_artifact(self, path) -> ForwardModel:
        return _with_box_error(Emulator.load(path), self.box_error)


class TabulatedIA(DifferentiableTheory):
    """Exact expectation of galaxy alignment correlation functions, from tables of pair sums of halo catalogues."""

    box_error: str | os.PathLike | None

    def _load_artifact(self, path) -> ForwardModel:
        return _with_box_error(TabulatedModel.load(path), self.box_error)


class MassDependentIA(TabulatedIA):
    """TabulatedIA with an alignment strength of centrals that is linear in the log of the mass of their host halo.

    mu_cen(M) = mu_cen + mu_cen_slope (log10 M - pivot), clipped to [-1, 1]; see :mod:`iaemu.models.laws`.

    Attributes
    ----------
    pivot : float
        log10 of the host mass [Msun/h] at which the strength is ``mu_cen``.
    """

    pivot: Annotated[float, Range(at_least=8, at_most=17)]

    def _load_model(self) -> ForwardModel:
        tables = super()._load_model()
        if not isinstance(tables, TabulatedModel):
            raise LoggedError(self.log, "artifact: must be tables; got a %s.", type(tables).__name__)
        try:
            return MassDependentModel(tables, self.pivot)
        except ValueError as error:
            raise LoggedError(self.log, "%s", error) from error


def _with_box_error(model: ForwardModel, path: str | os.PathLike | None) -> ForwardModel:
    if path is not None:
        model.box_error = BoxError.load(path)
    return model

"""The Cobaya theories that predict with a trained network or with tables."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar

from cobaya.log import LoggedError

from iaemu.models import (
    BoxError,
    Emulator,
    ForwardModel,
    InterpolatedTables,
    RedshiftError,
    TabulatedModel,
    VaryingStrengthModel,
)
from iaemu.parameters import SLOPES
from iaemu.ranges import Range
from iaemu_cobaya.theories.base import DifferentiableTheory


class ArtifactTheory(DifferentiableTheory):
    """Base of the theories whose model is in a file.

    Attributes
    ----------
    box_error : path or None
    redshift : float or None
    """

    box_error: str | os.PathLike | None
    redshift: Annotated[float, Range(above=-1)] | None

    _kind: ClassVar[type[ForwardModel]]

    def _load_artifact(self, path) -> ForwardModel:
        return self._with_box_error(self._kind.load(path))

    def _with_box_error(self, model: ForwardModel) -> ForwardModel:
        if self.box_error is not None:
            model.box_error = BoxError.load(self.box_error)
        return model

    def _load_model(self) -> ForwardModel:
        model = super()._load_model()
        self._chosen_redshift = self.redshift
        if self.redshift is not None:
            try:
                model = model.at_redshift(self.redshift)
            except RedshiftError as error:
                raise LoggedError(self.log, "%s", error) from error
        try:
            return model if isinstance(model, VaryingStrengthModel) else self._with_slopes(model)
        except ValueError as error:
            raise LoggedError(self.log, "%s", error) from error

    def _with_slopes(self, model: ForwardModel) -> VaryingStrengthModel:
        """Return the model with the slopes that are parameters of this theory."""
        raise NotImplementedError


class IAEmu(ArtifactTheory):
    """Emulator of galaxy alignment correlation functions (after IAEmu, arXiv:2504.05235)."""

    _kind = Emulator

    def _with_slopes(self, model: ForwardModel) -> VaryingStrengthModel:
        return VaryingStrengthModel(model, slopes=SLOPES[1:])


class TabulatedIA(ArtifactTheory):
    """Exact expectation of galaxy alignment correlation functions, from tables of pair sums of halo catalogues.

    The strengths may depend on host mass and on the radius of a satellite; see :mod:`iaemu.models.laws`.

    Attributes
    ----------
    pivot : float
        log10 of the host mass [Msun/h] at which the strength of centrals is ``mu_cen``.
    """

    pivot: Annotated[float, Range(at_least=8, at_most=17)]

    _kind = TabulatedModel

    def _load_artifact(self, path) -> ForwardModel:
        if not isinstance(path, list | tuple):
            return super()._load_artifact(path)
        return self._with_box_error(InterpolatedTables.load(path))

    def _with_slopes(self, model: ForwardModel) -> VaryingStrengthModel:
        return VaryingStrengthModel(model, self.pivot, SLOPES)


class MassDependentIA(TabulatedIA):
    """TabulatedIA whose slope of the strength of centrals in host mass is sampled by default."""

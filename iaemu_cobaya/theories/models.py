"""The Cobaya theories that predict with a trained network or with tables."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

import torch
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
from iaemu.models.growth import RescaledModel, sigma8_of
from iaemu.parameters import SLOPES
from iaemu.ranges import Range
from iaemu_cobaya.gradients.torch_functions import RejectedRows
from iaemu_cobaya.theories.base import DifferentiableTheory


class ArtifactTheory(DifferentiableTheory):
    """Base of the theories whose model is in a file.

    Attributes
    ----------
    box_error : path or None
    redshift : float or None
    rescale : "growth" or None
    """

    box_error: str | os.PathLike | None
    redshift: Annotated[float, Range(above=-1)] | None
    rescale: str | None

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

    # ------------------------------------------------------------------ another cosmology

    def initialize(self) -> None:
        """Load the forward model, and see whether it can be rescaled if the run asks for it."""
        super().initialize()
        self._rescaled: tuple[Any, float] | None = None
        if self.rescale not in (None, "growth"):
            raise LoggedError(self.log, "rescale: must be 'growth' or null; got '%s'.", self.rescale)
        if self.rescale:
            try:
                sigma8_of(self.model)
            except ValueError as error:
                raise LoggedError(self.log, "rescale: %s", error) from error

    def get_requirements(self) -> dict[str, Any]:
        """Return the model's parameters, under their names in this run, and sigma8(z) with the option ``rescale``.

        Returns
        -------
        dict
        """
        return super().get_requirements() | self._sigma8_z()

    def must_provide(self, **requirements: Mapping | None) -> dict[str, Any]:
        """Register what a likelihood needs, see :class:`ForwardModelTheory`.

        Parameters
        ----------
        **requirements

        Returns
        -------
        dict
            sigma8(z) with the option ``rescale``: the redshift of the data may have changed that of the model.
        """
        super().must_provide(**requirements)
        return self._sigma8_z()

    def _sigma8_z(self) -> dict[str, Any]:
        return {"sigma8_z": {"z": [self._redshift]}} if self.rescale else {}

    @property
    def _redshift(self) -> float:
        return self.model.redshift or 0.0

    def _evaluate(self, params: Mapping, derived: Collection[str]) -> dict[str, Any]:
        if self.rescale:
            self._rescale(next((len(value) for value in params.values() if isinstance(value, torch.Tensor)), 1))
        return super()._evaluate(params, derived)

    def _rescale(self, n: int) -> None:
        """Evaluate the model at the run's sigma8(z), for n points that have it in common."""
        sigma8 = float(self.provider.get_sigma8_z([self._redshift])[0])
        if self._rescaled == (self.model, sigma8):
            return
        try:
            self._evaluation.use(RescaledModel(self.model, sigma8), self.names)
        except ValueError as error:
            if self.support != "reject" or self.stop_at_error:
                raise LoggedError(self.log, "rescale: %s", error) from error
            self.log.debug("Rejected: %s", error)
            raise RejectedRows(torch.ones(n, dtype=torch.bool)) from error
        self._rescaled = self.model, sigma8

    def _what_follows_cosmology(self) -> str:
        if not self.rescale:
            return super()._what_follows_cosmology()
        return (
            f"of these, its prediction follows sigma8 at z = {self._redshift:g} alone, in linear theory at fixed "
            "occupation (rescale: growth)"
        )


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

"""Forward models, which map parameters to xi, omega and eta; their common interface is in ``base``."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from iaemu.models.base import ForwardModel
from iaemu.models.box_error import BoxError
from iaemu.models.factorised import Emulator
from iaemu.models.iaemunet import IAEmuNetEmulator
from iaemu.models.interpolated import InterpolatedTables
from iaemu.models.laws import VaryingStrengthModel
from iaemu.models.redshifts import RedshiftError
from iaemu.models.tables import TabulatedModel

__all__ = [
    "BoxError",
    "Emulator",
    "ForwardModel",
    "IAEmuNetEmulator",
    "InterpolatedTables",
    "RedshiftError",
    "TabulatedModel",
    "VaryingStrengthModel",
    "load",
]


def load(path: str | PathLike | Sequence[str | PathLike] | None = None, redshift: float | None = None) -> ForwardModel:
    """Load a model from a file: an emulator or tables.

    Parameters
    ----------
    path : path-like, or sequence of path-like, optional
        A file, or the name of a shipped model: ``factorised-pm160`` (the emulator, the default), ``tables-pm160`` or
        ``iaemunet-pm160`` (the paper's network). Several files of tables, of the same boxes at several redshifts, make
        one model, which interpolates between them.
    redshift : float, optional
        Redshift of the predictions, in ``redshift_range`` of the model; by default 0, or the nearest to it. See
        :meth:`ForwardModel.at_redshift`.

    Returns
    -------
    ForwardModel
        An :class:`iaemu.Emulator`, :class:`iaemu.TabulatedModel`, :class:`iaemu.IAEmuNetEmulator` or
        :class:`iaemu.InterpolatedTables`.

    Raises
    ------
    iaemu.artifact.ArtifactError
        A file is missing, corrupt or not made by iaemu, does not reproduce its golden predictions, or does not belong
        to the others. It is a ``ValueError``.
    iaemu.RedshiftError
        The model cannot go to the redshift.
    """
    model: ForwardModel
    if isinstance(path, list | tuple):
        model = InterpolatedTables.load(path)
    else:
        model = Emulator.load() if path is None else ForwardModel.load(path)
    return model if redshift is None else model.at_redshift(redshift)

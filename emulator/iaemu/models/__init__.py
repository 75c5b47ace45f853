"""Forward models, which map parameters to xi, omega and eta; their common interface is in ``base``."""

from __future__ import annotations

from os import PathLike

from iaemu.models.base import ForwardModel
from iaemu.models.box_error import BoxError
from iaemu.models.factorised import Emulator
from iaemu.models.iaemunet import IAEmuNetEmulator
from iaemu.models.laws import VaryingStrengthModel
from iaemu.models.tables import TabulatedModel

__all__ = ["BoxError", "Emulator", "ForwardModel", "IAEmuNetEmulator", "TabulatedModel", "VaryingStrengthModel", "load"]


def load(path: str | PathLike | None = None) -> ForwardModel:
    """Load a model from a file: an emulator or tables.

    Parameters
    ----------
    path : path-like, optional
        A file, or the name of a shipped model: ``factorised-pm160`` (the emulator, the default), ``tables-pm160`` or
        ``iaemunet-pm160`` (the paper's network).

    Returns
    -------
    ForwardModel
        An :class:`iaemu.Emulator`, :class:`iaemu.TabulatedModel` or :class:`iaemu.IAEmuNetEmulator`.

    Raises
    ------
    iaemu.artifact.ArtifactError
        The file is missing, corrupt or not made by iaemu, or does not reproduce its golden predictions. It is a
        ``ValueError``.
    """
    return Emulator.load() if path is None else ForwardModel.load(path)

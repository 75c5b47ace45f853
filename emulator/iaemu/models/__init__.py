"""Forward models: from parameters to xi, omega and eta. ``base`` says what each of them promises."""

from __future__ import annotations

from os import PathLike

from iaemu.models.base import ForwardModel
from iaemu.models.box_error import BoxError
from iaemu.models.factorised import Emulator
from iaemu.models.iaemunet import IAEmuNetEmulator
from iaemu.models.laws import MassDependentModel
from iaemu.models.tables import TabulatedModel

__all__ = ["BoxError", "Emulator", "ForwardModel", "IAEmuNetEmulator", "MassDependentModel", "TabulatedModel", "load"]


def load(path: str | PathLike | None = None) -> ForwardModel:
    """The model in a file, whichever it is: an emulator of either network, or tables.

    Parameters
    ----------
    path : path-like, optional
        A file, or the name of a shipped one (``factorised-pm160``, ``tables-pm160``, ``iaemunet-pm160``); by default
        the shipped emulator.

    Returns
    -------
    ForwardModel

    Raises
    ------
    iaemu.artifact.ArtifactError
        The file is missing, corrupt or foreign, or its golden predictions are not reproduced.
    """
    return Emulator.load() if path is None else ForwardModel.load(path)

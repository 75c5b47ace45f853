"""Galaxy intrinsic-alignment correlation functions xi(r), omega(r) and eta(r): tables, emulators and a sampler.

model = iaemu.load()                  # the shipped emulator; a path or a name loads another model
prediction = model.predict(theta)
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from iaemu._version import __version__

if TYPE_CHECKING:
    from iaemu.measurement import Bins, Covariance, Measurement, MeasurementError
    from iaemu.models import (
        BoxError,
        Emulator,
        ForwardModel,
        IAEmuNetEmulator,
        InterpolatedTables,
        RedshiftError,
        TabulatedModel,
        VaryingStrengthModel,
        load,
    )
    from iaemu.observables.projected import Projection
    from iaemu.parameters import PARAMETERS, Support, SupportError, SupportWarning
    from iaemu.prediction import FewPairsWarning, Prediction, ProjectedPrediction
    from iaemu.statistics import STATISTICS

#: Public names by module. They are imported on first use, so that ``import iaemu`` does not import torch.
_HOMES = {
    "measurement": ("Bins", "Covariance", "Measurement", "MeasurementError"),
    "models": (
        "BoxError",
        "Emulator",
        "ForwardModel",
        "IAEmuNetEmulator",
        "InterpolatedTables",
        "RedshiftError",
        "VaryingStrengthModel",
        "TabulatedModel",
        "load",
    ),
    "parameters": ("PARAMETERS", "Support", "SupportError", "SupportWarning"),
    "observables.projected": ("Projection",),
    "prediction": ("FewPairsWarning", "Prediction", "ProjectedPrediction"),
    "statistics": ("STATISTICS",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "PARAMETERS",
    "STATISTICS",
    "Bins",
    "BoxError",
    "Covariance",
    "Emulator",
    "FewPairsWarning",
    "ForwardModel",
    "IAEmuNetEmulator",
    "InterpolatedTables",
    "Measurement",
    "MeasurementError",
    "Prediction",
    "ProjectedPrediction",
    "Projection",
    "RedshiftError",
    "Support",
    "SupportError",
    "SupportWarning",
    "TabulatedModel",
    "VaryingStrengthModel",
    "__version__",
    "load",
]


def _one_thread_in_children() -> None:
    """Let torch compute in one thread in a forked process, such as those of ``multiprocessing.Pool``.

    A fork copies only the thread that calls it. The pool of OpenMP threads, which torch starts at its first larger
    operation, is missing in the child, and torch would wait for it for ever. The processes share the cores anyway.
    ``torch`` may be imported later, or never.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_in_children)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'iaemu' has no attribute {name!r}")
    value = getattr(import_module(f"iaemu.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

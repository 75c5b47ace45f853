"""Galaxy intrinsic-alignment correlation functions xi(r), omega(r) and eta(r): exact tables, emulators, samplers."""

from iaemu._version import __version__
from iaemu.parameters import PARAMETERS, Support, SupportError, SupportWarning
from iaemu.prediction import STATISTICS, ForwardModel, Prediction

__all__ = [
    "PARAMETERS",
    "STATISTICS",
    "ForwardModel",
    "Prediction",
    "Support",
    "SupportError",
    "SupportWarning",
    "__version__",
]

"""Galaxy intrinsic-alignment correlation functions for Cobaya: theories and likelihoods."""

from iaemu import __version__

from .likelihood import IACorrelations, TNG300Sample1, TNG300Sample2, TNG300Sample3
from .measurement import Bins, Covariance, Measurement, MeasurementError
from .theory import IAEmu, TabulatedIA

__all__ = [
    "Bins",
    "Covariance",
    "IACorrelations",
    "IAEmu",
    "Measurement",
    "MeasurementError",
    "TNG300Sample1",
    "TNG300Sample2",
    "TNG300Sample3",
    "TabulatedIA",
    "__version__",
]

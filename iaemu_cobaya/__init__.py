"""Galaxy intrinsic-alignment correlation functions for Cobaya: theories, likelihoods, a sampler."""

from iaemu import __version__
from iaemu.measurement import Bins, Covariance, MeasurementError

from .halotools_theory import HalotoolsIA
from .hmc import HMC
from .likelihood import IACorrelations, TNG300Sample1, TNG300Sample2, TNG300Sample3
from .measurement import Measurement
from .theory import IAEmu, MassDependentIA, TabulatedIA

__all__ = [
    "HMC",
    "Bins",
    "Covariance",
    "HalotoolsIA",
    "IACorrelations",
    "IAEmu",
    "MassDependentIA",
    "Measurement",
    "MeasurementError",
    "TNG300Sample1",
    "TNG300Sample2",
    "TNG300Sample3",
    "TabulatedIA",
    "__version__",
]

"""Galaxy intrinsic-alignment correlation functions for Cobaya: theories, likelihoods, a sampler."""

from iaemu import __version__
from iaemu.measurement import Bins, Covariance, MeasurementError
from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.likelihoods.data_files import Measurement
from iaemu_cobaya.likelihoods.packaged import TNG300Sample1, TNG300Sample2, TNG300Sample3
from iaemu_cobaya.sampler.hmc import HMC
from iaemu_cobaya.theories.halotools import HalotoolsIA
from iaemu_cobaya.theories.models import IAEmu, MassDependentIA, TabulatedIA

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

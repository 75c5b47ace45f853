"""Galaxy intrinsic-alignment correlation functions for Cobaya: theories, likelihoods, a sampler."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iaemu import __version__

if TYPE_CHECKING:
    from iaemu.measurement import Bins, Covariance, MeasurementError
    from iaemu_cobaya.likelihoods.correlations import IACorrelations
    from iaemu_cobaya.likelihoods.data_files import Measurement
    from iaemu_cobaya.likelihoods.packaged import (
        LOWZ,
        GAMARed,
        TNG300Projected,
        TNG300Sample1,
        TNG300Sample2,
        TNG300Sample3,
    )
    from iaemu_cobaya.likelihoods.projected import ProjectedCorrelations
    from iaemu_cobaya.likelihoods.shear import CosmicShear, DESY1Shear
    from iaemu_cobaya.sampler.hmc import HMC
    from iaemu_cobaya.theories.halotools import HalotoolsIA
    from iaemu_cobaya.theories.models import IAEmu, MassDependentIA, TabulatedIA

#: Where public names live. They are imported on first use, so that commands start without Cobaya and torch.
_HOME_OF = {
    "HMC": "iaemu_cobaya.sampler.hmc",
    "LOWZ": "iaemu_cobaya.likelihoods.packaged",
    "Bins": "iaemu.measurement",
    "CosmicShear": "iaemu_cobaya.likelihoods.shear",
    "Covariance": "iaemu.measurement",
    "DESY1Shear": "iaemu_cobaya.likelihoods.shear",
    "GAMARed": "iaemu_cobaya.likelihoods.packaged",
    "HalotoolsIA": "iaemu_cobaya.theories.halotools",
    "IACorrelations": "iaemu_cobaya.likelihoods.correlations",
    "IAEmu": "iaemu_cobaya.theories.models",
    "MassDependentIA": "iaemu_cobaya.theories.models",
    "Measurement": "iaemu_cobaya.likelihoods.data_files",
    "MeasurementError": "iaemu.measurement",
    "ProjectedCorrelations": "iaemu_cobaya.likelihoods.projected",
    "TNG300Projected": "iaemu_cobaya.likelihoods.packaged",
    "TNG300Sample1": "iaemu_cobaya.likelihoods.packaged",
    "TNG300Sample2": "iaemu_cobaya.likelihoods.packaged",
    "TNG300Sample3": "iaemu_cobaya.likelihoods.packaged",
    "TabulatedIA": "iaemu_cobaya.theories.models",
}

__all__ = [
    "HMC",
    "LOWZ",
    "Bins",
    "CosmicShear",
    "Covariance",
    "DESY1Shear",
    "GAMARed",
    "HalotoolsIA",
    "IACorrelations",
    "IAEmu",
    "MassDependentIA",
    "Measurement",
    "MeasurementError",
    "ProjectedCorrelations",
    "TNG300Projected",
    "TNG300Sample1",
    "TNG300Sample2",
    "TNG300Sample3",
    "TabulatedIA",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'iaemu_cobaya' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

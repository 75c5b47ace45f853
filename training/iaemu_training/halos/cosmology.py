"""A flat LCDM cosmology: by name, by file or by its parameters; expansion, growth, and CAMB's power spectra."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml

from iaemu.extras import it_takes
from iaemu.files import read_text
from iaemu.halomodel.abundance import growing_mode
from iaemu.ranges import Range, check_fields


@dataclass(frozen=True)
class Cosmology:
    """Flat LCDM with massless neutrinos.

    Attributes
    ----------
    Om, Ob : float
        Densities of matter and of baryons at z = 0, in units of the critical density.
    h : float
        H0 / (100 km/s/Mpc).
    sigma8 : float
        Linear rms of the density contrast in spheres of 8 Mpc/h at z = 0.
    ns : float
        Primordial spectral index.

    Raises
    ------
    ValueError
        A parameter is out of range.
    """

    Om: Annotated[float, Range(at_least=0.05, at_most=1)]
    Ob: Annotated[float, Range(above=0, below=1)]
    h: Annotated[float, Range(at_least=0.2, at_most=2)]
    sigma8: Annotated[float, Range(at_least=0.1, at_most=3)]
    ns: Annotated[float, Range(at_least=0.5, at_most=1.5)]

    def __post_init__(self):
        check_fields(self)
        if not self.Ob < self.Om:
            raise ValueError(f"Om includes baryons, so 0 < Ob < Om must hold; got Ob = {self.Ob}, Om = {self.Om}.")

    def __str__(self) -> str:
        return "flat LCDM " + ", ".join(f"{name} = {value:.8g}" for name, value in asdict(self).items())

    @classmethod
    def read(cls, text: str) -> Cosmology:
        """Read a cosmology as a user gives it.

        Parameters
        ----------
        text : str
            A name, ``bolplanck`` or one of colossus such as ``planck18``; a YAML file with the parameters; or
            ``Om=0.31 Ob=0.049 h=0.68 sigma8=0.81 ns=0.965``, where what is not stated is that of ``bolplanck``.

        Returns
        -------
        Cosmology

        Raises
        ------
        ValueError
            There is no such name or file, a parameter is unknown, or out of range.
        """
        if "=" in text and not Path(text).is_file():
            stated: dict[str, float] = {}
            for item in re.split(r"[\s,]+", re.sub(r"\s*=\s*", "=", text.strip())):
                name, _, value = item.partition("=")
                if name in stated:
                    raise ValueError(f"{text}: {name} is stated twice.")
                stated[name] = _number(name, value)
            return cls(**{**asdict(BOLSHOI_PLANCK), **_known(stated, text)})
        if Path(text).is_file():
            try:
                found = yaml.safe_load(read_text(text))
            except yaml.YAMLError as error:
                raise ValueError(f"{text} is not YAML: {error}") from error
            if not isinstance(found, dict):
                raise ValueError(f"{text} must hold parameters as 'name: value'; the names are {_NAMES}.")
            found = _known({name: _number(name, value) for name, value in found.items()}, text)
            missing = [field.name for field in fields(cls) if field.name not in found]
            if missing:
                raise ValueError(f"{text} lacks {', '.join(missing)}.")
            return cls(**found)
        if text == "bolplanck":
            return BOLSHOI_PLANCK
        known = colossus_cosmology().cosmologies
        if text not in known:
            raise ValueError(
                f"No cosmology or file is called {text!r}. Give bolplanck, a name of colossus "
                f"({', '.join(sorted(known))}), a YAML file, or parameters as in 'Om=0.31 h=0.68' ({_NAMES})."
            )
        found = known[text]
        return cls(found["Om0"], found["Ob0"], found["H0"] / 100.0, found["sigma8"], found["ns"])

    def attributes(self) -> dict[str, Any]:
        """Return what halo catalogues state of it: Om0, Ob, h, sigma8, ns, and all in words."""
        parameters = {"Om0" if name == "Om" else name: value for name, value in asdict(self).items()}
        return {**parameters, "cosmology": str(self)}

    def E(self, a: float) -> float:
        """Return H(a) / H0."""
        return float(np.sqrt(self.Om / a**3 + 1.0 - self.Om))

    def growth(self, a: float) -> float:
        """Return the linear growth factor D(a) over that at a = 1."""
        return growing_mode(self.Om, a) / growing_mode(self.Om, 1.0)

    def growth_rate(self, a: float) -> float:
        """Return d ln D / d ln a."""
        return float(self.Om_at(a) * (2.5 * a / growing_mode(self.Om, a) - 1.5))

    def Om_at(self, a: float) -> float:
        """Return the density of matter at a, in units of the critical density then."""
        return self.Om / a**3 / self.E(a) ** 2

    def momentum(self, a: float) -> float:
        """Return a^2 dD/dt / H0: the momentum of a linear displacement whose size is D(a)."""
        return a**2 * self.E(a) * self.growth_rate(a) * self.growth(a)

    @contextmanager
    def colossus(self) -> Iterator[None]:
        """Make this the current cosmology of colossus within a block; ImportError without colossus."""
        module = colossus_cosmology()
        parameters = {"H0": 100.0 * self.h, "Om0": self.Om, "Ob0": self.Ob, "sigma8": self.sigma8, "ns": self.ns}
        before = module.current_cosmo
        try:
            # Without files in the user's home.
            module.setCosmology("iaemu", params={"flat": True, "relspecies": False, **parameters}, persistence="")
            yield
        finally:
            module.current_cosmo = before


#: Bolshoi-Planck (Klypin et al. 2016, arXiv:1411.4001; Rodriguez-Puebla et al. 2016, arXiv:1602.04813).
BOLSHOI_PLANCK = Cosmology(Om=0.30711, Ob=0.048, h=0.678, sigma8=0.8228, ns=0.96)
_FIRST_AS = 2e-9  # arbitrary, since the amplitude is matched to sigma8
_NAMES = ", ".join(field.name for field in fields(Cosmology))


def colossus_cosmology() -> Any:
    """Import colossus's module of cosmologies; ImportError says how to install it."""
    try:
        from colossus.cosmology import cosmology
    except ImportError as error:
        raise ImportError(it_takes("Cosmologies by name and mass functions need colossus", "training")) from error
    return cosmology


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number; got {value!r:.40}.") from None


def _known(stated: dict[str, float], where: str) -> dict[str, float]:
    unknown = [name for name in stated if name not in {field.name for field in fields(Cosmology)}]
    if unknown:
        raise ValueError(f"{where}: there is no parameter {unknown[0]!r}; the parameters are {_NAMES}.")
    return stated


def matter_power(
    *,
    Om: float,
    Ob: float,
    h: float,
    sigma8: float,
    ns: float,
    z: float,
    halofit_version: str = "mead2020",
    kmax: float = 200.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the power spectrum of matter in flat LCDM with massless neutrinos with CAMB.

    Parameters
    ----------
    Om, Ob : float
        Densities of matter and of baryons at z = 0, in units of the critical density.
    h : float
        H0 / (100 km/s/Mpc).
    sigma8 : float
        Linear rms of the density contrast in spheres of 8 Mpc/h at z = 0, as CAMB computes it (to 0.02 %); the
        primordial amplitude is scaled to match it.
    ns : float
        Primordial spectral index.
    z : float
        Redshift.
    halofit_version : str
        One of CAMB's non-linear models (mead2020 is HMcode-2020 without baryons), or "linear".
    kmax : float
        Largest k [h/Mpc].

    Returns
    -------
    k : (n,) float64
        CAMB's wave numbers [h/Mpc], from about 1e-4 to kmax, unevenly spaced.
    power : (n,) float64
        P(k) [(Mpc/h)^3].

    Raises
    ------
    ImportError
        CAMB is not installed.
    ValueError
        A parameter is out of range, CAMB does not have the model, or CAMB fails.
    """
    try:
        import camb
    except ImportError as error:
        raise ImportError("The matter power spectrum is computed by CAMB. It takes: pip install camb") from error
    for name, value, limits in (
        ("Om", Om, Range(above=0, at_most=1)),
        ("Ob", Ob, Range(above=0, below=1)),
        ("h", h, Range(above=0, at_most=10)),
        ("sigma8", sigma8, Range(above=0, at_most=10)),
        ("ns", ns, Range(at_least=-5, at_most=5)),
        ("z", z, Range(at_least=0, at_most=1000)),
        ("kmax [h/Mpc]", kmax, Range(at_least=1, at_most=10_000)),
    ):
        limits.check(name, value)
    if not Ob < Om:
        raise ValueError(f"Om includes baryons, so 0 < Ob < Om <= 1 must hold; got Ob = {Ob}, Om = {Om}.")
    linear = halofit_version == "linear"
    if not linear and halofit_version not in camb.nonlinear.halofit_version_names:
        raise ValueError(
            f"CAMB has no non-linear model {halofit_version!r}; it has "
            f"{', '.join(camb.nonlinear.halofit_version_names)}. Choose one of them, or 'linear'."
        )
    parameters = camb.CAMBparams()
    parameters.set_cosmology(H0=100 * h, ombh2=Ob * h**2, omch2=(Om - Ob) * h**2, omk=0, mnu=0, num_massive_neutrinos=0)
    parameters.InitPower.set_params(As=_FIRST_AS, ns=ns)
    # z = 0 is needed for sigma8.
    parameters.set_matter_power(redshifts=sorted({0.0, float(z)}, reverse=True), kmax=kmax * h)
    parameters.WantCls = False
    if not linear:
        parameters.NonLinear = camb.model.NonLinear_pk
        parameters.NonLinearModel.set_params(halofit_version=halofit_version)
    try:
        results = camb.get_results(parameters)
        amplitude = _FIRST_AS * (sigma8 / results.get_sigma8_0()) ** 2
        results.power_spectra_from_transfer(camb.initialpower.InitialPowerLaw(As=amplitude, ns=ns))
        k, redshifts, power = results.get_linear_matter_power_spectrum(nonlinear=not linear)
    except camb.CAMBError as error:
        raise ValueError(f"CAMB fails at these parameters: {error}") from error
    return k, power[int(np.argmin(np.abs(np.asarray(redshifts) - z)))]

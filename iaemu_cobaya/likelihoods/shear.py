"""Cobaya likelihoods of cosmic shear, whose intrinsic alignment can come from a theory of this package.

The amplitude of the NLA model, ``A_IA``, is a requirement and not a parameter of the likelihood: it is sampled or fixed
in ``params`` of the run, or any theory provides it as a derived parameter. The sources of a shear survey are not the
galaxies whose alignment was measured; the factor between their amplitudes is the parameter ``ia_ratio``::

    A_IA of the sources = ia_ratio A_IA ((1 + z) / (1 + z0_IA))^eta_IA

``logp`` is ``-chi^2 / 2``.
"""

from __future__ import annotations

import hashlib
import math
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
from cobaya.likelihood import Likelihood
from cobaya.log import LoggedError
from scipy.linalg import cholesky, solve_triangular

from iaemu import __version__
from iaemu.measurement import MeasurementError
from iaemu.ranges import Range
from iaemu_cobaya.gradients.plan import sampled_among
from iaemu_cobaya.likelihoods import shear_spectra
from iaemu_cobaya.likelihoods.data_files import resolve
from iaemu_cobaya.likelihoods.data_plots import ShearPlots
from iaemu_cobaya.likelihoods.shear_data import STATISTICS, ShearData
from iaemu_cobaya.likelihoods.shear_spectra import LineOfSight, ShearSpectra
from iaemu_cobaya.naming import MapsParameters, mapped_names
from iaemu_cobaya.options import ChecksOptions

#: Where the cosmology comes from, and which of its parameters the likelihood then takes from the run.
COSMOLOGY = {"ccl": ("Omega_m", "sigma8", "h", "n_s", "Omega_b", "m_nu"), "cobaya": ("omegam",)}

#: Parameters of intrinsic alignment.
ALIGNMENT = ("A_IA", "ia_ratio", "eta_IA")

#: Redshifts at which the run's theory gives its power spectra.
_N_REDSHIFTS = 60

T = TypeVar("T")


class _Recent:
    """The last few results of a slow function: ``mcmc`` comes back to a point after it rejects a slow step."""

    def __init__(self, size: int = 4):
        self._size, self._found = size, OrderedDict[Hashable, Any]()
        # At the end of the process, before pyccl's own functions are gone with which it frees its cosmologies.
        weakref.finalize(self, self._found.clear)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._found:
            self._found[key] = make()
            if len(self._found) > self._size:
                self._found.popitem(last=False)
        self._found.move_to_end(key)
        return self._found[key]


class CosmicShear(ShearPlots, MapsParameters, ChecksOptions, Likelihood):
    """Gaussian likelihood of xi_plus and xi_minus between source bins, with NLA intrinsic alignment.

    Attributes
    ----------
    measurement : ShearData
        The points that are used.
    data_vector : array (n,)
    covariance_matrix : array (n, n)
    n_bins : int
        Number of source bins.
    names : dict of str to str
        Names in the run of all parameters that the likelihood knows.
    """

    data: str | os.PathLike | ShearData | None
    statistics: list | tuple | str
    theta_min: Any
    theta_max: Any
    theta_unit: str
    cosmology: str
    ccl: dict
    k_max: Annotated[float, Range(at_least=1)]
    z0_IA: Annotated[float, Range(at_least=0)]
    prefix: str
    param_map: dict

    #: Names in ``params`` of the nuisance parameters of source bin k, behind ``prefix``.
    _nuisances: ClassVar[tuple[str, str]] = ("m_", "dz_")

    def initialize(self) -> None:
        """Read the data, and prepare the integrals along the line of sight."""
        if self.cosmology not in COSMOLOGY:
            known = ", ".join(COSMOLOGY)
            raise LoggedError(self.log, "cosmology: must be one of %s; got '%s'.", known, self.cosmology)
        try:
            shear_spectra.import_ccl()
            data = self._read()
            self.measurement = data.select(self._used(data))
        except (MeasurementError, OSError, ImportError) as error:
            raise LoggedError(self.log, "%s", error) from error
        self.data_vector, self.covariance_matrix = self.measurement.values, self.measurement.covariance
        self._factor = cholesky(self.covariance_matrix, lower=True)
        self.n_bins = len(self.measurement.nz)
        self._spectra = ShearSpectra(self.measurement)
        numbers = range(1, self.n_bins + 1)
        self._m, self._dz = ([f"{self.prefix}{kind}{number}" for number in numbers] for kind in self._nuisances)
        parameters = (*COSMOLOGY[self.cosmology], *ALIGNMENT, *self._m, *self._dz)
        self.names = dict(zip(parameters, mapped_names(parameters, self.param_map or {}, self.log), strict=True))
        self._optional = {"m_nu", "ia_ratio", "eta_IA", *self._m, *self._dz}
        self._lines, self._parts = _Recent(), _Recent()
        self._n_fitted = 0
        self.log.info("%s", self.measurement)

    def _read(self) -> ShearData:
        if isinstance(self.data, ShearData):
            return self.data
        if self.data is None:
            raise LoggedError(self.log, "data: give a SACC file, a file in our own format, or 'shear/des_y1'.")
        return ShearData.read(resolve(self.data), self.theta_unit, str(self.data))

    def _used(self, data: ShearData) -> np.ndarray:
        """Return which points the options select."""
        names = [self.statistics] if isinstance(self.statistics, str) else list(self.statistics or [])
        if not names or any(name not in STATISTICS for name in names):
            raise LoggedError(self.log, "statistics: give one or both of %s; got %s.", ", ".join(STATISTICS), names)
        used = np.isin(data.statistic.astype(str), names)
        for option, sign in (("theta_min", 1.0), ("theta_max", -1.0)):
            limits = self._limits(option, data)
            used &= sign * (data.theta - np.where(np.isnan(limits), sign * -math.inf, limits)) >= 0
        if not used.any():
            raise LoggedError(
                self.log,
                "No point of %s is left between theta_min = %s and theta_max = %s arcmin for statistics = %s: its "
                "separations are %.4g to %.4g arcmin (%s). Widen the cuts.",
                *(data.name, self.theta_min, self.theta_max, ", ".join(names)),
                *(data.theta.min(), data.theta.max(), ", ".join(f"{n} of {name}" for name, n in data.counts().items())),
            )
        return used

    def _limits(self, option: str, data: ShearData) -> np.ndarray:
        """Return the limit of each point [arcmin], NaN for none: of all, of a statistic, or of a pair of bins."""
        given = getattr(self, option)
        limits = np.full(len(data.values), math.nan)
        for statistic in STATISTICS:
            of_statistic = given.get(statistic) if isinstance(given, Mapping) else given
            cases = of_statistic if isinstance(of_statistic, Mapping) else {None: of_statistic}
            for pair, limit in cases.items():
                chosen = data.statistic == statistic
                if pair is not None:
                    chosen &= np.all(np.sort(data.pairs + 1) == self._pair(option, pair, len(data.nz)), axis=1)
                if limit is not None:
                    Range(above=0).check(f"{option} [arcmin] of {statistic}", limit, error=MeasurementError)
                    limits[chosen] = limit
        unknown = [key for key in given if key not in STATISTICS] if isinstance(given, Mapping) else []
        if unknown:
            raise LoggedError(self.log, "%s: give a number, or a mapping of %s; got %s.", option, STATISTICS, unknown)
        return limits

    def _pair(self, option: str, pair: Any, n_bins: int) -> list[int]:
        """Return the numbers of two source bins, from text such as "1 3"."""
        numbers = [int(word) for word in str(pair).replace(",", " ").split() if word.isdigit()]
        if len(numbers) != 2 or not all(1 <= number <= n_bins for number in numbers):
            raise LoggedError(
                self.log, "%s: '%s' is no pair of source bins. Write it as '1 3'; there are %d.", option, pair, n_bins
            )
        return sorted(numbers)

    # ------------------------------------------------------------------ what the run gives

    def get_requirements(self) -> dict[str, Any]:
        """Return the parameters that the likelihood needs, and what of the cosmology with ``cosmology: cobaya``.

        Returns
        -------
        dict
        """
        needed: dict[str, Any] = {name: None for key, name in self.names.items() if key not in self._optional}
        if self.cosmology == "ccl":
            return needed
        z = self._redshifts
        power = {"z": z, "k_max": self.k_max, "nonlinear": (False, True), "vars_pairs": [("delta_tot", "delta_tot")]}
        return {**needed, "Pk_grid": power, "comoving_radial_distance": {"z": z}, "Hubble": {"z": z}}

    @property
    def _redshifts(self) -> np.ndarray:
        return np.linspace(0.0, self._spectra.z_max, _N_REDSHIFTS)

    def get_can_support_params(self) -> list[str]:
        """Return the names of the optional parameters.

        Returns
        -------
        list of str
        """
        return [name for key, name in self.names.items() if key in self._optional]

    def get_can_provide_params(self) -> list[str]:
        """Return the names of the derived parameters: ``S8`` = sigma8 (Omega_m / 0.3)^0.5, from CCL's parameters.

        Returns
        -------
        list of str
        """
        return ["S8"] if self.cosmology == "ccl" else []

    def initialize_with_provider(self, provider: Any) -> None:
        """Refuse a run with curvature, which the integrals do not know, and count the fitted parameters.

        Parameters
        ----------
        provider : cobaya.theory.Provider
        """
        super().initialize_with_provider(provider)
        constant = provider.model.parameterization.constant_params()
        curved = [name for name in ("omk", "Omega_k") if name in provider.model.parameterization.input_params()]
        if any(constant.get(name) != 0 for name in curved):
            raise LoggedError(self.log, "The run has curvature (%s). Cosmic shear needs a flat universe.", curved[0])
        model, providers = provider.model, provider.requirement_providers
        # What another theory derives, such as A_IA, is one number, of however many parameters.
        derived = [name for name in self.names.values() if name in providers and name not in self.input_params]
        theories = {providers[name] for name in self.get_requirements() if name in providers and name not in derived}
        names = {*self.input_params}.union(*(theory.input_params for theory in theories))
        varying = [name for name in derived if sampled_among(model, providers[name].input_params)]
        self._n_fitted = len(sampled_among(model, names)) + len(varying)

    def get_version(self) -> str:
        """Return the version of the package, and thus of the packaged data.

        Returns
        -------
        str
        """
        return __version__

    # ------------------------------------------------------------------ evaluation

    def logp(self, _derived: dict | None = None, **params_values: float) -> float:
        """Return the log-likelihood at the current point of a Cobaya run.

        Parameters
        ----------
        _derived : dict, optional
            Gets the derived parameters.
        **params_values : float

        Returns
        -------
        float
        """
        values = {
            key: params_values[name] if name in params_values else self.provider.get_param(name)
            for key, name in self.names.items()
            if name in params_values or key not in self._optional
        }
        if _derived is not None and self.cosmology == "ccl":
            _derived["S8"] = values["sigma8"] * math.sqrt(values["Omega_m"] / 0.3)
        vector = self._evaluated(values)
        return -math.inf if vector is None else self.log_likelihood(vector)

    def theory_vector(self) -> np.ndarray:
        """Return the prediction at the current point of a run.

        Returns
        -------
        array (n,)
            In the order of ``data_vector``.
        """
        given = {
            key: name for key, name in self.names.items() if key not in self._optional or name in self.input_params
        }
        return self.prediction({key: self.provider.get_param(name) for key, name in given.items()})

    def _evaluated(self, values: Mapping[str, float]) -> np.ndarray | None:
        """Return the prediction, or None where CCL has none, such as for a negative density."""
        try:
            vector = self.prediction(values)
            if np.all(np.isfinite(vector)):
                return vector
            problem = "it is not finite"
        except (ValueError, RuntimeError) as error:  # CCLError is a RuntimeError
            problem = str(error)
        point = ", ".join(f"{name} = {value:.6g}" for name, value in values.items())
        if self.stop_at_error:
            raise LoggedError(self.log, "No prediction at %s: %s", point, problem)
        self.log.debug("No prediction at %s: %s", point, problem)
        return None

    def prediction(self, values: Mapping[str, float]) -> np.ndarray:
        """Return the predicted xi_plus and xi_minus.

        Parameters
        ----------
        values : mapping of str to float
            Parameters, by their names without ``param_map``. With ``cosmology: cobaya`` the rest is taken from the run.

        Returns
        -------
        array (n,)
            In the order of ``data_vector``.
        """
        amplitude = values["A_IA"] * values.get("ia_ratio", 1.0)
        eta = float(values.get("eta_IA", 0.0))
        shifts = tuple(float(values.get(name, 0.0)) for name in self._dz)
        key, make = self._current_cosmology(values)
        parts = self._parts.get(
            (key, shifts, eta),
            lambda: self._spectra.parts(self._line_of_sight(key, make), shifts, eta, self.z0_IA),
        )
        calibration = 1.0 + np.array([values.get(name, 0.0) for name in self._m])
        factor = np.prod(calibration[self.measurement.pairs], axis=1)
        return factor * (parts[0] + amplitude * (parts[1] + amplitude * parts[2]))

    def _line_of_sight(self, key: Hashable, make: Callable[[], Any]) -> LineOfSight:
        return self._lines.get(key, lambda: self._spectra.line_of_sight(make()))

    def _current_cosmology(self, values: Mapping[str, float]) -> tuple[Hashable, Callable[[], Any]]:
        """Return what identifies the cosmology, and a function that makes it for CCL."""
        if self.cosmology == "ccl":
            chosen = {name: float(values[name]) for name in COSMOLOGY["ccl"] if name in values}
            return tuple(chosen.items()), lambda: shear_spectra.cosmology_of_parameters(chosen, self.ccl or {})
        z, give = self._redshifts, self.provider
        distance, hubble = give.get_comoving_radial_distance(z), give.get_Hubble(z, units="km/s/Mpc")
        k, at, linear = give.get_Pk_grid(("delta_tot", "delta_tot"), nonlinear=False)
        nonlinear = give.get_Pk_grid(("delta_tot", "delta_tot"), nonlinear=True)[2]
        # The theory may give more redshifts, which other likelihoods want.
        wanted = np.searchsorted(at, z - 1e-9)
        linear, nonlinear, density = linear[wanted], nonlinear[wanted], float(values["omegam"])
        tables = [np.ascontiguousarray(table).tobytes() for table in (distance, hubble, k, linear, nonlinear)]
        return (hashlib.sha256(b"".join(tables)).digest(), density), lambda: shear_spectra.cosmology_of_tables(
            z, distance, hubble, k, linear, nonlinear, density
        )

    def log_likelihood(self, theory_vector: np.ndarray) -> float:
        """Return the log-likelihood of a prediction.

        Parameters
        ----------
        theory_vector : array (n,)
            In the order of ``data_vector``.

        Returns
        -------
        float
        """
        return -0.5 * self.chi2(theory_vector)

    def chi2(self, theory_vector: np.ndarray) -> float:
        """Return chi^2 of a prediction.

        Parameters
        ----------
        theory_vector : array (n,)

        Returns
        -------
        float
        """
        whitened = solve_triangular(self._factor, self.data_vector - theory_vector, lower=True)
        return float(whitened @ whitened)

    @property
    def n_fitted(self) -> int:
        """Number of parameters of the run on which the prediction depends, also of those with a narrow prior."""
        return self._n_fitted


class DESY1Shear(CosmicShear):
    """Cosmic shear of the first year of the Dark Energy Survey (Troxel et al. 2018): 227 points of 4 source bins."""

"""Cobaya likelihoods of measured alignment correlation functions.

``logp`` is 0 where the prediction equals the data: constant normalisations are left out. For a known covariance it is
``-chi^2 / 2``, so that Cobaya's column ``chi2`` is chi^2. For a covariance from few regions it is that of a
t-distribution, see :mod:`iaemu_cobaya.likelihoods.distribution`. With the option ``emulator_error`` the covariance is
C_data + C_emu(theta), and ``logp`` contains the change of its log-determinant: -(chi^2 + log det (C_data + C_emu) - log
det C_data) / 2. The likelihoods also work without Cobaya::

    like = TNG300Sample1()
    like.log_likelihood(theory_vector)
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from cobaya.likelihood import Likelihood
from cobaya.log import LoggedError
from numpy.typing import ArrayLike

from iaemu import __version__
from iaemu.measurement import Measurement, MeasurementError
from iaemu.models.fixed_occupation import Factored, dense
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS
from iaemu_cobaya.gradients.plan import sampled_among
from iaemu_cobaya.likelihoods.data_files import Measurement as MeasurementByName
from iaemu_cobaya.likelihoods.data_plots import CorrelationPlots
from iaemu_cobaya.likelihoods.data_vector import DataVector, Options
from iaemu_cobaya.naming import MapsParameters, check_tag, product_name
from iaemu_cobaya.options import ChecksOptions

#: Redshifts of data and of halo catalogues may differ by this much without a warning.
REDSHIFT_TOLERANCE = 0.1


class IACorrelations(CorrelationPlots, MapsParameters, ChecksOptions, Likelihood):
    """Likelihood of measured correlation functions: xi, omega and eta, or some of them.

    The data vector contains the used bins of each of ``statistics``, in this order, with increasing r. The bin edges
    must be among those of the model that predicts.

    Attributes
    ----------
    measurement : Measurement
        The content of the data file.
    used : dict of statistic to bool array (n_measured,)
        Whether each bin of the data file is used.
    bins : dict of statistic to Bins
        The used bins.
    data_vector : array (n,)
        Dimensionless.
    covariance_matrix : array (n, n)
        Without Hartlap factors.
    inverse_covariance : array (n, n)
        With Hartlap factors: chi^2 = d^T inverse_covariance d.
    hartlap_factors : dict of statistic to float
        1 for statistics without a Hartlap factor.
    n_regions : dict of statistic to int or None
        Number of regions from which the covariance was estimated, if it was.
    requests : dict of statistic to dict
        The options with which each statistic is requested from the theory: its bins.
    """

    data: str | os.PathLike | Measurement | None
    statistics: list | tuple | str
    r_min: float | dict | None
    r_max: float | dict | None
    covariance: str | dict
    correlation_from: str | os.PathLike | None
    distribution: str
    n_parameters: Annotated[int, Range(at_least=0)] | None
    emulator_error: bool
    n_gal: Any
    mask: Any
    tag: str | None
    param_map: dict

    #: Statistics that the likelihood can use.
    _known: ClassVar[Sequence[str]] = STATISTICS

    # ------------------------------------------------------------------ set-up

    # Tensors made in a caller's inference mode would not have gradients later.
    @torch.inference_mode(False)
    def initialize(self) -> None:
        """Read the measurement, select its bins, and build their covariance."""
        self.statistics = self._check_statistics()
        self.tag = check_tag(self.tag, self.log)
        self._products = {name: product_name(name, self.tag) for name in self.statistics}
        self._deviations = {name: product_name(name, self.tag, deviations=True) for name in self.statistics}
        options = Options(self.r_min, self.r_max, self.covariance, self.correlation_from, self.distribution, self.mask)
        self._number_density = self._check_number_density()
        try:
            self.measurement = self._read_measurement()
            self._data = DataVector(self.measurement, self.statistics, options)
        except (MeasurementError, OSError) as error:
            raise LoggedError(self.log, "%s", error) from error
        self.used, self.bins, self.slices = self._data.used, self._data.bins, self._data.slices
        self.data_vector, self.covariance_matrix = self._data.values, self._data.covariance
        self.hartlap_factors = {name: self._data.block_of(name).hartlap_factor for name in self.statistics}
        self.n_regions = {name: self._data.block_of(name).n_regions for name in self.statistics}
        self.inverse_covariance = self._data.whitening.T @ self._data.whitening
        # How the theory knows the bins of each statistic, and which of these bins are used.
        self._keys: dict[str, Any] = {}
        self.requests: dict[str, dict[str, Any]] = {}
        self._index: dict[str, Any] = {}
        try:
            self._find_bins()
        except MeasurementError as error:
            raise LoggedError(self.log, "%s", error) from error
        self._rows: tuple[list[torch.Tensor], torch.Tensor] | None = None
        self._warned_not_finite = False
        self.log.info("%s", self.describe())
        if self.n_parameters is not None:
            self._data.n_parameters = self.n_parameters
        noisy = self._data.noisy()
        if noisy is not None:
            self.mpi_warning("%s", noisy)

    def initialize_with_provider(self, provider: Any) -> None:
        """Count the sampled parameters on which the prediction depends, for the t-distribution.

        Parameters
        ----------
        provider : cobaya.theory.Provider
        """
        super().initialize_with_provider(provider)
        theories = {provider.requirement_providers[product] for product in self.get_requirements()}
        for theory in theories:
            self._compare_redshifts(getattr(theory, "model", None))
        if self.n_parameters is not None:
            return
        names = set().union(*(theory.input_params for theory in theories))
        self._data.n_parameters = len(sampled_among(provider.model, names))

    def _find_bins(self) -> None:
        """Find in which bins to request each statistic."""
        for statistic, bins in self.bins.items():
            edges, index = bins.edges()
            # The theory uses tuples of edges as keys: this saves a conversion in every call.
            self._keys[statistic] = tuple(edges.tolist())
            self.requests[statistic] = {"r_edges": self._keys[statistic]}
            self._index[statistic] = index if len(index) < len(edges) - 1 else slice(None)

    @property
    def _redshift(self) -> float | None:
        """Mean redshift of the data, if it is known."""
        own = self.measurement.metadata.get("redshift")
        return float(own) if isinstance(own, (int, float)) else None

    def _compare_redshifts(self, model: Any) -> None:
        """Warn if the model cannot go to the redshift of the data."""
        own, known = self._redshift, getattr(model, "redshift", None)
        if own is None or known is None or abs(own - known) <= REDSHIFT_TOLERANCE:
            return
        low, high = model.redshift_range
        if low <= own <= high:
            return  # the run has chosen another redshift
        self.mpi_warning(
            "The mean redshift of %s is %.3g, but the halo catalogues of the model are at %s. Clustering and "
            "alignment of the same halos change with redshift: the occupation is that of halos at %.3g which "
            "cluster as these galaxies do. See the documentation, 'Fit w_g+ of a survey'.",
            self.measurement.name,
            own,
            f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}",
            known,
        )

    def _check_number_density(self) -> tuple[float, float] | None:
        if self.n_gal is None:
            return None
        try:
            mean, error = self.n_gal
            for value in (mean, error):
                Range(above=0).check("n_gal [(h/Mpc)^3]", value)
        except (ValueError, TypeError) as reason:
            raise LoggedError(
                self.log, "n_gal: give [mean, error], both positive, in (h/Mpc)^3; got %s.", self.n_gal
            ) from reason
        return float(mean), float(error)

    def _check_statistics(self) -> list[str]:
        statistics = [self.statistics] if isinstance(self.statistics, str) else list(self.statistics or [])
        if not statistics or any(name not in self._known for name in statistics):
            raise LoggedError(
                self.log, "statistics: give one or more of %s; got %s.", ", ".join(self._known), statistics
            )
        if len(set(statistics)) < len(statistics):
            raise LoggedError(self.log, "statistics: %s contains one of them twice.", statistics)
        return statistics

    def _read_measurement(self) -> Measurement:
        if self.data is None:
            raise LoggedError(
                self.log,
                "data: give a file with a measurement, or the name of a packaged one such as 'tng300/sample1'.",
            )
        measurement = self.data if isinstance(self.data, Measurement) else self._read_source()
        missing = [name for name in self.statistics if name not in measurement.bins]
        if missing:
            raise LoggedError(
                self.log,
                "statistics: %s is not in %s, which contains %s.",
                ", ".join(missing),
                measurement.name,
                ", ".join(measurement.statistics),
            )
        return measurement

    def _read_source(self) -> Measurement:
        return MeasurementByName.read(self.data)

    def get_requirements(self) -> dict[str, dict | None]:
        """Return what the likelihood needs: statistics in the used bins, and deviations with ``emulator_error``.

        Returns
        -------
        dict of product to the bins of the request
            With the mean redshift of the data, if it is known.
        """
        names = [self._products, *([self._deviations] if self.emulator_error else [])]
        at = {} if self._redshift is None else {"redshift": self._redshift}
        found: dict[str, dict | None] = {
            name: {**self.requests[statistic], **at} for products in names for statistic, name in products.items()
        }
        return found | ({} if self._number_density is None else {self._density_name: None})

    @property
    def _density_name(self) -> str:
        """Name in the run of the predicted number density."""
        return f"n_gal_ia_{self.tag}" if self.tag else "n_gal_ia"

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
        _derived, **params_values
            Not used: the likelihood has no parameters of its own.

        Returns
        -------
        float
        """
        logp = self.log_likelihood(self.theory_vector(), self.deviations())
        if self._number_density is None:
            return logp
        return logp + self._log_density(self.provider.get_param(self._density_name))

    def _log_density(self, number: Any) -> Any:
        """Return the log-likelihood of a predicted number density [(h/Mpc)^3]."""
        assert self._number_density is not None
        mean, sigma = self._number_density
        return -0.5 * ((number - mean) / sigma) ** 2

    def theory_vector(self) -> np.ndarray:
        """Return the prediction at the current point in the used bins.

        Returns
        -------
        array (n,)
            In the order of ``data_vector``.
        """
        return self._current(self._products)

    def deviations(self) -> np.ndarray | None:
        """Return the deviations of the prediction at the current point: vectors whose products sum to C_emu.

        Returns
        -------
        array (K, n), or None
            None without the option ``emulator_error``.
        """
        return self._current(self._deviations) if self.emulator_error else None

    def _current(self, names: Mapping[str, str]) -> np.ndarray:
        """Concatenate products at the current point in the used bins, (..., n)."""
        return np.concatenate(
            [
                self.provider.get_result(name, **self.requests[statistic])[..., self._index[statistic]]
                for statistic, name in names.items()
            ],
            axis=-1,
        )

    def log_likelihood(self, theory_vector: ArrayLike, deviations: ArrayLike | None = None) -> float:
        """Return the log-likelihood of a prediction, optionally with the error of the prediction.

        Parameters
        ----------
        theory_vector : array (n,)
            In the order of ``data_vector``.
        deviations : array (K, n), optional
            See :meth:`deviations`. They add C_emu to the covariance, and the change of its log-determinant to -2 logp.
            What corrects for the noise of an estimated covariance applies to that of the data only.

        Returns
        -------
        float
            -inf if it is not finite.

        Raises
        ------
        LoggedError
            The shape is wrong, or the result is not finite with ``stop_at_error``.
        """
        self._check_shape(np.asarray(theory_vector))
        vector = torch.as_tensor(np.asarray(theory_vector, dtype=np.float64))[None]
        scaled = None if deviations is None else torch.as_tensor(np.asarray(deviations, dtype=np.float64))[None]
        logp = float(self._data.log_likelihoods(vector, scaled)[0])
        return logp if math.isfinite(logp) else float(self._finite(vector, scaled)[0])

    def log_likelihoods(self, theory_vectors: ArrayLike, deviations: ArrayLike | None = None) -> np.ndarray:
        """Return the log-likelihoods of a batch of predictions, without a message if one is not finite.

        Parameters
        ----------
        theory_vectors : array (m, n)
        deviations : array (m, K, n), optional

        Returns
        -------
        array (m,)
            -inf where the prediction or its error is not finite.
        """
        vectors = torch.as_tensor(np.asarray(theory_vectors, dtype=np.float64))
        scaled = None if deviations is None else torch.as_tensor(np.asarray(deviations, dtype=np.float64))
        logp = self._data.log_likelihoods(vectors, scaled)
        return torch.where(torch.isfinite(logp), logp, -torch.inf).numpy()

    def log_normalisation(self) -> float:
        """Return the constant that log-likelihoods leave out: with it, they are of a normalised density of the data.

        It depends on the number of fitted parameters if a covariance is from regions.

        Returns
        -------
        float
        """
        return self._data.log_normalisation()

    def logp_torch(self, params: Mapping, products: Mapping) -> torch.Tensor:
        """Return the log-likelihoods of a batch of points, with gradients; see :mod:`iaemu_cobaya.gradients`.

        Parameters
        ----------
        params : mapping
            Not used: the likelihood has no parameters of its own.
        products : mapping of ``ia_xi``, ``ia_omega``, ``ia_eta`` to {edges: tensor (n, n_bins)}
            See :meth:`iaemu_cobaya.theories.base.DifferentiableTheory.forward_torch`.

        Returns
        -------
        tensor (n,), float64
            -inf, with zero gradient, where the prediction is not finite.

        Raises
        ------
        LoggedError
            A prediction is not finite, with ``stop_at_error``.
        """
        vectors = self._joined(products, self._products)
        logp = self._finite(vectors, self._joined_deviations(products) if self.emulator_error else None)
        return logp if self._number_density is None else logp + self._log_density(products[self._density_name])

    def _joined_deviations(self, products: Mapping) -> torch.Tensor | Factored:
        """Concatenate deviations in the used bins; if factored, with rows for the factors of each statistic."""
        found = {name: products[product][self._keys[name]] for name, product in self._deviations.items()}
        if not all(isinstance(value, Factored) for value in found.values()):
            parts = [dense(value)[..., self._index[name]] for name, value in found.items()]
            return torch.cat(parts, dim=-1).to(torch.float64)
        rows = [value.rows for value in found.values()]
        if self._rows is None or any(one is not other for one, other in zip(self._rows[0], rows, strict=True)):
            shape = (sum(len(row) for row in rows), rows[0].shape[1], len(self.data_vector))
            joined, start = torch.zeros(shape, dtype=torch.float64), 0
            for name, row in zip(found, rows, strict=True):
                joined[start : start + len(row), :, self.slices[name]] = row[..., self._index[name]].double()
                start += len(row)
            self._rows = rows, joined
        factors = torch.cat([value.factors for value in found.values()], dim=1)
        return Factored(factors.double(), self._rows[1])

    def _joined(self, products: Mapping, names: Mapping[str, str]) -> torch.Tensor:
        """Concatenate products in the used bins, (..., n)."""
        parts = [
            products[name][self._keys[statistic]][..., self._index[statistic]] for statistic, name in names.items()
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)).to(torch.float64)

    def _finite(self, vectors: torch.Tensor, deviations: torch.Tensor | Factored | None) -> torch.Tensor:
        """Return log-likelihoods (m,). If one is not finite, log it, and return -inf with zero gradient."""
        logp = self._data.log_likelihoods(vectors, deviations)
        if np.isfinite(float(logp.detach().sum())):  # one operation where isfinite().all() takes five
            return logp
        finite = torch.isfinite(logp.detach())
        if bool(finite.all()):  # only their sum is not finite
            return logp
        vector = vectors.detach()[~finite][0].numpy()
        if deviations is not None and np.isfinite(self.chi2(vector)):
            self._report_not_finite("The error of the prediction is not finite.")
        else:
            self._report_not_finite(self._data.describe_not_finite(vector))
        # Replace the input, not the result: the gradient would contain 0 times infinity, which is NaN.
        if deviations is not None:
            deviations = torch.where(finite[:, None, None], dense(deviations), 0.0)
        vectors = torch.where(finite[:, None], vectors, torch.as_tensor(self.data_vector))
        return torch.where(finite, self._data.log_likelihoods(vectors, deviations), -torch.inf)

    def _report_not_finite(self, message: str) -> None:
        if self.stop_at_error:
            raise LoggedError(self.log, "%s", message)
        if not self._warned_not_finite:
            self._warned_not_finite = True
            text = "%s It gets zero likelihood. (This is not repeated; 'stop_at_error: True' stops the run instead.)"
            self.log.warning(text, message)

    def chi2(self, theory_vector: ArrayLike, deviations: np.ndarray | None = None) -> float:
        """Return chi^2 of a prediction from the covariance of the data, with a Hartlap factor if that is chosen.

        Parameters
        ----------
        theory_vector : array (n,)
        deviations : array (K, n), optional
            See :meth:`deviations`: their C_emu is added to the covariance of the data.

        Returns
        -------
        float
            NaN if the prediction is not finite.
        """
        whitened = self._data.whitening @ self.residuals(theory_vector)
        chi2 = float(whitened @ whitened)
        if deviations is not None:
            scaled = deviations @ self._data.whitening.T
            along = scaled @ whitened
            chi2 -= float(along @ np.linalg.solve(np.eye(len(scaled)) + scaled @ scaled.T, along))
        return chi2 if np.isfinite(chi2) else float("nan")

    def chi2_of(self, theory_vector: ArrayLike, statistic: str) -> float:
        """Return chi^2 of one statistic, from its own block of the covariance of the data.

        Parameters
        ----------
        theory_vector : array (n,)
        statistic : str

        Returns
        -------
        float
        """
        part = self.slices[statistic]
        residuals = self.residuals(theory_vector)[part]
        factor = self.hartlap_factors[statistic]
        return float(factor * residuals @ np.linalg.solve(self.covariance_matrix[part, part], residuals))

    @property
    def n_fitted(self) -> int:
        """Number of fitted parameters: the option ``n_parameters``, those of the run, or 2 without a run."""
        return self._data.n_parameters

    def p_value(self, theory_vector: ArrayLike, deviations: np.ndarray | None = None) -> float:
        """Return the probability of a larger chi^2 at the best fit.

        Parameters
        ----------
        theory_vector : array (n,)
            The best fit.
        deviations : array (K, n), optional
            See :meth:`deviations`; without, from the covariance of the data alone.

        Returns
        -------
        float
            Of chi^2 for a known covariance, of Hotelling's T^2 for one from regions. NaN for several covariances of
            which one is from regions, for one from regions with deviations, or without degrees of freedom.
        """
        if deviations is not None and set(self.n_regions.values()) != {None}:
            return math.nan
        return self._data.p_value(self.chi2(theory_vector, deviations))

    def residuals(self, theory_vector: ArrayLike, normalised: bool = False) -> np.ndarray:
        """Return data minus prediction.

        Parameters
        ----------
        theory_vector : array (n,)
        normalised : bool
            Divide by the errors of the data.

        Returns
        -------
        array (n,)
        """
        vector = np.asarray(theory_vector, dtype=np.float64)
        self._check_shape(vector)
        difference = self.data_vector - vector
        return difference / np.sqrt(np.diag(self.covariance_matrix)) if normalised else difference

    def _check_shape(self, vector: np.ndarray) -> None:
        if vector.shape != self.data_vector.shape:
            raise LoggedError(
                self.log,
                "The theory vector has shape %s; it must have the shape of the data, %s (%s).",
                vector.shape,
                self.data_vector.shape,
                ", ".join(f"{len(bins)} bins of {name}" for name, bins in self.bins.items()),
            )

    # ------------------------------------------------------------------ text

    def __repr__(self) -> str:
        bins = ", ".join(f"{len(bins)} bins of {name}" for name, bins in getattr(self, "bins", {}).items())
        of = f": {bins} from {self.measurement.name}" if bins else ""
        return f"<{type(self).__name__} '{self.get_name()}'{of}>"

    def __str__(self) -> str:
        return self.get_name()

    def describe(self) -> str:
        """Describe the data that are used, with one line for each statistic.

        Returns
        -------
        str
        """
        return self._data.describe()

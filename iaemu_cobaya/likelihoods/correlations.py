"""Cobaya likelihoods of measured alignment correlation functions.

``logp = -chi^2 / 2``: the constant normalisation of the Gaussian is left out, so that Cobaya's column ``chi2`` is the
chi^2 itself. With the option ``emulator_error`` the covariance is C_data + C_emu(theta), and ``logp`` holds the change
of its log-determinant too: -(chi^2 + log det (C_data + C_emu) - log det C_data) / 2. All likelihoods also work alone::

    like = TNG300Sample1()
    like.log_likelihood(theory_vector)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from cobaya.likelihood import Likelihood
from cobaya.log import LoggedError

from iaemu import __version__
from iaemu.binning import EDGE_TOLERANCE
from iaemu.measurement import Bins, Measurement, MeasurementError, check_covariance
from iaemu.plots import plot_statistic
from iaemu.prediction import STATISTICS
from iaemu_cobaya.likelihoods import data_files as by_name
from iaemu_cobaya.naming import MapsParameters, check_tag, product_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COVARIANCES = ("auto", "full", "diagonal", "correlation")


class IACorrelations(MapsParameters, Likelihood):
    """Chi^2 of measured correlation functions xi, omega, eta, or any subset of them, in any bins that the model has.

    The data vector holds the used bins of each of ``statistics``, in that order, in increasing r.

    Attributes
    ----------
    measurement : Measurement
        Everything in the data file.
    used : dict of statistic to bool array (n_measured,)
        Which bins of the data file are used.
    bins : dict of statistic to Bins
        The used bins.
    data_vector : array (n,)
        Dimensionless.
    covariance_matrix : array (n, n)
        Without Hartlap factors.
    inverse_covariance : array (n, n)
        With Hartlap factors: chi^2 = d^T inverse_covariance d.
    hartlap_factors : dict of statistic to float
        1 where it does not apply.
    """

    data: str | os.PathLike | Measurement | None
    statistics: list | tuple | str
    r_min: float | dict | None
    r_max: float | dict | None
    covariance: str | dict
    correlation_from: str | os.PathLike | None
    hartlap: bool
    emulator_error: bool
    tag: str | None
    param_map: dict

    _enforce_types = True

    # ------------------------------------------------------------------ set-up

    def initialize(self):
        self.statistics = self._check_statistics()
        self.tag = check_tag(self.tag, self.log)
        self._products = {name: product_name(name, self.tag) for name in self.statistics}
        self._deviations = {name: product_name(name, self.tag, deviations=True) for name in self.statistics}
        try:
            self.measurement = self._read_measurement()
            self._select_bins()
            self._build_covariance()
        except (MeasurementError, FileNotFoundError) as error:
            raise LoggedError(self.log, "%s", error) from error
        self._warned_not_finite = False
        self.log.info("%s", self.describe())

    def _check_statistics(self) -> list[str]:
        statistics = [self.statistics] if isinstance(self.statistics, str) else list(self.statistics or [])
        if not statistics or any(name not in STATISTICS for name in statistics):
            raise LoggedError(self.log, "statistics: list some of %s; got %s.", ", ".join(STATISTICS), statistics)
        if len(set(statistics)) < len(statistics):
            raise LoggedError(self.log, "statistics: %s names one of them twice.", statistics)
        return statistics

    def _read_measurement(self) -> Measurement:
        if self.data is None:
            raise LoggedError(
                self.log, "data: name a file with a measurement, or a packaged one such as 'tng300/sample1'."
            )
        measurement = self.data if isinstance(self.data, Measurement) else by_name.Measurement.read(self.data)
        missing = [name for name in self.statistics if name not in measurement.bins]
        if missing:
            raise LoggedError(
                self.log,
                "statistics: %s is not in %s, which holds %s.",
                ", ".join(missing),
                measurement.name,
                ", ".join(measurement.statistics),
            )
        return measurement

    def _select_bins(self) -> None:
        self.used, self.bins, self._edges, self._index = {}, {}, {}, {}
        for statistic in self.statistics:
            bins = self.measurement.bins[statistic]
            r_min = self._option("r_min", statistic)
            r_max = self._option("r_max", statistic)
            used = np.ones(len(bins), dtype=bool)
            if r_min is not None:
                used &= bins.r_low >= r_min * (1.0 - EDGE_TOLERANCE)
            if r_max is not None:
                used &= bins.r_high <= r_max * (1.0 + EDGE_TOLERANCE)
            if not used.any():
                raise LoggedError(
                    self.log,
                    "No bin of %s lies between r_min = %s and r_max = %s Mpc/h; %s holds bins from %.5g to %.5g.",
                    statistic,
                    r_min,
                    r_max,
                    self.measurement.name,
                    bins.r_low[0],
                    bins.r_high[-1],
                )
            self.used[statistic] = used
            self.bins[statistic] = bins.select(used)
            edges, index = self.bins[statistic].edges()
            # A tuple is what the theory keys its requests with: no conversion in every call.
            self._edges[statistic] = tuple(edges.tolist())
            self._index[statistic] = index if len(index) < len(edges) - 1 else slice(None)
        sizes = [len(self.bins[statistic]) for statistic in self.statistics]
        stops = np.cumsum(sizes)
        self.slices = {
            statistic: slice(int(stop - size), int(stop))
            for statistic, size, stop in zip(self.statistics, sizes, stops, strict=True)
        }
        self.data_vector = np.concatenate([self.bins[statistic].value for statistic in self.statistics])

    def _option(self, name: str, statistic: str):
        """Value of an option that may differ between statistics."""
        value = getattr(self, name)
        if not isinstance(value, Mapping):
            return value
        unknown = [key for key in value if key not in STATISTICS]
        if unknown:
            raise LoggedError(self.log, "%s: unknown statistic(s) %s.", name, ", ".join(map(str, unknown)))
        return value.get(statistic)

    def _build_covariance(self) -> None:
        n = len(self.data_vector)
        self.covariance_matrix = np.zeros((n, n))
        self._whitening = np.zeros((n, n))
        self.hartlap_factors = {}
        self._n_regions = {}
        for statistics, matrix, n_regions in self._covariance_blocks():
            label = f"{self.measurement.name}, used bins of {', '.join(statistics)}"
            check_covariance(matrix, label)
            factor = self._hartlap_factor(statistics, len(matrix), n_regions)
            where = np.concatenate([np.arange(n)[self.slices[statistic]] for statistic in statistics])
            block = np.ix_(where, where)
            self.covariance_matrix[block] = matrix
            # Correlations, not covariances, are factorised: bins of xi differ by many orders of magnitude.
            error = np.sqrt(np.diag(matrix))
            cholesky = np.linalg.cholesky(matrix / np.outer(error, error))
            self._whitening[block] = np.sqrt(factor) * np.linalg.solve(cholesky, np.diag(1.0 / error))
            self.hartlap_factors.update(dict.fromkeys(statistics, factor))
            self._n_regions.update(dict.fromkeys(statistics, n_regions))
        self.inverse_covariance = self._whitening.T @ self._whitening
        self._whitening_torch = torch.as_tensor(self._whitening.T.copy())
        self._data_torch = torch.as_tensor(self.data_vector)

    def _covariance_blocks(self):
        """Independent parts of the covariance: (statistics, matrix over their used bins, n_regions or None)."""
        joint: dict[int, list[str]] = {}
        for statistic in self.statistics:
            kind = self._option("covariance", statistic) or "auto"
            if kind not in COVARIANCES:
                raise LoggedError(
                    self.log, "covariance: must be one of %s (%s), got '%s'.", ", ".join(COVARIANCES), statistic, kind
                )
            own = self.measurement.covariance_of(statistic)
            if kind == "correlation":
                correlation, n_regions = self._borrowed_correlation(statistic)
                error = self.bins[statistic].error
                yield [statistic], correlation * np.outer(error, error), n_regions
            elif kind == "diagonal" or (kind == "auto" and own is None):
                yield [statistic], np.diag(self.bins[statistic].error ** 2), None
            elif own is None:
                held = [name for name in self.measurement.statistics if self.measurement.covariance_of(name)]
                raise LoggedError(
                    self.log,
                    "covariance: %s has no covariance of %s (only of: %s). Use 'diagonal', 'auto' or 'correlation'.",
                    self.measurement.name,
                    statistic,
                    ", ".join(held) or "none",
                )
            else:
                joint.setdefault(id(own), []).append(statistic)
        for statistics in joint.values():
            covariance = self.measurement.covariance_of(statistics[0])
            sizes = [len(self.measurement.bins[name]) for name in covariance.statistics]
            starts = dict(zip(covariance.statistics, np.cumsum([0, *sizes[:-1]]), strict=True))
            rows = np.concatenate([starts[name] + np.flatnonzero(self.used[name]) for name in statistics])
            yield statistics, covariance.matrix[np.ix_(rows, rows)], covariance.n_regions

    def _borrowed_correlation(self, statistic: str) -> tuple[np.ndarray, int | None]:
        """Correlation matrix of the used bins, and its number of regions, from another measurement."""
        if self.correlation_from is None:
            raise LoggedError(
                self.log, "covariance: 'correlation' needs the option correlation_from, e.g. tng300/sample3."
            )
        source = by_name.Measurement.read(self.correlation_from)
        covariance = source.covariance_of(statistic)
        if covariance is None:
            raise LoggedError(
                self.log,
                "correlation_from: %s has no covariance of %s; use 'covariance: {%s: diagonal}'.",
                source.name,
                statistic,
                statistic,
            )
        first = sum(len(source.bins[name]) for name in covariance.statistics[: covariance.statistics.index(statistic)])
        rows = first + _match_bins(self.bins[statistic], source.bins[statistic], source.name, statistic)
        matrix = covariance.matrix[np.ix_(rows, rows)]
        error = np.sqrt(np.diag(matrix))
        return matrix / np.outer(error, error), covariance.n_regions

    def _hartlap_factor(self, statistics, n_bins: int, n_regions: int | None) -> float:
        """Unbiased inverse of an estimated covariance: Hartlap et al. 2007, A&A 464, 399, equation 17."""
        if not self.hartlap or n_regions is None:
            return 1.0
        factor = (n_regions - n_bins - 2) / (n_regions - 1)
        if factor <= 0:
            raise LoggedError(
                self.log,
                "The covariance of %s comes from %d regions, too few for %d bins: the Hartlap factor "
                "(n_regions - n_bins - 2) / (n_regions - 1) is %.3g. Use at most %d bins (r_min, r_max, statistics), "
                "'covariance: diagonal', or 'hartlap: False' if you accept a biased inverse.",
                ", ".join(statistics),
                n_regions,
                n_bins,
                factor,
                n_regions - 3,
            )
        return factor

    def get_requirements(self):
        """The used statistics, in the used bins, and with ``emulator_error`` their errors."""
        names = [self._products, *([self._deviations] if self.emulator_error else [])]
        return {
            name: {"r_edges": list(self._edges[statistic])}
            for products in names
            for statistic, name in products.items()
        }

    def get_version(self) -> str:
        """Version of the package, and so of the packaged data."""
        return __version__

    # ------------------------------------------------------------------ evaluation

    def logp(self, _derived=None, **params_values) -> float:
        """Log-likelihood at the current point of a Cobaya run."""
        return self.log_likelihood(self.theory_vector(), self.deviations())

    def theory_vector(self) -> np.ndarray:
        """The current prediction in the used bins, in the order of ``data_vector``, shape (n,)."""
        return np.concatenate(
            [
                self.provider.get_result(self._products[statistic], r_edges=self._edges[statistic])[
                    self._index[statistic]
                ]
                for statistic in self.statistics
            ]
        )

    def deviations(self) -> np.ndarray | None:
        """The error of the current prediction, (K, n): C_emu is the sum of products of its rows.

        None without the option ``emulator_error``.
        """
        if not self.emulator_error:
            return None
        return np.concatenate(
            [
                self.provider.get_result(self._deviations[statistic], r_edges=self._edges[statistic])[
                    :, self._index[statistic]
                ]
                for statistic in self.statistics
            ],
            axis=1,
        )

    def log_likelihood(self, theory_vector, deviations=None) -> float:
        """-chi^2 / 2 of a prediction, with an error of its own if given; -inf if it is not finite.

        Parameters
        ----------
        theory_vector : array (n,)
            In the order of ``data_vector``.
        deviations : array (K, n), optional
            As of :meth:`deviations`: adds C_emu to the covariance, and half of the change of its log-determinant.
            Hartlap factors apply to the covariance of the data only.

        Raises
        ------
        LoggedError
            Wrong shape; or not finite, with ``stop_at_error``.
        """
        chi2 = self.chi2(theory_vector)
        if not np.isfinite(chi2):
            self._report_not_finite(np.asarray(theory_vector))
            return -np.inf
        if deviations is None:
            return -0.5 * chi2
        vector = torch.as_tensor(np.asarray(theory_vector, dtype=np.float64))[None]
        scaled = torch.as_tensor(np.asarray(deviations, dtype=np.float64))[None]
        logp = float(self._log_likelihoods(vector, scaled)[0])
        if np.isfinite(logp):
            return logp
        self._report_not_finite(np.asarray(theory_vector), "The error of the prediction is not finite.")
        return -np.inf

    def log_likelihoods(self, theory_vectors, deviations=None) -> np.ndarray:
        """:meth:`log_likelihood` of a batch, without a word on what is not finite.

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
        logp = self._log_likelihoods(vectors, scaled)
        return torch.where(torch.isfinite(logp), logp, -torch.inf).numpy()

    def logp_torch(self, params, products) -> torch.Tensor:
        """Log-likelihoods of a batch of points, differentiable; see :mod:`iaemu_cobaya.gradients.log_posterior`.

        Parameters
        ----------
        params : mapping
            Not used: data have no parameters of their own.
        products : mapping of ``ia_xi``, ``ia_omega``, ``ia_eta`` to {edges: tensor (n, n_bins)}
            As of :meth:`iaemu_cobaya.theories.base.ForwardModelTheory.forward_torch`.

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
        deviations = self._joined(products, self._deviations) if self.emulator_error else None
        logp = self._log_likelihoods(vectors, deviations)
        if np.isfinite(float(logp.detach().sum())):  # one operation where isfinite().all() takes five
            return logp
        finite = torch.isfinite(logp.detach())
        if bool(finite.all()):  # each is, their sum is not
            return logp
        self._report_not_finite(vectors.detach()[~finite][0].numpy())
        # Replaced before the sum, not after: in a gradient, 0 times what is not finite would be NaN.
        if deviations is not None:
            deviations = torch.where(finite[:, None, None], deviations, 0.0)
        logp = self._log_likelihoods(torch.where(finite[:, None], vectors, self._data_torch), deviations)
        return torch.where(finite, logp, -torch.inf)

    def _joined(self, products, names: Mapping[str, str]) -> torch.Tensor:
        """Products in the used bins side by side, (..., n)."""
        parts = [
            products[name][self._edges[statistic]][..., self._index[statistic]] for statistic, name in names.items()
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)).to(torch.float64)

    def _log_likelihoods(self, vectors: torch.Tensor, deviations: torch.Tensor | None = None) -> torch.Tensor:
        whitened = (self._data_torch - vectors) @ self._whitening_torch
        if deviations is None:
            return -0.5 * whitened.square().sum(dim=1)
        # Where C_data is the unit matrix, C_data + C_emu = 1 + sum of products of the whitened deviations.
        rows = deviations @ self._whitening_torch
        total = torch.eye(whitened.shape[1], dtype=rows.dtype) + rows.mT @ rows
        cholesky, failed = torch.linalg.cholesky_ex(total)
        solved = torch.linalg.solve_triangular(cholesky, whitened[:, :, None], upper=False)[:, :, 0]
        log_det = 2.0 * cholesky.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        logp = -0.5 * (solved.square().sum(dim=1) + log_det)
        return torch.where(failed == 0, logp, torch.nan)

    def _report_not_finite(self, vector, message: str | None = None) -> None:
        message = self._describe_not_finite(vector) if message is None else message
        if self.stop_at_error:
            raise LoggedError(self.log, "%s", message)
        if not self._warned_not_finite:
            self._warned_not_finite = True
            self.log.warning("%s Zero likelihood. (Said once; set 'stop_at_error: True' to stop instead.)", message)

    def chi2(self, theory_vector) -> float:
        """chi^2 of a prediction (n,), with Hartlap factors; NaN if the prediction is not finite."""
        residuals = self.residuals(theory_vector)
        if not np.isfinite(residuals).all():
            return float("nan")
        whitened = self._whitening @ residuals
        return float(whitened @ whitened)

    def residuals(self, theory_vector, normalised: bool = False) -> np.ndarray:
        """Data minus prediction, shape (n,).

        Parameters
        ----------
        theory_vector : array (n,)
        normalised : bool
            Divide by the errors.
        """
        theory_vector = np.asarray(theory_vector, dtype=np.float64)
        if theory_vector.shape != self.data_vector.shape:
            raise LoggedError(
                self.log,
                "The theory vector has shape %s, the data %s (%s).",
                theory_vector.shape,
                self.data_vector.shape,
                ", ".join(f"{len(bins)} bins of {name}" for name, bins in self.bins.items()),
            )
        difference = self.data_vector - theory_vector
        return difference / np.sqrt(np.diag(self.covariance_matrix)) if normalised else difference

    def _describe_not_finite(self, vector) -> str:
        for statistic, part in self.slices.items():
            bad = np.flatnonzero(~np.isfinite(vector[part]))
            if len(bad):
                bins = self.bins[statistic]
                return (
                    f"The predicted {statistic} is {vector[part][bad[0]]} in {len(bad)} of {len(bins)} bins, first at "
                    f"r = {bins.r_low[bad[0]]:.5g} .. {bins.r_high[bad[0]]:.5g} Mpc/h (no pairs expected there?)."
                )
        return "chi^2 is not finite: the prediction is too large."

    # ------------------------------------------------------------------ for the eye

    def describe(self) -> str:
        """What is used, in one line per statistic."""
        lines = [f"Data: {self.measurement.name}"]
        for statistic, bins in self.bins.items():
            rows = self.covariance_matrix[self.slices[statistic]]
            errors = "errors only" if np.count_nonzero(rows) == len(rows) else "covariance"
            if self._n_regions[statistic] is not None:
                errors += f" from {self._n_regions[statistic]} regions"
            factor = self.hartlap_factors[statistic]
            hartlap = "" if factor == 1.0 else f", Hartlap factor {factor:.4g}"
            lines.append(
                f"  {statistic}: {len(bins)} of {len(self.used[statistic])} bins, {bins.r_low[0]:.4g} to "
                f"{bins.r_high[-1]:.4g} Mpc/h, {errors}{hartlap}"
            )
        return "\n".join(lines)

    def plot(
        self,
        theory_vector: np.ndarray | None = None,
        band: Sequence[np.ndarray] | None = None,
        axes: Sequence[Axes] | None = None,
        label: str = "prediction",
        color: str = "C0",
    ) -> list[Axes]:
        """Data with error bars, bins that are not used in grey, and a prediction; one panel per statistic.

        Parameters
        ----------
        theory_vector : array (n,), optional
            Prediction, in the order of ``data_vector``.
        band : pair of arrays (n,), optional
            Lower and upper limit of a shaded band.
        axes : sequence of matplotlib axes, optional
            One per statistic; made if not given.
        label, color : str
            Of the prediction.

        Returns
        -------
        list of matplotlib axes

        Raises
        ------
        ValueError
            Not one of ``axes`` for each statistic.
        """
        n = len(self.statistics)
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots(1, n, figsize=(5.0 * n, 4.0), squeeze=False, layout="constrained")[1][0]
        panels: list[Axes] = np.array(axes, dtype=object, ndmin=1).tolist()
        if len(panels) != n:
            raise ValueError(f"{len(panels)} axes for {n} statistics; give one for each.")
        for ax, statistic in zip(panels, self.statistics, strict=True):
            part = self.slices[statistic]
            plot_statistic(
                ax,
                statistic,
                self.measurement.bins[statistic],
                self.used[statistic],
                prediction=None if theory_vector is None else np.asarray(theory_vector)[part],
                band=None if band is None else [np.asarray(limit)[part] for limit in band],
                label=label,
                color=color,
            )
        return panels


def _match_bins(wanted: Bins, available: Bins, name: str, statistic: str) -> np.ndarray:
    """Index in ``available`` of each bin of ``wanted``; MeasurementError naming the first that is not there."""
    low = np.abs(available.r_low[None, :] / wanted.r_low[:, None] - 1.0) < EDGE_TOLERANCE
    high = np.abs(available.r_high[None, :] / wanted.r_high[:, None] - 1.0) < EDGE_TOLERANCE
    same = low & high
    absent = ~same.any(axis=1)
    if absent.any():
        bad = int(np.argmax(absent))
        raise MeasurementError(
            f"correlation_from: {name} has no bin of {statistic} from {wanted.r_low[bad]:.6g} to "
            f"{wanted.r_high[bad]:.6g} Mpc/h; the correlation matrix can be used in the same bins only."
        )
    return same.argmax(axis=1)

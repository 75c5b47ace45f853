"""Turn a measurement into what a likelihood needs: used bins, one data vector, and its covariance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iaemu.binning import EDGE_TOLERANCE
from iaemu.measurement import Bins, Covariance, Measurement, MeasurementError, check_covariance
from iaemu.models.fixed_occupation import Factored
from iaemu.parameters import ALIGNMENT_PARAMETERS
from iaemu.ranges import Range
from iaemu.statistics import MEASURED
from iaemu_cobaya.likelihoods.data_files import Measurement as MeasurementByName
from iaemu_cobaya.likelihoods.distribution import (
    DISTRIBUTIONS,
    Block,
    hotelling_p_value,
    least_eigenvalues_of_noise,
    log_likelihoods,
    products_of,
)

COVARIANCES = ("auto", "full", "diagonal", "correlation")

#: The least eigenvalue of a correlation matrix cannot be told from noise if this share of matrices of independent bins
#: has a smaller one. It matters if the noise alone gives a direction less than half of its variance.
_NOISE_QUANTILE, _NOISE_MATTERS = 0.05, 0.5


@dataclass
class Options:
    """Options of :class:`iaemu_cobaya.IACorrelations`; ``cobaya-doc`` describes them.

    Attributes
    ----------
    r_min, r_max, covariance, correlation_from, distribution
        The first three can be mappings of statistic to value.
    mask
        Mapping of statistic to separations [Mpc/h]; the bins that contain them are left out.
    """

    r_min: float | Mapping | None = None
    r_max: float | Mapping | None = None
    covariance: str | Mapping = "auto"
    correlation_from: Any = None
    distribution: str = "t"
    mask: Any = None

    def of(self, name: str, statistic: str) -> Any:
        """Return the value of an option for one statistic.

        Parameters
        ----------
        name, statistic : str

        Returns
        -------
        object
            None if a mapping does not contain the statistic.

        Raises
        ------
        MeasurementError
            A mapping contains an unknown statistic.
        """
        value = getattr(self, name)
        if not isinstance(value, Mapping):
            return value
        unknown = [key for key in value if key not in MEASURED]
        if unknown:
            raise MeasurementError(
                f"{name}: unknown statistic(s) {', '.join(map(str, unknown))}; use {', '.join(MEASURED)}."
            )
        return value.get(statistic)

    def masked(self, statistic: str) -> list[float]:
        """Return the separations of a statistic whose bins are left out.

        Parameters
        ----------
        statistic : str

        Returns
        -------
        list of float [Mpc/h]

        Raises
        ------
        MeasurementError
            The option is not a mapping of statistics to numbers.
        """
        if self.mask is not None and not isinstance(self.mask, Mapping):
            raise MeasurementError(f"mask: give {{statistic: [separations in Mpc/h]}}; got {self.mask}.")
        values = self.of("mask", statistic) if self.mask else None
        listed = values if isinstance(values, (list, tuple)) else [] if values is None else [values]
        for value in listed:
            Range(above=0).check(f"mask of {statistic} [Mpc/h]", value, error=MeasurementError)
        return [float(value) for value in listed]


class DataVector:
    """Data vector of length n: the used bins of each of ``statistics``, in this order, with increasing r.

    Parameters
    ----------
    measurement : Measurement
    statistics : sequence of str
    options : Options

    Attributes
    ----------
    used : dict of statistic to bool array (n_measured,)
        Whether each bin of the measurement is used.
    bins : dict of statistic to Bins
        The used bins.
    slices : dict of statistic to slice
        Position of these bins in the vector.
    values : array (n,)
        Dimensionless.
    covariance : array (n, n)
        Without Hartlap factors.
    whitening : array (n, n)
        W with W^T W = inverse covariance, Hartlap factors included: chi^2 = |W (data - prediction)|^2.
    blocks : list of Block
        Independent blocks of the covariance, with the distribution of each.
    n_parameters : int
        Number of fitted parameters; it can be set.

    Raises
    ------
    MeasurementError, FileNotFoundError
        No bin is left, a covariance is missing, not valid or from too few regions, or an option is not valid.
    """

    def __init__(self, measurement: Measurement, statistics: Sequence[str], options: Options):
        self.measurement, self.statistics, self._options = measurement, tuple(statistics), options
        self.used = {statistic: self._used(statistic) for statistic in self.statistics}
        self.bins = {name: measurement.bins[name].select(used) for name, used in self.used.items()}
        stops = np.cumsum([len(bins) for bins in self.bins.values()])
        self.slices = {
            name: slice(int(stop) - len(bins), int(stop))
            for (name, bins), stop in zip(self.bins.items(), stops, strict=True)
        }
        self.values = np.concatenate([bins.value for bins in self.bins.values()])
        self.covariance = np.zeros((len(self.values), len(self.values)))
        self.whitening = np.zeros_like(self.covariance)
        if options.distribution not in DISTRIBUTIONS:
            raise MeasurementError(
                f"distribution: must be one of {', '.join(DISTRIBUTIONS)}; got '{options.distribution}'."
            )
        self.blocks = [self._add_block(*block) for block in self._find_blocks()]
        self._values_torch = torch.as_tensor(self.values)
        self._whitening_torch = torch.as_tensor(self.whitening.T.copy())
        self.n_parameters = len(ALIGNMENT_PARAMETERS)

    @property
    def n_parameters(self) -> int:
        """Number of fitted parameters, on which the t-distribution depends; it can be set."""
        return self._n_parameters

    @n_parameters.setter
    def n_parameters(self, number: int) -> None:
        self._n_parameters = number
        self._terms, widening = [], torch.ones(len(self.values), dtype=torch.float64)
        for block in self.blocks:
            bins, power = torch.as_tensor(block.bins), block.power(number)
            if power is not None and block.n_regions is not None:
                self._terms.append((bins, power, block.n_regions))
            widening[bins] = block.widening(number)
        # C_emu is known. A t-distribution widens what is added to S, so divide by this, for C_emu to count once.
        self._products: tuple[torch.Tensor, np.ndarray] | None = None
        self._deviation_whitening = (self._whitening_torch / widening.sqrt()).numpy()

    def block_of(self, statistic: str) -> Block:
        """Return the block that contains a statistic.

        Parameters
        ----------
        statistic : str

        Returns
        -------
        Block
        """
        return next(block for block in self.blocks if statistic in block.names)

    def p_value(self, chi2: float) -> float:
        """Return the probability that a correct model has a larger chi^2 at the best fit.

        Parameters
        ----------
        chi2 : float
            From ``whitening``.

        Returns
        -------
        float
            See :func:`iaemu_cobaya.likelihoods.distribution.hotelling_p_value`. NaN for several blocks of which one was
            estimated from regions: their sum has no simple distribution.
        """
        regions = {block.n_regions for block in self.blocks}
        if regions != {None} and len(self.blocks) > 1:
            return math.nan
        factor = self.blocks[0].hartlap_factor
        return hotelling_p_value(chi2 / factor, len(self.values), self.n_parameters, regions.pop())

    def log_likelihoods(self, vectors: torch.Tensor, deviations: torch.Tensor | Factored | None = None) -> torch.Tensor:
        """Return the log-likelihoods of predictions, with gradients, without the constant normalisation.

        Parameters
        ----------
        vectors : tensor (m, n)
        deviations : tensor (m, K, n) or Factored, optional
            Deviations d_k of each prediction, whose C_emu = sum_k d_k d_k^T is added to the covariance. What corrects
            for the noise of an estimated covariance applies to that of the data only.

        Returns
        -------
        tensor (m,)
            See :func:`iaemu_cobaya.likelihoods.distribution.log_likelihoods`; NaN where it is not defined.
        """
        residuals = (self._values_torch - vectors) @ self._whitening_torch
        if not isinstance(deviations, Factored):
            return log_likelihoods(residuals, deviations, self._terms, self._deviation_whitening)
        if self._products is None or self._products[0] is not deviations.rows:
            self._products = deviations.rows, products_of(deviations.rows.numpy() @ self._deviation_whitening)
        return log_likelihoods(residuals, deviations.factors, self._terms, self._products[1])

    def log_normalisation(self) -> float:
        """Return the logarithm of the constant that :meth:`log_likelihoods` leave out.

        Returns
        -------
        float
        """
        of_blocks = sum(block.log_normalisation(self.n_parameters) for block in self.blocks)
        return float(np.linalg.slogdet(self.whitening)[1]) + of_blocks

    def describe(self) -> str:
        """Describe the data that are used, with one line for each statistic.

        Returns
        -------
        str
        """
        lines = [f"Data: {self.measurement.name}"]
        for statistic, bins in self.bins.items():
            rows = self.covariance[self.slices[statistic]]
            errors = "independent errors" if np.count_nonzero(rows) == len(rows) else "covariance"
            block = self.block_of(statistic)
            if block.n_regions is not None:
                errors += f" from {block.n_regions} regions"
            distribution = f", {block.describe()}" if block.describe() else ""
            lines.append(
                f"  {statistic}: {len(bins)} of {len(self.used[statistic])} bins, {bins.r_low[0]:.4g} to "
                f"{bins.r_high[-1]:.4g} Mpc/h, {errors}{distribution}"
            )
        return "\n".join(lines)

    def describe_not_finite(self, vector: np.ndarray) -> str:
        """Describe in a sentence where a prediction is not finite.

        Parameters
        ----------
        vector : array (n,)

        Returns
        -------
        str
        """
        for statistic, part in self.slices.items():
            bad = np.flatnonzero(~np.isfinite(vector[part]))
            if len(bad):
                bins = self.bins[statistic]
                return (
                    f"The predicted {statistic} is {vector[part][bad[0]]} in {len(bad)} of {len(bins)} bins, first at "
                    f"r = {bins.r_low[bad[0]]:.5g} to {bins.r_high[bad[0]]:.5g} Mpc/h (perhaps without any pairs)."
                )
        return "chi^2 is not finite: the prediction is too large."

    def noisy(self) -> str | None:
        """Describe covariances whose least eigenvalue cannot be told from the noise of so few regions.

        Such directions get too much weight in a fit, and chi^2 comes from them.

        Returns
        -------
        str or None
            None if there is none.
        """
        for block in self.blocks:
            if block.n_regions is None or len(block.bins) < 2 or block.n_regions <= len(block.bins):
                continue
            correlation, _ = _correlation_and_errors(self.covariance[np.ix_(block.bins, block.bins)])
            least = np.linalg.eigvalsh(correlation)[0]
            noise = least_eigenvalues_of_noise(len(block.bins), block.n_regions)
            median = np.median(noise)
            if least > np.quantile(noise, _NOISE_QUANTILE) and median < _NOISE_MATTERS:
                return (
                    f"The least eigenvalue of the correlation matrix of {', '.join(block.names)} is {least:.3f}. That "
                    f"is what noise gives: {len(block.bins)} independent bins from {block.n_regions} regions have "
                    f"{median:.3f} (median). The fit follows such directions more than the data allow. Use a "
                    "covariance from more regions, fewer or wider bins, or 'covariance: diagonal', and compare."
                )
        return None

    # ------------------------------------------------------------------ bins and covariance

    def _used(self, statistic: str) -> np.ndarray:
        bins = self.measurement.bins[statistic]
        r_min, r_max = (self._options.of(name, statistic) for name in ("r_min", "r_max"))
        for name, value in (("r_min", r_min), ("r_max", r_max)):
            if value is not None and not (isinstance(value, float) and math.isinf(value)):
                Range().check(f"{name} of {statistic} [Mpc/h]", value, error=MeasurementError)
        used = np.ones(len(bins), dtype=bool)
        if r_min is not None:
            used &= bins.r_low >= r_min * (1.0 - EDGE_TOLERANCE)
        if r_max is not None:
            used &= bins.r_high <= r_max * (1.0 + EDGE_TOLERANCE)
        for value in self._options.masked(statistic):
            inside = (bins.r_low * (1.0 - EDGE_TOLERANCE) <= value) & (value <= bins.r_high * (1.0 + EDGE_TOLERANCE))
            if not inside.any():
                raise MeasurementError(
                    f"mask: no bin of {statistic} contains r = {value:g} Mpc/h; the separations of "
                    f"{self.measurement.name} are {', '.join(f'{r:.4g}' for r in bins.r)}."
                )
            used &= ~inside
        if not used.any():
            raise MeasurementError(
                f"No bin of {statistic} lies between r_min = {r_min} and r_max = {r_max} Mpc/h: the bins of "
                f"{self.measurement.name} extend from {bins.r_low[0]:.5g} to {bins.r_high[-1]:.5g} Mpc/h."
            )
        return used

    def _add_block(self, names: Sequence[str], matrix: np.ndarray, n_regions: int | None) -> Block:
        check_covariance(matrix, f"{self.measurement.name}, used bins of {', '.join(names)}")
        bins = np.concatenate([np.arange(len(self.values))[self.slices[name]] for name in names])
        block = Block(names, bins, n_regions, self._options.distribution)
        where = np.ix_(bins, bins)
        self.covariance[where] = matrix
        # Factorise correlations, not covariances: the variances of xi differ by many orders of magnitude.
        correlation, error = _correlation_and_errors(matrix)
        cholesky = np.linalg.cholesky(correlation)
        self.whitening[where] = np.sqrt(block.hartlap_factor) * np.linalg.solve(cholesky, np.diag(1.0 / error))
        return block

    def _find_blocks(self) -> Iterator[tuple[list[str], np.ndarray, int | None]]:
        """Yield independent blocks of the covariance: statistics, matrix of their used bins, n_regions or None."""
        joint: dict[int, tuple[Covariance, list[str]]] = {}
        for statistic in self.statistics:
            kind = self._options.of("covariance", statistic) or "auto"
            if kind not in COVARIANCES:
                raise MeasurementError(
                    f"covariance: must be one of {', '.join(COVARIANCES)}; got '{kind}' for {statistic}."
                )
            own, error = self.measurement.covariance_of(statistic), self.bins[statistic].error
            if kind == "correlation":
                correlation, n_regions = self._foreign_correlation(statistic)
                yield [statistic], correlation * np.outer(error, error), n_regions
            elif kind == "diagonal" or (kind == "auto" and own is None):
                yield [statistic], np.diag(error**2), None
            elif own is None:
                held = [name for name in self.measurement.statistics if self.measurement.covariance_of(name)]
                raise MeasurementError(
                    f"covariance: {self.measurement.name} has no covariance of {statistic} (it has covariances of: "
                    f"{', '.join(held) or 'none'}). Use 'diagonal', 'auto' or 'correlation'."
                )
            else:
                joint.setdefault(id(own), (own, []))[1].append(statistic)
        for covariance, names in joint.values():
            starts = _starts(covariance, self.measurement)
            rows = np.concatenate([starts[name] + np.flatnonzero(self.used[name]) for name in names])
            yield names, covariance.matrix[np.ix_(rows, rows)], covariance.n_regions

    def _foreign_correlation(self, statistic: str) -> tuple[np.ndarray, int | None]:
        """Return the correlation matrix of the used bins from another measurement, and its number of regions."""
        if self._options.correlation_from is None:
            raise MeasurementError(
                "covariance: 'correlation' needs the option correlation_from, such as tng300/sample3."
            )
        source = MeasurementByName.read(self._options.correlation_from)
        covariance = source.covariance_of(statistic)
        if covariance is None:
            raise MeasurementError(
                f"correlation_from: {source.name} has no covariance of {statistic}; use 'covariance: {{{statistic}: "
                "diagonal}'."
            )
        rows = _starts(covariance, source)[statistic] + _match_bins(
            self.bins[statistic], source.bins[statistic], source.name, statistic
        )
        matrix = covariance.matrix[np.ix_(rows, rows)]
        return _correlation_and_errors(matrix)[0], covariance.n_regions


def _correlation_and_errors(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation matrix (n, n) and the errors (n,) of a covariance."""
    error = np.sqrt(np.diag(matrix))
    return matrix / np.outer(error, error), error


def _starts(covariance: Covariance, measurement: Measurement) -> dict[str, int]:
    """Return the first row of each statistic in a covariance."""
    sizes = [len(measurement.bins[name]) for name in covariance.statistics]
    return dict(zip(covariance.statistics, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))


def _match_bins(wanted: Bins, available: Bins, name: str, statistic: str) -> np.ndarray:
    """Return the index in ``available`` of each bin of ``wanted``; a missing bin raises MeasurementError."""
    low = np.abs(available.r_low[None, :] / wanted.r_low[:, None] - 1.0) < EDGE_TOLERANCE
    high = np.abs(available.r_high[None, :] / wanted.r_high[:, None] - 1.0) < EDGE_TOLERANCE
    same = low & high
    absent = ~same.any(axis=1)
    if absent.any():
        bad = int(np.argmax(absent))
        raise MeasurementError(
            f"correlation_from: {name} has no bin of {statistic} from {wanted.r_low[bad]:.6g} to "
            f"{wanted.r_high[bad]:.6g} Mpc/h. A correlation matrix can only be used for the same bins."
        )
    return same.argmax(axis=1)

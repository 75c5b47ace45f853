"""Pictures of the data of a likelihood with its best fit, and the same in words: what ``iaemu plot`` shows of it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from iaemu.plots import plot_shear, plot_statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

#: Colour of predictions.
COLOR = "#1f5fa8"

#: Characters of the title in an inch.
_CHARACTERS = 12


class DataPlots:
    """The part of a likelihood that shows its data and fit. ``iaemu plot`` evaluates all likelihoods of this class."""

    data_vector: np.ndarray
    measurement: Any

    def theory_vector(self) -> np.ndarray:
        """Return the prediction at the current point of a run.

        Returns
        -------
        array (n,)
            In the order of ``data_vector``.
        """
        raise NotImplementedError

    def deviations(self) -> np.ndarray | None:
        """Return the deviations of the prediction at the current point, None if they are not part of the fit.

        Returns
        -------
        array (K, n), or None
        """
        return None

    def chi2(self, theory_vector: Any) -> float:
        """Return chi^2 of a prediction.

        Parameters
        ----------
        theory_vector : array (n,)

        Returns
        -------
        float
        """
        raise NotImplementedError

    def p_value(self, theory_vector: Any) -> float:
        """Return the probability of a larger chi^2 at the best fit, NaN if it is not known.

        Parameters
        ----------
        theory_vector : array (n,)

        Returns
        -------
        float
        """
        raise NotImplementedError

    @property
    def n_fitted(self) -> int:
        """Number of fitted parameters."""
        raise NotImplementedError

    @property
    def picture_size(self) -> tuple[float, float]:
        """Width and height of the picture [inch]."""
        raise NotImplementedError

    def plot_fit(
        self,
        figure: FigureBase,
        best: np.ndarray,
        band: Sequence[np.ndarray] | None = None,
        parts: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        errors: np.ndarray | None = None,
    ) -> None:
        """Plot the data with the best fit and the residuals, below the name of the data, chi^2 and p-value.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure
        best : array (n,)
            Prediction of the best fit.
        band : pair of arrays (n,), optional
            Limits of the 68 % band of predictions.
        parts : mapping of statistic to {label: array}, optional
            Parts of the prediction.
        errors : array (K, n), optional
            Deviations of the prediction, see :meth:`deviations`.
        """
        name, fit = (
            textwrap.fill(text, int(_CHARACTERS * self.picture_size[0]))
            for text in (self.data_title, self._fit_in_title(best, errors))
        )
        figure.suptitle(f"{_in_mathtext(name)}\n{fit}", fontsize=11)
        self._plot_panels(figure, best, band, parts)

    def _fit_in_title(self, best: np.ndarray, errors: np.ndarray | None) -> str:
        fitted = f"{len(self.data_vector)} bins, {self.n_fitted} parameters"
        return rf"best fit: $\chi^2$ = {self.chi2(best):.1f}, {fitted}{_in_words(self.p_value(best))}"

    @property
    def data_title(self) -> str:
        """Name of the data: what their description says before the colon, or the name of their file."""
        described = str(self.measurement.metadata.get("description") or "").partition(": ")[0]
        return described or self.measurement.name

    def _plot_panels(self, figure: FigureBase, best, band, parts) -> None:
        raise NotImplementedError

    def fit_in_words(self, name: str, best: np.ndarray, errors: np.ndarray | None) -> list[str]:
        """Return chi^2 of the best fit, number of bins and of parameters, and p-value, in lines.

        Parameters
        ----------
        name : str
            Of the likelihood.
        best : array (n,)
            Prediction of the best fit.
        errors : array (K, n) or None
            Deviations there, see :meth:`deviations`.

        Returns
        -------
        list of str
        """
        # The column chi2 of the chain is -2 log L: with the error of the prediction, and of a t-distribution.
        which = "" if errors is None else " from the covariance of the data alone"
        fitted = f"{len(self.data_vector)} bins, {self.n_fitted} parameters"
        chance = _in_words(self.p_value(best), self._of_distribution)
        return [f"  {name}: chi2 = {self.chi2(best):.2f}{which} at the best fit, {fitted}{chance}"]

    @property
    def _of_distribution(self) -> str:
        """What the p-value is of, if not of chi^2."""
        return ""


class CorrelationPlots(DataPlots):
    """The pictures of measured correlation functions: one panel for each statistic."""

    statistics: Any
    slices: Mapping[str, slice]
    bins: Mapping[str, Any]
    used: Mapping[str, np.ndarray]
    n_regions: Mapping[str, int | None]

    def chi2(self, theory_vector: Any, deviations: np.ndarray | None = None) -> float:
        """Return chi^2 of a prediction.

        Parameters
        ----------
        theory_vector : array (n,)
        deviations : array (K, n), optional

        Returns
        -------
        float
        """
        raise NotImplementedError

    def p_value(self, theory_vector: Any, deviations: np.ndarray | None = None) -> float:
        """Return the probability of a larger chi^2 at the best fit, NaN if it is not known.

        Parameters
        ----------
        theory_vector : array (n,)
        deviations : array (K, n), optional

        Returns
        -------
        float
        """
        raise NotImplementedError

    def chi2_of(self, theory_vector: Any, statistic: str) -> float:
        """Return chi^2 of one statistic alone.

        Parameters
        ----------
        theory_vector : array (n,)
        statistic : str

        Returns
        -------
        float
        """
        raise NotImplementedError

    @property
    def picture_size(self) -> tuple[float, float]:
        """Width and height of the picture [inch]."""
        return 0.4 + 5.0 * len(self.statistics), 5.6

    def _fit_in_title(self, best: np.ndarray, errors: np.ndarray | None) -> str:
        text = super()._fit_in_title(best, errors)
        if errors is None:
            return text
        chance = _in_words(self.p_value(best, errors))
        return f"{text}; with the error of the prediction {self.chi2(best, errors):.1f}{chance}"

    def _plot_panels(self, figure, best, band, parts) -> None:
        grid = figure.subplots(2, len(self.statistics), squeeze=False, sharex="col", height_ratios=(3, 1))
        self.plot(best, band, grid[0], "best fit", COLOR, parts, grid[1])

    def fit_in_words(self, name: str, best: np.ndarray, errors: np.ndarray | None) -> list[str]:
        """Return chi^2 of the best fit, number of bins and of parameters, and p-value, in lines; and by statistic.

        Parameters
        ----------
        name : str
            Of the likelihood.
        best : array (n,)
            Prediction of the best fit.
        errors : array (K, n) or None
            Deviations there, see :meth:`deviations`.

        Returns
        -------
        list of str
        """
        lines = super().fit_in_words(name, best, errors)
        if errors is not None:
            chance = _in_words(self.p_value(best, errors))
            lines.append(f"    with the error of the prediction: chi2 = {self.chi2(best, errors):.2f}{chance}")
        if len(self.statistics) > 1:
            each = (f"{self.chi2_of(best, key):.2f} for {len(self.bins[key])} bins of {key}" for key in self.statistics)
            lines.append(f"    of which alone: {', '.join(each)}")
        return lines

    @property
    def _of_distribution(self) -> str:
        regions = self.n_regions[self.statistics[0]]
        return "" if regions is None else f" of Hotelling's T^2 with {regions} regions"

    def plot(
        self,
        theory_vector: np.ndarray | None = None,
        band: Sequence[np.ndarray] | None = None,
        axes: Sequence[Axes] | None = None,
        label: str = "prediction",
        color: str = "C0",
        parts: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        residuals: Sequence[Axes] | None = None,
    ) -> list[Axes]:
        """Plot the data with error bars, with bins that are not used in grey, and a prediction.

        Parameters
        ----------
        theory_vector : array (n,), optional
            Prediction, in the order of ``data_vector``.
        band : pair of arrays (n,), optional
            Lower and upper limits of a shaded band.
        axes : sequence of matplotlib axes, optional
            One for each statistic; by default new ones.
        label, color : str
            Label and colour of the prediction.
        parts : mapping of statistic to {label: array}, optional
            Parts of the prediction of a statistic.
        residuals : sequence of matplotlib axes, optional
            One for each statistic, for the residuals.

        Returns
        -------
        list of matplotlib axes

        Raises
        ------
        ValueError
            ``axes`` does not contain one for each statistic.
        """
        n = len(self.statistics)
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots(1, n, figsize=(5.0 * n, 4.0), squeeze=False, layout="constrained")[1][0]
        panels: list[Axes] = np.array(axes, dtype=object, ndmin=1).tolist()
        if len(panels) != n:
            raise ValueError(f"{len(panels)} axes for {n} statistics; give one for each.")
        below = [None] * n if residuals is None else list(residuals)
        for ax, lower, statistic in zip(panels, below, self.statistics, strict=True):
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
                parts=(parts or {}).get(statistic),
                residuals=lower,
            )
        return panels


class ShearPlots(DataPlots):
    """The picture of cosmic shear: a triangle of xi_plus, and above it one of xi_minus, of all pairs of source bins."""

    covariance_matrix: np.ndarray
    n_bins: int

    def p_value(self, theory_vector: np.ndarray) -> float:
        """Return the probability of a larger chi^2 at the best fit.

        Parameters
        ----------
        theory_vector : array (n,)
            The best fit.

        Returns
        -------
        float
            NaN without degrees of freedom.
        """
        degrees = len(self.data_vector) - self.n_fitted
        return float(stats.chi2.sf(self.chi2(theory_vector), degrees)) if degrees > 0 else np.nan

    @property
    def picture_size(self) -> tuple[float, float]:
        """Width and height of the picture [inch]."""
        return 2.5 * (self.n_bins + 1), 2.3 * self.n_bins + 0.9

    def _plot_panels(self, figure, best, band, parts) -> None:
        data = self.measurement
        errors = np.sqrt(np.diag(self.covariance_matrix))
        plot_shear(figure, data.statistic, data.pairs, data.theta, data.values, errors, best, band, COLOR)


def _in_words(p_value: float, of: str = "") -> str:
    return "" if np.isnan(p_value) else f", p = {p_value:.2g}{of}"


def _in_mathtext(text: str) -> str:
    """Set powers of ten and solar masses in a text of a user's as a formula, and nothing else."""
    text = re.sub(r"10\^(-?[\d.]*\d)", r"$10^{\1}$", text.replace("$", r"\$"))
    return re.sub(r"\bMsun\b", r"$M_\\odot$", text)

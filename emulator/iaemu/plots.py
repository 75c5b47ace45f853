"""Plots of correlation functions on matplotlib axes, and the labels of the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from iaemu.measurement import Bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

#: Axis labels.
LABELS = {
    "xi": r"$\xi(r)$",
    "omega": r"$\omega(r)$",
    "eta": r"$\eta(r)$",
    "w_gg": r"$w_{gg}(r_p)$ [Mpc/$h$]",
    "w_gplus": r"$w_{g+}(r_p)$ [Mpc/$h$]",
    "w_plusplus": r"$w_{++}(r_p)$ [Mpc/$h$]",
    "xi_gplus_2": r"$\xi_{g+,2}(r)$",
}
RESIDUAL = r"(data $-$ fit) / $\sigma$"
R_LABEL, RP_LABEL = r"$r$ [Mpc/$h$]", r"$r_p$ [Mpc/$h$]"


def label_of_r(statistic: str) -> str:
    """Return the axis label of the separation of a statistic.

    Parameters
    ----------
    statistic : str

    Returns
    -------
    str
    """
    return RP_LABEL if statistic.startswith("w_") else R_LABEL


def plot_statistic(
    ax: Axes,
    statistic: str,
    bins: Bins,
    used: np.ndarray,
    prediction: np.ndarray | None = None,
    band: Sequence[np.ndarray] | None = None,
    label: str = "prediction",
    color: str = "C0",
    parts: Mapping[str, np.ndarray] | None = None,
    residuals: Axes | None = None,
) -> None:
    """Plot one measured correlation function, and a prediction in the bins that are used.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    statistic : str
    bins : Bins
        All measured bins.
    used : bool array (n_measured,)
        Which bins are used; the others are drawn as open grey points.
    prediction : array (n_used,), optional
    band : pair of arrays (n_used,), optional
        Lower and upper limits of the shaded 68 % band.
    label, color : str
        Label and colour of the prediction.
    parts : mapping of label to array (n_used,), optional
        Parts of the prediction, drawn as thin lines.
    residuals : matplotlib.axes.Axes, optional
        Axes for the data minus the prediction in units of the errors.
    """
    r = bins.r
    # An error bar that reaches below zero runs out of a logarithmic plot at the bottom.
    style: dict[str, Any] = dict(fmt="o", ms=4.5, elinewidth=1.1, capsize=0)
    ax.errorbar(r[used], bins.value[used], bins.error[used], color="k", label="data", zorder=3, **style)
    if not np.all(used):
        rest = ~np.asarray(used)
        ax.errorbar(
            r[rest], bins.value[rest], bins.error[rest], color="0.6", mfc="w", label="not used", zorder=2, **style
        )
    if band is not None:
        low, high = band
        ax.fill_between(r[used], low, high, color=color, alpha=0.25, lw=0, label="68 % of the posterior", zorder=1)
    if prediction is not None:
        ax.plot(r[used], prediction, color=color, lw=1.6, label=label, zorder=2)
    for (name, part), dashes in zip((parts or {}).items(), ("--", ":", "-."), strict=False):
        ax.plot(r[used], part, color=color, lw=1.1, ls=dashes, label=name, zorder=2)
    ax.set_xscale("log")
    shown = bins.value[used] if prediction is None else np.concatenate([bins.value[used], prediction])
    if np.all(shown > 0):
        ax.set_yscale("log")
        # Error bars that reach zero must not stretch the axis over many decades.
        low, high = min(shown.min(), bins.value[bins.value > 0].min()), (bins.value + bins.error).max()
        ax.set_ylim(0.4 * float(low), 1.6 * float(high))
    else:
        ax.axhline(0.0, color="0.7", lw=0.8, zorder=0)
    ax.set_ylabel(LABELS[statistic])
    ax.legend(frameon=False, fontsize=9)
    if residuals is not None and prediction is not None:
        _plot_residuals(residuals, r[used], (bins.value[used] - prediction) / bins.error[used], color, style)
        ax.tick_params(labelbottom=False)
    for axis in (ax, residuals):
        if axis is not None:
            axis.tick_params(which="both", direction="in", top=True, right=True)
    (ax if residuals is None else residuals).set_xlabel(label_of_r(statistic))
    _label_separations(ax if residuals is None else residuals)


def _label_separations(ax: Axes) -> None:
    """Label a logarithmic axis of one decade or two by plain numbers: matplotlib's labels of minor ticks overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = ax.get_xlim()
    if high / low < 50.0:
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())


def _plot_residuals(ax: Axes, x: np.ndarray, difference: np.ndarray, color: str, style: Mapping[str, Any]) -> None:
    """Plot the data minus the prediction in units of the errors."""
    ax.axhspan(-1.0, 1.0, color="0.92", zorder=0)
    ax.axhline(0.0, color=color, lw=1.2, zorder=1)
    ax.errorbar(x, difference, 1.0, color="k", zorder=3, **style)
    ax.set_xscale("log")
    reach = max(3.0, 1.4 + float(np.abs(difference).max()))
    ax.set(ylim=(-reach, reach), ylabel=RESIDUAL)


def plot_shear(
    figure: FigureBase,
    statistic: np.ndarray,
    pairs: np.ndarray,
    theta: np.ndarray,
    values: np.ndarray,
    errors: np.ndarray,
    prediction: np.ndarray,
    band: Sequence[np.ndarray] | None = None,
    color: str = "C0",
) -> None:
    """Plot measured cosmic shear with a prediction: xi_plus in the lower triangle of panels, xi_minus in the upper.

    Parameters
    ----------
    figure : matplotlib Figure or SubFigure
    statistic : array of str (n,)
        ``xi_plus`` or ``xi_minus``.
    pairs : array of int (n, 2)
        Source bins, from 0.
    theta : array (n,)
        Separation [arcmin].
    values, errors, prediction : arrays (n,)
    band : pair of arrays (n,), optional
        Lower and upper limits of the shaded 68 % band.
    color : str
        Colour of the prediction.
    """
    style: dict[str, Any] = dict(fmt="o", ms=3, elinewidth=0.9, capsize=0)
    low, high = np.sort(pairs, axis=1).T
    n_bins = int(high.max()) + 1
    grid = figure.add_gridspec(n_bins, n_bins + 1)
    scale = theta * 1e4
    limits = 0.9 * theta.min(), 1.1 * theta.max()
    handles: dict[str, Any] = {}
    for name, sign in (("xi_plus", "+"), ("xi_minus", "-")):
        for i, j in sorted(set(zip(low[statistic == name].tolist(), high[statistic == name].tolist(), strict=True))):
            row, column = (j, i) if name == "xi_plus" else (i, j + 1)
            ax = figure.add_subplot(grid[row, column])
            below = ax.inset_axes((0.0, -0.45, 1.0, 0.45))
            here = np.flatnonzero((statistic == name) & (low == i) & (high == j))
            here = here[np.argsort(theta[here])]
            x, factor = theta[here], scale[here]
            if band is not None:
                low_, high_ = (np.asarray(limit)[here] * factor for limit in band)
                handles["68 % of the posterior"] = ax.fill_between(x, low_, high_, color=color, alpha=0.25, lw=0)
            (handles["best fit"],) = ax.plot(x, factor * prediction[here], color=color, lw=1.4)
            handles["data"] = ax.errorbar(x, factor * values[here], factor * errors[here], color="k", zorder=3, **style)
            ax.axhline(0.0, color="0.7", lw=0.8, zorder=0)
            ax.text(0.04, 0.95, rf"$\xi_{sign}$ {i + 1}, {j + 1}", transform=ax.transAxes, va="top", fontsize=9)
            _plot_residuals(below, x, (values[here] - prediction[here]) / errors[here], color, style)
            below.set(ylabel="", yticks=(-2, 0, 2))
            ax.set_xscale("log")
            ax.tick_params(labelbottom=False)
            bottom, top = ax.get_ylim()
            ax.set_ylim(bottom, top + 0.2 * (top - bottom))  # for the numbers of the bins
            last = row == n_bins - 1
            below.tick_params(labelbottom=last)
            below.set_xlabel(r"$\theta$ [arcmin]" if last else "", fontsize=9)
            for axis in (ax, below):
                axis.set_xlim(limits)
                axis.tick_params(which="both", direction="in", top=True, right=True, labelsize=8)
            if column == 0:
                ax.set_ylabel(r"$10^4\,\theta\,\xi$ [arcmin]", fontsize=9)
                below.set_ylabel(RESIDUAL, fontsize=7)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)

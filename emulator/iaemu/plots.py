"""Plots of correlation functions on matplotlib axes, and the labels of the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from iaemu.measurement import Bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
        residuals.axhspan(-1.0, 1.0, color="0.92", zorder=0)
        residuals.axhline(0.0, color=color, lw=1.2, zorder=1)
        difference = (bins.value[used] - prediction) / bins.error[used]
        residuals.errorbar(r[used], difference, 1.0, color="k", zorder=3, **style)
        residuals.set_xscale("log")
        reach = max(3.0, 1.0 + float(np.abs(difference).max()))
        residuals.set(ylim=(-reach, reach), ylabel=r"residual / $\sigma$")
        ax.tick_params(labelbottom=False)
    for axis in (ax, residuals):
        if axis is not None:
            axis.tick_params(which="both", direction="in", top=True, right=True)
    (ax if residuals is None else residuals).set_xlabel(label_of_r(statistic))

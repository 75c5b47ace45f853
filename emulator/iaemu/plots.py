"""Plots of correlation functions on matplotlib axes, and the labels of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from iaemu.measurement import Bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Axis labels.
LABELS = {"xi": r"$\xi(r)$", "omega": r"$\omega(r)$", "eta": r"$\eta(r)$"}
R_LABEL = r"$r$ [Mpc/$h$]"


def plot_statistic(
    ax: Axes,
    statistic: str,
    bins: Bins,
    used: np.ndarray,
    prediction: np.ndarray | None = None,
    band: Sequence[np.ndarray] | None = None,
    label: str = "prediction",
    color: str = "C0",
) -> None:
    """Plot one measured correlation function, and a prediction in the bins that are used.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    statistic : "xi", "omega" or "eta"
    bins : Bins
        All measured bins.
    used : bool array (n_measured,)
        Which bins are used; the others are drawn as open grey points.
    prediction : array (n_used,), optional
    band : pair of arrays (n_used,), optional
        Lower and upper limits of the shaded 68 % band.
    label, color : str
        Label and colour of the prediction.
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
    ax.set_xscale("log")
    shown = bins.value[used] if prediction is None else np.concatenate([bins.value[used], prediction])
    if np.all(shown > 0):
        ax.set_yscale("log")
        # Error bars that reach zero must not stretch the axis over many decades.
        low, high = min(shown.min(), bins.value[bins.value > 0].min()), (bins.value + bins.error).max()
        ax.set_ylim(0.4 * float(low), 1.6 * float(high))
    else:
        ax.axhline(0.0, color="0.7", lw=0.8, zorder=0)
    ax.set_xlabel(R_LABEL)
    ax.set_ylabel(LABELS[statistic])
    ax.tick_params(which="both", direction="in", top=True, right=True)
    ax.legend(frameon=False, fontsize=9)

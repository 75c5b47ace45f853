"""Figures 6 and 7 of arXiv:2504.05235, made with our models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from getdist import MCSamples
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iaemu.binning import TNG_EDGES, bin_centers
from iaemu.models.factorised import Emulator
from iaemu.parameters import ALIGNMENT_PARAMETERS
from iaemu.plots import LABELS, R_LABEL
from iaemu.statistics import STATISTICS
from iaemu_cobaya.chains.paper import TABLE_2
from iaemu_cobaya.likelihoods.data_files import Measurement
from iaemu_cobaya.reproduce.routes import Route, occupation

_COLORS = {1: "#5b3a8c", 2: "#d0589a", 3: "#c8362f"}
_ROUTES = {"emulator, HMC": "#1f5fa8", "tables, HMC": "#2f8f5b", "Cobaya mcmc": "#d1622b", "pooled": "#7a5c4f"}
_ROUTES_USED = ("emulator, HMC", "pooled")
#: Fewest effective draws for a contour; with fewer, GetDist cannot estimate a density.
_LEAST_DRAWS = 10

_LATEX = [r"\mu_\mathrm{cen}", r"\mu_\mathrm{sat}"]
#: Number of mocks for the band that shows the scatter of one measurement.
_N_BAND = 20


def figure_7(routes: Mapping[int, Sequence[Route]]) -> Figure:
    """Plot the posteriors of (mu_cen, mu_sat), 68 % and 95 %, in one panel per sample, with Table 2 of the paper.

    Parameters
    ----------
    routes : mapping of sample to routes

    Returns
    -------
    Figure
        Open in pyplot: close it there.
    """
    from getdist import plots

    plotter = plots.get_subplot_plotter(width_inch=4.6 * len(routes))
    plotter.make_figure(len(routes), nx=len(routes), ny=1)
    figure = plotter.fig
    figure.set_size_inches(4.6 * len(routes), 5.4)
    names = list(ALIGNMENT_PARAMETERS)
    ranges = dict.fromkeys(names, (-1, 1))
    for index, (sample, found) in enumerate(routes.items()):
        ax = figure.add_subplot(1, len(routes), index + 1)
        handles = []
        for key, color in _ROUTES.items():
            for route in (route for route in found if key in route.label):
                label, weight = route.label, np.ones(len(route.draws)) if route.weight is None else route.weight
                if weight.sum() ** 2 < _LEAST_DRAWS * (weight**2).sum():
                    label += ": too few effective draws for a contour"
                else:
                    samples = MCSamples(samples=route.draws, weights=weight, names=names, labels=_LATEX, ranges=ranges)
                    filled = key.startswith("emulator")
                    plotter.plot_2d([samples], names, filled=filled, colors=[color], ax=ax, lims=None)
                handles.append(Line2D([], [], color=color, label=label))
        published = [[values[name] for name in names] for values in TABLE_2[sample].values()]
        for label, ((x, x_up, x_down), (y, y_up, y_down)), marker in zip(TABLE_2[sample], published, "os", strict=True):
            bars = {"xerr": [[x_down], [x_up]], "yerr": [[y_down], [y_up]]}
            handles.append(ax.errorbar(x, y, **bars, fmt=marker, color="k", ms=4, lw=0.8, label=f"paper: {label}"))
        for set_limits, draws, values in zip(
            (ax.set_xlim, ax.set_ylim), found[0].draws.T, zip(*published, strict=True), strict=True
        ):
            low, high = np.quantile(draws, [0.001, 0.999])
            set_limits(
                min([low, *(value - 1.2 * down for value, _, down in values)]),
                max([high, *(value + 1.2 * up for value, up, _ in values)]),
            )
        ax.set_title(f"sample {sample}", fontsize=11)
        # Below the panel: inside, it would hide contours.
        ax.legend(handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    figure.tight_layout()
    return figure


def figure_6(routes: Mapping[int, Sequence[Route]], catalogues: Sequence[str]) -> Figure:
    """Plot xi, omega and eta of TNG300, with emulator and mocks at the posterior means; see the paper's caption.

    Parameters
    ----------
    routes : mapping of sample to routes
        With the routes that use mocks.
    catalogues : sequence of str
        Halo catalogues to populate.

    Returns
    -------
    Figure
    """
    from iaemu_training.mocks.ensemble import MockEnsemble

    emulator = Emulator.load()
    mocks = MockEnsemble(catalogues, _N_BAND)
    r = bin_centers(TNG_EDGES)
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for sample, found in routes.items():
        color, shift = _COLORS[sample], 10.0 ** (2 - sample)
        data = Measurement.read(f"tng300/sample{sample}")
        means = [next(route for route in found if key in route.label).moments.mean for key in _ROUTES_USED]
        prediction, realisations = (
            {**dict(zip(ALIGNMENT_PARAMETERS, mean, strict=True)), **occupation(sample)} for mean in means
        )
        deviations = emulator.deviations(prediction, TNG_EDGES)
        values = emulator.predict(prediction, TNG_EDGES)
        mocks.count_in(TNG_EDGES)
        pooled = mocks.predict(realisations, TNG_EDGES)
        single = mocks.single(realisations, TNG_EDGES)
        for ax, statistic in zip(axes, STATISTICS, strict=True):
            factor = shift if statistic == "xi" else 1.0
            bins = data.bins[statistic]
            ax.errorbar(bins.r, factor * bins.value, factor * bins.error, fmt="o", ms=3.5, lw=0.8, color=color)
            sigma = np.sqrt((deviations[statistic] ** 2).sum(axis=0))
            scatter = single[statistic].std(axis=0, ddof=1)
            for given, width, style, alpha in ((values, sigma, "-", 0.35), (pooled, scatter, "--", 0.12)):
                mean = getattr(given, statistic)
                ax.plot(r, factor * mean, style, color=color, label=f"sample {sample}" if style == "-" else None)
                ax.fill_between(r, factor * (mean - width), factor * (mean + width), color=color, alpha=alpha, lw=0)
    for ax, statistic in zip(axes, STATISTICS, strict=True):
        ax.set(xscale="log", xlabel=R_LABEL, ylabel=LABELS[statistic])
        ax.axvline(TNG_EDGES[-1], color="0.7", lw=0.7)
    axes[0].set_yscale("log")
    axes[0].set_title("samples 1 and 3 are offset by 1 dex", fontsize=9)
    axes[1].set_yscale("log")
    axes[2].set_yscale("symlog", linthresh=1e-3)
    styles = (("-", "emulator, with its error"), ("--", "mocks, with the scatter of one mock"))
    axes[1].legend(handles=[Line2D([], [], color="k", ls=style, label=label) for style, label in styles], fontsize=8)
    axes[0].legend(fontsize=8)
    return figure

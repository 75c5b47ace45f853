"""Corner plots of chains, and plots of their data with the best fit and the posterior of the prediction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from cobaya.model import Model
from matplotlib.figure import Figure

from iaemu_cobaya.chains.paper import TABLE_2
from iaemu_cobaya.chains.reading import Chain, ChainError
from iaemu_cobaya.chains.rebuild import rebuild_model
from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.naming import product_name
from iaemu_cobaya.theories.base import ForwardModelTheory

if TYPE_CHECKING:
    from getdist.plots import GetDistPlotter

COLORS = ("#1f5fa8", "#d1622b", "#2f8f5b", "#8a5aa8", "#7a5c4f")

#: Number of draws for the band of a prediction. The band is left out if it would take longer than BAND_SECONDS.
N_BAND = 300
BAND_SECONDS = 90.0


def corner_plot(
    chains: Sequence[Chain], paper: bool = False, truth: Mapping[str, float] | None = None
) -> GetDistPlotter:
    """Make a corner plot of one or more chains with GetDist.

    Parameters
    ----------
    chains : sequence of Chain
    paper : bool
        Mark the posteriors of arXiv:2504.05235, table 2, for the samples that were fitted.
    truth : mapping of name to number, optional
        Values to mark, for example those of mock data.

    Returns
    -------
    getdist.plots.GetDistPlotter
        Plotter with the figure as ``fig``.

    Raises
    ------
    ChainError
        No chain has enough samples, the chains share no sampled parameter, or ``truth`` contains another one.
    """
    from getdist import plots

    truth = truth or {}
    enough = [chain for chain in chains if chain.densities]
    if not enough:
        raise ChainError(
            "no corner plot: the chains contain too few samples (from 'evaluate', or from a run that has just started)"
        )
    names = [name for name in enough[0].densities if all(name in chain.densities for chain in enough)]
    if not names:
        raise ChainError("no corner plot: the chains share no sampled parameter")
    unknown = [name for name in truth if name not in names]
    if unknown:
        raise ChainError(f"no corner plot: {', '.join(unknown)} (truth) is not sampled; sampled are {', '.join(names)}")
    colors = [COLORS[index % len(COLORS)] for index in range(len(enough))]
    plotter = plots.get_subplot_plotter(width_inch=max(4.5, 1.6 * len(names) + 1.5))
    plotter.settings.axes_fontsize = 11
    plotter.settings.axes_labelsize = 14
    plotter.settings.legend_fontsize = 11
    plotter.settings.alpha_filled_add = 0.8
    plotter.settings.title_limit_fontsize = 11
    try:
        plotter.triangle_plot(
            [chain.samples for chain in enough],
            names,
            filled=True,
            contour_colors=colors,
            legend_labels=[chain.name for chain in enough] if len(enough) > 1 else None,
            title_limit=1 if len(enough) == 1 else 0,
            markers=truth,
        )
    except (np.linalg.LinAlgError, IndexError, ValueError) as error:
        # This happens if a slow parameter has hardly moved yet, so that its density estimate has no width.
        raise ChainError(
            f"no corner plot: GetDist fails for these chains; perhaps they are too short: {error}"
        ) from error
    for name, value in truth.items():
        _reach(plotter, names.index(name), value, value)
    if paper:
        _mark_paper(plotter, enough, names, colors)
    return plotter


def _mark_paper(plotter: GetDistPlotter, chains: Sequence[Chain], names: Sequence[str], colors: Sequence[str]) -> None:
    marked = []
    for chain, color in zip(chains, colors, strict=True):
        paper = _paper_posteriors(chain)
        if paper in marked:  # another run on the same sample
            continue
        marked.append(paper)
        for row, name in enumerate(names):
            if name not in paper:
                continue
            value, upper, lower = paper[name]
            axis = plotter.subplots[row, row]
            axis.axvspan(value - lower, value + upper, color=color, alpha=0.15, lw=0)
            axis.axvline(value, color=color, ls="--", lw=1)
            for column in range(row):
                if names[column] not in paper:
                    continue
                x, x_upper, x_lower = paper[names[column]]
                plotter.subplots[row, column].errorbar(
                    x, value, xerr=[[x_lower], [x_upper]], yerr=[[lower], [upper]], color="k", mfc=color, fmt="o", ms=5
                )
            _reach(plotter, row, value - 2 * lower, value + 2 * upper)


def _paper_posteriors(chain: Chain) -> dict[str, tuple[float, float, float]]:
    """Return the paper's posteriors of the samples that were fitted, under the names of this run; empty if unknown.

    Alignment strengths that several samples share are left out, since the paper has no values for them.
    """
    known = {f"TNG300Sample{sample}": rows["IAEmu, HMC"] for sample, rows in TABLE_2.items()}
    found, claimed = {}, []
    for name, info in (chain.info.get("likelihood") or {}).items():
        info = info or {}
        key = str(info.get("class") or name).rpartition(".")[2]
        names = info.get("param_map") or {}
        for parameter, value in known.get(key, {}).items():
            claimed.append(names.get(parameter, parameter))
            found[claimed[-1]] = value
    return {name: value for name, value in found.items() if claimed.count(name) == 1}


def _reach(plotter: GetDistPlotter, index: int, low: float, high: float) -> None:
    """Widen the axis of one parameter in all panels so that it contains a range."""
    left, right = plotter.subplots[index, index].get_xlim()
    limits = min(left, low), max(right, high)
    for row in range(index, len(plotter.subplots)):
        plotter.subplots[row, index].set_xlim(limits)
    for column in range(index):
        plotter.subplots[index, column].set_ylim(limits)


def data_plot(chain: Chain, n_band: int = N_BAND, seed: int = 0) -> tuple[Figure, str]:
    """Plot the data of a chain with its best fit and the posterior of the prediction.

    Parameters
    ----------
    chain : Chain
    n_band : int
        Number of draws for the band, which contains 68 %. The band is left out if it would take minutes.
    seed : int
        Seed of these draws.

    Returns
    -------
    figure : Figure
    text : str
        chi^2 of the best fit, number of bins, and p-value, for each likelihood.

    Raises
    ------
    ChainError
        The run has no likelihood of this package, or its model cannot be rebuilt.
    """
    try:
        model = rebuild_model(chain)
    except ChainError as error:
        raise ChainError(f"no data plot: {error}") from error
    try:
        likes = {name: like for name, like in model.likelihood.items() if isinstance(like, IACorrelations)}
        best, seconds = _predict(model, likes, chain.best())
        errors = {name: like.deviations() for name, like in likes.items()} if best is not None else {}
        if best is None:
            point = {name: chain.best()[name] for name in model.parameterization.sampled_params()}
            raise ChainError(f"no data plot: the model of {chain.name} gives zero likelihood at {point}")
        if n_band * seconds > BAND_SECONDS:
            # Time a second call, since the first one may have filled caches.
            seconds = _predict(model, likes, chain.draws(1, seed)[0])[1]
        too_slow = n_band * seconds > BAND_SECONDS
        drawn = [_predict(model, likes, row)[0] for row in chain.draws(0 if too_slow else n_band, seed)]
        parts = {name: _parts(model, like, chain.best()) for name, like in likes.items()}
    finally:
        model.close()
    predictions = [prediction for prediction in drawn if prediction is not None]
    n_panels = sum(len(like.statistics) for like in likes.values())
    figure = Figure(figsize=(0.6 + 5.0 * n_panels, 5.2), layout="constrained")
    grid = figure.subplots(2, n_panels, squeeze=False, sharex="col", height_ratios=(3, 1))
    axes, below = list(grid[0]), list(grid[1])
    lines = []
    for name, like in likes.items():
        panels, residuals = [axes.pop(0) for _ in like.statistics], [below.pop(0) for _ in like.statistics]
        band = None
        if len(predictions) > 1:
            band = np.quantile([prediction[name] for prediction in predictions], [0.16, 0.84], axis=0)
        chi2, n_bins = like.chi2(best[name]), len(like.data_vector)
        # The column chi2 of the chain is -2 log L: with the error of the prediction, and of a t-distribution.
        which = " from the covariance of the data alone" if like.emulator_error else ""
        p_value = like.p_value(best[name])
        chance = "" if np.isnan(p_value) else f", p = {p_value:.2g}"
        text = rf"best fit, $\chi^2$ = {chi2:.1f} for {n_bins} bins{chance}"
        like.plot(best[name], band, panels, text, COLORS[0], parts[name], residuals)
        if len(likes) > 1:
            panels[0].set_title(name, fontsize=10, loc="left")
        chance += _of_hotelling(like) if chance else ""
        fitted = f"{n_bins} bins, {like.n_fitted} parameters"
        lines.append(f"  {name}: chi2 = {chi2:.2f}{which} at the best fit, {fitted}{chance}")
        if errors[name] is not None:
            with_error = like.p_value(best[name], errors[name])
            chance = "" if np.isnan(with_error) else f", p = {with_error:.2g}"
            chi2 = like.chi2(best[name], errors[name])
            lines.append(f"    with the error of the prediction: chi2 = {chi2:.2f}{chance}")
        if len(like.statistics) > 1:
            each = {statistic: like.chi2_of(best[name], statistic) for statistic in like.statistics}
            parts_of = (f"{value:.2f} for {len(like.bins[key])} bins of {key}" for key, value in each.items())
            lines.append(f"    of which alone: {', '.join(parts_of)}")
    if too_slow:
        lines.append(f"  without a band: {n_band} predictions would take more than {BAND_SECONDS:g} s")
    return figure, "\n".join(lines)


def _parts(model: Model, like: IACorrelations, row: Mapping[str, float]) -> dict[str, dict[str, np.ndarray]]:
    """Return the parts of w_g+ or of its quadrupole with shapes of centrals and of satellites, at a row of a chain."""
    found: dict[str, dict[str, np.ndarray]] = {}
    point = {name: row[name] for name in model.parameterization.sampled_params()}
    inputs = model.parameterization.to_input(point)
    for statistic, options in like.requests.items():
        if statistic not in ("w_gplus", "xi_gplus_2"):
            continue
        theory = like.provider.requirement_providers[product_name(statistic, like.tag)]
        if not isinstance(theory, ForwardModelTheory):
            continue  # a user's own theory does not tell the parts
        theta = dict(zip(theory.model.parameters, (inputs[name] for name in theory.names), strict=True))
        amplitude = float(theory.shape_amplitude(inputs))
        projected = theory.model.project(theta, options["projection"], a_shape=amplitude, support="warn")
        if projected.centrals is not None:
            found[statistic] = {"shapes of centrals": projected.centrals, "shapes of satellites": projected.satellites}
    return found


def _of_hotelling(like: IACorrelations) -> str:
    regions = like.n_regions[like.statistics[0]]
    return "" if regions is None else f" of Hotelling's T^2 with {regions} regions"


def _predict(model: Model, likes: Mapping[str, IACorrelations], row: Mapping[str, float]):
    """Return the predictions of each likelihood at a row of a chain (None for zero likelihood), and the time [s]."""
    began = time.perf_counter()
    point = {name: row[name] for name in model.parameterization.sampled_params()}
    finite = np.isfinite(model.loglike(point, return_derived=False))
    vectors = {name: like.theory_vector() for name, like in likes.items()} if finite else None
    return vectors, time.perf_counter() - began

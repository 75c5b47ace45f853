"""Corner plots of chains, and plots of their data with the best fit and the posterior of the prediction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from cobaya.model import Model
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from iaemu.progress import BAR_AFTER, tqdm
from iaemu_cobaya.chains.paper import TABLE_2
from iaemu_cobaya.chains.reading import Chain, ChainError
from iaemu_cobaya.chains.rebuild import rebuild_model
from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.likelihoods.data_plots import COLOR, DataPlots
from iaemu_cobaya.naming import product_name
from iaemu_cobaya.theories.base import ForwardModelTheory
from iaemu_cobaya.theories.derived import DERIVED

if TYPE_CHECKING:
    from getdist.plots import GetDistPlotter

COLORS = (COLOR, "#d1622b", "#2f8f5b", "#8a5aa8", "#7a5c4f")

#: Up to so many parameters, a corner plot shows derived ones unasked, and its letters are of the usual size.
N_READABLE = 8

#: What is marked with ``paper``.
PAPER = "IAEmu (Pandya et al.\n2025), table 2"

#: Number of draws for the band of a prediction, or as many as take BAND_SECONDS; with fewer than N_LEAST it is left
#: out.
N_BAND = 300
N_LEAST = 60
BAND_SECONDS = 90.0


def corner_plot(
    chains: Sequence[Chain],
    paper: bool = False,
    truth: Mapping[str, float] | None = None,
    params: Sequence[str] | None = None,
) -> GetDistPlotter:
    """Make a corner plot of one or more chains with GetDist.

    Parameters
    ----------
    chains : sequence of Chain
    paper : bool
        Mark the posteriors of arXiv:2504.05235, table 2, for the samples that were fitted.
    truth : mapping of name to number, optional
        Values to mark, for example those of mock data.
    params : sequence of str, optional
        Sampled and derived parameters to show. By default the sampled ones that the chains share, and those that
        theories of this package derive, up to ``N_READABLE`` in all.

    Returns
    -------
    getdist.plots.GetDistPlotter
        Plotter with the figure as ``fig``.

    Raises
    ------
    ChainError
        No chain has enough samples, the chains share no sampled parameter, ``params`` contains one that not all of them
        have, or ``truth`` one that is not shown.
    """
    from getdist import plots

    truth = truth or {}
    enough = [chain for chain in chains if chain.densities]
    if not enough:
        raise ChainError(
            "no corner plot: the chains contain too few samples (from 'evaluate', or from a run that has just started)"
        )
    names = _shown(enough, params)
    unknown = [name for name in truth if name not in names]
    if unknown:
        raise ChainError(f"no corner plot: {', '.join(unknown)} (truth) is not shown; shown are {', '.join(names)}")
    colors = [COLORS[index % len(COLORS)] for index in range(len(enough))]
    many = len(names) > N_READABLE
    plotter = plots.get_subplot_plotter(width_inch=max(4.5, (1.2 if many else 1.6) * len(names) + 1.5))
    settings = {"axes_fontsize": 11, "axes_labelsize": 14, "title_limit_fontsize": 13, "alpha_filled_add": 0.8}
    if many:  # The picture is seen at the size of a page: letters must grow with it, and become fewer.
        size = 11 + 0.6 * (len(names) - N_READABLE)
        settings |= {"axes_fontsize": size, "axes_labelsize": 1.15 * size, "title_limit_fontsize": size}
        settings |= {"axis_tick_x_rotation": 60, "axis_tick_max_labels": 3}
    for name, value in settings.items():
        setattr(plotter.settings, name, value)
    try:
        plotter.triangle_plot(
            [chain.samples for chain in enough],
            list(names),
            filled=True,
            contour_colors=colors,
            legend_labels=[],
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
    handles: list[Any] = []
    if len(enough) > 1:
        handles += [Patch(color=color, label=chain.name) for chain, color in zip(enough, colors, strict=True)]
    if truth:
        handles.append(Line2D([], [], color=plotter.settings.axis_marker_color, ls="--", label="truth"))
    if paper:
        handles += _mark_paper(plotter, enough, names, colors)
    _finish(plotter, handles)
    return plotter


def _shown(chains: Sequence[Chain], params: Sequence[str] | None) -> list[str]:
    """Return the names of the parameters of a corner plot."""
    shared = [name for name in chains[0].densities if all(name in chain.densities for chain in chains)]
    derived = [name for name in chains[0].derived if all(name in chain.derived for chain in chains)]
    if params:
        unknown = [name for name in params if name not in (*shared, *derived)]
        if unknown:
            raise ChainError(
                f"no corner plot: {', '.join(unknown)} (params) does not vary in all chains; those that do are "
                f"{', '.join((*shared, *derived))}"
            )
        return list(dict.fromkeys(params))
    if not shared:
        raise ChainError("no corner plot: the chains share no sampled parameter")
    ours = [name for name in derived if _is_ours(name)]
    return shared + ours * (len(shared) + len(ours) <= N_READABLE)


def _is_ours(name: str) -> bool:
    return name in DERIVED or name.startswith(tuple(f"{one}_" for one in DERIVED))


def left_out(chains: Sequence[Chain], params: Sequence[str] | None) -> list[str]:
    """Return the derived parameters of this package that a corner plot does not show, since it would have too many.

    Parameters
    ----------
    chains : sequence of Chain
    params : sequence of str, optional
        Those that the plot was asked for.

    Returns
    -------
    list of str
    """
    if params:
        return []
    shown = _shown([chain for chain in chains if chain.densities], None)
    derived = dict.fromkeys(name for chain in chains for name in chain.derived if _is_ours(name))
    return [name for name in derived if name not in shown]


def _finish(plotter: GetDistPlotter, handles: Sequence[Any]) -> None:
    """Add a legend right of the first panel, and make titles fit above their panels."""
    figure, panels = plotter.fig, plotter.subplots
    size = plotter.settings.axes_fontsize
    if handles:
        corner = panels[0, 0].get_position()
        anchor = (corner.x1 + 0.15 * corner.width, corner.y1)
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=anchor, fontsize=0.85 * size, frameon=False)
    renderer = figure.canvas.get_renderer()
    titles = [panel.title for panel in panels.diagonal()]
    space = panels[0, 0].get_window_extent(renderer).width

    def widest() -> float:
        return max(title.get_window_extent(renderer).width for title in titles) / space

    if widest() > 1.0:
        for title in titles:
            title.set_text(title.get_text().replace(" = ", "$\n$= ", 1))
    smaller = titles[0].get_fontsize() / max(1.0, widest())
    for title in titles:
        title.set_fontsize(smaller)


def _mark_paper(
    plotter: GetDistPlotter, chains: Sequence[Chain], names: Sequence[str], colors: Sequence[str]
) -> list[Any]:
    """Mark the paper's posteriors, and return their entries of the legend."""
    marked, handles = [], []
    for chain, color in zip(chains, colors, strict=True):
        paper = {name: value for name, value in _paper_posteriors(chain).items() if name in names}
        if not paper or paper in marked:  # another run on the same sample
            continue
        marked.append(paper)
        style: dict[str, Any] = {"color": color, "ls": "--", "lw": 1}
        handles.append(Line2D([], [], **style, marker="o", mec="k", ms=5, label=PAPER))
        for row, name in enumerate(names):
            if name not in paper:
                continue
            value, upper, lower = paper[name]
            axis = plotter.subplots[row, row]
            axis.axvspan(value - lower, value + upper, color=color, alpha=0.15, lw=0)
            axis.axvline(value, **style)
            for column in range(row):
                if names[column] not in paper:
                    continue
                x, x_upper, x_lower = paper[names[column]]
                plotter.subplots[row, column].errorbar(
                    x, value, xerr=[[x_lower], [x_upper]], yerr=[[lower], [upper]], color="k", mfc=color, fmt="o", ms=5
                )
            _reach(plotter, row, value - 2 * lower, value + 2 * upper)
    return handles


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
        likes = {name: like for name, like in model.likelihood.items() if isinstance(like, DataPlots)}
        best, seconds = _predict(model, likes, chain.best())
        if best is None:
            point = {name: chain.best()[name] for name in model.parameterization.sampled_params()}
            raise ChainError(f"no data plot: the model of {chain.name} gives zero likelihood at {point}")
        errors = {name: like.deviations() for name, like in likes.items()}
        if n_band * seconds > BAND_SECONDS:
            # Time a second call, since the first one may have filled caches.
            seconds = _predict(model, likes, chain.draws(1, seed)[0])[1]
        n_draws = min(n_band, int(BAND_SECONDS / seconds))
        too_slow = n_draws < min(n_band, N_LEAST)
        rows = tqdm(chain.draws(0 if too_slow else n_draws, seed), "band", leave=False, disable=None, delay=BAR_AFTER)
        drawn = [_predict(model, likes, row)[0] for row in rows]
        parts = {name: _parts(model, like, chain.best()) for name, like in likes.items()}
    finally:
        model.close()
    predictions = [prediction for prediction in drawn if prediction is not None]
    lines = []
    figure = Figure(layout="constrained")
    for part, (name, like) in zip(_subfigures(figure, list(likes.values())), likes.items(), strict=True):
        band = None
        if len(predictions) > 1:
            band = np.quantile([prediction[name] for prediction in predictions], [0.16, 0.84], axis=0)
        like.plot_fit(part, best[name], band, parts[name], errors[name])
        lines += like.fit_in_words(name, best[name], errors[name])
    if too_slow:
        lines.append(f"  without a band: {N_LEAST} predictions would take more than {BAND_SECONDS:g} s")
    return figure, "\n".join(lines)


def _subfigures(figure: Figure, likes: Sequence[DataPlots]) -> list[SubFigure]:
    """Divide a figure into parts for the likelihoods: those of one height side by side, others below them."""
    sizes = [like.picture_size for like in likes]
    heights = list(dict.fromkeys(height for _, height in sizes))
    widths = [[width for width, other in sizes if other == height] for height in heights]
    figure.set_size_inches(max(sum(row) for row in widths), sum(heights))
    rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    parts = {
        height: list(row.subfigures(1, len(ratios), squeeze=False, width_ratios=ratios)[0])
        for height, row, ratios in zip(heights, rows, widths, strict=True)
    }
    return [parts[height].pop(0) for _, height in sizes]


def _parts(model: Model, like: DataPlots, row: Mapping[str, float]) -> dict[str, dict[str, np.ndarray]]:
    """Return the parts of w_g+ or of its quadrupole with shapes of centrals and of satellites, at a row of a chain."""
    found: dict[str, dict[str, np.ndarray]] = {}
    if not isinstance(like, IACorrelations):
        return found
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


def _predict(model: Model, likes: Mapping[str, DataPlots], row: Mapping[str, float]):
    """Return the predictions of each likelihood at a row of a chain (None for zero likelihood), and the time [s]."""
    began = time.perf_counter()
    point = {name: row[name] for name in model.parameterization.sampled_params()}
    finite = np.isfinite(model.loglike(point, return_derived=False))
    vectors = {name: like.theory_vector() for name, like in likes.items()} if finite else None
    return vectors, time.perf_counter() - began

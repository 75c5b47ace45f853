"""Figures of an evaluation: those of arXiv:2504.05235 (3, 4, 5, B1 and D1 to D3), coverage, learning curve and pulls.

They have their own canvases, so that matplotlib's global state is neither used nor changed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from iaemu.binning import bin_centers
from iaemu.files import Write, write_together, write_whole
from iaemu.plots import LABELS, R_LABEL
from iaemu.statistics import STATISTICS
from iaemu_training.evaluation import metrics as m
from iaemu_training.evaluation.pulls import Pulls
from iaemu_training.evaluation.report import Report
from iaemu_training.evaluation.scores import LEVELS, HeldOut

#: Symbols of the statistics.
SYMBOLS = {"xi": r"$\xi$", "omega": r"$\omega$", "eta": r"$\eta$"}

_NAMES = {"xi": "position-position", "omega": "position-orientation", "eta": "orientation-orientation"}
_MOCKS, _EMULATOR, _CEILING, _PAPER = "#1f5fa8", "#c23b22", "0.35", "#7a5c4f"

#: Largest number of dots in a scatter plot.
_MAX_DOTS = 20_000

#: Number of predictions in each of figures D1 to D3.
_N_EXAMPLES = 25


def write_report(report: Report, folder: str | Path, seed: int = 1) -> list[str]:
    """Write a report and its figures: ``report.md``, ``report.json`` and a file for each figure, all or none.

    Parameters
    ----------
    report : Report
        The report.
    folder : path-like
        Folder to write to; it is made if it does not exist.
    seed : int
        See :func:`draw_figures`.

    Returns
    -------
    list of str
        File names of the figures.

    Raises
    ------
    OSError
        A file cannot be written; all files are left as they were.
    """
    folder = Path(folder)
    drawn = draw_figures(report, seed)
    texts = {"report.json": report.json(), "report.md": report.markdown([(name, text) for name, _, text in drawn])}
    files: dict[str | Path, Write] = {folder / name: _writer(figure, Path(name)) for name, figure, _ in drawn}
    files |= {folder / name: partial(_write_text, text) for name, text in texts.items()}
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        write_together(files)
    except BaseException:
        if made:
            folder.rmdir()
        raise
    return [name for name, _, _ in drawn]


def draw_figures(report: Report, seed: int = 1) -> list[tuple[str, Figure, str]]:
    """Draw all figures for which a report has numbers.

    Parameters
    ----------
    report : Report
        The report.
    seed : int
        Seed of the choice of examples, and of dots if there are too many for a scatter plot.

    Returns
    -------
    list of (str, Figure, str)
        File name, figure and caption.
    """
    held_out = report.held_out
    n = len(held_out.theta)
    drawn = [
        (
            "figure3.png",
            _accuracy_figure(report),
            "Figure 3: mean fractional errors; residuals in units of the standard deviation of a mock (median, and a "
            "band from 16 to 84 % of points); rank correlation, NRMSE and SMAPE; by bin. Dashed lines compare the "
            "noise-free label with the same mocks.",
        )
    ]
    if held_out.has_epistemic:
        for name, title, statistics, colours in (
            ("figure4.png", "Figure 4", ("omega", "eta"), ("sigma",)),
            ("figure5.png", "Figure 5", ("omega", "eta"), ("amplitude",)),
            ("figureB1.png", "Figure B1", ("xi",), ("sigma", "amplitude")),
        ):
            by = " and ".join({"sigma": "aleatoric sigmas", "amplitude": "amplitudes"}[colour] for colour in colours)
            drawn.append(
                (
                    name,
                    _uncertainty_figure(held_out, statistics, colours, seed),
                    f"{title}: aleatoric and epistemic standard deviations, with a dot for each point and bin. The "
                    f"colour is the bias of {by} relative to the mocks.",
                )
            )
    for number, statistic in enumerate(STATISTICS, start=1):
        drawn.append(
            (
                f"figureD{number}.png",
                _examples_figure(held_out, statistic, seed),
                f"Figure D{number}: {SYMBOLS[statistic]} at {min(n, _N_EXAMPLES)} random test points. Error bars are "
                "those of the mean over mocks"
                + ("; the band is the epistemic standard deviation." if held_out.has_epistemic else "."),
            )
        )
    if held_out.has_sigmas:
        drawn.append(
            (
                "coverage.png",
                _coverage_figure(held_out),
                "Coverage: distribution of the probability integral transform over all bins (top), and share of values "
                "inside central intervals by bin (bottom), for single mocks and for their means. Error bars are the "
                "binomial errors of a calibrated prediction.",
            )
        )
    if report.history:
        drawn.append(
            (
                "learning_curve.png",
                learning_curve_figure(report.history),
                "Learning curve: loss at training and validation points by epoch. A beta-NLL jumps at the end of the "
                "warm-up.",
            )
        )
    return drawn


def _accuracy_figure(report: Report) -> Figure:
    """Draw figure 3: fractional errors; residuals in units of sigma-hat; SCC, NRMSE and SMAPE; by bin."""
    figure, axes = _figure(3, 3, (12.5, 9.5), sharex=True)
    for column, statistic in enumerate(STATISTICS):
        case, by_bin = report.held_out.cases[statistic], report.by_bin[statistic]
        r = case.r
        top, middle, bottom = axes[:, column]
        for key, label, colour in (
            ("mean_fractional_error", "mean of absolute values", "#6a3d9a"),
            ("signed_fractional_error", "absolute value of the mean", "#d1622b"),
            ("median_fractional_error", "median of absolute values", "#2f8f5b"),
        ):
            top.plot(r, 100 * np.abs(by_bin[key]), "o-", ms=3, lw=1.2, color=colour, label=label)
            top.plot(r, 100 * np.abs(by_bin[f"{key}_ceiling"]), "--", lw=1, color=colour)
        paper = report.scores["mean_fractional_error"][statistic].get("paper")
        if paper is not None:
            top.axhline(100 * paper, color=_PAPER, ls=":", lw=1.2, label="paper, average over bins")
        top.set(yscale="log", title=f"{SYMBOLS[statistic]}, {_NAMES[statistic]}")

        low, high = (_percentiles(case.residuals, percent) for percent in (16, 84))
        middle.fill_between(r, low, high, color=_MOCKS, alpha=0.2, lw=0)
        middle.plot(r, by_bin["median_residual"], "o-", ms=3, lw=1.2, color=_MOCKS)
        middle.plot(r, by_bin["median_residual_ceiling"], "--", lw=1, color=_MOCKS)
        middle.axhline(0, color="0.6", lw=0.8)
        reach = 1.15 * max(1.0, _largest(low, high))
        middle.set(ylim=(-reach, reach))

        for key, label, colour in (
            ("scc", "SCC", "#2f8f5b"),
            ("nrmse", "NRMSE", "#c2559d"),
            ("smape", "SMAPE", "#e08a1e"),
        ):
            bottom.plot(r, by_bin[key], "o-", ms=3, lw=1.2, color=colour, label=label)
            bottom.plot(r, by_bin[f"{key}_ceiling"], "--", lw=1, color=colour)
        bottom.set(xlabel=R_LABEL, ylim=(min(0.0, np.nanmin(by_bin["scc"], initial=0.0)) - 0.05, None))
    for ax in axes.flat:
        ax.axvline(m.ONE_HALO_LIMIT, color="k", ls="--", lw=0.8)
        ax.set_xscale("log")
    axes[0, 0].set_ylabel("fractional error [%]")
    axes[1, 0].set_ylabel("(emulator - mean of mocks) / $\\hat\\sigma$")
    axes[2, 0].set_ylabel("dimensionless")
    axes[0, 0].plot([], [], "--", lw=1, color=_CEILING, label="noise-free label (all panels)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    axes[2, 0].legend(frameon=False, fontsize=9)
    axes[1, 0].text(0.03, 0.04, r"$\xi$ beyond 1 Mpc/$h$: in $\ln\xi$", transform=axes[1, 0].transAxes, fontsize=8)
    return figure


def _uncertainty_figure(held_out: HeldOut, statistics, colours, seed: int) -> Figure:
    """Draw figures 4, 5 and B1: epistemic against aleatoric standard deviation of each point and bin.

    The colour is log10 of the ratio of predicted and mocks' standard deviations ("sigma"), or of their "amplitude".
    """
    panels = [(statistic, colour) for statistic in statistics for colour in colours]
    figure, axes = _figure(1, len(panels), (5.6 * len(panels), 4.8))
    rng = np.random.default_rng(seed)
    for ax, (statistic, colour) in zip(axes.flat, panels, strict=True):
        case = held_out.cases[statistic]
        if colour == "sigma":
            values = m.sigma_bias(case.sigma_aleatoric, case.moments)
            label = r"$\log_{10}(\sigma_{\rm aleatoric} / \hat\sigma_{\rm mocks})$ [dex]"
        else:
            values = m.amplitude_bias(case.prediction, case.moments.mean)
            symbol = SYMBOLS[statistic].strip("$")
            label = rf"$\log_{{10}}|{symbol}_{{\rm emulator}} / {symbol}_{{\rm mocks}}|$ [dex]"
        ok = np.isfinite(values) & (case.sigma_epistemic > 0)
        x, y, z = case.sigma_aleatoric[ok], case.sigma_epistemic[ok], values[ok]
        chosen = rng.permutation(len(z))[:_MAX_DOTS]  # in random order, so that no point is always on top
        reach = max(np.percentile(np.abs(z), 98), 0.01) if len(z) else 1.0
        dots = ax.scatter(
            x[chosen],
            y[chosen],
            c=z[chosen],
            s=5,
            lw=0,
            cmap="coolwarm",
            norm=TwoSlopeNorm(0.0, -reach, reach),
            rasterized=True,
        )
        ax.set(xscale="log", yscale="log", title=f"{SYMBOLS[statistic]}: median {_median_text(z)} dex")
        if len(z):
            low, high = x.min() / 1.3, x.max() * 1.3
            ax.plot((low, high), (low, high), "k--", lw=1, label="1:1")
            ax.set(xlim=(low, high), ylim=(min(y.min() / 1.3, low), max(y.max() * 1.3, high)))
            ax.legend(frameon=False, fontsize=9, loc="upper left")
        ax.set(
            xlabel=rf"$\sigma_{{\rm aleatoric}}$ of {SYMBOLS[statistic]}",
            ylabel=rf"$\sigma_{{\rm epistemic}}$ of {SYMBOLS[statistic]}",
        )
        figure.colorbar(dots, ax=ax, label=label, extend="both")
    return figure


def _examples_figure(held_out: HeldOut, statistic: str, seed: int) -> Figure:
    """Draw figures D1 to D3: predictions and means over mocks at random test points.

    Error bars are those of the mean, sigma-hat / sqrt(k); the band is the epistemic standard deviation, if there is
    one.
    """
    case = held_out.cases[statistic]
    rows = np.random.default_rng(seed).permutation(len(case.prediction))[:_N_EXAMPLES]
    side = max(1, int(np.ceil(np.sqrt(len(rows)))))
    n_rows = -(-len(rows) // side)
    width, height = 1.0 + 2.4 * side, 1.2 + 1.9 * n_rows
    # A constrained layout would take a minute for 25 panels.
    figure, axes = _figure(n_rows, side, (width, height), layout=None, sharex=True)
    figure.subplots_adjust(0.9 / width, 0.6 / height, 1 - 0.2 / width, 1 - 0.55 / height, wspace=0.36, hspace=0.24)
    error = case.moments.sigma / np.sqrt(case.moments.n_realisations)
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    for ax, row in zip(axes.flat, rows, strict=False):
        ax.errorbar(
            case.r, case.moments.mean[row], error[row], fmt="o", ms=2.5, lw=1, color=_MOCKS, label="mean of mocks"
        )
        ax.plot(case.r, case.prediction[row], lw=1.2, color=_EMULATOR, label="emulator")
        if case.sigma_epistemic is not None:
            low, high = (case.prediction[row] + sign * case.sigma_epistemic[row] for sign in (-1, 1))
            ax.fill_between(case.r, low, high, color=_EMULATOR, alpha=0.3, lw=0)
        ax.set_xscale("log")
        if statistic == "xi":
            ax.set_yscale("log", nonpositive="clip")
            positive = case.prediction[row][case.prediction[row] > 0]
            if len(positive):
                ax.set_ylim(positive.min() / 3, positive.max() * 3)
        else:
            ax.axhline(0, color="0.7", lw=0.7)
        mu_cen, mu_sat, logMmin = held_out.theta[row, :3]
        ax.set_title(
            rf"$\mu_{{\rm cen}}$ {mu_cen:.2f}, $\mu_{{\rm sat}}$ {mu_sat:.2f}, $\log M_{{\rm min}}$ {logMmin:.2f}",
            fontsize=7,
        )
        ax.minorticks_off()
        ax.tick_params(labelsize=7)
    figure.supxlabel(R_LABEL, y=0.1 / height)
    figure.supylabel(LABELS[statistic], x=0.1 / width)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def _coverage_figure(held_out: HeldOut) -> Figure:
    """Draw histograms of the probability integral transform over all bins, and the coverage by bin."""
    figure, axes = _figure(2, 3, (12.5, 7.0))
    kinds = (("single mocks", "pit_of_realisations", _MOCKS, "o"), ("means over mocks", "pit_of_mean", _EMULATOR, "s"))
    for column, statistic in enumerate(STATISTICS):
        case = held_out.cases[statistic]
        top, bottom = axes[:, column]
        for _, name, colour, _ in kinds:
            pit = getattr(case, name)
            pit = pit[np.isfinite(pit)]
            if len(pit):
                top.hist(pit, bins=20, range=(0, 1), density=True, histtype="step", lw=1.5, color=colour)
        top.axhline(1, color=_CEILING, ls="--", lw=1)
        top.set(xlabel="probability integral transform", xlim=(0, 1), title=SYMBOLS[statistic])
        top.set_ylim(0, None)
        for shift, (label, name, colour, marker) in zip((0.97, 1.03), kinds, strict=True):
            pit = getattr(case, name)
            n = np.isfinite(pit).reshape(-1, pit.shape[-1]).sum(axis=0)
            for level in LEVELS:
                bottom.errorbar(
                    case.r * shift,
                    100 * m.coverage(pit, level),
                    100 * np.where(n > 0, m.binomial_error(level, np.maximum(n, 1)), np.nan),
                    fmt=marker,
                    ms=3,
                    lw=1,
                    color=colour,
                    label=label if level == LEVELS[0] else None,
                )
        for level in LEVELS:
            bottom.axhline(100 * level, color=_CEILING, ls="--", lw=1)
        bottom.axvline(m.ONE_HALO_LIMIT, color="k", ls="--", lw=0.8)
        bottom.set(xscale="log", xlabel=R_LABEL, ylim=(min(50.0, bottom.get_ylim()[0]), 101.0))
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel("inside the 68 and 95 % intervals [%]")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def learning_curve_figure(history: list[dict]) -> Figure:
    """Draw losses by epoch, on a logarithmic axis if all are positive.

    Parameters
    ----------
    history : list of dict
        Losses by ``epoch``, ``train`` and ``validation``.

    Returns
    -------
    Figure
    """
    figure, axes = _figure(1, 1, (5.5, 3.8))
    (ax,) = np.ravel(axes)
    for name, colour in (("train", _MOCKS), ("validation", _EMULATOR)):
        entries = [entry for entry in history if entry.get(name) is not None]
        if entries:
            epochs, losses = zip(*((entry["epoch"] + 1, entry[name]) for entry in entries), strict=True)
            ax.plot(epochs, losses, color=colour, label=name)
    if all(entry[name] > 0 for entry in history for name in ("train", "validation") if entry.get(name) is not None):
        ax.set_yscale("log")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.legend()
    return figure


def draw_pulls(pulls: Pulls, path: str | Path) -> None:
    """Plot percentiles of the pulls by bin and their histogram over all bins, with those of Student's t.

    Parameters
    ----------
    pulls : Pulls
        The pulls.
    path : path-like
        File to write, as .png, .pdf or .svg.
    """
    student = pulls.student
    figure, axes = _figure(2, len(pulls.t), (11, 6), height_ratios=(3, 2))
    r = bin_centers(pulls.r_edges)
    grid = np.linspace(-6, 6, 241)
    for column, (name, t) in enumerate(pulls.t.items()):
        upper, lower = axes[:, column]
        # With fewer values the outer percentiles would be the extremes.
        used = np.flatnonzero(np.isfinite(t).sum(axis=0) >= 10)
        for percent in (2.5, 16.0, 50.0, 84.0, 97.5):
            upper.axhline(student.ppf(percent / 100), color="0.6", lw=1, ls="--")
            line = [np.nanpercentile(t[:, b], percent) for b in used]
            upper.plot(r[used], line, "o-", ms=3, lw=1, color="C0" if percent == 50 else "C1")
        upper.set(xscale="log", ylim=(-3.5, 3.5), title=name, xlabel="r [Mpc/h]")
        values = t[np.isfinite(t)]
        lower.hist(np.clip(values, -6, 6), bins=grid[::4], density=True, color="0.8")
        lower.plot(grid, student.pdf(grid), color="C3", lw=1.5, label=f"Student's t, {pulls.n_realisations - 1} dof")
        lower.set(xlabel="(mean - label) / standard error", yscale="log", ylim=(1e-4, 1))
        lower.legend(frameon=False, fontsize=8, loc="lower center")
    axes[0, 0].set_ylabel("2.5, 16, 50, 84, 97.5 %\n(dashed: Student's t)")
    axes[1, 0].set_ylabel("density")
    write_whole(path, _writer(figure, Path(path), dpi=120))


def _figure(n_rows: int, n_columns: int, size, layout="constrained", **options):
    figure = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **options)


def _writer(figure: Figure, path: Path, dpi: int = 130) -> Write:
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"{path}: the name of a figure must end in .png, .pdf or .svg.")
    return lambda file: figure.savefig(file, format=path.suffix[1:].lower(), dpi=dpi)


def _write_text(text: str, file: IO[bytes]) -> None:
    file.write(text.encode())


def _percentiles(entries, percent: float) -> np.ndarray:
    return np.array([m.percentile(column, percent) for column in np.asarray(entries).T])


def _largest(*arrays) -> float:
    values = np.abs(np.concatenate(arrays))
    return float(values[np.isfinite(values)].max(initial=0.0))


def _median_text(values) -> str:
    return f"{np.median(values):+.2f}" if len(values) else "-"

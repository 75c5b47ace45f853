"""Plots and a summary of finished or running chains: ``iaemu-plot CHAIN [CHAIN ...]``.

For each chain: a summary of the posterior, and the data with the best fit and the posterior of the prediction, from the
model rebuilt out of ``CHAIN.updated.yaml``. For all of them together: one corner plot.
"""

from __future__ import annotations

import argparse
import glob
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from cobaya.component import get_component_class
from cobaya.log import LoggedError
from cobaya.yaml import yaml_load_file
from matplotlib.figure import Figure

from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.reproduce.paper import TABLE_2

#: Posteriors of arXiv:2504.05235, table 2 (IAEmu), by likelihood.
PAPER_POSTERIORS = {f"TNG300Sample{sample}": rows["IAEmu, HMC"] for sample, rows in TABLE_2.items()}

COLORS = ("#1f5fa8", "#d1622b", "#2f8f5b", "#8a5aa8", "#7a5c4f")

#: Share of a Metropolis chain that is dropped by default: its way from the starting point.
BURN_IN = 0.3

#: GetDist cannot estimate densities from fewer rows.
MIN_ROWS = 20

#: Draws behind the band of a prediction, which is left out where it would take longer than this.
N_BAND = 300
BAND_SECONDS = 90.0


class ChainError(ValueError):
    """A chain that is missing, empty or not a Cobaya chain; the message says what was looked for."""


@dataclass
class Chain:
    """A Cobaya run on disk.

    Attributes
    ----------
    root : Path
        Output prefix: files are ``root.1.txt``, ``root.updated.yaml``, ...
    info : dict
        The updated input.
    files : list of Path
        Chain files.
    burn_in : float
        Share of the rows that is dropped.
    columns : list of str
        Of ``rows``: weight, minuslogpost, parameters, priors, chi^2.
    rows : array (n_rows, n_columns)
        After burn-in, chains one after the other.
    offsets : array (n_chains + 1,)
        First row of each chain.
    samples : getdist.MCSamples
        The same rows for GetDist, which drops columns that do not vary.
    """

    root: Path
    info: dict
    files: list[Path]
    burn_in: float
    columns: list[str]
    rows: np.ndarray
    offsets: np.ndarray
    samples: object

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def sampled(self) -> list[str]:
        """Names of the sampled parameters, in the order of the run."""
        return [name for name, info in self.info["params"].items() if isinstance(info, dict) and "prior" in info]

    @property
    def paper(self) -> dict:
        """The paper's posteriors of the samples that were fitted, under the names of this run; empty if unknown.

        Without strengths that several samples share: the paper has none for them.
        """
        found, claimed = {}, []
        for name, info in (self.info.get("likelihood") or {}).items():
            info = info or {}
            key = str(info.get("class") or name).rpartition(".")[2]
            names = info.get("param_map") or {}
            for parameter, value in PAPER_POSTERIORS.get(key, {}).items():
                claimed.append(names.get(parameter, parameter))
                found[claimed[-1]] = value
        return {name: value for name, value in found.items() if claimed.count(name) == 1}

    def column(self, name: str) -> np.ndarray:
        """One column of ``rows``, shape (n_rows,)."""
        return self.rows[:, self.columns.index(name)]

    def best(self) -> dict[str, float]:
        """All columns of the row of largest posterior."""
        return self._row(int(np.argmin(self.column("minuslogpost"))))

    def draws(self, n: int, seed: int = 0) -> list[dict[str, float]]:
        """``n`` rows drawn by weight; the same for the same seed."""
        weights = self.column("weight") / self.column("weight").sum()
        rows = np.random.default_rng(seed).choice(len(weights), size=n, p=weights)
        return [self._row(row) for row in np.sort(rows)]

    def _row(self, row: int) -> dict[str, float]:
        return dict(zip(self.columns, self.rows[row].tolist(), strict=True))


def load_chain(root, burn_in: float | None = None) -> Chain:
    """Read a chain.

    Parameters
    ----------
    root : str or path
        Output prefix of the run (``chains/tng_sample1``); one of its files or its input's ``output`` also does.
    burn_in : float, optional
        Share of the rows to drop, in [0, 1). By default 0.3 for Cobaya's ``mcmc``, which writes its way from the
        starting point, else 0.

    Raises
    ------
    ChainError
        No such run, or nothing in it yet.
    """
    from getdist import loadMCSamples

    root = _strip(Path(root))
    updated = root.with_name(root.name + ".updated.yaml")
    if not updated.is_file():
        others = sorted(path.name.removesuffix(".updated.yaml") for path in root.parent.glob("*.updated.yaml"))
        hint = f" Runs in {root.parent}: {', '.join(others)}." if others else ""
        raise ChainError(
            f"There is no run {str(root)!r}: no file {updated}. Give the 'output' of the run's YAML file, relative to "
            f"this folder.{hint}"
        )
    files = sorted(root.parent.glob(f"{glob.escape(root.name)}.*.txt"))
    # root.1.txt, root.2.txt, ...: not root.other.1.txt, nor root.minimum.txt
    files = [path for path in files if path.name[len(root.name) + 1 : -4].isdigit() and path.stat().st_size > 0]
    if not files:
        raise ChainError(f"The run {str(root)!r} has no samples yet: no file {root.name}.1.txt.")
    info = yaml_load_file(str(updated))
    if burn_in is None:
        burn_in = BURN_IN if "mcmc" in (info.get("sampler") or {}) else 0.0
    if not 0 <= burn_in < 1:
        raise ChainError(f"The burn-in must be a share in [0, 1), got {burn_in}.")
    try:
        samples = loadMCSamples(str(root), settings={"ignore_rows": burn_in}, no_cache=True)
    except Exception as error:
        raise ChainError(f"GetDist cannot read the run {str(root)!r}: {error}") from error
    columns, rows, offsets = _read_rows(files, burn_in)
    return Chain(root, info, files, burn_in, columns, rows, offsets, samples)


def summarise(chain: Chain) -> str:
    """Posterior of the sampled parameters as text: mean, standard deviation, 68 % and 95 % limits, R-1, chi^2."""
    best = chain.best()
    lines = [
        f"{chain.name}: {len(chain.rows)} rows, total weight {chain.column('weight').sum():.6g}, burn-in "
        f"{chain.burn_in:g} of each chain dropped"
    ]
    if not _has_density(chain):
        lines.append("  too few samples for limits (a run of 'evaluate', or one just started)")
    else:
        statistics = chain.samples.getMargeStats()
        heads = f"{'68 % limits':<21s} {'95 % limits':<21s} best fit"
        lines.append(f"  {'parameter':<14s} {'mean':>9s} {'std':>9s}   {heads}")
        for name in chain.sampled:
            entry = statistics.parWithName(name)
            if entry is None:  # has not moved yet
                continue
            intervals = [f"[{limit.lower:.4f}, {limit.upper:.4f}]" for limit in entry.limits[:2]]
            lines.append(
                f"  {name:<14s} {entry.mean:9.4f} {entry.err:9.4f}   {intervals[0]:<21s} {intervals[1]:<21s} "
                f"{best[name]:.4f}"
            )
        lines.append(f"  {_convergence(chain)}")
    likelihoods = (chain.info.get("likelihood") or {}).values()
    with_determinant = any((options or {}).get("emulator_error") for options in likelihoods)
    which = " with the prediction's error, its log-determinant included" if with_determinant else ""
    lines.append(f"  chi2{which} at the best fit: {best['chi2']:.2f}")
    return "\n".join(lines)


def _has_density(chain: Chain) -> bool:
    """Whether there are rows enough for GetDist's density estimates."""
    return len(chain.rows) >= max(MIN_ROWS, 2 * len(chain.sampled))


def corner_plot(chains, paper: bool = False, truth=None):
    """GetDist corner plot of one or more chains.

    Parameters
    ----------
    chains : sequence of Chain
    paper : bool
        Mark the posterior medians of arXiv:2504.05235, table 2, for the samples that were fitted.
    truth : mapping of name to number, optional
        Values to mark: those that mock data were made with.

    Returns
    -------
    getdist.plots.GetDistPlotter
        Its ``fig`` is the figure.

    Raises
    ------
    ChainError
        No chain has samples enough, or they share no sampled parameter, or ``truth`` names another one.
    """
    from getdist import plots

    enough = [chain for chain in chains if _has_density(chain)]
    if not enough:
        raise ChainError("no corner plot: the chains hold too few samples (a run of 'evaluate', or one just started)")
    # GetDist drops parameters that have not moved yet.
    names = [name for name in enough[0].sampled if all(_has_moved(chain, name) for chain in enough)]
    if not names:
        raise ChainError("no corner plot: the chains share no sampled parameter")
    unknown = [name for name in truth or {} if name not in names]
    if unknown:
        raise ChainError(f"no corner plot: {', '.join(unknown)} (truth) is none of the sampled {', '.join(names)}")
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
        # Seen where a slow parameter has hardly moved yet: its density estimate has no width.
        raise ChainError(f"no corner plot: GetDist fails on these chains (just started?): {error}") from error
    for index, name in enumerate(names):
        if truth and name in truth:
            _reach(plotter, index, truth[name], truth[name])
    if paper:
        _mark_paper(plotter, enough, names, colors)
    return plotter


def _has_moved(chain: Chain, name: str) -> bool:
    return name in chain.sampled and chain.samples.paramNames.parWithName(name) is not None


def _mark_paper(plotter, chains, names, colors) -> None:
    marked = []
    for chain, color in zip(chains, colors, strict=True):
        if chain.paper in marked:  # another run on the same sample
            continue
        marked.append(chain.paper)
        for row, name in enumerate(names):
            if name not in chain.paper:
                continue
            value, upper, lower = chain.paper[name]
            axis = plotter.subplots[row, row]
            axis.axvspan(value - lower, value + upper, color=color, alpha=0.15, lw=0)
            axis.axvline(value, color=color, ls="--", lw=1)
            for column in range(row):
                if names[column] not in chain.paper:
                    continue
                x, x_upper, x_lower = chain.paper[names[column]]
                plotter.subplots[row, column].errorbar(
                    x, value, xerr=[[x_lower], [x_upper]], yerr=[[lower], [upper]], color="k", mfc=color, fmt="o", ms=5
                )
            _reach(plotter, row, value - 2 * lower, value + 2 * upper)


def _reach(plotter, index: int, low: float, high: float) -> None:
    """Widen the axis of one parameter, in all panels, to hold a range."""
    left, right = plotter.subplots[index, index].get_xlim()
    limits = min(left, low), max(right, high)
    for row in range(index, len(plotter.subplots)):
        plotter.subplots[row, index].set_xlim(limits)
    for column in range(index):
        plotter.subplots[index, column].set_ylim(limits)


def data_plot(chain: Chain, n_band: int = N_BAND, seed: int = 0):
    """The data of a chain with its best fit and the posterior of the prediction.

    Parameters
    ----------
    chain : Chain
    n_band : int
        Number of draws behind the band of 68 %; none if that would take minutes.
    seed : int
        Of these draws.

    Returns
    -------
    figure : matplotlib.figure.Figure
    text : str
        chi^2 of the best fit and number of bins, per likelihood.

    Raises
    ------
    ChainError
        The run has none of our likelihoods, or its model cannot be rebuilt.
    """
    model = _rebuild_model(chain)
    try:
        likes = {name: like for name, like in model.likelihood.items() if isinstance(like, IACorrelations)}
        n_asked = n_band
        began = time.perf_counter()
        best_point, best = _prediction(model, likes, chain.best())
        if n_band * (time.perf_counter() - began) > BAND_SECONDS:
            # The first call may have filled caches; a theory that populates mocks is slow at each point.
            began = time.perf_counter()
            _prediction(model, likes, chain.draws(1, seed)[0])
            if n_band * (time.perf_counter() - began) > BAND_SECONDS:
                n_band = 0
        band_left_out = n_band < n_asked
        if best is None:
            raise ChainError(f"no data plot: the model of {chain.name} gives zero likelihood at {best_point}")
        draws = [_prediction(model, likes, row)[1] for row in (chain.draws(n_band, seed) if n_band else [])]
        draws = [draw for draw in draws if draw is not None]
        n_panels = sum(len(like.statistics) for like in likes.values())
        figure = Figure(figsize=(0.6 + 5.0 * n_panels, 4.2), layout="constrained")
        axes = list(figure.subplots(1, n_panels, squeeze=False)[0])
        lines = []
        for name, like in likes.items():
            panels = [axes.pop(0) for _ in like.statistics]
            band = None
            if len(draws) > 1:
                band = np.quantile([draw[name] for draw in draws], [0.16, 0.84], axis=0)
            chi2 = like.chi2(best[name])
            n_bins = len(like.data_vector)
            # That of the chain adds the prediction's covariance to the data's, and the logarithm of its determinant.
            which = " from the errors of the data alone" if like.emulator_error else ""
            text = rf"best fit, $\chi^2$ = {chi2:.1f} for {n_bins} bins{which}"
            like.plot(best[name], band, panels, label=text, color=COLORS[0])
            if len(likes) > 1:
                panels[0].set_title(name, fontsize=10, loc="left")
            lines.append(
                f"  {name}: chi2 = {chi2:.2f}{which} at the best fit, {n_bins} bins, {len(chain.sampled)} parameters"
            )
        if band_left_out:
            lines.append(f"  no band: {n_asked} predictions would take more than {BAND_SECONDS:g} s")
    finally:
        model.close()
    return figure, "\n".join(lines)


def _rebuild_model(chain: Chain):
    """The model of a chain with our likelihoods alone.

    Those of others can need seconds a point, or data that are not on this machine, and the plot does not show them.
    """
    from cobaya.input import update_info
    from cobaya.log import logger_setup
    from cobaya.model import Model

    likelihoods = {name: info for name, info in (chain.info.get("likelihood") or {}).items() if _is_ours(name, info)}
    if not likelihoods:
        raise ChainError(f"no data plot: {chain.name} has no likelihood of iaemu_cobaya")
    inputs = {
        name: info
        for name, info in chain.info["params"].items()
        if not isinstance(info, dict) or "prior" in info or "value" in info
    }
    info = {key: value for key, value in chain.info.items() if key in ("theory", "prior")}
    # 'one' takes up parameters of the likelihoods that are left out.
    info.update(likelihood={**likelihoods, "one": None}, params=inputs)
    logger_setup(50)
    try:
        info = update_info(info)
        # get_model has no option to skip theories that only the likelihoods of others need.
        return Model(
            info["params"],
            info["likelihood"],
            info.get("prior"),
            info.get("theory"),
            packages_path=chain.info.get("packages_path"),
            skip_unused_theories=True,
        )
    except (LoggedError, ImportError, TypeError) as error:
        raise ChainError(
            f"no data plot: the model of {chain.name} cannot be rebuilt from {chain.root}.updated.yaml: {error}"
        ) from error


def _is_ours(name: str, info) -> bool:
    info = info or {}
    if "external" in info:
        return False
    try:
        found = get_component_class(
            name,
            kind="likelihood",
            component_path=info.get("python_path"),
            class_name=info.get("class"),
            not_found_level="debug",
        )
    except (LoggedError, ImportError):
        return False
    return isinstance(found, type) and issubclass(found, IACorrelations)


def _prediction(model, likes, row: dict):
    """Sampled point and, per likelihood, the prediction at a row of a chain; None where the likelihood is zero."""
    point = {name: row[name] for name in model.parameterization.sampled_params()}
    if not np.isfinite(model.loglike(point, return_derived=False)):
        return point, None
    return point, {name: like.theory_vector() for name, like in likes.items()}


def _convergence(chain: Chain) -> str:
    """Gelman-Rubin R-1 of the means, over the chains of the run, or over four parts of a single one."""
    n_parameters, offsets = len(chain.sampled), chain.offsets
    if len(offsets) > 2:
        what = f"{len(offsets) - 1} chains"
    else:
        offsets, what = np.linspace(0, len(chain.rows), 5).astype(int), "4 parts of one chain"
    if not n_parameters or np.diff(offsets).min() <= 5 * n_parameters:
        return "R-1 of the means: too few samples"
    points = np.stack([chain.column(name) for name in chain.sampled], axis=1)
    parts = [slice(start, stop) for start, stop in pairwise(offsets)]
    values = [(points[part], chain.column("weight")[part]) for part in parts]
    within = np.mean([np.atleast_2d(np.cov(x.T, aweights=w, ddof=0)) for x, w in values], axis=0)
    between = np.atleast_2d(np.cov(np.array([np.average(x, axis=0, weights=w) for x, w in values]).T))
    if np.linalg.cond(within) > 1e12:
        return "R-1 of the means: too few samples"
    # Largest ratio over all directions in parameter space, as Cobaya does (Brooks & Gelman 1998).
    value = np.linalg.eigvals(np.linalg.solve(within, between)).real.max()
    return f"R-1 of the means: {value:.4f} ({what})"


def _read_rows(files, burn_in: float):
    """Columns, rows of all chains after burn-in, and the first row of each chain."""
    tables = []
    for path in files:
        with path.open(encoding="utf-8") as file:
            columns = file.readline().lstrip("#").split()
        table = np.loadtxt(path, ndmin=2)
        tables.append(table[int(burn_in * len(table)) :])
    if not sum(len(table) for table in tables):
        raise ChainError(f"{files[0]} holds no samples yet.")
    return columns, np.concatenate(tables), np.cumsum([0, *map(len, tables)])


def _strip(root: Path) -> Path:
    """The output prefix, from any of a run's files."""
    name = root.name
    for suffix in (".updated.yaml", ".input.yaml", ".checkpoint", ".progress", ".covmat", ".txt", ".yaml"):
        if name.endswith(suffix):
            name = name.removesuffix(suffix)
            if suffix == ".txt" and name.rpartition(".")[2].isdigit():
                name = name.rpartition(".")[0]
            break
    return root.with_name(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iaemu-plot",
        description="Summary, corner plot, and data with prediction, of Cobaya runs with the alignment likelihoods.",
    )
    parser.add_argument("chains", nargs="+", metavar="CHAIN", help="output prefix of a run, e.g. chains/tng_sample1")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the plots (default: that of the first run)")
    parser.add_argument("--format", choices=("png", "pdf"), default="png", help="of the plots (default: %(default)s)")
    parser.add_argument(
        "--burn-in",
        type=float,
        metavar="SHARE",
        help=f"share of each chain to drop (default: {BURN_IN} for the sampler mcmc, else 0)",
    )
    parser.add_argument(
        "--paper", action="store_true", help="mark the posteriors of arXiv:2504.05235, table 2, in the corner plot"
    )
    parser.add_argument(
        "--truth",
        nargs="+",
        type=_named_number,
        default=[],
        metavar="NAME=VALUE",
        help="mark these values in the corner plot",
    )
    parser.add_argument("--no-data", action="store_true", help="no plot of data and prediction (needs no model)")
    return parser


def _named_number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=number") from None


def main(argv=None) -> int:
    """Command line: ``iaemu-plot`` or ``python -m iaemu_cobaya.chains.plotting``. Returns the exit status."""
    arguments = _parser().parse_args(argv)
    if "matplotlib.pyplot" not in sys.modules:
        # GetDist draws through pyplot; no window is wanted. A caller that already uses pyplot keeps its backend.
        import matplotlib

        matplotlib.use("Agg")
    try:
        chains = [load_chain(root, arguments.burn_in) for root in arguments.chains]
    except ChainError as error:
        print(f"iaemu-plot: {error}", file=sys.stderr)
        return 1
    folder = arguments.out if arguments.out is not None else chains[0].root.parent
    folder.mkdir(parents=True, exist_ok=True)
    status = 0
    for chain in chains:
        print(summarise(chain))
        if arguments.no_data:
            continue
        try:
            figure, text = data_plot(chain)
        except ChainError as error:
            print(f"iaemu-plot: {error}", file=sys.stderr)
            status = 1
            continue
        print(text)
        path = folder / f"{chain.name}_data.{arguments.format}"
        figure.savefig(path, dpi=160)
        print(f"  wrote {path}")
    try:
        plotter = corner_plot(chains, arguments.paper, dict(arguments.truth))
    except ChainError as error:
        # A run of "evaluate" has nothing to show there: worth a word, not a failure.
        print(f"iaemu-plot: {error}", file=sys.stderr)
        return status
    path = folder / f"{'_'.join(chain.name for chain in chains)}_corner.{arguments.format}"
    plotter.fig.savefig(path, dpi=160, bbox_inches="tight")
    from matplotlib import pyplot

    pyplot.close(plotter.fig)
    print(f"wrote {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())

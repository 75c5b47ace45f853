"""Print a summary of Cobaya runs with the alignment likelihoods, and plot them: corner plot, data and fit.

For each chain: a summary of the posterior, and a picture of the data with the best fit and the posterior of the
prediction. For all chains together: one corner plot. A chain that is still running can be plotted too.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iaemu.files import write_whole
from iaemu_training.commands.options import add_json, read_options
from iaemu_training.commands.printing import note, show, warn
from iaemu_training.commands.program import complain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from iaemu_cobaya.chains.reading import Chain


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add = parser.add_argument
    add(
        "chains",
        nargs="+",
        type=str,
        metavar="CHAIN",
        help="output of a run, as in its YAML file: chains/tng_sample1",
    )
    add(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for the plots; it is made if it does not exist (default: that of the first run)",
    )
    add("--out", dest="output", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--format", choices=("png", "pdf"), default="png", help="format of the plots (default: %(default)s)")
    add(
        "--burn-in",
        type=float,
        metavar="SHARE",
        help="share of each chain to drop, from 0 to 1 (default: 0.3 for the sampler mcmc, else 0)",
    )
    add("--paper", action="store_true", help="mark the posteriors of arXiv:2504.05235, table 2, in the corner plot")
    add(
        "--truth",
        nargs="+",
        type=_named_number,
        default=[],
        metavar="NAME=VALUE",
        help="mark these parameter values in the corner plot",
    )
    add(
        "--params",
        nargs="+",
        default=[],
        metavar="NAME",
        help="parameters of the corner plot, sampled or derived (default: the sampled ones, and derived ones such as "
        "A_IA if there is space)",
    )
    add("--no-data", action="store_true", help="do not plot data and fit, for which the model is computed again")
    add_json(parser, "the summary")


def _named_number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=number")
    return name, number


def main(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Run the command; its exit code is 1 if a plot of data and fit could not be made."""
    add_options(parser)
    arguments = read_options(parser, argv, check=False)
    if "matplotlib.pyplot" not in sys.modules:
        # GetDist draws through pyplot; no window is wanted. A caller that already uses pyplot keeps its backend.
        import matplotlib

        matplotlib.use("Agg")
    from iaemu_cobaya.chains import plotting
    from iaemu_cobaya.chains.reading import ChainError, load_chain, posterior_table
    from iaemu_cobaya.chains.summary import posterior_summary

    chains = [load_chain(root, arguments.burn_in) for root in arguments.chains]
    _check_names(arguments, chains)
    tables = [posterior_table(chain) for chain in chains]
    summaries: list[dict[str, Any]] = [posterior_summary(chain) | {"plots": []} for chain in chains]
    folder = arguments.output if arguments.output is not None else chains[0].root.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ChainError(f"--output: no folder {str(folder)!r} can be made: {error}") from error
    document: Mapping[str, Any] = {"chains": summaries, "plots": []}
    status = 0
    for chain, table, summary in zip(chains, tables, summaries, strict=True):
        if not arguments.json:
            print(table)
        if arguments.no_data:
            continue
        try:
            figure, text = plotting.data_plot(chain)
        except ChainError as error:
            complain(parser.prog, str(error))
            status = 1
            continue
        if not arguments.json:
            print(text)
        path = folder / f"{chain.name}_data.{arguments.format}"
        _save(figure, path, arguments.format, dpi=160)
        summary["plots"].append(path)
        note(arguments, f"  wrote {path}")
    try:
        plotter = plotting.corner_plot(chains, arguments.paper, dict(arguments.truth), arguments.params)
    except ChainError as error:
        # A run of "evaluate" has nothing to show there: worth a word, not a failure.
        warn(arguments, parser.prog, str(error))
    else:
        path = folder / f"{'_'.join(chain.name for chain in chains)}_corner.{arguments.format}"
        dpi = min(160, 2600 / plotter.fig.get_figwidth())  # large ones are seen at the size of a page, too
        _save(plotter.fig, path, arguments.format, dpi=dpi, bbox_inches="tight")
        from matplotlib import pyplot

        pyplot.close(plotter.fig)
        document["plots"].append(path)
        note(arguments, f"wrote {path}")
        rest = plotting.left_out(chains, arguments.params)
        if rest:
            note(arguments, f"  without the derived {', '.join(rest)}: --params chooses what the corner plot shows")
    if arguments.json:
        show(arguments, "", document)
    return status


def _check_names(arguments: argparse.Namespace, chains: list[Chain]) -> None:
    from iaemu_cobaya.chains.reading import ChainError

    known = list(dict.fromkeys(name for chain in chains for name in (*chain.sampled, *chain.derived)))
    for option, names in (("truth", [name for name, _ in arguments.truth]), ("params", arguments.params)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ChainError(f"--{option}: {', '.join(unknown)} is none of the parameters {', '.join(known)}.")


def _save(figure: Figure, path: Path, kind: str, **options: Any) -> None:
    write_whole(path, lambda file: figure.savefig(file, format=kind, **options))

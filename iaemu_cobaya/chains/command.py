"""``iaemu-plot CHAIN [CHAIN ...]``: plots and summaries of finished or running chains.

For each chain: a summary of the posterior, and the data with the best fit and the posterior of the prediction, from the
model rebuilt out of ``CHAIN.updated.yaml``. For all of them together: one corner plot.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iaemu.files import write_whole
from iaemu_cobaya.chains.plotting import corner_plot, data_plot
from iaemu_cobaya.chains.reading import BURN_IN, ChainError, load_chain, posterior_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iaemu-plot",
        description="Summary, corner plot, and data with prediction, of Cobaya runs with the alignment likelihoods.",
    )
    add = parser.add_argument
    add("chains", nargs="+", metavar="CHAIN", help="output prefix of a run, e.g. chains/tng_sample1")
    add("--out", type=Path, metavar="DIR", help="folder for the plots (default: that of the first run)")
    add("--format", choices=("png", "pdf"), default="png", help="of the plots (default: %(default)s)")
    add(
        "--burn-in",
        type=float,
        metavar="SHARE",
        help=f"share of each chain to drop (default: {BURN_IN} for the sampler mcmc, else 0)",
    )
    add("--paper", action="store_true", help="mark the posteriors of arXiv:2504.05235, table 2, in the corner plot")
    add(
        "--truth",
        nargs="+",
        type=_named_number,
        default=[],
        metavar="NAME=VALUE",
        help="mark these values in the corner plot",
    )
    add("--no-data", action="store_true", help="no plot of data and prediction (needs no model)")
    return parser


def _named_number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=number")
    return name, number


def main(argv: Sequence[str] | None = None) -> int:
    """``iaemu-plot``; the exit status."""
    arguments = _parser().parse_args(argv)
    if "matplotlib.pyplot" not in sys.modules:
        # GetDist draws through pyplot; no window is wanted. A caller that already uses pyplot keeps its backend.
        import matplotlib

        matplotlib.use("Agg")
    try:
        return _plot(arguments)
    except (ChainError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read has read enough. What is left must not be written when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(f"iaemu-plot: {error}", file=sys.stderr)
        return 1


def _plot(arguments: argparse.Namespace) -> int:
    """Tables and plots; the exit status."""
    chains = [load_chain(root, arguments.burn_in) for root in arguments.chains]
    sampled = list(dict.fromkeys(name for chain in chains for name in chain.sampled))
    unknown = [name for name, _ in arguments.truth if name not in sampled]
    if unknown:
        raise ChainError(f"--truth: {', '.join(unknown)} is none of the sampled {', '.join(sampled)}.")
    tables = [posterior_table(chain) for chain in chains]
    folder = arguments.out if arguments.out is not None else chains[0].root.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ChainError(f"--out: no folder {str(folder)!r} can be made: {error}") from error
    status = 0
    for chain, table in zip(chains, tables, strict=True):
        print(table)
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
        _save(figure, path, arguments.format, dpi=160)
        print(f"  wrote {path}")
    try:
        plotter = corner_plot(chains, arguments.paper, dict(arguments.truth))
    except ChainError as error:
        # A run of "evaluate" has nothing to show there: worth a word, not a failure.
        print(f"iaemu-plot: {error}", file=sys.stderr)
        return status
    path = folder / f"{'_'.join(chain.name for chain in chains)}_corner.{arguments.format}"
    _save(plotter.fig, path, arguments.format, dpi=160, bbox_inches="tight")
    from matplotlib import pyplot

    pyplot.close(plotter.fig)
    print(f"wrote {path}")
    return status


def _save(figure: Figure, path: Path, kind: str, **options: Any) -> None:
    write_whole(path, lambda file: figure.savefig(file, format=kind, **options))

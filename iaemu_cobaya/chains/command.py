"""``iaemu-plot CHAIN [CHAIN ...]``: plots and summaries of finished or running chains.

For each chain: a summary of the posterior, and the data with the best fit and the posterior of the prediction, from the
model rebuilt out of ``CHAIN.updated.yaml``. For all of them together: one corner plot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from iaemu_cobaya.chains.plotting import corner_plot, data_plot
from iaemu_cobaya.chains.reading import BURN_IN, ChainError, load_chain, posterior_table


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
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=number") from None


def main(argv: Sequence[str] | None = None) -> int:
    """``iaemu-plot``; the exit status."""
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
        print(posterior_table(chain))
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

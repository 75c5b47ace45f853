"""Compare models by chains of the same data: best chi^2, AIC, DIC, and evidence with Bayes factors.

The chains must have the same likelihoods with the same data and options, for example with and without a slope of the
alignment strength (docs/how_to/strength_laws.md). The evidence is computed by nautilus (extra "evidence");
--no-evidence leaves it out.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from iaemu.files import write_text
from iaemu_training.commands.options import add_json, add_output, number, read_options, shows_progress
from iaemu_training.commands.printing import as_json, note, show


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add = parser.add_argument
    add("chains", nargs="+", type=str, metavar="CHAIN", help="output of a run, as in its YAML file")
    add("--burn-in", type=float, metavar="SHARE", help="share of each chain to drop, as of iaemu plot")
    add("--no-evidence", action="store_true", help="do not compute the evidence")
    add(
        "--n-live",
        type=number(int, at_least=100, at_most=100_000),
        default=1000,
        help="live points of nautilus (default: %(default)s)",
    )
    add("--seed", type=number(int, at_least=0, at_most=2**31), default=1, help="seed (default: %(default)s)")
    add_output(
        parser,
        "file for the result as JSON; until it is there, FILE.parts keeps what an interrupted command goes on from",
        default=None,
    )
    add_json(parser, "the result")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Run the command."""
    add_options(parser)
    arguments = read_options(parser, argv)
    from iaemu_cobaya.chains.comparison import compare, comparison_table
    from iaemu_cobaya.chains.reading import load_chain

    chains = [load_chain(root, arguments.burn_in) for root in arguments.chains]
    output: Path | None = arguments.output
    parts = None
    if output is not None and not arguments.no_evidence:
        parts = output.with_name(f"{output.name}.parts")
        parts.mkdir(exist_ok=True)
    scores = compare(
        chains, not arguments.no_evidence, arguments.n_live, arguments.seed, parts, shows_progress(arguments)
    )
    document = {"n_live": arguments.n_live, "seed": arguments.seed, "models": [score.as_document() for score in scores]}
    show(arguments, comparison_table(scores), document)
    if output is not None:
        write_text(output, as_json(document) + "\n")
        note(arguments, f"wrote {output}")
    if parts is not None:
        shutil.rmtree(parts)

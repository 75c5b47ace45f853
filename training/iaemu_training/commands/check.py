"""Compare the mocks of a data set with its labels, which are free of noise.

Prints, for each statistic and bin, how (mean of the mocks - label) / standard error is distributed over the points of
the data set, and tests it against Student's t distribution.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu_training.commands.options import add_json, add_output, number, read_options
from iaemu_training.commands.printing import note, show


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="data set with mocks (.hdf5)")
    add_output(parser, "figure to write (.png or .pdf; default: none)", default=None)
    parser.add_argument(
        "--min-pairs",
        type=number(float, at_least=0),
        default=30.0,
        help="use bins in which a mock has at least this expected number of pairs (default: 30)",
    )
    parser.add_argument(
        "--max-borrowed",
        type=number(float, at_least=0, at_most=1),
        default=1.0,
        help="leave out points where a larger share of the satellites is borrowed (default: 1, none is left out)",
    )
    add_json(parser, "the tests")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv)

    from iaemu_training.dataset.file import Dataset
    from iaemu_training.evaluation.figures import draw_pulls
    from iaemu_training.evaluation.pulls import find_pulls, pull_statistics, table

    pulls = find_pulls(Dataset(arguments.dataset), min_pairs=arguments.min_pairs, max_borrowed=arguments.max_borrowed)
    if arguments.output is not None:
        draw_pulls(pulls, arguments.output)
    document = {
        "n_realisations": pulls.n_realisations,
        "min_pairs": pulls.min_pairs,
        "degrees_of_freedom": pulls.n_realisations - 1,
        "tests": pull_statistics(pulls),
    }
    show(arguments, table(pulls), document)
    if arguments.output is not None:
        note(arguments, f"Figure written to {arguments.output}.")

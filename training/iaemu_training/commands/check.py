"""Compare the mocks of a data set with its noise-free labels.

Prints the distribution of (mock mean - label) / standard error over the points of a data set, by statistic and bin,
beside Student's t distribution, which it must follow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu_training.commands.options import number, read_options


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    parser.add_argument("dataset", type=Path, help="data set with mocks (.hdf5)")
    parser.add_argument("--output", "-o", type=Path, help="figure to write (.png, .pdf)")
    parser.add_argument(
        "--min-pairs", type=number(float, at_least=0), default=30.0, help="expected pairs a mock that a bin needs"
    )
    parser.add_argument(
        "--max-borrowed",
        type=number(float, at_least=0, at_most=1),
        default=1.0,
        help="leave out points where more of the satellites are borrowed",
    )
    arguments = read_options(parser, argv)

    from iaemu_training.dataset.file import Dataset
    from iaemu_training.evaluation.figures import draw_pulls
    from iaemu_training.evaluation.pulls import find_pulls, table

    pulls = find_pulls(Dataset(arguments.dataset), min_pairs=arguments.min_pairs, max_borrowed=arguments.max_borrowed)
    if arguments.output is not None:
        draw_pulls(pulls, arguments.output)
    print(table(pulls))
    if arguments.output is not None:
        print(f"Figure written to {arguments.output}.")

"""Compare an emulator with the mocks and the noise-free labels at the test points of a data set that have mocks.

Writes report.md, report.json and figures: the metrics of arXiv:2504.05235 beside its published figures and beside what
the noise-free label scores on the same mocks, calibration of the uncertainties if the emulator has them, and errors
against the labels. About 20 seconds for 100 points.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu_training.commands.options import number, read_options


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    parser.add_argument(
        "artifact", metavar="ARTIFACT", help="emulator or tables (.safetensors), or shipped for the shipped emulator"
    )
    parser.add_argument(
        "dataset", metavar="DATASET", type=Path, help="data set with mocks, from iaemu-train dataset (.hdf5)"
    )
    parser.add_argument(
        "--output", "-o", type=Path, required=True, metavar="FOLDER", help="folder to write to; made if it is missing"
    )
    parser.add_argument(
        "--cleaned", action="store_true", help="leave out the points that the paper's cleaning removes (default: keep)"
    )
    parser.add_argument(
        "--bootstrap",
        type=number(int, at_least=0, at_most=10**6),
        default=200,
        metavar="N",
        help="samples of the points for errors (default: 200; 0: none)",
    )
    parser.add_argument(
        "--seed",
        type=number(int, at_least=0, at_most=2**32 - 1),
        default=1,
        help="of these samples and of the examples drawn (default: 1)",
    )
    arguments = read_options(parser, argv, folder=True)

    from iaemu import Emulator, load
    from iaemu_training.dataset.file import Dataset
    from iaemu_training.evaluation.evaluate import evaluate
    from iaemu_training.evaluation.figures import write_report

    shipped = arguments.artifact == "shipped"
    report = evaluate(
        Emulator.load() if shipped else load(arguments.artifact),
        Dataset(arguments.dataset),
        cleaned=arguments.cleaned,
        n_bootstrap=arguments.bootstrap,
        seed=arguments.seed,
        names=(Emulator.shipped if shipped else Path(arguments.artifact).name, arguments.dataset.name),
    )
    figures = write_report(report, arguments.output, arguments.seed)
    print(report.table())
    print(f"\nReport and {len(figures)} figures written to {arguments.output}.")

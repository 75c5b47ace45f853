"""Compare an emulator with mocks and with labels at the test points of a data set.

Writes report.md, report.json and figures: the metrics of arXiv:2504.05235 beside the published numbers and beside those
of the labels, which are free of noise, on the same mocks; the calibration of the emulator's uncertainties, if it has
them; and its errors against the labels. Takes about 20 seconds for 100 points.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from iaemu_training.commands.options import add_json, add_output, number, read_options, shows_progress
from iaemu_training.commands.printing import note, show


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", metavar="ARTIFACT", help="emulator or tables (.safetensors), or shipped for the shipped emulator"
    )
    parser.add_argument(
        "dataset", metavar="DATASET", type=Path, help="data set with mocks, from iaemu train dataset (.hdf5)"
    )
    add_output(parser, "folder to write to; it is made if it does not exist", "FOLDER")
    parser.add_argument(
        "--cleaned", action="store_true", help="leave out the points that the paper's cleaning removes (default: keep)"
    )
    parser.add_argument(
        "--bootstrap",
        type=number(int, at_least=0, at_most=10**6),
        default=200,
        metavar="N",
        help="bootstrap samples of the points, for the errors of the metrics (default: 200; 0: no errors)",
    )
    parser.add_argument(
        "--seed",
        type=number(int, at_least=0, at_most=2**32 - 1),
        default=1,
        metavar="N",
        help="seed of these samples and of the choice of examples (default: 1)",
    )
    add_json(parser, "the metrics, as in report.json,")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
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
        progress=shows_progress(arguments),
        names=(Emulator.shipped if shipped else Path(arguments.artifact).name, arguments.dataset.name),
    )
    figures = write_report(report, arguments.output, arguments.seed)
    show(arguments, report.table(), json.loads(report.json()))
    note(arguments, f"\nReport and {len(figures)} figures written to {arguments.output}.")

"""Make a training set in one HDF5 file.

It holds labels from tables, without noise, at all points; halotools-IA mocks at some; the paper's cleaning as masks;
and a split of the points in 70 % training, 10 % validation and 20 % test. If it is interrupted, run the same command
again: it resumes. On 2 cores the labels of 110,526 points take about 3 minutes, and a mock 0.2 s.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu_training.commands.options import (
    add_output,
    add_settings,
    add_tables,
    add_workers,
    changed_settings,
    read_options,
    shows_progress,
)
from iaemu_training.commands.printing import note
from iaemu_training.dataset.make import DatasetSettings, make_dataset
from iaemu_training.dataset.matter import MatterCorrelation
from iaemu_training.dataset.points import PARAMETER_SETS

#: Run again, it resumes.
RESUMES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "data set to write (.hdf5)")
    add_tables(parser)
    text = "the paper's set (logMmin evenly spaced, the others uniform in the supported region), or a Sobol sequence"
    add_settings(parser, DatasetSettings(), points={"choices": PARAMETER_SETS, "help": text}, n={"flags": ["-n"]})
    parser.add_argument(
        "--matter",
        type=Path,
        metavar="FILE",
        help="matter correlation function (default: that of the Bolshoi-Planck cosmology at z = 0; make another with "
        "python -m iaemu_training.dataset.make_xi_matter)",
    )
    add_workers(parser, "worker processes (default: one for each core)")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv, positional=True)

    dataset = make_dataset(
        arguments.output,
        changed_settings(DatasetSettings(), arguments),
        tables=arguments.tables,
        catalogues=arguments.catalogue,
        n_workers=arguments.workers,
        dask=arguments.dask,
        matter=MatterCorrelation.load(arguments.matter),
        progress=shows_progress(arguments),
    )
    note(arguments, dataset.summary())

"""Make a training set in one HDF5 file.

It holds noise-free labels from tables at all points, halotools-IA mocks at some, the paper's cleaning as masks, a
70/10/20 split by point. If killed, run the same command again: it goes on. On 2 cores about 3 minutes for the labels of
110,526 points, and 0.2 s a mock.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu_training.commands.options import add_settings, add_tables, changed_settings, number, read_options
from iaemu_training.dataset.make import DatasetSettings, make_dataset
from iaemu_training.dataset.matter import MatterCorrelation
from iaemu_training.dataset.points import PARAMETER_SETS

#: Run again, it goes on.
RESUMES = True


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    parser.add_argument("output", type=Path, help="data set to write (.hdf5)")
    add_tables(parser)
    text = "the paper's set (evenly spaced logMmin, uniform tube), or a Sobol sequence"
    add_settings(parser, DatasetSettings(), points={"choices": PARAMETER_SETS, "help": text}, n={"flags": ["-n"]})
    parser.add_argument(
        "--matter",
        type=Path,
        help="matter correlation function xi_DM (default: Bolshoi-Planck cosmology at z = 0; make another with "
        "python -m iaemu_training.dataset.make_xi_matter)",
    )
    parser.add_argument(
        "--workers",
        type=number(int, at_least=1, at_most=1024),
        help="worker processes or SLURM jobs (default: one a core, one job)",
    )
    parser.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="CLUSTER",
        help="run on Dask: local (default), slurm (configured in ~/.config/dask/jobqueue.yaml), or the address or "
        "scheduler file of a running scheduler",
    )
    arguments = read_options(parser, argv)

    dataset = make_dataset(
        arguments.output,
        changed_settings(DatasetSettings(), arguments),
        tables=arguments.tables,
        catalogues=arguments.catalogue,
        n_workers=arguments.workers,
        dask=arguments.dask,
        matter=MatterCorrelation.load(arguments.matter),
    )
    print(dataset.summary())

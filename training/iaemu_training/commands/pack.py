"""Reduce a halo catalogue to the columns that mocks and tables use, in about 8 bytes for each sub-halo."""

from __future__ import annotations

import argparse

from iaemu_training.commands.options import add_output, read_options, shows_progress
from iaemu_training.commands.printing import note


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "catalogue",
        metavar="CATALOGUE",
        help="halo catalogue: an HDF5 file with halotools' columns, a ROCKSTAR file (.list), a redshift's "
        "folder of AbacusSummit, a shipped catalogue, or a name in halotools' cache",
    )
    add_output(parser, "packed catalogue to write (.hdf5)")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv, suffixes=(".hdf5", ".h5"), positional=True)

    from iaemu_training.halos.catalogue import HaloCatalogue

    catalogue = HaloCatalogue.load(arguments.catalogue, shows_progress(arguments))
    catalogue.write_packed(arguments.output)
    note(arguments, f"{catalogue}, to {arguments.output}.")

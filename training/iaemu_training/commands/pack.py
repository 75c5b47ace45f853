"""Keep only what the mock model uses of a halo catalogue, in about 8 bytes a sub-halo."""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu_training.commands.options import read_options


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    parser.add_argument(
        "catalogue",
        help="HDF5 file in halotools columns, ROCKSTAR ascii, a shipped catalogue, or a name in halotools' cache",
    )
    parser.add_argument("output", type=Path, help="packed catalogue to write (.hdf5)")
    arguments = read_options(parser, argv, suffixes=(".hdf5", ".h5"))

    from iaemu_training.halos.catalogue import HaloCatalogue

    catalogue = HaloCatalogue.load(arguments.catalogue)
    catalogue.write_packed(arguments.output)
    print(f"{catalogue}, to {arguments.output}.")

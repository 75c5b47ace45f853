"""Make tables of a halo catalogue: sums over its pairs, by host mass and sub-halo rank.

The sums of several boxes are added. Takes about 8 minutes for a box of 160 Mpc/h on 2 cores.
"""

from __future__ import annotations

import argparse

from iaemu_training.commands.options import (
    add_output,
    add_settings,
    changed_settings,
    log10_mass,
    read_options,
    shows_progress,
)
from iaemu_training.commands.printing import note
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.halos.limits import CatalogueLimits
from iaemu_training.tables.tabulate import TabulationSettings, tabulate


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s -o FILE -c CATALOGUE [-c CATALOGUE ...] [OPTION ...]"
    add_output(parser, "tables to write (.safetensors)")
    parser.add_argument(
        "-c",
        "--catalogue",
        action="append",
        required=True,
        help="halo catalogue: an HDF5 file with halotools' columns, a ROCKSTAR file (.list), a redshift's folder of "
        "AbacusSummit, a shipped catalogue (pm160a, pm160b, pm40), or a name in halotools' cache (bolplanck); may be "
        "repeated, for several boxes",
    )
    parser.add_argument(
        "--logmmin",
        nargs=2,
        type=log10_mass,
        metavar=("LOW", "HIGH"),
        help="range of logMmin [log10 Msun/h] (default: all that resolution and volume of the catalogues support)",
    )
    parser.add_argument(
        "--complete-above",
        type=log10_mass,
        metavar="LOG10_MASS",
        help="halo mass [log10 Msun/h] above which the catalogue is complete (default: that of 40 particles, or the "
        "one at which it was cut, as the catalogue states it)",
    )
    parser.add_argument(
        "--logm0-max",
        type=log10_mass,
        metavar="LOG10_MASS",
        help="largest logM0 [log10 Msun/h] (default: the mass above which the catalogues hold 100 hosts)",
    )
    add_settings(parser, TabulationSettings())


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv, positional=True)
    settings = changed_settings(TabulationSettings(), arguments)
    progress = shows_progress(arguments)
    catalogues = [HaloCatalogue.load(name, progress) for name in arguments.catalogue]
    note(arguments, "\n".join(map(str, catalogues)))
    limits = CatalogueLimits.of(catalogues, arguments.complete_above)
    note(arguments, f"These catalogues support {limits}.")
    support = limits.support(arguments.logmmin, arguments.logm0_max)
    tabulate(catalogues, support, settings=settings, progress=progress).save(arguments.output)
    note(arguments, f"Tables of {', '.join(c.name for c in catalogues)} written to {arguments.output}.")

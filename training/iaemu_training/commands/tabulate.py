"""Tabulate expected pair sums of one or more halo catalogues over (mass bin, rank bin) species.

Pair sums of several boxes are added. About 3 minutes a box of 160 Mpc/h on 2 cores.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from iaemu_training.commands.options import add_settings, changed_settings, number, read_options
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.halos.limits import CatalogueLimits
from iaemu_training.tables.tabulate import TabulationSettings, tabulate

_log_mass = number(float, at_least=5, at_most=20)


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    settings = TabulationSettings()
    parser.add_argument("output", type=Path, help="tables to write (.safetensors)")
    parser.add_argument(
        "--catalogue",
        "-c",
        action="append",
        required=True,
        help="HDF5 file in halotools columns, ROCKSTAR ascii (.list), a shipped catalogue (pm160a, pm160b, pm40), or a "
        "name in halotools' cache (bolplanck); repeat for several boxes",
    )
    parser.add_argument(
        "--logMmin",
        nargs=2,
        type=_log_mass,
        metavar=("LOW", "HIGH"),
        help="range (default: what the catalogues' resolution and volume support, which is printed)",
    )
    parser.add_argument(
        "--complete-above",
        type=_log_mass,
        metavar="LOG10_MASS",
        help="halo mass [log10 Msun/h] above which the catalogue is complete (default: 40 particle masses or the mass "
        "that it was cut at, as it states them)",
    )
    parser.add_argument(
        "--logM0-max",
        type=_log_mass,
        metavar="LOG10_MASS",
        help="largest logM0 (default: the mass above which the catalogues hold 100 hosts)",
    )
    parser.add_argument(
        "--dlog-mass",
        type=number(float, at_least=1e-3, at_most=1),
        help="width of the host-mass bins [dex], one-halo and two-halo",
    )
    add_settings(parser, settings)
    arguments = read_options(parser, argv)

    catalogues = [HaloCatalogue.load(name) for name in arguments.catalogue]
    print(*catalogues, sep="\n")
    limits = CatalogueLimits.of(catalogues, arguments.complete_above)
    print(f"These catalogues support {limits}.")
    support = limits.support(arguments.logMmin, arguments.logM0_max)
    if arguments.dlog_mass is not None:
        one_halo, two_halo = (
            replace(part, dlog_mass=arguments.dlog_mass) for part in (settings.one_halo, settings.two_halo)
        )
        settings = replace(settings, one_halo=one_halo, two_halo=two_halo)
    tabulate(catalogues, support, settings=changed_settings(settings, arguments)).save(arguments.output)
    print(f"Tables of {', '.join(c.name for c in catalogues)} written to {arguments.output}.")

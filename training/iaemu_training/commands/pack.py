"""Reduce a halo catalogue to the columns that mocks and tables use, in about 8 bytes for each sub-halo.

Columns of a file that is neither ROCKSTAR's nor has halotools' names are named with --id, --parent, --mass,
--positions and --axes. What is not named has halotools' name.
"""

from __future__ import annotations

import argparse
from typing import Any

from iaemu_training.commands.options import add_output, number, read_options, shows_progress
from iaemu_training.commands.printing import note

#: Options of files with other names, by the keywords of HaloCatalogue.read_columns.
_OWN = ("id", "parent", "mass", "rank", "positions", "axes", "no_parent", "scale", "mass_scale")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "catalogue",
        metavar="CATALOGUE",
        help="halo catalogue: an HDF5 file with halotools' columns, a ROCKSTAR file (.list), a redshift's "
        "folder of AbacusSummit, a shipped catalogue, or a name in halotools' cache; with options that name columns, "
        "any .csv, .txt, .hdf5, .fits, .npz ...",
    )
    add_output(parser, "packed catalogue to write (.hdf5)")
    positive = number(float, above=0)
    add = parser.add_argument_group("what the file does not state").add_argument
    add("--lbox", type=positive, metavar="LENGTH", help="side of the box [Mpc/h]")
    add("--particle-mass", type=positive, metavar="MASS", help="mass of a particle [Msun/h], for the completeness")
    add("--redshift", type=number(float, above=-1, at_most=1e4), metavar="Z", help="redshift of the halos")
    add(
        "--cosmology",
        metavar="COSMOLOGY",
        help="flat LCDM: bolplanck, a name of colossus (planck18), a YAML file, or parameters as in 'Om=0.31 h=0.68 "
        "sigma8=0.81'",
    )
    _add_columns(parser.add_argument_group("columns with other names").add_argument)


def _add_columns(add: Any) -> None:
    add("--id", metavar="COLUMN", help="id of each halo (default: halo_id)")
    add(
        "--parent",
        metavar="COLUMN",
        help="id of the halo that it is a sub-halo of; -1, or its own id, for a host (default: halo_upid)",
    )
    add("--mass", metavar="COLUMN", help="virial mass of each halo (default: halo_mvir)")
    for name, text, default in (
        ("positions", "positions", "halo_x halo_y halo_z"),
        ("axes", "major axes, of any length", "halo_axisA_x halo_axisA_y halo_axisA_z"),
    ):
        add(
            f"--{name}",
            nargs="+",
            metavar="COLUMN",
            help=f"columns of the {text}: three, or one with three numbers in each row (default: {default}); "
            "table/column if the file has several tables",
        )
    add(
        "--rank",
        metavar="COLUMN",
        help="what ranks sub-halos, the largest first: their peak mass, say (default: halo_mpeak if there is one, or "
        "else the mass)",
    )
    add(
        "--no-parent",
        type=number(int, at_least=-(2**63), at_most=2**63 - 1),
        metavar="ID",
        help="what the parent of a host is, if not -1",
    )
    for name, text in (
        ("scale", "positions (and the side, if the file states it; --lbox is in Mpc/h) to Mpc/h: 0.001 for kpc/h"),
        ("mass-scale", "masses to Msun/h"),
    ):
        add(
            f"--{name}",
            type=number(float, above=0),
            metavar="FACTOR",
            help=f"factor that converts the file's {text} (default: 1)",
        )


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv, suffixes=(".hdf5", ".h5"), positional=True)

    from iaemu_training.halos.catalogue import HaloCatalogue
    from iaemu_training.halos.cosmology import Cosmology

    attributes = {
        name: getattr(arguments, name) for name in ("particle_mass", "redshift") if getattr(arguments, name) is not None
    }
    if arguments.cosmology is not None:
        attributes |= Cosmology.read(arguments.cosmology).attributes()
    own = {name: getattr(arguments, name) for name in _OWN if getattr(arguments, name) is not None}
    if own:
        catalogue = HaloCatalogue.read_columns(arguments.catalogue, attributes, Lbox=arguments.lbox, **own)
        note(arguments, f"Columns: {catalogue.attributes['columns']}.")
    else:
        catalogue = HaloCatalogue.load(arguments.catalogue, shows_progress(arguments), arguments.lbox, attributes)
    catalogue.write_packed(arguments.output)
    note(arguments, f"{catalogue}, to {arguments.output}.")
    if "particle_mass" not in catalogue.attributes:
        note(arguments, "The particle mass is not known: give --particle-mass, or --complete-above to tabulate.")

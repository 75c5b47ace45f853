"""Populate a halo catalogue with halotools-IA and write the galaxies (HDF5).

They have positions, major axes, is_central and host. Occupation parameters are by default those of TNG300 sample 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from iaemu.parameters import ALIGNMENT_PARAMETERS, PARAMETERS, Support, SupportError
from iaemu_training.commands.options import number, read_options

#: Occupation of TNG300-1 galaxies above 10^10.5 Msun (arXiv:2504.05235, table 2).
_SAMPLE_1 = {"logMmin": 12.54, "sigma_logM": 0.26, "logM0": 12.68, "logM1": 13.48, "alpha": 1.0}


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    parser.add_argument("output", type=Path, help="galaxies to write (.hdf5)")
    parser.add_argument(
        "--catalogue",
        "-c",
        default="pm160a",
        help="halo catalogue: a shipped one (pm160a, pm160b, pm40), an HDF5 file in halotools columns, ROCKSTAR ascii, "
        "or a name in halotools' cache (default: pm160a)",
    )
    for name in PARAMETERS:
        default = _SAMPLE_1.get(name)
        text = "required" if default is None else f"default: {default}"
        most = 1 if name in ALIGNMENT_PARAMETERS else 100
        reader = number(float, at_least=-most, at_most=most)
        parser.add_argument(f"--{name}", type=reader, default=default, required=default is None, help=text)
    parser.add_argument(
        "--seed", type=number(int, at_least=0, at_most=2**63 - 1), default=1, help="same seed, same mock (default: 1)"
    )
    parser.add_argument("--force", "-f", action="store_true", help="replace an output that exists")
    arguments = read_options(parser, argv, suffixes=(".hdf5", ".h5"))

    from iaemu_training.halos.catalogue import HaloCatalogue
    from iaemu_training.measuring.galaxy_files import write_galaxies
    from iaemu_training.mocks.halotools import HalotoolsMocks

    if arguments.output.exists() and not arguments.force:
        raise ValueError(f"{arguments.output} exists; give --force to replace it, or another name.")
    catalogue = HaloCatalogue.load(arguments.catalogue)
    theta = {name: getattr(arguments, name) for name in PARAMETERS}
    model = HalotoolsMocks(catalogue)
    galaxies = model.populate(theta, arguments.seed)
    if not len(galaxies.positions):
        raise ValueError(
            f"No halo of {arguments.catalogue} got a galaxy at logMmin = {theta['logMmin']:g}, logM1 = "
            f"{theta['logM1']:g}; nothing was written. Take lower masses, or a larger box."
        )
    try:
        Support().enforce(theta, "raise")
    except SupportError as error:
        print(f"iaemu mock: {error} A fit of the mock cannot find its parameters.", file=sys.stderr)
    redshift = {name: float(value) for name, value in catalogue.attributes.items() if name == "redshift"}
    write_galaxies(
        arguments.output,
        galaxies.positions,
        galaxies.axes,
        model.Lbox,
        {"is_central": galaxies.is_central, "halo_hostid": galaxies.host},
        {
            "description": "halotools-IA mock",
            "catalogue": catalogue.name,
            "catalogue_sha256": catalogue.sha256,
            **redshift,
            **theta,
            "seed": arguments.seed,
        },
    )
    n = len(galaxies.positions)
    print(f"{n} galaxies, {(~galaxies.is_central).mean():.1%} of them satellites, written to {arguments.output}.")

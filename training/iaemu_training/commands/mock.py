"""Populate a halo catalogue with halotools-IA, and write the galaxies (HDF5).

The file holds positions, major axes, is_central and the host of each galaxy. The occupation is by default that of
TNG300 sample 1.
"""

from __future__ import annotations

import argparse

from iaemu.parameters import ALIGNMENT_PARAMETERS, PARAMETERS, SLOPES, Support, SupportError
from iaemu_training.commands.options import add_json, add_output, number, option_of, read_options, shows_progress
from iaemu_training.commands.printing import note, show, warn

#: Occupation of TNG300-1 galaxies above 10^10.5 Msun (arXiv:2504.05235, table 2).
_SAMPLE_1 = {"logMmin": 12.54, "sigma_logM": 0.26, "logM0": 12.68, "logM1": 13.48, "alpha": 1.0}


#: What the parameters mean.
_TEXTS = {
    "mu_cen": "alignment strength of centrals",
    "mu_sat": "alignment strength of satellites",
    "logMmin": "mass at which half of the halos have a central [log10 Msun/h]",
    "sigma_logM": "width of that transition [dex]",
    "logM0": "mass below which a halo has no satellites [log10 Msun/h]",
    "logM1": "mass scale of the satellites [log10 Msun/h]",
    "alpha": "slope of the number of satellites with mass",
    "mu_cen_slope": "slope of the strength of centrals with log10 of the host mass",
    "mu_sat_slope": "exponent of the strength of satellites with r / Rvir",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "galaxies to write (.hdf5)")
    parser.add_argument(
        "-c",
        "--catalogue",
        default="pm160a",
        help="halo catalogue: a shipped one (pm160a, pm160b, pm40), an HDF5 file with halotools' columns, a ROCKSTAR "
        "file (.list), a redshift's folder of AbacusSummit, or a name in halotools' cache (default: pm160a)",
    )
    for name in (*PARAMETERS, *SLOPES):
        default = 0.0 if name in SLOPES else _SAMPLE_1.get(name)
        text = f"{_TEXTS[name]} ({'-1 to 1; required' if default is None else f'default: {default}'})"
        most = 1 if name in ALIGNMENT_PARAMETERS else 100
        reader = number(float, at_least=-most, at_most=most)
        parser.add_argument(
            option_of(name),
            dest=name,
            type=reader,
            default=default,
            required=default is None,
            metavar="VALUE",
            help=text,
        )
    parser.add_argument(
        "--pivot",
        type=number(float, at_least=8, at_most=17),
        default=13.0,
        metavar="VALUE",
        help="host mass at which the strength of centrals is --mu-cen, if it has a slope [log10 Msun/h] (default: 13)",
    )
    parser.add_argument(
        "--seed",
        type=number(int, at_least=0, at_most=2**63 - 1),
        default=1,
        metavar="N",
        help="seed of the random numbers (default: 1); the same seed gives the same mock",
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace an output that exists")
    add_json(parser, "the numbers of galaxies")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv, suffixes=(".hdf5", ".h5"), positional=True)

    from iaemu.models.laws import StrengthSupport
    from iaemu_training.halos.catalogue import HaloCatalogue
    from iaemu_training.measuring.galaxy_files import write_galaxies
    from iaemu_training.mocks.halotools import HalotoolsMocks

    if arguments.output.exists() and not arguments.force:
        raise ValueError(f"{arguments.output} exists; give --force to replace it, or another name.")
    catalogue = HaloCatalogue.load(arguments.catalogue, shows_progress(arguments))
    slopes = [name for name in SLOPES if getattr(arguments, name)]
    theta = {name: getattr(arguments, name) for name in (*PARAMETERS, *slopes)}
    model = HalotoolsMocks(catalogue, slopes=slopes, pivot=arguments.pivot)
    galaxies = model.populate(theta, arguments.seed)
    if not len(galaxies.positions):
        raise ValueError(
            f"No halo of {arguments.catalogue} got a galaxy at logMmin = {theta['logMmin']:g}, logM1 = "
            f"{theta['logM1']:g}; nothing was written. Take lower masses, or a larger box."
        )
    try:
        (StrengthSupport.of(Support(), slopes) if slopes else Support()).enforce(theta, "raise")
    except SupportError as error:
        warn(arguments, parser.prog, f"{error} A fit of the mock cannot find its parameters.")
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
            **({"pivot": arguments.pivot} if slopes else {}),
            "seed": arguments.seed,
        },
    )
    n, n_satellites = len(galaxies.positions), int((~galaxies.is_central).sum())
    if arguments.json:
        show(arguments, "", {"output": arguments.output, "n_galaxies": n, "n_satellites": n_satellites})
    note(arguments, f"{n} galaxies, {n_satellites / n:.1%} of them satellites, written to {arguments.output}.")

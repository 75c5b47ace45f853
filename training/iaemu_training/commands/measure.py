"""Measure xi(r), omega(r) and eta(r) of galaxies in a periodic box, with covariances from a spatial jackknife.

They are written in the format of the likelihood iaemu_cobaya.IACorrelations, with a picture beside.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from iaemu.measurement import SUFFIX, Measurement
from iaemu.prediction import STATISTICS
from iaemu_training.commands.options import read_options, refuse_overwriting


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    _add_options(parser)
    arguments = read_options(parser, argv)

    from iaemu_training.measuring.estimators import draw, table

    measurement = _measure(arguments)
    print(table(measurement))
    measurement.write(arguments.output)
    written = [arguments.output]
    if not arguments.no_plot:
        written.append(arguments.output.with_suffix(".png"))
        draw(measurement, written[-1])
    print(
        f"{measurement.metadata['n_galaxies']} galaxies in ({measurement.metadata['Lbox']:g} Mpc/h)^3, "
        f"{arguments.regions**3} regions; written: {', '.join(map(str, written))}"
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("catalogue", type=Path, help="galaxies: .hdf5, .npz, .npy, .csv, .ecsv, .fits or .txt")
    parser.add_argument("--output", "-o", type=Path, required=True, help="file to write (.txt); covariances beside it")
    parser.add_argument("--Lbox", type=float, help="side of the box [Mpc/h] (default: the file's Lbox)")
    parser.add_argument(
        "--positions", nargs="+", default=(), metavar="COLUMN", help="one column of threes, or three (default: x y z)"
    )
    parser.add_argument(
        "--axes",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="major axes, of any length (default: galaxy_axisA_x galaxy_axisA_y galaxy_axisA_z)",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of the file's positions and Lbox: 0.001 for kpc/h"
    )
    parser.add_argument(
        "--select", action="append", default=[], metavar="CUT", help="'column > number'; repeat for more"
    )
    parser.add_argument("--bins", default="paper", help="paper (default), tng300, or edges E0,E1,... [Mpc/h]")
    parser.add_argument(
        "--regions", type=int, default=5, help="jackknife regions along each side of the box (default: 5, so 125)"
    )
    parser.add_argument("--statistics", nargs="+", choices=STATISTICS, default=list(STATISTICS))
    parser.add_argument("--joint", action="store_true", help="one covariance of all statistics (default: one for each)")
    parser.add_argument("--redshift", type=float, help="for the header (default: the file's)")
    parser.add_argument("--description", help="for the header")
    parser.add_argument("--no-plot", action="store_true", help="no picture beside the output")


def _measure(arguments: argparse.Namespace) -> Measurement:
    from iaemu.files import sha256_of_file
    from iaemu_training.measuring.estimators import MeasureWarning, measure, parse_bins
    from iaemu_training.measuring.galaxy_files import read_galaxies

    if arguments.output.suffix != SUFFIX:
        raise ValueError(f"{arguments.output}: measurements are text; name the file {SUFFIX}.")
    refuse_overwriting(arguments.catalogue, arguments.output)
    edges = parse_bins(arguments.bins)
    galaxies = read_galaxies(
        arguments.catalogue, arguments.positions, arguments.axes, arguments.select, arguments.scale
    )
    Lbox = arguments.Lbox if arguments.Lbox is not None else galaxies.Lbox
    if Lbox is None:
        raise ValueError(f"{arguments.catalogue} does not state the side of its box: give --Lbox in Mpc/h.")
    redshift = arguments.redshift if arguments.redshift is not None else galaxies.metadata.get("redshift")
    metadata = {
        "description": arguments.description or galaxies.metadata.get("description") or arguments.catalogue.stem,
        "source": arguments.catalogue.name,
        "source_sha256": sha256_of_file(arguments.catalogue),
        **({} if redshift is None else {"redshift": float(redshift)}),
        **({"selection": list(arguments.select)} if arguments.select else {}),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MeasureWarning)
        measurement = measure(
            galaxies.positions,
            galaxies.axes,
            Lbox,
            edges,
            arguments.regions,
            arguments.statistics,
            arguments.joint,
            metadata,
            progress=sys.stderr.isatty(),
        )
    for warning in caught:
        if issubclass(warning.category, MeasureWarning):
            print(f"iaemu measure: {warning.message}", file=sys.stderr)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return measurement

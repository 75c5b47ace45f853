"""Measure xi(r), omega(r) and eta(r) of galaxies in a periodic box, with covariances from a spatial jackknife.

They are written in the format of the likelihood iaemu_cobaya.IACorrelations, with a picture beside.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import IO

from iaemu.measurement import SUFFIX, Measurement
from iaemu.prediction import STATISTICS
from iaemu.ranges import Range
from iaemu_training.commands.options import check_output, number, read_options


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    _add_options(parser)
    arguments = read_options(parser, argv, suffixes=(SUFFIX,))

    from iaemu_training.measuring.estimators import table

    picture = None if arguments.no_plot else arguments.output.with_suffix(".png")
    if picture is not None:
        check_output(picture, inputs=arguments)
    measurement = _measure(arguments)
    written = [arguments.output, *([] if picture is None else [picture])]
    measurement.write(arguments.output, {path: partial(_draw, measurement) for path in written[1:]})
    # Only now: whoever reads this may go away, as in "| head -1".
    print(table(measurement))
    print(
        f"{measurement.metadata['n_galaxies']} galaxies in ({measurement.metadata['Lbox']:g} Mpc/h)^3, "
        f"{arguments.regions**3} regions; written: {', '.join(map(str, written))}"
    )


def _draw(measurement: Measurement, file: IO[bytes]) -> None:
    from iaemu_training.measuring.estimators import draw

    draw(measurement, file)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("catalogue", type=Path, help="galaxies: .hdf5, .npz, .npy, .csv, .ecsv, .fits, .txt ...")
    parser.add_argument("--output", "-o", type=Path, required=True, help="file to write (.txt); covariances beside it")
    parser.add_argument(
        "--Lbox", type=number(float, above=0), help="side of the box [Mpc/h] (default: the file's Lbox)"
    )
    parser.add_argument(
        "--positions",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="one column of threes, or three (default: x y z); table/column where a file has several tables",
    )
    parser.add_argument(
        "--axes",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="major axes, of any length (default: galaxy_axisA_x galaxy_axisA_y galaxy_axisA_z)",
    )
    parser.add_argument(
        "--scale",
        type=number(float, above=0),
        default=1.0,
        help="factor of the file's positions and Lbox: 0.001 for kpc/h",
    )
    parser.add_argument(
        "--select", action="append", default=[], metavar="CUT", help="'column > number'; repeat for more"
    )
    parser.add_argument("--bins", default="paper", help="paper (default), tng300, or edges E0,E1,... [Mpc/h]")
    parser.add_argument(
        "--regions",
        type=number(int, at_least=2, at_most=100),
        default=5,
        help="jackknife regions along each side of the box (default: 5, so 125)",
    )
    parser.add_argument("--statistics", nargs="+", choices=STATISTICS, default=list(STATISTICS))
    parser.add_argument("--joint", action="store_true", help="one covariance of all statistics (default: one for each)")
    parser.add_argument("--redshift", type=number(float, above=-1), help="for the header (default: the file's)")
    parser.add_argument("--description", help="for the header")
    parser.add_argument("--no-plot", action="store_true", help="no picture beside the output")


def _measure(arguments: argparse.Namespace) -> Measurement:
    from iaemu.files import sha256_of_file
    from iaemu_training.measuring.estimators import MeasureWarning, measure, parse_bins
    from iaemu_training.measuring.galaxy_files import read_galaxies

    edges = parse_bins(arguments.bins)
    galaxies = read_galaxies(
        arguments.catalogue, arguments.positions, arguments.axes, arguments.select, arguments.scale
    )
    Lbox = arguments.Lbox if arguments.Lbox is not None else galaxies.Lbox
    if Lbox is None:
        raise ValueError(f"{arguments.catalogue} does not state the side of its box: give --Lbox in Mpc/h.")
    redshift = arguments.redshift if arguments.redshift is not None else galaxies.metadata.get("redshift")
    if redshift is not None:
        Range(above=-1).check(f"The redshift of {arguments.catalogue}", redshift)
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

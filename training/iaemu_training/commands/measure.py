"""Measure xi(r), omega(r) and eta(r) of galaxies in a periodic box, with covariances from a spatial jackknife.

With --projected: w_gg(r_p), w_g+(r_p), w_++(r_p) and the quadrupole xi_g+,2(r) of the projected shapes of the major
axes (shape amplitude 1), positive for radial alignment. The output has the format of the likelihoods
iaemu_cobaya.IACorrelations and iaemu_cobaya.ProjectedCorrelations; a picture is written beside it.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path
from typing import IO

from iaemu.measurement import SUFFIX, Measurement
from iaemu.ranges import Range
from iaemu.statistics import MEASURED, PROJECTED, STATISTICS
from iaemu_training.commands.options import add_json, add_output, check_output, number, read_options, shows_progress
from iaemu_training.commands.printing import measurement_document, measurement_table, note, show, warn


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv, suffixes=(SUFFIX,))

    picture = None if arguments.no_plot else arguments.output.with_suffix(".png")
    if picture is not None:
        check_output(picture, inputs=arguments)
    measurement = _measure(arguments, parser.prog)
    written = [arguments.output, *([] if picture is None else [picture])]
    measurement.write(arguments.output, {path: partial(_draw, measurement) for path in written[1:]})
    # Only now: whoever reads this may go away, as in "| head -1".
    document = measurement_document(measurement, output=arguments.output, picture=picture)
    show(arguments, measurement_table(measurement), document)
    note(
        arguments,
        f"{measurement.metadata['n_galaxies']} galaxies in ({measurement.metadata['Lbox']:g} Mpc/h)^3, "
        f"{arguments.regions**3} regions; written: {', '.join(map(str, written))}",
    )


def _draw(measurement: Measurement, file: IO[bytes]) -> None:
    from iaemu_training.measuring.estimators import draw

    draw(measurement, file)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "catalogue", metavar="CATALOGUE", type=Path, help="galaxies: .hdf5, .npz, .npy, .csv, .ecsv, .fits, .txt ..."
    )
    add_output(parser, "measurement to write (.txt); its covariances are written beside it")
    parser.add_argument(
        "--lbox",
        type=number(float, above=0),
        metavar="LENGTH",
        help="side of the box [Mpc/h] (default: Lbox of the file)",
    )
    parser.add_argument(
        "--positions",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="columns of the positions: three, or one with three numbers in each row (default: x y z); table/column if "
        "the file has several tables",
    )
    parser.add_argument(
        "--axes",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="columns of the major axes, of any length (default: galaxy_axisA_x galaxy_axisA_y galaxy_axisA_z)",
    )
    parser.add_argument(
        "--scale",
        type=number(float, above=0),
        default=1.0,
        metavar="FACTOR",
        help="factor that converts the file's positions and Lbox to Mpc/h: 0.001 for kpc/h (default: 1)",
    )
    parser.add_argument(
        "--select",
        action="append",
        default=[],
        metavar="CUT",
        help="keep galaxies that fulfil 'column > number'; may be repeated",
    )
    parser.add_argument(
        "--bins",
        default="paper",
        metavar="BINS",
        help="bins of r, or of r_p: paper (default), tng300, or edges E0,E1,... [Mpc/h]",
    )
    parser.add_argument(
        "--regions",
        type=number(int, at_least=2, at_most=100),
        default=5,
        metavar="N",
        help="jackknife regions along each side of the box (default: 5, so 125 in all)",
    )
    parser.add_argument(
        "--statistics",
        nargs="+",
        choices=MEASURED,
        help=f"statistics to measure: {', '.join(STATISTICS)} (default: all); or, with --projected, "
        f"{', '.join(PROJECTED)} (default: w_gg w_gplus)",
    )
    parser.add_argument(
        "--joint",
        action="store_true",
        help="write one covariance of all statistics (default: one for each; with --projected always one of all)",
    )
    add_projection(parser)
    parser.add_argument(
        "--redshift",
        type=number(float, above=-1),
        metavar="Z",
        help="redshift to write in the header (default: that of the file)",
    )
    parser.add_argument("--description", metavar="TEXT", help="description to write in the header")
    parser.add_argument("--no-plot", action="store_true", help="write no picture")
    add_json(parser, "the measurement")


def add_projection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("projected statistics")
    group.add_argument(
        "--projected",
        action="store_true",
        help="measure what surveys do, with the projected ellipticity of each major axis; its shape amplitude, the "
        "ellipticity of a galaxy whose axis is across the line of sight, is 1",
    )
    group.add_argument(
        "--pi-max",
        type=number(float, above=0),
        metavar="LENGTH",
        help="largest separation along the line of sight [Mpc/h]",
    )
    lines = group.add_mutually_exclusive_group()
    lines.add_argument(
        "--lines-of-sight",
        type=number(int, at_least=1, at_most=3),
        metavar="N",
        help="axes of the box to average over: 1 (z), 2 (y and z) or 3 (default)",
    )
    lines.add_argument(
        "--all-lines-of-sight",
        action="store_true",
        help="the exact mean over all lines of sight, from xi(r) and omega(r): smaller errors, for positions in real "
        "space; without w_plusplus",
    )


def check_projection(arguments: argparse.Namespace) -> None:
    """Raise ValueError if options for projected statistics are without ``--projected``, or others with it."""
    if not arguments.projected:
        given = {
            "--pi-max": arguments.pi_max,
            "--lines-of-sight": arguments.lines_of_sight,
            "--all-lines-of-sight": arguments.all_lines_of_sight,
        }
        words = [option for option, value in given.items() if value]
        words += [name for name in arguments.statistics or () if name in PROJECTED]
        if words:
            raise ValueError(f"{', '.join(words)}: only with --projected.")


def _measure(arguments: argparse.Namespace, name: str) -> Measurement:
    from iaemu.files import sha256_of_file
    from iaemu_training.measuring.estimators import MeasureWarning, measure, parse_bins
    from iaemu_training.measuring.galaxy_files import read_galaxies
    from iaemu_training.measuring.projected import ALL, DEFAULT, measure_projected

    check_projection(arguments)
    edges = parse_bins(arguments.bins)
    galaxies = read_galaxies(
        arguments.catalogue, arguments.positions, arguments.axes, arguments.select, arguments.scale
    )
    Lbox = arguments.lbox if arguments.lbox is not None else galaxies.Lbox
    if Lbox is None:
        raise ValueError(f"{arguments.catalogue} does not state the side of its box: give --lbox in Mpc/h.")
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
    if arguments.projected:
        lines = ALL if arguments.all_lines_of_sight else arguments.lines_of_sight or 3
        measure_them = partial(measure_projected, pi_max=arguments.pi_max, lines_of_sight=lines)
    else:
        measure_them = partial(measure, joint=arguments.joint)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MeasureWarning)
        measurement = measure_them(
            galaxies.positions,
            galaxies.axes,
            Lbox,
            edges,
            n_regions_per_side=arguments.regions,
            statistics=arguments.statistics or (DEFAULT if arguments.projected else STATISTICS),
            metadata=metadata,
            progress=shows_progress(arguments),
        )
    for warning in caught:
        if issubclass(warning.category, MeasureWarning):
            warn(arguments, name, str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return measurement

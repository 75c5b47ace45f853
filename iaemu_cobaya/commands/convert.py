"""Write a plain table of measured values in the measurement format, which the likelihood IACorrelations reads.

The table has one row for each radial bin, with spaces, tabs, commas or semicolons between its columns, and comments
behind '#'. Its columns are r_low, r_high, value and error; or r, value and error with --edges; the error may come from
--covariance. A heading with these names, or --columns, names them in any order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu_training.commands.options import add_json, add_output, number, read_options
from iaemu_training.commands.printing import measurement_document, measurement_table, note, show, warn

#: Radii beyond this [Mpc/h] are more likely in another unit.
_UNLIKELY = 150.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add = parser.add_argument
    add("table", type=Path, metavar="TABLE", help="text file with the measured values (.txt, .csv, .dat ...)")
    add_output(parser, "measurement to write (.txt); its covariance is written beside it")
    add("--statistic", choices=("xi", "omega", "eta"), help="what was measured (default: the column 'statistic')")
    add(
        "--columns",
        nargs="+",
        default=(),
        metavar="NAME",
        help="names of the columns, in their order: statistic, r_low, r_high, r, value, error, or - for a column that "
        "is not used (default: as the file names them, or by their number)",
    )
    add(
        "--edges",
        metavar="EDGES",
        help="bin edges, if the table has centres r: E0,E1,... in the unit of r, a file that holds them, paper or "
        "tng300",
    )
    add(
        "--covariance",
        type=Path,
        metavar="FILE",
        help="text file with the covariance: a square matrix over all rows of the table",
    )
    add(
        "--n-regions",
        type=number(int, at_least=2),
        metavar="N",
        help="jackknife regions that the covariance was estimated from; the likelihood then accounts for its noise",
    )
    add(
        "--scale",
        type=number(float, above=0),
        default=1.0,
        metavar="FACTOR",
        help="factor that converts radii and edges to Mpc/h: 0.001 for kpc/h, h for Mpc (default: 1)",
    )
    add("--redshift", type=number(float, above=-1), metavar="Z", help="redshift to write in the header")
    add("--description", metavar="TEXT", help="description to write in the header (default: the name of the table)")
    add("-f", "--force", action="store_true", help="replace an output that exists")
    add_json(parser, "the measurement")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Run the command."""
    add_options(parser)
    arguments = read_options(parser, argv, suffixes=(".txt",))
    if arguments.output.exists() and not arguments.force:
        raise ValueError(f"{arguments.output} exists; give --force to replace it, or another name.")

    from iaemu_cobaya.commands.plain_table import measurement_from_table

    measurement, columns = measurement_from_table(
        arguments.table,
        arguments.statistic,
        arguments.columns,
        arguments.edges,
        arguments.covariance,
        arguments.n_regions,
        arguments.scale,
        {
            "description": arguments.description or arguments.table.stem,
            "source": arguments.table.name,
            **({} if arguments.redshift is None else {"redshift": arguments.redshift}),
        },
    )
    measurement.write(arguments.output)
    largest = max(bins.r_high[-1] for bins in measurement.bins.values())
    if largest > _UNLIKELY:
        text = f"the bins reach {largest:g} Mpc/h. If the table is in kpc/h, run this again with --scale 0.001."
        warn(arguments, parser.prog, text)
    show(arguments, measurement_table(measurement), measurement_document(measurement, output=arguments.output))
    note(arguments, f"Columns read as {' '.join(columns)}; written: {arguments.output}")
    if arguments.covariance is not None and arguments.n_regions is None:
        note(arguments, "Without --n-regions the likelihood takes this covariance as exact.")

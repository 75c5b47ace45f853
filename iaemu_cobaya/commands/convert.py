"""Write measured values in the measurement format, which the likelihoods read: from plain tables, or files of surveys.

A plain table has one row for each radial bin, with spaces, tabs, commas or semicolons between its columns, and
comments behind '#'. Its columns are r_low, r_high, value and error; or r, value and error with --edges; the error may
come from --covariance. A heading with these names, or --columns, names them in any order.

Of w_gg and w_g+ (--pi-max), tables may have r_p, value and error, without edges. Give several tables as w_gg=FILE
w_gplus=FILE, or one whose heading names both (r_p w_gg error w_gplus error); or a FITS file in the 2pt format of
echo-IA, which holds all of them and their covariance.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iaemu_training.commands.options import add_json, add_output, number, read_options
from iaemu_training.commands.printing import measurement_document, measurement_table, note, show, warn

if TYPE_CHECKING:
    from iaemu.measurement import Measurement

#: Radii beyond this [Mpc/h] are more likely in another unit.
_UNLIKELY = 150.0

_STATISTICS = ("xi", "omega", "eta", "w_gg", "w_gplus", "w_plusplus", "xi_gplus_2")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add = parser.add_argument
    add(
        "table",
        nargs="+",
        metavar="TABLE",
        help="text file with the measured values (.txt, .csv, .dat ...), or w_gg=FILE w_gplus=FILE; or a FITS file",
    )
    add_output(parser, "measurement to write (.txt); its covariance is written beside it")
    add("--statistic", choices=_STATISTICS, help="what was measured (default: the column 'statistic')")
    add(
        "--columns",
        nargs="+",
        default=(),
        metavar="NAME",
        help="names of the columns, in their order: statistic, r_low, r_high, r (r_p), value, error, or - for one that "
        "is not used (default: as the file names them, or by their number)",
    )
    add(
        "--edges",
        action="append",
        metavar="EDGES",
        help="bin edges, if the table has centres r: E0,E1,... in the unit of r, a file that holds them, paper or "
        "tng300; or w_gg=EDGES, repeated for each statistic",
    )
    add(
        "--covariance",
        action="append",
        metavar="FILE",
        help="text file with the covariance: a square matrix over all rows of the table, or of several tables; or "
        "w_gg=FILE, repeated for each",
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
    _add_survey_options(parser.add_argument_group("w_gg and w_g+").add_argument)
    add("-f", "--force", action="store_true", help="replace an output that exists")
    add_json(parser, "the measurement")


def _add_survey_options(add: Any) -> None:
    add(
        "--pi-max",
        type=number(float, above=0),
        metavar="PI",
        help="largest line-of-sight separation [Mpc/h], to write in the header",
    )
    add(
        "--pair",
        action="append",
        metavar="COLUMN=NUMBER",
        help="of several pairs of samples in a FITS file, the one to use: BIN1=2; may be repeated",
    )
    for side in ("min", "max"):
        add(
            f"--r-{side}",
            action="append",
            metavar="R",
            help=f"leave out bins {'below' if side == 'min' else 'beyond'} R [Mpc/h]; or w_gg=R; may be repeated",
        )
    add(
        "--correlations",
        choices=("joint", "separate", "none"),
        default="joint",
        help="the whole covariance, or without the covariance between statistics, or errors only (default: joint)",
    )


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Run the command."""
    add_options(parser)
    arguments = read_options(parser, argv, suffixes=(".txt",))
    if arguments.output.exists() and not arguments.force:
        raise ValueError(f"{arguments.output} exists; give --force to replace it, or another name.")
    for word in (*arguments.table, *(arguments.covariance or ())):
        file = Path(word.partition("=")[2])
        if file.is_file() and arguments.output.exists() and arguments.output.samefile(file):
            raise ValueError(f"The output {arguments.output} is the file of {word}; give it another name.")
    measurement, columns = _survey(arguments) or _plain(arguments)
    measurement.write(arguments.output)
    largest = max(bins.r_high[-1] for bins in measurement.bins.values())
    if largest > _UNLIKELY and columns:
        text = f"the bins reach {largest:g} Mpc/h. If the table is in kpc/h, run this again with --scale 0.001."
        warn(arguments, parser.prog, text)
    if "w_gplus" in measurement.bins and "pi_max" not in measurement.metadata:
        warn(arguments, parser.prog, "no --pi-max is given; a likelihood of w_gg and w_g+ asks for it.")
    if "w_gplus" in measurement.bins and "redshift" not in measurement.metadata:
        warn(arguments, parser.prog, "no --redshift is given; a run will predict at that of its theory, by default 0.")
    show(arguments, measurement_table(measurement), measurement_document(measurement, output=arguments.output))
    read_as = f"Columns read as {' '.join(columns)}; written" if columns else "Written"
    note(arguments, f"{read_as}: {arguments.output}")
    if any(covariance.n_regions is None for covariance in measurement.covariances):
        note(arguments, "Without --n-regions the likelihood takes this covariance as exact.")


def _survey(arguments: argparse.Namespace) -> tuple[Measurement, tuple[str, ...]] | None:
    """What :func:`iaemu_cobaya.likelihoods.surveys.read_survey` reads, or None if the table is of another kind."""
    from iaemu.measurement import Measurement
    from iaemu.statistics import PROJECTED
    from iaemu_cobaya.likelihoods.surveys import is_fits, read_survey, statistics_in

    source: Any = arguments.table[0] if len(arguments.table) == 1 else None
    covariance: Any = arguments.covariance[0] if len(arguments.covariance or ()) == 1 else None
    statistics = None
    if source is not None and not _names_a_statistic(source):
        if is_fits(source):
            statistics = None if arguments.statistic is None else [arguments.statistic]
        elif arguments.statistic in PROJECTED and not arguments.columns:
            source = {arguments.statistic: source}
        elif arguments.columns or arguments.statistic is not None or not statistics_in(source):
            return None
    else:
        source = _pairs("TABLE", arguments.table)
        if arguments.statistic is not None:
            raise ValueError("--statistic: the tables say what they are (w_gg=FILE); leave it out.")
    if arguments.columns or arguments.scale != 1:
        raise ValueError(
            "--columns and --scale are for one plain table. Name the columns in the line above the rows; convert r_p "
            "and w, which has the unit of r_p, to Mpc/h."
        )
    if arguments.covariance and (covariance is None or _names_a_statistic(covariance)):
        covariance = _pairs("--covariance", arguments.covariance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its notes are printed
        found = read_survey(
            source,
            statistics=statistics,
            pi_max=arguments.pi_max,
            redshift=arguments.redshift,
            n_regions=arguments.n_regions,
            covariance=covariance,
            edges=_limits(arguments.edges),
            pair=None if arguments.pair is None else {k: int(v) for k, v in _numbers("--pair", arguments.pair).items()},
            r_min=_cut("--r-min", arguments.r_min),
            r_max=_cut("--r-max", arguments.r_max),
            correlations=arguments.correlations,
        )
    for text in found.metadata.get("notes", "").split("; "):
        if text:
            warn(arguments, "iaemu convert", text)
    metadata = {**found.metadata, **({"description": arguments.description} if arguments.description else {})}
    return Measurement(found.bins, found.covariances, metadata, found.name), ()


def _plain(arguments: argparse.Namespace) -> tuple[Measurement, tuple[str, ...]]:
    from iaemu_cobaya.commands.plain_table import measurement_from_table

    unused = [name for name in ("pair", "r_min", "r_max") if getattr(arguments, name) is not None]
    if unused or arguments.correlations != "joint":
        raise ValueError(
            "--pair, --r-min, --r-max and --correlations are for w_gg and w_g+ of surveys: leave them out."
        )
    if len(arguments.covariance or ()) > 1:
        raise ValueError("--covariance: give one file, a matrix over all rows of the table.")
    table = Path(arguments.table[0])
    header = {"redshift": arguments.redshift, "pi_max": arguments.pi_max}
    return measurement_from_table(
        table,
        arguments.statistic,
        arguments.columns,
        _of_each("--edges", arguments.edges),
        Path(arguments.covariance[0]) if arguments.covariance else None,
        arguments.n_regions,
        arguments.scale,
        {
            "description": arguments.description or table.stem,
            "source": table.name,
            **{key: value for key, value in header.items() if value is not None},
        },
    )


def _names_a_statistic(word: str) -> bool:
    from iaemu.statistics import PROJECTED
    from iaemu_cobaya.likelihoods.survey_fits import statistic_of

    name, equals, _ = word.partition("=")
    return bool(equals) and (name in PROJECTED or statistic_of(name) is not None)


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value or name in found:
            raise ValueError(f"{option}: give one for each statistic, w_gg=... w_gplus=..., each once; got {word}.")
        found[name] = value
    return found


def _of_each(option: str, words: Sequence[str] | None) -> str | dict[str, str] | None:
    """Return one value for all statistics, or one for each (w_gg=VALUE)."""
    if words is None or (len(words) == 1 and "=" not in words[0]):
        return None if words is None else words[0]
    return _pairs(option, words)


def _limits(words: Sequence[str] | None) -> Any:
    from iaemu_cobaya.commands.plain_table import numbers_of

    given = _of_each("--edges", words)
    if isinstance(given, dict):
        return {statistic: numbers_of(text) for statistic, text in given.items()}
    return None if given is None else numbers_of(given)


def _numbers(option: str, words: Sequence[str]) -> dict[str, float]:
    found = {}
    for word in words:
        name, _, value = word.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"{option} {word}: give a number, or NAME=NUMBER.") from None
    return found


def _cut(option: str, words: Sequence[str] | None) -> Any:
    if words is None:
        return None
    found = _numbers(option, words)
    if "" in found and len(words) > 1:
        raise ValueError(f"{option}: give one number, or one for each statistic (w_gg=R).")
    return found.get("", found)

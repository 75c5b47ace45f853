"""``iaemu``: what one measures of one's own galaxies, and mock galaxies to try it on."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from iaemu.measurement import SUFFIX
from iaemu.parameters import PARAMETERS, Support, SupportError
from iaemu.prediction import STATISTICS

#: Occupation of TNG300-1 galaxies above 10^10.5 Msun (arXiv:2504.05235, table 2).
_SAMPLE_1 = {"logMmin": 12.54, "sigma_logM": 0.26, "logM0": 12.68, "logM1": 13.48, "alpha": 1.0}


def main(argv=None) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(
        prog="iaemu", description="Measure alignment correlations of galaxies, for the likelihood IACorrelations."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_measure(commands)
    _add_mock(commands)
    arguments = parser.parse_args(argv)
    try:
        if not arguments.output.parent.is_dir():
            raise ValueError(f"The folder {arguments.output.parent} does not exist; make it first.")
        return arguments.run(arguments)
    except ImportError as error:
        needs = "" if "pip install" in str(error) else " It takes: pip install 'iaemu-cobaya[training]'"
        print(f"iaemu {arguments.command}: {error}.{needs}", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"iaemu {arguments.command}: {error}", file=sys.stderr)
    return 1


def _add_measure(commands) -> None:
    parser = commands.add_parser(
        "measure",
        help="measure xi, omega and eta of a galaxy catalogue, with jackknife covariances",
        description="Measure xi(r), omega(r) and eta(r) of galaxies in a periodic box, with covariances from a spatial "
        "jackknife, and write them in the format of the likelihood iaemu_cobaya.IACorrelations, with a picture beside.",
    )
    parser.add_argument("catalogue", type=Path, help="galaxies: .hdf5, .npz, .npy, .csv, .ecsv, .fits or .txt")
    parser.add_argument("--output", "-o", type=Path, required=True, help="file to write (.txt); covariances beside it")
    parser.add_argument("--Lbox", type=float, default=None, help="side of the box [Mpc/h] (default: the file's Lbox)")
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
    parser.add_argument("--redshift", type=float, default=None, help="for the header (default: the file's)")
    parser.add_argument("--description", default=None, help="for the header")
    parser.add_argument("--no-plot", action="store_true", help="no picture beside the output")
    parser.set_defaults(run=_measure)


def _measure(arguments) -> int:
    from iaemu.files import sha256_of_file
    from iaemu_training.measuring.estimators import MeasureWarning, draw, measure, parse_bins, table
    from iaemu_training.measuring.galaxy_files import read_galaxies

    if arguments.output.suffix != SUFFIX:
        raise ValueError(f"{arguments.output}: measurements are text; name the file {SUFFIX}.")
    _refuse_overwriting(arguments.catalogue, arguments.output)
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
    print(table(measurement))
    measurement.write(arguments.output)
    written = [arguments.output]
    if not arguments.no_plot:
        written.append(arguments.output.with_suffix(".png"))
        draw(measurement, written[-1])
    print(
        f"{measurement.metadata['n_galaxies']} galaxies in ({Lbox:g} Mpc/h)^3, {arguments.regions**3} regions; "
        f"written: {', '.join(map(str, written))}"
    )
    return 0


def _refuse_overwriting(catalogue, output: Path) -> None:
    """An output that is the input would destroy it."""
    if output.exists() and Path(catalogue).exists() and output.samefile(catalogue):
        raise ValueError(f"The output {output} is the catalogue itself; give it another name.")


def _add_mock(commands) -> None:
    parser = commands.add_parser(
        "mock",
        help="make a mock galaxy catalogue of known parameters",
        description="Populate a halo catalogue with halotools-IA and write the galaxies (HDF5): positions, major axes, "
        "is_central, host. Occupation parameters are by default those of TNG300 sample 1.",
    )
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
        parser.add_argument(f"--{name}", type=float, default=default, required=default is None, help=text)
    parser.add_argument("--seed", type=int, default=1, help="same seed, same mock (default: 1)")
    parser.set_defaults(run=_mock)


def _mock(arguments) -> int:
    from iaemu_training.halos.catalogue import HaloCatalogue
    from iaemu_training.measuring.galaxy_files import write_galaxies
    from iaemu_training.mocks.halotools import HalotoolsMocks

    if arguments.output.suffix.lower() not in (".hdf5", ".h5"):
        raise ValueError(f"{arguments.output}: mocks are written as HDF5; name the file .hdf5.")
    _refuse_overwriting(arguments.catalogue, arguments.output)
    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative, got {arguments.seed}.")
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
    attributes = {"description": "halotools-IA mock", "catalogue": catalogue.name, "catalogue_sha256": catalogue.sha256}
    if "redshift" in catalogue.attributes:
        attributes["redshift"] = float(catalogue.attributes["redshift"])
    write_galaxies(
        arguments.output,
        galaxies.positions,
        galaxies.axes,
        model.Lbox,
        {"is_central": galaxies.is_central, "halo_hostid": galaxies.host},
        {**attributes, **theta, "seed": arguments.seed},
    )
    n = len(galaxies.positions)
    print(f"{n} galaxies, {(~galaxies.is_central).mean():.1%} of them satellites, written to {arguments.output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

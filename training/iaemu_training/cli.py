"""``iaemu-train``: catalogues in, tables and trained networks out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv=None) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(
        prog="iaemu-train", description="From halo catalogues to tables of pair sums and trained emulators."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_tabulate(commands)
    _add_fit(commands)
    _add_pack(commands)
    arguments = parser.parse_args(argv)
    try:
        if not arguments.output.parent.is_dir():
            raise ValueError(f"The folder {arguments.output.parent} does not exist; make it first.")
        return arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"iaemu-train {arguments.command}: {error}", file=sys.stderr)
        return 1


def _add_tabulate(commands) -> None:
    parser = commands.add_parser(
        "tabulate",
        help="tabulate expected pair sums of halo catalogues",
        description="Tabulate expected pair sums of one or more halo catalogues over (mass bin, rank bin) species. "
        "Pair sums of several boxes are added. About 2 minutes a box of 160 Mpc/h on 2 cores.",
    )
    parser.add_argument("output", type=Path, help="tables to write (.safetensors)")
    parser.add_argument(
        "--catalogue",
        "-c",
        action="append",
        required=True,
        help="HDF5 file in halotools columns, a shipped catalogue (pm160a, pm160b, pm40), or a name in halotools' "
        "cache (bolplanck); repeat for several boxes",
    )
    parser.add_argument("--logMmin", nargs=2, type=float, default=(11.5, 14.0), metavar=("LOW", "HIGH"))
    parser.add_argument(
        "--complete-above",
        type=float,
        default=None,
        metavar="LOG10_MASS",
        help="halo mass [log10 Msun/h] above which the catalogue is complete (default: 40 particle masses, if the "
        "catalogue states its particle_mass; otherwise no limit)",
    )
    parser.add_argument(
        "--logM0-max",
        type=float,
        default=None,
        metavar="LOG10_MASS",
        help="largest logM0 (default: the mass above which the catalogues hold 100 hosts)",
    )
    parser.add_argument("--dlog-mass", type=float, default=None, help="width of the host-mass bins [dex]")
    parser.add_argument("--seed", type=int, default=1, help="of the donors drawn for hosts that lack sub-halos")
    parser.set_defaults(run=_tabulate)


def _tabulate(arguments) -> int:
    import math
    from dataclasses import replace

    import numpy as np

    from iaemu.parameters import Support

    from .catalogue import HaloCatalogue
    from .tabulate import TabulationSettings, tabulate

    catalogues = [HaloCatalogue.load(name) for name in arguments.catalogue]
    complete = arguments.complete_above
    particle_masses = [c.attributes["particle_mass"] for c in catalogues if "particle_mass" in c.attributes]
    if complete is None and particle_masses:
        complete = round(math.log10(40.0 * max(particle_masses)), 4)
    logM0_max = arguments.logM0_max
    if logM0_max is None:
        masses = np.sort(np.concatenate([catalogue.log_mass for catalogue in catalogues]))
        logM0_max = math.floor(100 * masses[-min(100, len(masses))]) / 100
    support = Support(logMmin=tuple(arguments.logMmin), log_mass_complete=complete, logM0_max=logM0_max)
    settings = TabulationSettings(seed=arguments.seed)
    if arguments.dlog_mass is not None:
        settings = replace(
            settings,
            one_halo=replace(settings.one_halo, dlog_mass=arguments.dlog_mass),
            two_halo=replace(settings.two_halo, dlog_mass=arguments.dlog_mass),
        )
    model = tabulate(catalogues, support, settings=settings)
    model.save(arguments.output)
    print(f"Tables of {', '.join(c.name for c in catalogues)} written to {arguments.output}.")
    return 0


def _add_fit(commands) -> None:
    parser = commands.add_parser(
        "fit",
        help="train a FactorisedNet on tables",
        description="Train a FactorisedNet on noise-free labels from tables. Goes on from its checkpoint if killed.",
    )
    parser.add_argument("output", type=Path, help="emulator to write (.safetensors)")
    parser.add_argument("--tables", type=Path, default=None, help="tables (default: the shipped ones)")
    for name, kind in (
        ("n-train", int),
        ("n-validation", int),
        ("width", int),
        ("depth", int),
        ("epochs", int),
        ("batch-size", int),
        ("learning-rate", float),
        ("seed", int),
    ):
        parser.add_argument(f"--{name}", type=kind, default=None)
    parser.set_defaults(run=_fit)


def _fit(arguments) -> int:
    import json
    from dataclasses import fields

    from iaemu.tabulated import TabulatedModel

    from .fit import FitSettings, fit

    given = {field.name: getattr(arguments, field.name) for field in fields(FitSettings)}
    settings = FitSettings(**{name: value for name, value in given.items() if value is not None})
    checkpoint = arguments.output.with_suffix(".checkpoint")
    emulator = fit(TabulatedModel.load(arguments.tables), settings, checkpoint=checkpoint)
    emulator.save(arguments.output)
    checkpoint.unlink(missing_ok=True)
    print(json.dumps(emulator.metadata["held_out"], indent=2))
    print(f"Emulator written to {arguments.output}.")
    return 0


def _add_pack(commands) -> None:
    parser = commands.add_parser(
        "pack",
        help="pack a halo catalogue in 16-bit integers",
        description="Keep only what the mock model uses of a halo catalogue, in about 8 bytes a sub-halo.",
    )
    parser.add_argument("catalogue", help="HDF5 file in halotools columns, or a name in halotools' cache")
    parser.add_argument("output", type=Path, help="packed catalogue to write (.hdf5)")
    parser.set_defaults(run=_pack)


def _pack(arguments) -> int:
    from .catalogue import HaloCatalogue

    catalogue = HaloCatalogue.load(arguments.catalogue)
    catalogue.write_packed(arguments.output)
    print(f"{catalogue.name}: {len(catalogue.mass)} hosts, {len(catalogue.offset)} sub-halos to {arguments.output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Simulate periodic boxes of dark matter, and make a halo catalogue at each redshift.

Initial conditions are of second-order Lagrangian theory, gravity that of a particle mesh. Each step leaves a file: if
it is interrupted, run the same command again, and it goes on bit for bit. Two boxes of 160 Mpc/h with 512^3 particles
take about two hours on 2 cores.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from iaemu_training.commands.options import (
    add_output,
    add_settings,
    add_workers,
    changed_settings,
    number,
    read_options,
    shows_progress,
)
from iaemu_training.commands.printing import note
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.halos.cosmology import Cosmology
from iaemu_training.simulate.box import Simulation
from iaemu_training.simulate.catalogue import HaloSettings
from iaemu_training.simulate.run import at_a_time, boxes, simulate
from iaemu_training.work.cluster import available_cores

#: Run again, it resumes.
RESUMES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    add_output(
        parser, "folder to write: OUT/OUT.hdf5 at z = 0, OUT/OUT-z0.3.hdf5 at others, packed halo catalogues", "OUT"
    )
    add_settings(
        parser, Simulation(), skip=("redshifts", "seed", "sign", "fixed", "cosmology"), particles={"metavar": "N"}
    )
    parser.add_argument(
        "--redshifts",
        type=number(float, at_least=0, at_most=20),
        nargs="+",
        default=[0.0],
        metavar="Z",
        help="redshifts of the catalogues (default: 0)",
    )
    parser.add_argument(
        "--seed",
        type=number(int, at_least=0, at_most=2**32 - 1),
        nargs="+",
        default=[1],
        metavar="SEED",
        help="seed of the phases; several for several boxes (default: 1)",
    )
    parser.add_argument(
        "--paired", action="store_true", help="two boxes of opposite phases, whose mean has little sample variance"
    )
    parser.add_argument(
        "--gaussian",
        action="store_true",
        help="random amplitudes of the initial modes; by default all have that of the power spectrum",
    )
    parser.add_argument(
        "--cosmology",
        nargs="+",
        default=["bolplanck"],
        metavar="COSMOLOGY",
        help="flat LCDM: bolplanck (default), a name of colossus (planck18), a YAML file, or parameters as in "
        "'Om=0.31 h=0.68 sigma8=0.81'; several for several boxes",
    )
    add_settings(parser, HaloSettings())
    parser.add_argument(
        "--keep-particles", action="store_true", help="keep the particles at each redshift, in OUT/BOX/particles_z*.npy"
    )
    add_workers(parser, "boxes at a time, each in a process (default: 1)")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv, folder=True, positional=True)
    simulation = Simulation(
        **{name: getattr(arguments, name) for name in ("box", "particles", "mesh") if hasattr(arguments, name)},
        redshifts=tuple(arguments.redshifts),
        fixed=not arguments.gaussian,
    )
    cosmologies = _by_label(arguments.cosmology)
    found = boxes(arguments.output.resolve().name, simulation, arguments.seed, cosmologies, arguments.paired)
    n_workers = 1 if arguments.workers is None and arguments.dask is None else arguments.workers
    here = at_a_time(len(found), n_workers, arguments.dask)
    if here is not None:
        figures = simulation.check_resources(arguments.output, here)
        minutes = round(len(found) * simulation.seconds(available_cores()) / 60)
        together = f" All boxes together take about {minutes} minutes." if len(found) > here and minutes > 1 else ""
        note(arguments, f"{len(found)} box(es): {figures}{together}")
    written = simulate(
        arguments.output,
        found,
        changed_settings(HaloSettings(), arguments),
        arguments.keep_particles,
        n_workers,
        arguments.dask,
        progress=shows_progress(arguments),
    )
    note(arguments, "\n".join(f"{path}: {HaloCatalogue.load(path, progress=False)}" for path in written))


def _by_label(texts: list[str]) -> dict[str, Cosmology]:
    """Read cosmologies, by what tells them in the names of boxes: their name, that of their file, or parameters."""
    found: dict[str, Cosmology] = {}
    for text in texts:
        cosmology = Cosmology.read(text)
        stated = "=" in text and not Path(text).is_file()
        label = re.sub(r"[\s,]+", "-", re.sub(r"\s*=\s*", "_", text.strip())) if stated else Path(text).stem
        if label in found:
            raise ValueError(f"--cosmology: {text!r} would give boxes the same name as another, {label}; rename it.")
        found[label] = cosmology
    return found

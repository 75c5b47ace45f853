"""Boxes from initial conditions to halo catalogues, one after the other or on a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from iaemu.progress import tqdm
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.halos.cosmology import Cosmology
from iaemu_training.simulate.box import Simulation, SimulationError, simulate_particles
from iaemu_training.simulate.catalogue import HaloSettings, make_catalogue, origin
from iaemu_training.simulate.halos import MassFunction
from iaemu_training.work.cluster import available_cores, workers
from iaemu_training.work.kernels import LIMIT


def boxes(
    name: str, simulation: Simulation, seeds: Sequence[int], cosmologies: Mapping[str, Cosmology], paired: bool
) -> dict[str, Simulation]:
    """Return the simulations of several seeds and cosmologies, by the names of their boxes.

    Parameters
    ----------
    name : str
        What the names begin with.
    simulation : Simulation
        What the boxes have in common.
    seeds : sequence of int
    cosmologies : mapping of str to Cosmology
    paired : bool
        Two boxes for each, of opposite phases.

    Returns
    -------
    dict of str to Simulation
        Of several cosmologies and seeds, the names hold their label and number; those of a pair end in a and b.

    Raises
    ------
    SimulationError
        A seed or a cosmology is given twice.
    """
    if len(set(seeds)) < len(seeds):
        raise SimulationError(f"Each seed gives one box; got {', '.join(map(str, seeds))}.")
    labels: dict[Cosmology, str] = {}
    for label, cosmology in cosmologies.items():
        if cosmology in labels:
            raise SimulationError(f"Each cosmology gives one box; {labels[cosmology]} and {label} are the same.")
        labels[cosmology] = label
    found = {}
    for (label, cosmology), seed, sign in product(cosmologies.items(), seeds, (1, -1) if paired else (1,)):
        parts = [name, *([label] if len(cosmologies) > 1 else []), *([str(seed)] if len(seeds) > 1 else [])]
        ending = {1: "a", -1: "b"}[sign] if paired else ""
        found["-".join(parts) + ending] = replace(simulation, seed=seed, sign=sign, cosmology=cosmology)
    return found


def at_a_time(n_boxes: int, n_workers: int | None, dask: str | None) -> int | None:
    """Return how many boxes run at a time on this machine; None if they run elsewhere.

    Parameters
    ----------
    n_boxes : int
    n_workers, dask
        See :func:`iaemu_training.work.cluster.workers`.

    Returns
    -------
    int or None
    """
    return max(1, min(n_workers or available_cores(), n_boxes)) if dask in (None, "local") else None


def catalogue_file(folder: Path, box: str, redshift: float) -> Path:
    """Return the path of a catalogue: ``BOX.hdf5`` at z = 0, ``BOX-z0.3.hdf5`` at others."""
    return folder / f"{box}{f'-z{redshift:g}' if redshift else ''}.hdf5"


def simulate(
    folder: Path,
    simulations: Mapping[str, Simulation],
    settings: HaloSettings | None = None,
    keep_particles: bool = False,
    n_workers: int | None = 1,
    dask: str | None = None,
    progress: bool = True,
) -> list[Path]:
    """Simulate boxes, and write a halo catalogue at each redshift.

    If interrupted, the same call goes on. A catalogue that is there is kept.

    Parameters
    ----------
    folder : path-like
        Where the catalogues are written; it is made. With workers on several machines, all must see it.
    simulations : mapping of str to Simulation
        By the names of the boxes, see :func:`boxes`.
    settings : HaloSettings, optional
    keep_particles : bool
        Keep the particles, in a folder for each box.
    n_workers, dask
        Boxes that run at a time, and where: see :func:`iaemu_training.work.cluster.workers`.
    progress : bool
        Show a progress bar: of the steps if boxes run one after the other, otherwise of the boxes.

    Returns
    -------
    list of Path
        The catalogues.

    Raises
    ------
    SimulationError
        A catalogue is there that was made with other settings; or memory or disk are too small.
    PartsError, OSError
        See :func:`iaemu_training.simulate.box.simulate_particles`.
    """
    settings = settings or HaloSettings()
    folder = Path(folder)
    missing = [box for box, simulation in simulations.items() if _missing(folder, box, simulation, settings)]
    if missing:
        for simulation in simulations.values():
            for z in simulation.redshifts:
                MassFunction(simulation.cosmology, z, settings.mass_function)  # what it refuses, before any work
        folder.mkdir(exist_ok=True)
        here = at_a_time(len(missing), n_workers, dask)
        alone = dask is None and here == 1
        # Workers on this machine share its cores.
        n_threads = None if alone or here is None else max(1, available_cores() // here)
        run = partial(_run_box, folder, settings, keep_particles, n_threads, progress and alone)
        bar = tqdm(total=len(missing), desc="Boxes", disable=not progress or alone)
        with workers(here or n_workers, dask) as crew, bar:
            # In this process a task runs when it is submitted: an error should end the run at once.
            futures = (crew.executor.submit(run, box, simulations[box]) for box in missing)
            for future in futures if alone else as_completed(list(futures)):
                future.result()
                bar.update()
    return [catalogue_file(folder, box, z) for box, simulation in simulations.items() for z in simulation.redshifts]


def _missing(folder: Path, box: str, simulation: Simulation, settings: HaloSettings) -> list[float]:
    """Return the redshifts whose catalogues are not there; those that are must have been made with these settings."""
    missing = []
    for z in simulation.redshifts:
        path = catalogue_file(folder, box, z)
        if not path.exists():
            missing.append(z)
            continue
        found, wanted = HaloCatalogue.load(path).attributes, origin(simulation, settings, z)
        for key, value in wanted.items():
            if found.get(key) != value:
                raise SimulationError(
                    f"{path} was made with other settings: {key} is {found.get(key)}, now {value}. Choose another "
                    "folder, or move the file away."
                )
    return missing


def _run_box(
    folder: Path,
    settings: HaloSettings,
    keep_particles: bool,
    n_threads: int | None,
    progress: bool,
    box: str,
    simulation: Simulation,
) -> None:
    token = LIMIT.set(n_threads)
    try:
        simulation.check_resources(folder / box)
        simulate_particles(simulation, folder / box, progress)
        for z in _missing(folder, box, simulation, settings):
            catalogue = make_catalogue(simulation, folder / box, z, catalogue_file(folder, box, z).stem, settings)
            catalogue.write_packed(catalogue_file(folder, box, z))
        if not keep_particles:
            shutil.rmtree(folder / box)
    finally:
        LIMIT.reset(token)

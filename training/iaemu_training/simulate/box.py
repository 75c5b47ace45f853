"""A simulated box: its settings, what it takes, and its particles at each redshift, resumable step by step."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from iaemu.files import write_whole
from iaemu.progress import tqdm
from iaemu.ranges import Range, Seed, check_fields
from iaemu_training.halos.checks import CRITICAL_DENSITY
from iaemu_training.halos.cosmology import BOLSHOI_PLANCK, Cosmology, matter_power
from iaemu_training.simulate.initial_conditions import initial_particles
from iaemu_training.simulate.particle_mesh import Mesh, evolve, time_steps
from iaemu_training.work.cluster import available_cores
from iaemu_training.work.memory import available_memory
from iaemu_training.work.parts import PartStore

#: Seconds of one core for a step: for each cell of the mesh, and each particle.
_SECONDS_PER_CELL, _SECONDS_PER_PARTICLE = 3.2e-8, 2e-7


class SimulationError(ValueError):
    """A simulation cannot be run as asked for: settings out of range, or too little memory or disk."""


@dataclass(frozen=True)
class Simulation:
    """Settings of the simulation of one periodic box.

    Attributes
    ----------
    box : float
        Side [comoving Mpc/h].
    particles, mesh : int
        Particles, and cells of the mesh, along a side.
    redshifts : tuple of float
        Outputs, each once, in any order.
    seed : int
        Of the phases of the initial conditions.
    sign : int
        1; or -1 for the other box of a pair.
    fixed : bool
        Give all modes the amplitude of the power spectrum.
    cosmology : Cosmology

    Raises
    ------
    SimulationError
        A setting is out of range.
    """

    box: Annotated[float, Range(at_least=5, at_most=5000)] = 160.0
    particles: Annotated[int, Range(at_least=16, at_most=4096)] = 512
    mesh: Annotated[int, Range(at_least=16, at_most=8192)] = 1024
    redshifts: tuple[float, ...] = (0.0,)
    seed: Seed = 1
    sign: Annotated[int, Range(at_least=-1, at_most=1)] = 1
    fixed: bool = True
    cosmology: Cosmology = BOLSHOI_PLANCK

    def __post_init__(self):
        check_fields(self, SimulationError)
        if not self.sign:
            raise SimulationError("sign must be 1 or -1; got 0.")
        if not self.redshifts:
            raise SimulationError("Give at least one redshift.")
        for z in self.redshifts:
            Range(at_least=0, at_most=20).check("redshift", z, error=SimulationError)
        if len({f"{z:.2f}" for z in self.redshifts}) < len(self.redshifts):
            raise SimulationError(f"redshifts must differ by 0.01 or more; got {', '.join(map(str, self.redshifts))}.")
        if self.particles % 2 or self.mesh % 2 or not self.particles <= self.mesh <= 4 * self.particles:
            raise SimulationError(
                f"particles and mesh must be even, and mesh within 1 to 4 times particles; got {self.particles} and "
                f"{self.mesh}. Twice the particles is a good choice."
            )

    @property
    def particle_mass(self) -> float:
        """Mass of a particle [Msun/h]."""
        return CRITICAL_DENSITY * self.cosmology.Om * (self.box / self.particles) ** 3

    @property
    def memory(self) -> int:
        """Largest memory that the simulation takes [bytes]."""
        n = self.particles**3
        return int(max(24 * n + Mesh.memory(self.mesh), 50 * n) + 0.5e9)

    @property
    def disk(self) -> int:
        """Largest space on disk that the simulation takes, with the particles of all outputs [bytes]."""
        return 24 * self.particles**3 * (2 + len(self.redshifts))

    def seconds(self, cores: int) -> float:
        """Return a rough estimate of the time for the particles [s].

        Parameters
        ----------
        cores : int
        """
        steps = len(time_steps(self.redshifts))
        cost = _SECONDS_PER_CELL * self.mesh**3 + _SECONDS_PER_PARTICLE * self.particles**3
        return 1.3 * steps * cost / cores

    def check_resources(self, folder: Path, boxes: int = 1, memory: int | None = None, disk: int | None = None) -> str:
        """Compare what simulations take with what this machine has.

        Parameters
        ----------
        folder : path-like
            Where they are written; it need not exist.
        boxes : int
            How many run at a time.
        memory, disk : int, optional
            What there is [bytes]; by default what this machine has free.

        Returns
        -------
        str
            A sentence with the figures.

        Raises
        ------
        SimulationError
            Memory or disk are too small.
        """
        folder = Path(folder).absolute()
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        memory = int(available_memory()) if memory is None else memory
        held = sum(file.stat().st_size for file in folder.rglob("*.npy"))
        disk = shutil.disk_usage(there).free + held if disk is None else disk
        cores = available_cores()
        wanted_memory, wanted_disk = boxes * self.memory, boxes * self.disk
        together = f", {boxes} at a time," if boxes > 1 else ""
        figures = (
            f"{self.particles}^3 particles on a mesh of {self.mesh}^3{together} take {wanted_memory / 1e9:.1f} GB of "
            f"memory ({memory / 1e9:.1f} GB are free), up to {wanted_disk / 1e9:.1f} GB of disk ({disk / 1e9:.1f} GB "
            f"are free), and about {max(1, round(boxes * self.seconds(cores) / 60))} minutes on {cores} cores"
        )
        if wanted_memory > memory or wanted_disk > disk:
            short = "memory" if wanted_memory > memory else "disk"
            raise SimulationError(
                f"There is too little {short}: {figures}. Use a smaller mesh or fewer particles, or another machine."
            )
        return figures + "."


def particles_file(folder: Path, redshift: float) -> Path:
    """Return the path of the particles of an output."""
    return folder / f"particles_z{redshift:.2f}.npy"


def simulate_particles(simulation: Simulation, folder: Path, progress: bool = True) -> None:
    """Run a simulation, and write its particles at each redshift.

    Each output is a file ``particles_z0.30.npy``: float32 of shape (2, 3, n), positions [Mpc/h] and a^2 dx/dt in units
    of H0 [Mpc/h]. After each step its state is written. If interrupted, the same call goes on, to the same files bit
    for bit on the same machine.

    Parameters
    ----------
    simulation : Simulation
    folder : path-like
        Folder of this box; it is made.
    progress : bool
        Show a progress bar.

    Raises
    ------
    PartsError
        The folder holds a simulation with other settings, or another process is writing to it.
    OSError
        A file cannot be written; the last state that was written stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs = {1.0 / (1.0 + z): particles_file(folder, z) for z in simulation.redshifts}
    with PartStore(folder, _identity(simulation)):
        if all(path.exists() for path in outputs.values()):
            return
        steps = time_steps(simulation.redshifts)
        state, first = _last_state(simulation, folder)
        with (
            _Writer() as writer,
            tqdm(total=len(steps), initial=first, desc=f"Particles of {folder.name}", disable=not progress) as bar,
        ):

            def reached(step: int) -> None:
                bar.update()
                writer.start(_write_state, folder, step, state)

            def output(a: float) -> None:
                path = next(path for at, path in outputs.items() if np.isclose(at, a))
                write_whole(path, lambda file: np.save(file, state))

            mesh = Mesh(simulation.box, simulation.mesh)
            evolve(
                mesh,
                state[0],
                state[1],
                simulation.cosmology,
                steps,
                list(outputs),
                first,
                on_step=reached,
                before_move=writer.wait,
                on_output=output,
            )
            bar.update()
        for path in folder.glob("state-*.npy"):
            path.unlink()


def _identity(simulation: Simulation) -> dict[str, Any]:
    return {**asdict(simulation), "redshifts": sorted(simulation.redshifts), "format": 1}


def _last_state(simulation: Simulation, folder: Path) -> tuple[np.ndarray, int]:
    """Read the last state, or make the initial conditions; also the step at which it is."""
    found = sorted(folder.glob("state-*.npy"))
    if found:
        return np.load(found[-1]), int(found[-1].stem.partition("-")[2])
    power = matter_power(**asdict(simulation.cosmology), z=0.0, halofit_version="linear", kmax=60.0)
    return np.stack(
        initial_particles(
            power,
            simulation.cosmology,
            simulation.box,
            simulation.particles,
            float(time_steps(simulation.redshifts)[0]),
            simulation.seed,
            simulation.fixed,
            simulation.sign,
        )
    ), 0


def _write_state(folder: Path, step: int, state: np.ndarray) -> None:
    path = folder / f"state-{step:04d}.npy"
    write_whole(path, lambda file: np.save(file, state))
    for earlier in folder.glob("state-*.npy"):
        if earlier != path:
            earlier.unlink()


class _Writer:
    """Writes while the next potential is computed: particles do not change then."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1)
        self._running: Future | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error) -> None:
        self._pool.shutdown()

    def start(self, function, *arguments) -> None:
        self._running = self._pool.submit(function, *arguments)

    def wait(self) -> None:
        if self._running is not None:
            self._running.result()
            self._running = None

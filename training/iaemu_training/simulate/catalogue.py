"""From the particles of a snapshot to a halo catalogue."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from scipy.optimize import brentq

from iaemu._version import __version__
from iaemu.halomodel.alignment import mean_p2
from iaemu.ranges import Range, check_fields
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.halos.checks import virial_overdensity, virial_radius
from iaemu_training.mocks.dimroth_watson import quantile
from iaemu_training.simulate.box import Simulation, particles_file
from iaemu_training.simulate.halos import Hosts, MassFunction, concentration_of, find_hosts, sort_particles
from iaemu_training.simulate.shapes import Shapes, measure_shapes, nfw_radius

#: Hosts of fewer particles are left out, and those of fewer than this many have no satellites.
LEAST_PARTICLES, LEAST_WITH_SATELLITES = 40, 190
#: Satellites of a host: one for so much mass [Msun/h], but between these numbers.
_MASS_OF_A_SATELLITE, _SATELLITES = 1e12 / 6, (2, 300)
#: Added to the seed of the simulation for the draws of satellites and axes.
_SEEDS = 1_000_003


@dataclass(frozen=True)
class HaloSettings:
    """How halos are made of particles.

    Attributes
    ----------
    mass_function : str
        Model of colossus for virial masses.
    apart : float
        A host within this many virial radii of a heavier one is left out.
    axis_p2 : float
        Mean of P2 of the angle by which axes are scattered, after the Dimroth-Watson law; 1 for none.
    stretch : tuple of float
        Factor by which the directions of satellites are stretched along the axis of the host, at its centre and at the
        virial radius.
    concentration : float
        Concentration of the satellites' NFW profile, in units of that of the mass (Ishiyama et al. 2021,
        arXiv:2007.14720).

    Raises
    ------
    ValueError
        A setting is out of range.
    """

    mass_function: str = "tinker08"
    apart: Annotated[float, Range(at_least=0, at_most=5)] = 1.3
    axis_p2: Annotated[float, Range(above=0, at_most=1)] = 0.57
    stretch: tuple[Annotated[float, Range(at_least=1, at_most=10)], Annotated[float, Range(at_least=1, at_most=10)]] = (
        2.3,
        1.6,
    )
    concentration: Annotated[float, Range(at_least=0.1, at_most=2)] = 0.3

    def __post_init__(self):
        check_fields(self)


def make_catalogue(
    simulation: Simulation, folder: Path, redshift: float, name: str, settings: HaloSettings | None = None
) -> HaloCatalogue:
    """Find the halos of an output, and what mocks use of them.

    Parameters
    ----------
    simulation : Simulation
    folder : path-like
        Holds the particles, see :func:`iaemu_training.simulate.box.simulate_particles`.
    redshift : float
        One of the simulation's.
    name : str
        Name of the catalogue.
    settings : HaloSettings, optional

    Returns
    -------
    HaloCatalogue
        Masses are virial by the order of the halos; ``velocity`` is that of the hosts.
    """
    settings = settings or HaloSettings()
    snapshot = np.load(particles_file(folder, redshift), mmap_mode="r")
    # Cells of two of the mesh hold few particles each, and the spheres of light halos reach over few of them.
    particles = sort_particles(snapshot[0], simulation.box, simulation.mesh // 2)
    a = 1.0 / (1.0 + redshift)
    Om = simulation.cosmology.Om
    radius_of = partial(virial_radius, Om0=Om, redshift=redshift)
    mass_function = MassFunction(simulation.cosmology, redshift, settings.mass_function)
    hosts = find_hosts(
        particles, simulation.mesh, virial_overdensity(Om, redshift), radius_of, mass_function, settings.apart
    )
    enough = hosts.mass >= LEAST_PARTICLES * simulation.particle_mass
    hosts = Hosts(*(column[enough][::-1] for column in hosts))
    n_satellites = np.clip(np.ceil(hosts.mass / _MASS_OF_A_SATELLITE), *_SATELLITES).astype(np.int64)
    n_satellites[hosts.mass < LEAST_WITH_SATELLITES * simulation.particle_mass] = 0
    radius = radius_of(hosts.mass)
    # Both boxes of a pair draw the same numbers, as they have the same phases.
    rng = np.random.default_rng([_SEEDS, simulation.seed, round(100 * redshift)])
    shapes = measure_shapes(particles, snapshot[1], hosts.position, radius, n_satellites, rng)
    known = np.any(shapes.axis != 0.0, axis=1, keepdims=True)
    axis = scattered(np.where(known, shapes.axis, _isotropic(rng, len(radius))), settings, rng)
    return HaloCatalogue(
        name=name,
        Lbox=simulation.box,
        position=hosts.position % simulation.box,
        mass=hosts.mass,
        axis=axis,
        n_subhalos=n_satellites,
        offset=satellites(shapes, hosts.mass, radius, axis, n_satellites, settings, simulation, redshift),
        velocity=100.0 / a * shapes.momentum,
        attributes={
            **origin(simulation, settings, redshift),
            "source": "particle mesh of iaemu train simulate: host halos, and tracers at their particles as satellites",
            "versions": ", ".join(
                [f"iaemu-cobaya {__version__}", *(f"{key} {version(key)}" for key in ("camb", "colossus", "numpy"))]
            ),
        },
    )


def origin(simulation: Simulation, settings: HaloSettings, redshift: float) -> dict[str, Any]:
    """Return the attributes of a catalogue that determine it.

    Parameters
    ----------
    simulation : Simulation
    settings : HaloSettings
    redshift : float

    Returns
    -------
    dict of str to text or number
    """
    kept = {key: value for key, value in asdict(simulation).items() if key not in ("cosmology", "redshifts")}
    return {
        "redshift": float(redshift),
        "particle_mass": simulation.particle_mass,
        "min_mass": LEAST_PARTICLES * simulation.particle_mass,
        **simulation.cosmology.attributes(),
        "simulation": json.dumps(kept),
        # The steps of the particle mesh meet all outputs.
        "redshifts": json.dumps(sorted(simulation.redshifts)),
        "halos": json.dumps(asdict(settings)),
    }


def scattered(axis: np.ndarray, settings: HaloSettings, rng: np.random.Generator) -> np.ndarray:
    """Return axes scattered after the Dimroth-Watson law, and of random sign.

    Parameters
    ----------
    axis : (n, 3)
        Unit vectors.
    settings : HaloSettings
    rng : numpy.random.Generator

    Returns
    -------
    (n, 3) float64
    """
    across = np.cross(axis, _isotropic(rng, len(axis)))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    u = rng.random(len(axis))
    sign = np.where(rng.random(len(axis)) < 0.5, -1.0, 1.0)
    if settings.axis_p2 == 1.0:
        return sign[:, None] * axis
    strength = brentq(lambda mu: float(mean_p2(torch.tensor(mu, dtype=torch.float64))) - settings.axis_p2, 0.0, 1.0)
    cosine = quantile(u, -np.tan(np.pi / 2.0 * strength))[:, None]
    return sign[:, None] * (cosine * axis + np.sqrt(1.0 - cosine**2) * across)


def satellites(
    shapes: Shapes,
    mass: np.ndarray,
    radius: np.ndarray,
    axis: np.ndarray,
    n_satellites: np.ndarray,
    settings: HaloSettings,
    simulation: Simulation,
    redshift: float,
) -> np.ndarray:
    """Place satellites: directions of particles, stretched along the axis, at radii of an NFW profile.

    Parameters
    ----------
    shapes : Shapes
    mass, radius : (n,)
        Of the hosts [Msun/h], [Mpc/h].
    axis : (n, 3)
        Of the hosts, scattered.
    n_satellites : (n,) int
    settings : HaloSettings
    simulation : Simulation
    redshift : float

    Returns
    -------
    (n_satellites, 3) float64
        Offsets from the hosts [Mpc/h].
    """
    host = np.repeat(np.arange(len(mass)), n_satellites)
    concentration = settings.concentration * concentration_of(mass, simulation.cosmology, redshift)
    x = nfw_radius(shapes.fraction, concentration[host])
    centre, edge = settings.stretch
    along = (shapes.direction * axis[host]).sum(1)
    direction = shapes.direction + ((centre + (edge - centre) * x - 1.0) * along)[:, None] * axis[host]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return (x * radius[host])[:, None] * direction


def _isotropic(rng: np.random.Generator, n: int) -> np.ndarray:
    vectors = rng.normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

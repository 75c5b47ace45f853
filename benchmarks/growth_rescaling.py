"""Rescaling by growth beside simulations of another sigma8(z), at fixed halo masses or at fixed occupation.

    iaemu train simulate grid --box 80 --particles 128 --mesh 256 \
        --cosmology sigma8=0.8228 sigma8=0.78166 sigma8=0.86394
    python benchmarks/growth_rescaling.py grid/grid-sigma8_0.8228.hdf5 grid/grid-sigma8_0.78166.hdf5 ...

The first file is what is rescaled, the others are what to compare with. They are halo catalogues: then the hosts above
thresholds of mass are galaxies, of which there are many; they may be of other redshifts, since at a fixed mass halos
know of the growth alone. Or they are tables (``iaemu train tabulate``): then galaxies are those of occupations drawn
from the supported region. Boxes should have the same phases, so that part of the sample variance cancels in ratios.
The errors are those of the directions of axes in both boxes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from common import benchmark_parser

from iaemu.halomodel.abundance import LOG_MASS, growth_factor, halos
from iaemu.models import TabulatedModel
from iaemu.models.base import ForwardModel
from iaemu.models.growth import RescaledModel, sigma8_of
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.galaxies import count_pairs, random_pairs

EDGES = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 16.0, 24.0])
#: Bins of the amplitude of (1 + xi) omega on large scales.
FAR = slice(2, 6)


def row(name: str, values) -> None:
    print(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |")


def head(what: str) -> None:
    print(f"\n| {what} | {' | '.join(f'{a:g} to {b:g}' for a, b in pairwise(EDGES))} |\n|{'---|' * len(EDGES)}")


def of_hosts(catalogue: HaloCatalogue, log_mass: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """xi and (1 + xi) omega of hosts above a mass, the error of the latter, sigma8(z), and that times their bias."""
    chosen = catalogue.log_mass > log_mass
    sums = count_pairs(catalogue.position[chosen], catalogue.axis[chosen], catalogue.Lbox, EDGES)
    random = random_pairs(chosen.sum(), catalogue.Lbox, EDGES)
    stated = catalogue.attributes
    own = {name: stated[key] for name, key in (("Om", "Om0"), ("Ob", "Ob"), ("h", "h"), ("ns", "ns"))}
    own |= {"sigma8": stated["sigma8"], "redshift": stated["redshift"]}
    sigma8 = own["sigma8"] * growth_factor(own["Om"], own["redshift"])
    number, biased = halos(own, 1.0)[:, log_mass < LOG_MASS].sum(axis=1)
    error = np.sqrt(4.0 / 45.0 * sums.DD) / random
    return sums.DD / random - 1.0, sums.S_omega / random, error, sigma8, sigma8 * biased / number


def compare_hosts(paths: list[str], thresholds: list[float]) -> None:
    first, *others = map(HaloCatalogue.load, paths)
    for log_mass in thresholds:
        xi, omega, error, sigma8, clustering = of_hosts(first, log_mass)
        head(f"hosts above 10^{log_mass:g}, over those of {first.name}, z = {first.attributes['redshift']:g}")
        for other in others:
            xi_1, omega_1, error_1, sigma8_1, clustering_1 = of_hosts(other, log_mass)
            ratio = clustering_1 / clustering
            name = f"sigma8(z) times {sigma8_1 / sigma8:.3f}"
            row(f"{name}: xi; rescaled on large scales {ratio**2:.3f}", xi_1 / xi)
            row(f"(1 + xi) omega; rescaled {ratio:.3f}", omega_1 / omega)
            row("error", np.hypot(error_1, error * omega_1 / omega) / omega)
            weight = (omega / error**2)[FAR]
            amplitude = weight @ omega_1[FAR] / (weight @ omega[FAR])
            spread = np.sqrt(((weight * np.hypot(error_1, amplitude * error)[FAR]) ** 2).sum()) / (weight @ omega[FAR])
            print(f"| amplitude of (1 + xi) omega from 3 to 16 Mpc/h | {amplitude:.3f} +- {spread:.3f} |")


def of_model(model: ForwardModel, theta: np.ndarray) -> dict[str, np.ndarray]:
    found = model.predict(theta, EDGES, support="warn")
    return {"xi": found.xi, "(1 + xi) omega": (1 + found.xi) * found.omega, "omega": found.omega}


def compare_tables(paths: list[str], n: int) -> None:
    first, *others = map(TabulatedModel.load, paths)
    unit = 0.25 + 0.5 * np.random.default_rng(1).uniform(size=(n, len(first.parameters)))
    theta = first.support.from_unit_cube(unit)
    theta[:, :2] = 0.8, 0.4
    own = of_model(first, theta)
    head(f"over {paths[0]}, mean of {n} occupations")
    for other in others:
        rescaled = RescaledModel(first, sigma8_of(other))
        found, predicted = of_model(other, theta), of_model(rescaled, theta)
        for key in own:
            row(f"sigma8(z) times {rescaled.ratio:.3f}, {key}: simulated", (found[key] / own[key]).mean(axis=0))
            row("rescaled", (predicted[key] / own[key]).mean(axis=0))


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--log-masses", type=float, nargs="+", default=(11.1, 11.5, 12.0))
    parser.add_argument("-n", type=int, default=16, help="occupations, in the middle half of each range")
    options = parser.parse_args(arguments)
    if options.files[0].endswith(".safetensors"):
        compare_tables(options.files, options.n)
    else:
        compare_hosts(options.files, options.log_masses)


if __name__ == "__main__":
    main()

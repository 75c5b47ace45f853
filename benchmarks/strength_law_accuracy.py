"""Deviations of tables and emulator from exact sums, for strengths that depend on host mass and on radius.

    python benchmarks/strength_law_accuracy.py                     # the TNG300 samples, with several slopes
    python benchmarks/strength_law_accuracy.py --random 20         # and random occupations, strengths and slopes
    python benchmarks/strength_law_accuracy.py --box-error         # the error of the prediction, against a jackknife

The exact sums are those of iaemu_training.tables.exact with the factor q of each host and sub-halo. Random points that
borrow satellites are left out. The deviation of a statistic is the rms over the paper's bins below 3.6 Mpc/h (--r-max)
of the difference, divided by the rms of the statistic.
"""

from __future__ import annotations

import numpy as np
import torch
from common import OCCUPATION, benchmark_parser

import iaemu
from iaemu.binning import PAPER_EDGES, TNG_EDGES
from iaemu.halomodel.alignment import mean_p2
from iaemu.halomodel.strengths import central_strengths, satellite_strengths
from iaemu.models.laws import PIVOT, VaryingStrengthModel
from iaemu.parameters import SLOPES
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.tables.box_error import count_directly, direct_deviations
from iaemu_training.tables.exact import exact_sums
from iaemu_training.tables.radial import scaled_radius

#: mu_cen, mu_sat, mu_cen_slope, mu_sat_slope.
STRENGTHS = (
    (0.8, 0.3, 0.0, 0.0),
    (0.8, 0.5, 0.1, 0.5),
    (0.8, 0.9, -0.1, -0.3),
    (0.8, 0.4, 0.0, -0.3),
    (0.8, 0.2, 0.0, -0.7),
    (0.8, 0.2, 0.1, -1.3),
)
COLUMNS = ("mu_cen", "mu_sat", *SLOPES)


def factors_of(strengths):
    """Return the function that maps a catalogue to q of its hosts and of its sub-halos."""
    mu_cen, mu_sat, cen_slope, sat_slope = (torch.tensor([value], dtype=torch.float64) for value in strengths)

    def factors(catalogue: HaloCatalogue):
        log_mass = torch.as_tensor(catalogue.log_mass)
        central = mean_p2(central_strengths(mu_cen, cen_slope, log_mass, PIVOT))[0].numpy()
        x = scaled_radius(catalogue, catalogue.offset, catalogue.subhalo_host)
        satellite = mean_p2(satellite_strengths(mu_sat, sat_slope, torch.as_tensor(np.maximum(x, 1e-9))))
        # Far below the step of <Ncen> a strength may be negative, where there are no centrals.
        return np.maximum(central, 0.0), satellite[0].numpy()

    return factors


def random_points(support, n: int, seed: int):
    """Give random occupations with strengths and slopes."""
    rng = np.random.default_rng(seed)
    while n:
        theta = support.sample(1, rng)[0]
        strengths = [*rng.uniform(0.1, 0.95, 2), rng.uniform(-0.15, 0.3), rng.uniform(-1.5, 1.0)]
        yield f"random, {theta[2]:.2f}", theta[2:], strengths
        n -= 1


def deviation(found: np.ndarray, exact: np.ndarray, used: np.ndarray) -> str:
    rms = np.sqrt(np.mean((found - exact)[used] ** 2) / np.mean(exact[used] ** 2))
    return f"{100 * rms:.2f} %"


def main(argv=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--tables", default="tables-pm160", help="tables (default: the shipped ones)")
    parser.add_argument("--emulator", default=None, help="emulator (default: the shipped one)")
    parser.add_argument("--samples", type=int, nargs="+", choices=(1, 2, 3), default=[1, 2, 3], help="TNG300 samples")
    parser.add_argument("--random", type=int, default=0, help="number of random points (default: 0)")
    parser.add_argument("--r-max", type=float, default=3.6, help="largest separation in Mpc/h (default: 3.6)")
    parser.add_argument("--box-error", action="store_true", help="compare standard errors of omega instead")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random points (default: 1)")
    options = parser.parse_args(argv)
    tables, emulator = (VaryingStrengthModel(iaemu.load(name)) for name in (options.tables, options.emulator))
    catalogues = [HaloCatalogue.load(name) for name in tables.metadata["catalogues"]]
    points = [(f"sample {sample}", OCCUPATION[sample], s) for sample in options.samples for s in STRENGTHS]
    points += random_points(tables.base.support, options.random, options.seed)
    head = ("sigma / exact", "correlation") if options.box_error else ("omega", "eta", "emulator: omega", "eta")
    print("| " + " | ".join(["point", *COLUMNS, *head]) + " |\n" + "|---" * (5 + len(head)) + "|")
    for label, occupation, strengths in points:
        theta = [*strengths[:2], *occupation, *strengths[2:]]
        cells = [label, *(f"{value:.2f}" for value in strengths)]
        if options.box_error:
            boxes = [count_directly(c, occupation, 3, TNG_EDGES, factors_of(strengths)) for c in catalogues]
            direct = direct_deviations(boxes, TNG_EDGES, [c.Lbox for c in catalogues], 3)
            exact, found = direct["A_c"] + direct["A_s"], tables.deviations(theta, TNG_EDGES)["omega"]
            sigmas = [np.linalg.norm(part, axis=0) for part in (found, exact)]
            ratio, same = sigmas[0] / sigmas[1], np.sum(found * exact, axis=0) / (sigmas[0] * sigmas[1])
            cells += [f"{np.median(v):.2f} ({v.min():.2f} to {v.max():.2f})" for v in (ratio, same)]
            print("| " + " | ".join(cells) + " |", flush=True)
            continue
        edges = PAPER_EDGES[PAPER_EDGES < options.r_max]
        try:
            sums = exact_sums(catalogues, occupation, edges, factors=factors_of(strengths)).total
        except ValueError as error:
            print(f"| {label} | left out: {error}")
            continue
        used = sums.DD[0].numpy() > 6.0
        exact = {
            "omega": ((sums.A_c + sums.A_s) / sums.DD)[0].numpy(),
            "eta": ((sums.E_cc + 2.0 * sums.E_cs + sums.E_ss) / sums.DD)[0].numpy(),
        }
        for model in (tables, emulator):
            if model is emulator and strengths[2]:
                cells += ["", ""]
                continue
            found = model.predict(
                [*theta[:7], *(dict(zip(COLUMNS, strengths, strict=True))[s] for s in model.slopes)], edges
            )
            cells += [deviation(getattr(found, name), exact[name], used) for name in exact]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

"""Compare an emulator with the tables at random points of the supported region, on its faces and at its corners.

The error of a statistic at a point is the rms over bins of the difference, divided by the rms over bins of the tables'
prediction. Prints Markdown tables of these errors, also in slices of logMmin, and of the median fractional error in
each bin, and run times.
"""

from __future__ import annotations

import json
import time
import warnings
from itertools import pairwise

import numpy as np
from common import benchmark_parser

from iaemu.binning import PAPER_EDGES, TNG_EDGES
from iaemu.models.factorised import Emulator
from iaemu.models.tables import TabulatedModel
from iaemu.prediction import FewPairsWarning
from iaemu_training.dataset.points import boundary_points
from iaemu_training.evaluation.metrics import bin_median, fractional_error, relative_rms


def main(argv=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--emulator", default=None, help="artifact (default: the shipped one)")
    parser.add_argument("--tables", default=None, help="tables (default: the shipped ones)")
    parser.add_argument("-n", "--n-points", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=987654321)
    parser.add_argument("--json", default=None, help="also write the numbers to this file")
    arguments = parser.parse_args(argv)
    emulator, tables = Emulator.load(arguments.emulator), TabulatedModel.load(arguments.tables)
    warnings.simplefilter("ignore", FewPairsWarning)
    faces, corners = boundary_points(tables.support, max(arguments.n_points // 10, 1), arguments.seed)
    random = tables.support.sample(arguments.n_points, np.random.default_rng(arguments.seed))
    cases = [("inside", random, edges) for edges in (PAPER_EDGES, emulator.nodes, TNG_EDGES)]
    cases += [("faces", faces, PAPER_EDGES), ("corners", corners, PAPER_EDGES)]

    result: dict = {"n_points": arguments.n_points, "seed": arguments.seed}
    for place, theta, edges in cases:
        label = f"{place}: {len(theta)} points, {len(edges) - 1} bins to {edges[-1]:.3f} Mpc/h"
        start = time.perf_counter()
        exact = tables.predict(theta, edges)
        exact_time = time.perf_counter() - start
        start = time.perf_counter()
        guess = emulator.predict(theta, edges)
        guess_time = time.perf_counter() - start
        print(f"\n### {label}\n\n| statistic | median | 95 % | worst | median in slices of logMmin |")
        print("|---|---|---|---|---|")
        result[label] = {"ms_tables": 1e3 * exact_time / len(theta), "ms_emulator": 1e3 * guess_time / len(theta)}
        for name in ("xi", "omega", "eta"):
            truth = getattr(exact, name)
            value = getattr(guess, name)
            error = relative_rms(value, truth)
            known = np.isfinite(error)
            error = np.where(known, error, np.inf)
            slices = np.linspace(*tables.support.logMmin, 6)
            by_mass = [
                float(np.median(error[(theta[:, 2] >= low) & (theta[:, 2] < high)])) for low, high in pairwise(slices)
            ]
            fractional = bin_median(np.abs(fractional_error(value, truth)))
            result[label][name] = {
                "median": float(np.median(error[known])),
                "p95": float(np.percentile(error[known], 95)),
                "worst": float(error[known].max()),
                "by_logMmin": by_mass,
                "median_fractional_error_by_bin": fractional.tolist(),
            }
            print(
                f"| {name} | {result[label][name]['median']:.2%} | {result[label][name]['p95']:.2%} | "
                f"{result[label][name]['worst']:.1%} | " + ", ".join(f"{value:.2%}" for value in by_mass) + " |"
            )
        print(
            f"\nTime for each point in a batch of {len(theta)}: tables {result[label]['ms_tables']:.2f} ms, emulator "
            f"{result[label]['ms_emulator']:.4f} ms, a ratio of {exact_time / guess_time:.0f}."
        )
        for name in ("xi", "omega", "eta"):
            values = ", ".join(f"{v:.2%}" for v in result[label][name]["median_fractional_error_by_bin"])
            print(f"Median fractional error of {name} by bin: {values}.")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()

"""Error of tables that are interpolated between redshifts, at a redshift that is left out.

Each file but the first and the last is left out once; tables at its redshift are interpolated from all others, and from
the two next to it alone, and compared with the file itself at random points of the supported region. Prints
Markdown tables: the error over bins (rms of the difference over rms of the truth; median and 95 % of the points); and
by separation, the median absolute fractional error, beside that of the nearest redshift without interpolation. If
catalogues hold few galaxies, their own noise is part of the error: satellites, and the scatter of axes, are drawn anew
at each redshift. With the box error, the differences are given in units of it too. With an emulator of several
redshifts, its error against the same file is printed as well.
"""

from __future__ import annotations

import json
import warnings

import numpy as np
from common import benchmark_parser

from iaemu import BoxError, Emulator, InterpolatedTables, TabulatedModel
from iaemu.binning import PAPER_EDGES, bin_centers
from iaemu.prediction import FewPairsWarning
from iaemu_training.evaluation.metrics import bin_median, relative_rms

STATISTICS = ("xi", "omega", "eta")


def errors(found, truth) -> dict[str, np.ndarray]:
    """Return the error over bins of each point, by statistic and for the number density."""
    over_bins = {name: relative_rms(getattr(found, name), getattr(truth, name)) for name in STATISTICS}
    return over_bins | {"n_gal": np.abs(found.n_gal / truth.n_gal - 1.0)}


def in_box_errors(model, found, truth, theta, edges) -> dict[str, list[float]]:
    """Return percentiles of the differences in units of the box error of the model, by statistic."""
    deviations = model.deviations(theta, edges, STATISTICS, "warn")
    ratios = {
        name: np.abs(getattr(found, name) - getattr(truth, name)) / np.sqrt((deviations[name] ** 2).sum(axis=-2))
        for name in STATISTICS
    }
    return {name: np.nanpercentile(ratio, [50, 68, 95]).tolist() for name, ratio in ratios.items()}


def row(label: str, found: dict[str, np.ndarray]) -> tuple[str, dict]:
    """Return a row of a table, and its numbers."""
    numbers = {
        name: [float(np.nanpercentile(values[np.isfinite(values)], p)) for p in (50, 95)]
        for name, values in found.items()
    }
    return f"| {label} | " + " | ".join(f"{m:.2%} ({p:.2%})" for m, p in numbers.values()) + " |", numbers


def main(argv=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("tables", nargs="+", help="three or more files of tables of the same boxes")
    parser.add_argument("--emulator", help="emulator of several redshifts")
    parser.add_argument("--box-error", help="box error of the catalogues at one of the redshifts, to compare with")
    parser.add_argument("-n", "--n-points", type=int, default=500)
    parser.add_argument("--seed", type=int, default=20250407)
    parser.add_argument("--json", help="also write the numbers to this file")
    arguments = parser.parse_args(argv)
    if len(arguments.tables) < 3:
        parser.error("give three or more files of tables: one is left out between two others")
    warnings.simplefilter("ignore", FewPairsWarning)
    everything = InterpolatedTables([TabulatedModel.load(path) for path in arguments.tables])
    edges = PAPER_EDGES[PAPER_EDGES <= everything.nodes[-1] * 1.001]
    result: dict = {"n_points": arguments.n_points, "seed": arguments.seed}
    for number in range(1, len(everything.tables) - 1):
        left_out = everything.tables[number]
        others = [one for one in everything.tables if one is not left_out]
        z, known = left_out.redshift, ", ".join(f"{one.redshift:g}" for one in others)
        label = f"z = {z:g}, from {known}"
        between = InterpolatedTables(others).at_redshift(z)
        theta = between.support.sample(arguments.n_points, np.random.default_rng(arguments.seed))
        truth = left_out.predict(theta, edges)
        print(f"\n### {label}: {len(theta)} points\n\n| from | xi | omega | eta | n_gal |\n|---|---|---|---|---|")
        entry = result[label] = {}
        nearest = min(others, key=lambda one, z=z: abs(one.redshift - z))
        rows: dict = {"all others": between}
        rows["the two next to it"] = InterpolatedTables(others[number - 1 : number + 1]).at_redshift(z)
        rows["the nearest alone"] = nearest
        if arguments.emulator:
            rows["the emulator"] = Emulator.load(arguments.emulator).at_redshift(z)
        predictions = {name: model.predict(theta, edges, support="warn") for name, model in rows.items()}
        for name, found in predictions.items():
            text, entry[name] = row(name, errors(found, truth))
            print(text)
        print("\n| r [Mpc/h] | xi | omega | eta | (with the nearest alone) |\n|---|---|---|---|---|")
        if arguments.box_error:
            between.box_error = BoxError.load(arguments.box_error)
            entry["in_box_errors"] = in_box_errors(between, predictions["all others"], truth, theta, edges)
            shares = (f"{name} {one[0]:.2f} {one[1]:.2f} {one[2]:.2f}" for name, one in entry["in_box_errors"].items())
            print(f"\nIn box errors, median, 68th and 95th percentile over points and bins: {', '.join(shares)}")
        kept = predictions["all others"], predictions["the nearest alone"]
        by_bin = [
            {s: bin_median(np.abs(getattr(found, s) / getattr(truth, s) - 1.0)) for s in STATISTICS} for found in kept
        ]
        entry["by_bin"] = {s: by_bin[0][s].tolist() for s in STATISTICS}
        for k, r in enumerate(bin_centers(edges)):
            mine, other = ([f"{one[s][k]:.1%}" for s in STATISTICS] for one in by_bin)
            print(f"| {r:.3g} | {' | '.join(mine)} | {', '.join(other)} |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()

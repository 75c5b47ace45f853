"""Error of tables that are interpolated between redshifts, at a redshift that is left out.

Each file but the first and the last is left out once; tables at its redshift are interpolated from the two nearest on
both sides and compared with the file itself at random points of the common supported region. Prints Markdown tables:
the error over bins (rms of the difference over rms of the truth; median and 95 % of the points), for interpolations
linear in several variables of which the package takes the scale factor; and by separation, the median absolute
fractional error beside what one takes for the nearer of the two redshifts without interpolation. With an emulator of
several redshifts its error against the same file is printed too.
"""

from __future__ import annotations

import argparse
import json
import warnings

import numpy as np
from scipy.integrate import trapezoid

from iaemu import Emulator, InterpolatedTables, TabulatedModel
from iaemu.binning import PAPER_EDGES, bin_centers
from iaemu.prediction import FewPairsWarning
from iaemu_training.evaluation.metrics import bin_median, relative_rms

STATISTICS = ("xi", "omega", "eta")


def growth(z: float, Om: float = 0.30711) -> float:
    """Return the linear growth factor of flat LCDM, not normalised."""
    a = np.geomspace(1e-4, 1.0 / (1.0 + z), 4000)
    hubble = np.sqrt(Om / a**3 + 1.0 - Om)
    return float(hubble[-1] * trapezoid((a * hubble) ** -3, a))


#: What an interpolation may be linear in.
VARIABLES = {
    "a": lambda z: 1.0 / (1.0 + z),
    "z": lambda z: z,
    "ln a": lambda z: np.log(1.0 + z),
    "D": growth,
}


def equivalent(variable, z: float, low: float, high: float) -> float:
    """Return the redshift at which an interpolation in the scale factor has the weights of another at z."""
    x, first, last = (variable(value) for value in (z, low, high))
    weight = (x - first) / (last - first)
    a = (1.0 - weight) / (1.0 + low) + weight / (1.0 + high)
    return 1.0 / a - 1.0


def errors(found, truth) -> dict[str, np.ndarray]:
    """Return the error over bins of each point, by statistic and for the number density."""
    over_bins = {name: relative_rms(getattr(found, name), getattr(truth, name)) for name in STATISTICS}
    return over_bins | {"n_gal": np.abs(found.n_gal / truth.n_gal - 1.0)}


def row(label: str, found: dict[str, np.ndarray]) -> tuple[str, dict]:
    """Return a row of a table, and its numbers."""
    numbers = {
        name: [float(np.nanpercentile(values[np.isfinite(values)], p)) for p in (50, 95)]
        for name, values in found.items()
    }
    return f"| {label} | " + " | ".join(f"{m:.2%} ({p:.2%})" for m, p in numbers.values()) + " |", numbers


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", help="three or more files of tables of the same boxes")
    parser.add_argument("--emulator", help="emulator of several redshifts")
    parser.add_argument("-n", "--n-points", type=int, default=500)
    parser.add_argument("--seed", type=int, default=20250407)
    parser.add_argument("--json", help="also write the numbers to this file")
    arguments = parser.parse_args(argv)
    if len(arguments.tables) < 3:
        parser.error("give three or more files of tables: one is left out between two others")
    warnings.simplefilter("ignore", FewPairsWarning)
    everything = InterpolatedTables([TabulatedModel.load(path) for path in arguments.tables])
    theta = everything.support.sample(arguments.n_points, np.random.default_rng(arguments.seed))
    edges = PAPER_EDGES[PAPER_EDGES <= everything.nodes[-1] * 1.001]
    result: dict = {"n_points": len(theta), "seed": arguments.seed}
    for before, left_out, after in zip(everything.tables, everything.tables[1:], everything.tables[2:], strict=False):
        low, z, high = (one.redshift for one in (before, left_out, after))
        label = f"z = {z:g}, from {low:g} and {high:g}"
        truth, between = left_out.predict(theta, edges), InterpolatedTables([before, after])
        print(f"\n### {label}: {len(theta)} points\n\n| linear in | xi | omega | eta | n_gal |\n|---|---|---|---|---|")
        entry = result[label] = {}
        rows = {name: between.at_redshift(equivalent(of, z, low, high)) for name, of in VARIABLES.items()}
        nearer = before if abs(z - low) <= abs(high - z) else after
        rows[f"nothing: z = {nearer.redshift:g} itself"] = nearer
        if arguments.emulator:
            rows["the emulator"] = Emulator.load(arguments.emulator).at_redshift(z)
        predictions = {name: model.predict(theta, edges, support="warn") for name, model in rows.items()}
        for name, found in predictions.items():
            text, entry[name] = row(name, errors(found, truth))
            print(text)
        print(f"\n| r [Mpc/h] | xi | omega | eta | (with z = {nearer.redshift:g} itself) |\n|---|---|---|---|---|")
        kept = predictions["a"], predictions[f"nothing: z = {nearer.redshift:g} itself"]
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

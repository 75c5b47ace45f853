"""Deviations of tables and emulators from exact sums over all pairs, see iaemu_training.tables.exact.

    python benchmarks/exact_sums.py                                # shipped tables, r < 3.5 Mpc/h, the paper's bins
    python benchmarks/exact_sums.py --tables new.safetensors       # other tables: the sums of before are used again
    python benchmarks/exact_sums.py --binnings 50 --r-max 25       # 50 random binnings of one's own

The points are random ones of the supported region, all corners of the region of the occupation, and random points of
each of its faces, at random alignment strengths. The deviation of a statistic at a point is the rms over bins of the
difference, divided by the rms over bins of the statistic. Bins with fewer than 3 expected pairs, counted once, are left
out. "Noise" is half the deviation between the sums with two seeds of the borrowed satellites, whose mean is used.

Exact sums are kept in --output, so that interrupted runs are resumed, and other tables of the same catalogues and the
same supported region are compared in seconds. With --binnings, sums are made in all the edges together, and predictions
compared in each binning; --nested draws edges among those of the model, for models that need it.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from common import benchmark_parser

import iaemu
from iaemu.binning import PAPER_EDGES, nesting_matrix, union_edges
from iaemu.halomodel.alignment import orientation_statistics
from iaemu.parameters import OCCUPATION_PARAMETERS, Support
from iaemu.statistics import STATISTICS
from iaemu_training.evaluation.metrics import relative_rms
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.weighted import QUANTITIES
from iaemu_training.tables.exact import ExactSettings, exact_sums
from iaemu_training.work.cluster import one_thread, workers
from iaemu_training.work.parts import PartStore, Task

MIN_PAIRS = 3.0
#: Share of borrowed satellites above which points are in a class of their own.
BORROWED = 0.01
#: Share up to which the noise of their draws does not matter.
NOISELESS = 1e-3
#: Binnings of one's own [Mpc/h, dex].
LOWEST, NARROWEST, BINS = 0.1, 0.05, (4, 12)


# ---------------------------------------------------------------------- points and bins


def make_points(support: Support, n: int, n_face: int, corners: bool, seed: int) -> tuple[np.ndarray, list[str]]:
    """Return points (n, 7) and the class of each: random, face or corner."""
    rng = np.random.default_rng(seed)
    theta, kinds = [support.sample(n, rng)], ["random"] * n
    n_occupation = len(OCCUPATION_PARAMETERS)
    for column, end in itertools.product(range(2, 2 + n_occupation), (0.0, 1.0)):
        unit = rng.uniform(size=(n_face, 2 + n_occupation))
        unit[:, column] = end
        theta.append(support.from_unit_cube(unit))
        kinds += ["face"] * n_face
    if corners:
        bits = np.array(list(itertools.product((0.0, 1.0), repeat=n_occupation)))
        unit = np.concatenate([rng.uniform(size=(len(bits), 2)), bits], axis=1)
        theta.append(support.from_unit_cube(unit))
        kinds += ["corner"] * len(bits)
    return np.concatenate(theta), kinds


def random_binning(rng: np.random.Generator, r_max: float, among: np.ndarray | None) -> np.ndarray:
    """Return the edges of 4 to 12 random bins, each 0.05 dex or wider; among those of a model, if given."""
    low, high = np.log10(LOWEST), np.log10(r_max)
    while True:
        n = int(rng.integers(BINS[0], BINS[1] + 1))
        if among is None:
            edges = np.sort(rng.uniform(low, high, n + 1))
        else:
            edges = np.sort(np.log10(rng.choice(among[among <= r_max * 1.001], n + 1, replace=False)))
        if np.diff(edges).min() >= NARROWEST:
            return 10.0**edges


# ---------------------------------------------------------------------- exact sums


@lru_cache(maxsize=1)
def load_catalogues(names: tuple[str, ...]) -> list[HaloCatalogue]:
    return [HaloCatalogue.load(name) for name in names]


def one_point(names, theta, edges, settings: ExactSettings) -> dict[str, np.ndarray]:
    """Return one-halo and two-halo sums (2, 6, n_bins) with two seeds, or one seed if few satellites are borrowed."""
    found = []
    with one_thread():
        for seed in (settings.seed, settings.seed + 1):
            used = ExactSettings(**{**asdict(settings), "seed": seed})
            found.append(exact_sums(load_catalogues(names), theta, edges, used))
            if found[0].borrowed < NOISELESS:
                break
    terms = {
        term: np.array([[getattr(sums, term)[name] for name in QUANTITIES] for sums in found])
        for term in ("one_halo", "two_halo")
    }
    total = found[0].total
    counts = {
        "RR": total.RR[0].numpy(),
        "borrowed": np.array(found[0].borrowed),
        "n_galaxies": total.n_galaxies.numpy(),
    }
    return terms | counts


def all_points(folder: Path, names, hashes, theta, edges, settings, processes) -> list[dict[str, np.ndarray]]:
    identity = {"catalogues": hashes, "theta": theta[:, 2:].tolist(), "edges": edges.tolist(), **asdict(settings)}
    with PartStore(folder, identity) as store, workers(processes) as found:
        tasks = {
            f"point-{number}": Task(one_point, (names, point[2:], edges, settings))
            for number, point in enumerate(theta)
        }
        store.run(tasks, found, "exact sums")
        return [store.read(name) for name in tasks]


def statistics_of(sums: np.ndarray, RR: np.ndarray, theta: np.ndarray) -> dict[str, np.ndarray]:
    """Return xi, omega and eta of sums (6, n_bins) at a point (7,); NaN in bins with too few pairs."""
    named = {name: torch.as_tensor(values)[None] for name, values in zip(QUANTITIES, sums, strict=True)}
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            name: v[0].numpy() / sums[0]
            for name, v in orientation_statistics(torch.as_tensor(theta[None, :2]), named).items()
        }
    values["xi"] = sums[0] / RR - 1.0
    return {name: np.where(sums[0] >= 2.0 * MIN_PAIRS, values[name], np.nan) for name in STATISTICS}


def truths(parts, theta, nesting) -> tuple[list[dict], np.ndarray]:
    """Return the exact statistics of each point in coarser bins, and the noise of borrowed satellites (3, n)."""
    exact, noise = [], []
    for part, point in zip(parts, theta, strict=True):
        sums, RR = (part["one_halo"] + part["two_halo"]) @ nesting.T, nesting @ part["RR"]
        exact.append(statistics_of(sums.mean(axis=0), RR, point))
        first, last = (statistics_of(sums[k], RR, point) for k in (0, -1))
        noise.append([0.5 * relative_rms(first[name], last[name]) for name in STATISTICS])
    return exact, np.array(noise).T


# ---------------------------------------------------------------------- tables of deviations


def percentiles(values: np.ndarray, unit: float = 100.0) -> str:
    values = unit * values[np.isfinite(values)]
    return f"{np.median(values):.3f} | {np.percentile(values, 95):.3f} | {values.max():.3f}"


def predict(model, theta, edges) -> dict[str, np.ndarray]:
    prediction = model.predict(theta, edges, support="warn")
    return {name: np.asarray(getattr(prediction, name)) for name in STATISTICS}


def truth_for(name: str, exact: list[dict], guess: dict[str, np.ndarray]) -> np.ndarray:
    """Return the exact values of a statistic (n, n_bins), NaN where the model predicts none."""
    return np.where(np.isfinite(guess[name]), [values[name] for values in exact], np.nan)


def classes(kinds: np.ndarray, borrowed: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of the classes of points that are not empty."""
    found = {"all random": kinds == "random"}
    for kind in dict.fromkeys(kinds):
        found[f"{kind}, not borrowed"] = (kinds == kind) & (borrowed < BORROWED)
        found[f"{kind}, borrowed"] = (kinds == kind) & (borrowed >= BORROWED)
    return {label: np.flatnonzero(rows) for label, rows in found.items() if rows.any()}


def print_deviations(model, theta, kinds, parts, edges, show: int) -> None:
    """Print the deviations of a model by class of point, by bin at random points, and of the worst points."""
    exact, noise = truths(parts, theta, np.eye(len(edges) - 1))
    guess = predict(model, theta, edges)
    borrowed = np.array([part["borrowed"] for part in parts])
    truth = {name: truth_for(name, exact, guess) for name in STATISTICS}
    moved = {name: relative_rms(guess[name], truth[name]) for name in STATISTICS}
    counted = np.array([np.isfinite(values["xi"]) for values in exact])
    n_missing = np.sum(counted & ~np.isfinite(truth["xi"]))
    print(f"{counted.sum()} bins have enough pairs; the model has no prediction in {n_missing} of them.\n")
    print("| points | statistic | number | median [%] | 95 % | worst | noise, 95 % |")
    print("|---|---|---|---|---|---|---|")
    for label, rows in classes(np.array(kinds), borrowed).items():
        for row, name in enumerate(STATISTICS):
            print(
                f"| {label} | {name} | {len(rows)} | {percentiles(moved[name][rows])} | "
                f"{100 * np.nanpercentile(noise[row, rows], 95):.3f} |"
            )
    print_bins(guess, truth, parts, edges, np.flatnonzero(np.array(kinds) == "random"))
    print(
        "\n| worst in | points | deviation [%] | borrowed [%] | "
        "mu_cen, mu_sat, logMmin, sigma_logM, logM0, logM1, alpha |"
    )
    print("|---|---|---|---|---|")
    for name, kind in itertools.product(STATISTICS, dict.fromkeys(kinds)):
        rows = np.flatnonzero(np.array(kinds) == kind)
        for row in rows[np.argsort(-np.nan_to_num(moved[name][rows]))[:show]]:
            print(
                f"| {name} | {kind} | {100 * moved[name][row]:.2f} | {100 * borrowed[row]:.1f} | "
                f"{', '.join(f'{value:.3f}' for value in theta[row])} |"
            )


def print_bins(guess, truth, parts, edges, rows: np.ndarray) -> None:
    """Print deviations by bin over some points: of 1 + xi to itself, of omega and eta to their rms over bins."""
    share = np.array([(p["one_halo"][0, 0] / (p["one_halo"] + p["two_halo"])[0, 0].clip(1e-300)) for p in parts])
    columns = []
    for name in STATISTICS:
        values = truth[name][rows]
        unit = 1.0 + values if name == "xi" else np.sqrt(np.nanmean(values**2, axis=1, keepdims=True))
        columns.append(100 * np.abs(guess[name][rows] - values) / unit)
    print("\n| r [Mpc/h] | one-halo share of DD | 1 + xi: median, 95 % [%] | omega | eta |")
    print("|---|---|---|---|---|")
    for b in range(len(edges) - 1):
        cells = [f"{np.nanmedian(c[:, b]):.3f}, {np.nanpercentile(c[:, b], 95):.3f}" for c in columns]
        print(f"| {edges[b]:.3g} to {edges[b + 1]:.3g} | {np.median(share[rows, b]):.2f} | {' | '.join(cells)} |")


def print_binnings(model, theta, parts, fine, binnings) -> None:
    """Print deviations over all points and binnings, in per cent and in box errors."""
    per_cent, in_errors = ({name: [] for name in STATISTICS} for _ in range(2))
    worst = {}
    n_box = 0 if model.box_error is None else model.box_error.n_regions
    for edges in binnings:
        exact, _ = truths(parts, theta, nesting_matrix(fine, edges))
        guess = predict(model, theta, edges)
        deviations = model.deviations(theta, edges, support="warn") if n_box else {}
        for name in STATISTICS:
            truth = truth_for(name, exact, guess)
            moved = relative_rms(guess[name], truth)
            per_cent[name].append(moved)
            row = np.nanargmax(moved)
            worst[name] = max(
                worst.get(name, (0.0,)), (moved[row], theta[row, 2:].round(3).tolist(), edges.round(4).tolist())
            )
            if n_box:
                sigma = np.sqrt(np.sum(deviations[name][:, -n_box:] ** 2, axis=1))
                in_errors[name].append(np.abs(guess[name] - truth) / sigma)
    print("| statistic | median [%] | 95 % | worst | in box errors, each bin: median | 95 % | worst |")
    print("|---|---|---|---|---|---|---|")
    for name in STATISTICS:
        errors = percentiles(np.concatenate([e.ravel() for e in in_errors[name]]), 1.0) if n_box else "- | - | -"
        print(f"| {name} | {percentiles(np.concatenate(per_cent[name]))} | {errors} |")
    for name, found in worst.items():
        print(f"worst {name}: {100 * found[0]:.3f} % at {found[1]} in the edges {found[2]}")


def main(argv=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--tables", nargs="+", default=["tables-pm160"], help="tables or emulators, by path or name")
    parser.add_argument("-n", "--n-points", type=int, default=200, help="random points (default: 200)")
    parser.add_argument("--faces", type=int, default=4, help="points on each of the ten faces (default: 4)")
    parser.add_argument("--no-corners", action="store_true", help="leave out the 32 corners")
    parser.add_argument("--r-max", type=float, default=3.5, help="largest separation [Mpc/h] (default: 3.5)")
    parser.add_argument("--binnings", type=int, default=0, help="number of random binnings (default: the paper's bins)")
    parser.add_argument("--nested", action="store_true", help="random edges are among those of the first model")
    parser.add_argument("--seed", type=int, default=15, help="seed of points and binnings (default: 15)")
    parser.add_argument("--draws", type=int, default=ExactSettings.draws, help="borrowed satellites drawn in a box")
    parser.add_argument(
        "--show", type=int, default=1, help="number of worst points to print of each class (default: 1)"
    )
    parser.add_argument("-j", "--processes", type=int, default=1, help="worker processes (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("exact_sums"), help="folder of the exact sums")
    options = parser.parse_args(argv)
    models = [iaemu.load(path) for path in options.tables]
    support, metadata = models[0].support, models[0].metadata
    for path, model in zip(options.tables, models, strict=True):
        if model.metadata["catalogue_sha256"] != metadata["catalogue_sha256"]:
            parser.error(f"{path} and {options.tables[0]} are of different halo catalogues; compare them in two runs.")
    theta, kinds = make_points(support, options.n_points, options.faces, not options.no_corners, options.seed)
    edges, binnings = PAPER_EDGES[options.r_max >= PAPER_EDGES], []
    if options.binnings:
        rng = np.random.default_rng([options.seed, 1])
        among = models[0].r_edges if options.nested else None
        binnings = [random_binning(rng, options.r_max, among) for _ in range(options.binnings)]
        edges = union_edges(*binnings)
    sums = (tuple(metadata["catalogues"]), metadata["catalogue_sha256"], theta, edges)
    parts = all_points(options.output, *sums, ExactSettings(draws=options.draws), options.processes)
    for path, model in zip(options.tables, models, strict=True):
        print(f"\n{path}: {len(theta)} points, {edges[0]:.4g} to {edges[-1]:.4g} Mpc/h\n")
        if binnings:
            print_binnings(model, theta, parts, edges, binnings)
        else:
            print_deviations(model, theta, kinds, parts, edges, options.show)


if __name__ == "__main__":
    main()

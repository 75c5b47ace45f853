"""Test whether the tables are the expectation of halotools-IA mocks, and compare their run times.

At each parameter point mocks are made in all boxes of the tables. The i-th mocks of all boxes are one realisation. If a
prediction P is the ratio of expectations E[S] / E[D] (S = DD, D = RR for 1 + xi; S = S_omega or S_eta, D = DD for omega
and eta), the mean of z = S - P D is zero in every bin. (The mean of the ratios S / D of single mocks would be biased.)
The script tests this mean in all bins together:

- Hotelling's T^2 of the mean of z, with the covariance of z between bins from the mocks. Its p-value is from the F
  distribution with (n_bins, n_mocks - n_bins) degrees of freedom, which accounts for the noise of the covariance. It
  needs more mocks than bins; 40 to 60 are a good choice.
- A randomisation test of sum t^2 over bins, with random signs of whole realisations. It is valid for any number of
  mocks, but less sensitive.

Bins with too few pairs (see --min-pairs) are left out of the tests, and counted. The points are the three TNG300
samples, a point with many borrowed satellites, and corners of the supported region. If possible, at least two corners
have more than 20 % of borrowed satellites.

Mocks are kept for each point in --output, so that interrupted runs can be resumed. Example:

    python benchmarks/tabulated_vs_halotools.py --n-mocks 48 --processes 2

With --mu-cen-slope and --mu-sat-slope, strengths depend on the mass of the host and on the radius of a satellite
(iaemu.models.laws). In the mocks each galaxy has its own strength, from halotools' components for these laws. The
prediction for slopes of 0 is tested too, as "omega, slopes 0": it should fail. Example:

    python benchmarks/tabulated_vs_halotools.py --points tng1 --mu-cen 0.6 --mu-sat 0.4 \
        --mu-cen-slope 0.1 --mu-sat-slope -0.7 --n-mocks 200
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import platform
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from common import OCCUPATION, benchmark_parser
from scipy import special, stats
from tqdm import tqdm

from iaemu.binning import PAPER_EDGES, TNG_EDGES, nesting_matrix, union_edges
from iaemu.models.laws import PIVOT, VaryingStrengthModel
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import ALIGNMENT_PARAMETERS, OCCUPATION_PARAMETERS, PARAMETERS, SLOPES
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.mocks.halotools import HalotoolsMocks
from iaemu_training.pairs.galaxies import count_pairs, random_pairs
from iaemu_training.work.kernels import LIMIT

BINNINGS = {"paper": PAPER_EDGES, "TNG": TNG_EDGES}
FINE_EDGES = union_edges(PAPER_EDGES, TNG_EDGES)

#: Best fits to the TNG300 samples, IAEmu (arXiv:2504.05235), Table 2.
TNG_POINTS = {
    "tng1": (0.80, 0.32, *OCCUPATION[1]),
    "tng2": (0.69, 0.11, *OCCUPATION[2]),
    "tng3": (0.56, 0.00, *OCCUPATION[3]),
}
#: Half of the galaxies are satellites, and a third of these are borrowed.
BORROWING_POINT = {"borrowing": (0.8, 0.5, 11.8, 0.2, 10.184, 12.74, 0.712)}
#: Alignment strengths at the corners, in turn: both signs, both limits, and zero.
CORNER_STRENGTHS = ((0.9, 0.6), (0.6, 1.0), (-0.8, 0.7), (1.0, -0.6), (0.8, 0.0), (-0.6, -1.0))
BORROWED_SHARE = 0.2
SAVE_EVERY = 20.0  # seconds

SUMS = ("DD", "S_omega", "S_eta", "RR")
#: A test that should fail: it shows what the number of mocks can tell apart.
WITHOUT_SLOPES = "omega, slopes 0"


# ---------------------------------------------------------------------- points


def expected_borrowed_share(catalogues, theta) -> tuple[float, float]:
    """Return the expected share of borrowed satellites, and the expected number of galaxies in all boxes."""
    _, _, logMmin, sigma_logM, logM0, logM1, alpha = theta
    borrowed = satellites = centrals = 0.0
    for catalogue in catalogues:
        nsat = (np.clip(catalogue.mass - 10.0**logM0, 0.0, None) / 10.0**logM1) ** alpha
        n = catalogue.n_subhalos
        # E[(N - n)+] = lam P(N >= n) - n P(N >= n + 1), N ~ Poisson(lam)
        borrowed += np.sum(nsat * stats.poisson.sf(n - 1, nsat) - n * stats.poisson.sf(n, nsat))
        satellites += nsat.sum()
        centrals += np.sum(0.5 + 0.5 * special.erf((catalogue.log_mass - logMmin) / sigma_logM))
    return borrowed / max(satellites, 1e-300), centrals + satellites


def corner_points(model, catalogues, n: int, max_pairs: float) -> dict[str, tuple[float, ...]]:
    """Choose corners of the supported region of the occupation, two of them with many borrowed satellites.

    The first corner has the largest borrowed share. The second, among those above ``BORROWED_SHARE``, differs from it
    in most parameters (if several do, it has the largest borrowed share). Each of the others differs from all before in
    most parameters (if several do, it has most galaxies). Corners with more than ``max_pairs`` ordered pairs in a box
    are left out: at the lowest masses with most satellites a mock has 2e9.
    """
    bits = np.array(list(itertools.product((0, 1), repeat=len(OCCUPATION_PARAMETERS))))
    unit = np.concatenate([np.full((len(bits), 2), 0.5), bits], axis=1)
    theta = model.support.from_unit_cube(unit)
    n_pairs = model.sums(theta).DD.sum(dim=1).numpy() / len(catalogues)
    allowed = model.support.contains(theta).numpy() & (n_pairs <= max_pairs)
    bits, theta = bits[allowed], theta[allowed]
    share, n_gal = np.array([expected_borrowed_share(catalogues, point) for point in theta]).T
    chosen = [int(np.argmax(share))]
    while len(chosen) < min(n, len(bits)):
        apart = np.min([np.abs(bits - bits[i]).sum(axis=1) for i in chosen], axis=0).astype(float)
        if len(chosen) == 1 and np.sum(share > BORROWED_SHARE) > 1:
            rank = np.where(share > BORROWED_SHARE, apart + share / 2.0, -1.0)
        else:
            rank = apart + n_gal / n_gal.max() / 2.0
        rank[chosen] = -2.0
        chosen.append(int(np.argmax(rank)))
    points = {}
    for number, (i, strengths) in enumerate(zip(chosen, itertools.cycle(CORNER_STRENGTHS), strict=False)):
        points[f"corner{number + 1}"] = (*strengths, *(float(value) for value in theta[i, 2:]))
    return points


# ---------------------------------------------------------------------- mocks

_worker: list[HalotoolsMocks] = []


def _start_worker(names, single_thread: bool, slopes, pivot: float) -> None:
    if single_thread:
        LIMIT.set(1)
    _worker[:] = [HalotoolsMocks(HaloCatalogue.load(name), FINE_EDGES, slopes, pivot) for name in names]


def _one_mock(task):
    """Make a mock of one box; return sums (4, n_bins), numbers of galaxies (3,) and seconds (2,)."""
    theta, box, seed = task
    mocks = _worker[box]
    start = time.perf_counter()
    galaxies = mocks.populate(theta, seed)
    populated = time.perf_counter()
    sums = count_pairs(galaxies.positions, galaxies.axes, mocks.Lbox, FINE_EDGES)
    counted = time.perf_counter()
    n_gal = len(galaxies.positions)
    counts = (n_gal, int(np.sum(~galaxies.is_central)), int(galaxies.is_borrowed.sum()))
    return (
        np.stack([*sums, random_pairs(n_gal, mocks.Lbox, FINE_EDGES)]),
        counts,
        (populated - start, counted - populated),
    )


class MockStore:
    """Mocks of one point on disk: the first ones of the sequence given by (seed, point, box, number)."""

    def __init__(self, folder: Path, name: str, theta, seed: int, catalogues, pivot: float | None = None):
        self.theta, self.n_boxes = tuple(theta), len(catalogues)
        self.entropy, self.key = seed, zlib.crc32(name.encode())
        identity = json.dumps(
            [
                name,
                list(theta),
                seed,
                FINE_EDGES.tolist(),
                [catalogue.sha256 for catalogue in catalogues],
                version("halotools"),
                *([] if pivot is None else [pivot]),
            ]
        )
        self.path = folder / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.npz"
        n_bins = len(FINE_EDGES) - 1
        self.sums, self.counts, self.seconds = (
            np.zeros((0, self.n_boxes, *shape)) for shape in ((len(SUMS), n_bins), (3,), (2,))
        )
        if self.path.exists():
            with np.load(self.path) as file:
                self.sums, self.counts, self.seconds = (file[key] for key in ("sums", "counts", "seconds"))

    def tasks(self, n: int):
        """Give the tasks for the mocks up to n that are missing; all boxes of a realisation follow each other."""
        for number in range(len(self.sums), n):
            for box in range(self.n_boxes):
                seed = np.random.SeedSequence(self.entropy, spawn_key=(self.key, box, number))
                yield self.theta, box, seed

    def fill(self, n: int, mapper, label: str) -> None:
        tasks = list(self.tasks(n))
        pending, saved = [], time.monotonic()
        for result in tqdm(mapper(_one_mock, tasks), total=len(tasks), desc=label, unit="mock", disable=not tasks):
            pending.append(result)
            if time.monotonic() - saved > SAVE_EVERY:
                pending = self._append(pending)
                saved = time.monotonic()
        self._append(pending)

    def _append(self, results):
        """Store complete realisations; return the other mocks."""
        whole = len(results) // self.n_boxes * self.n_boxes
        if whole:
            for key, values in zip(("sums", "counts", "seconds"), zip(*results[:whole], strict=True), strict=True):
                values = np.asarray(values, dtype=np.float64)
                values = values.reshape(-1, self.n_boxes, *values.shape[1:])
                setattr(self, key, np.concatenate([getattr(self, key), values]))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".tmp")
            with open(temporary, "wb") as file:
                np.savez(file, sums=self.sums, counts=self.counts, seconds=self.seconds)
            os.replace(temporary, self.path)
        return results[whole:]


# ---------------------------------------------------------------------- statistics


def mean_zero_test(z: np.ndarray, n_flips: int = 9999, seed: int = 0) -> dict:
    """Test whether the mean of z (n_mocks, n_bins) is zero in all bins together.

    Returns
    -------
    dict
        ``t`` (n_bins,): mean over its standard error; ``chi2``: n zbar^T C^-1 zbar (Hotelling's T^2), and
        ``p_hotelling``, None without more mocks than bins; ``p_flip`` of sum t^2; ``max_t`` and ``p_max``, two-sided
        for the largest |t| of n_bins (Sidak).
    """
    n, n_bins = z.shape
    scale = z.std(axis=0, ddof=1)
    z = z / scale
    t = z.mean(axis=0) * np.sqrt(n)
    chi2 = p_hotelling = None
    if n > n_bins:
        chi2 = float(
            n * z.mean(axis=0) @ np.linalg.solve(np.cov(z, rowvar=False).reshape(n_bins, n_bins), z.mean(axis=0))
        )
        p_hotelling = float(stats.f.sf(chi2 * (n - n_bins) / (n_bins * (n - 1)), n_bins, n - n_bins))
    square = np.mean(z**2, axis=0)

    def sum_t2(mean):
        return np.sum(mean**2 / (square - mean**2), axis=-1)

    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_flips, n))
    exceeding = np.sum(sum_t2(signs @ z / n) >= sum_t2(z.mean(axis=0)) * (1 - 1e-12))
    max_t = float(np.abs(t).max())
    p_one = 2.0 * stats.t.sf(max_t, n - 1)
    return {
        "t": t.tolist(),
        "chi2": chi2,
        "p_hotelling": p_hotelling,
        "p_flip": float((1 + exceeding) / (1 + n_flips)),
        "max_t": max_t,
        "p_max": float(-np.expm1(n_bins * np.log1p(-min(p_one, 1 - 1e-16)))),
    }


def compare(store: MockStore, model, edges, n: int, min_pairs: float) -> dict:
    """Compare mocks with the prediction for all statistics in one set of bins."""
    nesting = nesting_matrix(FINE_EDGES, edges)
    sums = dict(zip(SUMS, np.moveaxis(store.sums[:n].sum(axis=1) @ nesting.T, 1, 0), strict=True))
    prediction = model.predict(np.array(store.theta), r_edges=edges)
    tables = getattr(model, "base", model)
    constant = np.array(store.theta[: len(PARAMETERS)])
    expected_DD = tables.sums(constant[None], r_edges=edges).DD[0].numpy()
    used = sums["DD"].mean(axis=0) >= min_pairs
    ones = np.ones_like(sums["DD"])
    cases = {
        "DD": (sums["DD"], ones, expected_DD),
        "xi": (sums["DD"], sums["RR"], 1.0 + prediction.xi),
        "omega": (sums["S_omega"], sums["DD"], prediction.omega),
        "eta": (sums["S_eta"], sums["DD"], prediction.eta),
    }
    if model is not tables:
        cases[WITHOUT_SLOPES] = (sums["S_omega"], sums["DD"], tables.predict(constant, r_edges=edges).omega)
    result = {
        "n_bins": len(edges) - 1,
        "used": np.flatnonzero(used).tolist(),
        "mean_pairs": sums["DD"].mean(axis=0).tolist(),
        "empty_mocks": np.sum(sums["DD"] == 0, axis=0).tolist(),
        "statistics": {},
    }
    for name, (S, D, predicted) in cases.items():
        entry = {"predicted": predicted.tolist()}
        with np.errstate(invalid="ignore", divide="ignore"):
            measured = S.sum(axis=0) / D.sum(axis=0)
        z = S - predicted * D
        error = z.std(axis=0, ddof=1) / np.sqrt(len(z)) / np.where(D.mean(axis=0) > 0, D.mean(axis=0), np.nan)
        entry |= {"measured": measured.tolist(), "error": error.tolist()}
        if used.any():
            entry |= mean_zero_test(z[:, used])
            # xi is relative to itself; omega and eta cross zero, so they are relative to their rms.
            unit = predicted[used] if name in ("DD", "xi") else np.sqrt(np.mean(predicted[used] ** 2))
            deviation = (measured - predicted)[used] / unit
            entry["rms_deviation"] = float(np.sqrt(np.mean(deviation**2)))
            entry["max_deviation"] = float(np.abs(deviation).max())
            entry["rms_noise"] = float(np.sqrt(np.mean((error[used] / unit) ** 2)))
        result["statistics"][name] = entry
    return result


# ---------------------------------------------------------------------- times


def time_prediction(model, theta, batch: int = 256) -> dict:
    """Return the seconds for one prediction in the paper's bins, and for each point in a batch."""

    def once(points):
        start = time.perf_counter()
        model.predict(points, r_edges=PAPER_EDGES)
        return time.perf_counter() - start

    point = np.array(theta)
    points = np.tile(point, (batch, 1))
    once(point), once(points)
    return {
        "single": float(np.median([once(point) for _ in range(20)])),
        "in_batch": float(np.median([once(points) for _ in range(3)])) / batch,
    }


def time_halotools_counting(theta, catalogue_name: str, seed: int) -> dict:
    """Return the seconds of halotools' estimators for a mock of one box, and the difference of our counts from them."""
    from halotools.mock_observables import ed_3d, ee_3d, tpcf

    mocks = HalotoolsMocks(HaloCatalogue.load(catalogue_name))
    # halotools does not allow separations above a third of the box.
    edges = PAPER_EDGES[PAPER_EDGES < mocks.Lbox / 3.0]
    x, e, *_ = mocks.populate(theta, seed)
    start = time.perf_counter()
    with np.errstate(invalid="ignore", divide="ignore"):
        theirs = (
            tpcf(x, edges, period=mocks.Lbox),
            ed_3d(x, e, x, edges, period=mocks.Lbox),
            ee_3d(x, e, x, e, edges, period=mocks.Lbox),
        )
        seconds = time.perf_counter() - start
        DD, S_omega, S_eta = count_pairs(x, e, mocks.Lbox, edges)
        ours = (DD / random_pairs(len(x), mocks.Lbox, edges) - 1.0, S_omega / DD, S_eta / DD)
    scale = 1.0 + np.nan_to_num(np.abs(theirs))
    return {"seconds": seconds, "largest_difference": float(np.nanmax(np.abs(np.subtract(ours, theirs)) / scale))}


# ---------------------------------------------------------------------- report


def _number(value, form=".3g") -> str:
    return "-" if value is None else format(value, form)


def markdown(report: dict) -> str:
    """Return two tables: the points with their run times, and the tests."""
    lines = [
        "| point | "
        + " | ".join(report["parameters"])
        + " | mocks x boxes | galaxies (predicted) | z | f_sat (predicted) | borrowed "
        "| populate [s] | count [s] | halotools' count [s] | prediction [ms] (in batch) |",
        "|---" * (len(report["parameters"]) + 10) + "|",
    ]
    for name, entry in report["points"].items():
        own = entry.get("halotools_counting", {}).get("seconds")
        seconds = entry["prediction_seconds"]
        lines.append(
            f"| {name} | "
            + " | ".join(f"{value:.4g}" for value in entry["theta"])
            + f" | {entry['n_mocks']} x {report['n_boxes']} | {entry['n_gal']:.1f} ({entry['n_gal_predicted']:.1f}) "
            f"| {entry['n_gal_z']:+.1f} | {entry['f_sat']:.4f} ({entry['f_sat_predicted']:.4f}) "
            f"| {entry['borrowed_share']:.1%} | {entry['populate_seconds']:.3f} | {entry['count_seconds']:.3f} "
            f"| {_number(own)} | {1e3 * seconds['single']:.2f} ({1e3 * seconds['in_batch']:.3f}) |"
        )
    lines += [
        "",
        "| point | bins | used | statistic | T^2 | p (Hotelling) | p (sign flips) | max abs z (p) | rms deviation "
        "(noise) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in report["points"].items():
        for binning, result in entry["binnings"].items():
            for statistic, test in result["statistics"].items():
                if "p_flip" not in test:
                    lines.append(f"| {name} | {binning} | 0 / {result['n_bins']} | {statistic} | - | - | - | - | - |")
                    continue
                lines.append(
                    f"| {name} | {binning} | {len(result['used'])} / {result['n_bins']} | {statistic} "
                    f"| {_number(test['chi2'], '.1f')} | {_number(test['p_hotelling'])} | {test['p_flip']:.3g} "
                    f"| {test['max_t']:.1f} ({test['p_max']:.2g}) "
                    f"| {test['rms_deviation']:.2%} ({test['rms_noise']:.2%}) |"
                )
    summary = report["summary"]
    lines += [
        "",
        f"{summary['n_below_5_percent']} of {summary['n_tests']} tests ({summary['test']}) have p < 0.05 "
        f"(expected: {0.05 * summary['n_tests']:.1f}). The smallest p is {summary['smallest_p']:.2g} "
        f"(times the number of tests: {min(1.0, summary['smallest_p'] * summary['n_tests']):.2g}).",
        "Deviations of DD and 1 + xi are relative to the prediction, those of omega and eta to its rms over bins. "
        f"Bins with fewer than {report['min_pairs']:g} ordered pairs in a realisation on average are not used.",
    ]
    return "\n".join(lines)


def summarise(points: dict) -> dict:
    """Summarise the p-values of xi, omega and eta; tests at the same point are not independent."""
    tests = [
        test
        for entry in points.values()
        for result in entry["binnings"].values()
        for name, test in result["statistics"].items()
        if name not in ("DD", WITHOUT_SLOPES) and "p_flip" in test
    ]
    hotelling = bool(tests) and all(test["p_hotelling"] is not None for test in tests)
    p = np.array([test["p_hotelling" if hotelling else "p_flip"] for test in tests])
    return {
        "test": "Hotelling" if hotelling else "sign flips",
        "n_tests": len(p),
        "n_below_5_percent": int(np.sum(p < 0.05)),
        "smallest_p": float(p.min(initial=1.0)),
    }


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse_arguments(arguments=None) -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--tables", type=Path, help="file of the tables (default: those shipped with iaemu)")
    parser.add_argument("--catalogues", nargs="+", help="names or paths of the boxes (default: those of the tables)")
    parser.add_argument("--points", nargs="+", help="tng1 tng2 tng3 borrowing corner1 ... (default: all)")
    parser.add_argument("--n-corners", type=int, default=6, help="number of corners (default: 6)")
    parser.add_argument("--max-pairs", type=float, default=2e8, help="largest number of pairs of a mock (default: 2e8)")
    for name in ALIGNMENT_PARAMETERS:
        parser.add_argument(option(name), type=float, help=f"{name} of all points (default: its own of each point)")
    for name in SLOPES:
        parser.add_argument(option(name), type=float, default=0.0, help=f"{name} of all points (default: 0)")
    parser.add_argument(
        "--pivot", type=float, default=PIVOT, help=f"log10 of the pivot mass in Msun/h (default: {PIVOT:g})"
    )
    parser.add_argument("--n-mocks", type=int, default=20, help="mocks per box and point (default: 20)")
    parser.add_argument("--min-pairs", type=float, default=20.0, help="least number of ordered pairs in a bin")
    parser.add_argument("--seed", type=int, default=2025, help="seed of the mocks (default: 2025)")
    parser.add_argument("--processes", type=int, default=1, help="worker processes (default: 1, with numba's threads)")
    parser.add_argument("--halotools-counts", action="store_true", help="also time halotools' own pair counts (slow)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("tabulated_vs_halotools"),
        help="folder for the sums of the mocks and results.json (default: ./tabulated_vs_halotools)",
    )
    options = parser.parse_args(arguments)
    if options.n_mocks < 3:
        parser.error("--n-mocks must be at least 3.")
    if options.processes < 1:
        parser.error("--processes must be at least 1.")
    return options


def load_boxes(model, names) -> list[HaloCatalogue]:
    """Load the catalogues; it is an error if they are not those of the tables."""
    catalogues = [HaloCatalogue.load(name) for name in names]
    expected, found = model.metadata.get("catalogue_sha256"), [catalogue.sha256 for catalogue in catalogues]
    if expected is not None and sorted(expected) != sorted(found):
        raise SystemExit(
            f"The tables were made from {', '.join(model.metadata['catalogues'])}, whose hashes differ from those of "
            f"{', '.join(map(str, names))}. Mocks must be made in the same boxes: give them with --catalogues."
        )
    return catalogues


def main(arguments=None) -> dict:
    options = parse_arguments(arguments)
    model = TabulatedModel.load(options.tables)
    names = options.catalogues or model.metadata["catalogues"]
    catalogues = load_boxes(model, names)
    points = TNG_POINTS | BORROWING_POINT | corner_points(model, catalogues, options.n_corners, options.max_pairs)
    given = [getattr(options, name) for name in ALIGNMENT_PARAMETERS]
    for name, (*own, logMmin, sigma_logM, logM0, logM1, alpha) in points.items():
        strengths = (mine if value is None else value for mine, value in zip(own, given, strict=True))
        points[name] = (*strengths, logMmin, sigma_logM, logM0, logM1, alpha)
    slopes, pivot = [getattr(options, name) for name in SLOPES], None
    if any(slopes):
        pivot = options.pivot
        model = VaryingStrengthModel(model, pivot)
        points = {name: (*theta, *slopes) for name, theta in points.items()}
    chosen = options.points or list(points)
    unknown = [name for name in chosen if name not in points]
    if unknown:
        raise SystemExit(f"Unknown point(s) {', '.join(unknown)}; choose from {', '.join(points)}.")
    report = {
        "n_boxes": len(names),
        "catalogues": [catalogue.name for catalogue in catalogues],
        "catalogue_sha256": [catalogue.sha256 for catalogue in catalogues],
        "parameters": list(model.parameters),
        "pivot": pivot,
        "seed": options.seed,
        "min_pairs": options.min_pairs,
        "versions": {name: version(name) for name in ("iaemu-cobaya", "halotools", "numpy", "numba", "torch")},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {options.processes} process(es)",
        "points": {},
    }
    pool, laws = None, (model.parameters[len(PARAMETERS) :], options.pivot)
    if options.processes > 1:
        # Unlike multiprocessing.Pool, an executor reports a worker that fails to start.
        pool = ProcessPoolExecutor(
            options.processes,
            multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(names, True, *laws),
        )
        mapper = pool.map
    else:
        _start_worker(names, False, *laws)
        mapper = map
    try:
        for name in chosen:
            theta = points[name]
            store = MockStore(options.output, name, theta, options.seed, catalogues, pivot)
            store.fill(options.n_mocks, mapper, name)
            report["points"][name] = evaluate(store, model, options, names[0])
            report["summary"] = summarise(report["points"])
            write_json(report, options.output / "results.json")
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    print(markdown(report))
    return report


def evaluate(store: MockStore, model, options, first_box) -> dict:
    """Return all results for one point."""
    n = options.n_mocks
    counts, seconds = store.counts[:n], store.seconds[:n]
    n_gal, n_sat, n_borrowed = np.moveaxis(counts, -1, 0)
    prediction = model.predict(np.array(store.theta), r_edges=PAPER_EDGES)
    per_box = n_gal.mean(axis=1)
    expected = float(prediction.n_gal * model.box_volumes.mean())
    entry = {
        "theta": list(store.theta),
        "n_mocks": n,
        "n_gal": float(per_box.mean()),
        "n_gal_predicted": expected,
        "n_gal_z": float((per_box.mean() - expected) / (per_box.std(ddof=1) / np.sqrt(n))),
        "f_sat": float(n_sat.sum() / n_gal.sum()),
        "f_sat_predicted": float(prediction.f_sat),
        "borrowed_share": float(n_borrowed.sum() / max(n_sat.sum(), 1)),
        "populate_seconds": float(np.median(seconds[..., 0])),
        "count_seconds": float(np.median(seconds[..., 1])),
        "prediction_seconds": time_prediction(model, store.theta),
        "binnings": {
            binning: compare(store, model, edges, n, options.min_pairs) for binning, edges in BINNINGS.items()
        },
    }
    if options.halotools_counts:
        entry["halotools_counting"] = time_halotools_counting(store.theta[: len(PARAMETERS)], first_box, options.seed)
    return entry


def write_json(report: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main(sys.argv[1:])

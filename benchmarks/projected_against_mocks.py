"""Test whether ``model.project`` is the expectation of w_gg and w_g+ of halotools-IA mocks.

Mocks are made in the boxes of the model's catalogues, the i-th mocks of all boxes being one realisation, and seen along
random lines of sight. (Along their three axes alone the boxes' own anisotropy adds up to 5 % beyond r_p = 6 Mpc/h.)
Shapes have the amplitude 1. The statistics of the mocks are ratios of expectations: the sum over mocks of DD or of S+D,
over that of RR. (The mean of the ratios of single mocks would be biased.)

For each bin the table states mocks / prediction - 1 with its standard error, from the scatter of z = S - P D between
mocks, where P is the prediction of E[S] / E[D]. Tests of all bins together: Hotelling's T^2 of the mean of z, with the
F distribution of (n_bins, n_mocks - n_bins) degrees of freedom, and chi^2 without correlations between bins.

Mocks are kept in --output after each, so that interrupted runs can be resumed. Example:

    python benchmarks/projected_against_mocks.py --points tng1 --n-mocks 100 --output mocks.json
"""

from __future__ import annotations

import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import OCCUPATION, benchmark_parser
from scipy import stats
from tqdm import trange

import iaemu
from iaemu.observables.projected import cylinder_weights
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.measuring.projected import shell_edges
from iaemu_training.mocks.halotools import HalotoolsMocks
from iaemu_training.pairs.galaxies import count_pairs, random_pairs
from iaemu_training.pairs.projected import sum_projected

RP_EDGES = np.array([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0])

#: halotools-IA's fits to TNG300 samples 1 and 2 (arXiv:2504.05235, Table 2), and many borrowed satellites.
POINTS = {
    "tng1": (0.8, 0.3, *OCCUPATION[1]),
    "tng2": (0.68, 0.14, *OCCUPATION[2]),
    "borrowing": (0.8, 0.5, 11.8, 0.2, 10.184, 12.74, 0.712),
}


def directions(seed: int, index: int, n: int) -> np.ndarray:
    """Draw random unit vectors (n, 3) for a mock."""
    lines = np.random.default_rng([seed, index]).normal(size=(n, 3))
    return lines / np.linalg.norm(lines, axis=1, keepdims=True)


def measure_mock(boxes, theta, seed, index, n_lines, pi_maxes) -> dict:
    """Return the sums of one realisation, over its boxes, and those of the mean over all lines of sight."""
    sums: dict = {"n_gal": 0, "n_borrowed": 0, "random": {}, "all": {}}
    for number, box in enumerate(boxes):
        galaxies = box.populate(theta, np.random.SeedSequence([seed, index, number]))
        x, e, n_gal = galaxies.positions, galaxies.axes, len(galaxies.positions)
        sums["n_gal"] += n_gal
        sums["n_borrowed"] += int(galaxies.is_borrowed.sum())
        lines = directions(seed, index * len(boxes) + number, n_lines)
        fine = shell_edges(np.append(RP_EDGES, np.hypot(RP_EDGES[-1], max(pi_maxes))))
        DD, S_omega, _ = count_pairs(x, e, box.Lbox, fine)
        RR = random_pairs(n_gal, box.Lbox, fine)
        # RR in each bin of r_p for a unit of depth, so that S / D is w.
        D = n_gal**2 / box.Lbox**3 * np.pi * np.diff(RP_EDGES**2)
        for pi_max in pi_maxes:
            auto = sum_projected(x, e, box.Lbox, RP_EDGES, pi_max, lines)[0][:, 0]
            gg, gplus = cylinder_weights(fine, RP_EDGES[:-1], RP_EDGES[1:], pi_max)
            exact = (gg @ ((DD - RR) / RR) * D, gplus @ (S_omega / RR) * D)
            seen = (auto[0] - 2.0 * pi_max * D, auto[1])
            for kind, values in (("random", (*seen, D)), ("all", (*exact, D))):
                old = sums[kind].get(str(pi_max), np.zeros((3, len(D))))
                sums[kind][str(pi_max)] = (old + np.array(values)).tolist()
    return sums


def load(path: Path, key: dict) -> dict:
    """Return what was kept, or nothing yet."""
    if not path.exists():
        return {"key": key, "mocks": {}}
    kept = json.loads(path.read_text())
    if kept["key"] != key:
        raise SystemExit(f"{path} holds mocks of other options: {kept['key']}. Give another --output.")
    return kept


def keep(kept: dict, path: Path) -> None:
    """Replace the file in one step."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(kept))
    os.replace(temporary, path)


def compare(S: np.ndarray, D: np.ndarray, predicted: np.ndarray) -> dict:
    """Compare sums over pairs (n_mocks, n_bins) with a prediction of E[S] / E[D] (n_bins,)."""
    n, n_bins = S.shape
    z = S - predicted * D
    mean, scale = z.mean(axis=0), D.mean(axis=0)
    error = z.std(axis=0, ddof=1) / np.sqrt(n)
    t2 = float(mean @ np.linalg.solve(np.cov(z.T) / n, mean)) if n > n_bins + 1 else np.nan
    return {
        "mocks": S.mean(axis=0) / scale,
        "prediction": predicted,
        "deviation": mean / scale / predicted,
        "error": error / scale / np.abs(predicted),
        "T2": t2,
        "p": float(stats.f.sf(t2 * (n - n_bins) / (n_bins * (n - 1)), n_bins, n - n_bins))
        if n > n_bins + 1
        else np.nan,
        "p_chi2": float(stats.chi2.sf(((mean / error) ** 2).sum(), n_bins)),
    }


def report(mocks: list, model, theta, pi_max: float, label: str) -> str:
    """Return tables of w_gg and w_g+ in Markdown."""
    lines = []
    prediction = model.project(np.array(theta), RP_EDGES, pi_max)
    bins = " | ".join(f"{low:g} - {high:g}" for low, high in pairwise(RP_EDGES))
    lines += [f"| {label}, Pi_max = {pi_max:g} | {bins} | T^2 | p | p (chi^2) |", "|---" * (len(RP_EDGES) + 3) + "|"]
    for kind, words in (("random", "random lines"), ("all", "all lines")):
        sums = np.array([mock[kind][str(pi_max)] for mock in mocks])
        for row, name in enumerate(("w_gg", "w_gplus")):
            found = compare(sums[:, row], sums[:, 2], np.asarray(getattr(prediction, name), dtype=np.float64))
            cells = " | ".join(
                f"{found['mocks'][b]:.4g} ({100 * found['deviation'][b]:+.2f} +- {100 * found['error'][b]:.2f} %)"
                for b in range(len(RP_EDGES) - 1)
            )
            tests = f"{found['T2']:.1f} | {found['p']:.3g} | {found['p_chi2']:.3g}"
            lines.append(f"| {name}, {words} | {cells} | {tests} |")
    return "\n".join(lines)


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--model", default="tables-pm160", help="shipped name, or file (default: tables-pm160)")
    parser.add_argument(
        "--catalogues", nargs="+", help="names or files of the halo catalogues (default: those of the model)"
    )
    parser.add_argument("--points", nargs="+", choices=tuple(POINTS), default=["tng1"])
    parser.add_argument("--pi-max", type=float, nargs="+", default=[10.0, 30.0], help="[Mpc/h]")
    parser.add_argument("--n-mocks", type=int, default=20, help="realisations at each point")
    parser.add_argument("--lines-of-sight", type=int, default=12, help="random lines of sight for each mock and box")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("projected_mocks.json"), help="file that keeps the mocks")
    parser.add_argument("--only-mocks", action="store_true", help="make mocks, and compare later")
    options = parser.parse_args(arguments)
    model = iaemu.load(options.model)
    names = options.catalogues or model.metadata["catalogues"]
    catalogues = [HaloCatalogue.load(name) for name in names]
    hashes = [catalogue.sha256 for catalogue in catalogues]
    if sorted(hashes) != sorted(model.metadata.get("catalogue_sha256", hashes)):
        raise SystemExit(f"{options.model} was not made from {', '.join(map(str, names))}. Give --catalogues.")
    key = {
        "catalogues": hashlib.sha256(json.dumps(hashes).encode()).hexdigest(),
        "pi_max": options.pi_max,
        "lines_of_sight": options.lines_of_sight,
        "seed": options.seed,
        "rp_edges": RP_EDGES.tolist(),
    }
    kept = load(options.output, key)
    boxes = [HalotoolsMocks(catalogue) for catalogue in catalogues]
    for name in options.points:
        mocks = kept["mocks"].setdefault(name, [])
        for index in trange(len(mocks), options.n_mocks, desc=name):
            mocks.append(measure_mock(boxes, POINTS[name], options.seed, index, options.lines_of_sight, options.pi_max))
            keep(kept, options.output)
        mocks = mocks[: options.n_mocks]
        if not options.only_mocks:
            borrowed = sum(mock["n_borrowed"] for mock in mocks) / sum(mock["n_gal"] for mock in mocks)
            label = f"{name} ({len(mocks)} mocks x {len(boxes)} boxes, {borrowed:.1%} of galaxies borrowed)"
            for pi_max in options.pi_max:
                print(f"\n{report(mocks, model, POINTS[name], pi_max, label)}")


if __name__ == "__main__":
    main()

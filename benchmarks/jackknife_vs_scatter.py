"""Compare the jackknife errors of one catalogue with the scatter between many catalogues.

    python benchmarks/jackknife_vs_scatter.py --figure jackknife.png

There are three kinds of catalogues:

clusters: independent realisations of elongated clusters at random positions, with satellites aligned with the radius
    vector. Regions are independent, except for clusters and pairs across borders, so the jackknife must give the
    scatter.
superclusters: the same clusters in groups about 10 Mpc/h wide. Regions share these groups, which a jackknife does not
    know, so its errors of xi are too small.
mocks: halotools-IA mocks with the occupation of TNG300 sample 1 in a shipped halo catalogue. All mocks have the same
    halos, so their scatter does not include that of the large-scale structure. The jackknife error of xi includes it,
    and must be larger.

Prints (mean jackknife variance / variance of the catalogues)^1/2 by bin. ``--cross-weights`` compares several weights
of pairs across the borders of regions (see iaemu_training.measuring.jackknife).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import OCCUPATION, benchmark_parser
from tqdm import trange

from iaemu.binning import PAPER_EDGES, bin_centers
from iaemu.parameters import PARAMETERS
from iaemu.statistics import STATISTICS
from iaemu_training.measuring.jackknife import covariance, delete_one, matched_cross_weight, statistics
from iaemu_training.pairs.galaxies_by_region import count_pairs_by_region

SAMPLE_1 = dict(zip(PARAMETERS, (0.8, 0.3, *OCCUPATION[1]), strict=True))


def aligned(directions, kappa: float, rng) -> np.ndarray:
    """Draw unit vectors (n, 3) around ``directions`` (n, 3), with density exp(kappa cos^2) of the angle to them."""
    u = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    grid = np.linspace(-1, 1, 20001)
    cumulative = np.cumsum(np.exp(kappa * grid**2))
    cos = np.interp(rng.uniform(cumulative[0], cumulative[-1], len(u)), cumulative, grid)
    across = np.cross(u, rng.normal(size=u.shape))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return cos[:, None] * u + np.sqrt(1 - cos[:, None] ** 2) * across


def galaxies_of_clusters(centre, Lbox: float, rng):
    """Draw positions and axes of 1 + Poisson(2.3) galaxies in each cluster."""
    host_axis = aligned(rng.normal(size=centre.shape), 0.0, rng)
    number = rng.poisson(2.3, len(centre))
    axis = np.repeat(host_axis, number, axis=0)
    offset = rng.normal(scale=0.25, size=axis.shape)
    offset += np.sum(offset * axis, axis=1, keepdims=True) * axis  # twice as long as wide
    positions = np.concatenate([centre, np.repeat(centre, number, axis=0) + offset])
    axes = np.concatenate([aligned(host_axis, 3.0, rng), aligned(offset, 1.0, rng)])
    return np.mod(positions, Lbox), axes, Lbox


def clusters(rng, Lbox: float = 160.0):
    """Draw about 8000 galaxies in clusters at random positions."""
    return galaxies_of_clusters(rng.uniform(0, Lbox, (rng.poisson(2400), 3)), Lbox, rng)


def superclusters(rng, Lbox: float = 160.0):
    """Draw about 8000 galaxies in clusters, which are in Gaussian groups of eight with a width of 4 Mpc/h."""
    centre = rng.uniform(0, Lbox, (rng.poisson(300), 3))
    centre = np.repeat(centre, rng.poisson(8.0, len(centre)), axis=0)
    return galaxies_of_clusters(np.mod(centre + rng.normal(scale=4.0, size=centre.shape), Lbox), Lbox, rng)


def realisations(make, n: int, seed: int):
    """Give ``n`` independent catalogues of a point process."""
    for child in np.random.SeedSequence(seed).spawn(n):
        yield make(np.random.default_rng(child))


def mocks(catalogue: str, n: int, seed: int):
    """Give ``n`` halotools-IA mocks in a shipped halo catalogue."""
    from iaemu_training.halos.catalogue import HaloCatalogue
    from iaemu_training.mocks.halotools import HalotoolsMocks

    model = HalotoolsMocks(HaloCatalogue.load(catalogue))
    for galaxies in model.iterate(SAMPLE_1, n, seed):
        yield galaxies.positions, galaxies.axes, model.Lbox


#: Kinds of catalogues. For mocks there is no function of a generator.
KINDS = {"clusters": clusters, "superclusters": superclusters, "mocks": None}


def compare(catalogues, n: int, n_side: int, cross_weights, label: str) -> dict:
    """Return ratios {weight: {statistic: (n_bins,)}} of jackknife errors to the scatter of ``catalogues``."""
    values = {name: [] for name in STATISTICS}
    variances = {weight: {name: [] for name in STATISTICS} for weight in cross_weights}
    bar = trange(n, desc=label)
    for _, (positions, axes, Lbox) in zip(bar, catalogues, strict=True):
        sums = count_pairs_by_region(positions, axes, Lbox, PAPER_EDGES, n_side)
        for name, value in statistics(sums).items():
            values[name].append(value)
        for weight in cross_weights:
            for name, estimates in delete_one(sums, weight).items():
                variances[weight][name].append(np.diag(covariance(estimates)))
    return {
        weight: {
            name: np.sqrt(np.mean(by_name[name], axis=0) / np.var(values[name], axis=0, ddof=1)) for name in STATISTICS
        }
        for weight, by_name in variances.items()
    }


def table(ratios: dict, n: int) -> str:
    """Return a table in Markdown with a row for each bin; the last two rows are root mean squares."""
    heads = list(ratios)
    rows = [f"| r [Mpc/h] | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for index, r in enumerate(bin_centers(PAPER_EDGES)):
        rows.append(f"| {r:.3g} | " + " | ".join(f"{ratios[head][index]:.2f}" for head in heads) + " |")
    for text, part in (("rms, r < 2", slice(0, 12)), ("rms, r > 2", slice(12, None))):
        rows.append(f"| {text} | " + " | ".join(f"{np.sqrt(np.mean(ratios[h][part] ** 2)):.2f}" for h in heads) + " |")
    return "\n".join(rows) + f"\n\nStandard error of a ratio from {n} catalogues: {1 / np.sqrt(2 * (n - 1)):.2f}."


def draw(panels: dict, path: Path) -> None:
    """Plot the ratios, with a panel for each kind of catalogue."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    labels = {"xi": r"$\xi$", "omega": r"$\omega$", "eta": r"$\eta$"}
    for ax, (title, (ratios, n)) in zip(axes, panels.items(), strict=True):
        noise = 1 / np.sqrt(2 * (n - 1))
        ax.axhspan(1 - noise, 1 + noise, color="0.85", label="noise (68 %)")
        ax.axhline(1, color="0.4", lw=0.8)
        for color, name in zip(("#1f5fa8", "#d1622b", "#2f8f5b"), STATISTICS, strict=True):
            ax.plot(bin_centers(PAPER_EDGES), ratios[name], "o-", ms=4, color=color, label=labels[name])
        ax.set(xscale="log", xlabel=r"$r$ [Mpc/$h$]", title=title)
    axes[0].set_ylabel("jackknife error / scatter")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--kind", choices=tuple(KINDS), nargs="+", default=list(KINDS))
    parser.add_argument("--n", type=int, default=100, help="number of mocks")
    parser.add_argument(
        "--n-points", type=int, default=400, help="number of realisations of clusters and superclusters"
    )
    parser.add_argument(
        "--regions", type=int, nargs="+", default=[5], help="regions along each side; a table for each number"
    )
    parser.add_argument("--cross-weights", action="store_true", help="compare weights of pairs across borders")
    parser.add_argument(
        "--catalogue", choices=("pm160a", "pm160b"), default="pm160a", help="halo catalogue of the mocks"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    panels = {}
    for n_side in options.regions:
        matched = matched_cross_weight(n_side**3)
        weights = (0.5, matched, 1.0) if options.cross_weights else (matched,)
        for kind in options.kind:
            if kind == "mocks":
                n, catalogues = options.n, mocks(options.catalogue, options.n, options.seed)
            else:
                n, catalogues = options.n_points, realisations(KINDS[kind], options.n_points, options.seed)
            title = f"{kind} ({n}), {n_side**3} regions"
            ratios = compare(catalogues, n, n_side, weights, title)
            panels[title] = (ratios[matched], n)
            print(f"\n{title}")
            for weight, by_name in ratios.items():
                print(f"\ncross weight {weight:.3f}{' (matched)' if weight == matched else ''}\n")
                print(table(by_name, n))
    if options.figure:
        draw(panels, options.figure)


if __name__ == "__main__":
    main()

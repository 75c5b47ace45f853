"""Measure how predictions change if tables are made with finer mass bins, finer rank bins, more modes or other donors.

The catalogues of the tables are tabulated again with one setting changed, and predictions are compared at random points
of the supported region, in the paper's 20 bins. The difference of a statistic is its rms over bins, divided by the rms
over bins of the statistic (median, 95 % and worst point). Each variant takes as long as `iaemu-train tabulate`, or a
few times longer. Tables are kept in --cache, under names with a hash of their settings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from iaemu.binning import PAPER_EDGES
from iaemu.models.tables import TabulatedModel
from iaemu_training.evaluation.metrics import relative_rms
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.tables.species import Resolution
from iaemu_training.tables.tabulate import TabulationSettings, tabulate


def variants(base: TabulationSettings) -> dict[str, TabulationSettings]:
    """Return the settings to compare with ``base``, by name."""

    def mass(factor):
        return {
            name: replace(resolution, dlog_mass=resolution.dlog_mass * factor)
            for name, resolution in (("one_halo", base.one_halo), ("two_halo", base.two_halo))
        }

    def ranks(factor):
        return {
            name: replace(
                resolution, rank_root=resolution.rank_root * factor, rank_ratio=resolution.rank_ratio * factor
            )
            for name, resolution in (("one_halo", base.one_halo), ("two_halo", base.two_halo))
        }

    return {
        "mass bins halved": replace(base, **mass(0.5)),
        "mass bins doubled": replace(base, **mass(2.0)),
        "rank bins halved": replace(base, **ranks(0.5)),
        "modes x 1.5": replace(
            base,
            n_central=base.n_central * 3 // 2,
            n_satellite=base.n_satellite * 3 // 2,
            n_rank=base.n_rank * 3 // 2,
            mode_samples=2 * base.mode_samples,
        ),
        "other donors": replace(base, seed=base.seed + 1),
    }


def settings_of(tables: TabulatedModel) -> TabulationSettings:
    """Return the settings with which tables were made."""
    stored = dict(tables.metadata["settings"])
    resolutions = {name: Resolution(**stored.pop(name)) for name in ("one_halo", "two_halo")}
    return TabulationSettings(**stored, **resolutions)


def predictions(model: TabulatedModel, theta: np.ndarray) -> dict[str, np.ndarray]:
    prediction = model.predict(theta, PAPER_EDGES)
    return {name: getattr(prediction, name) for name in ("xi", "omega", "eta")}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=None, help="tables to test (default: the shipped ones)")
    parser.add_argument("--variants", nargs="+", default=None, help="names of the variants (default: all)")
    parser.add_argument("-n", "--n-points", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path("tabulation_convergence"))
    arguments = parser.parse_args(argv)
    tables = TabulatedModel.load(arguments.tables)
    catalogues = [HaloCatalogue.load(name) for name in tables.metadata["catalogues"]]
    theta = tables.support.sample(arguments.n_points, np.random.default_rng(20))
    base = predictions(tables, theta)
    arguments.cache.mkdir(exist_ok=True)
    every = variants(settings_of(tables))
    print("| variant | statistic | median | 95 % | 99 % | worst | worst point (logMmin, sigma, logM0, logM1, alpha) |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.variants or every:
        made_from = json.dumps([tables.metadata["catalogue_sha256"], tables.support.to_dict(), asdict(every[name])])
        key = hashlib.sha256(made_from.encode()).hexdigest()[:12]
        path = arguments.cache / f"{name.replace(' ', '_')}-{key}.safetensors"
        if not path.exists():
            tabulate(catalogues, tables.support, settings=every[name]).save(path)
        other = predictions(TabulatedModel.load(path), theta)
        for statistic, values in base.items():
            moved = relative_rms(other[statistic], values)
            worst = ", ".join(f"{value:.2f}" for value in theta[np.argmax(moved), 2:])
            print(
                f"| {name} | {statistic} | {np.median(moved):.3%} | {np.percentile(moved, 95):.3%} | "
                f"{np.percentile(moved, 99):.3%} | {moved.max():.2%} | {worst} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

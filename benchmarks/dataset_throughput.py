"""Measure how fast training data are made: noise-free labels, and mocks with our and with halotools' pair counts.

    python benchmarks/dataset_throughput.py --workers 2

Labels are those of the paper's points, made by `iaemu_training.dataset.make` with worker processes. Mocks are of one
box, on one core. At the three TNG300 samples halotools' `populate` is followed by its `tpcf`, `ed_3d` and `ee_3d`, and
by our count, in turns, so that a slow phase of the machine affects both. At further points of the supported region only
our count is timed.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import OCCUPATION, benchmark_parser
from halotools.mock_observables import ed_3d, ee_3d, tpcf

from iaemu.binning import PAPER_EDGES
from iaemu.models.tables import TabulatedModel
from iaemu_training.dataset.make import DatasetSettings, make_dataset
from iaemu_training.dataset.points import sobol_points
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.mocks.halotools import HalotoolsMocks
from iaemu_training.pairs.galaxies import count_pairs
from iaemu_training.work.cluster import one_thread

TNG_POINTS = {
    "tng1": [0.79, 0.30, *OCCUPATION[1]],
    "tng2": [0.68, 0.14, *OCCUPATION[2]],
    "tng3": [0.54, 0.05, *OCCUPATION[3]],
}


def time_labels(n: int, n_workers: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_dataset(
            Path(folder) / "labels.hdf5",
            DatasetSettings(n=n, n_mocked=0),
            n_workers=n_workers,
            progress=sys.stderr.isatty(),
        )
        seconds = time.perf_counter() - start
        size = (Path(folder) / "labels.hdf5").stat().st_size
    return {"n": n, "workers": n_workers, "seconds": seconds, "per_second": n / seconds, "file_MB": size / 1e6}


def time_mocks(mocks: HalotoolsMocks, theta, repetitions: int, own: bool) -> dict:
    """Return the median seconds of populating, of our count and of halotools' counts."""
    # halotools does not allow separations above a third of the box.
    edges = PAPER_EDGES[PAPER_EDGES < mocks.Lbox / 3.0]
    times = {"populate": [], "count": [], "halotools_count": []}

    def timed(name, function, *arguments, **keywords):
        start = time.perf_counter()
        result = function(*arguments, **keywords)
        times[name].append(time.perf_counter() - start)
        return result

    for seed in range(repetitions + 1):
        x, e, *_ = timed("populate", mocks.populate, theta, seed)
        timed("count", count_pairs, x, e, mocks.Lbox, edges)
        if own and len(x) > 1:
            with np.errstate(all="ignore"):
                start = time.perf_counter()
                tpcf(x, edges, period=mocks.Lbox)
                ed_3d(x, e, x, edges, period=mocks.Lbox)
                ee_3d(x, e, x, e, edges, period=mocks.Lbox)
                times["halotools_count"].append(time.perf_counter() - start)
    # The first repetition includes compilation.
    return {name: float(np.median(values[1:])) for name, values in times.items() if values} | {"galaxies": len(x)}


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--n-labels", type=int, default=110_526)
    parser.add_argument("--n-points", type=int, default=48, help="further points of the supported region")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--catalogue", default="pm160a")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    report = {}
    with one_thread():
        mocks = HalotoolsMocks(HaloCatalogue.load(options.catalogue))
        report["tng"] = {
            name: time_mocks(mocks, theta, options.repetitions, own=True) for name, theta in TNG_POINTS.items()
        }
        # A fixed sample of points. For some of them halotools' counts would take too long.
        points = sobol_points(TabulatedModel.load().support, max(options.n_points, 1), 11)[: options.n_points]
        report["support"] = [time_mocks(mocks, theta, 1, own=False) for theta in points]
    if options.n_labels:
        report["labels"] = time_labels(options.n_labels, options.workers)
    usage = {
        who: resource.getrusage(getattr(resource, who)).ru_maxrss / 1e6 for who in ("RUSAGE_SELF", "RUSAGE_CHILDREN")
    }
    report["peak_GB"] = usage

    print(
        "| point | galaxies | populate [s] | our count [s] | halotools' counts [s] | mocks/s: ours | halotools alone |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, entry in report["tng"].items():
        ours, theirs = (entry["populate"] + entry[key] for key in ("count", "halotools_count"))
        print(
            f"| {name} | {entry['galaxies']} | {entry['populate']:.3f} | {entry['count']:.3f} "
            f"| {entry['halotools_count']:.2f} | {1 / ours:.2f} | {1 / theirs:.2f} |"
        )
    if report["support"]:
        seconds = np.array([entry["populate"] + entry["count"] for entry in report["support"]])
        print(
            f"{len(seconds)} points of the supported region: {1 / seconds.mean():.2f} mocks/s on one core (mean "
            f"{seconds.mean():.2f} s, "
            f"median {np.median(seconds):.2f} s, longest {seconds.max():.1f} s)"
        )
    if "labels" in report:
        labels = report["labels"]
        print(
            f"{labels['n']} noise-free labels in {labels['seconds']:.0f} s with {labels['workers']} workers: "
            f"{labels['per_second']:.0f} labels/s, including the file ({labels['file_MB']:.0f} MB)"
        )
    print(
        f"peak memory: this process {usage['RUSAGE_SELF']:.2f} GB, the largest worker {usage['RUSAGE_CHILDREN']:.2f} GB"
    )
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

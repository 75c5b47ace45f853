"""Compare the box and epistemic errors of predictions with the errors of the TNG300 data, and with direct counts.

    python benchmarks/box_error.py            # seconds
    python benchmarks/box_error.py --direct   # minutes: counts the pairs of all samples in both boxes

The bins are the 12 of TNG300 to 13.895 Mpc/h, the alignment strengths those of Table 2 of arXiv:2504.05235
(halotools-IA). Box errors are jackknife estimates from 27 regions, which have a relative error of 14 %.
"""

from __future__ import annotations

import numpy as np
import torch
from common import OCCUPATION, benchmark_parser

from iaemu.binning import TNG_EDGES
from iaemu.models.deviations import combine
from iaemu.models.factorised import Emulator
from iaemu.statistics import STATISTICS
from iaemu_cobaya.likelihoods.data_files import Measurement

SAMPLES = {
    1: (0.79, 0.30, *OCCUPATION[1]),
    2: (0.68, 0.14, *OCCUPATION[2]),
    3: (0.54, 0.05, *OCCUPATION[3]),
}

#: Regions along each side in the direct counts; larger regions are sums of these.
FINE = 12


def sigma(deviations) -> np.ndarray:
    return np.sqrt(np.sum(np.asarray(deviations) ** 2, axis=-2))


def print_errors(emulator: Emulator) -> None:
    n_box = emulator.box_error.n_regions
    print("| sample | statistic | box [%] | epistemic [%] | data [%] | box / data | epistemic / data |")
    print("|---|---|---|---|---|---|---|")
    for sample, theta in SAMPLES.items():
        prediction = emulator.predict(np.array(theta), TNG_EDGES)
        deviations = emulator.deviations(np.array(theta), TNG_EDGES)
        measured = Measurement.read(f"tng300/sample{sample}")
        for name in STATISTICS:
            size = np.abs(getattr(prediction, name))
            box, own = sigma(deviations[name][-n_box:]), sigma(deviations[name][:-n_box])
            error = np.asarray(measured.bins[name].error)[: len(size)]
            columns = [100 * np.median(values / size) for values in (box, own, error)]
            print(
                f"| {sample} | {name} | {columns[0]:.2f} | {columns[1]:.2f} | {columns[2]:.2f} | "
                f"{np.median(box / error):.2f} ({np.min(box / error):.2f} to {np.max(box / error):.2f}) | "
                f"{np.median(own / error):.3f} |"
            )


def join(sums: dict, per_side: int) -> dict:
    """Add the sums of FINE^3 regions to those of per_side^3."""
    step = FINE // per_side

    def add(values):
        blocks = values.reshape(per_side, step, per_side, step, per_side, step, *values.shape[1:])
        return blocks.sum(axis=(1, 3, 5)).reshape(per_side**3, *values.shape[1:])

    return {name: add(values) for name, values in sums.items()}


def print_direct(emulator: Emulator) -> None:
    from iaemu_training.halos.catalogue import HaloCatalogue
    from iaemu_training.tables.box_error import count_directly, direct_deviations

    box_error = emulator.box_error
    catalogues = [HaloCatalogue.load(name) for name in box_error.metadata["catalogues"]]
    sizes = [catalogue.Lbox for catalogue in catalogues]
    print(
        "\nSigma of the artifact over that of direct counts with as many regions (median over bins; 5 to 95 %);\n"
        "sigma of direct counts with 8, 64 and 216 regions over that with 27 (median over bins); and half the\n"
        "difference of the boxes over sigma (rms over bins):\n"
    )
    print("| sample | statistic | from the artifact | 8 | 64 | 216 | half difference |")
    print("|---|---|---|---|---|---|---|")
    for sample, theta in SAMPLES.items():
        theta = np.array(theta)
        mu = torch.as_tensor(theta[None, :2])
        boxes = [count_directly(catalogue, theta[2:], FINE, TNG_EDGES) for catalogue in catalogues]

        def statistics(per_side, boxes=boxes, mu=mu):
            joined = [join(box, per_side) for box in boxes]
            found = direct_deviations(joined, TNG_EDGES, sizes, per_side)
            ingredients = {name: torch.as_tensor(value)[None] for name, value in found.items()}
            return {name: sigma(value[0]) for name, value in combine(mu, ingredients, STATISTICS).items()}

        def prediction(box, size, mu=mu):
            total = {name: torch.as_tensor(values.sum(axis=0)) for name, values in box.items()}
            shells = np.diff(4.0 / 3.0 * np.pi * TNG_EDGES**3)
            ratios = {name: (total[name] / total["DD"])[None, None] for name in total if name not in ("DD", "N")}
            ratios["xi"] = (total["DD"] / (total["N"] ** 2 * torch.as_tensor(shells / size**3)) - 1.0)[None, None]
            return {name: value[0, 0].numpy() for name, value in combine(mu, ratios, STATISTICS).items()}

        by_number = {per_side: statistics(per_side) for per_side in (2, 3, 4, 6)}
        same = statistics(box_error.per_side)
        ingredients = box_error.deviations(torch.as_tensor(theta[None, 2:]), TNG_EDGES)
        shipped = {name: sigma(value[0]) for name, value in combine(mu, ingredients, STATISTICS).items()}
        each = [prediction(box, size) for box, size in zip(boxes, sizes, strict=True)]
        for name in STATISTICS:
            ratio = shipped[name] / same[name]
            others = [np.median(by_number[n][name] / by_number[3][name]) for n in (2, 4, 6)]
            half = 0.5 * (each[0][name] - each[1][name]) / by_number[3][name]
            low, high = np.percentile(ratio, [5, 95])
            print(
                f"| {sample} | {name} | {np.median(ratio):.3f} ({low:.3f} to {high:.3f}) | "
                f"{' | '.join(f'{value:.2f}' for value in others)} | {np.sqrt(np.mean(half**2)):.2f} |",
                flush=True,
            )


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--emulator", default=None, help="emulator of two boxes (default: the shipped one)")
    parser.add_argument("--direct", action="store_true", help="also count the pairs of all samples directly")
    options = parser.parse_args(arguments)
    emulator = Emulator.load(options.emulator)
    print_errors(emulator)
    if options.direct:
        print_direct(emulator)


if __name__ == "__main__":
    main()

"""Measure the predictions of xi, omega and eta per second of emulators, with and without gradients.

    python benchmarks/predictions_per_second.py factorised-pm160 iaemunet-pm160
    python benchmarks/predictions_per_second.py --projected --threads 1       # w_gg and w_g+ instead

The paper states 32,768 predictions in 1.02 s on one A100. Gradients are those of the sum of all outputs with respect to
the parameters. Times are medians of several repetitions, in each of which all emulators and batches take turns.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from common import benchmark_parser

from iaemu.models.factorised import Emulator
from iaemu.prediction import FewPairsWarning
from iaemu.statistics import STATISTICS

BATCHES = (1, 64, 4096, 32768)


#: Bins in r_p, and Pi_max [Mpc/h].
RP_EDGES, PI_MAX = np.geomspace(0.1, 20.0, 13), 60.0


def run(emulator: Emulator, theta: torch.Tensor, gradient: bool, projected: bool = False) -> float:
    theta = theta.clone().requires_grad_(gradient)
    if theta.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    if projected:
        found = emulator.project(theta, RP_EDGES, PI_MAX, support="reject")
        outputs = (found.w_gg, found.w_gplus)
    else:
        prediction = emulator.predict(theta)
        outputs = tuple(getattr(prediction, name) for name in STATISTICS)
    if gradient:
        torch.autograd.grad(sum(output.sum() for output in outputs), theta)
    if theta.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("artifacts", nargs="*", default=["factorised-pm160"], help="files or names of shipped ones")
    parser.add_argument("--projected", action="store_true", help="w_gg and w_g+ in place of xi, omega and eta")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="leave out batches that would take longer")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", FewPairsWarning)
    emulators = {name: Emulator.load(name) for name in options.artifacts}
    times: dict = {}
    for name, emulator in emulators.items():
        theta = torch.as_tensor(emulator.support.sample(max(options.batches), np.random.default_rng(1)))
        theta = theta.to(options.device, getattr(torch, options.dtype))
        for gradient in (False, True):
            per_point = run(emulator, theta[:64], gradient, options.projected) / 64  # also a warm-up
            for batch in options.batches:
                if per_point * batch < options.max_seconds:
                    run(emulator, theta[:batch], gradient, options.projected)
                    times[name, batch, gradient] = []
        emulators[name] = (emulator, theta)
    for _ in range(options.repetitions):
        for name, batch, gradient in times:
            emulator, theta = emulators[name]
            times[name, batch, gradient].append(run(emulator, theta[:batch], gradient, options.projected))
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{options.threads} CPU thread(s)"
    print(f"{where}, {options.dtype}, medians of {options.repetitions}\n")
    seconds = {case: float(np.median(values)) for case, values in times.items()}
    heads = [f"{name}, predictions/s | with gradient" for name in emulators]
    print(f"| batch | {' | '.join(heads)} |\n|---{'|---' * 2 * len(heads)}|")
    for batch in options.batches:
        found = [seconds.get((name, batch, gradient)) for name in emulators for gradient in (False, True)]
        cells = ("-" if one is None else f"{float(f'{batch / one:.3g}'):,.0f} ({one:.2g} s)" for one in found)
        print(f"| {batch} | {' | '.join(cells)} |")
    if options.output:
        names = ("emulator", "batch", "gradient")
        report = [{**dict(zip(names, case, strict=True)), "seconds": one} for case, one in seconds.items()]
        options.output.write_text(json.dumps({"where": where, "dtype": options.dtype, "rows": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()

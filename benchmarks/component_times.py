"""CPU time of one evaluation of a Cobaya posterior when a single parameter has changed, for each sampled parameter.

    python benchmarks/component_times.py yaml_examples/joint_cosmic_shear.yaml yaml_examples/joint_lensing.yaml

Cobaya computes anew only what depends on the parameter. The steps are small ones from a reference point, medians over
--n of them; torch has one thread.
"""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
from cobaya.input import load_input_file
from cobaya.model import Model, get_model
from common import benchmark_parser


def seconds(model: Model, n: int) -> dict[str, float]:
    """Return the median CPU time [s] of an evaluation after a step in each sampled parameter."""
    start = model.get_valid_point(1000, random_state=np.random.default_rng(1))[0]
    steps = 1e-3 * np.sqrt(np.diag(model.prior.covmat(ignore_external=True)))
    found = {}
    for index, name in enumerate(model.parameterization.sampled_params()):
        times = []
        for number in range(n + 1):
            point = start.copy()
            # A point that Cobaya has not in its cache.
            point[index] += steps[index] * number / n
            begin = time.process_time()
            model.logposterior(point)
            times.append(time.process_time() - begin)
        found[name] = float(np.median(times[1:]))
    return found


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("files", nargs="+", help="input files of Cobaya")
    parser.add_argument("-n", type=int, default=9, help="evaluations for each parameter (default: 9)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print("| file | parameter | CPU time of one evaluation [ms] |\n|---|---|---|")
    for file in options.files:
        info = load_input_file(file)
        model = get_model({key: info[key] for key in ("theory", "likelihood", "params", "prior") if key in info})
        for name, value in seconds(model, options.n).items():
            print(f"| {file.rpartition('/')[2]} | {name} | {1e3 * value:.2f} |", flush=True)


if __name__ == "__main__":
    main()

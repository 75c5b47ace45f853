"""CPU time of a gradient, and of a step of Cobaya's mcmc, with and without the error of the prediction.

    python benchmarks/emulator_error_cost.py

The posterior is that of TNG300 sample 1 at fixed occupation. Runs with and without take turns, so that a slow phase of
the machine affects both; times are medians, and torch has one thread.
"""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
from cobaya.model import get_model
from cobaya.sampler import get_sampler
from common import benchmark_parser

from iaemu_cobaya.gradients.log_posterior import LogPosterior

BATCHES = (1, 64, 256)


def gradient_seconds(density: LogPosterior, points: torch.Tensor) -> float:
    start = time.process_time()
    x = points.clone().requires_grad_(True)
    torch.autograd.grad(density(x).sum(), x)
    return time.process_time() - start


def step_seconds(model, n: int) -> float:
    """Return the CPU time of one proposal of mcmc."""
    sampler = get_sampler({"mcmc": {"max_samples": n, "seed": 1, "burn_in": 0, "learn_proposal": False}}, model)
    before, start = _evaluations(model), time.process_time()
    sampler.run()
    return (time.process_time() - start) / (_evaluations(model) - before)


def _evaluations(model) -> int:
    return sum(likelihood.timer.n for likelihood in model.likelihood.values())


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=200, help="gradients of each batch (default: 200)")
    parser.add_argument("--steps", type=int, default=400, help="accepted steps of each of 3 chains (default: 400)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    models = {
        error: get_model(
            {
                "theory": {"iaemu_cobaya.IAEmu": None},
                "likelihood": {"iaemu_cobaya.TNG300Sample1": {"emulator_error": error}},
                "timing": True,
            }
        )
        for error in (False, True)
    }
    densities = {error: LogPosterior(model, rng=np.random.default_rng(1)) for error, model in models.items()}
    rng = np.random.default_rng(1)
    print("| CPU time [ms] | off | on | on / off |\n|---|---|---|---|")
    for batch in BATCHES:
        points = torch.as_tensor(rng.normal([0.8, 0.3], [0.015, 0.05], size=(batch, 2)))
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(options.repetitions):
            for error, density in densities.items():
                times[error].append(gradient_seconds(density, points))
        report(f"gradient of {batch} point{'s' * (batch > 1)}", times)
    times = {False: [], True: []}
    for _ in range(3):
        for error, model in models.items():
            times[error].append(step_seconds(model, options.steps))
    report("a step of mcmc", times)


def report(label: str, times: dict[bool, list[float]]) -> None:
    off, on = (1e3 * float(np.median(times[error])) for error in (False, True))
    print(f"| {label} | {off:.2f} | {on:.2f} | {on / off:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""Compare the gradients of emulators with central differences in double precision, at random points.

    python benchmarks/gradient_accuracy.py factorised-pm160 iaemunet-pm160
    python benchmarks/gradient_accuracy.py --projected factorised-pm160 tables-pm160     # of w_gg and w_g+

The gradient is that of a fixed random combination of all outputs, each divided by its rms. The error at a point is the
norm of the difference of the two gradients, divided by the norm of the gradient. Central differences are extrapolated
from two steps (Richardson). Bins that are not predicted at a point, as few pairs are expected there, are left out.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from common import benchmark_parser

from iaemu.models import ForwardModel, load
from iaemu.prediction import FewPairsWarning
from iaemu.statistics import STATISTICS


def all_outputs(model: ForwardModel, theta: torch.Tensor, projected: bool) -> torch.Tensor:
    if projected:
        found = model.project(theta, np.geomspace(0.3, 20.0, 13), 60.0, support="warn")
        return torch.cat([found.w_gg, found.w_gplus], dim=-1)
    prediction = model.predict(theta, support="warn")
    return torch.cat([getattr(prediction, name) for name in STATISTICS], dim=-1)


def combination(model: ForwardModel, weights: torch.Tensor, scale: torch.Tensor, projected: bool):
    def function(theta: torch.Tensor) -> torch.Tensor:
        return (all_outputs(model, theta, projected) / scale * weights).nansum(dim=-1)

    return function


def gradient_errors(emulator: ForwardModel, n: int, seed: int, step: float, projected: bool = False) -> np.ndarray:
    """Return relative errors (n,) of the gradient; parameters are in units of the widths of the supported region."""
    rng = np.random.default_rng(seed)
    theta = torch.as_tensor(emulator.support.sample(n, rng))
    with torch.no_grad():
        outputs = all_outputs(emulator, theta, projected)
    weights = torch.as_tensor(rng.standard_normal(outputs.shape[-1]))
    function = combination(emulator, weights, outputs.square().nanmean(dim=0).sqrt(), projected)
    width = theta.std(dim=0)

    point = theta.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(point).sum(), point)
    exact = gradient * width
    differences = []
    with torch.no_grad():
        for h in (step, 0.5 * step):
            columns = []
            for column in range(theta.shape[1]):
                shift = torch.zeros(theta.shape[1], dtype=theta.dtype)
                shift[column] = h * width[column]
                columns.append((function(theta + shift) - function(theta - shift)) / (2.0 * h))
            differences.append(torch.stack(columns, dim=-1))
    numeric = (4.0 * differences[1] - differences[0]) / 3.0
    return (torch.linalg.norm(exact - numeric, dim=-1) / torch.linalg.norm(exact, dim=-1)).numpy()


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("artifacts", nargs="*", default=["factorised-pm160"], help="files or names of shipped ones")
    parser.add_argument("-n", "--n-points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--projected", action="store_true", help="w_gg and w_g+ in place of xi, omega and eta")
    parser.add_argument(
        "--step", type=float, default=2e-5, help="step of the differences, in standard deviations of the parameters"
    )
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", FewPairsWarning)
    print("| emulator | median | 99 % | worst |\n|---|---|---|---|")
    for name in options.artifacts:
        errors = gradient_errors(load(name), options.n_points, options.seed, options.step, options.projected)
        print(f"| {name} | {np.median(errors):.1e} | {np.percentile(errors, 99):.1e} | {errors.max():.1e} |")


if __name__ == "__main__":
    main()

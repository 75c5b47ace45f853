"""Compare the effective draws that HMC claims with the true ones of the mean, for a t with 3 degrees of freedom.

    python benchmarks/heavy_tails.py
    python benchmarks/heavy_tails.py --draws 200 --seeds 100

The target is the t, alone and as one of four directions, the others normal; its mean is 0 and its variance 3. The true
number is 3 / (mean square of the estimated means over seeds). Its error comes from the scatter of these squares, which
one bad seed may dominate. A pull is the estimated mean over its Monte Carlo error, sd / sqrt(claimed number), both of
the same seed: their root mean square is 1 if the claim is right. The second table stops each run as iaemu_cobaya.HMC
does, at checks of convergence, with R-1 < 0.01 and by two rules: enough effective draws in bulk and tails, and of the
mean as well; its draws at stop are those of each of 64 chains. torch has one thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from common import benchmark_parser

from iaemu.sampling import Sampler, Settings, diagnostics

VARIANCE = 3.0
RULES = {"bulk, tail": ("bulk", "tail"), "bulk, tail, mean": diagnostics.ESS_METHODS}


def log_density(x: torch.Tensor) -> torch.Tensor:
    """Log-density of points (n, d), the t in the first direction."""
    return -2.0 * torch.log1p(x[:, 0].square() / 3.0) - 0.5 * x[:, 1:].square().sum(dim=1)


def draw(dimension: int, n_proposals: int | None, n_draws: int, seed: int) -> np.ndarray:
    """Draw (64, n_draws, 1) of the t with the settings of iaemu_cobaya.HMC."""
    sampler = Sampler(log_density, dimension, settings=Settings(n_warmup=150, n_proposals=n_proposals), seed=seed)
    sampler.warm_up(np.zeros(dimension))
    return sampler.draw(n_draws).positions[..., :1].numpy()


def with_error(squares: np.ndarray) -> str:
    """Write the root of a mean of squares, with its error from their scatter."""
    root = np.sqrt(squares.mean())
    return f"{root:.2f} ± {squares.std(ddof=1) / np.sqrt(len(squares)) / (2 * root):.2f}"


def true_number(squares: np.ndarray) -> str:
    """Write the true number of effective draws, by the squares of the estimated means, with its error."""
    number = VARIANCE / squares.mean()
    return f"{number:.0f} ± {number * squares.std(ddof=1) / np.sqrt(len(squares)) / squares.mean():.0f}"


def claims(histories: Sequence[np.ndarray]) -> list[str]:
    """Return cells: claimed numbers of all kinds (median), the true one, and the pulls."""
    numbers = {name: np.array([diagnostics.ess(x, name)[0] for x in histories]) for name in diagnostics.ESS_METHODS}
    squares = np.array([x.mean() ** 2 for x in histories])
    variances = np.array([x.var() for x in histories])
    return [
        *(f"{np.median(number):.0f}" for number in numbers.values()),
        f"{numbers['mean'].min():.0f}",
        true_number(squares),
        *(with_error(squares * number / variances) for number in numbers.values()),
    ]


def stop(history: np.ndarray, methods: Sequence[str], ess_stop: float) -> int | None:
    """Return the draws of each chain at the check at which a run stops; None if the draws do not suffice."""
    n = 25
    while n <= history.shape[1]:
        so_far = history[:, :n]
        if diagnostics.rhat(so_far)[0] < 1.01 and min(diagnostics.ess(so_far, name)[0] for name in methods) > ess_stop:
            return n
        n += 25 * max(1, n // 100)
    return None


def stopped(histories: Sequence[np.ndarray], methods: Sequence[str], ess_stop: float) -> list[str]:
    """Return cells: draws at stop (median), runs that did not stop, and the true number in those that did."""
    ends = [stop(history, methods, ess_stop) for history in histories]
    squares = np.array([x[:, :n].mean() ** 2 for x, n in zip(histories, ends, strict=True) if n is not None])
    draws = np.median([history.shape[1] if n is None else n for history, n in zip(histories, ends, strict=True)])
    left = sum(n is None for n in ends)
    cells = [f"{draws:.0f}", f"{left} of {len(ends)}"]
    if len(squares) < 2:
        return [*cells, "", ""]
    return [*cells, true_number(squares), with_error(squares * ess_stop / VARIANCE)]


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--draws", type=int, default=500, help="draws of each of 64 chains")
    parser.add_argument("--ess-stop", type=float, default=4000.0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| directions | jumps | bulk | tail | mean | smallest mean | true | pull, bulk | pull, tail | pull, mean |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    rows = []
    for dimension in (1, 4):
        for name, n_proposals in (("default", None), ("none", 0)):
            histories = [draw(dimension, n_proposals, options.draws, seed) for seed in range(options.seeds)]
            print(f"| {dimension} | {name} | {' | '.join(claims(histories))} |", flush=True)
            for rule, methods in RULES.items():
                rows.append([str(dimension), name, rule, *stopped(histories, methods, options.ess_stop)])
    goal = f"{options.ess_stop:g} effective draws in"
    print(f"\n| directions | jumps | {goal} | draws at stop | not stopped | true | error of the mean / claimed |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()

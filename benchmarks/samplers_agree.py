"""Compare HMC and Cobaya's mcmc with integration on a grid, for the TNG300 posteriors.

    python benchmarks/samplers_agree.py

Prints, for each sample, the mean and standard deviation of mu_cen and mu_sat from integration on a grid, the
differences of HMC and mcmc in standard deviations, the ratios of the widths, and the numbers of effective draws.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from cobaya.input import load_input_file
from cobaya.model import get_model
from cobaya.sampler import get_sampler
from common import benchmark_parser
from tng_posteriors import on_grid

from iaemu.parameters import OCCUPATION_PARAMETERS
from iaemu.sampling import Sampler, Settings, diagnostics
from iaemu_cobaya.gradients.log_posterior import LogPosterior

EXAMPLES = Path(__file__).parents[1] / "yaml_examples"


def by_hmc(density: LogPosterior, start, n_draws: int, seed: int) -> np.ndarray:
    """Draw (64, n_draws, 2) with HMC."""
    sampler = Sampler(density, 2, density.bounds, Settings(n_chains=64, n_warmup=150), seed)
    sampler.warm_up(start)
    return sampler.draw(n_draws).positions.numpy()


def by_mcmc(model, info, n_steps: int, n_chains: int = 4) -> np.ndarray:
    """Run chains (n_chains, n, 2) of Cobaya's mcmc with a known proposal, and drop their first tenth."""
    chains = []
    for seed in range(n_chains):
        options = {"max_samples": n_steps, "Rminus1_stop": 0, "learn_proposal": False, "measure_speeds": False}
        sampler = get_sampler({"mcmc": {**options, **info, "seed": seed}}, model)
        sampler.run()
        table = sampler.products()["sample"]
        values = table[list(model.parameterization.sampled_params())].to_numpy(dtype=float)
        chains.append(np.repeat(values, table["weight"].to_numpy(dtype=int), axis=0))
    n = min(map(len, chains))
    return np.stack([chain[:n] for chain in chains])[:, n // 10 :]


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--hmc-draws", type=int, default=800, help="draws of each of 64 chains")
    parser.add_argument("--mcmc-steps", type=int, default=9000, help="accepted steps of each of 4 chains")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    print("| sample | parameter | grid | HMC - grid [sigma], width ratio | mcmc - grid | HMC - mcmc | ess HMC, mcmc |")
    print("|---|---|---|---|---|---|---|")
    for number in options.samples:
        path = EXAMPLES / f"tng_sample{number}.yaml"
        info = load_input_file(path)
        model = get_model({key: info[key] for key in ("theory", "likelihood", "params")})
        density = LogPosterior(model, rng=np.random.default_rng(options.seed))
        (likelihood,), (theory,) = model.likelihood.values(), model.theory.values()
        constants = model.parameterization.constant_params()
        occupation = [constants[name] for name in OCCUPATION_PARAMETERS]
        exact = on_grid(likelihood, theory.model, occupation)
        mean, sd = exact.mean, exact.sd
        start = [model.get_valid_point(1000, random_state=np.random.default_rng(i))[0] for i in range(8)]
        covmat = {"covmat": str(path.with_suffix(".covmat"))}
        draws = (
            by_hmc(density, np.array(start), options.hmc_draws, options.seed),
            by_mcmc(model, covmat, options.mcmc_steps),
        )
        found = [(part.mean(axis=(0, 1)), part.std(axis=(0, 1))) for part in draws]
        ess = [np.minimum(diagnostics.ess(part), diagnostics.ess(part, "tail")) for part in draws]
        for i, name in enumerate(density.names):
            cells = [f"{(m[i] - mean[i]) / sd[i]:+.3f}, {s[i] / sd[i]:.3f}" for m, s in found]
            (m0, s0), (m1, s1) = found
            cells.append(f"{(m0[i] - m1[i]) / sd[i]:+.3f}, {s0[i] / s1[i]:.3f}")
            cells.append(f"{ess[0][i]:.0f}, {ess[1][i]:.0f}")
            print(f"| {number} | {name} | {mean[i]:.4f} ± {sd[i]:.4f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

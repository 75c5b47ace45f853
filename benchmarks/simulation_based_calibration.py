"""Simulation-based calibration of a TNG300 posterior (Talts et al. 2018, arXiv:1804.06788).

    python benchmarks/simulation_based_calibration.py --n 300 --figure ranks.png

Strengths are drawn from the prior, data from the likelihood at these strengths, and draws from the posterior of these
data. If prior, likelihood, gradient and sampler are consistent, the rank of the true value among independent draws is
uniform. Prints Kolmogorov-Smirnov p-values for each parameter and the log-likelihood, and the largest R-hat.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from cobaya.input import load_input_file
from cobaya.model import get_model
from common import benchmark_parser
from scipy import stats
from tqdm import trange

from iaemu.sampling import Sampler, Settings, diagnostics
from iaemu_cobaya import IACorrelations
from iaemu_cobaya.gradients.log_posterior import LogPosterior
from iaemu_cobaya.likelihoods.distribution import Block

EXAMPLES = Path(__file__).parents[1] / "yaml_examples"

#: Number of draws of a posterior among which the true value is ranked.
N_RANKED = 99


def draw_data(likelihood: IACorrelations, rng: np.random.Generator) -> np.ndarray:
    """Draw data from the likelihood of omega at the current point, with the error of the prediction there."""
    vector, deviations = likelihood.theory_vector(), likelihood.deviations()
    block = Block(["omega"], np.arange(len(vector)), likelihood.n_regions["omega"], likelihood.distribution)
    covariance = likelihood.covariance_matrix + deviations.T @ deviations / block.widening(n_parameters=2)
    noise = np.linalg.cholesky(covariance) @ rng.standard_normal(len(vector))
    power = block.power(n_parameters=2)
    if power is None:
        return vector + noise
    # (1 + chi^2 / (n - 1))^(-power / 2) is a t-distribution with so many degrees of freedom.
    return vector + noise * np.sqrt((block.n_regions - 1) / rng.chisquare(power - len(vector)))


def ranks(sample: int, n: int, seed: int, n_chains: int = 32, progress: bool = True):
    """Return the ranks (n, 3) of mu_cen, mu_sat and the log-likelihood in 0 .. N_RANKED, and R-hats (n,)."""
    info = load_input_file(EXAMPLES / f"tng_sample{sample}.yaml")
    model = get_model({key: info[key] for key in ("theory", "likelihood", "params")})
    density = LogPosterior(model, rng=np.random.default_rng(seed))
    (likelihood,) = model.likelihood.values()
    rng = np.random.default_rng(seed)
    found, worst = np.empty((n, 3)), np.empty(n)
    for index in trange(n, disable=not progress):
        truth = rng.uniform(*density.bounds)
        model.logposterior(truth, cached=False)
        # In place, because the likelihood of tensors uses the same array.
        likelihood.data_vector[:] = draw_data(likelihood, rng)
        sampler = Sampler(
            density, 2, density.bounds, Settings(n_chains=n_chains, n_warmup=150), int(rng.integers(2**31))
        )
        sampler.warm_up(rng.uniform(*density.bounds, size=(4, 2)))
        # Enough draws of each chain for R-hat; ranks are among a few, so far apart that they are independent.
        draws = sampler.draw(60)
        worst[index] = diagnostics.rhat(draws.positions).max()
        picked = draws.positions[:, 5::15].reshape(-1, 2)[:N_RANKED]
        with torch.no_grad():
            values = torch.cat([picked, density(picked)[:, None]], dim=1).numpy()
            true = np.append(truth, float(density(torch.as_tensor(truth)[None])[0]))
        found[index] = (values < true).sum(axis=0)
    return found, worst


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--sample", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--n", type=int, default=300, help="number of data sets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="histograms of the ranks")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found, worst = ranks(options.sample, options.n, options.seed)
    names = ("mu_cen", "mu_sat", "log-posterior")
    print(f"\nsample {options.sample}, {options.n} data sets, {N_RANKED} ranked draws, largest R-hat {worst.max():.3f}")
    print(
        "| quantity | mean rank / N | expected | KS p-value | chi^2 of 10 bins | p-value |\n|---|---|---|---|---|---|"
    )
    for name, rank in zip(names, found.T, strict=True):
        uniform = (rank + np.random.default_rng(0).uniform(size=len(rank))) / (N_RANKED + 1)
        counts = np.histogram(uniform, bins=10, range=(0, 1))[0]
        chi2 = stats.chisquare(counts)
        print(
            f"| {name} | {uniform.mean():.3f} | 0.5 +- {np.sqrt(1 / 12 / len(rank)):.3f} "
            f"| {stats.kstest(uniform, 'uniform').pvalue:.3f} | {chi2.statistic:.1f} | {chi2.pvalue:.3f} |"
        )
    if options.figure:
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(1, 3, figsize=(10, 3), sharey=True, layout="constrained")
        low, high = stats.binom.interval(0.95, options.n, 0.1)
        for ax, name, rank in zip(axes, names, found.T, strict=True):
            ax.hist((rank + 0.5) / (N_RANKED + 1), bins=10, range=(0, 1), color="C0", alpha=0.7)
            ax.axhspan(low, high, color="0.6", alpha=0.4, label="95 % of uniform")
            ax.set(xlabel=f"rank of true {name}")
        axes[0].legend()
        figure.savefig(options.figure, dpi=110)


if __name__ == "__main__":
    main()

"""Integrate the posteriors of (mu_cen, mu_sat) for the TNG300 samples on a grid, as a reference for samplers.

    python benchmarks/tng_posteriors.py          # some minutes
    python benchmarks/tng_posteriors.py --hmc    # each of them with HMC as well

Prints a Markdown table for each data set, distribution and model, without and with the error of the prediction, with
Table 2 of arXiv:2504.05235. "+1e-6" is what the authors' published code does: it adds 1e-6 to the diagonal of the
covariance, which is comparable with the variances of the data.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from cobaya.run import run
from common import OCCUPATION, benchmark_parser
from tqdm import tqdm

from iaemu.models.base import ForwardModel
from iaemu.models.factorised import Emulator
from iaemu.models.tables import TabulatedModel
from iaemu_cobaya import IACorrelations, Measurement, TNG300Sample1, TNG300Sample2, TNG300Sample3

NAMES = ("mu_cen", "mu_sat")
LIKELIHOODS = {1: TNG300Sample1, 2: TNG300Sample2, 3: TNG300Sample3}
THEORIES = {"emulator": "iaemu_cobaya.IAEmu", "tables": "iaemu_cobaya.TabulatedIA"}
#: What the authors' code adds to variances.
NUGGET = 1e-6
#: Number of points along each axis of a grid.
N_GRID = 161

BORROWED = {
    "12 bins, published errors": {},
    "12 bins, published errors, +1e-6": {"nugget": True},
    "12 bins, correlation of sample 3 (27 regions), Hartlap": {"covariance": "correlation", "distribution": "hartlap"},
    "12 bins, correlation of sample 3 (27 regions), t": {"covariance": "correlation"},
}
FEW = {"data": "tng300/sample3", "r_max": 13.9}
DISTRIBUTIONS = {"no correction": "gaussian", "Hartlap": "hartlap", "t": "t", "Sellentin-Heavens": "sellentin-heavens"}
CASES = {
    1: BORROWED,
    2: BORROWED,
    3: {
        **{f"17 bins, 125 regions, {label}": {"distribution": name} for label, name in DISTRIBUTIONS.items()},
        "19 bins, 125 regions, t": {"r_max": 25.2},
        "17 bins, 125 regions, +1e-6": {"nugget": True},
        **{f"12 bins, 27 regions, {label}": {**FEW, "distribution": name} for label, name in DISTRIBUTIONS.items()},
        "12 bins, 27 regions, +1e-6": {**FEW, "nugget": True},
        "12 bins, published errors": {**FEW, "covariance": "diagonal"},
        "12 bins, published errors, +1e-6": {**FEW, "covariance": "diagonal", "nugget": True},
    },
}
#: Table 2 of arXiv:2504.05235: IAEmu with HMC, halotools-IA with MCMC.
PAPER = {
    1: (
        ("IAEmu, HMC", "0.80 +0.02 -0.03", "0.32 +0.04 -0.05"),
        ("halotools-IA, MCMC", "0.79 +0.02 -0.02", "0.30 +0.05 -0.06"),
    ),
    2: (
        ("IAEmu, HMC", "0.69 +0.03 -0.03", "0.11 +0.04 -0.05"),
        ("halotools-IA, MCMC", "0.68 +0.03 -0.03", "0.14 +0.03 -0.03"),
    ),
    3: (
        ("IAEmu, HMC", "0.56 +0.04 -0.07", "0.00 +0.05 -0.04"),
        ("halotools-IA, MCMC", "0.54 +0.04 -0.04", "0.05 +0.03 -0.03"),
    ),
}


class Posterior(NamedTuple):
    """Means and standard deviations (2,) of mu_cen and mu_sat, and what is known of the fit."""

    mean: np.ndarray
    sd: np.ndarray
    chi2: float = np.nan
    p_value: float = np.nan
    below: np.ndarray | None = None


def on_grid(like: IACorrelations, model: ForwardModel, occupation, truth=None) -> Posterior:
    """Integrate the posterior for uniform priors on (-1, 1).

    ``chi2`` and ``p_value`` are those of the best fit, from the covariance of the data alone; ``below`` is the
    cumulative distribution of each parameter at ``truth``.
    """
    parts = []
    for statistic, bins in like.bins.items():
        edges, index = bins.edges()
        parts.append((model.at_occupation(occupation, edges, (statistic,)), statistic, index))
    low, high = np.full(2, -1.0), np.full(2, 1.0)
    for _ in range(2):  # first over the prior, then where the posterior is
        axes = np.linspace(low, high, N_GRID)
        points = torch.tensor(np.stack(np.meshgrid(*axes.T, indexing="ij"), axis=-1).reshape(-1, 2))
        logp = np.concatenate([_log_likelihoods(like, parts, some) for some in points.split(4096)])
        weight = np.exp(logp - logp.max()).reshape(N_GRID, N_GRID)
        marginals = np.stack([weight.sum(axis=1), weight.sum(axis=0)], axis=1) / weight.sum()
        mean = (marginals * axes).sum(axis=0)
        sd = np.sqrt((marginals * (axes - mean) ** 2).sum(axis=0))
        low, high = np.clip(mean - 12 * sd, -1, 1), np.clip(mean + 12 * sd, -1, 1)
    best = _predict(parts, points[logp.argmax()][None])[0]
    below = None
    if truth is not None:
        below = np.array([np.interp(truth[i], axes[:, i], np.cumsum(marginals[:, i])) for i in range(2)])
    return Posterior(mean, sd, like.chi2(best), like.p_value(best), below)


def _predict(parts, points) -> np.ndarray:
    return torch.cat([fixed(points)[statistic][:, index] for fixed, statistic, index in parts], dim=1).numpy()


def _log_likelihoods(like, parts, points) -> np.ndarray:
    errors = None
    if like.emulator_error:
        found = [fixed.deviations(points)[statistic][:, :, index] for fixed, statistic, index in parts]
        errors = torch.cat(found, dim=2).numpy()
    return like.log_likelihoods(_predict(parts, points), errors)


def by_hmc(likelihood: str, options: dict, theory: str, occupation) -> Posterior:
    """Sample the same posterior."""
    params = {name: {"prior": {"min": -1, "max": 1}} for name in NAMES}
    fixed = dict(zip(("logMmin", "sigma_logM", "logM0", "logM1", "alpha"), occupation, strict=True))
    info = {
        "theory": {THEORIES[theory]: None},
        "likelihood": {likelihood: options},
        "params": {**params, **fixed},
        "sampler": {"iaemu_cobaya.HMC": {"seed": 1, "progress": False}},
    }
    _, sampler = run(info)
    draws = sampler.samples(combined=True)[list(NAMES)].to_numpy()
    return Posterior(draws.mean(axis=0), draws.std(axis=0))


def options_of(like_class: type[IACorrelations], options: dict) -> dict:
    """Return the options of the likelihood; with ``nugget``, of one whose variances are larger by 1e-6."""
    if not options.get("nugget"):
        return options
    options = {key: value for key, value in options.items() if key != "nugget"}
    plain = like_class({**options, "distribution": "gaussian", "emulator_error": False})
    measurement = plain.measurement
    bins = {
        name: replace(entry, error=np.sqrt(entry.error**2 + (NUGGET if name == "omega" else 0.0)))
        for name, entry in measurement.bins.items()
    }
    covariances = [
        replace(entry, matrix=entry.matrix + NUGGET * np.eye(len(entry.matrix)), n_regions=None)
        for entry in measurement.covariances
    ]
    return {**options, "data": Measurement(bins, covariances, measurement.metadata, measurement.name)}


def main(argv=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--hmc", action="store_true", help="sample the posteriors of the emulator as well")
    parser.add_argument("--models", nargs="+", choices=tuple(THEORIES), default=["emulator", "tables"])
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    models = {name: {"emulator": Emulator, "tables": TabulatedModel}[name].load() for name in arguments.models}
    print(
        "| sample | data and distribution | model | emulator_error | mu_cen | mu_sat | HMC | chi^2, p of the best fit |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for sample, like_class in LIKELIHOODS.items():
        for label, case in tqdm(CASES[sample].items(), f"sample {sample}"):
            for with_error in (False, True):
                options = options_of(like_class, {**case, "emulator_error": with_error})
                like = like_class(options)
                for name, model in models.items():
                    found = on_grid(like, model, OCCUPATION[sample])
                    sampled = ""
                    if arguments.hmc and name == "emulator":
                        draws = by_hmc(f"iaemu_cobaya.TNG300Sample{sample}", options, name, OCCUPATION[sample])
                        sampled = ", ".join(_number(*pair) for pair in zip(draws.mean, draws.sd, strict=True))
                    values = " | ".join(_number(*pair) for pair in zip(found.mean, found.sd, strict=True))
                    print(
                        f"| {sample} | {label} | {name} | {'on' if with_error else 'off'} | {values} | {sampled} "
                        f"| {found.chi2:.1f}, {found.p_value:.2g} |",
                        flush=True,
                    )
        for name, mu_cen, mu_sat in PAPER[sample]:
            print(f"| {sample} | *paper* | *{name}* | | *{mu_cen}* | *{mu_sat}* | | |")


def _number(mean: float, sd: float) -> str:
    return f"{mean:.3f} ± {sd:.3f}"


if __name__ == "__main__":
    main()

"""Integrate the posteriors of (mu_cen, mu_sat) for the TNG300 samples on a grid, as a reference for samplers.

At fixed occupation omega is linear in q(mu_cen) and q(mu_sat), so the whole posterior takes milliseconds. Prints a
Markdown table for the emulator and for the tables, for each choice of the covariance, with Table 2 of arXiv:2504.05235.
"""

from __future__ import annotations

import argparse
import logging

import numpy as np
import torch

from iaemu.binning import TNG_EDGES
from iaemu.halomodel.alignment import mean_p2
from iaemu.models.factorised import Emulator
from iaemu.models.tables import TabulatedModel
from iaemu_cobaya import TNG300Sample1, TNG300Sample2, TNG300Sample3

OCCUPATION = {
    1: (12.54, 0.26, 12.68, 13.48, 1.0),
    2: (11.93, 0.26, 12.05, 12.85, 1.0),
    3: (11.61, 0.26, 11.80, 12.60, 1.0),
}
LIKELIHOODS = {1: TNG300Sample1, 2: TNG300Sample2, 3: TNG300Sample3}
BORROWED = {
    "published errors, diagonal (default)": {},
    "with the correlation of sample 3, Hartlap": {"covariance": "correlation"},
    "with the correlation of sample 3, no Hartlap": {"covariance": "correlation", "hartlap": False},
}
COVARIANCES = {
    1: BORROWED,
    2: BORROWED,
    3: {
        "jackknife covariance, Hartlap (default)": {},
        "jackknife covariance, no Hartlap": {"hartlap": False},
        "published errors, diagonal": {"covariance": "diagonal"},
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


def posterior(like, model, occupation, n_grid: int = 2001):
    """Return mean and standard deviation of mu_cen and mu_sat for uniform priors on (-1, 1), and the smallest chi^2."""
    mu = np.linspace(-1.0, 1.0, n_grid)
    q = mean_p2(torch.as_tensor(mu)).numpy()
    central = model.predict([1.0, 0.0, *occupation], TNG_EDGES, statistics=("omega",)).omega
    satellite = model.predict([0.0, 1.0, *occupation], TNG_EDGES, statistics=("omega",)).omega
    inverse, data = like.inverse_covariance, like.data_vector

    def product(a, b):
        return a @ inverse @ b

    chi2 = (
        product(data, data)
        - 2.0 * (q[:, None] * product(data, central) + q * product(data, satellite))
        + q[:, None] ** 2 * product(central, central)
        + q**2 * product(satellite, satellite)
        + 2.0 * q[:, None] * q * product(central, satellite)
    )
    weight = np.exp(-0.5 * (chi2 - chi2.min()))
    weight /= weight.sum()
    moments = []
    for marginal in (weight.sum(axis=1), weight.sum(axis=0)):
        mean = marginal @ mu
        moments.append((mean, np.sqrt(marginal @ (mu - mean) ** 2)))
    return (*moments, chi2.min())


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    logging.disable(logging.WARNING)
    models = {"emulator": Emulator.load(), "tables": TabulatedModel.load()}
    print("| sample | covariance | model | mu_cen | mu_sat | smallest chi^2 (12 bins) |")
    print("|---|---|---|---|---|---|")
    for sample, likelihood in LIKELIHOODS.items():
        for label, options in COVARIANCES[sample].items():
            like = likelihood(options)
            for name, model in models.items():
                (mu_cen, s_cen), (mu_sat, s_sat), chi2 = posterior(like, model, OCCUPATION[sample])
                row = f"{mu_cen:.3f} ± {s_cen:.3f} | {mu_sat:.3f} ± {s_sat:.3f} | {chi2:.1f}"
                print(f"| {sample} | {label} | {name} | {row} |")
        for name, mu_cen, mu_sat in PAPER[sample]:
            print(f"| {sample} | *paper* | *{name}* | *{mu_cen}* | *{mu_sat}* | |")


if __name__ == "__main__":
    main()

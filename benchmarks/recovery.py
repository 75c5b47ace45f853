"""Test whether known alignment strengths are recovered from mocks that are measured and fitted as a user would.

    python benchmarks/recovery.py --figure recovery.png

Each data set is a halotools-IA mock with the occupation of TNG300 sample 1, alternately in the two shipped halo
catalogues. It is measured with jackknife covariances, and fitted with the likelihood IACorrelations, once for each
choice of ``--distribution`` and ``--emulator-error``. Prints the pulls, (mean - truth) / standard deviation, of
both parameters, and how often the central 68 and 95 % intervals contain the truth.

A covariance from n regions is noisy. The Hartlap factor makes its inverse unbiased, but the noise changes the weights
of the bins in a fit, so that best fits scatter more than the posteriors are wide (Dodelson and Schneider 2013,
arXiv:1304.2593; Percival et al. 2014, arXiv:1312.4841). Without --emulator-error, the standard deviation of the pulls
that is expected with the Hartlap factor is printed next to the measured one; the t-distribution of Percival et al. 2022
is made for 1.

``--mean-covariance`` uses the mean of all covariances for all data sets, which has nearly no noise, and so tests
everything else.

``--linear`` fits <P2>(mu_cen) and <P2>(mu_sat), on which omega depends linearly, by least squares with the tables. It
needs no sampler, and so allows many more mocks and several numbers of regions.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from cobaya.log import LoggedError
from common import OCCUPATION, benchmark_parser
from scipy import stats
from tng_posteriors import Posterior, on_grid
from tqdm import tqdm

from iaemu.halomodel.alignment import mean_p2
from iaemu.measurement import Measurement
from iaemu.models.factorised import Emulator
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import OCCUPATION_PARAMETERS
from iaemu_cobaya import IACorrelations
from iaemu_cobaya.likelihoods.distribution import DISTRIBUTIONS
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.measuring.estimators import measure, parse_bins
from iaemu_training.measuring.jackknife import covariance, delete_one
from iaemu_training.measuring.jackknife import statistics as whole_box
from iaemu_training.mocks.halotools import HalotoolsMocks
from iaemu_training.pairs.galaxies_by_region import count_pairs_by_region

SAMPLE_1 = dict(zip(OCCUPATION_PARAMETERS, OCCUPATION[1], strict=True))
NAMES = ("mu_cen", "mu_sat")
BOXES = ("pm160a", "pm160b")
THEORIES = ("network", "tables")


def posterior(measurement: Measurement, theory: str, truth, choices: dict) -> Posterior:
    """Integrate the posterior of mu_cen and mu_sat at the true occupation on a grid.

    HMC and ``mcmc`` sample this posterior, as tng_posteriors.py and the tests show; a grid is faster.
    """
    logging.disable(logging.WARNING)  # otherwise each data set prints the messages of a run
    try:
        like = IACorrelations({"data": measurement, "statistics": list(measurement.bins), **choices})
    finally:
        logging.disable(logging.NOTSET)
    return on_grid(like, emulator() if theory == "network" else tables(), SAMPLE_1, truth)


@cache
def emulator() -> Emulator:
    return Emulator.load()


def expected_pull_sd(n_regions: int, n_bins: int, n_parameters: int = 2, n: int = 20000, seed: int = 0) -> float:
    """Return the standard deviation of pulls of a linear model with a Wishart covariance and Hartlap's factor.

    It does not depend on the linear model, since any model can be transformed to one whose parameters are the first
    bins.
    """
    covariances = stats.wishart(n_regions - 1, np.eye(n_bins) / (n_regions - 1)).rvs(n, random_state=seed)
    inverse = np.linalg.inv(covariances) * (n_regions - n_bins - 2) / (n_regions - 1)
    noise = np.random.default_rng(seed).standard_normal((n, n_bins, 1))
    posterior = np.linalg.inv(inverse[:, :n_parameters, :n_parameters])
    shift = posterior @ inverse[:, :n_parameters] @ noise
    return float(np.std(shift[:, 0, 0] / np.sqrt(posterior[:, 0, 0])))


@cache
def tables() -> TabulatedModel:
    return TabulatedModel.load()


def templates_of(edges) -> np.ndarray:
    """Predict omega (n_bins, 2) for <P2> = 1 of the centrals, and of the satellites."""
    strengths = [dict(zip(NAMES, pair, strict=True)) for pair in ((1.0, 0.0), (0.0, 1.0))]
    return np.stack([tables().predict({**SAMPLE_1, **pair}, edges).omega for pair in strengths], axis=1)


def linear(options) -> str:
    """Return a table of pulls of linear fits to the same mocks, by number of bins and of regions."""
    truth = mean_p2(torch.tensor(options.truth, dtype=torch.float64)).numpy()
    theta = dict(zip(NAMES, options.truth, strict=True)) | SAMPLE_1
    cases = [(bins, n_side) for bins in ("tng300", "paper") for n_side in (3, 4, 5, 8)]
    templates = {bins: templates_of(parse_bins(bins)) for bins in ("tng300", "paper")}
    found = {case: [] for case in cases}
    sequences = np.random.SeedSequence(options.seed).spawn(len(BOXES))
    for box, sequence in zip(BOXES, sequences, strict=True):
        mocks = HalotoolsMocks(HaloCatalogue.load(box))
        n = options.linear // len(BOXES)
        for galaxies in tqdm(mocks.iterate(theta, n, sequence), desc=f"mocks on {box}", total=n):
            for bins, n_side in cases:
                sums = count_pairs_by_region(galaxies.positions, galaxies.axes, mocks.Lbox, parse_bins(bins), n_side)
                found[bins, n_side].append((whole_box(sums)["omega"], covariance(delete_one(sums)["omega"])))
    lines = [
        "| bins | regions | expected sd of pulls | sd, centrals | sd, satellites | chi^2 of the truth "
        "| with the mean covariance: sd, centrals | sd, satellites |",
        "|" + "---|" * 8,
    ]
    for (bins, n_side), pairs in found.items():
        data, covariances = (np.array(part) for part in zip(*pairs, strict=True))
        n_bins, n_regions = data.shape[1], n_side**3
        hartlap = (n_regions - n_bins - 2) / (n_regions - 1)
        single = [
            _fit(d, templates[bins], np.linalg.inv(c) * hartlap, truth) for d, c in zip(data, covariances, strict=True)
        ]
        inverse = np.linalg.inv(covariances.mean(axis=0))
        averaged = [_fit(d, templates[bins], inverse, truth) for d in data]
        sd, sd_averaged = (np.std([pull for pull, _ in fits], axis=0, ddof=1) for fits in (single, averaged))
        chi2 = [chi2 for _, chi2 in single]
        lines.append(
            f"| {n_bins} | {n_regions} | {expected_pull_sd(n_regions, n_bins):.2f} | {sd[0]:.2f} | {sd[1]:.2f} "
            f"| {np.mean(chi2):.1f} ± {np.std(chi2) / np.sqrt(len(chi2)):.1f} | {sd_averaged[0]:.2f} "
            f"| {sd_averaged[1]:.2f} |"
        )
    return "\n".join(lines)


def _fit(data, templates, inverse, truth):
    """Return the pulls (2,) of a weighted least-squares fit, and chi^2 of the truth."""
    covariance_of_fit = np.linalg.inv(templates.T @ inverse @ templates)
    found = covariance_of_fit @ (templates.T @ (inverse @ data))
    residual = data - templates @ truth
    return (found - truth) / np.sqrt(np.diag(covariance_of_fit)), residual @ inverse @ residual


def with_mean_covariance(measurements: list[Measurement]) -> list[Measurement]:
    """Give all measurements the mean of their covariances, which has nearly no noise and needs no Hartlap factor."""
    if len({tuple(len(c.matrix) for c in measurement.covariances) for measurement in measurements}) > 1 or any(
        len(measurement.covariances) < len(measurement.bins) for measurement in measurements
    ):
        raise SystemExit("--mean-covariance: some data sets lack bins or a covariance; use other --bins or --regions.")
    means, errors = [], {}
    for found in zip(*(measurement.covariances for measurement in measurements), strict=True):
        matrix = np.mean([covariance.matrix for covariance in found], axis=0)
        means.append(replace(found[0], matrix=matrix, n_regions=None))
        errors[found[0].statistics[0]] = np.sqrt(np.diag(matrix))
    return [
        replace(
            measurement,
            bins={name: replace(bins, error=errors[name]) for name, bins in measurement.bins.items()},
            covariances=means,
        )
        for measurement in measurements
    ]


def measurements_of(options) -> list[Measurement]:
    """Measure all data sets."""
    edges = parse_bins(options.bins)
    models = {name: HalotoolsMocks(HaloCatalogue.load(name)) for name in BOXES}
    measurements = []
    for index, child in enumerate(tqdm(np.random.SeedSequence(options.seed).spawn(options.n), desc="measurements")):
        box = BOXES[index % len(BOXES)]
        theta = dict(zip(NAMES, options.truth, strict=True)) | SAMPLE_1
        galaxies = models[box].populate(theta, child.spawn(1)[0])
        measurements.append(
            measure(galaxies.positions, galaxies.axes, models[box].Lbox, edges, options.regions, options.statistics)
        )
    return with_mean_covariance(measurements) if options.mean_covariance else measurements


def recover(measurements, options, choices: dict):
    """Fit all data sets with some options of the likelihood.

    Each row has the box, the mean and standard deviation of both parameters, the share of the posterior that is nearer
    to the median than the truth, and the linear pulls.
    """
    truth, rows = np.array(options.truth), []
    for index, measurement in enumerate(tqdm(measurements, desc="posteriors")):
        box = BOXES[index % len(BOXES)]
        try:
            found = posterior(measurement, options.emulator, truth, choices)
        except LoggedError as error:
            raise SystemExit(f"data set {index}: {error}") from error
        share = 2 * np.abs(found.below - 0.5)
        rows.append((box, found.mean, found.sd, share, linear_pulls(measurement, options)))
    return rows


def linear_pulls(measurement: Measurement, options) -> np.ndarray:
    """Return the pulls (2,) of a linear fit to the same data; NaN unless the data are omega with a covariance."""
    if measurement.statistics != ("omega",) or not measurement.covariances:
        return np.full(2, np.nan)
    (covariance,) = measurement.covariances
    edges = np.append(measurement.bins["omega"].r_low, measurement.bins["omega"].r_high[-1])
    inverse = np.linalg.inv(covariance.matrix)
    if covariance.n_regions is not None:
        inverse *= (covariance.n_regions - len(inverse) - 2) / (covariance.n_regions - 1)
    truth = mean_p2(torch.tensor(options.truth, dtype=torch.float64)).numpy()
    return _fit(measurement.bins["omega"].value, templates_of(edges), inverse, truth)[0]


def draw(rows, truth, pulls: np.ndarray, path: Path) -> None:
    """Plot the means with the truth, and the pulls with a normal distribution."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for box, color in zip(BOXES, ("#1f5fa8", "#d1622b"), strict=True):
        mean, sd = (np.array([row[k] for row in rows if row[0] == box]) for k in (1, 2))
        left.errorbar(
            *mean.T,
            yerr=sd[:, 1],
            xerr=sd[:, 0],
            fmt="o",
            ms=3,
            lw=0.5,
            alpha=0.8,
            color=color,
            label=f"halos of {box}",
        )
    left.axvline(truth[0], color="0.4", lw=0.8)
    left.axhline(truth[1], color="0.4", lw=0.8, label="truth")
    left.set(xlabel=r"$\mu_\mathrm{cen}$", ylabel=r"$\mu_\mathrm{sat}$")
    left.legend()
    x = np.linspace(-4, 4, 200)
    right.plot(x, stats.norm.pdf(x), color="0.4", label="normal")
    for i, name in enumerate(NAMES):
        right.hist(pulls[:, i], bins=np.arange(-4, 4.1, 0.5), density=True, histtype="step", lw=1.5, label=name)
    right.set(xlabel="pull")
    right.legend()
    figure.savefig(path, dpi=110)


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--n", type=int, default=50, help="number of data sets")
    parser.add_argument("--bins", default="tng300", help="paper, tng300 (default), or edges in Mpc/h")
    parser.add_argument("--regions", type=int, default=5, help="regions along each side of the box")
    parser.add_argument("--statistics", nargs="+", default=["omega"])
    parser.add_argument("--emulator", choices=THEORIES, default="network")
    parser.add_argument("--truth", nargs=2, type=float, default=[0.8, 0.3], metavar=("MU_CEN", "MU_SAT"))
    parser.add_argument("--distribution", nargs="+", choices=DISTRIBUTIONS, default=["t"])
    parser.add_argument("--emulator-error", nargs="+", choices=("on", "off"), default=["on"])
    parser.add_argument(
        "--mean-covariance", action="store_true", help="use the mean of all covariances for all data sets"
    )
    parser.add_argument("--linear", type=int, default=0, metavar="N", help="make linear fits to N mocks instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    if options.linear:
        print(linear(options))
        return
    measurements = measurements_of(options)
    for distribution in options.distribution:
        for error in options.emulator_error:
            choices = {"distribution": distribution, "emulator_error": error == "on"}
            report(recover(measurements, options, choices), options, choices)


def report(rows, options, choices: dict) -> None:
    """Print the pulls, and draw the figure if it is asked for."""
    boxes = np.array([row[0] for row in rows])
    mean, sd, share, linear_fits = (np.array([row[k] for row in rows]) for k in (1, 2, 3, 4))
    pulls = (mean - np.array(options.truth)) / sd
    n_bins = (len(parse_bins(options.bins)) - 1) * len(options.statistics)
    n_regions = options.regions**3
    noise = (1 / np.sqrt(options.n), 1 / np.sqrt(2 * options.n))
    print(
        f"\n{options.n} data sets, {', '.join(options.statistics)}, {n_bins} bins, {n_regions} regions, "
        f"{options.emulator}, {choices}"
    )
    if options.mean_covariance:
        print("all data sets have the mean covariance; compare the pulls with 'mean covariance' of --linear")
    elif len(options.statistics) == 1 and choices == {"distribution": "hartlap", "emulator_error": False}:
        print(f"expected standard deviation of pulls: {expected_pull_sd(n_regions, n_bins):.3f}")
    print(
        "\n| parameter | mean pull | on pm160a | on pm160b | sd of pulls | of linear fits to the same data "
        "| KS p-value | within 68 % | within 95 % | posterior sd |\n" + "|---" * 10 + "|"
    )
    for i, name in enumerate(NAMES):
        by_box = [pulls[boxes == box, i].mean() for box in BOXES]
        p_value = stats.kstest(pulls[:, i], "norm").pvalue
        print(
            f"| {name} ({options.truth[i]:g}) | {pulls[:, i].mean():+.2f} ± {noise[0]:.2f} "
            f"| {by_box[0]:+.2f} | {by_box[1]:+.2f} "
            f"| {pulls[:, i].std(ddof=1):.2f} ± {noise[1]:.2f} | {linear_fits[:, i].std(ddof=1):.2f} "
            f"| {p_value:.2f} | {(share[:, i] < 0.68).mean():.0%} | {(share[:, i] < 0.95).mean():.0%} "
            f"| {np.mean(sd[:, i]):.4f} |"
        )
    if options.figure:
        draw(rows, options.truth, pulls, options.figure)


if __name__ == "__main__":
    main()

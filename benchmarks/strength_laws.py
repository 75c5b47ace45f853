"""Fit the TNG300 samples with alignment strengths that do and do not depend on where a galaxy sits.

Four laws are fitted to the published omega(r) of each sample, and to all three with common parameters: constant
strengths; a slope of the strength of centrals in log host mass; a power law of the strength of satellites in r / Rvir;
and both. Priors are uniform: strengths in (-1, 1), mu_cen_slope in (-1, 1), mu_sat_slope in (-2, 2). Occupations are
those of Table 2 of the paper. The likelihood is that of the package with its defaults: a t-distribution where the
covariance comes from regions, and the error of the prediction. chi^2 is that of the best fit, of the covariance of the
data alone. Posterior and evidence are those of nautilus (Lange 2023, MNRAS 525, 3181; pip install nautilus-sampler).

    python benchmarks/strength_laws.py                       # the table; some minutes
    python benchmarks/strength_laws.py --figures FOLDER      # also mu_sat(r / Rvir), and the data with the fits
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cobaya.model import get_model
from common import OCCUPATION, benchmark_parser
from scipy.optimize import minimize
from tqdm import tqdm

import iaemu
from iaemu.halomodel.radial import RADII
from iaemu.halomodel.strengths import satellite_strengths
from iaemu.models.laws import VaryingStrengthModel
from iaemu.parameters import OCCUPATION_PARAMETERS
from iaemu_cobaya.gradients.log_posterior import LogPosterior

LIMITS = {"mu_cen": (-1.0, 1.0), "mu_sat": (-1.0, 1.0), "mu_cen_slope": (-1.0, 1.0), "mu_sat_slope": (-2.0, 2.0)}
LAWS = {
    "constant": (),
    "mass": ("mu_cen_slope",),
    "radius": ("mu_sat_slope",),
    "both": ("mu_cen_slope", "mu_sat_slope"),
}
SAMPLES = ((1,), (2,), (3,), (1, 2, 3))


@dataclass
class Fit:
    """A fit of a law to some samples.

    Attributes
    ----------
    names : tuple of str
        Parameters.
    points, weights : arrays (n, n_parameters), (n,)
        Posterior.
    log_evidence : float
    best : dict of str to float
        Best fit.
    chi2, p_value : dict of int to float
        By sample, at the best fit.
    n_bins : int
    """

    names: tuple[str, ...]
    points: np.ndarray
    weights: np.ndarray
    log_evidence: float
    best: dict[str, float]
    chi2: dict[int, float]
    p_value: dict[int, float]
    n_bins: int

    def moments(self, name: str) -> tuple[float, float]:
        column = self.points[:, self.names.index(name)]
        mean = np.average(column, weights=self.weights)
        return float(mean), float(np.sqrt(np.average((column - mean) ** 2, weights=self.weights)))


def make_model(tables, samples, law: str, data: dict):
    """Return the Cobaya model of a fit."""
    info: dict = {"theory": {}, "likelihood": {}, "params": {}}
    for sample in samples:
        tag = f"sample{sample}"
        names = {name: f"{name}_{sample}" for name in OCCUPATION_PARAMETERS}
        info["theory"][tag] = {
            "class": "iaemu_cobaya.TabulatedIA",
            "artifact": tables,
            "tag": tag,
            "param_map": names,
        }
        options = data if sample == 3 else {}
        info["likelihood"][f"iaemu_cobaya.TNG300Sample{sample}"] = {"tag": tag, "param_map": names, **options}
    for name in ("mu_cen", "mu_sat", *LAWS[law]):
        low, high = LIMITS[name]
        info["params"][name] = {"prior": {"min": low, "max": high}}
    return get_model(info)


def fit(tables, samples, law: str, seed: int, n_eff: int, data: dict) -> Fit:
    from nautilus import Sampler

    model = make_model(tables, samples, law, data)
    density = LogPosterior(model, rng=np.random.default_rng(seed))
    low, high = np.array([LIMITS[name] for name in density.names]).T
    volume = float(np.log(high - low).sum())

    def log_likelihood(x):
        with torch.no_grad():
            return density(torch.as_tensor(np.ascontiguousarray(x))).numpy() + volume

    sampler = Sampler(
        lambda unit: low + unit * (high - low),
        log_likelihood,
        n_dim=len(low),
        n_live=600,
        n_networks=2,
        vectorized=True,
        seed=seed,
        pass_dict=False,
    )
    sampler.run(n_eff=n_eff, verbose=False)
    points, log_weights, values = sampler.posterior()
    start = points[np.argmax(values)]
    found = minimize(lambda x: -log_likelihood(np.clip(x, low, high)[None])[0], start, method="Nelder-Mead")
    best = dict(zip(density.names, np.clip(found.x, low, high).tolist(), strict=True))
    model.loglike(best, return_derived=False)
    likes = {int(name[-1]): like for name, like in model.likelihood.items()}
    return Fit(
        tuple(density.names),
        points,
        np.exp(log_weights - log_weights.max()),
        float(sampler.log_z),
        best,
        {sample: like.chi2(like.theory_vector()) for sample, like in likes.items()},
        {sample: like.p_value(like.theory_vector()) for sample, like in likes.items()},
        sum(len(like.data_vector) for like in likes.values()),
    )


def clipped(tables, found: Fit) -> tuple[float, float]:
    """Return the largest shares, over samples, of centrals and satellites whose strength is limited at the best fit."""
    model = VaryingStrengthModel(tables)
    strengths = {**dict.fromkeys(LIMITS, 0.0), **found.best}
    shares = [
        model.clipped_share({**strengths, **dict(zip(OCCUPATION_PARAMETERS, OCCUPATION[sample], strict=True))})
        for sample in found.chi2
    ]
    return max(float(s["centrals"]) for s in shares), max(float(s["satellites"]) for s in shares)


def markdown(tables, fits: dict) -> str:
    lines = [
        "| samples | law | mu_cen | mu_cen_slope | mu_sat | mu_sat_slope | chi^2 / dof | p | ln Z gained | clipped |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (samples, law), found in fits.items():
        cells = [", ".join(map(str, samples)), law]
        for name in ("mu_cen", "mu_cen_slope", "mu_sat", "mu_sat_slope"):
            cells.append("{:.3f} ± {:.3f}".format(*found.moments(name)) if name in found.names else "")
        chi2 = ", ".join(f"{value:.1f}" for value in found.chi2.values())
        cells.append(f"{chi2} / {found.n_bins - len(found.names)}")
        cells.append(f"{next(iter(found.p_value.values())):.2g}" if len(samples) == 1 else "")
        cells.append(f"{found.log_evidence - fits[samples, 'constant'].log_evidence:+.1f}")
        cells.append("{:.1%}, {:.1%}".format(*clipped(tables, found)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot_strengths(fits: dict, path: Path) -> None:
    """Plot mu_sat(r / Rvir) of the fits of single samples, with bands of 68 and 95 %."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    rng, radius = np.random.default_rng(1), torch.as_tensor(RADII[RADII <= 1.05])
    for axis, (sample,) in zip(axes, SAMPLES[:3], strict=True):
        for law, colour in (("constant", "#8a8a8a"), ("radius", "#1f5fa8")):
            found = fits[(sample,), law]
            rows = rng.choice(len(found.points), 4000, p=found.weights / found.weights.sum())
            values = dict(zip(found.names, torch.as_tensor(found.points[rows]).T, strict=True))
            slope = values.get("mu_sat_slope", torch.zeros(len(rows), dtype=torch.float64))
            strengths = satellite_strengths(values["mu_sat"], slope, radius).numpy()
            quantiles = np.quantile(strengths, [0.025, 0.16, 0.5, 0.84, 0.975], axis=0)
            axis.fill_between(radius, quantiles[0], quantiles[4], color=colour, alpha=0.15, lw=0)
            axis.fill_between(radius, quantiles[1], quantiles[3], color=colour, alpha=0.35, lw=0)
            axis.plot(radius, quantiles[2], color=colour, label=law)
        axis.set(xscale="log", xlabel=r"$r / R_\mathrm{vir}$", title=f"TNG300 sample {sample}", xlim=(0.03, 1.05))
        axis.axhline(0.0, color="0.7", lw=0.8, zorder=0)
    axes[0].set(ylabel=r"$\mu_\mathrm{sat}$", ylim=(-0.3, 1.05))
    axes[0].legend(title="median, 68 and 95 %", fontsize=8, title_fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_data(tables, fits: dict, path: Path) -> None:
    """Plot the data of the three samples with the best fits of constant strengths and of the radial law."""
    from matplotlib import pyplot

    styles = (("constant", "#8a8a8a", "-"), ("mass", "#2f8f5b", ":"), ("radius", "#1f5fa8", "--"))
    figure, axes = pyplot.subplots(
        2, 3, figsize=(12, 6), sharex=True, layout="constrained", gridspec_kw={"height_ratios": [2, 1]}
    )
    for column, samples in enumerate(SAMPLES[:3]):
        upper, lower = axes[:, column]
        lower.axhspan(-1, 1, color="0.93")
        lower.axhline(0, color="0.6", lw=0.8)
        for law, colour, line in styles:
            found = fits[samples, law]
            model = make_model(tables, samples, law, {})
            model.loglike(found.best, return_derived=False)
            (like,) = model.likelihood.values()
            bins, omega = like.bins["omega"], like.theory_vector()
            r = 0.5 * (bins.r_low + bins.r_high)
            upper.plot(r, r * omega, line, color=colour, label=f"{law} ($\\chi^2$ = {found.chi2[samples[0]]:.1f})")
            lower.plot(r, (bins.value - omega) / bins.error, line, color=colour, marker=".")
        upper.errorbar(r, r * bins.value, r * bins.error, fmt="ko", ms=4, zorder=3)
        upper.set(xscale="log", title=f"TNG300 sample {samples[0]}")
        upper.legend(fontsize=8)
        lower.set(xlabel="r [Mpc/h]")
    axes[0, 0].set_ylabel(r"$r\,\omega(r)$ [Mpc/h]")
    axes[1, 0].set_ylabel("(data - fit) / error")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(argv=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--tables", type=Path, default="tables-pm160", help="tables (default: the shipped ones)")
    parser.add_argument("--sample3", default="{}", help="YAML options of the likelihood of sample 3")
    parser.add_argument("--n-eff", type=int, default=5000, help="effective draws of each fit (default: 5000)")
    parser.add_argument("--seed", type=int, default=1, help="seed (default: 1)")
    parser.add_argument("--figures", type=Path, default=None, help="folder for the two figures")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    import yaml

    tables, data = iaemu.load(options.tables), yaml.safe_load(options.sample3)
    jobs = [(samples, law) for samples in SAMPLES for law in LAWS]
    fits = {job: fit(tables, *job, options.seed, options.n_eff, data) for job in tqdm(jobs, desc="fits", unit="fit")}
    print(markdown(tables, fits))
    if options.figures is not None:
        options.figures.mkdir(parents=True, exist_ok=True)
        plot_strengths(fits, options.figures / "satellites_by_radius.png")
        plot_data(tables, fits, options.figures / "strength_laws.png")


if __name__ == "__main__":
    main()

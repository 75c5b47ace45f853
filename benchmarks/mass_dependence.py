"""Fit the TNG300 samples with alignment strengths of centrals that do and do not depend on halo mass.

The model mu_cen(M) = mu_cen + mu_cen_slope (log10 M - pivot), limited to [-1, 1], is fitted to the published omega(r)
of each sample, and to all three with common parameters. Priors are uniform in (-1, 1) for each parameter. Means and
standard deviations are integrals over grids, as in tng_posteriors.py: omega is linear in q(mu_sat), so chi^2 is a
parabola in q(mu_sat) at each (mu_cen, slope). This needs a covariance that does not depend on the parameters, so the
fits are without the error of the prediction. The samples have galaxies in common, but the joint fits treat them as
independent.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from tng_posteriors import LIKELIHOODS, OCCUPATION
from tqdm import tqdm

from iaemu.halomodel.alignment import mean_p2
from iaemu.models.laws import PIVOT, MassDependentModel
from iaemu_cobaya.likelihoods.distribution import Block, hotelling_p_value

#: Name, samples, and options of the likelihood of sample 3.
FITS = (
    ("1", (1,), {}),
    ("2", (2,), {}),
    ("3", (3,), {}),
    ("3, gaussian", (3,), {"distribution": "gaussian"}),
    ("3, 14 bins", (3,), {"data": "tng300/sample3", "r_max": 13.9}),
    ("3, errors only", (3,), {"covariance": "diagonal"}),
    ("all", (1, 2, 3), {}),
    ("all; 3 gaussian", (1, 2, 3), {"distribution": "gaussian"}),
    ("all; 3 errors only", (1, 2, 3), {"covariance": "diagonal"}),
)
NAMES = ("mu_cen", "mu_cen_slope", "mu_sat")
_BATCH = 2000
#: Difference in chi^2 from the minimum up to which the posterior is integrated.
_REACH = 40.0


@dataclass
class Fit:
    """A fit of a model to some samples.

    Attributes
    ----------
    samples : tuple of int
        Numbers of the samples.
    own_mu_sat : bool
        Whether each sample has its own mu_sat.
    mean, sd : dict of str to float
        Mean and standard deviation of the posterior; with ``mu_sat``, or ``mu_sat_1``, ... for each sample.
    best : dict of str to float
        Best fit.
    by_sample : dict of int to float
        chi^2 of each sample at the best fit.
    n_bins, n_parameters : int
        Numbers of bins and of parameters.
    n_regions : set of int or None
        Numbers of regions of the covariances.
    """

    samples: tuple[int, ...]
    own_mu_sat: bool
    mean: dict[str, float]
    sd: dict[str, float]
    best: dict[str, float]
    by_sample: dict[int, float]
    n_bins: int
    n_parameters: int
    n_regions: set

    @property
    def chi2(self) -> float:
        return sum(self.by_sample.values())

    @property
    def p_value(self) -> float:
        """Probability of a larger chi^2; NaN for several samples of which one has a covariance from regions."""
        if len(self.samples) > 1 and self.n_regions != {None}:
            return float("nan")
        (n_regions,) = self.n_regions
        return hotelling_p_value(self.chi2, self.n_bins, self.n_parameters, n_regions)

    @property
    def dof(self) -> int:
        return self.n_bins - self.n_parameters

    def strengths(self, sample: int) -> tuple[float, float, float]:
        """Return mu_cen, mu_sat and the slope at the best fit."""
        mu_sat = self.best[f"mu_sat_{sample}" if self.own_mu_sat else "mu_sat"]
        return self.best["mu_cen"], mu_sat, self.best["mu_cen_slope"]


class Fitter:
    """Posteriors of samples at fixed occupation.

    Parameters
    ----------
    model : MassDependentModel
        The model.
    options : dict
        Options of the likelihood of sample 3.
    """

    def __init__(self, model: MassDependentModel, options: dict | None = None):
        options = {3: options or {}}
        self.likelihoods = {
            sample: like({"emulator_error": False, **options.get(sample, {})}) for sample, like in LIKELIHOODS.items()
        }
        self.predictions, self.blocks = {}, {}
        for sample, like in self.likelihoods.items():
            edges, _ = like.bins["omega"].edges()
            self.predictions[sample] = model.at_occupation(OCCUPATION[sample], edges, ("omega",))
            bins = np.arange(len(like.data_vector))
            self.blocks[sample] = Block(["omega"], bins, like.n_regions["omega"], like.distribution)

    def omega(self, sample: int, strengths) -> np.ndarray:
        """Predict omega (n, n_bins) at ``strengths`` (n, 3): mu_cen, mu_sat, slope."""
        with torch.no_grad():
            rows = torch.as_tensor(np.atleast_2d(strengths), dtype=torch.float64)
            return torch.cat([self.predictions[sample](part)["omega"] for part in rows.split(_BATCH)]).numpy()

    def chi2(self, sample: int, strengths) -> float:
        return self.likelihoods[sample].chi2(self.omega(sample, strengths)[0])

    def loss(self, sample: int, chi2, n_parameters: int):
        """Return -2 log-likelihood for chi^2, both of any shape."""
        block = self.blocks[sample]
        power = block.power(n_parameters)
        return chi2 if power is None else power * np.log1p(chi2 / (block.n_regions - 1))

    def parabolas(self, sample: int, mu_cen, slope) -> np.ndarray:
        """Return chi^2 as polynomials (n, 3) in q(mu_sat), lowest power first."""
        zero = np.zeros_like(mu_cen)
        central = self.omega(sample, np.stack([mu_cen, zero, slope], axis=1))
        satellite = self.omega(sample, [0.0, 1.0, 0.0])[0]
        inverse = self.likelihoods[sample].inverse_covariance
        left = self.likelihoods[sample].data_vector - central
        return np.stack(
            [
                np.einsum("ni,ij,nj->n", left, inverse, left, optimize=True),
                -2.0 * left @ inverse @ satellite,
                np.full(len(left), satellite @ inverse @ satellite),
            ],
            axis=1,
        )

    def fit(self, samples, free_slope: bool, own_mu_sat: bool = False, n_grid: int = 121) -> Fit:
        """Integrate the posterior on a grid over the prior, then on a finer one around its maximum."""
        limits = {"mu_cen": (-1.0, 1.0), "mu_cen_slope": (-1.0, 1.0) if free_slope else (0.0, 0.0)}
        groups = [(sample,) for sample in samples] if own_mu_sat else [tuple(samples)]
        limits |= {f"mu_sat{i}": (-1.0, 1.0) for i in range(len(groups))}
        for _ in range(3):
            axes = {name: np.linspace(*limit, n_grid if limit[0] < limit[1] else 1) for name, limit in limits.items()}
            mu_cen, slope = (
                values.ravel() for values in np.meshgrid(axes["mu_cen"], axes["mu_cen_slope"], indexing="ij")
            )
            losses = []  # (n, n_mu_sat) of each group, which share mu_cen and slope
            for i, group in enumerate(groups):
                q = mean_p2(torch.as_tensor(axes[f"mu_sat{i}"])).numpy()
                powers = np.stack([np.ones_like(q), q, q**2])
                losses.append(
                    sum(
                        self.loss(sample, self.parabolas(sample, mu_cen, slope) @ powers, 2 + free_slope)
                        for sample in group
                    )
                )
            lowest = sum(values.min(axis=1) for values in losses)
            least = float(lowest.min())
            # Weights are relative to the minimum of each group, so that their product does not underflow.
            weights = [np.exp(-0.5 * (values - values.min(axis=1, keepdims=True))) for values in losses]
            total = np.exp(-0.5 * (lowest - least)) * np.prod([w.sum(axis=1) for w in weights], axis=0)
            total /= total.sum()
            moments = {"mu_cen": _moments(mu_cen, total), "mu_cen_slope": _moments(slope, total)}
            inside = lowest - least < _REACH
            limits = {
                "mu_cen": _zoom(axes["mu_cen"], mu_cen[inside]),
                "mu_cen_slope": _zoom(axes["mu_cen_slope"], slope[inside]),
            }
            for i, (values, weight) in enumerate(zip(losses, weights, strict=True)):
                marginal = total @ (weight / weight.sum(axis=1, keepdims=True))
                moments[f"mu_sat{i}"] = _moments(axes[f"mu_sat{i}"], marginal)
                rest = (lowest - values.min(axis=1))[:, None]
                reached = ((rest + values)[inside] - least < _REACH).any(axis=0)
                limits[f"mu_sat{i}"] = _zoom(axes[f"mu_sat{i}"], axes[f"mu_sat{i}"][reached])
        row = int(np.argmin(lowest))
        start = [mu_cen[row], slope[row]]
        start += [axes[f"mu_sat{i}"][np.argmin(values[row])] for i, values in enumerate(losses)]
        return self._finish(tuple(samples), free_slope, own_mu_sat, moments, np.array(start))

    def _finish(self, samples, free_slope, own_mu_sat, moments, start) -> Fit:
        free = np.array([True, free_slope] + [True] * (len(start) - 2))

        def parts(x):
            point = start.copy()
            point[free] = x
            return {
                sample: self.chi2(sample, [point[0], point[2 + (i if own_mu_sat else 0)], point[1]])
                for i, sample in enumerate(samples)
            }

        def loss(x):
            return sum(self.loss(sample, chi2, 2 + free_slope) for sample, chi2 in parts(x).items())

        found = minimize(
            loss,
            start[free],
            method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-8, "maxiter": 4000, "initial_simplex": _simplex(start[free])},
        )
        best = start.copy()
        best[free] = found.x
        satellites = [f"mu_sat_{sample}" for sample in samples] if own_mu_sat else ["mu_sat"]
        keys = ["mu_cen", "mu_cen_slope", *(f"mu_sat{i}" for i in range(len(satellites)))]
        names = ["mu_cen", "mu_cen_slope", *satellites]
        return Fit(
            samples,
            own_mu_sat,
            mean={name: moments[key][0] for name, key in zip(names, keys, strict=True)},
            sd={name: moments[key][1] for name, key in zip(names, keys, strict=True)},
            best=dict(zip(names, best.tolist(), strict=True)),
            by_sample=parts(found.x),
            n_bins=sum(len(self.likelihoods[sample].data_vector) for sample in samples),
            n_parameters=int(free.sum()),
            n_regions={self.blocks[sample].n_regions for sample in samples},
        )


def _moments(values, weight) -> tuple[float, float]:
    mean = float(values @ weight)
    return mean, float(np.sqrt((values - mean) ** 2 @ weight))


def _zoom(axis, reached) -> tuple[float, float]:
    """Return the limits of the relevant part of an axis, plus one step."""
    step = axis[1] - axis[0] if len(axis) > 1 else 0.0
    return max(axis[0], reached.min() - step), min(axis[-1], reached.max() + step)


def _simplex(x) -> np.ndarray:
    return np.concatenate([x[None], x + 0.003 * np.eye(len(x))])


def fit_all(model: MassDependentModel, progress: bool = True) -> dict[tuple[str, str], Fit]:
    """Make all fits, by name in ``FITS`` and model ("one strength", "with slope", or these "..., own mu_sat")."""
    found = {}
    fitters = {str(options): Fitter(model, options) for _, _, options in FITS}
    for name, samples, options in tqdm(FITS, desc="fits", unit="fit", disable=not progress):
        for label, free_slope in (("one strength", False), ("with slope", True)):
            fitter = fitters[str(options)]
            found[name, label] = fitter.fit(samples, free_slope)
            if len(samples) > 1:
                found[name, f"{label}, own mu_sat"] = fitter.fit(samples, free_slope, own_mu_sat=True)
    return found


def clipped(model: MassDependentModel, fit: Fit) -> float:
    """Return the largest share of centrals, over samples, whose strength is limited to 1 or -1."""
    shares = []
    for sample in fit.samples:
        mu_cen, mu_sat, slope = fit.strengths(sample)
        shares.append(float(model.clipped_share([mu_cen, mu_sat, *OCCUPATION[sample], slope])))
    return max(shares)


def markdown(found: dict, model: MassDependentModel) -> str:
    lines = [
        "| sample | model | mu_cen | slope [1/dex] | mu_sat | chi^2 / dof | p | chi^2 gained by the slope | clipped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, label), fit in found.items():
        satellites = [key for key in fit.mean if key.startswith("mu_sat")]
        gain, share = "", ""
        if fit.n_parameters > len(satellites) + 1:
            gain = f"{found[name, label.replace('with slope', 'one strength')].chi2 - fit.chi2:.1f}"
            share = f"{clipped(model, fit):.2%}"
        slope = f"{fit.mean['mu_cen_slope']:.3f} ± {fit.sd['mu_cen_slope']:.3f}" if gain else "0"
        values = ", ".join(f"{fit.mean[key]:.3f} ± {fit.sd[key]:.3f}" for key in satellites)
        lines.append(
            f"| {name} | {label} | {fit.mean['mu_cen']:.3f} ± {fit.sd['mu_cen']:.3f} | {slope} | {values} | "
            f"{fit.chi2:.1f} / {fit.dof} | {'' if np.isnan(fit.p_value) else f'{fit.p_value:.2g}'} | {gain} | {share} |"
        )
    return "\n".join(lines)


def parts(found: dict) -> str:
    """Return a table of the chi^2 of each sample in the joint fits."""
    lines = ["| fit | model | sample 1 | sample 2 | sample 3 |", "|---|---|---|---|---|"]
    for (name, label), fit in found.items():
        if len(fit.samples) > 1:
            lines.append(f"| {name} | {label} | " + " | ".join(f"{v:.1f}" for v in fit.by_sample.values()) + " |")
    return "\n".join(lines)


def figure(found: dict, model: MassDependentModel, path) -> None:
    """Plot the data of the three samples with the best fits."""
    from matplotlib import pyplot

    fitter = Fitter(model)
    styles = (
        ("own fit, one strength", lambda sample: found[str(sample), "one strength"], "#1f5fa8", "-"),
        ("own fit, with slope", lambda sample: found[str(sample), "with slope"], "#d1622b", "--"),
        ("joint fit, one strength", lambda sample: found["all", "one strength"], "#8a8a8a", "-"),
        ("joint fit, with slope", lambda sample: found["all", "with slope"], "#2f8f5b", "--"),
    )
    fig, axes = pyplot.subplots(
        2, 3, figsize=(12, 6), sharex=True, layout="constrained", gridspec_kw={"height_ratios": [2, 1]}
    )
    for column, sample in enumerate(LIKELIHOODS):
        like = fitter.likelihoods[sample]
        bins = like.bins["omega"]
        r = 0.5 * (bins.r_low + bins.r_high)
        upper, lower = axes[:, column]
        upper.errorbar(r, r * bins.value, r * bins.error, fmt="ko", ms=4, zorder=3)
        lower.axhspan(-1, 1, color="0.93")
        lower.axhline(0, color="0.6", lw=0.8)
        for label, fit, color, line in styles:
            omega = fitter.omega(sample, fit(sample).strengths(sample))[0]
            chi2 = fit(sample).by_sample[sample]
            upper.plot(r, r * omega, line, color=color, label=f"{label} ($\\chi^2$ = {chi2:.1f})")
            lower.plot(r, (bins.value - omega) / bins.error, line, color=color, marker=".")
        upper.set(xscale="log", title=f"TNG300 sample {sample}")
        upper.legend(fontsize=7.5)
        lower.set(xlabel="r [Mpc/h]")
    axes[0, 0].set_ylabel(r"$r\,\omega(r)$ [Mpc/h]")
    axes[1, 0].set_ylabel("(data - fit) / error")
    fig.savefig(path, dpi=110)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pivot", type=float, default=PIVOT, help=f"log10 of the pivot mass in Msun/h (default: {PIVOT:g})"
    )
    parser.add_argument("--figure", type=Path, default=None, help="also plot the best fits to this file")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    model = MassDependentModel.load(pivot=options.pivot)
    found = fit_all(model)
    print(markdown(found, model), parts(found), sep="\n\n")
    if options.figure is not None:
        figure(found, model, options.figure)


if __name__ == "__main__":
    main()

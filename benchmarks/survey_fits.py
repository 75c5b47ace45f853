"""What chains of surveys say of amplitudes, bias and occupation, and the variants of the fit of LOWZ.

    cobaya-run yaml_examples/lowz_wgplus.yaml -f
    python benchmarks/survey_fits.py chains/lowz_wgplus chains/gama_red chains/tng300_projected

Derived from each draw, with the emulator at the redshift of the data: the products a q(mu) that w_g+ measures; bias,
A_IA and mean host mass of the large scales (beyond 10 Mpc/h); number density and fraction of satellites.

Beside it is a fit of linear alignment alone (NLA) by generalised least squares: w_gg = b^2 w_mm, w_g+ = b F w_Xi2 at
r_p > 6 Mpc/h, with the correlations of matter of HMcode at the redshift of the data and the covariance of the data.

With --figure, A_IA is drawn against the mean host mass, beside the relation for red galaxies that firecrown
has as a default, A_IA = 5.74 (M_h / 10^13.5 Msun/h)^0.44.

The variants fit a q(mu_cen) and a q(mu_sat) to w_g+ by least squares, at the best occupation of the chain, with the
covariance of the data alone: with w at the published separations, and averaged over the bins of w_gg.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import benchmark_parser
from matplotlib.figure import Figure

import iaemu
from iaemu import Projection
from iaemu.halomodel.abundance import growth_factor
from iaemu.halomodel.alignment import mean_p2
from iaemu.observables.large_scale import C1_RHO_CRITICAL, LargeScales
from iaemu.observables.projected import cylinder_weights
from iaemu.parameters import PARAMETERS
from iaemu_cobaya import LOWZ, ProjectedCorrelations
from iaemu_cobaya.chains import load_chain
from iaemu_cobaya.chains.rebuild import rebuild_model
from iaemu_cobaya.theories.base import ForwardModelTheory

#: Number of draws that are evaluated.
N_DRAWS = 500


def redshift_of(root: str) -> float:
    """At which the theory of a run predicts."""
    theories = rebuild_model(load_chain(root), ProjectedCorrelations).theory.values()
    return next(theory.model.redshift for theory in theories if isinstance(theory, ForwardModelTheory))


def derived(root: str, model: iaemu.ForwardModel) -> dict[str, np.ndarray]:
    """Quantities of N_DRAWS draws of a chain by name."""
    rows = load_chain(root).draws(N_DRAWS, seed=0)
    theta = torch.tensor([[row[name] for name in PARAMETERS] for row in rows], dtype=torch.float64)
    a_shape = np.sqrt(15 / 8) * np.array([row["e_rms"] for row in rows])
    q = mean_p2(theta[:, :2]).numpy()
    found = model.large_scale(theta.numpy(), support="warn")
    return {
        "a q(mu_cen)": a_shape * q[:, 0],
        "a q(mu_sat)": a_shape * q[:, 1],
        "b_g": found.b_g,
        "A_IA": a_shape * found.A_IA,
        "log10 M_h": found.log10_M_h,
        "1e4 n_gal": 1e4 * found.n_gal,
        "f_sat": found.f_sat,
    }


def linear_alignment(like: ProjectedCorrelations, pi_max: float, cosmology: dict, r_min: float = 6.0) -> str:
    """b and A_IA of the NLA model alone, fitted to w_gg and w_g+ beyond r_min, as text."""
    z = float(like.measurement.metadata["redshift"])
    edges = np.geomspace(0.5 * r_min, 240.0, 3000)
    matter, design, kept = LargeScales.shipped(z).in_shells(edges), [], []
    for column, name in enumerate(("w_gg", "w_gplus")):
        bins = like.bins[name]
        weights = cylinder_weights(edges, bins.r_low, bins.r_high, pi_max)[column] @ matter[column]
        far = np.sqrt(bins.r_low * bins.r_high) > r_min
        kept.append(far)
        design.append(np.outer(weights[far], np.arange(2) == column) * (1.0, 2.0 / 3.0)[column])
    chosen = np.concatenate(kept)
    design = np.concatenate(design)
    data, covariance = like.data_vector[chosen], like.covariance_matrix[np.ix_(chosen, chosen)]
    inverse = np.linalg.inv(covariance)
    errors = np.linalg.inv(design.T @ inverse @ design)
    best = errors @ design.T @ inverse @ data
    bias = np.sqrt(best[0])
    to_A_IA = growth_factor(cosmology["Om"], z) / (C1_RHO_CRITICAL * cosmology["Om"])
    slopes = to_A_IA * np.array([-0.5 * best[1] / bias**3, 1.0 / bias])
    residuals = data - design @ best
    return (
        f"z = {z:g}: b = {bias:.3f} ± {np.sqrt(errors[0, 0]) / (2 * bias):.3f}, "
        f"A_IA = {to_A_IA * best[1] / bias:.2f} ± {np.sqrt(slopes @ errors @ slopes):.2f}, "
        f"chi^2 = {residuals @ inverse @ residuals:.1f} for {len(data)} bins"
    )


def least_squares(model: iaemu.ForwardModel, occupation, projection: Projection, data, covariance) -> str:
    """Fit the two products to w_g+, as text."""
    found = model.project(np.array([0.5, 0.5, *occupation]), projection, support="warn")
    design = np.stack([found.centrals, found.satellites], axis=1) / float(mean_p2(torch.tensor(0.5)))
    inverse = np.linalg.inv(covariance)
    errors = np.linalg.inv(design.T @ inverse @ design)
    best = errors @ design.T @ inverse @ data
    residuals = data - design @ best
    values = " | ".join(f"{one:.4f} ± {np.sqrt(error):.4f}" for one, error in zip(best, np.diag(errors), strict=True))
    return f"{values} | {residuals @ inverse @ residuals:.1f} / {len(data) - 2}"


def picture(tables: dict[str, dict[str, np.ndarray]]) -> Figure:
    """A_IA against the mean host mass of each chain."""
    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    axes = figure.subplots()
    mass = np.linspace(12.0, 14.5, 50)
    axes.plot(mass, 5.74 * 10 ** (0.44 * (mass - 13.5)), "k--", label="default of firecrown (red galaxies)")
    for name, table in tables.items():
        values = [(table[key].mean(), table[key].std()) for key in ("log10 M_h", "A_IA")]
        axes.errorbar(values[0][0], values[1][0], values[1][1], values[0][1], "o", label=Path(name).name)
    axes.set(xlabel=r"mean $\log_{10} M_h$ [$M_\odot/h$]", ylabel=r"$A_\mathrm{IA}$", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("chains", nargs="+")
    parser.add_argument("--figure", type=Path, help="picture of A_IA against host mass to write")
    parser.add_argument("--redshift", type=float, help="of the prediction (default: that of each run)")
    options = parser.parse_args(arguments)
    at = {root: redshift_of(root) if options.redshift is None else options.redshift for root in options.chains}
    tables = {root: derived(root, iaemu.load(redshift=redshift)) for root, redshift in at.items()}
    names = list(next(iter(tables.values())))
    print("| chain | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for root, table in tables.items():
        print(f"| {root} | " + " | ".join(f"{table[n].mean():.3f} ± {table[n].std():.3f}" for n in names) + " |")
    if options.figure is not None:
        picture(tables).savefig(options.figure, dpi=160)
    for root in options.chains:
        if "lowz" not in root:
            continue
        model = iaemu.load(redshift=at[root])
        best = load_chain(root).best()
        occupation = [best[name] for name in PARAMETERS[2:]]
        like = LOWZ()
        print(f"\nNLA alone, r_p > 6 Mpc/h, LOWZ: {linear_alignment(like, 100.0, model.cosmology)}")
        part, bins = like.slices["w_gplus"], like.bins["w_gplus"]
        data, covariance = like.data_vector[part], like.covariance_matrix[part, part]
        edges, published = np.geomspace(0.1, 200.0, 21), np.geomspace(0.1, 200.0, 20)
        index = np.abs(np.log(published[:, None] / bins.r_low)).argmin(axis=0)
        print("\n| separations of w_g+ of LOWZ | a q(mu_cen) | a q(mu_sat) | chi^2 / dof |\n|---|---|---|---|")
        for label, limits in (
            ("as published", (bins.r_low, bins.r_high)),
            ("the bins of w_gg", (edges[index], edges[index + 1])),
        ):
            projection = Projection.between({"w_gplus": limits}, 100.0)
            print(f"| {label} | {least_squares(model, occupation, projection, data, covariance)} |")


if __name__ == "__main__":
    main()

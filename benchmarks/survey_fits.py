"""What chains of surveys say of amplitudes, bias and occupation, and the variants of the fit of LOWZ.

    cobaya-run yaml_examples/lowz_wgplus.yaml -f
    python benchmarks/survey_fits.py chains/lowz_wgplus chains/gama_red chains/tng300_projected

Derived from each draw, with the emulator: the products a q(mu) that w_g+ measures; the bias b and the amplitude A_IA of
the large scales, A_IA = (3/2) K / (b C1 rho_cr Om) from xi = b^2 xi_mm and (1 + xi) omega = K Xi_2 beyond 10 Mpc/h, at
the redshift of the halo catalogues (with C1 rho_cr = 0.0134); number density and fraction of satellites.

The variants fit a q(mu_cen) and a q(mu_sat) to w_g+ by least squares, at the best occupation of the chain, with the
covariance of the data alone: with w at the published separations, and averaged over the bins of w_gg.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import iaemu
from iaemu import Projection
from iaemu.halomodel.alignment import mean_p2
from iaemu.parameters import PARAMETERS
from iaemu_cobaya import LOWZ
from iaemu_cobaya.chains import load_chain

#: C1 rho_cr, and density of matter of the shipped halo catalogues.
C1_RHO, OM = 0.0134, 0.30711

#: Number of draws that are evaluated.
N_DRAWS = 500


def derived(root: str, model: iaemu.ForwardModel) -> dict[str, np.ndarray]:
    """Quantities of N_DRAWS draws of a chain by name."""
    rows = load_chain(root).draws(N_DRAWS, seed=0)
    theta = torch.tensor([[row[name] for name in PARAMETERS] for row in rows], dtype=torch.float64)
    a_shape = np.sqrt(15 / 8) * np.array([row["e_rms"] for row in rows])
    q = mean_p2(theta[:, :2])
    shells = model._shells(theta)
    matrices = Projection.of(None, 60.0, [1.0]).matrices(model.nodes)
    bias = np.sqrt((shells["xi"] @ torch.as_tensor(matrices.bias.T))[:, 0].numpy())
    oriented = (1 + shells["xi"]) * (q[:, :1] * shells["A_c"] + q[:, 1:] * shells["A_s"])
    K = a_shape * (oriented @ torch.as_tensor(matrices.alignment.T))[:, 0].numpy()
    return {
        "a q(mu_cen)": a_shape * q[:, 0].numpy(),
        "a q(mu_sat)": a_shape * q[:, 1].numpy(),
        "b": bias,
        "A_IA": 1.5 * K / (bias * C1_RHO * OM),
        "1e4 n_gal": 1e4 * shells["n_gal"].numpy(),
        "f_sat": shells["f_sat"].numpy(),
    }


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


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chains", nargs="+")
    options = parser.parse_args(arguments)
    model = iaemu.load()
    tables = {root: derived(root, model) for root in options.chains}
    names = list(next(iter(tables.values())))
    print("| chain | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for root, table in tables.items():
        print(f"| {root} | " + " | ".join(f"{table[n].mean():.3f} ± {table[n].std():.3f}" for n in names) + " |")
    for root in options.chains:
        if "lowz" not in root:
            continue
        best = load_chain(root).best()
        occupation = [best[name] for name in PARAMETERS[2:]]
        like = LOWZ()
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

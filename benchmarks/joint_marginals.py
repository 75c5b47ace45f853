"""Compare the alignment strengths of a joint chain with those of a chain of the alignment alone, and with a grid.

    cobaya-run yaml_examples/joint_lensing.yaml && cobaya-run yaml_examples/tng_sample1_mcmc.yaml
    python benchmarks/joint_marginals.py chains/joint_lensing chains/tng_sample1_mcmc --figure joint_lensing.png

The alignment model does not depend on the sampled cosmology, so the marginal distributions must be the same. Prints the
mean, the standard deviation and the number of effective draws (the smaller of bulk and tail) of all sampled parameters;
and for the strengths, the difference from integration on a grid in standard deviations, and the ratio of the widths.
"""

from __future__ import annotations

import logging

import numpy as np
from common import OCCUPATION, benchmark_parser
from tng_posteriors import on_grid

from iaemu.models.factorised import Emulator
from iaemu.sampling import diagnostics
from iaemu_cobaya import TNG300Sample1
from iaemu_cobaya.chains import Chain, load_chain
from iaemu_cobaya.chains.plotting import COLORS

ALIGNMENT = ("mu_cen", "mu_sat")
COSMOLOGY = ("omegam", "sigma8")
N_PARTS = 4


def names_in(chain: Chain) -> list[str]:
    """Return the names of mu_cen and mu_sat in a run."""
    maps = [(theory or {}).get("param_map") or {} for theory in chain.info["theory"].values()]
    renamed = {ours: name for entries in maps for ours, name in entries.items()}
    return [renamed.get(name, name) for name in ALIGNMENT]


def effective_draws(chain: Chain, name: str) -> float:
    """Return the smaller of the effective draws in bulk and tail, from four parts of the rows, repeated by weight."""
    values = np.repeat(chain.column(name), chain.column("weight").astype(int))
    n = len(values) // N_PARTS
    parts = values[: N_PARTS * n].reshape(N_PARTS, n, 1)
    return float(min(diagnostics.ess(parts)[0], diagnostics.ess(parts, "tail")[0]))


def draw(chains, path: str, dpi: int = 130) -> None:
    """Plot the contours of the strengths from all chains, and of the cosmology from the first."""
    from getdist import MCSamples, plots

    labels = {"mu_cen": r"\mu_\mathrm{cen}", "mu_sat": r"\mu_\mathrm{sat}"}
    samples = [
        MCSamples(
            samples=np.stack([chain.column(name) for name in names_in(chain)], axis=1),
            weights=chain.column("weight"),
            names=list(ALIGNMENT),
            labels=[labels[name] for name in ALIGNMENT],
        )
        for chain in chains
    ]
    plotter = plots.get_subplot_plotter(width_inch=9.0)
    plotter.settings.axes_fontsize = 11
    plotter.settings.axes_labelsize = 14
    plotter.settings.legend_fontsize = 11
    plotter.make_figure(nx=2, ny=1, xstretch=1.25)
    plotter.plot_2d(samples[:1], *ALIGNMENT, ax=(0, 0), filled=True, colors=COLORS[:1])
    for index, sample in enumerate(samples[1:], start=1):
        plotter.plot_2d([sample], *ALIGNMENT, ax=(0, 0), colors=COLORS[index : index + 1], line_offset=index)
    plotter.add_legend([chain.name for chain in chains], legend_loc="lower left")
    plotter.plot_2d([chains[0].samples], *COSMOLOGY, ax=(0, 1), filled=True, colors=COLORS[:1])
    plotter.fig.set_layout_engine("constrained")
    plotter.fig.savefig(path, dpi=dpi, bbox_inches="tight")


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("joint", help="output prefix of the joint chain")
    parser.add_argument("alone", nargs="*", help="output prefixes of runs of TNG300Sample1 alone")
    parser.add_argument("--figure", default=None, help="also plot the contours to this file")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    chains = [load_chain(prefix) for prefix in (options.joint, *options.alone)]
    alone = on_grid(TNG300Sample1(), Emulator.load(), OCCUPATION[1])
    grid = dict(zip(ALIGNMENT, zip(alone.mean, alone.sd, strict=True), strict=True))
    print("| chain | parameter | mean ± sd | effective draws | mean - grid [sigma] | width / grid |")
    print("|---|---|---|---|---|---|")
    for chain in chains:
        ours = dict(zip(names_in(chain), ALIGNMENT, strict=True))
        weights = chain.column("weight")
        others = [name for name in ("H0", *COSMOLOGY) if name in chain.rows]
        for name in (*chain.sampled, *others):
            values = chain.column(name)
            mean = np.average(values, weights=weights)
            sd = np.sqrt(np.average((values - mean) ** 2, weights=weights))
            cells = ["", ""]
            if name in ours:
                expected, width = grid[ours[name]]
                cells = [f"{(mean - expected) / width:+.3f}", f"{sd / width:.3f}"]
            n = effective_draws(chain, name)
            print(f"| {chain.name} | {name} | {mean:.4f} ± {sd:.4f} | {n:.0f} | {cells[0]} | {cells[1]} |")
    if options.figure:
        draw(chains, options.figure)


if __name__ == "__main__":
    main()

"""Print what a chain says of the alignment amplitude A_IA, as a Gaussian prior for lensing likelihoods.

A_IA of the NLA model, of the galaxies of the run, follows from its alignment strengths, occupation and shape
amplitude (docs/how_to/lensing.md). It is printed with lines for Cobaya, CosmoSIS and firecrown, and plotted. The width
holds the posterior, and the error because the halo catalogues are finite, as far as the data leave it open.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu.files import write_whole
from iaemu_training.commands.options import add_json, number, read_options
from iaemu_training.commands.printing import note, show


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add = parser.add_argument
    add("chain", type=str, metavar="CHAIN", help="output of a run, as in its YAML file: chains/lowz_wgplus")
    add(
        "--redshifts",
        nargs="+",
        type=number(float, above=-1, at_most=10),
        metavar="Z",
        help="redshifts of A_IA, for the same strengths and occupation (default: that of the run's prediction)",
    )
    add(
        "--e-rms",
        type=number(float, above=0, at_most=2),
        metavar="E",
        help="rms ellipticity of the sample (both components), in units of shear, if the run has no parameter for it",
    )
    add("--burn-in", type=float, metavar="SHARE", help="share of each chain to drop, as of iaemu plot")
    add(
        "-n",
        "--n-draws",
        type=number(int, at_least=20, at_most=100_000),
        default=1000,
        help="number of draws of the chain (default: %(default)s)",
    )
    add(
        "-o",
        "--output",
        type=Path,
        metavar="PICTURE",
        help="picture to write, .png or .pdf (default: beside the chain, CHAIN_A_IA.png)",
    )
    add_json(parser, "the numbers")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Run the command."""
    add_options(parser)
    arguments = read_options(parser, argv, check=False)
    from iaemu_cobaya.chains.amplitude import amplitude_priors, prior_plot, text_of
    from iaemu_cobaya.chains.reading import ChainError, load_chain
    from iaemu_cobaya.theories.derived import SHAPE_PARAMETERS

    chain = load_chain(arguments.chain, arguments.burn_in)
    path = arguments.output or chain.root.with_name(f"{chain.name}_A_IA.png")
    if path.suffix not in (".png", ".pdf"):
        raise ChainError(f"--output: the picture must end in .png or .pdf; got {str(path)!r}.")
    amplitude = None if arguments.e_rms is None else SHAPE_PARAMETERS["e_rms"] * arguments.e_rms
    priors = amplitude_priors(chain, arguments.redshifts, amplitude, arguments.n_draws, progress=not arguments.quiet)
    document = [
        {
            "theory": one.theory,
            "redshift": one.redshift,
            "A_IA": {"mean": one.mean, "std": one.sigma, "posterior": float(one.values["A_IA"].std()), "box": one.box},
            **{
                name: {"mean": float(values.mean()), "std": float(values.std())}
                for name, values in one.values.items()
                if name != "A_IA"
            },
        }
        for one in priors
    ]
    show(arguments, text_of(priors), {"chain": chain.name, "priors": document, "plots": [path]})
    figure = prior_plot(priors)
    write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:], dpi=160))
    note(arguments, f"wrote {path}")

"""Compute the posteriors of the three TNG300 samples of arXiv:2504.05235 anew, beside its Table 2 and Figures 6 and 7.

Each sample is fitted with the emulator and with the tables by HMC, without and with the error of the prediction; and
with halotools-IA mocks. Takes two hours or more on 2 cores, some minutes with --no-mocks. If it is interrupted, run the
same command again: it resumes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iaemu.files import sha256_of_file, write_text, write_whole
from iaemu.ranges import Range
from iaemu_training.commands.options import add_json, read_options
from iaemu_training.commands.printing import show

if TYPE_CHECKING:
    from iaemu_cobaya.reproduce.routes import Route, Sampled

#: Run again, it resumes.
RESUMES = True

SAMPLES = (1, 2, 3)

#: In the folder of the chains.
MADE_WITH = "made_with.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add = parser.add_argument
    folder = "folder for tables and figures (default: docs/results)"
    add("-o", "--output", type=Path, default=Path("docs/results"), metavar="FOLDER", help=folder)
    add(
        "--chains",
        type=Path,
        default=Path("chains/reproduce"),
        metavar="FOLDER",
        help="folder for chains and mocks (default: chains/reproduce)",
    )
    add("--samples", type=int, nargs="+", choices=SAMPLES, default=list(SAMPLES), help="samples to fit (default: all)")
    add("--no-mocks", action="store_true", help="leave out mocks and Figure 6; halotools is not needed then")
    add(
        "--halotools-chain",
        metavar="CHAIN",
        help="use this chain of tng_sample1_halotools.yaml as it is, instead of running one to convergence",
    )
    add("--ess", type=int, default=20000, metavar="N", help="effective draws of each HMC chain (default: 20000)")
    one_each = "one number, or one for each of --samples"
    add(
        "--points",
        type=int,
        nargs="+",
        default=[40],
        metavar="N",
        help=f"points with mocks: {one_each} (default: 40)",
    )
    add(
        "--realisations",
        type=int,
        nargs="+",
        default=[40],
        metavar="N",
        help=f"mocks of each box at a point: {one_each} (default: 40)",
    )
    add("-c", "--catalogue", action="append", help="halo catalogue; may be repeated (default: pm160a and pm160b)")
    add("--processes", type=int, default=1, metavar="N", help="worker processes for mocks (default: 1)")
    add_json(parser, "the posteriors, as in results.json,")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Run the command."""
    add_options(parser)
    arguments = read_options(parser, argv, check=False)
    import matplotlib

    matplotlib.use("Agg")
    if arguments.json:
        logging.disable(logging.WARNING)  # of Cobaya, which prints them on stdout
    from cobaya.log import LoggedError

    try:
        _reproduce(arguments)
    except LoggedError as error:
        raise ValueError(str(error)) from error


def _reproduce(arguments: argparse.Namespace) -> None:
    """All stages, each kept on disk; see the module."""
    from matplotlib import pyplot

    from iaemu_cobaya.chains.reading import load_chain
    from iaemu_cobaya.reproduce.figures import figure_6, figure_7
    from iaemu_cobaya.reproduce.results import write_results
    from iaemu_cobaya.reproduce.routes import THEORIES, by_hmc, by_mocks

    output, folder, samples = arguments.output, arguments.chains, arguments.samples
    catalogues = list(arguments.catalogue or ("pm160a", "pm160b"))
    if len(set(samples)) < len(samples):
        raise ValueError(f"--samples: {samples} names one of them twice.")
    Range(at_least=1, at_most=10_000_000).check("--ess", arguments.ess, int)
    Range(at_least=1, at_most=1024).check("--processes", arguments.processes, int)
    n_points = _for_each("--points", arguments.points, samples, 3)
    n_realisations = _for_each("--realisations", arguments.realisations, samples, 2)
    if not arguments.no_mocks:
        # What is missing should be said before the first chain, not after.
        from iaemu_training.mocks.ensemble import MockEnsemble

        MockEnsemble(catalogues, n_realisations=2)
    if arguments.halotools_chain is not None and not arguments.no_mocks and 1 in samples:
        load_chain(arguments.halotools_chain)
    _refuse_losing(output / "results.json", samples, mocks=not arguments.no_mocks)
    for option, path in (("--output", output), ("--chains", folder)):
        found = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not found.is_dir() or not os.access(found, os.W_OK):
            raise ValueError(f"{option}: {found} is not a folder that can be written to.")
    # Last, so that an error leaves no folders behind.
    claim = _claim(folder, arguments.ess)
    output.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if claim is not None:
        write_text(folder / MADE_WITH, claim)
    routes: dict[int, list[Route]] = {}
    sampled: dict[tuple[int, str], Sampled] = {}
    for sample in samples:
        for model in THEORIES:
            sampled[sample, model] = by_hmc(sample, model, folder, arguments.ess)
        routes[sample] = [sampled[sample, model].route for model in THEORIES]
        if not arguments.no_mocks:
            tables = sampled[sample, "tables"].chain
            ensemble = {"catalogues": catalogues, "n_realisations": n_realisations[sample], "seed": 1}
            routes[sample] += by_mocks(
                sample, tables, ensemble, folder, n_points[sample], arguments.processes, arguments.halotools_chain
            )
    logging.getLogger(__name__).info("Writing to %s", output)
    text = write_results(output, routes, sampled, mocks=not arguments.no_mocks)
    figure = figure_7(routes)
    write_whole(output / "figure7.png", lambda file: figure.savefig(file, dpi=150))
    pyplot.close(figure)  # GetDist draws through pyplot, which keeps it open
    if not arguments.no_mocks:
        correlations = figure_6(routes, catalogues)
        write_whole(output / "figure6.png", lambda file: correlations.savefig(file, dpi=150))
    show(arguments, text, json.loads((output / "results.json").read_text()))


def _refuse_losing(path: Path, samples: Sequence[int], mocks: bool) -> None:
    """Results of hours are not replaced by those of a shorter run."""
    from iaemu_cobaya.reproduce.routes import MOCKS

    try:
        routes = json.loads(path.read_text())["routes"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds something else ({error!r}); choose another folder with --output.") from error
    lost = [f"sample {sample}" for sample in routes if int(sample) not in samples]
    if not mocks and any(label.startswith(MOCKS) for found in routes.values() for label in found):
        lost.append("mocks")
    if lost:
        raise ValueError(
            f"{path.parent} holds results of {', '.join(lost)}, which this run would replace and has not. Choose "
            "another folder with --output."
        )


def _claim(folder: Path, ess_stop: int) -> str | None:
    """What is to be written in :data:`MADE_WITH`, or None if it is there.

    Chains are resumed only if they are of the shipped emulator and tables, and as long as is asked for.

    Cobaya compares options, not the contents of files; mocks are kept at draws of the tables' chain, which another
    length would change.
    """
    from iaemu import BoxError, Emulator, TabulatedModel
    from iaemu.artifact import shipped_artifact

    made_with: dict[str, Any] = {"--ess": ess_stop}
    for name in (Emulator.shipped, TabulatedModel.shipped, BoxError.shipped):
        made_with[f"the artifact {name}, sha256"] = sha256_of_file(shipped_artifact(name))
    path = folder / MADE_WITH
    again = "Choose another folder with --chains, or remove this one."
    if not path.exists():
        if any(folder.glob("sample*")):
            raise ValueError(f"{folder} holds chains, but no {path.name} that says what they were made with. {again}")
        return json.dumps(made_with, indent=1) + "\n"
    try:
        found = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). {again}") from error
    for key in {**found, **made_with}:
        if found.get(key) != made_with.get(key):
            raise ValueError(
                f"The chains and mocks in {folder} were made with {key} = {found.get(key)}, now it is "
                f"{made_with.get(key)}. {again}"
            )
    return None


def _for_each(option: str, values: list[int], samples: list[int], least: int) -> dict[int, int]:
    """An option's number for each sample."""
    for value in values:
        Range(at_least=least, at_most=100_000).check(option, value, int)
    if len(values) not in (1, len(samples)):
        raise ValueError(
            f"{option}: give one number, or one for each of the {len(samples)} samples; got {len(values)}."
        )
    return dict(zip(samples, values * len(samples), strict=False))

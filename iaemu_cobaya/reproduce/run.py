"""``iaemu-reproduce``: the TNG300 posteriors of arXiv:2504.05235 by every route that we have, beside the paper's.

For each of the three samples: emulator and exact tables, both sampled by HMC, without and with the prediction's own
error; and halotools-IA mocks directly, sample 1 as a Cobaya ``mcmc`` chain that populates mocks at each point, and all
samples by weights on draws of the tables' posterior (:mod:`iaemu_cobaya.reproduce.reweighting`). Writes Table 2 and
Figures 6 and 7 of the paper in our hands. Chains and mocks are kept, and a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from cobaya.log import LoggedError
from cobaya.yaml import yaml_load_file

from iaemu.artifact import shipped_artifact
from iaemu.files import write_text
from iaemu.models import box_error
from iaemu.models import factorised as emulator
from iaemu.models import tables as tabulated
from iaemu.parameters import ALIGNMENT_PARAMETERS
from iaemu.sampling.diagnostics import ess
from iaemu_cobaya.chains.plotting import Chain, ChainError, load_chain
from iaemu_cobaya.likelihoods import correlations as likelihoods
from iaemu_cobaya.reproduce.paper import TABLE_2
from iaemu_cobaya.reproduce.reweighting import CORNERS, Moments, noise_of_fixed_seeds, populate

SAMPLES = (1, 2, 3)
_HALOTOOLS = "iaemu_cobaya.HalotoolsIA"
#: What the labels of routes by mocks begin with.
_MOCKS = "halotools-IA"
#: Options of a run with mocks that change its noise, its speed or nothing.
_NO_MATTER = {"n_realisations", "seed", "processes", "speed", "stop_at_error", "version", "params", "type"}
#: It starts close to the mode: share of the chain that is dropped.
_HALOTOOLS_BURN_IN = 0.1
THEORIES = {"emulator": "iaemu_cobaya.IAEmu", "tables": "iaemu_cobaya.TabulatedIA"}


@dataclass(frozen=True)
class Route:
    """One way to a posterior of (mu_cen, mu_sat).

    Attributes
    ----------
    label : str
    moments : Moments
    draws, weight : (n, 2), (n,)
        Draws of the posterior.
    n_mocks : int
        Populated for it.
    """

    label: str
    moments: Moments
    draws: np.ndarray
    weight: np.ndarray
    n_mocks: int = 0


def likelihood_name(sample: int) -> str:
    """Name of a sample's likelihood in Cobaya's input."""
    return f"iaemu_cobaya.TNG300Sample{sample}"


def make_likelihood(sample: int, **options) -> likelihoods.IACorrelations:
    """The likelihood of a sample alone."""
    return getattr(likelihoods, f"TNG300Sample{sample}")(options)


def occupation(sample: int) -> dict[str, float]:
    """The occupation parameters of a sample (arXiv:2504.05235, table 2), as its likelihood brings them."""
    defaults = getattr(likelihoods, f"TNG300Sample{sample}").get_defaults()
    return {name: float(info["value"]) for name, info in defaults["params"].items()}


def hmc_input(
    sample: int, model: str, emulator_error: bool, output: Path, ess_stop: int = 20000, seed: int = 1
) -> dict:
    """Cobaya input of a sample's posterior by HMC; ``model`` is "emulator" or "tables"."""
    return {
        "theory": {THEORIES[model]: None},
        "likelihood": {likelihood_name(sample): {"emulator_error": emulator_error}},
        "sampler": {"iaemu_cobaya.HMC": {"Rminus1_stop": 0.01, "ess_stop": ess_stop, "seed": seed}},
        "output": str(output),
    }


def halotools_input(ensemble: dict, processes: int, output: Path) -> dict:
    """Cobaya input of sample 1 with mocks at each point; as ``yaml_examples/tng_sample1_halotools.yaml``."""
    covmat = [[1.6745e-04, -4.2687e-04], [-4.2687e-04, 1.9951e-03]]
    priors = {
        name: {"prior": {"min": -1, "max": 1}, "ref": {"dist": "norm", "loc": loc, "scale": scale}}
        for name, loc, scale in (("mu_cen", 0.8, 0.01), ("mu_sat", 0.3, 0.03))
    }
    catalogue = list(ensemble["catalogues"])
    options = {name: value for name, value in ensemble.items() if name != "catalogues"}
    return {
        "theory": {_HALOTOOLS: {**options, "catalogue": catalogue, "seeds": "fixed", "processes": processes}},
        "likelihood": {likelihood_name(1): {"emulator_error": True}},
        "params": {**priors, **occupation(1)},
        "sampler": {
            "mcmc": {
                "covmat_params": list(ALIGNMENT_PARAMETERS),
                "covmat": covmat,
                "Rminus1_stop": 0.05,
                "Rminus1_cl_stop": 0.3,
                "burn_in": 0,
                "output_every": 10,
                "seed": 1,
            }
        },
        "output": str(output),
    }


def run_chain(info: dict, burn_in: float | None = None) -> Chain:
    """Run, or go on with, a Cobaya run until it has converged; the chain on disk."""
    from cobaya.run import run

    Path(info["output"]).parent.mkdir(parents=True, exist_ok=True)
    run(info, resume=True)
    return load_chain(info["output"], burn_in)


def strengths_of(chain: Chain) -> np.ndarray:
    """mu_cen and mu_sat of a chain's rows, (n, 2)."""
    return np.stack([chain.column(name) for name in ALIGNMENT_PARAMETERS], axis=1)


def route_of(chain: Chain, label: str, n_mocks: int = 0) -> Route:
    """A chain's posterior, with Monte Carlo errors from its effective sample size."""
    draws = strengths_of(chain)
    weight = chain.column("weight")
    mean = np.average(draws, axis=0, weights=weight)
    std = np.sqrt(np.average((draws - mean) ** 2, axis=0, weights=weight))
    steps = np.repeat(draws, weight.astype(int), axis=0)
    effective = float(np.min(ess(steps[None], "mean")))
    return Route(label, Moments(mean, std, std / np.sqrt(effective), effective), draws, weight, n_mocks)


def chain_route(chain: Chain, tables: Chain) -> Route:
    """The chain that populated mocks at each point; their own noise, the same at all points, is in its errors."""
    from iaemu_training.mocks.ensemble import MockEnsemble

    stopped = "" if _has_converged(chain) else ", stopped early"
    route = route_of(chain, f"{_MOCKS}, Cobaya mcmc{stopped}", _populated(chain))
    options = chain.info["theory"][_HALOTOOLS]
    mocks = MockEnsemble(_as_list(options["catalogue"]), options["n_realisations"], options["seed"], options["seeds"])
    like = make_likelihood(1)
    edges = like.get_requirements()["ia_omega"]["r_edges"]
    fixed = occupation(1)
    theta = dict(zip(ALIGNMENT_PARAMETERS, route.moments.mean, strict=True)) | fixed
    deviations = mocks.deviations(theta, edges, ("omega",))["omega"]
    draws = strengths_of(tables)
    model = tabulated.TabulatedModel.load().at_occupation(fixed, edges, ("omega",))
    omega = model(torch.as_tensor(draws))["omega"].numpy()
    noise = noise_of_fixed_seeds(like, draws, tables.column("weight"), omega, deviations)
    moments = replace(route.moments, error=np.hypot(route.moments.error, noise))
    return replace(route, moments=moments)


def direct_routes(
    sample: int, tables: Chain, ensemble: dict, folder: Path, n_points: int, processes: int
) -> list[Route]:
    """The two posteriors that mocks at draws of the tables' posterior give; mocks are kept in ``folder``."""
    like = make_likelihood(sample)
    edges = like.get_requirements()["ia_omega"]["r_edges"]
    rows = tables.draws(n_points, seed=sample)
    mu = np.array([[row[name] for name in ALIGNMENT_PARAMETERS] for row in rows])
    ensemble = {**ensemble, "seeds": "fresh"}
    points, corners = (
        populate(folder / name, values, occupation(sample), edges, ensemble, processes)
        for name, values in ((f"sample{sample}_points", mu), (f"sample{sample}_corners", CORNERS))
    )
    weighted = points.weighted(like, np.array([-0.5 * row["chi2"] for row in rows]))
    draws = strengths_of(tables)
    weight, pooled = points.pooled(like, draws, -0.5 * tables.column("chi2"), corners)
    weight = weight * tables.column("weight")
    n_mocks = points.n_mocks + corners.n_mocks
    return [
        Route(f"{_MOCKS}, {n_points} points re-weighted", weighted, points.mu, np.ones(n_points), points.n_mocks),
        Route(f"{_MOCKS}, mocks of {n_points} points pooled", pooled, draws, weight, n_mocks),
    ]


# ---------------------------------------------------------------------- tables


def comparison_table(routes: dict[int, list[Route]]) -> str:
    """Markdown: each route beside the others and the paper's Table 2."""
    lines = [
        "| sample | route | mu_cen | mu_sat | shift of mu_cen, mu_sat [sigma] | Monte Carlo error [sigma] | effective "
        "draws | mocks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for sample, found in routes.items():
        reference = next(route for route in found if route.label == "tables, HMC").moments
        for route in found:
            m = route.moments
            shift = (m.mean - reference.mean) / m.std
            values = [f"{mean:.4f} ± {std:.4f}" for mean, std in zip(m.mean, m.std, strict=True)]
            relative = m.error / m.std
            lines.append(
                f"| {sample} | {route.label} | {values[0]} | {values[1]} | {shift[0]:+.2f}, {shift[1]:+.2f} | "
                f"{relative[0]:.2f}, {relative[1]:.2f} | {m.effective:.0f} | {route.n_mocks} |"
            )
        for label, published in TABLE_2[sample].items():
            values = [published[name] for name in ALIGNMENT_PARAMETERS]
            cells = [f"*{value:.2f} +{up:.2f} -{down:.2f}*" for value, up, down in values]
            shift = [
                2.0 * (value - m) / (up + down) for (value, up, down), m in zip(values, reference.mean, strict=True)
            ]
            lines.append(
                f"| {sample} | *paper: {label}* | {cells[0]} | {cells[1]} | {shift[0]:+.1f}, {shift[1]:+.1f} | "
                "*not stated* | *4000 draws* | *not stated* |"
            )
    return "\n".join(lines)


def error_table(pairs: dict[tuple[int, str], tuple[Route, Route, np.ndarray]]) -> str:
    """Markdown: what the prediction's own error does to each posterior.

    ``pairs``: by sample and model, the route without and with it, and sigma_emu / sigma_data in each bin.
    """
    lines = [
        "| sample | model | sigma_emu / sigma_data of omega, median (largest) | shift of mu_cen, mu_sat [sigma] | "
        "ratio of widths of mu_cen, mu_sat |",
        "|---|---|---|---|---|",
    ]
    for (sample, model), (without, with_error, ratio) in pairs.items():
        shift = (with_error.moments.mean - without.moments.mean) / without.moments.std
        width = with_error.moments.std / without.moments.std
        lines.append(
            f"| {sample} | {model} | {np.median(ratio):.3f} ({ratio.max():.3f}) | {shift[0]:+.3f}, {shift[1]:+.3f} | "
            f"{width[0]:.3f}, {width[1]:.3f} |"
        )
    return "\n".join(lines)


def error_ratio(sample: int, model: str, mu) -> np.ndarray:
    """sigma_emu / sigma_data of omega in the used bins, at a point."""
    from cobaya.model import get_model

    info = hmc_input(sample, model, True, Path("unused"))
    cobaya_model = get_model({key: info[key] for key in ("theory", "likelihood")})
    cobaya_model.loglike(dict(zip(ALIGNMENT_PARAMETERS, mu, strict=True)))
    like = cobaya_model.likelihood[likelihood_name(sample)]
    ratio = np.sqrt((like.deviations() ** 2).sum(axis=0) / np.diag(like.covariance_matrix))
    cobaya_model.close()
    return ratio


# ---------------------------------------------------------------------- command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iaemu-reproduce",
        description="Posteriors of the three TNG300 samples by emulator, tables and halotools-IA mocks, beside Table 2 "
        "of arXiv:2504.05235; Figures 6 and 7. With mocks two hours or more on two cores, without them some minutes; "
        "a killed run goes on with the same command.",
    )
    parser.add_argument("--output", type=Path, default=Path("docs/results"), help="folder for tables and figures")
    parser.add_argument("--chains", type=Path, default=Path("chains/reproduce"), help="folder for chains and mocks")
    parser.add_argument("--samples", type=int, nargs="+", choices=SAMPLES, default=list(SAMPLES))
    parser.add_argument(
        "--no-mocks", action="store_true", help="leave out what populates mocks (needs no halotools); no Figure 6"
    )
    parser.add_argument(
        "--halotools-chain",
        metavar="PREFIX",
        help="use this chain of tng_sample1_halotools.yaml as it is, instead of running one to convergence",
    )
    parser.add_argument("--ess", type=int, default=20000, help="effective draws of each HMC chain (default: 20000)")
    one_each = "one number, or one for each of --samples"
    parser.add_argument(
        "--points", type=int, nargs="+", default=[40], help=f"points with mocks; {one_each} (default: 40)"
    )
    parser.add_argument(
        "--realisations",
        type=int,
        nargs="+",
        default=[40],
        help=f"mocks of each box at a point; {one_each} (default: 40)",
    )
    parser.add_argument(
        "--catalogue", "-c", action="append", help="halo catalogue, may be repeated (default: pm160a and pm160b)"
    )
    parser.add_argument("--processes", type=int, default=1, help="worker processes for mocks (default: 1)")
    return parser


def main(argv=None) -> int:
    """Command line. Returns the exit status."""
    arguments = _parser().parse_args(argv)
    import matplotlib

    matplotlib.use("Agg")
    try:
        reproduce(arguments)
    except (ChainError, LoggedError, ValueError, OSError, ImportError) as error:
        print(f"iaemu-reproduce: {error}", file=sys.stderr)
        return 1
    return 0


def reproduce(arguments) -> None:
    """All stages, each kept on disk; see the module."""
    from matplotlib import pyplot

    from iaemu_cobaya.reproduce import figures

    catalogues = list(arguments.catalogue or ("pm160a", "pm160b"))
    n_points = _for_each("--points", arguments.points, arguments.samples, 3)
    n_realisations = _for_each("--realisations", arguments.realisations, arguments.samples, 2)
    if not arguments.no_mocks:
        # What is missing should be said before the first chain, not after.
        from iaemu_training.mocks.ensemble import MockEnsemble

        MockEnsemble(catalogues, n_realisations=2)
    _refuse_losing(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    arguments.chains.mkdir(parents=True, exist_ok=True)
    _claim(arguments.chains, arguments.ess)
    routes: dict[int, list[Route]] = {}
    errors = {}
    for sample in arguments.samples:
        routes[sample] = []
        chains = {}
        for model in THEORIES:
            for with_error in (False, True):
                name = f"sample{sample}_{model}{'_error' if with_error else ''}"
                chain = run_chain(hmc_input(sample, model, with_error, arguments.chains / name, arguments.ess))
                route = route_of(chain, f"{model}, HMC")
                if with_error:
                    ratio = error_ratio(sample, model, route.moments.mean)
                    errors[sample, model] = (routes[sample][-1], route, ratio)
                else:
                    chains[model] = chain
                    routes[sample].append(route)
        if arguments.no_mocks:
            continue
        ensemble = {"catalogues": catalogues, "n_realisations": n_realisations[sample], "seed": 1}
        if sample == 1:
            chain = _halotools_chain(arguments, ensemble)
            routes[sample].append(chain_route(chain, chains["tables"]))
        routes[sample] += direct_routes(
            sample, chains["tables"], ensemble, arguments.chains, n_points[sample], arguments.processes
        )
    logging.getLogger(__name__).info("Writing to %s", arguments.output)
    text = "\n\n".join(
        [
            "# The paper's posteriors, by every route",
            "Written by `iaemu-reproduce`; what it says is in [reproduction.md](../reproduction.md). Shifts are from "
            "*tables, HMC*, in standard deviations of the row.",
            comparison_table(routes),
            "## The prediction's own error in the likelihood",
            error_table(errors),
            "![Posteriors](figure7.png)",
            *([] if arguments.no_mocks else ["![Correlation functions](figure6.png)"]),
        ]
    )
    write_text(arguments.output / "results.md", text + "\n")
    write_text(arguments.output / "results.json", json.dumps(_as_json(routes, errors), indent=1) + "\n")
    figure = figures.figure_7(routes)
    figure.savefig(arguments.output / "figure7.png", dpi=150)
    pyplot.close(figure)  # GetDist draws through pyplot, which keeps it open
    if not arguments.no_mocks:
        figures.figure_6(routes, catalogues).savefig(arguments.output / "figure6.png", dpi=150)
    print(text)


def _refuse_losing(arguments) -> None:
    """Results of hours are not replaced by those of a shorter run."""
    path = arguments.output / "results.json"
    try:
        routes = json.loads(path.read_text())["routes"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds something else ({error!r}); choose another folder with --output.") from error
    lost = [sample for sample in routes if int(sample) not in arguments.samples]
    if lost:
        what = f"sample {', '.join(lost)}"
    elif arguments.no_mocks and any(label.startswith(_MOCKS) for found in routes.values() for label in found):
        what = "mocks"
    else:
        return
    raise ValueError(
        f"{arguments.output} holds results of {what}, which this run would replace and has not. Choose another folder "
        "with --output."
    )


def _claim(folder: Path, ess_stop: int) -> None:
    """Chains are gone on with only if they are of the shipped emulator and tables, and as long as is asked for.

    Cobaya compares options, not the contents of files; mocks are kept at draws of the tables' chain, which another
    length would change.
    """
    made_with = {"--ess": ess_stop}
    for module in (emulator, tabulated, box_error):
        with open(shipped_artifact(module.SHIPPED), "rb") as file:
            made_with[f"the artifact {module.SHIPPED}, sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    path = folder / "made_with.json"
    again = "Choose another folder with --chains, or remove this one."
    if not path.exists():
        if any(folder.glob("sample*")):
            raise ValueError(f"{folder} holds chains, but no {path.name} that says what they were made with. {again}")
        write_text(path, json.dumps(made_with, indent=1) + "\n")
        return
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


def _for_each(option: str, values: list[int], samples: list[int], least: int) -> dict[int, int]:
    """An option's number for each sample."""
    if min(values) < least:
        raise ValueError(f"{option} must be at least {least}, got {min(values)}.")
    if len(values) not in (1, len(samples)):
        raise ValueError(
            f"{option}: give one number, or one for each of the {len(samples)} samples; got {len(values)}."
        )
    return dict(zip(samples, values * len(samples), strict=False))


def _halotools_chain(arguments, ensemble) -> Chain:
    info = halotools_input(ensemble, arguments.processes, arguments.chains / "sample1_halotools")
    if not arguments.halotools_chain:
        return run_chain(info, _HALOTOOLS_BURN_IN)
    chain = load_chain(arguments.halotools_chain, _HALOTOOLS_BURN_IN)
    for key, theirs, ours in _differences(chain.info, info):
        raise ChainError(f"--halotools-chain: {chain.root} has {key} = {theirs}; the comparison takes {ours}.")
    return chain


def _differences(theirs: dict, ours: dict):
    """What makes the posterior of a run another one: name, its value in both; ``ours`` is an input not yet updated."""
    from cobaya.input import update_info

    ours = update_info(ours)
    for block, name in (("theory", _HALOTOOLS), ("likelihood", likelihood_name(1))):
        found = theirs.get(block) or {}
        if list(found) != [name]:
            yield block, ", ".join(found), name
            return
        for key, value in ours[block][name].items():
            other = found[name].get(key)
            if key == "catalogue":
                other = _as_list(other)
            if key not in _NO_MATTER and (other or None) != (value or None):
                yield f"{name}: {key}", other, value
    for name in (*ALIGNMENT_PARAMETERS, *occupation(1)):
        for key in ("prior", "value"):
            values = [(info["params"].get(name) or {}).get(key) for info in (theirs, ours)]
            if values[0] != values[1]:
                yield f"{name}: {key}", *values


def _has_converged(chain: Chain) -> bool:
    """By the sampler's own criteria, as its checkpoint says."""
    checkpoint = chain.root.with_name(chain.root.name + ".checkpoint")
    if not checkpoint.is_file():
        return False
    (sampler,) = yaml_load_file(str(checkpoint))["sampler"].values()
    return bool(sampler.get("converged"))


def _populated(chain: Chain) -> int:
    """Mocks populated for a chain: those of a point, times its steps: every proposal within the prior was a point.

    Without those of the start, of measuring speeds, and of steps that were not written yet.
    """
    theory = chain.info["theory"][_HALOTOOLS]
    steps = load_chain(chain.root, burn_in=0.0).column("weight").sum()
    return int(steps) * theory["n_realisations"] * len(_as_list(theory["catalogue"]))


def _as_list(catalogue) -> list[str]:
    return [catalogue] if isinstance(catalogue, str) else list(catalogue)


def _as_json(routes, errors) -> dict:
    def moments(m: Moments) -> dict:
        return {name: np.asarray(getattr(m, name)).tolist() for name in ("mean", "std", "error", "effective")}

    return {
        "parameters": list(ALIGNMENT_PARAMETERS),
        "routes": {
            str(sample): {route.label: {**moments(route.moments), "n_mocks": route.n_mocks} for route in found}
            for sample, found in routes.items()
        },
        "paper": {str(sample): table for sample, table in TABLE_2.items() if sample in routes},
        "with_emulator_error": {
            f"{sample}, {model}": {**moments(pair[1].moments), "sigma_ratio": pair[2].tolist()}
            for (sample, model), pair in errors.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())

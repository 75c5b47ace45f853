"""Routes to the posterior of a sample: emulator and tables with HMC, and halotools-IA mocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cobaya.input import update_info
from cobaya.model import get_model
from cobaya.run import run

from iaemu.models.tables import TabulatedModel
from iaemu.parameters import ALIGNMENT_PARAMETERS
from iaemu.sampling.diagnostics import ess
from iaemu_cobaya.chains.reading import Chain, ChainError, load_chain
from iaemu_cobaya.likelihoods import packaged
from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.reproduce.reweighting import CORNERS, Moments, noise_of_fixed_seeds, populate

THEORIES = {"emulator": "iaemu_cobaya.IAEmu", "tables": "iaemu_cobaya.TabulatedIA"}
#: Start of the labels of routes that use mocks.
MOCKS = "halotools-IA"

_HALOTOOLS = "iaemu_cobaya.HalotoolsIA"
#: Options of a run with mocks of sample 1 that do not change the posterior, except for its noise. Its data have errors
#: alone, whose distribution is normal.
_NO_MATTER = {"n_realisations", "seed", "processes", "speed", "stop_at_error", "version", "params", "type"}
_NO_MATTER |= {"distribution", "n_parameters"}
#: Fraction of a chain with mocks that is dropped: it starts close to the maximum.
_HALOTOOLS_BURN_IN = 0.1


@dataclass(frozen=True)
class Route:
    """A posterior of (mu_cen, mu_sat), found in one way.

    Attributes
    ----------
    label : str
    moments : Moments
    draws, weight : (n, 2), (n,)
        Draws of the posterior, and their weights.
    n_mocks : int
        Number of mocks populated for it.
    """

    label: str
    moments: Moments
    draws: np.ndarray
    weight: np.ndarray
    n_mocks: int = 0


@dataclass(frozen=True)
class Sampled:
    """The posterior of a model sampled by HMC, without and with the error of the prediction in the likelihood.

    Attributes
    ----------
    chain : Chain
        Chain without the error.
    route, with_error : Route
    sigma_ratio : (n_bins,)
        sigma_emu / sigma_data of omega in the used bins, at the mean of the posterior with the error.
    """

    chain: Chain
    route: Route
    with_error: Route
    sigma_ratio: np.ndarray


def occupation(sample: int) -> dict[str, float]:
    """Return the occupation parameters of a sample (arXiv:2504.05235, table 2), the defaults of its likelihood.

    Parameters
    ----------
    sample : int

    Returns
    -------
    dict of name to float
    """
    defaults = _likelihood(sample).get_defaults()
    return {name: float(info["value"]) for name, info in defaults["params"].items()}


def by_hmc(sample: int, model: str, folder: Path, ess_stop: int) -> Sampled:
    """Sample the posterior of a model without and with the error of its prediction.

    Parameters
    ----------
    sample : int
    model : {"emulator", "tables"}
    folder : Path
        Folder of the chains.
    ess_stop : int
        Number of effective draws at which to stop.

    Returns
    -------
    Sampled
    """
    chains = [
        _run_chain(
            {
                "theory": {THEORIES[model]: None},
                "likelihood": {f"iaemu_cobaya.TNG300Sample{sample}": {"emulator_error": with_error}},
                "sampler": {"iaemu_cobaya.HMC": {"Rminus1_stop": 0.01, "ess_stop": ess_stop, "seed": 1}},
                "output": str(folder / f"sample{sample}_{model}{'_error' if with_error else ''}"),
            }
        )
        for with_error in (False, True)
    ]
    routes = [_route_of(chain, f"{model}, HMC") for chain in chains]
    return Sampled(chains[0], routes[0], routes[1], _sigma_ratio(chains[1], routes[1].moments.mean))


def by_mocks(
    sample: int,
    tables: Chain,
    ensemble: Mapping[str, Any],
    folder: Path,
    n_points: int,
    processes: int = 1,
    given_chain: str | None = None,
) -> list[Route]:
    """Return the routes that use mocks: weights of draws with the tables, and for sample 1 a chain with mocks.

    Parameters
    ----------
    sample : int
    tables : Chain
        Chain of the tables, without their error.
    ensemble : mapping
        ``catalogues``, ``n_realisations`` and ``seed`` of the mocks.
    folder : Path
        Folder of chains and mocks.
    n_points, processes : int
        Number of draws at which mocks are populated, and of worker processes.
    given_chain : str, optional
        Output prefix of an existing chain to use, instead of running one to convergence.

    Returns
    -------
    list of Route

    Raises
    ------
    ChainError
        The given chain belongs to another posterior.
    """
    found = []
    if sample == 1:
        info = halotools_input(ensemble, processes, folder / "sample1_halotools")
        found.append(_chain_route(_halotools_chain(info, given_chain), tables))
    return found + _direct_routes(sample, tables, ensemble, folder, n_points, processes)


def halotools_input(ensemble: Mapping[str, Any], processes: int, output: Path) -> dict[str, Any]:
    """Return the Cobaya input of sample 1 with mocks at each point, as in ``yaml_examples/tng_sample1_halotools.yaml``.

    Parameters
    ----------
    ensemble, processes
        See :func:`by_mocks`.
    output : Path
        Output prefix.

    Returns
    -------
    dict
    """
    covmat = [[1.6745e-04, -4.2687e-04], [-4.2687e-04, 1.9951e-03]]
    priors = {
        name: {"prior": {"min": -1, "max": 1}, "ref": {"dist": "norm", "loc": loc, "scale": scale}}
        for name, loc, scale in (("mu_cen", 0.8, 0.01), ("mu_sat", 0.3, 0.03))
    }
    theory = {name: value for name, value in ensemble.items() if name != "catalogues"}
    theory |= {"catalogue": list(ensemble["catalogues"]), "seeds": "fixed", "processes": processes}
    mcmc = {"covmat_params": list(ALIGNMENT_PARAMETERS), "covmat": covmat, "burn_in": 0, "output_every": 10, "seed": 1}
    return {
        "theory": {_HALOTOOLS: theory},
        "likelihood": {"iaemu_cobaya.TNG300Sample1": {"emulator_error": True}},
        "params": {**priors, **occupation(1)},
        "sampler": {"mcmc": {**mcmc, "Rminus1_stop": 0.05, "Rminus1_cl_stop": 0.3}},
        "output": str(output),
    }


def _likelihood(sample: int) -> type[IACorrelations]:
    return getattr(packaged, f"TNG300Sample{sample}")


def _run_chain(info: dict[str, Any], burn_in: float | None = None) -> Chain:
    """Start or resume a Cobaya run until it has converged, and return its chain."""
    run(info, resume=True)
    return load_chain(info["output"], burn_in)


def _halotools_chain(info: dict[str, Any], given: str | None) -> Chain:
    """Return the chain of an input with mocks, run to convergence, or a given chain of the same posterior."""
    if not given:
        return _run_chain(info, _HALOTOOLS_BURN_IN)
    chain = load_chain(given, _HALOTOOLS_BURN_IN)
    theirs = _posterior_of(chain.info)
    for key, ours in _posterior_of(update_info(info)).items():
        if (theirs.get(key) or None) != (ours or None):
            what = f"{key} = {theirs.get(key)}"
            raise ChainError(f"--halotools-chain: {chain.root} has {what}, but the comparison needs {ours}.")
    return chain


def _posterior_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of an updated input that determine the posterior of a run with mocks."""
    blocks = {name: info.get(name) or {} for name in ("theory", "likelihood")}
    found: dict[str, Any] = {name: list(block) for name, block in blocks.items()}
    for name, options in (entry for block in blocks.values() for entry in block.items()):
        found |= {f"{name}: {key}": value for key, value in options.items() if key not in _NO_MATTER}
    if (catalogue := f"{_HALOTOOLS}: catalogue") in found:
        found[catalogue] = np.atleast_1d(found[catalogue]).tolist()
    for name in (*ALIGNMENT_PARAMETERS, *occupation(1)):
        found |= {f"{name}: {key}": (info["params"].get(name) or {}).get(key) for key in ("prior", "value")}
    return found


def _strengths_of(chain: Chain) -> np.ndarray:
    """Return mu_cen and mu_sat of the rows of a chain, (n, 2)."""
    return np.stack([chain.column(name) for name in ALIGNMENT_PARAMETERS], axis=1)


def _route_of(chain: Chain, label: str, n_mocks: int = 0) -> Route:
    """Return the posterior of a chain, with Monte Carlo errors from its number of effective draws."""
    draws, weight = _strengths_of(chain), chain.column("weight")
    mean = np.average(draws, axis=0, weights=weight)
    std = np.sqrt(np.average((draws - mean) ** 2, axis=0, weights=weight))
    steps = np.repeat(draws, weight.astype(int), axis=0)
    effective = float(np.min(ess(steps[None], "mean")))
    return Route(label, Moments(mean, std, std / np.sqrt(effective), effective), draws, weight, n_mocks)


def _sigma_ratio(chain: Chain, mu: np.ndarray) -> np.ndarray:
    """Return sigma_emu / sigma_data of omega in the used bins, at one point."""
    model = get_model({key: chain.info[key] for key in ("theory", "likelihood", "params")})
    model.loglike(dict(zip(ALIGNMENT_PARAMETERS, mu, strict=True)))
    (like,) = model.likelihood.values()
    ratio = np.sqrt((like.deviations() ** 2).sum(axis=0) / np.diag(like.covariance_matrix))
    model.close()
    return ratio


def _chain_route(chain: Chain, tables: Chain) -> Route:
    """Return the posterior of a chain with mocks; its Monte Carlo errors contain the noise of the mocks."""
    from iaemu_training.mocks.ensemble import MockEnsemble

    options = chain.info["theory"][_HALOTOOLS]
    catalogues, n_realisations = np.atleast_1d(options["catalogue"]).tolist(), options["n_realisations"]
    # Mocks were populated for every proposal within the prior. Those for the starting point, for the measurement of
    # speeds, and for steps that are not written yet are not counted.
    steps = load_chain(chain.root, burn_in=0.0).column("weight").sum()
    stopped = "" if chain.converged else ", stopped early"
    route = _route_of(chain, f"{MOCKS}, Cobaya mcmc{stopped}", int(steps) * n_realisations * len(catalogues))
    mocks = MockEnsemble(catalogues, n_realisations, options["seed"], options["seeds"])
    like = _likelihood(1)()
    edges = like.requests["omega"]["r_edges"]
    theta = {**dict(zip(ALIGNMENT_PARAMETERS, route.moments.mean, strict=True)), **occupation(1)}
    deviations = mocks.deviations(theta, edges, ("omega",))["omega"]
    draws = _strengths_of(tables)
    model = TabulatedModel.load().at_occupation(occupation(1), edges, ("omega",))
    omega = model(torch.as_tensor(draws))["omega"].numpy()
    noise = noise_of_fixed_seeds(like, draws, tables.column("weight"), omega, deviations)
    return replace(route, moments=replace(route.moments, error=np.hypot(route.moments.error, noise)))


def _direct_routes(
    sample: int, tables: Chain, ensemble: Mapping[str, Any], folder: Path, n_points: int, processes: int
) -> list[Route]:
    """Return the two posteriors from mocks at draws with the tables; the mocks are stored in ``folder``."""
    like = _likelihood(sample)()
    edges = like.requests["omega"]["r_edges"]
    rows = tables.draws(n_points, seed=sample)
    mu = np.array([[row[name] for name in ALIGNMENT_PARAMETERS] for row in rows])
    points, corners = (
        populate(folder / name, values, occupation(sample), edges, {**ensemble, "seeds": "fresh"}, processes)
        for name, values in ((f"sample{sample}_points", mu), (f"sample{sample}_corners", CORNERS))
    )
    weighted = points.weighted(like, np.array([-0.5 * row["chi2"] for row in rows]))
    draws = _strengths_of(tables)
    weight, pooled = points.pooled(like, draws, -0.5 * tables.column("chi2"), corners)
    n_mocks = points.n_mocks + corners.n_mocks
    return [
        Route(f"{MOCKS}, {n_points} points re-weighted", weighted, points.mu, np.ones(n_points), points.n_mocks),
        Route(f"{MOCKS}, mocks of {n_points} points pooled", pooled, draws, weight * tables.column("weight"), n_mocks),
    ]

"""Compare models by chains of the same data: AIC, DIC and evidence."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cobaya.model import Model
from scipy.optimize import minimize

from iaemu_cobaya.chains.evidence import Evidence, LogLikelihood, evaluations_bar, evidence
from iaemu_cobaya.chains.reading import Chain, ChainError
from iaemu_cobaya.chains.rebuild import rebuild_model
from iaemu_cobaya.chains.summary import posterior_summary
from iaemu_cobaya.likelihoods.data_plots import DataPlots

#: A chain must have R-1 below this.
LARGEST_RMINUS1 = 0.1

#: The search for the best fit stops after so many seconds.
SEARCH_SECONDS = 60.0

#: Options of likelihoods that belong to the model, or to the technique.
_FREE = ("param_map", "tag", "n_parameters", "params", "version", "speed", "stop_at_error", "python_path", "type")
_FREE_ENDINGS = ("_params",)


@dataclass(frozen=True)
class Score:
    """How well a model describes its data.

    All are of the likelihood that is 1 where the prediction of the first chain equals the data.

    Attributes
    ----------
    name : str
        Of the chain.
    n_parameters : int
        Number of sampled parameters.
    chi2 : float
        -2 log L of the best fit.
    aic : float
        Akaike's information criterion, ``chi2 + 2 n_parameters``.
    dic : float
        Deviance information criterion; NaN if the mean of the posterior has zero likelihood.
    n_effective : float
        Effective number of parameters: the mean of -2 log L minus its value at the mean.
    evidence : Evidence, optional
    """

    name: str
    n_parameters: int
    chi2: float
    aic: float
    dic: float
    n_effective: float
    evidence: Evidence | None = None

    def as_document(self) -> dict[str, Any]:
        """Return the numbers by name.

        Returns
        -------
        dict
        """
        return {
            "name": self.name,
            "n_parameters": self.n_parameters,
            "chi2": self.chi2,
            "AIC": self.aic,
            "DIC": self.dic,
            "n_effective": self.n_effective,
            "evidence": None if self.evidence is None else self.evidence.as_document(),
        }


def compare(
    chains: Sequence[Chain],
    with_evidence: bool = True,
    n_live: int = 1000,
    seed: int = 0,
    checkpoints: Path | None = None,
    progress: bool = False,
) -> list[Score]:
    """Compare the models of chains of the same data.

    Parameters
    ----------
    chains : sequence of Chain
    with_evidence : bool
        Whether to compute the evidence of each model, with nautilus.
    n_live, seed : int
        Number of live points of nautilus, and its seed.
    checkpoints : Path, optional
        Folder for the states of the computations, from which they go on if they were interrupted.
    progress : bool
        Show bars.

    Returns
    -------
    list of Score

    Raises
    ------
    ChainError
        The chains have other data, or are too short; or see :func:`iaemu_cobaya.chains.evidence.evidence`.
    """
    for chain in chains:
        found = posterior_summary(chain)["Rminus1"]
        if found is None or not found < LARGEST_RMINUS1:
            told = "too few samples" if found is None else f"R-1 = {found:.3g}"
            raise ChainError(
                f"{chain.name} is too short to compare models: {told}, where R-1 < {LARGEST_RMINUS1} is needed. Resume "
                "the run with cobaya-run -r."
            )
    models = [rebuild_model(chain, None) for chain in chains]
    scores, shift = [], None
    try:
        for chain, model in zip(chains[1:], models[1:], strict=True):
            _check_same_data(chains[0], models[0], chain, model)
        for chain, model in zip(chains, models, strict=True):
            likelihood = LogLikelihood(model, seed)
            # Only the difference to the first chain, so that -2 log L is near chi^2.
            shift = likelihood.normalisation if shift is None else shift
            likelihood.normalisation -= shift
            score = _criteria(chain, likelihood)
            if with_evidence:
                state = None if checkpoints is None else checkpoints / f"{_identity(chain, n_live, seed, shift)}.hdf5"
                with evaluations_bar(f"evidence of {chain.name}", progress) as bar:
                    score = replace(
                        score, evidence=evidence(likelihood, n_live, seed=seed, checkpoint=state, progress=bar.update)
                    )
            scores.append(score)
    finally:
        for model in models:
            model.close()
    return scores


def _identity(chain: Chain, *settings: Any) -> str:
    return hashlib.sha256(repr((chain.info, settings)).encode()).hexdigest()[:16]


def _check_same_data(first: Chain, model: Model, other: Chain, other_model: Model) -> None:
    """Refuse chains of other likelihoods, other options of them, or other data."""
    blocks = [chain.info.get("likelihood") or {} for chain in (first, other)]
    if set(blocks[0]) != set(blocks[1]):
        differ = ", ".join(sorted(set(blocks[0]) ^ set(blocks[1])))
        raise ChainError(f"{first.name} and {other.name} cannot be compared: only one of them has {differ}.")
    for name in blocks[0]:
        one, two = (_options(block[name]) for block in blocks)
        differ = ", ".join(sorted(key for key in {*one, *two} if one.get(key) != two.get(key)))
        if not differ and isinstance(model.likelihood[name], DataPlots):
            likes = model.likelihood[name], other_model.likelihood[name]
            pairs = [(like.data_vector, like.covariance_matrix) for like in likes]
            if not all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True)):
                differ = "the data"
        if differ:
            raise ChainError(
                f"{first.name} and {other.name} cannot be compared: {name} differs in {differ}. Models can be compared "
                "on the same data only; run both chains with the same options."
            )


def _options(info: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options of a likelihood that determine what it measures."""
    return {key: value for key, value in (info or {}).items() if key not in _FREE and not key.endswith(_FREE_ENDINGS)}


def _criteria(chain: Chain, likelihood: LogLikelihood) -> Score:
    """Return the criteria that need no evidence."""
    rows, weights = chain.rows, chain.column("weight")
    points = rows[list(likelihood.names)].to_numpy()
    chi2 = chain.column("chi2") - 2.0 * likelihood.normalisation
    mean = np.average(points, weights=weights, axis=0)
    spread = np.sqrt(np.average((points - mean) ** 2, weights=weights, axis=0))
    external = likelihood.model.prior.external

    def deviance(x: np.ndarray) -> float:
        """-2 log L, without external priors."""
        value = float(likelihood(x)[0])
        if external and math.isfinite(value):
            value -= sum(likelihood.model.prior.logps(x)[1:])
        return -2.0 * value

    start = points[np.argmin(chi2)]
    until = time.monotonic() + SEARCH_SECONDS

    def stop(intermediate_result: Any) -> None:
        if time.monotonic() > until:
            raise StopIteration

    # Nelder and Mead's method copes with the edges of the prior, beyond which the deviance is infinite.
    simplex = start + np.vstack([np.zeros(len(start)), np.diag(0.3 * spread)])
    options = {"initial_simplex": simplex, "adaptive": True, "xatol": 1e-3 * spread.min(), "fatol": 1e-3}
    with np.errstate(invalid="ignore"):  # infinity minus infinity, for a simplex out of the prior
        found = minimize(deviance, start, method="Nelder-Mead", callback=stop, options=options)
    best = min(float(found.fun), float(chi2.min()))
    at_mean = deviance(mean)
    n_effective = float(np.average(chi2, weights=weights)) - at_mean if math.isfinite(at_mean) else math.nan
    n = len(likelihood.names)
    return Score(chain.name, n, best, best + 2 * n, at_mean + 2 * n_effective, n_effective)


def comparison_table(scores: Sequence[Score]) -> str:
    """Return a table of the scores, and the Bayes factors to the first.

    Parameters
    ----------
    scores : sequence of Score

    Returns
    -------
    str
    """
    width = max(5, *(len(score.name) for score in scores))
    with_evidence = all(score.evidence is not None for score in scores)
    head = f"  {'model':<{width}s} {'parameters':>10s} {'-2 ln L':>9s} {'AIC':>8s} {'DIC':>8s} {'effective':>9s}"
    lines = [head + (f"   {'ln Z':<17s} ln B" if with_evidence else "")]
    for score in scores:
        dic, effective = ("-" if math.isnan(v) else f"{v:.2f}" for v in (score.dic, score.n_effective))
        line = f"  {score.name:<{width}s} {score.n_parameters:>10d} {score.chi2:>9.2f} {score.aic:>8.2f} {dic:>8s}"
        line += f" {effective:>9s}"
        if with_evidence:
            one, first = score.evidence, scores[0].evidence
            assert one is not None and first is not None
            z = f"{one.log_z:.2f} ± {one.error:.2f}"
            factor = f"{one.log_z - first.log_z:+.2f} ± {math.hypot(one.error, first.error):.2f}"
            line += f"   {z:<17s} {'' if score is scores[0] else factor:<15s}"
        lines.append(line.rstrip())
    if with_evidence and len(scores) > 1:
        lines.append("  ln B: gain of ln Z over the first model. Priors are normalised; it depends on their widths.")
        for score in scores:
            one = score.evidence
            if one is not None and one.log_external_error:
                part = f"{math.exp(one.log_external):.4g} ± {math.exp(one.log_external) * one.log_external_error:.2g}"
                lines.append(f"  {score.name}: the mean of its external priors, by which Z is divided, is {part}")
    return "\n".join(lines)

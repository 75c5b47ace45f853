"""Read Cobaya runs, finished or running, and summarise their posterior as text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cobaya.conventions import Extension
from cobaya.output import OutputReadOnly
from cobaya.tools import get_scipy_1d_pdf
from cobaya.yaml import yaml_load_file
from getdist import MCSamples
from getdist.chains import WeightedSamples
from getdist.cobaya_interface import get_range, get_sampler_temperature, get_sampler_type
from getdist.paramnames import ParamNames

#: Fraction of a Metropolis chain that is dropped by default as burn-in.
BURN_IN = 0.3

#: GetDist needs at least this many rows to estimate densities.
MIN_ROWS = 20

#: Columns that are terms of the posterior, not parameters, begin with these.
_TERMS = ("chi2", "minuslogprior")

#: Labels of the parameters that our theories derive, which users need not label.
_LATEX = {
    "A_IA": r"A_\mathrm{IA}",
    "b_g": "b_g",
    "log10_M_h": r"\log_{10} M_\mathrm{h}",
    "n_gal_ia": r"n_\mathrm{gal}",
    "f_sat_ia": r"f_\mathrm{sat}",
}

#: What follows the output prefix in the names of a run's files.
_ENDINGS = re.compile(r"((\.\d+)?\.txt|(\.updated|\.input)?\.yaml|(\.\d+)?\.draws|\.checkpoint|\.progress|\.covmat)$")


class ChainError(ValueError):
    """A chain is missing, empty or not a Cobaya chain; the message says what was expected."""


@dataclass(frozen=True)
class Chain:
    """A Cobaya run on disk.

    Attributes
    ----------
    root : Path
        Output prefix: files are ``root.1.txt``, ``root.updated.yaml``, ...
    name : str
        Last part of the output prefix.
    info : dict
        Content of ``root.updated.yaml``.
    burn_in : float
        Fraction of each chain that is dropped.
    rows : DataFrame
        All chains without burn-in, one after the other: weight, minuslogpost, parameters, priors, chi^2.
    samples : getdist.MCSamples
        The same rows for GetDist, without the columns that do not vary.
    sampled : list of str
        Names of the sampled parameters, in the order of the run.
    densities : list of str
        Names of the sampled parameters whose density GetDist can estimate: they vary, and there are enough rows.
    derived : list of str
        Names of the derived parameters whose density GetDist can estimate.
    converged : bool, optional
        Whether the run has converged according to its checkpoint; None without a checkpoint.
    """

    root: Path
    name: str
    info: dict
    burn_in: float
    rows: pd.DataFrame
    samples: MCSamples
    sampled: list[str]
    densities: list[str]
    derived: list[str]
    converged: bool | None = None

    def column(self, name: str) -> np.ndarray:
        """Return one column of ``rows``.

        Parameters
        ----------
        name : str

        Returns
        -------
        array (n_rows,)
        """
        return self.rows[name].to_numpy()

    def best(self) -> dict[str, float]:
        """Return the row with the largest posterior.

        Returns
        -------
        dict of column to float
        """
        return self.rows.iloc[int(np.argmin(self.column("minuslogpost")))].to_dict()

    def draws(self, n: int, seed: int = 0) -> list[dict[str, float]]:
        """Draw rows with probabilities in proportion to their weights.

        Parameters
        ----------
        n : int
        seed : int
            The same seed gives the same draws.

        Returns
        -------
        list of dict of column to float
            In the order of the chain.
        """
        weights = self.column("weight") / self.column("weight").sum()
        rows = np.random.default_rng(seed).choice(len(weights), size=n, p=weights)
        return self.rows.iloc[np.sort(rows)].to_dict("records")


def load_chain(root: str | Path, burn_in: float | None = None) -> Chain:
    """Read a chain.

    Parameters
    ----------
    root : str or path
        Output prefix of the run, as in its input (``chains/tng_sample1``), or one of its files.
    burn_in : float, optional
        Fraction of each chain to drop, in [0, 1). By default 0.3 for Cobaya's ``mcmc``, which writes its burn-in to the
        files, otherwise 0.

    Returns
    -------
    Chain

    Raises
    ------
    ChainError
        There is no such run, or it has no samples yet.
    """
    root, output = _find(root)
    files = [path for path in output.find_collections() if Path(path).stat().st_size > 0]
    if not files:
        raise ChainError(f"The run {str(root)!r} has no samples yet: no file {output.prepare_collection('1')[0]}.")
    info = _read_yaml(output.file_updated)
    if not isinstance(info.get("params"), Mapping):
        raise ChainError(f"{output.file_updated} is not the input of a Cobaya run: it has no 'params'.")
    if burn_in is None:
        burn_in = BURN_IN if "mcmc" in (info.get("sampler") or {}) else 0.0
    if not 0 <= burn_in < 1:
        raise ChainError(f"The burn-in must be a fraction in [0, 1); got {burn_in}.")
    try:
        rows, samples = _read(info, output, files, burn_in)
    except Exception as error:
        raise ChainError(f"GetDist cannot read the run {str(root)!r}: {_in_a_line(error)}") from error
    sampled = [name for name, entry in info["params"].items() if isinstance(entry, dict) and "prior" in entry]
    absent = [name for name in ("weight", "minuslogpost", "chi2", *sampled) if name not in rows]
    if absent:
        raise ChainError(f"{files[0]} has no column {absent[0]}; its columns are {', '.join(map(str, rows))}.")
    enough = len(rows) >= max(MIN_ROWS, 2 * len(sampled))
    varying = [name for name in info["params"] if enough and samples.paramNames.parWithName(name) is not None]
    densities = [name for name in sampled if name in varying]
    derived = [name for name in varying if name not in sampled and not name.startswith(_TERMS)]
    checkpoint = Path(output.folder, output.prefix + Extension.checkpoint)
    return Chain(root, root.name, info, burn_in, rows, samples, sampled, densities, derived, _has_converged(checkpoint))


def _find(root: str | Path) -> tuple[Path, OutputReadOnly]:
    """Find a run by its output prefix, by its folder if it has no prefix, or by one of its files."""
    if not str(root) or "\0" in str(root):
        raise ChainError(f"{str(root)!r} is not the name of a run: give the 'output' of its YAML file.")
    root = Path(root)
    names = [root.name, _ENDINGS.sub("", root.name)]
    candidates = [(root.with_name(name), str(root.with_name(name))) for name in names if name]
    # 'output: chains/dir/' has no prefix: its files are dir/1.txt, dir/updated.yaml, ...
    if root.is_dir():
        candidates.append((root.resolve(), f"{root}{os.sep}"))
    for path, prefix in candidates:
        output = OutputReadOnly(prefix)
        if Path(output.file_updated).is_file():
            return path, output
    others = sorted(path.name.removesuffix(".updated.yaml") for path in root.parent.glob("*.updated.yaml"))
    hint = f" Runs in {root.parent}: {', '.join(others)}." if others else ""
    raise ChainError(
        f"There is no run {str(root)!r}: no file {root}.updated.yaml. Give the 'output' of the run's YAML file, "
        f"relative to this folder.{hint}"
    )


def _read_yaml(path: str | Path) -> dict:
    try:
        found = yaml_load_file(str(path))
    except Exception as error:
        # PyYAML and Cobaya raise errors of many types.
        raise ChainError(f"{path} cannot be read: {_in_a_line(error)}") from error
    if not isinstance(found, dict):
        raise ChainError(
            f"{path} is not the input or checkpoint of a Cobaya run. If the run was killed while writing it, resume it."
        )
    return found


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _has_converged(checkpoint: Path) -> bool | None:
    if not checkpoint.is_file():
        return None
    try:
        (sampler,) = _read_yaml(checkpoint)["sampler"].values()
        return bool(sampler["converged"])
    except (ChainError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _read(info: dict, output: OutputReadOnly, files: list[str], burn_in: float) -> tuple[pd.DataFrame, MCSamples]:
    """Read chains as ``getdist.loadMCSamples`` does, but keep the columns that do not vary, too."""
    # GetDist reads the limits of priors from the file, but fails for some distributions.
    samples = MCSamples(
        names=ParamNames(output.file_updated),
        ranges={name: _limits(entry) for name, entry in info["params"].items()},
        sampler=get_sampler_type(info),
        temperature=get_sampler_temperature(info),
    )
    samples.loadChains(output.prefix, files)
    samples.removeBurnFraction(burn_in)
    with open(files[0], encoding="utf-8") as file:
        names = file.readline().lstrip("#").split()
    tables = [np.column_stack([chain.weights, chain.loglikes, chain.samples]) for chain in samples.chains]
    rows = pd.DataFrame(np.concatenate(tables), columns=names)
    if rows.empty:
        raise ValueError(f"{files[0]} contains no samples yet.")
    if not np.isfinite(rows.to_numpy()).all() or not (rows["weight"] > 0).all():
        raise ValueError("the chains contain weights that are not positive, or values that are not finite.")
    for parameter in samples.paramNames.names:
        if not (info["params"].get(parameter.name) or {}).get("latex"):
            # A bare name, as GetDist has it, would be read as a formula: A_IA as A with the index I, times A.
            parameter.label = _LATEX.get(parameter.name, rf"\mathrm{{{parameter.name}}}".replace("_", r"\_"))
    samples.deleteFixedParams()
    samples.makeSingle()
    samples.updateBaseStatistics()
    return rows, samples


def _limits(entry: Any) -> tuple[float | None, float | None]:
    if not isinstance(entry, dict) or "prior" not in entry:
        return get_range(entry)[:2]
    low, high = get_scipy_1d_pdf(dict(entry["prior"])).support()
    return (float(low) if np.isfinite(low) else None), (float(high) if np.isfinite(high) else None)


def posterior_table(chain: Chain) -> str:
    """Return a table of the posterior: mean, standard deviation, 68 % and 95 % limits, best fit, R-1 and chi^2.

    Parameters
    ----------
    chain : Chain

    Returns
    -------
    str

    Raises
    ------
    ChainError
        GetDist cannot estimate densities from these samples.
    """
    best = chain.best()
    lines = [
        f"{chain.name}: {len(chain.rows)} rows, total weight {chain.column('weight').sum():.6g}; dropped as burn-in: "
        f"{100 * chain.burn_in:g} % of each chain"
    ]
    if not chain.densities:
        lines.append("  too few samples for limits (from 'evaluate', or from a run that has just started)")
    else:
        try:
            statistics = chain.samples.getMargeStats()
        except (ValueError, IndexError, np.linalg.LinAlgError) as error:
            raise ChainError(f"GetDist fails for the samples of {chain.name}: {_in_a_line(error)}") from error
        heads = f"{'68 % limits':<21s} {'95 % limits':<21s} best fit"
        width = max(14, *map(len, (*chain.densities, *chain.derived)))
        lines.append(f"  {'parameter':<{width}s} {'mean':>9s} {'std':>9s}   {heads}")
        lines += [_row(name, width, statistics.parWithName(name), best[name]) for name in chain.densities]
        lines += ["  derived"] * bool(chain.derived)
        lines += [_row(name, width, statistics.parWithName(name), best[name]) for name in chain.derived]
        lines.append(f"  R-1 of the means: {_gelman_rubin(chain)}")
        at_ends = _at_ends(chain)
        if at_ends:
            lines.append(f"  the prior limits: {', '.join(at_ends)}")
    likelihoods = (chain.info.get("likelihood") or {}).values()
    with_determinant = any((options or {}).get("emulator_error") for options in likelihoods)
    which = ", with the error of the prediction and its log-determinant" if with_determinant else ""
    lines.append(f"  chi2 (-2 log-likelihood{which}) at the best fit: {best['chi2']:.2f}")
    if chain.converged is False:
        lines.append(
            "  NOT CONVERGED by the criteria of the sampler: still running, or stopped (cobaya-run -r resumes it)"
        )
    return "\n".join(lines)


def _at_ends(chain: Chain) -> list[str]:
    """Return the sampled parameters whose posterior reaches an end of their prior: 1 % of it in the outermost 2 %."""
    weights, found = chain.column("weight"), []
    for name in chain.densities:
        low, high = _limits(chain.info["params"][name])
        if low is None or high is None:
            continue
        place = (chain.column(name) - low) / (high - low)
        shares = (np.sum(weights * outermost) / np.sum(weights) for outermost in (place < 0.02, place > 0.98))
        ends = [f"{end:g}" for end, share in zip((low, high), shares, strict=True) if share > 0.01]
        found += [f"{name} (at {' and '.join(ends)})"] * bool(ends)
    return found


def _row(name: str, width: int, entry: Any, best: float) -> str:
    """Return the row of a parameter in the table, with three digits of its standard deviation, at least 4 decimals."""
    small = int(np.ceil(-np.log10(entry.err))) + 2 if entry.err > 0 else 0
    number = f".{min(max(4, small), 12)}f"
    intervals = [f"[{limit.lower:{number}}, {limit.upper:{number}}]" for limit in entry.limits[:2]]
    values = f"{entry.mean:9{number}} {entry.err:9{number}}   {intervals[0]:<21s} {intervals[1]:<21s}"
    return f"  {name:<{width}s} {values} {best:{number}}"


def _gelman_rubin(chain: Chain) -> str:
    """Return GetDist's R-1 in the worst direction, between the files of a run, or four parts of a single chain."""
    samples = chain.samples
    # A file of HMC contains many chains.
    offsets, what = samples.chain_offsets, f"between {len(samples.chain_offsets) - 1} files"
    if len(offsets) == 2:
        offsets, what = np.linspace(0, len(chain.rows), 5).astype(int), "4 parts of one chain"
    if chain.densities != chain.sampled or np.diff(offsets).min() <= 5 * len(chain.sampled):
        return "too few samples"
    parts = [
        WeightedSamples(samples=samples.samples[part], weights=samples.weights[part])
        for part in (slice(start, stop) for start, stop in pairwise(offsets))
    ]
    ratios = samples.getGelmanRubinEigenvalues(chainlist=parts)  # None if a covariance is not positive definite
    return "too few samples" if ratios is None else f"{ratios.max():.4f} ({what})"

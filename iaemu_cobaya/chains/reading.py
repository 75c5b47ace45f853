"""Cobaya runs on disk, finished or running, and their posterior as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from cobaya.output import OutputReadOnly
from cobaya.yaml import yaml_load_file
from getdist import MCSamples
from getdist.chains import WeightedSamples

#: Share of a Metropolis chain that is dropped by default: its way from the starting point.
BURN_IN = 0.3

#: GetDist cannot estimate densities from fewer rows.
MIN_ROWS = 20

#: How the names of a run's files go on behind the output prefix.
_ENDINGS = re.compile(r"((\.\d+)?\.txt|(\.updated|\.input)?\.yaml|\.checkpoint|\.progress|\.covmat)$")


class ChainError(ValueError):
    """A chain that is missing, empty or not a Cobaya chain; the message says what was looked for."""


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
        The updated input.
    burn_in : float
        Share of the rows that is dropped.
    rows : DataFrame
        After burn-in, chains one after the other: weight, minuslogpost, parameters, priors, chi^2.
    samples : getdist.MCSamples
        The same rows for GetDist, which drops columns that do not vary.
    sampled : list of str
        Names of the sampled parameters, in the order of the run.
    densities : list of str
        Those of ``sampled`` that GetDist can estimate densities of: they have moved, and there are rows enough.
    """

    root: Path
    name: str
    info: dict
    burn_in: float
    rows: pd.DataFrame
    samples: MCSamples
    sampled: list[str]
    densities: list[str]

    def column(self, name: str) -> np.ndarray:
        """One column of ``rows``.

        Parameters
        ----------
        name : str

        Returns
        -------
        array (n_rows,)
        """
        return self.rows[name].to_numpy()

    def best(self) -> dict[str, float]:
        """All columns of the row of largest posterior.

        Returns
        -------
        dict of column to float
        """
        return self.rows.iloc[int(np.argmin(self.column("minuslogpost")))].to_dict()

    def draws(self, n: int, seed: int = 0) -> list[dict[str, float]]:
        """Rows drawn by weight.

        Parameters
        ----------
        n : int
        seed : int
            The same draws for the same seed.

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
        Output prefix of the run (``chains/tng_sample1``); one of its files or its input's ``output`` also does.
    burn_in : float, optional
        Share of the rows to drop, in [0, 1). By default 0.3 for Cobaya's ``mcmc``, which writes its way from the
        starting point, else 0.

    Returns
    -------
    Chain

    Raises
    ------
    ChainError
        No such run, or nothing in it yet.
    """
    root = Path(root)
    root = root.with_name(_ENDINGS.sub("", root.name))
    output = OutputReadOnly(str(root))
    updated = Path(output.file_updated)
    if not updated.is_file():
        others = sorted(path.name.removesuffix(".updated.yaml") for path in root.parent.glob("*.updated.yaml"))
        hint = f" Runs in {root.parent}: {', '.join(others)}." if others else ""
        raise ChainError(
            f"There is no run {str(root)!r}: no file {updated}. Give the 'output' of the run's YAML file, relative to "
            f"this folder.{hint}"
        )
    files = [path for path in output.find_collections() if Path(path).stat().st_size > 0]
    if not files:
        raise ChainError(f"The run {str(root)!r} has no samples yet: no file {root.name}.1.txt.")
    info = yaml_load_file(str(updated))
    if burn_in is None:
        burn_in = BURN_IN if "mcmc" in (info.get("sampler") or {}) else 0.0
    if not 0 <= burn_in < 1:
        raise ChainError(f"The burn-in must be a share in [0, 1), got {burn_in}.")
    try:
        rows, samples = _read(root, files, burn_in)
    except Exception as error:
        raise ChainError(f"GetDist cannot read the run {str(root)!r}: {error}") from error
    sampled = [name for name, entry in info["params"].items() if isinstance(entry, dict) and "prior" in entry]
    enough = len(rows) >= max(MIN_ROWS, 2 * len(sampled))
    densities = [name for name in sampled if enough and samples.paramNames.parWithName(name) is not None]
    return Chain(root, root.name, info, burn_in, rows, samples, sampled, densities)


def _read(root: Path, files: list[str], burn_in: float) -> tuple[pd.DataFrame, MCSamples]:
    """As ``getdist.loadMCSamples``, but with a look at all columns before it drops those that do not vary."""
    samples = MCSamples(str(root))
    samples.loadChains(str(root), files)
    samples.removeBurnFraction(burn_in)
    with open(files[0], encoding="utf-8") as file:
        names = file.readline().lstrip("#").split()
    tables = [np.column_stack([chain.weights, chain.loglikes, chain.samples]) for chain in samples.chains]
    rows = pd.DataFrame(np.concatenate(tables), columns=names)
    if rows.empty:
        raise ValueError(f"{files[0]} holds no samples yet.")
    samples.deleteFixedParams()
    samples.makeSingle()
    samples.updateBaseStatistics()
    return rows, samples


def posterior_table(chain: Chain) -> str:
    """Posterior of the sampled parameters: mean, standard deviation, 68 % and 95 % limits, R-1, chi^2.

    Parameters
    ----------
    chain : Chain

    Returns
    -------
    str
    """
    best = chain.best()
    lines = [
        f"{chain.name}: {len(chain.rows)} rows, total weight {chain.column('weight').sum():.6g}, burn-in "
        f"{chain.burn_in:g} of each chain dropped"
    ]
    if not chain.densities:
        lines.append("  too few samples for limits (a run of 'evaluate', or one just started)")
    else:
        statistics = chain.samples.getMargeStats()
        heads = f"{'68 % limits':<21s} {'95 % limits':<21s} best fit"
        lines.append(f"  {'parameter':<14s} {'mean':>9s} {'std':>9s}   {heads}")
        for name in chain.densities:
            entry = statistics.parWithName(name)
            intervals = [f"[{limit.lower:.4f}, {limit.upper:.4f}]" for limit in entry.limits[:2]]
            lines.append(
                f"  {name:<14s} {entry.mean:9.4f} {entry.err:9.4f}   {intervals[0]:<21s} {intervals[1]:<21s} "
                f"{best[name]:.4f}"
            )
        lines.append(f"  R-1 of the means: {_gelman_rubin(chain)}")
    likelihoods = (chain.info.get("likelihood") or {}).values()
    with_determinant = any((options or {}).get("emulator_error") for options in likelihoods)
    which = " with the prediction's error, its log-determinant included" if with_determinant else ""
    lines.append(f"  chi2{which} at the best fit: {best['chi2']:.2f}")
    return "\n".join(lines)


def _gelman_rubin(chain: Chain) -> str:
    """GetDist's R-1, the largest over all directions, of the chains of the run or of four parts of a single one."""
    samples = chain.samples
    offsets, what = samples.chain_offsets, f"{len(samples.chain_offsets) - 1} chains"
    if len(offsets) == 2:
        offsets, what = np.linspace(0, len(chain.rows), 5).astype(int), "4 parts of one chain"
    if chain.densities != chain.sampled or np.diff(offsets).min() <= 5 * len(chain.sampled):
        return "too few samples"
    parts = [
        WeightedSamples(samples=samples.samples[part], weights=samples.weights[part])
        for part in (slice(start, stop) for start, stop in pairwise(offsets))
    ]
    ratios = samples.getGelmanRubinEigenvalues(chainlist=parts)  # None: a covariance that is not positive definite
    return "too few samples" if ratios is None else f"{ratios.max():.4f} ({what})"

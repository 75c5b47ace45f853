"""Convergence diagnostics: rank-normalised split R-hat, effective sample sizes, E-BFMI, and a table.

R-hat and sample sizes are those of Vehtari et al. 2021 (arXiv:1903.08008), computed by arviz-stats; E-BFMI is that of
Betancourt 2016 (arXiv:1604.00695).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from iaemu.display import html_table

#: Effective sample sizes that a run reports, and must reach.
ESS_METHODS = ("bulk", "tail", "mean")
#: The tail's effective sample size is the smaller one of these two quantiles.
_TAIL = (0.05, 0.95)
#: E-BFMI below which chains hardly reach the tails of the density.
LOW_BFMI = 0.3


def _array_stats():
    # The import takes seconds, and drawing does not need it.
    from arviz_stats.base import array_stats

    return array_stats


def rhat(draws: ArrayLike) -> np.ndarray:
    """Return the rank-normalised split R-hat, the larger of that of the bulk and that of the tails.

    Parameters
    ----------
    draws : array or tensor (n_chains, n_draws, d)

    Returns
    -------
    array (d,)
    """
    return np.asarray(_array_stats().rhat(_array(draws), chain_axis=0, draw_axis=1))


def ess(draws: ArrayLike, method: str = "bulk") -> np.ndarray:
    """Return the effective sample size, by the estimator of Vehtari et al. 2021 (arXiv:1903.08008), as in Stan.

    It comes from the autocorrelations within and between split chains. "bulk" is that of the ranks of the draws, mapped
    to a normal: it exists for every density and says how well chains mix, but of a density with heavy tails it is not
    that of the mean. "mean" is that of the draws themselves, without ranks: ``sd / sqrt(ess)`` is the Monte Carlo error
    of the mean. Near a normal density the two agree.

    "mean" needs a finite variance; without one, as for a Cauchy density, the number means nothing. With an infinite
    fourth moment, as for a t with 3 degrees of freedom, it is noisy: large until a chain goes far out into a tail,
    small afterwards. The error of the mean still has the right size (``benchmarks/heavy_tails.py``), since the estimate
    sees the excursion that displaces the mean; but one run does not tell what another will have, and nothing tells of
    tails that no chain has reached. It is not that of the standard deviation, whose error needs a finite fourth moment.

    Parameters
    ----------
    draws : array or tensor (n_chains, n_draws, d)
    method : "bulk", "tail" or "mean"
        "tail": the smaller one of those of the quantiles 0.05 and 0.95.

    Returns
    -------
    array (d,)
    """
    options = dict(prob=_TAIL) if method == "tail" else {}
    values = _array(draws)
    if method == "mean":
        # arviz takes draws for constant if they differ by less than 1e-15, whatever their unit.
        centred = values - values.mean(axis=(0, 1))
        scale = np.abs(centred).max(axis=(0, 1))
        values = centred / np.where(scale > 0, scale, 1.0)
    return np.asarray(_array_stats().ess(values, chain_axis=0, draw_axis=1, method=method, **options))


def bfmi(energy: ArrayLike) -> np.ndarray:
    """Return the estimated Bayesian fraction of missing information, E-BFMI.

    It is the mean squared difference of successive energies over their variance (Betancourt 2016, equation 19). It is
    well below 1 if the tails of the density are too heavy to be crossed in one trajectory.

    Parameters
    ----------
    energy : array or tensor (n_chains, n_draws)

    Returns
    -------
    array (n_chains,)
    """
    values = _array(energy)
    variance = values.var(axis=1)
    # For chains that did not move both are zero, and the result is NaN.
    return np.square(np.diff(values, axis=1)).mean(axis=1) / np.where(variance > 0, variance, np.nan)


class Summary(NamedTuple):
    """Moments, quantiles and convergence of each parameter; it prints as a table.

    Attributes
    ----------
    names : tuple of str
        Names of the parameters.
    mean, sd, low, median, high : arrays (d,)
        Mean, standard deviation, and the quantiles 0.16, 0.5 and 0.84.
    mcse : array (d,)
        Monte Carlo standard error of the mean.
    ess_bulk, ess_tail, ess_mean, rhat : arrays (d,)
        Effective sample sizes of the bulk, the tails and the mean (see :func:`ess`), and R-hat.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray
    mcse: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    ess_mean: np.ndarray
    rhat: np.ndarray

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self.columns())

    def columns(self) -> dict[str, Iterable[Any]]:
        """Return the entries of the table by the heading of their column.

        Returns
        -------
        dict of str to array or sequence
        """
        return {
            "parameter": self.names,
            "mean": self.mean,
            "sd": self.sd,
            "16%": self.low,
            "50%": self.median,
            "84%": self.high,
            "mcse": self.mcse,
            "ess_bulk": [f"{size:.0f}" for size in self.ess_bulk],
            "ess_tail": [f"{size:.0f}" for size in self.ess_tail],
            "ess_mean": [f"{size:.0f}" for size in self.ess_mean],
            "rhat": [f"{value:.4f}" for value in self.rhat],
        }

    def __str__(self) -> str:
        width = max(9, *(len(name) for name in self.names))
        columns = ("mean", "sd", "16%", "50%", "84%", "mcse", "ess_bulk", "ess_tail", "ess_mean", "rhat")
        lines = [" " * width + "".join(f"{column:>11}" for column in columns)]
        for name, *values, bulk, tail, mean, r in zip(*self, strict=True):
            numbers = "".join(f"{value:11.4g}" for value in values)
            lines.append(f"{name:<{width}}{numbers}{bulk:11.0f}{tail:11.0f}{mean:11.0f}{r:11.4f}")
        return "\n".join(lines)


def summarise(draws: ArrayLike, names: Sequence[str] | None = None) -> Summary:
    """Return moments, quantiles and convergence diagnostics of draws.

    Parameters
    ----------
    draws : array or tensor (n_chains, n_draws, d)
    names : d names, optional
        Names of the parameters; by default x0, x1, ...

    Returns
    -------
    Summary

    Raises
    ------
    ValueError
        The number of names is not d.
    """
    draws = _array(draws)
    flat = draws.reshape(-1, draws.shape[-1])
    names = tuple(f"x{index}" for index in range(flat.shape[1])) if names is None else tuple(names)
    if len(names) != flat.shape[1]:
        raise ValueError(f"There are {len(names)} names for {flat.shape[1]} parameters.")
    sd = flat.std(axis=0, ddof=1)
    low, median, high = np.quantile(flat, (0.16, 0.5, 0.84), axis=0)
    bulk, tail, mean = (ess(draws, method) for method in ESS_METHODS)
    mcse = sd / np.sqrt(mean)
    return Summary(names, flat.mean(axis=0), sd, low, median, high, mcse, bulk, tail, mean, rhat(draws))


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values, dtype=float)

"""The posterior of a chain as numbers."""

from __future__ import annotations

from typing import Any

from iaemu_cobaya.chains.reading import Chain, _gelman_rubin


def posterior_summary(chain: Chain) -> dict[str, Any]:
    """Return the numbers of :func:`iaemu_cobaya.chains.posterior_table`.

    Parameters
    ----------
    chain : Chain

    Returns
    -------
    dict
        ``name``, ``rows``, ``weight``, ``burn_in``, ``converged``, ``Rminus1`` (None if there are too few samples),
        ``chi2`` and ``best_fit`` (at the row of largest posterior), and ``parameters``: by name, ``mean``, ``std``,
        ``limits_68`` and ``limits_95``, and whether it is ``derived``.
    """
    best = chain.best()
    parameters = {}
    for name in (*chain.densities, *chain.derived):
        entry = chain.samples.getMargeStats().parWithName(name)  # GetDist keeps what it has computed
        limits = [[limit.lower, limit.upper] for limit in entry.limits[:2]]
        parameters[name] = {"mean": entry.mean, "std": entry.err, "limits_68": limits[0], "limits_95": limits[1]}
        parameters[name]["derived"] = name in chain.derived
    return {
        "name": chain.name,
        "rows": len(chain.rows),
        "weight": float(chain.column("weight").sum()),
        "burn_in": chain.burn_in,
        "converged": chain.converged,
        "Rminus1": _rminus1(chain),
        "chi2": float(best["chi2"]),
        "best_fit": {name: float(best[name]) for name in (*chain.sampled, *chain.derived)},
        "parameters": parameters,
    }


def _rminus1(chain: Chain) -> float | None:
    """As the table states it."""
    try:
        return float(_gelman_rubin(chain).split()[0])
    except ValueError:  # "too few samples"
        return None

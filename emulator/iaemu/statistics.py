"""Names of the correlation functions."""

from __future__ import annotations

from collections.abc import Iterable

#: Functions of the separation r, which models predict.
STATISTICS = ("xi", "omega", "eta")

#: What surveys measure, see :mod:`iaemu.observables.projected`: functions of the transverse separation r_p [Mpc/h], and
#: the quadrupole of the position-shape correlation as a function of r (dimensionless). w_++ is measured, not predicted.
PROJECTED = ("w_gg", "w_gplus", "w_plusplus", "xi_gplus_2")

#: All that a measurement may contain.
MEASURED = (*STATISTICS, *PROJECTED)


def check_statistics(statistics: str | Iterable[str]) -> tuple[str, ...]:
    """Return the statistics without repetition, in the order of ``STATISTICS``.

    Parameters
    ----------
    statistics : str or iterable of str

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        A name is unknown, or the argument is not a name or names.
    """
    try:
        names = (statistics,) if isinstance(statistics, str) else tuple(statistics)
    except TypeError as error:
        raise ValueError(
            f"statistics must be one or more of {', '.join(STATISTICS)}; got {str(statistics)[:60]}."
        ) from error
    unknown = [str(name)[:60] for name in names if not isinstance(name, str) or name not in STATISTICS]
    if unknown:
        raise ValueError(f"Unknown statistic(s) {', '.join(unknown)}. Choose from {', '.join(STATISTICS)}.")
    return tuple(name for name in STATISTICS if name in names)

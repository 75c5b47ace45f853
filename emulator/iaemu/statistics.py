"""Names of the correlation functions."""

from __future__ import annotations

from collections.abc import Iterable

STATISTICS = ("xi", "omega", "eta")


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

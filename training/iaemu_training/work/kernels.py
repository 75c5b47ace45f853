"""Numba kernels: compiled once for all runs where there is a place to keep them, and run by threads that do not stay.

Numba's own ``prange`` leaves its threads behind, for the life of the process. A process that forks then, as
``multiprocessing.Pool`` does on Linux, ends or hangs in its children at the next call: GNU OpenMP knows no fork.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import numba

#: Most threads that :func:`in_threads` may use in this context; None for ``NUMBA_NUM_THREADS``, by default all cores.
LIMIT: ContextVar[int | None] = ContextVar("LIMIT", default=None)

#: Parts a thread: work that is uneven is shared out evenly.
_PARTS = 4


def kernel(function: Callable) -> Callable:
    """Compile a function for numbers alone, which lets other threads run; kept on disk where that is possible.

    Parameters
    ----------
    function : callable

    Returns
    -------
    callable
        It can be called from Python and from other kernels.
    """
    try:
        compiled = numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # an installation that cannot be written to, and no home: compiled anew in each process
        return numba.njit(function, nogil=True)
    cache = getattr(compiled, "_cache", None)
    if cache is not None:
        cache.save_overload = _unless_full(cache.save_overload)
    return compiled


def in_threads(function: Callable[..., None], n: int, *arguments: Any) -> None:
    """Call ``function(start, stop, *arguments)`` for parts that make up ``range(n)``, from several threads at a time.

    The threads are gone when this returns.

    Parameters
    ----------
    function : callable
        A :func:`kernel`. What it writes for one number must not depend on the others: so the result depends neither
        on the parts nor on the number of threads.
    n : int
    *arguments : object
    """
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    n_threads = min(LIMIT.get() or most, n)
    if n_threads <= 1:
        function(0, n, *arguments)
        return
    n_parts = min(n, _PARTS * n_threads)
    bounds = [n * part // n_parts for part in range(n_parts + 1)]
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(lambda start, stop: function(start, stop, *arguments), bounds[:-1], bounds[1:]):
            pass


def _unless_full(save: Callable) -> Callable:
    """Where a disk or a quota is full, what was compiled is not kept; it can be used all the same."""

    @functools.wraps(save)
    def keep(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError:
            pass

    return keep

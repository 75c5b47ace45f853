"""Numba kernels: compiled once and kept on disk if possible, and run by threads that end with each call.

The threads of numba's own ``prange`` stay for the life of the process. If it then forks, as ``multiprocessing.Pool``
does on Linux, the children end or hang at the next call, because GNU OpenMP does not support forks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import numba

#: Largest number of threads of :func:`in_threads` in this context; None for ``NUMBA_NUM_THREADS``, or all cores.
LIMIT: ContextVar[int | None] = ContextVar("LIMIT", default=None)

#: Parts for each thread; more than one, since parts take unequal times.
_PARTS = 4


def kernel(function: Callable) -> Callable:
    """Compile a function with numba, without the global interpreter lock; keep it on disk if possible.

    Parameters
    ----------
    function : callable
        Function of numbers and arrays.

    Returns
    -------
    callable
        The compiled function, for calls from Python and from other kernels.
    """
    try:
        compiled = numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # neither the installation nor the home folder can be written to: compile in each process
        return numba.njit(function, nogil=True)
    cache = getattr(compiled, "_cache", None)
    if cache is not None:
        cache.save_overload = _unless_full(cache.save_overload)
    return compiled


def n_threads() -> int:
    """Return the largest number of threads in this context: ``LIMIT``, or numba's.

    Returns
    -------
    int
    """
    return LIMIT.get() or numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


def in_threads(function: Callable[..., None], n: int, *arguments: Any) -> None:
    """Call ``function(start, stop, *arguments)`` in several threads, for parts that make up ``range(n)``.

    The threads have ended when this returns.

    Parameters
    ----------
    function : callable
        A :func:`kernel`. What it writes for one number of the range must not depend on the others, so that the result
        depends neither on the parts nor on the number of threads.
    n : int
        Length of the range.
    *arguments : object
        Further arguments of the function.
    """
    most = min(n_threads(), n)
    if most <= 1:
        function(0, n, *arguments)
        return
    n_parts = min(n, _PARTS * most)
    bounds = [n * part // n_parts for part in range(n_parts + 1)]
    with ThreadPoolExecutor(most) as pool:
        for _ in pool.map(lambda start, stop: function(start, stop, *arguments), bounds[:-1], bounds[1:]):
            pass


def _unless_full(save: Callable) -> Callable:
    """Wrap numba's saving of compiled code so that a full disk or quota is ignored."""

    @functools.wraps(save)
    def keep(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError:
            pass

    return keep

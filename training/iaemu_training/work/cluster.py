"""Workers behind one interface: this process, worker processes, or a Dask cluster."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from iaemu.extras import it_takes

#: Tasks submitted ahead of time: enough to keep a large cluster busy, few enough to hold in memory.
_WINDOW = 1024
#: Time within which a running Dask scheduler must answer [s].
_CONNECT_TIMEOUT = 10


class Workers(NamedTuple):
    """An executor, and the number of tasks to submit ahead of time."""

    executor: concurrent.futures.Executor
    window: int


@contextmanager
def workers(n: int | None = None, dask: str | None = None) -> Iterator[Workers]:
    """Start workers for independent tasks, each with one thread; on leaving, pending tasks are cancelled.

    Parameters
    ----------
    n : int, optional
        Number of worker processes, or of jobs with ``slurm``; by default the number of cores. Not allowed with the
        address of a running scheduler, which has its own workers.
    dask : str, optional
        By default processes on this machine; with ``n`` = 1 this process itself. ``local``: a
        ``dask.distributed.LocalCluster``. ``slurm``: a ``dask_jobqueue.SLURMCluster`` as described in Dask's
        configuration (``~/.config/dask/jobqueue.yaml``). Anything else is the address of a running scheduler
        (``tcp://host:8786``), or the path of its scheduler file (``.json``).

    Yields
    ------
    Workers

    Raises
    ------
    ValueError
        ``n`` is not positive.
    ImportError
        ``distributed`` or ``dask_jobqueue`` is not installed.
    OSError
        The scheduler does not answer.
    """
    if n is not None and n < 1:
        raise ValueError(f"The number of workers must be at least 1, got {n}.")
    if dask is not None:
        with _dask_workers(n, dask) as found:
            yield found
        return
    n = available_cores() if n is None else n
    if n == 1:
        yield Workers(_InThisProcess(), 1)
        return
    # A fork would copy the locks of torch's threads in their present state.
    pool = _Pool(n, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield Workers(pool, _WINDOW)
    except KeyboardInterrupt:
        pool.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def available_cores() -> int:
    """Return the number of cores that this process may use, which a batch system may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch and our kernels to one thread within the block.

    Tasks use one thread on all kinds of workers: tasks run in parallel to each other, and a sum that is split over
    threads would depend on their number.
    """
    import torch

    from iaemu_training.work.kernels import LIMIT

    before, token = torch.get_num_threads(), LIMIT.set(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        LIMIT.reset(token)


class _Pool(concurrent.futures.ProcessPoolExecutor):
    """A pool of processes that ignore Ctrl-C, so that only their parent handles it and ends them."""

    def submit(self, *arguments: Any, **keywords: Any) -> concurrent.futures.Future:
        """Submit a task; workers are started at this point."""
        # Workers inherit the blocked signals. A handler would be installed too late, after their imports.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(*arguments, **keywords)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def terminate(self) -> None:
        """End the workers, whatever they are at: some tasks take minutes."""
        for process in list((self._processes or {}).values()):
            process.terminate()


class _InThisProcess(concurrent.futures.Executor):
    """An executor that runs each task when it is submitted."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> concurrent.futures.Future:
        """Run a task and return its finished future."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments, **keywords))
        except Exception as error:
            future.set_exception(error)
        return future


def _end_with_parent() -> None:
    """End this worker when its parent ends: after a kill of the parent it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()

    if parent is None:
        return

    def end_with_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


@contextmanager
def _dask_workers(n: int | None, dask: str) -> Iterator[Workers]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError(it_takes("Dask needs the package distributed", "dask")) from error
    cluster: Any = None  # dask_jobqueue and distributed have no common base class with type annotations
    target: Any = dask
    if dask == "local":
        n = available_cores() if n is None else n
        target = cluster = LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None)
    elif dask == "slurm":
        try:
            from dask_jobqueue import SLURMCluster
        except ImportError as error:
            raise ImportError(it_takes("SLURM needs the package dask_jobqueue", "dask")) from error
        target = cluster = SLURMCluster()
        cluster.scale(jobs=1 if n is None else n)
    elif n is not None:
        raise ValueError(f"The scheduler at {dask} has its own workers: do not give a number of workers ({n}).")
    try:
        keywords = {"scheduler_file": target} if isinstance(target, str) and _is_file(target) else {"address": target}
        try:
            client = Client(**keywords, timeout=_CONNECT_TIMEOUT, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise OSError(f"No Dask scheduler answers at {dask}: {error}. Check the address.") from error
        with client:
            yield Workers(client.get_executor(pure=False), _WINDOW)
    finally:
        if cluster is not None:
            cluster.close()


def _is_file(target: str) -> bool:
    if "://" in target:
        return False
    path = Path(target)
    if path.suffix == ".json" and not path.exists():
        raise OSError(f"There is no scheduler file {path}.")
    return path.exists()

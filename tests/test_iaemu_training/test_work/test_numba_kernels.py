"""Kernels: where there is no place to keep them, and beside forks."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("numba")

from iaemu_training.work.cluster import one_thread
from iaemu_training.work.kernels import LIMIT, in_threads

MEASURE = """
import multiprocessing, threading, warnings
import numpy as np
from iaemu_training.measuring.estimators import measure

rng = np.random.default_rng(0)
positions, axes = rng.uniform(0, 40, (1500, 3)), rng.normal(size=(1500, 3))

def xi(_=None):
    return measure(positions, axes, 40.0, [2.0, 4.0, 8.0], 3).bins["xi"].value.tolist()
"""


def run(code, **environment):
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", **environment}
    return subprocess.run(
        [sys.executable, "-c", MEASURE + code], capture_output=True, text=True, timeout=120, env=environment
    )


def test_a_pool_of_forks_measures_after_its_parent_has():
    code = """
before, alone = threading.active_count(), xi()
assert threading.active_count() == before
with multiprocessing.get_context("fork").Pool(2) as pool:
    for _ in range(2):
        assert pool.map_async(xi, range(4)).get(60) == [alone] * 4
print("done")
"""
    done = run(code)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.slow
def test_an_installation_that_cannot_be_written_to_will_do(tmp_path):
    """A file in place of each folder that numba would make: for root, too, nothing can be written there."""
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    code = f"""
import numba.core.caching as caching
caching.InTreeCacheLocator.get_cache_path = lambda self: {str(in_the_way / "x")!r}
import iaemu_training.pairs.cells as cells
"""
    # The locators are asked when kernels are defined: before anything of ours is imported.
    code = code + MEASURE + "print(len(xi()), cells.near_cells.stats.cache_path)"
    places = {"NUMBA_CACHE_DIR": str(in_the_way / "y"), "HOME": str(in_the_way), "XDG_CACHE_HOME": str(in_the_way)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, env={**os.environ, **places}
    )
    assert done.stdout == "2 None\n", done.stderr


@pytest.mark.slow
def test_a_full_disk_where_kernels_are_kept_is_no_harm(tmp_path):
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
print(len(xi()))
"""
    done = run(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.stdout == "2\n", done.stderr


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 100])
def test_each_number_has_its_turn_once(limit, n):
    counts, where = np.zeros(n, dtype=int), set()

    def work(start, stop, step):
        counts[start:stop] += step
        where.add(threading.get_ident())

    token = LIMIT.set(limit)
    try:
        in_threads(work, n, 2)
        assert counts.tolist() == [2] * n and len(where) <= limit
        where.clear()
        with one_thread():
            in_threads(work, n, 1)
        assert where <= {threading.get_ident()} and LIMIT.get() == limit
    finally:
        LIMIT.reset(token)


def test_an_error_in_a_thread_is_raised():
    def fail(start, stop):
        raise ArithmeticError(f"at {start}")

    token = LIMIT.set(2)
    try:
        with pytest.raises(ArithmeticError, match="at 0"):
            in_threads(fail, 10)
    finally:
        LIMIT.reset(token)

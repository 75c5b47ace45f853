"""Counts on one thread and on two: in a process of their own, since those of the tests have one thread each."""

import os
import pickle
import subprocess
import sys

import pytest

CODE = """
import pickle, sys
from iaemu_training.work.kernels import LIMIT
function, arguments = pickle.load(sys.stdin.buffer)
results = []
for n in (1, 2):
    LIMIT.set(n)
    results.append(function(*arguments))
pickle.dump(results, sys.stdout.buffer)
"""


@pytest.fixture
def on_one_and_two_threads():
    """Calls a function on each number of threads; its two results."""

    def call(function, *arguments):
        environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
        given = pickle.dumps((function, arguments))
        done = subprocess.run([sys.executable, "-c", CODE], input=given, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr.decode()
        return pickle.loads(done.stdout)

    return call

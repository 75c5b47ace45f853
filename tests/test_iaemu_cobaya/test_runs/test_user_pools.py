"""A Cobaya model with our components in the processes of a user's own multiprocessing.Pool, as emcee has them."""

import os
import signal
import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing
import sys

import numpy as np
from cobaya.model import get_model

theory, error, first = sys.argv[1], sys.argv[2] == "True", sys.argv[3] == "first"
model = get_model({
    "theory": {f"iaemu_cobaya.{theory}": None},
    "likelihood": {"iaemu_cobaya.TNG300Sample1": {"statistics": ["xi", "omega"], "emulator_error": error}},
    # The occupation varies, so that each point is a prediction of its own.
    "params": {"logMmin": {"prior": {"min": 12.5, "max": 12.7}, "ref": 12.6}},
    "debug": 50,
})


def logpost(x):
    return model.logpost(dict(zip(model.parameterization.sampled_params(), x)))


limits = {"mu_cen": (0.7, 0.9), "mu_sat": (0.1, 0.4), "logMmin": (12.5, 12.6)}
low, high = zip(*(limits[name] for name in model.parameterization.sampled_params()))
points = np.random.default_rng(1).uniform(low, high, size=(8, 3))
if first:
    expected = [logpost(x) for x in points]
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map(logpost, points)
if not first:
    expected = [logpost(x) for x in points]
assert np.isfinite(found).all() and np.ptp(found) > 0
assert np.allclose(found, expected, rtol=1e-9), (found, expected)
print("done")
"""


CASES = [
    ("IAEmu", True, "first"),
    ("TabulatedIA", True, "later"),
    pytest.param("IAEmu", False, "first", marks=pytest.mark.slow),
    pytest.param("IAEmu", False, "later", marks=pytest.mark.slow),
    pytest.param("IAEmu", True, "later", marks=pytest.mark.slow),
    pytest.param("TabulatedIA", True, "first", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("theory", "error", "when"), CASES)
def test_pool_of_forks(theory, error, when):
    """Forked before the first prediction here, and after."""
    command = [sys.executable, "-c", SCRIPT, theory, str(error), when]
    # A machine of one core starts no threads, which a fork would lose.
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    assert output.split()[-1] == "done"

"""Models in the processes of a pool that were forked after torch has computed in several threads."""

import os
import subprocess
import sys

import pytest

POOL = """
import multiprocessing, sys
import numpy as np, torch, iaemu

assert torch.get_num_threads() == 2
model = iaemu.load(sys.argv[1])
theta = model.support.sample(64, np.random.default_rng(1))
if sys.argv[2] == "used":  # by the model, and by torch alone
    model.predict(theta)
    torch.randn(1000, 1000) @ torch.randn(1000, 1000)

def evaluate(rows):
    found = [model.predict(theta[rows]).omega, model.deviations(theta[rows])["eta"]]
    return [(value**2).sum() for value in found], torch.get_num_threads()

rows = [slice(0, 32), slice(32, 64)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    found, threads = zip(*pool.map(evaluate, rows))
assert threads == (1, 1) and torch.get_num_threads() == 2
np.testing.assert_allclose(found, [evaluate(part)[0] for part in rows], rtol=1e-9)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(("model", "use"), [("factorised-pm160", "loaded"), ("tables-pm160", "used")])
def test_a_forked_pool_predicts(model, use):
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", POOL, model, use]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert found.stdout.strip() == "done", found.stderr

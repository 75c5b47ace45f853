"""Runs of HMC that are killed again and again, at any time: gone on with, they end in the files of one that was not."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cobaya.yaml import yaml_dump_file

pytestmark = pytest.mark.slow

#: Runs, and kills of each; a few of them come too late, when a run has ended.
N_RUNS, N_KILLS = 10, 5

#: Runs Cobaya, and kills it with SIGALRM some microseconds after the n-th time that it opens a file to write to it,
#: renames or cuts one in a folder: none, for 0.
KILLER = """
import os, signal, sys

folder, at, microseconds, *arguments = sys.argv[1:]
folder, at, microseconds, seen = os.path.abspath(folder), int(at), int(microseconds), 0

def hook(event, arguments):
    global seen
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if not (writes or event in ("os.rename", "os.truncate", "os.remove")):
        return
    if not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    if not os.path.abspath(os.fsdecode(arguments[0])).startswith(folder):
        return
    seen += 1
    if seen == at and microseconds:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 * microseconds)
    elif seen == at:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
from cobaya.run import run_script
run_script(arguments)
print("events", seen)
"""

OPTIONS = {"n_chains": 8, "n_files": 2, "n_warmup": 40, "check_every": 5, "seed": 1, "progress": False}


def start(folder, at=0, microseconds=0, resume=True):
    file = folder / "run.yaml"
    if not file.exists():
        info = {
            "theory": {"iaemu_cobaya.IAEmu": None},
            "likelihood": {"iaemu_cobaya.TNG300Sample1": None},
            "sampler": {"iaemu_cobaya.HMC": {**OPTIONS, "ess_stop": 700, "Rminus1_stop": 0.02}},
            "output": "chains/a",
        }
        yaml_dump_file(str(file), info)
    arguments = [str(folder / "chains"), str(at), str(microseconds), "run.yaml", *(["-r"] if resume else [])]
    return subprocess.Popen(
        [sys.executable, "-c", KILLER, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def files(folder):
    """All that a run leaves but its input, which holds Cobaya's version of the prefix."""
    found = {path.name: path.read_bytes() for path in (folder / "chains").iterdir()}
    return {name: content for name, content in found.items() if not name.endswith((".yaml", ".checkpoint"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files of an uninterrupted run, the seconds it took, and how often it wrote."""
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    process = start(folder, resume=False)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "has converged" in output
    return files(folder), time.monotonic() - began, int(output.split()[-1])


@pytest.mark.parametrize("number", range(N_RUNS))
def test_killed_and_gone_on_with(whole, tmp_path, number, record_property):
    expected, seconds, n_events = whole
    rng = np.random.default_rng([7, number])
    kills = []
    for kill in range(N_KILLS):
        if kill % 2:
            # Of the earlier ones: a run that is gone on with has fewer left.
            at, microseconds = int(rng.integers(1, n_events // 3)), int(rng.choice([0, 0, 50, 200, 1000]))
            process = start(tmp_path, at, microseconds)
            output, _ = process.communicate(timeout=300)
            how = f"{microseconds} us after event {at} of {n_events}"
        else:
            # The first kill comes in the first second of every other run, while modules are loaded.
            delay = rng.uniform(0.0, 1.0 if kill == 0 and number % 2 else 0.6 * seconds)
            process = start(tmp_path)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
            how = f"after {delay:.2f} s"
        # One that has ended by itself, before it could be killed, is fine: nothing else is.
        assert process.returncode in (0, -signal.SIGKILL, -signal.SIGALRM), output
        checkpoint = tmp_path / "chains" / "a.checkpoint"
        kills.append(f"{how}: {process.returncode}, checkpoint {'yes' if checkpoint.exists() else 'no'}")
    record_property("kills", kills)
    process = start(tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    found = files(tmp_path)
    left = {Path(name).suffix for name in found} - {Path(name).suffix for name in expected}
    assert left <= {".tmp", ".locked"}, "\n".join(kills)
    different = [name for name, content in expected.items() if found.get(name) != content]
    assert not different, "\n".join([*different, *kills])

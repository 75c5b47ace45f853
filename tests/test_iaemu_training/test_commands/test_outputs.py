"""Outputs that cannot be written, pipes that nobody reads, Ctrl-C and kills: one line, nothing half-written or lost."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("numba")

from iaemu_training.commands.iaemu_train import COMMANDS, main

TINY = ["--n-train", "256", "--n-validation", "32", "--width", "16", "--depth", "2", "--batch-size", "32"]
TINY += ["--epochs", "6", "--members", "2", "--checkpoint-every", "1", "--set", "dataset=null"]


def command(*argv):
    code = "import sys; from iaemu_training.commands.iaemu_train import main; sys.exit(main())"
    return [sys.executable, "-c", code, *map(str, argv)]


def arguments(name, output):
    return {
        "tabulate": [output, "-c", "nothing"],
        "check": ["calibration-pm160", "-o", output],
        "evaluate": ["shipped", "calibration-pm160", "-o", output],
        "card": ["factorised-pm160", "-o", output],
        "pack": ["nothing", output],
    }.get(name, [output])


@pytest.mark.parametrize("name", COMMANDS)
def test_outputs_that_cannot_be_are_refused_before_any_work(name, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for place in ("file/below", "missing/x", "file" if name in ("evaluate", "simulate") else "folder"):
        assert main([name, *map(str, arguments(name, tmp_path / place))]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and place.split("/")[0] in error
        assert "folder" in error or "file" in error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


def test_an_input_is_not_overwritten(tmp_path, capsys):
    path = tmp_path / "halos.hdf5"
    path.write_bytes(b"mine")
    assert main(["tabulate", str(path), "-c", "pm40", "-c", str(tmp_path / "." / "halos.hdf5")]) == 1
    assert "is the catalogue itself" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"


def test_a_pipe_that_nobody_reads_ends_it_quietly():
    process = subprocess.Popen(command("card", "factorised-pm160"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_under_what_is_printed():
    with open("/dev/full", "w") as full:
        done = subprocess.run(command("card", "factorised-pm160"), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "iaemu-train card: [Errno 28] No space left on device\n"


def test_a_full_disk_leaves_the_old_file(tmp_path):
    output = tmp_path / "card.md"
    output.write_text("old")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        command("card", "factorised-pm160", "-o", output), preexec_fn=limit, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "File too large" in done.stderr
    assert output.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.fixture(scope="module")
def tables(pm40_tables, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "tables.safetensors"
    pm40_tables.save(path)
    return path


def dataset(output, tables, workers):
    options = ["--tables", tables, "-n", 900, "--n-mocked", 12, "--n-realisations", 4, "--workers", workers]
    return command("dataset", output, *options)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_is_one_line(tables, tmp_path, workers):
    output = tmp_path / "d.hdf5"
    process = subprocess.Popen(
        dataset(output, tables, workers), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    parts = tmp_path / "d.hdf5.parts"
    while process.poll() is None and not list(parts.glob("*.npz")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error, error
    last = "iaemu-train dataset: interrupted. Run the same command again: it resumes."
    assert error.splitlines()[-1] == last


def kill_and_go_on(argv, output, n, longest):
    """Kill a command ``n`` times at random moments, then let it end; whether it ended by itself before."""
    rng = random.Random(1)
    for number in range(n):
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        # Some in the first second, some anywhere.
        time.sleep(rng.uniform(0, 1 if number % 4 == 0 else longest))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 0
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_data_set_killed_at_random_is_the_same(tables, tmp_path, workers):
    names = ("whole", "killed")
    outputs = [tmp_path / name / "d.hdf5" for name in names]
    for output in outputs:
        output.parent.mkdir()
    began = time.perf_counter()
    subprocess.run(dataset(outputs[0], tables, workers), stderr=subprocess.DEVNULL, check=True)
    kill_and_go_on(dataset(outputs[1], tables, workers), outputs[1], 5, time.perf_counter() - began)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.slow
def test_an_emulator_killed_at_random_is_the_same(tables, tmp_path):
    outputs = [tmp_path / name / "e.safetensors" for name in ("whole", "killed")]
    for output in outputs:
        output.parent.mkdir()
    argvs = [command("fit", output, "--tables", tables, *TINY) for output in outputs]
    began = time.perf_counter()
    subprocess.run(argvs[0], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    kill_and_go_on(argvs[1], outputs[1], 10, time.perf_counter() - began)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()

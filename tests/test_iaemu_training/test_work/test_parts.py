"""Work in parts: nothing lost, nothing twice, nothing mixed."""

import json

import numpy as np
import pytest

pytest.importorskip("portalocker")

from iaemu.files import write_whole
from iaemu_training.work.cluster import workers
from iaemu_training.work.parts import PartsError, PartStore, Task


def square(x):
    return {"x": np.array([x]), "y": np.array([x * x])}


def fail(x):
    raise ArithmeticError(f"no square of {x}")


def tasks(n, function=square):
    return {f"part-{i}": Task(function, (i,)) for i in range(n)}


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_part_is_done_once_and_read_back(tmp_path, n_workers):
    with PartStore(tmp_path / "parts", {"n": 5}) as store, workers(n_workers) as crew:
        assert store.run(tasks(5), crew, "squares", progress=False) == 5
        assert store.run(tasks(7), crew, "squares", progress=False) == 2
        assert [int(store.read(f"part-{i}")["y"][0]) for i in range(7)] == [0, 1, 4, 9, 16, 25, 36]


def test_an_error_keeps_what_is_finished(tmp_path):
    with PartStore(tmp_path / "parts", {}) as store, workers(1) as crew:
        with pytest.raises(ArithmeticError, match="no square of 7"):
            store.run({**tasks(3), "bad": Task(fail, (7,)), "never": Task(square, (8,))}, crew, "", progress=False)
        assert "part-2" in store and "never" not in store


def test_a_half_written_part_does_not_count(tmp_path):
    with PartStore(tmp_path / "parts", {}):
        pass
    for name in (".part-0.npz.a1b2c3d4.tmp", "part-0.npz.tmp"):
        (tmp_path / "parts" / name).write_bytes(b"half")
    with PartStore(tmp_path / "parts", {}) as store, workers(1) as crew:
        assert not list(store.folder.glob("*.tmp"))
        assert store.run(tasks(1), crew, "", progress=False) == 1
        assert sorted(path.name for path in store.folder.iterdir()) == ["identity.json", "lock", "part-0.npz"]


def test_other_settings_are_refused_by_name(tmp_path):
    with PartStore(tmp_path / "parts", {"n": 5, "seed": 1}):
        pass
    with pytest.raises(PartsError, match="seed = 1, now 2"), PartStore(tmp_path / "parts", {"n": 5, "seed": 2}):
        pass
    assert json.loads((tmp_path / "parts" / "identity.json").read_text()) == {"n": 5, "seed": 1}


def test_one_writer_at_a_time(tmp_path):
    with PartStore(tmp_path / "parts", {}):
        with pytest.raises(PartsError, match="Another process is writing"), PartStore(tmp_path / "parts", {}):
            pass
    with PartStore(tmp_path / "parts", {}):
        pass


def test_a_damaged_part_is_named(tmp_path):
    with PartStore(tmp_path / "parts", {}) as store, workers(1) as crew:
        store.run(tasks(1), crew, "", progress=False)
        path = store.path("part-0")
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(PartsError, match=r"part-0\.npz is damaged"):
            store.read("part-0")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def break_off(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, break_off)
    assert path.read_bytes() == b"old"


def test_number_of_workers_must_be_positive():
    with pytest.raises(ValueError, match="at least 1, got 0"), workers(0):
        pass


class TestDask:
    def test_no_scheduler_there(self, monkeypatch):
        pytest.importorskip("distributed")
        monkeypatch.setattr("iaemu_training.work.cluster._CONNECT_TIMEOUT", 1)
        with pytest.raises(OSError, match="No Dask scheduler answers"):
            with workers(dask="tcp://127.0.0.1:9"):
                pass

    def test_missing_scheduler_file(self, tmp_path):
        pytest.importorskip("distributed")
        with pytest.raises(OSError, match="no scheduler file"), workers(dask=str(tmp_path / "s.json")):
            pass

    def test_existing_scheduler_by_address_and_by_file(self, tmp_path):
        distributed = pytest.importorskip("distributed")
        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster:
            file = tmp_path / "scheduler.json"
            file.write_text(json.dumps(cluster.scheduler.identity()))
            for address in (cluster.scheduler_address, str(file)):
                with PartStore(tmp_path / "parts", {}) as store:
                    with workers(dask=address) as crew:
                        assert store.run(tasks(3), crew, "", progress=False) == 3
                    store.remove()

    def test_a_scheduler_has_its_own_workers(self):
        pytest.importorskip("distributed")
        with pytest.raises(ValueError, match="has its own workers"), workers(3, dask="tcp://127.0.0.1:9"):
            pass

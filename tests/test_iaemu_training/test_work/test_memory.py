"""The memory that is free, by the machine and by the control group."""

import psutil

from iaemu_training.work import memory


def test_it_is_a_part_of_the_machine():
    assert 1e7 < memory.available_memory() <= psutil.virtual_memory().total


class Used:
    """A process that has 1 GB."""

    @staticmethod
    def memory_info():
        return type("Info", (), {"rss": 1e9})


def test_the_smaller_limit_counts(tmp_path, monkeypatch):
    limit = tmp_path / "max"
    monkeypatch.setattr(memory, "_LIMITS", (limit, tmp_path / "absent"))
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 8e9}))
    assert memory.available_memory() == 8e9
    limit.write_text("max\n")
    assert memory.available_memory() == 8e9
    monkeypatch.setattr(memory.psutil, "Process", lambda: Used)
    limit.write_text("6000000000\n")
    assert memory.available_memory() == 5e9
    limit.write_text("1000\n")
    assert memory.available_memory() == 0

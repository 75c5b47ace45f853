"""The memory that is free, by the machine and by the control group."""

import math

from iaemu_training.work import memory


def test_it_is_a_part_of_the_machine():
    assert 1e7 < memory.available_memory() < 1e16


def test_the_smaller_limit_counts(tmp_path, monkeypatch):
    machine, limit, used = (tmp_path / name for name in ("meminfo", "max", "current"))
    monkeypatch.setattr(memory, "_MEMINFO", machine)
    monkeypatch.setattr(memory, "_CGROUPS", ((limit, used),))
    machine.write_text("MemTotal:  9000 kB\nMemAvailable:  4000 kB\n")
    assert memory.available_memory() == 4000 * 1024
    limit.write_text("max\n")
    used.write_text("1000\n")
    assert memory.available_memory() == 4000 * 1024
    limit.write_text("3000\n")
    assert memory.available_memory() == 2000
    used.write_text("5000\n")
    assert memory.available_memory() == 0


def test_without_proc_it_is_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(memory, "_CGROUPS", ())
    monkeypatch.setattr(memory.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}[name])
    assert memory.available_memory() == 4096 * 1000
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.available_memory() == math.inf

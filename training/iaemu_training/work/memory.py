"""The memory that this process may still take."""

from __future__ import annotations

from pathlib import Path

import psutil

#: Limit of a container or of a cluster's job, in the two versions of Linux' control groups.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available_memory() -> float:
    """Return the memory that this process may still take, without swapping.

    Returns
    -------
    float
        What the system calls available; or what the control group allows beyond what this process has, if that is
        less [bytes].
    """
    free = float(psutil.virtual_memory().available)
    for path in _LIMITS:
        try:
            free = min(free, float(path.read_text()) - psutil.Process().memory_info().rss)
        except (OSError, ValueError):  # there is no such group, or its limit is "max"
            continue
    return max(free, 0.0)

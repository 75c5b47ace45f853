"""The memory that this process may still take."""

from __future__ import annotations

import math
import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
#: Limit and use of a container or of a cluster's job, in the two versions of Linux' control groups.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def available_memory() -> float:
    """Return the memory that this process may still take, without swapping.

    On Linux it is what the kernel calls available, or what the control group leaves, if that is less. Elsewhere it is
    all of the machine's memory.

    Returns
    -------
    float
        [bytes]; infinity if it is not known.
    """
    try:
        words = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free = 1024.0 * float(words["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        try:
            free = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
        except (OSError, ValueError, AttributeError):
            free = math.inf
    for limit, used in _CGROUPS:
        try:
            free = min(free, float(limit.read_text()) - float(used.read_text()))
        except (OSError, ValueError):  # there is no such group, or its limit is "max"
            continue
    return max(free, 0.0)

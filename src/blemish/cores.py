"""How many processor cores this process may use: what threads are shared out by."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path


def usable_cores() -> int:
    """The cores that this process may use, at least 1.

    Those it is bound to (`taskset`, a container's cpuset), or fewer where its control group allows less time than they
    have (cgroup v2, `docker run --cpus 2`, a Kubernetes limit). A part of a core counts as a whole one.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = time_allowed(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return min(bound, max(1, math.ceil(allowed))) if allowed is not None else bound


def time_allowed(membership: Path, mounted: Path) -> float | None:
    """Seconds of processor time that a process may take in a second; None without a limit.

    Parameters
    ----------
    membership : the file that names the process's control group. mounted : the folder of all control groups. The
        smallest limit of the group and those around it holds.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    allowed = []
    for line in lines:
        hierarchy, _, group = line.partition("::")
        if hierarchy != "0":
            continue
        folder = mounted / group.lstrip("/")
        for each in (folder, *folder.parents):
            if not each.is_relative_to(mounted):
                break
            # "max 100000" or "150000 100000": time in a period, microseconds.
            with suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = (each / "cpu.max").read_text().split()
                allowed.append(int(quota) / int(period))
    return min(allowed, default=None)

"""`default_threads` counts the physical cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"),)


def default_threads() -> tuple[int, str]:
    """Physical cores that this process may run on, and where this number comes from."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in allowed}
    quota = _quota()
    if quota is not None and quota < len(cores):
        return quota, "quota of the control group"
    return len(cores), "physical cores that this process may use"


def _siblings(cpu: int) -> str:
    """Name of the core that a logical processor belongs to."""
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return f"{cpu}"


def _quota() -> int | None:
    """Whole processors that the control group grants, at least one."""
    for path in _QUOTAS:
        try:
            limit, period = path.read_text(encoding="ascii").split()
            return None if limit == "max" else max(1, int(limit) // int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None

"""Binds the process of an actor to as many cores as Ray counts for it, so that actors do not take each other's."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PREFIX = "pocketvlm-core"
_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_PAUSE, _TRIES = 0.01, 1000


class UnboundError(Exception):
    """Why a process is not bound to cores; it may then run on all of them."""


class Cores:
    """Cores that this process has reserved. numbers: as Linux counts them.

    Each is the name of a Unix socket in the kernel's abstract namespace. The kernel gives a name to one process, and
    frees it when that process ends in whatever way. Actors of all users and all clusters of a machine see these names.
    """

    def __init__(self, sockets: dict[int, socket.socket]) -> None:
        self._sockets = sockets
        self.numbers = sorted(sockets)

    def release(self) -> None:
        """Let other processes reserve these cores."""
        for each in self._sockets.values():
            each.close()


def bind(num_cpus: float, threads: int | None = None, prefix: str = _PREFIX) -> Cores:
    """Reserve num_cpus cores that no other actor has, and run all threads of this process on them alone.

    Call it before the model is loaded: threads that start later inherit the cores. threads: of the engine, if they were
    given. prefix: of names, for tests. Raises UnboundError where that cannot be, or would do harm; nothing has changed.
    """
    count = int(num_cpus)
    if count != num_cpus:
        raise UnboundError(f"num_cpus={num_cpus:g} is no whole number")
    if threads is not None and threads > count:
        raise UnboundError(f"threads={threads} are more than num_cpus={count}")
    if not hasattr(os, "sched_setaffinity"):
        raise UnboundError("this system cannot bind processes to cores")
    allowed = os.sched_getaffinity(0)
    limit = time_limit()
    if limit is not None and limit < len(allowed):
        # Other containers may run on any of these cores, and nobody knows which of them are busy.
        raise UnboundError(f"the container may use the time of {limit:g} cores, but any of {len(allowed)}")
    cores = reserve(count, allowed, prefix)
    bind_threads(cores.numbers)
    return cores


def bound(num_cpus: float | None, engine_kwargs: Mapping[str, Any]) -> Cores | None:
    """What `bind` gives for an actor; None for an actor that is not bound, with a line that says why.

    num_cpus: None if it should not be bound. engine_kwargs: of the engine, which may name `threads`.
    """
    if num_cpus is None:
        return None
    try:
        return bind(num_cpus, engine_kwargs.get("threads"))
    except UnboundError as reason:
        print(f"pocketvlm: this actor may use every core of its node: {reason}", file=sys.stderr, flush=True)
        return None


def reserve(count: int, allowed: Sequence[int] | set[int], prefix: str = _PREFIX) -> Cores:
    """Reserve cores of `allowed`. prefix: of names, for tests. Raises UnboundError where too few are free."""
    sockets: dict[int, socket.socket] = {}
    with _alone(prefix):
        for number in in_order(allowed):
            if len(sockets) == count:
                break
            if (found := _take(f"{prefix}-{number}")) is not None:
                sockets[number] = found
        cores = Cores(sockets)
        if len(sockets) < count:
            cores.release()
            raise UnboundError(
                f"num_cpus={count}, but other actors have all but {len(sockets)} of {len(allowed)} cores"
            )
    return cores


def in_order(allowed: Sequence[int] | set[int]) -> list[int]:
    """The first hardware thread of each physical core, then the second ones."""
    ranks: dict[int, int] = {}
    for number in sorted(allowed):
        siblings = _numbers(_read(_CPUS / f"cpu{number}" / "topology" / "thread_siblings_list"))
        ranks[number] = siblings.index(number) if number in siblings else 0
    return sorted(ranks, key=lambda number: (ranks[number], number))


def bind_threads(numbers: Sequence[int]) -> None:
    """Run every thread of this process on these cores alone; new ones inherit that."""
    bound: set[int] = set()
    while found := {int(each.name) for each in Path("/proc/self/task").iterdir()} - bound:
        for thread in found:
            with suppress(ProcessLookupError):  # it has just ended
                os.sched_setaffinity(thread, numbers)
        bound |= found


@contextmanager
def _alone(prefix: str) -> Iterator[None]:
    """One process at a time, so that two that need two cores each do not end with one each."""
    for _ in range(_TRIES):
        if (lock := _take(f"{prefix}s")) is not None:
            break
        time.sleep(_PAUSE)
    else:
        raise UnboundError(f"another process holds the name {prefix}s")
    try:
        yield
    finally:
        lock.close()


def _take(name: str) -> socket.socket | None:
    """A socket with this name in the abstract namespace, or None where another process has it."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        found.bind(f"\0{name}")
    except OSError:
        found.close()
        return None
    return found


def time_limit(root: Path = _CGROUPS, memberships: Path = Path("/proc/self/cgroup")) -> float | None:
    """Processor time that the control groups of this process allow, in cores; None without a limit."""
    found: list[float] = []
    for line in _read(memberships).splitlines():
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds and "cpu" not in kinds.split(","):
            continue
        base = root / "cpu" if kinds else root
        folder = base / path.lstrip("/")
        for each in (folder, *folder.parents):
            if not each.is_relative_to(base):
                break
            quota, _, period = (
                (_read(each / "cpu.cfs_quota_us") + " " + _read(each / "cpu.cfs_period_us"))
                if kinds
                else _read(each / "cpu.max")
            ).partition(" ")
            with suppress(ValueError):
                if int(quota) > 0:
                    found.append(int(quota) / int(period))
    return min(found, default=None)


def _numbers(text: str) -> list[int]:
    """The numbers of a list such as 0-3,8."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

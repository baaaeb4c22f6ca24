"""Actors reserve cores of their own, which are free again when they end in whatever way; no Ray is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from pocketvlm.ray import cores
from pocketvlm.ray.cores import UnboundError, bind, bound, in_order, reserve

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to cores")

# Starts a thread before it binds itself and one after; tells the cores of all threads, and waits to be killed.
ACTOR = """
import os, sys, threading
from pocketvlm.ray.cores import bind
hold = threading.Event()
threading.Thread(target=hold.wait, daemon=True).start()
cores = bind(int(sys.argv[1]), prefix=sys.argv[2])
threading.Thread(target=hold.wait, daemon=True).start()
print(cores.numbers, [sorted(os.sched_getaffinity(int(each))) for each in os.listdir("/proc/self/task")], flush=True)
hold.wait()
"""


@pytest.fixture
def prefix() -> str:
    """Names that no other process has."""
    return f"pocketvlm-test-{uuid.uuid4().hex}"


def test_a_core_has_one_owner_and_is_free_when_the_owner_was_killed(prefix: str) -> None:
    allowed = os.sched_getaffinity(0)
    actor = subprocess.Popen([sys.executable, "-c", ACTOR, "1", prefix], stdout=subprocess.PIPE, text=True)
    assert actor.stdout is not None
    try:
        numbers, threads = actor.stdout.readline().strip().split("] [", 1)
        number = int(numbers.strip("[]"))
        assert set(threads.strip("[]").split("], [")) == {str(number)}
        assert threads.count(",") >= 2, "one thread began before, one after"
        if len(allowed) > 1:
            other = reserve(len(allowed) - 1, allowed, prefix)
            assert set(other.numbers) == allowed - {number}
            other.release()
        with pytest.raises(UnboundError, match=f"all but {len(allowed) - 1} of {len(allowed)} cores"):
            reserve(len(allowed), allowed, prefix)
    finally:
        actor.kill()
        actor.wait()
        actor.stdout.close()
    every = reserve(len(allowed), allowed, prefix)
    assert set(every.numbers) == allowed
    every.release()


def test_a_reservation_that_fails_holds_nothing(prefix: str) -> None:
    first = reserve(2, {0, 1, 2}, prefix)
    with pytest.raises(UnboundError):
        reserve(2, {0, 1, 2}, prefix)
    assert reserve(1, {0, 1, 2}, prefix).numbers == [2]
    first.release()


@pytest.mark.parametrize(
    ("num_cpus", "threads", "reason"),
    [(0.5, None, "num_cpus=0.5"), (1.5, 1, "num_cpus=1.5"), (1, 4, "threads=4"), (4096, None, "num_cpus=4096")],
)
def test_an_actor_that_cannot_be_bound_says_why_and_may_use_every_core(
    num_cpus: float, threads: int | None, reason: str, capfd: pytest.CaptureFixture[str], prefix: str
) -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(UnboundError, match=reason):
        bind(num_cpus, threads, prefix)
    assert os.sched_getaffinity(0) == before
    if num_cpus != 4096:
        assert bound(num_cpus, {"threads": threads}) is None
        assert f"may use every core of its node: {reason}" in capfd.readouterr().err
    assert bound(None, {}) is None
    assert capfd.readouterr().err == ""


def test_physical_cores_come_before_their_second_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, siblings in enumerate(("0,4", "1,5", "2-3", "2-3", "0,4", "1,5")):
        (tmp_path / f"cpu{number}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}" / "topology" / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(cores, "_CPUS", tmp_path)
    assert in_order(range(7)) == [0, 1, 2, 6, 3, 4, 5]
    assert in_order({5, 3}) == [3, 5]


@pytest.mark.parametrize(
    ("files", "membership", "limit"),
    [
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"a/cpu.max": "400000 100000", "cpu.max": "200000 100000", "b/cpu.max": "100000 100000"}, "0::/a", 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/x", None),
        ({"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/x", 0.5),
        ({}, "1:memory:/", None),
        ({}, "", None),
    ],
)
def test_a_limit_of_processor_time_is_read(
    files: dict[str, str], membership: str, limit: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "memberships").write_text(membership + "\n")
    assert cores.time_limit(tmp_path, tmp_path / "memberships") == limit


def test_no_actor_is_bound_where_a_container_limits_its_time(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setattr(cores, "time_limit", lambda: 0.5)
    with pytest.raises(UnboundError, match=r"the time of 0\.5 cores, but any of"):
        bind(1, prefix=prefix)

"""The command as a process: killed, interrupted, or on a full disk, the next one goes on where it stopped."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from jobs.kit import line, question, read_lines, start, timeless, write_lines

LINES = 60
OPTIONS = ("--threads", "1", "--concurrency", "4", "-q")


@pytest.fixture
def job(tmp_path):
    """A batch file with pictures, texts and bad lines."""
    lines = [
        line(f"line-{number}", question("dog.png") if number % 7 == 0 else f"hello {number}") for number in range(LINES)
    ]
    lines[13], lines[50] = "{", lines[2]
    return write_lines(tmp_path / "in.jsonl", lines)


def journal_lines(folder: Path) -> int:
    """Whole lines of the journal so far."""
    path = folder / "out.jsonl.partial"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Return when the journal has so many lines, or the process has ended."""
    while journal_lines(folder) < count and process.poll() is None:
        time.sleep(0.002)


def finish(folder: Path) -> str:
    process = start("in.jsonl", "-o", "out.jsonl", *OPTIONS[:-1], cwd=folder)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return err


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.long)])
def test_killed_again_and_again_no_line_is_lost_or_doubled(job, tmp_path, kills):
    """At random points of the journal's growth; then the output is that of an undisturbed run."""
    rng = random.Random(kills)
    seen = 0
    for count in sorted(rng.sample(range(1, LINES), kills)):
        process = start("in.jsonl", "-o", "out.jsonl", *OPTIONS, cwd=tmp_path)
        wait_for_lines(process, tmp_path, count)
        process.kill()
        process.communicate()
        before = seen
        seen = journal_lines(tmp_path)
        assert seen >= before
    assert f"{LINES} lines ({seen} before)" in finish(tmp_path)
    found = read_lines(tmp_path / "out.jsonl")
    assert len(found) == LINES
    assert max(Counter(each["id"] for each in found).values()) == 1
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    job.rename(undisturbed / "in.jsonl")
    finish(undisturbed)
    assert timeless(found) == timeless(read_lines(undisturbed / "out.jsonl"))


def test_interrupted_it_says_how_to_go_on(tmp_path):
    count = 10 * LINES  # seconds of work: the signal comes before the end
    write_lines(tmp_path / "in.jsonl", [line(f"line-{number}", f"hello {number}") for number in range(count)])
    process = start("in.jsonl", "-o", "out.jsonl", *OPTIONS, cwd=tmp_path)
    wait_for_lines(process, tmp_path, 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "interrupted: the same command goes on where this one stopped\n")
    seen = journal_lines(tmp_path)
    assert 10 <= seen < count
    assert f"({seen} before)" in finish(tmp_path)


def test_a_full_disk_is_one_line_and_the_job_goes_on_later(job, tmp_path):
    """A limit on the size of files stands for the disk: a write takes a part, the next one fails."""
    limit = 20_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start("in.jsonl", "-o", "out.jsonl", *OPTIONS, "--no-cache", cwd=tmp_path, preexec_fn=limited)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    seen = journal_lines(tmp_path)
    assert err == (
        f"error: out.jsonl.partial: File too large: the {seen} finished lines are safe; make room, and the same "
        "command goes on there\n"
    )
    assert 0 < seen < LINES
    assert (tmp_path / "out.jsonl.partial").read_bytes().endswith(b"\n")
    assert f"({seen} before)" in finish(tmp_path)
    assert len(read_lines(tmp_path / "out.jsonl")) == LINES


@pytest.mark.long
def test_a_gigabyte_of_lines_takes_little_memory(tmp_path):
    """The memory of a job of many lines stays near that of one of few; a line has about a kilobyte."""
    peak = {}
    for megabytes in (1, 1024):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        text = "x" * 900
        with (folder / "in.jsonl").open("w") as file:
            for number in range(megabytes * 1024):
                # All but a few lines have a problem of their own, so that the model does not need hours.
                url = "/v1/chat/completions" if number % 10_000 == 0 else "/v1/nothing"
                body = f'{{"messages": [{{"role": "user", "content": "hello"}}], "max_tokens": 2, "user": "{text}"}}'
                file.write(f'{{"custom_id": "{number}", "url": "{url}", "body": {body}}}\n')
        process = start("in.jsonl", "-o", "out.jsonl", "--json", *OPTIONS, cwd=folder)
        pid, status, usage = _wait(process)
        assert (pid, status) == (process.pid, 0)
        peak[megabytes] = usage.ru_maxrss * 1024
        with (folder / "out.jsonl").open("rb") as file:
            assert sum(1 for _ in file) == megabytes * 1024
    assert peak[1024] - peak[1] < 120e6, peak


def _wait(process: subprocess.Popen[str]):
    import os

    return os.wait4(process.pid, 0)

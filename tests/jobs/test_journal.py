"""The journal keeps what was finished: torn lines, damage, full disks, two processes; and the output of another job."""

from __future__ import annotations

import errno
import json
import os
import random

import pytest

from pocketvlm.errors import OptionError
from pocketvlm.jobs.journal import Journal, JournalError
from pocketvlm.jobs.line import Line, Problem, result_line
from pocketvlm.jobs.output import Output

JOB = "0123456789abcdef"


def data(journal, number, text="x"):
    return result_line(journal.result_id(number), Line(number, f"id-{number}"), Problem("code", text))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


def filled(path, numbers):
    journal = Journal(path, JOB, 1000)
    for number in numbers:
        journal.append(number, data(journal, number), failed=number % 2 == 0)
    return journal


def test_what_was_appended_is_there_again(path):
    filled(path, [3, 1, 2]).close()
    journal = Journal(path, JOB, 1000)
    assert [number for number in range(1000) if number in journal] == [1, 2, 3]
    assert len(journal) == 3
    assert journal.failed == 3  # lines with a problem
    numbers = [json.loads(line)["custom_id"] for line in journal.lines(in_order=True)]
    assert numbers == ["id-1", "id-2", "id-3"]
    assert [json.loads(line)["custom_id"] for line in journal.lines(in_order=False)] == ["id-3", "id-1", "id-2"]
    journal.close()


def test_cut_anywhere_it_loses_only_the_torn_line(path):
    filled(path, [3, 1, 2]).close()
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        journal = Journal(path, JOB, 1000)
        assert len(journal) == sum(end <= size for end in ends)
        journal.close()
        assert path.read_bytes() == whole[: max([end for end in ends if end <= size], default=0)]


def test_damage_loses_the_lines_after_it_and_nothing_before(path):
    """Any one byte of a line is changed to another; zeros are what a power failure leaves of a block."""
    filled(path, [3, 1, 2]).close()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    rng = random.Random(0)
    for at in rng.sample(range(first, len(whole)), 60):
        path.write_bytes(whole[:at] + b"\0" * rng.randint(1, len(whole) - at))
        journal = Journal(path, JOB, 1000)
        assert 3 in journal
        assert path.read_bytes().startswith(whole[:first])
        assert whole.startswith(path.read_bytes())
        journal.close()


def test_lines_of_another_job_and_repeated_ones_are_dropped(path):
    filled(path, [1, 2]).close()
    other = path.read_bytes()
    journal = Journal(path, "f" * 16, 1000)
    assert len(journal) == 0
    journal.close()
    path.write_bytes(other + other)
    journal = Journal(path, JOB, 1000)
    assert len(journal) == 2
    journal.close()
    assert path.read_bytes() == other


def test_a_full_disk_leaves_whole_lines(path, monkeypatch):
    journal = filled(path, [1])
    before = path.read_bytes()
    write, calls = os.write, []

    def full(descriptor, view):
        calls.append(len(view))
        if len(calls) == 1:
            return write(descriptor, view[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalError, match="No space left on device: the 1 finished lines are safe; make room"):
        journal.append(2, data(journal, 2), failed=False)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert 2 not in journal
    journal.append(2, data(journal, 2), failed=False)
    journal.close()
    assert path.read_bytes().startswith(before)


def test_two_processes_do_not_write_one_journal(path):
    journal = filled(path, [1])
    with pytest.raises(OptionError, match="another process is writing this job"):
        Journal(path, JOB, 1000)
    journal.close()
    Journal(path, JOB, 1000).close()


def output(path, **settings):
    return Output(path, {"input": "abc", "prompt": "What?", **settings})


def test_an_output_belongs_to_one_job(tmp_path):
    out = tmp_path / "out.jsonl"
    output(out).open(3).close()
    message = r'out\.jsonl: it belongs to another job: --prompt was "What\?", is "Who\?"\. Give the same input'
    with pytest.raises(OptionError, match=message):
        output(out, prompt="Who?").open(3)
    journal = output(out).open(3)
    journal.append(1, data(journal, 1), failed=False)
    output(out).finish(journal)
    assert out.read_bytes().count(b"\n") == 1
    assert output(out).open(3) is None
    with pytest.raises(OptionError, match=r"another job: what IN holds has changed\. Give"):
        output(out, input="def").open(3)


def test_the_options_that_differ_are_named(tmp_path):
    out = tmp_path / "out.jsonl"
    first = {"sampling": {"temperature": 0.5, "seed": 1}, "checkpoint": "a", "schema": None}
    output(out, **first).open(3).close()
    other = {"sampling": {"temperature": 1, "seed": 1}, "checkpoint": "b", "schema": {"type": "object"}}
    with pytest.raises(OptionError) as caught:
        output(out, **other).open(3)
    assert (
        "another job: --temperature was 0.5, is 1; the weights have changed (--model, --weights); --schema was not "
        'given, is {"type": "object"}. Give the same input and options to go on with that one, or another -o'
    ) in str(caught.value)


def test_an_output_in_no_directory_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"nowhere/out\.jsonl: there is no directory .*nowhere: make it first"):
        output(tmp_path / "nowhere" / "out.jsonl").open(3)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.partial"])
def test_files_that_no_job_wrote_are_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OptionError, match="the file exists, and no job wrote it"):
        output(tmp_path / "out.jsonl").open(3)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_directory_is_no_output(tmp_path):
    with pytest.raises(OptionError, match="this is a directory"):
        output(tmp_path).open(3)


def test_a_damaged_job_file_is_another_job(tmp_path):
    out = tmp_path / "out.jsonl"
    output(out).open(3).close()
    output(out).side.write_bytes(b"{")
    with pytest.raises(OptionError, match=r"belongs to another job: .*out\.jsonl\.job is damaged"):
        output(out).open(3)


def test_the_end_can_be_interrupted_anywhere(tmp_path, monkeypatch):
    """Between the two steps of the end, both files are there: then the output is complete."""
    out = tmp_path / "out.jsonl"
    journal = output(out).open(3)
    for number in (2, 1):
        journal.append(number, data(journal, number), failed=False)
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        output(out).finish(journal)
    monkeypatch.undo()
    assert output(out).partial.exists()
    assert output(out).open(3) is None
    assert not output(out).partial.exists()
    assert [json.loads(line)["custom_id"] for line in out.read_bytes().splitlines()] == ["id-1", "id-2"]

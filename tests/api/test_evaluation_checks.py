"""What `evaluate` refuses before a model answers anything: all lines of the data, and whatever concerns a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluation_kit import colour_data, read_lines, record, write_lines

import pocketvlm
from pocketvlm import Model
from pocketvlm.errors import CheckpointError, DataError, OptionError

SHORT: dict[str, Any] = {"max_tokens": 2, "max_slice_nums": 1}


@pytest.fixture
def no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a model is loaded or asked."""
    for name in ("load", "answers_of"):
        monkeypatch.setattr(f"pocketvlm.api.evaluation.run.{name}", lambda *_, **__: pytest.fail("too early"))


def test_all_lines_are_checked_and_all_faults_are_listed(tmp_path: Path, no_answers: None) -> None:
    data = write_lines(
        tmp_path / "data.jsonl",
        [
            record("One?", "1", id="a"),
            record("Two?", "2", metric="exat"),
            record("Three?", ""),
            record("Four?", "no box", metric="iou"),
            record("Five?", "5", id="a"),
            record("Six?", "6", metric=["exact"]),
            record("Seven?", "7", id=1.5),
        ],
    )
    with pytest.raises(DataError) as caught:
        pocketvlm.evaluate("nano", data, limit=1)
    faults = [line.removeprefix(f"{data}:") for line in str(caught.value).splitlines()]
    assert [fault.partition(":")[0] for fault in faults] == ["2", "3", "4", "5", "6", "7"]
    assert "did you mean 'exact'?" in faults[0]
    assert "answer 1 is empty" in faults[1]
    assert "metric iou: the reference has no box" in faults[2]
    assert f"the id 'a' is that of {data}:1 too" in faults[3]
    assert "'id' must be a text or a whole number, not a number" in faults[5]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"against": "nowhere"}, CheckpointError, "'nowhere'"),
        ({"against": "nano", "answers": "a.jsonl"}, OptionError, r"a\.baseline\.jsonl: its answers were made with"),
    ],
)
def test_a_baseline_is_checked_before_the_candidate_answers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_answers: None,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    head = {"type": "pocketvlm.answers", "version": 1, "fingerprint": "another", "adapter": None, "options": {}}
    write_lines(tmp_path / "a.baseline.jsonl", [head])
    with pytest.raises(error, match=message):
        pocketvlm.evaluate("nano", colour_data(tmp_path), **options, **SHORT)


def test_a_mode_that_the_baseline_has_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_answers: None
) -> None:
    def modes(checkpoint: Any) -> Any:
        from dataclasses import replace

        return replace(checkpoint, processor=replace(checkpoint.processor, downsample_modes=("16x",)))

    opened = pocketvlm.api.evaluation.run.open_checkpoint
    monkeypatch.setattr("pocketvlm.api.evaluation.run.open_checkpoint", lambda path: modes(opened(path)))
    with pytest.raises(OptionError, match="downsample_mode='4x' is not supported by this checkpoint"):
        pocketvlm.evaluate("nano", colour_data(tmp_path), against="nano", downsample_mode="4x", **SHORT)


def test_the_answers_of_a_baseline_are_continued(tmp_path: Path) -> None:
    """The check before the work accepts the file of the same call."""
    data, answers = colour_data(tmp_path), tmp_path / "a.jsonl"
    with pocketvlm.load("nano", threads=1) as model:
        assert isinstance(model, Model)
        first = pocketvlm.evaluate(model, data, against=model, answers=answers, limit=2, **SHORT)
        before = read_lines(tmp_path / "a.baseline.jsonl")
        again = pocketvlm.evaluate(model, data, against=model, answers=answers, limit=3, **SHORT)
    assert read_lines(tmp_path / "a.baseline.jsonl")[: len(before)] == before
    assert [each.baseline for each in again.samples[:2]] == [each.baseline for each in first.samples]

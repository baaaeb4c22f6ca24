"""`pocketvlm eval`: tables, files, exit codes, and what is refused before the work."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from evaluation_kit import COLOURS, colour_data, read_lines, record, write_lines

from pocketvlm.cli.tables import show_table

FEW = ("--max-tokens", "8", "--no-cache", "-q")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return colour_data(tmp_path)


@pytest.fixture
def right(tmp_path: Path) -> Path:
    """Predictions, four of five right."""
    lines = [{"id": colour, "answer": colour if colour != "blue" else "pink"} for colour in COLOURS]
    return write_lines(tmp_path / "right.jsonl", lines)


def test_a_model_is_scored_and_its_failures_are_data_again(invoke, data, tmp_path):
    failures, page, report = (tmp_path / name for name in ("failures.jsonl", "page.html", "report.json"))
    line = ("eval", "nano", str(data), *FEW, "--failures", str(failures), "-o", str(page), "-o", str(report))
    outcome = invoke(*line, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert found == json.loads(report.read_text(encoding="utf-8"))
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    failed = read_lines(failures)
    assert [each["id"] for each in failed] == [each["id"] for each in found["samples"] if each["score"] < 1]
    assert len(failed) == found["candidate"]["failed"] > 0
    assert {"messages", "answers", "answer", "score", "place"} <= set(failed[0])
    assert failed[0]["messages"][0]["content"][0]["image"] == f"{failed[0]['id']}.png"  # relative to this file
    again = invoke("eval", "nano", str(failures), *FEW, "--json", "--metric", "anls")
    assert {(each["id"], each["answer"], each["metric"]) for each in json.loads(again.out)["samples"]} == {
        (each["id"], each["answer"], "anls") for each in failed
    }
    # The files of an earlier evaluation are replaced.
    assert invoke(*line).code == 0


def test_without_a_terminal_tables_are_plain(invoke, data, right):
    outcome = invoke("eval", str(data), "--predictions", str(right))
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "model        metric   score  95 % interval  samples  failed  errors",
        "right.jsonl  exact   80.0 %  37.6 - 96.4 %        5       1       0",
        "intervals: Wilson",
    ]
    assert outcome.err == ""


def test_a_baseline_has_a_row_a_difference_and_changed_samples(invoke, data, right, tmp_path):
    base = write_lines(tmp_path / "base.jsonl", [{"answer": "red"}] * 5)
    outcome = invoke("eval", str(data), "--predictions", str(right), "--against", str(base))
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["model", "right.jsonl", "base.jsonl"]
    assert lines[3].startswith("difference: +60.0 points, 95 % interval +")
    assert lines[3].endswith("(paired bootstrap); 3 better, 0 worse, 2 equal; McNemar p = 0.25")
    assert lines[6].split() == ["changed", "sample", "reference", "baseline", "answer", "score"]
    assert lines[7].split() == ["green", "green", "red", "green", "0.00", "->", "1.00"]
    assert len(lines) == 10


def test_samples_with_several_metrics_have_a_row_for_each(invoke, tmp_path):
    data = write_lines(tmp_path / "d.jsonl", [record("a", "x"), record("b", "[1, 2, 3, 4]", metric="iou")])
    given = write_lines(tmp_path / "p.jsonl", [{"answer": "x"}, {"answer": "[1, 2, 3, 3]"}])
    rows = [line.split() for line in invoke("eval", str(data), "--predictions", str(given)).out.splitlines()]
    assert [row[1:4] for row in rows[1:2]] == [["all", "75.0", "%"]]
    assert [row[:3] for row in rows[2:4]] == [["exact", "100.0", "%"], ["iou", "50.0", "%"]]


@pytest.mark.parametrize(("limit", "code"), [("0.8", 0), ("0.81", 1)])
def test_the_exit_code_says_whether_the_score_is_enough(invoke, data, right, limit, code):
    outcome = invoke("eval", str(data), "--predictions", str(right), "--min-score", limit)
    assert outcome.code == code
    assert outcome.out.startswith("model")
    assert outcome.err == ("" if code == 0 else "error: the score 0.8 is below --min-score 0.81\n")


def test_no_answer_at_all_is_a_failure(invoke, data, tmp_path):
    empty = write_lines(tmp_path / "empty.jsonl", [])
    outcome = invoke("eval", str(data), "--predictions", str(empty))
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("error: no question was answered: ")
    assert "note: empty.jsonl: 5 of 5 samples have an error and score 0" in outcome.out


def test_progress_and_files_are_said_on_stderr(invoke, data, tmp_path):
    outcome = invoke("eval", "nano", str(data), "--limit", "1", "--max-tokens", "2", "-o", str(tmp_path / "r.json"))
    assert outcome.err.splitlines() == ["loading", "answering", f"wrote {tmp_path / 'r.json'}"]


def test_an_interruption_says_how_to_continue(invoke, data, tmp_path, monkeypatch):
    def evaluate(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pocketvlm.api.evaluation.evaluate", evaluate)
    outcome = invoke("eval", "nano", str(data), "--answers", str(tmp_path / "a.jsonl"), "-q")
    assert outcome.code == 130
    assert outcome.err.startswith("interrupted: the answers up to here are in ")
    assert "--answers FILE" in invoke("eval", "nano", str(data), "-q").err


def test_sigterm_ends_an_evaluation_as_an_interruption(invoke, data, tmp_path, monkeypatch):
    def evaluate(*given: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal came to nothing")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pocketvlm.api.evaluation.evaluate", evaluate)
    outcome = invoke("eval", "nano", str(data), "--answers", str(tmp_path / "a.jsonl"), "-q")
    assert outcome.code == 130
    assert outcome.err.startswith("interrupted: the answers up to here are in ")
    assert signal.getsignal(signal.SIGTERM) is before


def test_reports_name_files_as_the_user_did(invoke, data, tmp_path, monkeypatch):
    (tmp_path / "red.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    names = ("p.html", "p.json", "f.jsonl", "a.jsonl")
    outputs = ("-o", "p.html", "-o", "p.json", "--failures", "f.jsonl", "--answers", "a.jsonl")
    assert invoke("eval", "nano", data.name, *FEW, *outputs, "-q").code == 0
    for name in names:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text, name
        assert "red.png" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nano"], "there is no data after the model 'nano'"),
        (["nano", "DATA", "--predictions", "RIGHT"], "no model answers here: leave out 'nano'"),
        (["nano", "DATA", "--min-score", "90"], "--min-score=90 is out of range: give 0 to 1"),
        (["nano", "DATA", "--adapter", "a=x", "--adapter", "b=y"], "--adapter is given 2 times"),
        (["nano", "DATA", "--baseline"], "--baseline compares an adapter with its base"),
        (["nano", "DATA", "--metric", "exat"], "did you mean 'exact'"),
        (["nano", "DATA", "--limit", "0"], "limit=0 is out of range"),
        (["nano", "DATA", "--temperature", "-1"], "temperature=-1"),
        (["nano", "DATA", "-o", "report.txt"], "--output=report.txt: give a .html file for a page, or a .json file"),
        (["nano", "DATA", "-o", "nowhere/r.html"], "--output=nowhere/r.html: cannot be written: No such file"),
        (["nano", "DATA", "--failures", "DATA"], "this command reads that file"),
        (["nano", "DATA", "--failures", "RIGHT"], "exists and is of no earlier evaluation"),
        (["nano", "DATA", "--failures", "x.json", "-o", "x.json"], "is given twice"),
        (["nano", "DATA", "--answers", "RIGHT"], "has no answers of an earlier run"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(invoke, data, right, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pocketvlm.api.load", None)
    names = {"DATA": str(data), "RIGHT": str(right)}
    outcome = invoke("eval", *(names.get(each, each) for each in arguments), "-q")
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


def test_bad_data_is_named_with_its_line(invoke, tmp_path):
    data = write_lines(tmp_path / "d.jsonl", [record("a", "x"), record("b", "y", metric="iou")])
    outcome = invoke("eval", "no-such-model", str(data), "-q")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {data}:2: metric iou: the reference has no box")


def test_at_a_terminal_tables_have_lines(capsys, monkeypatch):
    monkeypatch.setattr("pocketvlm.cli.tables.is_terminal", lambda stream: True)
    show_table([["model", "score"], ["a[b]", "1 %\x1b[31m"]], 1)
    out = capsys.readouterr().out
    assert "─" in out
    assert "a[b]" in out
    assert "␛[31m" in out

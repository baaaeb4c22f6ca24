"""`pocketvlm data check` on real files: the table, what is wrong, exit codes, and samples as the model sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pocketvlm.cli import data as command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, *records: Any, name: str = "d.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return name


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


GOOD = talk("<image>\nWho?", "a cat", images=["a.png"])
BAD = talk("<image>", "x")


def test_sound_data_gives_a_table_and_exit_code_0(invoke, folder):
    found = invoke("data", "check", write(folder, GOOD, talk("q", "a")))
    assert (found.code, found.err) == (0, "")
    first, second, _, *table = found.out.splitlines()
    assert first.startswith("messages: 2 samples, 1 image, longest ")
    assert second == "of 2 records, tokens of nano"
    assert [line.split()[0] for line in table[:5]] == ["tokens", "question", "of", "answer", "sample"]
    assert table[0].split()[-3:] == ["max", "mean", "sum"]
    assert table[-1] == "the longest is answer 1 of d.jsonl:1"


def test_faults_are_listed_with_file_and_line(invoke, folder):
    path = write(folder, GOOD, BAD, talk("q", ""))
    found = invoke("data", "check", path)
    assert found.code == 1
    head, *faults = found.err.splitlines()
    assert head == "error: 2 unusable records:"
    assert [line.partition(": ")[0] for line in faults] == ["d.jsonl:2", "d.jsonl:3"]
    assert found.out.startswith("messages: 1 sample, 1 image")
    skipped = invoke("data", "check", path, "--skip-bad")
    assert skipped.code == 0
    assert skipped.err == found.err.replace("error: 2 unusable records:", "warning: 2 unusable records, left out:")
    assert invoke("data", "check", path, "--skip-bad", "--quiet").err == ""


def test_nothing_to_train_on_fails_even_if_bad_records_may_be_skipped(invoke, folder):
    found = invoke("data", "check", write(folder, BAD), "--skip-bad")
    assert found.code == 1
    assert found.err.splitlines()[-1] == "error: no sample is left to train on: correct the data, or raise --max-length"


def test_samples_that_are_too_long(invoke, folder):
    path = write(folder, GOOD, talk("q", "a " * 200))
    refused = invoke("data", "check", path, "--max-length", "100")
    assert refused.code == 1
    assert refused.err.startswith("error: 1 overlong sample:\nd.jsonl:2: ")
    skipped = invoke("data", "check", path, "--max-length", "100", "--too-long", "skip")
    assert skipped.code == 0
    assert skipped.err.startswith("warning: 1 overlong sample, left out:\nd.jsonl:2: ")
    cut = invoke("data", "check", path, "--max-length", "100", "--too-long", "cut")
    assert (cut.code, cut.err) == (0, "")
    assert cut.out.startswith("messages: 2 samples, 1 image, longest 100 tokens, 1 answer cut at 100 tokens")


def test_options_change_the_count(invoke, folder):
    path = write(folder, GOOD)
    facts = [
        json.loads(invoke("data", "check", path, "--json", *more).out)
        for more in ((), ("--downsample-mode", "4x"), ("--turns", "last"))
    ]
    media = [each["tokens"]["media"]["sum"] for each in facts]
    assert media[1] > media[0] == media[2]
    assert facts[0]["model"] == "nano"
    assert facts[0]["samples"] == 1


def test_samples_are_shown_as_the_model_sees_them(invoke, folder, monkeypatch):
    path = write(folder, GOOD, talk("q", "a\x1b[31m"))
    plain = invoke("data", "check", path, "--show", "2").out
    assert "--- d.jsonl:1, answer 1: " in plain
    assert "<image><|image_pad|> x 8</image>\nWho?<|im_end|>\n" in plain
    assert "<think>\n\n</think>\n\n[[a cat<|im_end|>]]\n" in plain
    assert "\x1b" not in plain
    monkeypatch.setattr("pocketvlm.cli.terminal.is_terminal", lambda stream: True)
    monkeypatch.setenv("TERM", "xterm")
    coloured = invoke("data", "check", path, "--show", "1", "--quiet").out
    assert "</think>\n\n\x1b[32ma cat<|im_end|>\x1b[0m\n" in coloured


def test_a_folder_of_llama_factory(invoke, folder):
    write(folder, {"instruction": "q", "output": "a"}, name="plain.jsonl")
    (folder / "dataset_info.json").write_text(json.dumps({"plain": {"file_name": "plain.jsonl"}, "other": {}}))
    assert invoke("data", "check", ".", "--name", "plain").out.startswith("alpaca: 1 sample, longest")
    refused = invoke("data", "check", ".")
    assert (refused.code, refused.out) == (1, "")
    assert "lists the datasets plain, other: choose with --name=NAME" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no.jsonl"], 1, "error: no.jsonl: no such file"),
        (["d.jsonl", "--max-length", "1"], 2, "--max-length=1 is out of range"),
        (["d.jsonl", "--threads", "0"], 2, "threads=0 is out of range"),
        (["d.jsonl", "--max-slice-nums", "0"], 2, "--max-slice-nums=0 is out of range"),
        (["d.jsonl", "--format", "share"], 2, "did you mean 'sharegpt'?"),
        (["d.jsonl", "--media-dir", "no"], 1, "--media-dir='no' is no folder"),
        ([], 2, "Missing argument 'DATA'"),
    ],
)
def test_what_is_used_wrongly_is_one_line(invoke, folder, arguments, code, words):
    write(folder, GOOD)
    found = invoke("data", "check", *arguments)
    assert (found.code, found.out) == (code, "")
    assert words in found.err
    assert found.err.count("\n") == 1


def test_faults_of_every_line_of_a_file_come_one_a_line(invoke, folder):
    (folder / "d.jsonl").write_text("oops\n{oops\n")
    (folder / "e.jsonl").write_text("{oops\n{oops\n")
    found = invoke("data", "check", "e.jsonl")
    assert found.code == 1
    assert [line.partition(" not valid")[0] for line in found.err.splitlines()] == ["error: e.jsonl:1:", "e.jsonl:2:"]


def test_the_choices_are_those_of_the_readers():
    from typing import get_args

    from pocketvlm.train.data.formats import FORMAT_NAMES
    from pocketvlm.train.data.samples import Turns

    assert get_args(command.DataFormat) == FORMAT_NAMES
    assert get_args(command.Turns) == get_args(Turns)

"""`--adapter` answers the lines of a job with an adapter, as `pocketvlm run` does."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs.kit import line, read_lines, write_lines
from nano_adapters import write_adapter

import pocketvlm

SHORT = {"max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("adapters")
    write_adapter(found / "first", 1)
    write_adapter(found / "second", 2)
    return found


@pytest.fixture(scope="module")
def texts(folder):
    """What the model says, alone and with each adapter."""
    with pocketvlm.load("nano", threads=1, adapters=[folder / "first", folder / "second"]) as model:
        return {name: model.ask("hello", adapter=name, **SHORT).text for name in (None, "first", "second")}


def answers(path):
    return [each["response"]["body"]["choices"][0]["message"]["content"] for each in read_lines(path)]


def test_one_adapter_answers_every_line_that_names_none(batch, tmp_path, folder, texts):
    lines = [line("a", max_tokens=8), line("b", max_tokens=8, model="nano"), line("c", max_tokens=8, adapter="first")]
    write_lines(tmp_path / "in.jsonl", lines)
    assert batch("in.jsonl", "-o", "out.jsonl", "--adapter", str(folder / "first")).code == 0
    assert answers(tmp_path / "out.jsonl") == [texts["first"]] * 3


def test_of_several_adapters_a_line_names_its_own(batch, tmp_path, folder, texts):
    lines = [line("a", max_tokens=8), line("b", max_tokens=8, model="second"), line("c", max_tokens=8, adapter="x")]
    write_lines(tmp_path / "in.jsonl", lines)
    two = ("--adapter", f"x={folder / 'first'}", "--adapter", str(folder / "second"))
    assert batch("in.jsonl", "-o", "out.jsonl", *two).code == 0
    assert answers(tmp_path / "out.jsonl") == [texts[None], texts["second"], texts["first"]]
    refused = batch(str(tmp_path), "-o", "other.jsonl", "-p", "What?", *two)
    assert refused.code == 2
    assert refused.err.startswith("error: --adapter is given 2 times, for x and second")


def test_another_adapter_is_another_job(batch, tmp_path, folder):
    write_lines(tmp_path / "in.jsonl", [line("a")])
    assert batch("in.jsonl", "-o", "out.jsonl", "--adapter", f"x={folder / 'first'}").code == 0
    refused = batch("in.jsonl", "-o", "out.jsonl", "--adapter", f"x={folder / 'second'}")
    assert refused.code == 2
    assert 'it belongs to another job: --adapter was {"x": ' in refused.err

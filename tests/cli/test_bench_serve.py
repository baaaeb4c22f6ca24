"""`pocketvlm bench serve` against our own server, and its place next to `pocketvlm bench`."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from server.kit import running


def test_our_own_server(invoke: Any, tmp_path: Path) -> None:
    with running(api_keys=("a-key-of-mine",)) as server:
        line = [
            "bench",
            "serve",
            "--url",
            f"{server.url}/v1",
            "--num-prompts",
            "4",
            "--ignore-eos",
            "--api-key",
            "a-key-of-mine",
        ]
        line += ["--random-input-len", "30", "--random-output-len", "6"]
        outcome = invoke(
            *line, "--max-concurrency", "1,4", "--goodput", "ttft:60000", "--save-result", "--result-dir", str(tmp_path)
        )
        assert outcome.code == 0, outcome.err
        *page, last = outcome.out.strip().splitlines()
        runs = json.loads(last)["runs"]
        assert [run["completed"] for run in runs] == [4, 4]
        assert [run["total_output_tokens"] for run in runs] == [24, 24]
        assert [run["request_goodput"] for run in runs] == [run["request_throughput"] for run in runs]
        assert "TTFT, time to first token" in "\n".join(page)
        assert sorted(json.loads(path.read_text())["max_concurrency"] for path in tmp_path.iterdir()) == [1, 4]
        around = runs[0]["total_input_tokens"] / 4 - 30
        assert 0 < around < 30, "the template's tokens are beside those that were asked for"

        pictures = invoke(
            *line, "--images", "1", "--image-size", "64x48", "--json", "--output-file", str(tmp_path / "one.json")
        )
        found = json.loads(pictures.out)
        assert (found["completed"], found["failed"]) == (4, 0)
        assert found["total_input_tokens"] > runs[0]["total_input_tokens"]
        assert json.loads((tmp_path / "one.json").read_text()) == found

        endpoint = invoke(*line, "--endpoint", "completions", "--json", "--temperature", "0", "--num-warmups", "1")
        assert json.loads(endpoint.out)["total_output_tokens"] == 24

        refused = invoke(*line, "--extra-body", '{"modalities": ["audio"]}')
        assert refused.code == 1
        assert "modalities" in refused.err
        assert refused.err.count("\n") == 1
        assert invoke(*line[:-6]).code == 1


def test_help_shows_both(invoke: Any) -> None:
    assert "bench serve" in invoke("--help").out
    assert "pocketvlm bench serve" in invoke("bench", "--help").out
    assert "--runs" in invoke("bench", "--help").out
    text = invoke("bench", "serve", "--help").out
    assert "Usage: pocketvlm bench serve" in text
    assert "--num-prompts" in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--url", "127.0.0.1:8000"], 2, "--url 127.0.0.1:8000: write it as http://HOST:PORT/v1"),
        (["--url", "http://127.0.0.1:1/v1"], 1, "cannot connect to 127.0.0.1:1"),
        (["--num-prompts", "0"], 2, "--num-prompts 0"),
        (["--max-concurrency", "4,"], 2, "--max-concurrency 4,"),
        (["--extra-body", "[]"], 2, "--extra-body"),
        (["--goodput", "speed:9"], 2, "--goodput speed:9"),
        (["--endpoint", "chats"], 2, "did you mean 'chat'"),
        (["--runs", "3"], 2, "--runs"),
    ],
)
def test_wrong_use_is_one_line(invoke: Any, arguments: list[str], code: int, words: str) -> None:
    outcome = invoke("bench", "serve", *arguments)
    assert outcome.code == code, outcome.err
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


def test_a_picture_needs_matplotlib(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else usual(name, *more)
    )
    outcome = invoke("bench", "serve", "--plot", "x.png")
    assert outcome.code == 2
    assert "pocketvlm[bench]" in outcome.err
    assert "matplotlib" not in sys.modules

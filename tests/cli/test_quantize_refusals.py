"""What `pocketvlm quantize` refuses: one line before the work starts, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

OK = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]})
PICTURE = {"type": "image", "image": "damaged.png"}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pocketvlm

    out = tmp_path_factory.mktemp("refusals") / "quantized"
    pocketvlm.quantize_model("nano", out, method="rtn", threads=2)
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with data of several kinds in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "shot.png").write_bytes(b"a picture")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "pictures").mkdir()
    shutil.copy(tmp_path / "damaged.png", tmp_path / "pictures")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "pictures" / "a.png")
    question = {"messages": [{"role": "user", "content": [PICTURE, {"type": "text", "text": "What?"}]}]}
    for name, lines in {
        "broken": [OK, OK, '{"messages": ['],
        "picture": [OK, json.dumps(question)],
        "nothing": ["", " "],
        "other": [OK, '{"prompt": "hi"}'],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def refused(outcome: Any, here: Path, before: list[str], *parts: str) -> None:
    """One line that holds all parts, no output, and no new file."""
    assert outcome.code in (1, 2), outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for part in parts:
        assert part in outcome.err
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("--scheme int4-g46", ("int4-g46", "did you mean int4-g64")),
        ("--scheme q4km --format gguf", ("q4km", "Q4_K_M")),
        ("--scheme int4-g128", ("192 inputs", "no multiple of 128", "int4-g64")),
        ("--scheme int8 --format awq", ("int8", "awq")),
        ("--keep *.q_prj.weight", ("*.q_prj.weight", "matches no tensor")),
        ("--keep *.q_proj.weight --format awq --scheme int4-g64", ("q_proj", "need one scheme")),
        ("--bits-per-weight 1.5", ("--bits-per-weight=1.5", "at least")),
        ("--bits-per-weight 4.5 --method rtn", ("--bits-per-weight=4.5", "auto")),
        ("--calibration broken.jsonl", ("broken.jsonl", "line 3", "not JSON")),
        ("--calibration picture.jsonl", ("picture.jsonl", "line 2", "damaged.png")),
        ("--calibration other.jsonl", ("other.jsonl", "line 2", '"messages"')),
        ("--calibration nothing.jsonl", ("nothing.jsonl", "is empty")),
        ("--calibration empty", ("empty", "no images")),
        ("--calibration pictures", ("damaged.png",)),
        ("--calibration nowhere", ("nowhere", "no such file or folder")),
        ("--threads 0", ("threads=0", "at least 1")),
        ("--report nowhere/report.json", ("nowhere/report.json", "cannot be written")),
        ("--report out/report.json", ("out/report.json", "which this command makes")),
        ("--report out", ("--report=out", "which this command makes")),
        ("--report taken/file", ("taken/file", "of no earlier report")),
        ("--report shot.json", ("shot.png", "of no earlier report")),
        ("--mmproj nowhere.gguf", ("nowhere.gguf",)),
    ],
)
def test_wrong_options_are_refused_before_the_work(invoke, here, options, parts):
    before = sorted(path.name for path in here.iterdir())
    refused(invoke("quantize", "nano", "out", *options.split()), here, before, *parts)


def test_a_quantized_source_is_refused(invoke, here, quantized):
    before = sorted(path.name for path in here.iterdir())
    parts = ("is quantized already", "16-bit", "convert")
    refused(invoke("quantize", str(quantized), "out"), here, before, *parts)


def test_a_name_that_is_taken_is_refused(invoke, here):
    before = sorted(path.name for path in here.iterdir())
    refused(invoke("quantize", "nano", "taken"), here, before, "taken")


def test_a_full_disk_is_refused(invoke, here, monkeypatch):
    before = sorted(path.name for path in here.iterdir())
    usage = shutil.disk_usage(here)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(invoke("quantize", "nano", "out", "--method", "rtn"), here, before, "free")


def test_an_unknown_model_is_refused(invoke, here):
    before = sorted(path.name for path in here.iterdir())
    refused(invoke("quantize", "nanoo", "out"), here, before, "'nanoo'")

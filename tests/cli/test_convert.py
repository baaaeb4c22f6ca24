"""`pocketvlm convert` on nano: files, JSON, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pocketvlm

    out = tmp_path_factory.mktemp("convert") / "native"
    pocketvlm.convert_model("nano", out, format="native")
    return out


def test_the_paths_go_to_stdout_and_the_size_to_stderr(invoke, tmp_path):
    out = tmp_path / "nano.gguf"
    outcome = invoke("convert", "nano", str(out), "--format", "gguf")
    assert outcome.code == 0
    paths = [Path(line) for line in outcome.out.splitlines()]
    assert paths[0] == out
    assert all(path.is_file() for path in paths)
    assert outcome.err.splitlines() == ["writing", "2 files, 11.6 MB"]


def test_the_result_is_the_model(invoke, native):
    outcome = invoke("compare", "nano", str(native), "--max-tokens", "300", "--json", "-q")
    assert json.loads(outcome.out)["total"]["maximum"] == 0


def test_json_lists_the_files(invoke, tmp_path):
    found = json.loads(invoke("convert", "nano", str(tmp_path / "out"), "--format", "f16", "--json", "-q").out)
    assert found["out"] == str(tmp_path / "out")
    assert found["bytes"] == sum(Path(path).stat().st_size for path in found["files"])


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_a_revision_is_one_of_the_hub(invoke, tmp_path, command):
    outcome = invoke(command, "nano", str(tmp_path / "out"), "--format", "native", "--revision", "v1")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: --revision='v1': 'nano' is a local directory or file")


@pytest.mark.parametrize(
    ("source", "out", "format", "said"),
    [
        ("nano", "taken", "native", "taken"),
        ("nano", "free", "awq", "format='awq' cannot hold"),
        ("nano", "free.gguf", "mlx", "does not end in .gguf"),
        ("nanoo", "free", "native", "'nanoo'"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(invoke, tmp_path, source, out, format, said):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    outcome = invoke("convert", source, str(tmp_path / out), "--format", format)
    assert outcome.code in (1, 2)
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert said in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]

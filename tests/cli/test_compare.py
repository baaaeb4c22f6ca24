"""`pocketvlm compare` on nano and a rounded copy: tables, report files, and what is refused before the work."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rounded_nano import copy_nano, rounded_nano

from pocketvlm.api.comparison import Comparison, KindDivergence, ModelSize, Speed
from pocketvlm.cli import compare
from pocketvlm.quantize.divergence import Divergence

FEW = ("--max-tokens", "400", "--threads", "2")


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rounded_nano(tmp_path_factory.mktemp("compare") / "rounded", "matrix", "vision_matrix")


@pytest.fixture
def comparison() -> Comparison:
    """The comparison of two networks that differ in depth."""
    size = ModelSize("a", "a", None, 10, 5, 16, 16, None)
    row = KindDivergence("all", 1, 4, Divergence(4, 0.0, 0.0, 0.0, 0.0, 1.0))
    return Comparison(size, size, "default", "exact", (), row, (), (), ("one note",), 1.0)


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvlm.bench.comparison.plot.find_spec", lambda name: None)


def test_the_tables_show_divergence_errors_and_sizes(invoke, rounded):
    outcome = invoke("compare", "nano", str(rounded), *FEW)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["model", "size", "bits/weight", "language", "vision"]
    assert lines[1].startswith("reference nano")
    assert lines[1].split()[-4:] == ["MB", "16.00", "16.00", "16.00"]
    rows = {line[:22].strip(): line.split() for line in lines}
    for kind in ("text", "image 16x", "image 4x", "clip", "all"):
        assert rows[kind][-1].endswith("%")
    assert int(rows["all"][2]) == sum(int(rows[k][-6]) for k in ("text", "image 16x", "image 4x", "clip"))
    assert sum("relative error" in line for line in lines) == 2
    assert outcome.err.splitlines() == list(compare.STAGES.values())[1:]


def test_json_and_report_have_the_same_object(invoke, rounded, tmp_path):
    report = tmp_path / "report.json"
    outcome = invoke("compare", "nano", str(rounded), *FEW, "--json", "--report", str(report))
    assert outcome.code == 0
    found = json.loads(outcome.out)
    assert found == json.loads(report.read_text(encoding="utf-8"))
    assert found["candidate"]["name"] == str(rounded)
    picture = tmp_path / "report.png"
    if find_spec("matplotlib") is not None:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert outcome.err.splitlines()[-1] == f"wrote {report} and {picture}"


def test_without_matplotlib_there_is_a_line_and_the_json_file(invoke, rounded, tmp_path, no_matplotlib):
    report = tmp_path / "report.json"
    outcome = invoke("compare", "nano", str(rounded), *FEW, "--report", str(report))
    assert outcome.code == 0
    assert 'pip install "pocketvlm[report]"' in outcome.err.splitlines()[0]
    assert outcome.err.splitlines()[-1] == f"wrote {report}"
    assert json.loads(report.read_text(encoding="utf-8"))["version"] == 1
    assert not (tmp_path / "report.png").exists()
    assert outcome.out.startswith("model")


def test_speed_is_measured_where_it_is_asked_for(invoke, rounded):
    outcome = invoke("compare", "nano", str(rounded), *FEW, "--speed", "--json", "--quiet")
    speeds = json.loads(outcome.out)["speed"]
    assert outcome.err == ""
    assert all(speeds[side][phase] > 0 for side in ("reference", "candidate") for phase in ("prefill", "decode"))


def test_each_side_has_its_revision_and_its_mmproj(invoke, comparison, monkeypatch):
    """In the comparison and while its speed is measured."""
    asked: list[dict[str, Any]] = []

    def compare_models(*models: str, **options: Any) -> Comparison:
        asked.append(options)
        return comparison

    def measure_speed(model: str, **options: Any) -> Speed:
        asked.append({"model": model, **options})
        return Speed(2.0, 1.0)

    monkeypatch.setattr("pocketvlm.api.comparing.compare_models", compare_models)
    monkeypatch.setattr("pocketvlm.bench.comparison.speed.measure_speed", measure_speed)
    line = "compare a b --revision v2 --mmproj b.gguf --reference-revision v1 --reference-mmproj a.gguf --speed"
    assert invoke(*line.split(), "--threads", "2", "-q").code == 0
    both, first, second = asked
    assert [both[name] for name in ("reference_revision", "reference_mmproj")] == ["v1", "a.gguf"]
    assert [both[name] for name in ("revision", "mmproj")] == ["v2", "b.gguf"]
    assert first == {"model": "a", "revision": "v1", "mmproj": "a.gguf", "threads": 2}
    assert second == {"model": "b", "revision": "v2", "mmproj": "b.gguf", "threads": 2}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere/report.json", "No such file or directory"),
        (".", "is a directory"),
        ("report.png", "report.json"),
        ("file/report.json", "Not a directory"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(invoke, tmp_path, monkeypatch, name, said):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("pocketvlm.api.comparing.compare_models", None)
    outcome = invoke("compare", "nano", "nano", "--report", str(tmp_path / name))
    assert outcome.code == 2
    assert outcome.err.startswith("error: --report=")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_other_vocabularies_are_one_line(invoke, tmp_path):
    path = copy_nano(tmp_path / "renamed") / "tokenizer.json"
    for file in (path, path.with_name("chat_template.jinja")):
        text = file.read_text(encoding="utf-8").replace("<|im_start|>", "<|am_start|>")
        file.write_text(text, encoding="utf-8")
    outcome = invoke("compare", "nano", str(path.parent))
    assert (outcome.code, outcome.out) == (2, "")
    assert "vocabularies differ: id 1231" in outcome.err.splitlines()[-1]


def test_a_plot_of_networks_that_differ_in_depth_says_so(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    from pocketvlm.bench.comparison import page, plot

    plot.draw(comparison, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert page.page(comparison).splitlines()[-1] == "note: one note"


def test_progress_is_a_line_for_each_stage_and_now_and_then(capsys):
    from pocketvlm.cli.progress import LongWork, duration

    time = SimpleNamespace(now=0.0)
    with LongWork(False, {"write": "writing"}, lambda: time.now) as work:
        for done in range(11):
            work.step("layers", done, 10)
            time.now += 10
        work.step("write", 0, 4_000_000)
        work.step("logits", 1, 10)
        time.now += 30
        work.step("logits", 5, 10, 125.0)
    assert capsys.readouterr().err.splitlines() == [
        *("layers", "layers: 30%, 1:10 min left", "layers: 60%, 40 s left", "layers: 90%, 10 s left"),
        *("writing", "logits", "logits: 50%, 2:05 min left"),
    ]
    with LongWork(True) as work:
        work.step("layers", 1, 10)
    assert capsys.readouterr().err == ""
    assert [duration(s) for s in (0.4, 59.4, 61, 3720)] == ["0 s", "59 s", "1:01 min", "1:02 h"]

"""`pocketvlm quantize` and `convert` with stand-ins for the work: arguments, what is printed, reports, interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rounded_nano import rounded_nano

from pocketvlm.quantize.result import QuantizeResult


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rounded_nano(tmp_path_factory.mktemp("quantize") / "rounded", "matrix")


class Quantizer:
    """Stands for `quantize_model`: remembers its arguments and gives a result, or raises."""

    def __init__(self, path: Path) -> None:
        self.paths = tuple(sorted(path.iterdir()))
        self.asked: dict[str, Any] = {}
        self.error: BaseException | None = None

    def __call__(self, model: str, out: str, *, progress: Any, **options: Any) -> QuantizeResult:
        self.asked = {"model": model, "out": out, **options}
        progress("layers", 1, 4, 30.0)
        if self.error is not None:
            raise self.error
        return QuantizeResult(
            self.paths,
            options["format"],
            options["scheme"] or "default",
            options["method"],
            (),
            4.5,
            None,
            {"text": 9},
            65.0,
            10**8,
        )


@pytest.fixture
def quantizer(rounded: Path, monkeypatch: pytest.MonkeyPatch) -> Quantizer:
    found = Quantizer(rounded)
    monkeypatch.setattr("pocketvlm.api.quantizing.quantize_model", found)
    return found


def test_arguments_reach_the_quantizer(invoke, quantizer):
    line = "quantize nano out --format mlx --scheme int4-g32 --method gptq --bits-per-weight 4.5 --seed 3 --threads 2"
    outcome = invoke(
        *line.split(),
        "--revision",
        "v1",
        "--vision",
        "stored",
        "--keep",
        "*.o_proj.weight",
        "--keep",
        "lm_head*",
        "--calibration",
        "a.jsonl",
        "--merge-adapter",
        "org/invoices",
    )
    assert outcome.code == 0
    assert quantizer.asked == {
        **{"model": "nano", "out": "out", "format": "mlx", "scheme": "int4-g32", "method": "gptq"},
        **{"bits_per_weight": 4.5, "seed": 3, "threads": 2, "keep": ("*.o_proj.weight", "lm_head*")},
        **{"calibration": "a.jsonl", "mmproj": None, "revision": "v1", "vision": "stored"},
        **{"merge_adapter": "org/invoices", "allow_other_base": False},
    }
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"written  out: {len(quantizer.paths)} files, 11.")
    assert lines[1] == "scheme   int4-g32, gptq: 4.50 bits a weight of the language model"
    assert lines[2] == "time     1:05 min, peak memory 100.0 MB"
    assert outcome.err == "quantizing layers\n"


def test_what_is_not_given_is_left_to_the_quantizer(invoke, quantizer):
    """The format's scheme above all, which the command must not choose in another way than Python."""
    assert invoke("quantize", "nano", "out", "--format", "gguf", "-q").code == 0
    assert (quantizer.asked["format"], quantizer.asked["scheme"]) == ("gguf", None)
    assert (quantizer.asked["method"], quantizer.asked["calibration"], quantizer.asked["seed"]) == (
        *("auto", "default"),
        0,
    )


def test_a_report_compares_the_result_with_the_original(invoke, quantizer, rounded, tmp_path):
    report = tmp_path / "report.json"
    outcome = invoke("quantize", "nano", str(rounded), "--report", str(report), "--threads", "2")
    assert outcome.code == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    assert (found["type"], found["version"]) == ("pocketvlm.quantization", 1)
    assert found["quantization"]["bits_per_weight"] == 4.5
    assert found["comparison"]["type"] == "pocketvlm.comparison"
    assert found["comparison"]["total"]["mean"] > 0
    assert all(
        found["comparison"]["speed"][side][phase] > 0
        for side in ("reference", "candidate")
        for phase in ("prefill", "decode")
    )
    assert "KL divergence, nats" in outcome.out
    assert "decode tok/s" in outcome.out
    assert str(report) in outcome.err.splitlines()[-1]


def test_a_report_is_on_the_revision_and_the_mmproj_that_were_quantized(invoke, quantizer, monkeypatch, tmp_path):
    asked: dict[str, Any] = {}
    timed: list[dict[str, Any]] = []

    def compare(*models: str, **options: Any) -> None:
        asked.update(options, models=models)

    def measure_speed(model: str, **options: Any) -> None:
        timed.append({"model": model, **options})
        if len(timed) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("pocketvlm.api.comparing.compare_models", compare)
    monkeypatch.setattr("pocketvlm.bench.comparison.speed.measure_speed", measure_speed)
    report = str(tmp_path / "report.json")
    invoke("quantize", "org/a", "out", "--report", report, "--revision", "v1", "--mmproj", "m.gguf", "-q")
    assert asked["models"] == ("org/a", quantizer.paths[0].parent)
    assert (asked["reference_revision"], asked["reference_mmproj"]) == ("v1", "m.gguf")
    assert timed == [
        {"model": "org/a", "revision": "v1", "mmproj": "m.gguf", "threads": None},
        {"model": quantizer.paths[0].parent, "revision": None, "mmproj": None, "threads": None},
    ]


def test_json_is_the_result_alone_on_stdout(invoke, quantizer):
    found = json.loads(invoke("quantize", "nano", "out", "--json", "-q").out)
    assert found["quantization"]["paths"] == [str(path) for path in quantizer.paths]
    assert "comparison" not in found


def test_an_interrupted_run_says_that_it_can_be_resumed(invoke, quantizer):
    quantizer.error = KeyboardInterrupt()
    outcome = invoke("quantize", "nano", "out", "-q")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == "interrupted: the same command goes on where this one stopped\n"


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("quantize nano", ("OUT",)),
        ("quantize nano out --format ggfu", ("--format", "did you mean 'gguf'?")),
        ("quantize nano out --method gtpq", ("--method", "did you mean 'gptq'?")),
        ("quantize nano out --bits-per-weight few", ("--bits-per-weight", "'few'")),
        ("quantize nano out --report nowhere/report.json", ("--report", "No such file or directory")),
        ("convert nano out", ("--format",)),
        ("convert nano out --format mxl", ("did you mean 'mlx'?",)),
    ],
)
def test_wrong_use_is_one_line_before_the_work(invoke, quantizer, line, parts):
    outcome = invoke(*line.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert all(part in outcome.err for part in parts)
    assert quantizer.asked == {}


def test_an_output_that_is_called_as_another_model_is_the_one_that_is_measured(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke("quantize", "nano", "nano", "--method", "rtn", "--scheme", "int4-g64", "--report", "report.json", "-q")
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["comparison"]
    assert found["candidate"]["path"] == str(tmp_path / "nano")
    assert found["total"]["mean"] > 0.01


def test_a_gguf_result_is_measured_with_its_own_vision_file(invoke, tmp_path):
    (tmp_path / "mmproj-aaa-F16.gguf").write_bytes(b"GGUF, cut off")
    out, report = tmp_path / "a.gguf", tmp_path / "report.json"
    options = ("--format", "gguf", "--scheme", "Q8_0", "--method", "rtn", "--report", str(report), "-q")
    invoke("quantize", "nano", str(out), *options)
    found = json.loads(report.read_text(encoding="utf-8"))["comparison"]
    assert found["candidate"]["path"] == str(out)
    assert [row["mode"] for row in found["features"]] == ["16x", "4x"]

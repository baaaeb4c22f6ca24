"""`pocketvlm finetune` with a stand-in for the work: arguments, what is printed, refusals before the work starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.api.training_run import FinetuneResult


class Training:
    """Stands for `finetune`: remembers its arguments, reports a step and gives a result, or raises."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.error: BaseException | None = None

    def __call__(
        self, model: str, data: list[str], out: str, *, progress: Any, report: Any, notice: Any, **options: Any
    ) -> FinetuneResult:
        from pocketvlm.train.report import StepReport

        given = {name: value for name, value in options.items() if value not in (None, False, "auto", "all", "refuse")}
        self.asked = {"model": model, "data": data, "out": out, **given}
        progress("read", 1, 2, "reading the data")
        notice("messages: 2 samples, 2 images, longest 49 tokens")
        report(StepReport(1, 4, 2.5, 1e-4, 1.0, 64, 0.5, 128.0, 3 << 20, 90.0, None))
        report(StepReport(2, 4, 1.5, 1e-4, 1.0, 64, 0.5, 128.0, 3 << 20, 60.0, 1.25))
        if self.error is not None:
            raise self.error
        return FinetuneResult(Path(out), "lora", 2, 4, 2, 30, 242_048, 0.75, 1.25, 65.0, 128.4, 3 << 20)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    found = Training()
    monkeypatch.setattr("pocketvlm.api.finetuning.finetune", found)
    return found


def test_options_that_are_typed_are_passed_on(invoke, training):
    outcome = invoke(
        *("finetune", "nano", "a.jsonl", "b.jsonl", "-o", "out", "--eval", "c.jsonl", "--eval-every", "5"),
        *("--rank", "8", "--alpha", "16", "--targets", "auto,vision", "--mode", "4x", "--slices", "4"),
        *("--stack-frames", "2", "--feature-cache", "1M", "--resume", "--device", "cpu", "--threads", "1"),
    )
    assert outcome.code == 0, outcome.err
    assert training.asked == {
        "model": "nano",
        "data": ["a.jsonl", "b.jsonl"],
        "out": "out",
        "eval": ["c.jsonl"],
        "eval_every": 5,
        "rank": 8,
        "alpha": 16.0,
        "targets": "auto,vision",
        "downsample_mode": "4x",
        "max_slice_nums": 4,
        "stack_frames": 2,
        "feature_cache": 1 << 20,
        "resume": True,
        "device": "cpu",
        "threads": 1,
    }


def test_a_run_is_shown_in_lines_where_stderr_is_no_terminal(invoke, training):
    outcome = invoke("finetune", "nano", "a.jsonl", "-o", "out")
    assert outcome.err.splitlines() == [
        "reading the data",
        "messages: 2 samples, 2 images, longest 49 tokens",
        "training",
        "step 2 of 4: evaluation loss 1.2500",
    ]
    assert outcome.out.splitlines() == [
        "written  out",
        "trained  30 matrices, 242,048 values, 2 samples, 4 steps",
        "loss     0.7500 at the last step; weights of step 2, evaluation loss 1.2500",
        "time     1:05 min, 128 tokens/s, peak memory 3.1 MB",
    ]


def test_json_is_one_object_and_quiet_is_silent(invoke, training):
    outcome = invoke("finetune", "nano", "a.jsonl", "-o", "out", "--json", "-q")
    content = json.loads(outcome.out)
    assert (content["type"], content["path"], content["matrices"]) == ("pocketvlm.finetune", "out", 30)
    assert outcome.err == ""


def test_an_interrupted_run_says_how_to_continue(invoke, training):
    training.error = KeyboardInterrupt("step 2 of 4 is saved in out.partial: the same command with --resume continues")
    outcome = invoke("finetune", "nano", "a.jsonl", "-o", "out", "-q")
    assert outcome.code == 130
    assert outcome.err == f"interrupted: {training.error}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rank", "0"), "--rank=0 is out of range: give a whole number from 1 to 1024"),
        (("--dropout", "1"), "--dropout=1.0 is out of range: give a number of at least 0 and below 1"),
        (("--eval-every", "5"), "--eval-every=5 evaluates nothing: give evaluation data too, --eval=FILE"),
        (("--mode", "8x"), "'8x' is not one of '16x', '4x'"),
        (("--slices", "0"), "--slices=0 is out of range"),
        (("--device", "tpu"), "--device='tpu' is not supported: give 'cpu' or 'cuda'"),
        (("--targets", "q_prj"), "--targets='q_prj' names no matrix of this checkpoint: did you mean 'q_proj'?"),
        (("--max-length", "40"), "are more than --max-length=40"),
        (("--feature-cache", "x"), "--feature-cache"),
    ],
)
def test_wrong_options_are_one_line_before_the_work(invoke, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("pocketvlm.api.finetuning.find_spec", lambda name: object())
    monkeypatch.setattr("pocketvlm.api.training_run.Run.train", lambda *_: pytest.fail("training began"))
    data = tmp_path / "a.jsonl"
    data.write_text(
        json.dumps({"messages": [{"role": "user", "content": "Who?" * 20}, {"role": "assistant", "content": "I"}]})
    )
    outcome = invoke("finetune", "nano", str(data), "-o", str(tmp_path / "out"), *arguments, "-q")
    assert outcome.code in (1, 2)
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.jsonl"),
        ('{"messages": [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}]}', "a.jsonl"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}', "a.jsonl"),
    ],
)
def test_wrong_data_names_file_and_line(invoke, tmp_path, monkeypatch, content, message):
    monkeypatch.setattr("pocketvlm.api.finetuning.find_spec", lambda name: object())
    (tmp_path / "a.jsonl").write_text(content)
    outcome = invoke("finetune", "nano", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "out"), "-q")
    assert outcome.code == 1
    assert message in outcome.err


def test_without_the_extra_one_line_says_what_to_install(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr("pocketvlm.api.finetuning.find_spec", lambda name: None if name == "peft" else object())
    outcome = invoke("finetune", "nano", "a.jsonl", "-o", str(tmp_path / "out"), "-q")
    assert outcome.code == 1
    assert outcome.err == 'error: training needs peft: pip install "pocketvlm[train]"\n'


def test_a_folder_that_exists_is_left_alone(invoke, tmp_path):
    (tmp_path / "out").mkdir()
    outcome = invoke("finetune", "nano", "a.jsonl", "-o", str(tmp_path / "out"), "-q")
    assert outcome.code == 2
    assert "exists already" in outcome.err


def test_resume_without_a_run_is_refused(invoke, tmp_path):
    outcome = invoke("finetune", "nano", "a.jsonl", "-o", str(tmp_path / "out"), "--resume", "-q")
    assert outcome.code == 2
    assert "has no checkpoint to resume from: leave the option out" in outcome.err

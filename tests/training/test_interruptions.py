"""SIGINT and SIGTERM before, in and between the steps of a run: what is saved, and the bits of a resumed run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_kit import SHORT, file_digest, train

from pocketvlm.api.finetuning import finetune
from pocketvlm.errors import BackendError, DataError, OptionError

pytestmark = pytest.mark.train
DataMaker = Callable[..., Path]
WEIGHTS = "adapter_model.safetensors"


class Signal:
    """Sends a signal to this process when a stage of the work begins for the n-th time."""

    def __init__(self, stage: str, number: int = 1, kind: signal.Signals = signal.SIGTERM) -> None:
        self.stage, self.left, self.kind = stage, number, kind
        self.after: list[tuple[str, int]] = []

    def __call__(self, stage: str, done: int, total: int, words: str) -> None:
        """Progress of a run."""
        if self.left == 0:
            self.after.append((stage, done))
        elif stage == self.stage and (done == 0 or stage == "encode"):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.kind)


def entries(folder: Path) -> list[tuple[int, str, float]]:
    """Step, kind and loss of each line of a log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        (line["step"], *next((kind, line[kind]) for kind in ("loss", "eval_loss") if kind in line)) for line in lines
    ]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_run_ends_at_once_while_features_are_computed(make_data: DataMaker, tmp_path: Path, kind: Any) -> None:
    data, stop = make_data(7), Signal("encode", 2, kind)
    before = signal.getsignal(kind)
    with pytest.raises(KeyboardInterrupt, match="no step is saved yet: begin again; image features that were computed"):
        train(data, tmp_path / "out", progress=stop)
    assert stop.after == []
    assert signal.getsignal(kind) is before
    assert not (tmp_path / "out").exists()
    train(data, tmp_path / "out")  # needs no --resume
    assert (tmp_path / "out" / WEIGHTS).exists()


def test_a_run_ends_in_the_evaluation_before_its_first_step(make_data: DataMaker, tmp_path: Path) -> None:
    data, options = make_data(7), {"eval": make_data(3, "eval")}
    stop = Signal("evaluate")
    with pytest.raises(KeyboardInterrupt, match="no step is saved yet"):
        train(data, tmp_path / "out", progress=stop, **options)
    assert stop.after == []
    told: list[str] = []
    train(data, tmp_path / "out", notice=told.append, **options)
    assert [text for text in told if text.startswith("step 0 of 6: evaluation loss ")]


@pytest.mark.parametrize("number", [2, 4])
def test_an_interrupted_evaluation_is_done_when_the_run_resumes(
    make_data: DataMaker, tmp_path: Path, number: int
) -> None:
    """Of step 2, and of the last one: the same weights, log and best step as of a run without an interruption."""
    data, options = make_data(7), {"eval": make_data(3, "eval"), "eval_every": 2}
    whole = train(data, tmp_path / "whole", **options)
    stop = Signal("evaluate", number)
    step = 2 * (number - 1)
    with pytest.raises(
        KeyboardInterrupt, match=rf"step {step} is saved in .*parts\.partial: continue with resume=True"
    ):
        train(data, tmp_path / "parts", progress=stop, **options)
    assert stop.after == []
    resumed = train(data, tmp_path / "parts", resume=True, **options)
    assert entries(tmp_path / "parts") == entries(tmp_path / "whole")
    assert file_digest(tmp_path / "parts" / WEIGHTS) == file_digest(tmp_path / "whole" / WEIGHTS)
    assert (resumed.step, resumed.eval_loss) == (whole.step, whole.eval_loss)


def test_evaluations_show_their_progress(make_data: DataMaker, tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []

    def progress(stage: str, done: int, total: int, words: str) -> None:
        if stage == "evaluate":
            shown.append((done, total))

    train(make_data(7), tmp_path / "out", eval=make_data(5, "eval"), epochs=1, progress=progress)
    assert shown == [(0, 5), (2, 5), (4, 5), (5, 5)] * 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eval": "nope.jsonl"}, DataError, r"nope\.jsonl: no such file"),
        ({"device": "cuda"}, BackendError, "device='cuda': PyTorch finds no CUDA device"),
        ({"media_dir": "nope"}, DataError, "media_dir='nope' is no folder"),
        ({"turns": "first"}, OptionError, "turns='first' is not supported: give 'all' or 'last'"),
        ({"format": "share"}, OptionError, "format='share'"),
        ({"threads": 0}, OptionError, "threads=0 is out of range"),
        ({"targets": "q_prj"}, OptionError, "targets='q_prj' names no matrix"),
    ],
)
def test_options_are_checked_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    data = tmp_path / "data.jsonl"
    data.write_text("oops")
    with pytest.raises(error, match=message):
        finetune("nano", data, tmp_path / "out", **{**SHORT, **options})
    with pytest.raises(DataError, match=r"data\.jsonl:1: begins with 'oops'"):
        finetune("nano", data, tmp_path / "out", **SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]

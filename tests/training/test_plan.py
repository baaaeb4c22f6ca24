"""What a run is made of, without PyTorch: targets, the order of data, checkpoints' folders, options."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.config import ModelConfig
from pocketvlm.errors import CheckpointError, OptionError
from pocketvlm.options.training import TrainingOptions
from pocketvlm.train.schedule import Schedule
from pocketvlm.train.state import RunFolder
from pocketvlm.train.targets import choose_targets, trains_vision

LAYERS, DELTANET, FULL = 4, 2, 2


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return open_checkpoint(embedded_directory()).model


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("auto", DELTANET * 5 + FULL * 4 + LAYERS * 3),
        ("attention", DELTANET * 5 + FULL * 4),
        ("vision", 6 * 6 + 6 + 2),
        ("all", DELTANET * 5 + FULL * 4 + LAYERS * 3 + 44),
        ("auto, vision", DELTANET * 5 + FULL * 4 + LAYERS * 3 + 44),
        ("q_proj", FULL + 6 + 1),
        (r"language_model\.layers\.\d{1,2}\.mlp\.(up|down)_proj", LAYERS * 2),
        ("in_proj_qkv,in_proj_z,in_proj_b,in_proj_a,out_proj", DELTANET * 5 + 6 + 1),
    ],
)
def test_targets_name_matrices_in_the_networks_order(config: ModelConfig, targets: str, count: int) -> None:
    found = choose_targets(config, targets)
    assert len(found) == len(set(found)) == count
    assert trains_vision(found) == (targets not in ("auto", "attention") and "language" not in targets)
    assert found == tuple(name for name in choose_targets(config, "all") if name in found)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("q_prj", "targets='q_prj' names no matrix of this checkpoint: did you mean 'q_proj'?"),
        ("atention", "did you mean 'attention'"),
        ("auto,xyz", "targets='xyz' names no matrix of this checkpoint: give auto, attention, vision, all, or one of"),
        ("q_proj(", "targets='q_proj(' is no regular expression"),
    ],
)
def test_targets_that_match_nothing_are_refused(config: ModelConfig, targets: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        choose_targets(config, targets)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 0}, "rank=0 is out of range: give a whole number from 1 to 1024"),
        ({"lr": 0.0}, "lr=0.0 is out of range"),
        ({"dropout": 1.0}, "dropout=1.0 is out of range"),
        ({"method": "qlora"}, "method='qlora' is not supported: give 'lora' or 'full'"),
        ({"targets": " "}, "targets='' names nothing"),
        ({"batch": 2.5}, "batch=2.5 is not supported: give a whole number"),
    ],
)
def test_options_are_refused_by_name_value_and_way_out(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        TrainingOptions(**given)
    assert message in str(caught.value)


def test_each_epoch_reads_every_sample_once_in_an_order_of_its_own() -> None:
    schedule = Schedule(samples=10, per_step=4, epochs=2, lr=1.0, warmup=0.2, seed=3)
    assert (schedule.steps_per_epoch, schedule.steps) == (3, 6)
    epochs = [[i for step in range(start, start + 3) for i in schedule.indices(step)] for start in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert epochs[0] != [i for step in range(3) for i in Schedule(10, 4, 2, 1.0, 0.2, seed=4).indices(step)]


def test_learning_rate_grows_then_follows_a_cosine_to_zero() -> None:
    schedule = Schedule(samples=100, per_step=1, epochs=1, lr=2.0, warmup=0.1, seed=0)
    rates = [schedule.learning_rate(step) for step in range(100)]
    assert np.allclose(rates[:10], np.arange(1, 11) * 0.2)
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01


def test_a_fraction_of_an_epoch_has_at_least_one_step() -> None:
    assert Schedule(10, 4, 0.5, 1.0, 0.0, 0).steps == 2
    assert Schedule(10, 4, 0.01, 1.0, 0.0, 0).steps == 1


def write(text: str) -> Any:
    return lambda folder: (folder / "state").write_text(text)


def test_checkpoints_appear_whole_and_old_ones_are_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a.partial")
    run.begin({"seed": 1})
    for step in (2, 4, 6, 8):
        run.save(step, write(str(step)), frozenset({4}))
    assert run.steps() == [4, 6, 8]
    assert [(run.checkpoint(step) / "state").read_text() for step in run.steps()] == ["4", "6", "8"]


def test_a_save_that_fails_leaves_the_checkpoints_before_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a.partial")
    run.begin({})
    run.save(2, write("2"))

    def full(folder: Path) -> None:
        (folder / "state").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="step-00000004: cannot be written: No space left on device: make room"):
        run.save(4, full)
    assert run.steps() == [2]
    assert sorted(path.name for path in run.path.iterdir()) == ["settings.json", "step-00000002"]


def test_a_process_killed_while_it_saves_loses_nothing(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from pocketvlm.train.state import RunFolder\n"
        "run = RunFolder(Path(sys.argv[1])); run.begin({})\n"
        "run.save(2, lambda folder: (folder / 'state').write_text('2'))\n"
        "def killed(folder):\n"
        "    (folder / 'state').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "run.save(4, killed)\n"
    )
    path = tmp_path / "a.partial"
    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    run = RunFolder(path)
    assert run.steps() == [2]
    run.save(4, write("4"))
    assert (run.checkpoint(4) / "state").read_text() == "4"
    assert not list(path.glob(".*.tmp"))


def test_other_settings_are_refused_by_name_with_both_values(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a.partial")
    run.begin({"lr": 1e-4, "data": "aa"})
    run.check({"lr": 1e-4, "data": "aa"})
    with pytest.raises(
        OptionError, match=r"resume=True: .* began with lr=0\.0001, and this one is with lr=0\.001: give"
    ):
        run.check({"lr": 1e-3, "data": "aa"})
    with pytest.raises(OptionError, match=r"began without downsample_mode, and this one is with downsample_mode='4x'"):
        run.check({"lr": 1e-4, "data": "aa", "downsample_mode": "4x"})
    with pytest.raises(OptionError, match="the training data differs from that with which the run in"):
        run.check({"lr": 1e-4, "data": "bb"})
    run.check({"lr": 1e-4}, later=("data",))  # before the data is read
    with pytest.raises(OptionError, match="began with lr"):
        run.check({"lr": 1e-3}, later=("data",))


def test_a_full_disk_is_named_with_the_way_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a.partial")
    run.begin({})
    full = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 259584 vs 259472")

    def fails(folder: Path) -> None:
        raise full

    with pytest.raises(
        CheckpointError, match=r"step-00000002: cannot be written: No space .*: make room, and begin again"
    ):
        run.save(2, fails)
    run.save(2, write("2"))
    with pytest.raises(CheckpointError, match=r"make room; resume=True continues after step 2"):
        run.save(4, fails)


def test_the_log_ends_where_a_run_resumes(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a.partial")
    run.begin({})
    for step in (1, 2, 3):
        run.append({"step": step, "loss": 1.0})
    with run.log.open("a") as file:
        file.write('{"step": 4, "lo')  # cut off by a crash
    run.truncate_log(2)
    assert [json.loads(line)["step"] for line in run.log.read_text().splitlines()] == [1, 2]


def test_a_run_that_cannot_begin_leaves_no_folder_and_removes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    own = tmp_path / "own.partial"
    own.mkdir()
    (own / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="cannot be made: File exists"):
        RunFolder(own).begin({})
    assert (own / "notes.txt").exists()
    monkeypatch.setattr("pocketvlm.train.state.write_all", full)
    with pytest.raises(OptionError, match="cannot be made: No space left on device"):
        RunFolder(tmp_path / "a.partial").begin({})
    assert not (tmp_path / "a.partial").exists()

"""Messages of the command line name flags where Python's name parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import typer

from pocketvlm.cli import typed
from pocketvlm.cli.app import app


def command(*names: str) -> Any:
    found: Any = typer.main.get_command(app)
    for name in names:
        found = found.commands[name]
    return found


@pytest.mark.parametrize(
    ("names", "text", "said"),
    [
        (["finetune"], "max_length=8 is out of range: give 9", "--max-length=8 is out of range: give 9"),
        (
            ["finetune"],
            "are more than max_length=8: raise max_length",
            "are more than --max-length=8: raise --max-length",
        ),
        (["finetune"], "give a smaller max_slice_nums, or mode", "give a smaller --slices, or mode"),
        (["finetune"], "downsample_mode='8x' is wrong", "--mode='8x' is wrong"),
        (["finetune"], "resume=True: a.partial is no run", "--resume: a.partial is no run"),
        (["data", "check"], "enable_thinking=False (media_dir)", "--no-thinking (--media-dir)"),
        (["data", "check"], "put it in /data, or give media_dir", "put it in /data, or give --media-dir"),
        (["quantize"], "bits_per_weight=1: too few", "--bits-per-weight=1: too few"),
        # What no flag of the command has set.
        (["run"], "bits_per_weight=1: too few", "bits_per_weight=1: too few"),
        (
            ["run"],
            "messages[0].content[1]: max_slice_nums=0 is wrong",
            "messages[0].content[1]: max_slice_nums=0 is wrong",
        ),
        (["run"], "--processor-kwargs: known are max_slice_nums", "--processor-kwargs: known are max_slice_nums"),
        (["run"], "a/config.json: scale_resolution=3", "a/config.json: scale_resolution=3"),
        (["finetune"], "images[0]='max_length=3.png': no such file", "images[0]='max_length=3.png': no such file"),
        (["finetune"], "max_length/a.jsonl:3: the data has no name", "max_length/a.jsonl:3: the data has no name"),
    ],
)
def test_parameters_become_the_flags_of_the_command(names: list[str], text: str, said: str) -> None:
    typed.remember(command(*names))
    assert typed.as_typed(text) == said


def test_without_a_command_messages_stay_as_they_are() -> None:
    typed.remember(SimpleNamespace())
    assert typed.as_typed("max_length=8 is wrong") == "max_length=8 is wrong"


def test_an_interruption_names_flags_too(invoke, monkeypatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt("step 3 is saved in a.partial: continue with resume=True")

    monkeypatch.setattr("pocketvlm.api.finetuning.finetune", interrupted)
    outcome = invoke("finetune", "nano", "a.jsonl", "-o", "a")
    assert (outcome.code, outcome.err) == (
        130,
        "interrupted: step 3 is saved in a.partial: continue with --resume\n",
    )

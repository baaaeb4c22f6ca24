"""`Output` writes what a run leaves: an adapter in PEFT's format with its settings, or a whole checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pocketvlm.atomic import TEMPORARY
from pocketvlm.checkpoint.adapters import write_adapter
from pocketvlm.errors import CheckpointError
from pocketvlm.tensors import DenseTensor
from pocketvlm.train import plot
from pocketvlm.train.network import Network
from pocketvlm.train.state import RunFolder

_TRAINING, _LOG, _PLOT, _LAST = "training.json", "log.jsonl", "loss.png", "last"


def write_updates(
    folder: Path, network: Network, options: Mapping[str, Any], base: Mapping[str, Any], training: Mapping[str, Any]
) -> None:
    """Write the updates of a network into an existing folder: PEFT's two files, pocketvlm.json, and training.json.

    options: of media and template, which requests with the adapter get by default. base: "model" and "revision" as the
    user named them, and what else people want to know of the base. training: for people.
    """
    state = {name: _array(name, tensor) for name, tensor in network.adapter_state().items()}
    # peft would write the path that the weights were read from, which is in a cache or this installation.
    named = {"base_model_name_or_path": base["model"], "revision": base["revision"]}
    config = {**network.adapter_config(), **named}
    write_adapter(folder, updates_as_peft_state=state, config=config, options=options, base=base)
    (folder / _TRAINING).write_text(json.dumps(training, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def publish(run: RunFolder, step: int, last: int, out: Path) -> None:
    """Make the adapter of a step the folder `out`, with log and plot; one rename shows all of it.

    last: the run's last step; if another one is better, its adapter is in the folder "last" of `out`. Raises
    CheckpointError where something cannot be written.
    """
    temporary = out.with_name(f".{out.name}{TEMPORARY}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        _copy(run.checkpoint(step), temporary)
        if last != step:
            _copy(run.checkpoint(last), temporary / _LAST)
        add_log(run, temporary)
        temporary.rename(out)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{out}: cannot be made: {error.strerror or error}: make room; resume=True writes it"
        ) from None


def add_log(run: RunFolder, folder: Path) -> None:
    """Copy the log into a folder, and plot it if matplotlib is there."""
    shutil.copyfile(run.log, folder / _LOG)
    if plot.problem() is None:
        plot.draw(folder / _LOG, folder / _PLOT)


def _copy(checkpoint: Path, target: Path) -> None:
    """The adapter of a checkpoint without the trainer's state."""
    target.mkdir()
    for path in sorted(checkpoint.iterdir()):
        if path.suffix != ".pt":
            shutil.copyfile(path, target / path.name)


def _array(name: str, tensor: torch.Tensor) -> Any:
    """A tensor as NumPy has it, or a DenseTensor of bfloat16 bits."""
    if tensor.dtype == torch.bfloat16:
        return DenseTensor(name, "bf16", tensor.view(torch.uint16).numpy())
    return tensor.numpy()

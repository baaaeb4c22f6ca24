"""Short runs of `finetune` on nano, and what they write."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from pocketvlm.api.finetuning import FinetuneResult, finetune

# Two steps an epoch of seven samples, in one thread.
SHORT: dict[str, Any] = {
    "batch": 2,
    "accumulate": 2,
    "epochs": 3,
    "lr": 3e-3,
    "rank": 4,
    "alpha": 8.0,
    "dropout": 0.1,
    "threads": 1,
    "max_slice_nums": 1,
    "device": "cpu",
}


def train(data: Path, out: Path, **options: Any) -> FinetuneResult:
    """Train nano for some steps; features are cached next to the data."""
    return finetune("nano", data, out, cache_dir=data.parent / "cache", **{**SHORT, **options})


def losses(folder: Path) -> list[float]:
    """The loss of each step in a log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def updates(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of an adapter by peft's names."""
    return dict(load_file(folder / "adapter_model.safetensors"))


def file_digest(path: Path) -> str:
    """A digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

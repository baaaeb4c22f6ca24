"""Writes the tensors of a checkpoint in several safetensors files, so that few of them are in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SHARD = 256 << 20  # bytes

Save = Callable[[dict[str, Any], str], None]


class Shards:
    """The files of one checkpoint. save: a library's function that writes tensors, with `nbytes`, to a path."""

    def __init__(self, directory: Path, save: Save) -> None:
        self._directory, self._save = directory, save
        self._waiting: dict[str, Any] = {}
        self._files: dict[str, str] = {}
        self._count = 0

    def add(self, tensors: Mapping[str, Any]) -> None:
        """Write tensors, now or with the next ones."""
        self._waiting |= tensors
        if sum(tensor.nbytes for tensor in self._waiting.values()) >= SHARD:
            self._write()

    def finish(self) -> None:
        """Write what is left, and the index."""
        if self._waiting:
            self._write()
        index = {"metadata": {}, "weight_map": self._files}
        (self._directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))

    def _write(self) -> None:
        self._count += 1
        name = f"model-{self._count:05}.safetensors"
        self._save(self._waiting, str(self._directory / name))
        self._files |= dict.fromkeys(self._waiting, name)
        self._waiting = {}

"""An adapter: low-rank updates (LoRA) of a checkpoint's matrices, and tensors that replace the checkpoint's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.tensors import DenseTensor


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """W becomes W + scale * b a: a float32 [rank, in], b float32 [out, rank] (Hu et al. 2021, LoRA, section 4.1)."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Number of rows of a."""
        return len(self.a)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What a fine-tune changes in a checkpoint; tensors have the checkpoint's names.

    updates: by the name of the matrix that they change. replacements: tensors that stand in for the checkpoint's own
    (`modules_to_save` of PEFT). options: image, video and template options that the adapter was trained with, the
    defaults of requests that use it. source: where it was read from, for messages. base: what it was trained on, as far
    as its files say: `model`, a name, and `sample`, sums of values (`checkpoint/adapters/base.py`).
    """

    updates: Mapping[str, Update]
    replacements: Mapping[str, DenseTensor] = field(default_factory=lambda: MappingProxyType({}))
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    source: str = "adapter"
    base: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def digest(self) -> str:
        """Hex digest of all values that change logits: part of the keys of caches."""
        found = hashlib.blake2b(digest_size=16)
        for name, update in sorted(self.updates.items()):
            found.update(f"{name} {update.a.shape} {update.b.shape} {update.scale!r}".encode())
            found.update(np.ascontiguousarray(update.a).data)
            found.update(np.ascontiguousarray(update.b).data)
        for name, tensor in sorted(self.replacements.items()):
            values = np.ascontiguousarray(tensor.data)
            found.update(f"{name} {values.dtype} {values.shape}".encode())
            found.update(values.data)
        return found.hexdigest()

"""`QuantizeResult` says what a quantization wrote, how each matrix is stored, and what that costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketvlm.checkpoint.adapters.merge import MergeChanges
from pocketvlm.schemes import Role


@dataclass(frozen=True, slots=True)
class TensorResult:
    """How one tensor is stored.

    shape: [outputs, inputs]. scheme: its quantization scheme; None where it stays as it was. method: "rtn", "gptq",
    "awq" (round to nearest after scaling and clipping) or "awq+gptq"; None where nothing was quantized. error: the
    squared error of its outputs on the calibration set, relative to their square; None where none was measured.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    scheme: str | None
    method: str | None
    error: float | None
    bits_per_weight: float


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """The outcome of `quantize_model`.

    paths: the files that were written. tensors: every matrix, in the network's order. bits_per_weight: of the language
    model's matrices and head, scales included. vision_error: squared error of the features of the calibration pictures,
    relative to their square, caused by the quantized vision tower; None where it stays as stored or no picture was
    seen. calibration: number of tokens of the calibration set by kind of sample. seconds: of the whole work, or of the
    last run where it was resumed; peak_memory: bytes, of this process. adapter: what merging one
    changed and what became of its options; None without one.
    """

    paths: tuple[Path, ...]
    format: str
    scheme: str
    method: str
    tensors: tuple[TensorResult, ...]
    bits_per_weight: float
    vision_error: float | None
    calibration: dict[str, int]
    seconds: float
    peak_memory: int
    adapter: MergeChanges | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {**asdict(self), "paths": [str(path) for path in self.paths]}

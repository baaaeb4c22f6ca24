"""`quantize_model` quantizes a dense checkpoint and writes it in the format of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pocketvlm.quantize.result import QuantizeResult

# Stage, work done, all work, and seconds left (None where nobody can say yet).
QuantizeProgress = Callable[[str, float, float, float | None], None]


def quantize_model(
    model: str | Path,
    out: str | Path,
    *,
    format: str = "native",
    scheme: str = "int4-g64",
    method: str = "auto",
    calibration: str | Path = "default",
    keep: Sequence[str] = (),
    bits_per_weight: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: QuantizeProgress | None = None,
) -> QuantizeResult:
    """Quantize a dense checkpoint into the directory `out`."""
    raise NotImplementedError

"""`write_adapter` writes an adapter in PEFT's file format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.tensors import DenseTensor


def write_adapter(
    path: str | Path,
    *,
    updates_as_peft_state: Mapping[str, NDArray[np.float32] | NDArray[np.float16] | DenseTensor],
    config: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Write it."""
    raise NotImplementedError

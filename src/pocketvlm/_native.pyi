"""The extension module: what `pocketvlm.backends.native` calls. Arrays are checked for dtype, shape and indices in there."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]
type Ints = NDArray[np.int32]
type Bits = NDArray[Any]

def usable_isas() -> list[str]: ...

class Runtime:
    def __init__(self, threads: int, isa: str) -> None: ...
    @property
    def threads(self) -> int: ...
    def poison(self, on: bool) -> None: ...
    def linear(
        self, x: Floats, weight: Bits, bf16: bool, bias: Floats | None, residual: Floats | None, activation: int, out: Floats
    ) -> None: ...

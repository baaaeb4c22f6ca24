"""The extension module, for `pocketvlm.backends.native` alone.

Arrays are C-contiguous NumPy arrays; data types, shapes and indices are checked in there and refused with ValueError.
Outputs are allocated by the caller.
"""

from typing import Any

def usable_isas() -> list[str]:
    """Instruction sets that this build holds and this machine runs, best last."""

class CodedMatrix:
    """A packed matrix of codes over arrays that it keeps; native/coded/coded.h says what they hold."""

    def __init__(
        self,
        bits: int,
        group: int,
        inputs: int,
        outputs: int,
        codes: Any,
        group_scale: Any,
        group_minimum: Any,
        row_scale: Any,
        table: Any,
    ) -> None: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...

class Runtime:
    """Threads and the kernels of one instruction set."""

    def __init__(self, threads: int, isa: str) -> None: ...
    @property
    def threads(self) -> int: ...
    def checksum(self, array: Any) -> int:
        """A 64-bit checksum of a uint8 array; the same for any number of threads."""

    def return_memory(self) -> None:
        """Give memory that was freed back to the system (with glibc; elsewhere nothing)."""

    def poison(self, on: bool) -> None:
        """For tests: scratch memory starts as NaN in every operation."""

    def __getattr__(self, operation: str) -> Any:
        """One method for each operation of the contract."""

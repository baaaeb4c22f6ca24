"""The `native` backend runs C++ kernels on NumPy arrays, with quantized weights or weights as stored."""

from __future__ import annotations

import os

from pocketvlm.backends.native.coding import WeightType
from pocketvlm.backends.native.cpu import default_threads
from pocketvlm.backends.native.operations import NativeOps
from pocketvlm.backends.options import Choice, choose
from pocketvlm.errors import BackendError, OptionError

__all__ = ["NativeOps", "create"]

_WEIGHT_TYPES: dict[str, WeightType] = {"int4": "int4", "int8": "int8", "bf16": "stored"}


def create(
    threads: int | None = None, isa: str | None = None, *, weights: str = "auto", precision: str | None = None
) -> NativeOps:
    """A backend with its own threads.

    threads: default is the physical cores that this process may use. isa: an instruction set by name, as "serial",
    "avx2" or "neon"; default is the environment variable POCKETVLM_ISA, then the best that the processor runs.
    weights, precision: see `pocketvlm.backends.options.choose`.
    """
    choice = choose("native", weights, precision)
    try:
        from pocketvlm import _native
    except ImportError as error:
        raise BackendError(f"the extension module of pocketvlm does not load ({error}): reinstall pocketvlm") from error
    usable = _native.usable_isas()
    reason = f"the best of {', '.join(usable)}"
    if isa is not None:
        reason = "asked for by argument"
    elif isa := os.environ.get("POCKETVLM_ISA"):
        reason = "set by POCKETVLM_ISA"
    else:
        isa = usable[-1]
    if isa not in usable:
        raise OptionError(f"isa {isa!r} ({reason}) cannot run here: use one of {', '.join(usable)}")
    if threads is None:
        threads, source = default_threads()
    else:
        source = "asked for by argument"
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise OptionError(f"threads must be a whole number from 1 to 1024, not {threads!r}")
    description = {
        "isa": f"{isa} ({reason})",
        "threads": f"{threads} ({source})",
        **_arithmetic(choice),
    }
    runtime, fast = _native.Runtime(threads, isa), choice.precision == "fast"
    return NativeOps(runtime, description, _WEIGHT_TYPES[choice.weights], fast)


def _arithmetic(choice: Choice) -> dict[str, str]:
    """Precision, weight type and arithmetic, for people."""
    weights = {
        "int4": "int4 in the language model, int8 in the vision tower",
        "int8": "int8",
        "bf16": "as stored, bfloat16 or float32",
    }
    arithmetic = "float32"
    if choice.precision == "fast":
        attention = "attention of views and prompts in bfloat16 where the processor has it"
        arithmetic = f"integer products with activations in 8 bits, the rest in float32, {attention}"
        if choice.weights == "bf16":
            arithmetic = f"float32, matrices stored in bfloat16 and {attention}"
    return {
        "precision": f"{choice.precision} ({choice.precision_reason})",
        "weights": f"{weights[choice.weights]} ({choice.weights_reason})",
        "arithmetic": arithmetic,
    }

"""The backend of the base install: C++ kernels on NumPy arrays; weights quantized or as stored."""

from __future__ import annotations

import os

from pocketvlm.backends.native.allocator import retain_freed_memory
from pocketvlm.backends.native.backend import NativeBackend
from pocketvlm.backends.native.cpu import default_threads
from pocketvlm.backends.options import Scheme, choose
from pocketvlm.errors import BackendError, OptionError

__all__ = ["NativeBackend", "create"]


def create(threads: int | None = None, isa: str | None = None, *, scheme: Scheme | None = None) -> NativeBackend:
    """A backend with its own threads.

    threads: default is the physical cores that this process may use. isa: an instruction set by name, as "serial",
    "avx2" or "neon"; default is the environment variable POCKETVLM_ISA, then the best that the processor runs.
    scheme: what `pocketvlm.backends.options.choose` chose (None: for a dense checkpoint without options). Raises
    OptionError for values that cannot run here, and BackendError where the extension module does not load.
    """
    try:
        from pocketvlm import _native
    except ImportError as error:
        raise BackendError(f"the extension module of pocketvlm does not load ({error}): reinstall pocketvlm") from error
    usable = _native.usable_isas()
    reason = f"the best of {', '.join(usable)}"
    if no_tiles := _native.unusable_isas().get("amx"):
        reason += f"; no amx: {no_tiles}"
    if isa is not None:
        reason = "asked for by argument"
    elif isa := os.environ.get("POCKETVLM_ISA"):
        reason = "set by POCKETVLM_ISA"
    else:
        isa = usable[-1]
    if isa not in usable and isa not in _native.usable_isas(for_tests=True):
        raise OptionError(f"isa {isa!r} ({reason}) cannot run here: use one of {', '.join(usable)}")
    if threads is None:
        threads, source = default_threads()
    else:
        source = "asked for by argument"
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise OptionError(f"threads must be a whole number from 1 to 1024, not {threads!r}")
    retain_freed_memory()
    machine = {"isa": f"{isa} ({reason})", "threads": f"{threads} ({source})"}
    return NativeBackend(_native.Runtime(threads, isa), machine, scheme or choose("native"))

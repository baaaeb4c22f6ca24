"""The C library's allocator retains large blocks that operations free, so that the next ones find mapped memory."""

from __future__ import annotations

import ctypes
import os

# Numbers and limits of glibc's mallopt(3): blocks of at most 32 MiB can come from its heaps.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK, _RETAINED = 32 << 20, 64 << 20


def retain_freed_memory() -> None:
    """Let each heap of the process retain up to 64 MiB of freed memory (with glibc; elsewhere nothing).

    By default every activation of some megabytes is returned to the system, and the next one costs a page fault for
    each 4 KiB. `Backend.return_memory` returns what is retained. Settings in the environment win.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & set(os.environ):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _RETAINED)

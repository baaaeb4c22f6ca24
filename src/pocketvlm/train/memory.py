"""The peak memory of a run: of the process, or of the GPU."""

from __future__ import annotations

import resource
import sys


def peak_memory(cuda: bool) -> int:
    """Bytes that this process had resident at most, or with cuda those that PyTorch allocated on the GPU at most."""
    if cuda:
        import torch

        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes, Linux in KiB

"""The `torch` backend is the reference: it states every operation in a few lines of PyTorch, on CPU or CUDA."""

from __future__ import annotations

import importlib.util

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.options import Scheme
from pocketvlm.errors import BackendError

__all__ = ["create"]


def create(threads: int | None = None, device: str | None = None, scheme: Scheme | None = None) -> AnyBackend:
    """Make the torch backend; `device` is "cpu", "cuda" or None for CUDA where present. Raises BackendError."""
    if importlib.util.find_spec("torch") is None:
        raise BackendError(
            'backend="torch" needs PyTorch, which is not installed: pip install "pocketvlm[torch]", '
            'or use backend="native"'
        )
    from pocketvlm.backends.torch.backend import TorchBackend

    return TorchBackend(threads, device, scheme)

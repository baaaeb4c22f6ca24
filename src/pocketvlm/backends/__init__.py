"""`create()` returns a backend; each backend is one folder that implements `ops.py` and `backend.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm.backends.options import choose
from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions
from pocketvlm.options.option import definition

if TYPE_CHECKING:
    from pocketvlm.backends.backend import AnyBackend
    from pocketvlm.backends.options import Scheme


def create(
    name: str, threads: int | None = None, device: str | None = None, scheme: Scheme | None = None
) -> AnyBackend:
    """A backend.

    threads: CPU threads (None: physical cores). device: for "torch" alone, "cpu" or "cuda" (None: CUDA where present).
    scheme: what `options.choose` chose for this backend (None: what it chooses for a dense checkpoint without options).
    Raises OptionError for values that are not known or contradict each other, and BackendError where the backend cannot
    run.
    """
    check(name, threads, device)
    if name == "torch":
        from pocketvlm.backends import torch

        return torch.create(threads, device, scheme)
    from pocketvlm.backends import native

    return native.create(threads, scheme=scheme)


def check(
    name: str,
    threads: int | None = None,
    device: str | None = None,
    weights: str = "auto",
    precision: str | None = None,
    kv_cache_dtype: str = "auto",
) -> None:
    """Raise OptionError for values that `create` and `options.choose` would refuse; loads nothing."""
    choose(name, weights, precision, kv_cache_dtype=kv_cache_dtype)
    definition(LoadOptions, "threads").check(threads)
    if device is not None and name != "torch":
        raise OptionError(f"device={device!r} needs backend='torch': the native backend runs on the CPU")

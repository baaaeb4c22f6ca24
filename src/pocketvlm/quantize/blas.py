"""NumPy's matrix products on one thread, for work that has threads of its own.

OpenBLAS wakes its threads for each product and lets them spin until the last one is done. With threads that each
multiply small matrices, or other busy processes, this takes many times as long as the products.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock

_SYMBOLS = tuple(f"{prefix}openblas_{{}}_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", ""))
_lock = Lock()
_users: list[int] = []  # the number of threads before the first user, once for each user


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Run matrix products of the process on the threads that call them. Without OpenBLAS nothing changes."""
    functions = _openblas()
    if functions is None:
        yield
        return
    get, set_ = functions
    with _lock:
        _users.append(_users[0] if _users else get())
        set_(1)
    try:
        yield
    finally:
        with _lock:
            threads = _users.pop()
            if not _users:
                set_(threads)


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """The functions that get and set the number of OpenBLAS's threads; None where this process has none."""
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in mapped.splitlines() if "openblas" in line and ".so" in line}
    for path in sorted(paths, key=lambda path: "numpy" not in path):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for symbol in _SYMBOLS:
            get, set_ = (getattr(library, symbol.format(verb), None) for verb in ("get", "set"))
            if get is not None and set_ is not None:
                get.restype, set_.argtypes, set_.restype = ctypes.c_int, [ctypes.c_int], None
                return get, set_
    return None

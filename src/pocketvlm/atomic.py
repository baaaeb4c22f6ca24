"""Writes files whole or not at all: under a temporary name first, which then replaces the file in one step."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that replaces `path` when the block ends without an error, and is removed otherwise.

    The file is locked while it is written, so that others can tell it from one whose writer was killed. Several
    processes may write at once: the last one wins. durable: the content reaches the disk before the name does, for what
    must survive a power failure. Raises OSError.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            if durable:
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_all(file: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Write all of data to an unbuffered file, which may take it in parts."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]

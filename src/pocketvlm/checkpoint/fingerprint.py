"""The fingerprint identifies the content of weight files and is cheap enough for every start."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from pocketvlm.checkpoint.files import GGUF_MAGIC
from pocketvlm.errors import CheckpointError

SAMPLES = 64
SAMPLE_BYTES = 4096
_MAX_HEADER = 1 << 27
# GGUF files do not state the length of their header; with a vocabulary of the usual size it ends before this.
_GGUF_HEADER = 1 << 24


def fingerprint(files: Sequence[Path]) -> str:
    """A hash over name, size, time of change, header and 64 samples of 4 KiB at even places of each weight file.

    Files that were downloaded again, trained further or converted get a new fingerprint, and so does a copy with a new
    time. It misses values that were changed in place between the samples, with size and time restored.
    Raises CheckpointError for a file that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(files):
        try:
            with path.open("rb") as file:
                state = os.fstat(file.fileno())
                header = file.read(8)
                length = _GGUF_HEADER if header.startswith(GGUF_MAGIC) else int.from_bytes(header, "little")
                header += file.read(min(length, _MAX_HEADER))
                digest.update(repr((path.name, state.st_size, state.st_mtime_ns, len(header))).encode() + header)
                room = max(state.st_size - SAMPLE_BYTES, 0)
                for index in range(SAMPLES):
                    digest.update(os.pread(file.fileno(), SAMPLE_BYTES, room * index // (SAMPLES - 1)))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()

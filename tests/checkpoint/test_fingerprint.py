"""The fingerprint of weight files: equal for equal files, another one after every change that it promises to see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_checkpoint import write_checkpoint, write_shards

from pocketvlm.checkpoint.files import find_files
from pocketvlm.checkpoint.fingerprint import SAMPLE_BYTES, SAMPLES, fingerprint
from pocketvlm.errors import CheckpointError


def test_it_changes_with_content_time_and_names(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    files = find_files(tmp_path)
    seen = [fingerprint(files)]
    assert fingerprint(files) == seen[0]
    state = files[0].stat()
    data = files[0].read_bytes()
    assert len(data) < SAMPLES * SAMPLE_BYTES  # so that the samples cover everything
    for place in (0, 100, len(data) // 2, len(data) - 1):
        files[0].write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        os.utime(files[0], ns=(state.st_atime_ns, state.st_mtime_ns))
        seen.append(fingerprint(files))
    files[0].write_bytes(data)
    os.utime(files[0], ns=(1, state.st_mtime_ns + 1))
    seen.append(fingerprint(files))
    os.utime(files[0], ns=(1, state.st_mtime_ns))
    assert fingerprint(files) == seen[0]
    write_shards(tmp_path)
    seen.append(fingerprint(find_files(tmp_path)))
    assert len(set(seen)) == len(seen)


def test_the_last_bytes_of_a_large_file_count(tmp_path: Path) -> None:
    path = tmp_path / "large"
    data = bytearray(10_000_000)
    seen = []
    for place in (5, len(data) - 1):
        data[place] ^= 1
        path.write_bytes(data)
        os.utime(path, (1, 1))
        seen.append(fingerprint([path]))
    assert seen[0] != seen[1]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        fingerprint([tmp_path / "gone.safetensors"])

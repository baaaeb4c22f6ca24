"""Files of packed weights: equal when read again, refused when damaged in any place, whole or not there at all."""

from __future__ import annotations

import errno
import json
import os
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_kit import Inputs, round_and_pack, usable
from numpy.typing import NDArray
from quantized_forms import form

from pocketvlm import _native, packfile
from pocketvlm.backends.native import packed_cache
from pocketvlm.backends.native.group_numbers import pack_groups
from pocketvlm.backends.native.pack import pack, pack_codes
from pocketvlm.backends.native.packed_cache import file_name
from pocketvlm.backends.native.packed_file import open_packed, write_packed
from pocketvlm.backends.native.packed_matrix import NUMBERS, PackedMatrix, packed_matrix
from pocketvlm.packfile import PackedError, read_header, sweep
from pocketvlm.tensors import BlockValues, DenseTensor

RUNTIME = _native.Runtime(2, usable()[-1])


def matrices() -> dict[str, PackedMatrix | DenseTensor]:
    """A matrix of each scheme, and of the forms that have the other arrays: factors, zero points, permutations."""
    make = Inputs(5)
    found: dict[str, PackedMatrix | DenseTensor] = {
        f"m{bits}.{group}": round_and_pack(RUNTIME, make.matrix(33, 130, "bf16"), bits, group)
        for bits, group in ((8, None), (8, 64), (4, 64))
    }
    codes = pack_codes(make.random.integers(0, 16, (20, 64), dtype=np.uint8), 4, 64)
    scale, bias = (pack_groups(make.random.uniform(0, 1, (20, 2)).astype(np.float16)) for _ in range(2))
    row_scale, codebook = np.ones(32, np.float32), np.arange(120, 136, dtype=np.uint8)
    found["all"] = packed_matrix(4, 32, 64, 20, codes, scale, bias, row_scale, codebook)
    for name in (
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "GPTQ, permuted",
        "MLX, 8 bits",
        "NF4, nested absmax",
        "MXFP8",
        "groups of 12",
    ):
        found[name] = pack(RUNTIME, form(name))
    return found


def test_the_name_of_a_file_depends_on_all_that_packing_depends_on() -> None:
    plain = form("MXFP4")
    changed = [
        replace(plain, global_scale=2.0),
        replace(plain, global_divisor=2.0),
        replace(plain, permutation=np.arange(96)),
        replace(plain, codebook=plain.codebook * 2),
        replace(plain, scales=replace(plain.scales, offset=1.0)),
        replace(plain, scales=replace(plain.scales, codebook=plain.scales.codebook / 2)),
        replace(plain, scales=replace(plain.scales, scale=BlockValues(np.ones((20, 1), np.float32), (1, 3)))),
    ]
    names = {file_name("auto", "fingerprint", {"w": tensor}) for tensor in (plain, *changed)}
    assert len(names) == 1 + len(changed)


def test_files_of_another_packing_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"w": form("AWQ")}
    before = file_name("auto", "fingerprint", tensors)
    monkeypatch.setattr(packed_cache, "PACKING", packed_cache.PACKING + 1)
    assert file_name("auto", "fingerprint", tensors) != before


def write(path: Path) -> dict[str, PackedMatrix | DenseTensor]:
    found = matrices()
    write_packed(path, RUNTIME, found, "nano", "the directory", "int4")
    return found


def arrays(matrix: PackedMatrix | DenseTensor) -> dict[str, NDArray[Any]]:
    return {matrix.dtype: matrix.data} if isinstance(matrix, DenseTensor) else matrix.arrays()


def equal(first: PackedMatrix | DenseTensor, second: PackedMatrix | DenseTensor) -> None:
    if isinstance(first, PackedMatrix):
        for field in NUMBERS:
            assert getattr(first, field) == getattr(second, field)
    ours, others = arrays(first), arrays(second)
    assert list(ours) == list(others)
    for part, array in ours.items():
        assert array.dtype == others[part].dtype
        np.testing.assert_array_equal(array, others[part])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 64, 65, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_500_001])
def test_the_checksum_sees_every_byte_and_their_order(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    sums = {_native.Runtime(threads, isa).checksum(data) for threads in (1, 2, 3) for isa in usable()}
    assert len(sums) == 1
    same = sums.copy()
    places = {0, 1, 7, 8, 63, 64, size // 3, size // 2, 1 << 20, size - 2, size - 1} & set(range(size))
    for place in places:
        for change in (1, 0x80):
            other = data.copy()
            other[place] ^= change
            sums.add(RUNTIME.checksum(other))
    for longer in (1, 8, 64):
        sums.add(RUNTIME.checksum(np.concatenate([data, np.zeros(longer, np.uint8)])))
    assert len(sums) == 1 + 2 * len(places) + 3
    for unit in (1, 8, 64, 1 << 20):
        if size >= 2 * unit:
            swapped = data.copy()
            swapped[:unit], swapped[unit : 2 * unit] = data[unit : 2 * unit], data[:unit]
            assert RUNTIME.checksum(swapped) not in same
    if size >= 128:  # the highest bits of two words of one lane must not cancel
        two = data.copy()
        two[[7, 71]] ^= 0x80
        assert RUNTIME.checksum(two) not in same


def test_the_checksum_takes_bytes_anywhere_and_nothing_else() -> None:
    data = np.arange(1000, dtype=np.uint8)
    assert RUNTIME.checksum(data[3:].copy()) == RUNTIME.checksum(data[3:])
    with pytest.raises(ValueError, match="uint8"):
        RUNTIME.checksum(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="C-contiguous"):
        RUNTIME.checksum(data[::2])


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.packed"
    written, read = write(path), open_packed(path, RUNTIME)
    assert list(read) == list(written)
    for name, tensor in written.items():
        equal(read[name], tensor)
        parts = list(arrays(read[name]).values())
        for part in parts:
            assert not part.flags.writeable
            assert part.ctypes.data % 64 == 0
        assert parts[0].ctypes.data % 4096 == 0
    header = read_header(path)
    assert (header.model, header.path, header.kind) == ("nano", "the directory", "int4")
    assert [file.name for file in path.parent.iterdir()] == ["x.packed"]


@pytest.mark.parametrize("block", [1, 100, 4096, 70_001])
def test_the_file_is_the_same_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    write(tmp_path / "whole")
    monkeypatch.setattr(packfile, "_BLOCK", block)
    write(tmp_path / "blocks")
    assert (tmp_path / "blocks").read_bytes() == (tmp_path / "whole").read_bytes()


def test_every_byte_that_is_read_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.packed"
    written = write(path)
    whole = path.read_bytes()
    refused = 0
    for place in [*range(40), *range(64, len(whole), 97)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            read = open_packed(path, RUNTIME)
        except PackedError:
            refused += 1
        else:  # a zero between two arrays
            assert whole[place] == 0
            for name, tensor in written.items():
                equal(read[name], tensor)
    assert refused > 100


def forged(whole: bytes, **change: object) -> bytes:
    """A file with another header that has the right checksum."""
    magic, version, length, _, size, body = struct.unpack_from("<8s5Q", whole)
    header = json.loads(whole[64 : 64 + length])
    for where, value in change.items():
        header["items"]["m4.64"]["arrays"]["codes"][where] = value
    header["model"] = header["path"] = ""  # room for what has changed
    text = json.dumps(header).encode().ljust(length)
    assert len(text) == length
    checksum = RUNTIME.checksum(np.frombuffer(text, np.uint8))
    return struct.pack("<8s5Q16x", magic, version, length, checksum, size, body) + text + whole[64 + length :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "0 bytes"),
        (lambda data: data[:63], "63 bytes"),
        (lambda data: data[:-1], "bytes instead of"),
        (lambda data: data + b"\0", "bytes instead of"),
        (lambda data: os.urandom(len(data)), "no packed file"),
        (lambda data: data[:8] + struct.pack("<Q", 1) + data[16:], "version 1, this is 2"),
        (lambda data: data[:16] + struct.pack("<Q", 1 << 40) + data[24:], "does not fit"),
        (lambda data: data[:16] + struct.pack("<Q", 3) + data[24:], "checksum"),
        (lambda data: forged(data, shape=[9, 9]), "m4.64|header"),
        (lambda data: forged(data, shape=["a"]), "header"),
        (lambda data: forged(data, offset=1 << 50), "outside"),
        (lambda data: forged(data, offset=-64), "outside"),
        (lambda data: forged(data, dtype="uint4"), "dtype uint4"),
    ],
)
def test_a_file_that_is_no_such_file_is_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "x.packed"
    write(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(PackedError, match=message):
        open_packed(path, RUNTIME)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "x.packed"
    write(path)
    before = path.read_bytes()
    for module, name in ((packfile.os, "fsync"), (packfile, "write_all")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(OSError, match="No space left"):
                write(path)
    with monkeypatch.context() as patch:
        patch.setattr(packfile.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(OSError, match="No space left"):
            write(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.packed"]


def test_what_dead_writers_left_is_swept_and_what_lives_stays(tmp_path: Path) -> None:
    import fcntl

    old = time.time() - 10 * packfile.STALE_SECONDS
    files = {name: tmp_path / f".{name}.tmp" for name in ("dead", "locked", "young")}
    for name, file in files.items():
        file.write_bytes(b"half")
        if name != "young":
            os.utime(file, (old, old))
    with files["locked"].open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        sweep(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".locked.tmp", ".young.tmp"]

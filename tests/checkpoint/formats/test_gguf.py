"""GGUF headers and types: what is read, what is refused, and that no damage gets past the reader."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_kit import QUANTIZED, TYPES, encode, random_blocks
from gguf_plain import block_values
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.checkpoint.fingerprint import fingerprint
from pocketvlm.checkpoint.formats.gguf import BLOCK_TYPES, GgufFormat, check_types, unpack_matrix
from pocketvlm.checkpoint.gguf.header import BLOCKS, Header, read_architecture, read_header
from pocketvlm.errors import CheckpointError, ConfigError, TensorError
from pocketvlm.tensors import DenseTensor, LazyArray, QuantizedTensor

METADATA: dict[str, Any] = {
    "general.architecture": "qwen35",
    "count": 7,
    "rate": 1e-6,
    "flag": True,
    "words": ["a", "", "žluť"],
    "numbers": [1, -2, 3],
    "flags": [True, False],
}
FLOATS = np.arange(12, dtype=np.float32).reshape(3, 4)
TENSORS = {
    "a": ("F32", (3, 4), FLOATS.tobytes()),
    "b": ("F16", (2, 3, 5), np.ones(30, np.float16).tobytes()),
    "c": ("Q8_0", (2, 64), bytes(range(136))),
}
GOOD = encode(METADATA, TENSORS)


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("version", "alignment"), [(2, 32), (3, 32), (3, 8), (3, 4096)])
def test_a_header(tmp_path: Path, version: int, alignment: int) -> None:
    header = read_header(write(tmp_path, encode(METADATA, TENSORS, version, alignment)))
    assert header.architecture == read_architecture(header.path) == "qwen35"
    assert [header.metadata[key] for key in ("count", "rate", "flag")] == [7, 1e-6, True]
    assert header.strings("words") == METADATA["words"]
    assert header.strings("absent") == []
    numbers, flags = header.numbers("numbers"), header.numbers("flags")
    assert numbers is not None
    assert flags is not None
    assert numbers.tolist() == METADATA["numbers"]
    assert flags.tolist() == METADATA["flags"]
    assert header.numbers("absent") is None
    with pytest.raises(CheckpointError, match="words is not an array of the expected type"):
        header.numbers("words")
    assert header.content("wor") == header.content("words")
    assert "žluť".encode() in header.content("words")
    shapes = {name: (entry.dtype, entry.shape) for name, entry in header.tensors.items()}
    assert shapes == {name: (kind, shape) for name, (kind, shape, _) in TENSORS.items()}
    entry = header.tensors["a"]
    assert header.path.read_bytes()[entry.start : entry.start + entry.nbytes] == FLOATS.tobytes()
    assert all(entry.start % alignment == 0 for entry in header.tensors.values())


def test_sizes_of_blocks_are_those_of_the_description() -> None:
    assert {kind: TYPES[kind][1:3] for kind in TYPES} == {kind: BLOCKS[kind] for kind in TYPES}
    assert {kind: (type_.values, type_.nbytes) for kind, type_ in BLOCK_TYPES.items()} == {
        kind: TYPES[kind][1:3] for kind in QUANTIZED
    }


def patched(at: int, form: str, *values: object, data: bytes = GOOD) -> bytes:
    size = struct.calcsize(form)
    return data[:at] + struct.pack(form, *values) + data[at + size :]


KEY = b"count" + struct.pack("<II", 4, 7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"GGU", "is not a GGUF file"),
        (b"PK\3\4" + GOOD[4:], "is not a GGUF file: it begins with b'PK"),
        (b"version https://git-lfs", "Git LFS pointer"),
        (b"GGUF" + bytes(4), "too few for a header"),
        (patched(4, ">I", 3), "is a big-endian GGUF file, which is not read: use a little-endian one"),
        (patched(4, "<I", 1), "of version 1: only versions 2 and 3 are read"),
        (patched(4, "<I", 4), "of version 4"),
        (patched(8, "<Q", 1 << 40), "more than a header can have"),
        (patched(16, "<Q", 1 << 40), "more than a header can have"),
        (patched(16, "<Q", len(METADATA) + 1), "damaged or was cut off"),
        (encode({"split.count": 3, "split.no": 0}, {}), "one of 3 parts of a split GGUF file, .* merge them with"),
        (GOOD.replace(b"count", b"flags"), "the key 'flags' appears twice"),
        (GOOD.replace(KEY, b"count" + struct.pack("<II", 99, 7)), "count has the unknown type 99"),
        (GOOD.replace(b"words" + struct.pack("<II", 9, 8), b"words" + struct.pack("<II", 9, 9)), "array of the type 9"),
        (GOOD.replace(struct.pack("<IQ", 5, 3), struct.pack("<IQ", 5, 1 << 60)), "which do not fit the header"),
        (GOOD.replace(struct.pack("<IQ", 8, 3), struct.pack("<IQ", 8, 1 << 22)), "which do not fit the header"),
        (GOOD.replace(struct.pack("<Q", 6) + b"qwen35", struct.pack("<Q", 1 << 50) + b"qwen35"), "1125899906842624"),
        (GOOD.replace(b"qwen35", b"qwe\xff35"), "is not UTF-8"),
        (encode({"general.alignment": 24}, TENSORS), "general.alignment=24 is not a power of two"),
        (encode({"general.alignment": "x"}, TENSORS), "general.alignment='x' is not a power of two"),
        (encode({}, {"a": ("Q8_0", (2, 33), bytes(68))}), "rows of 33 values, no multiple of Q8_0's 32"),
        (encode({}, {"a": ("F32", (), b"")}), "has 0 dimensions"),
        (encode({}, {"a": ("F32", (1, 1, 1, 1, 1), bytes(4))}), "has 5 dimensions"),
        (encode({}, {"a": ("F32", (1 << 40, 1 << 40), bytes(4))}), "ends at byte"),
        (encode({}, {"a": ("31", (4, 4), bytes(64))}), "has the type 31, which is not known here"),
        (encode(METADATA, TENSORS).replace(b"\1\0\0\0\0\0\0\0b", b"\1\0\0\0\0\0\0\0a"), "tensor 'a' appears twice"),
    ],
)
def test_damaged_and_other_files_are_named_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        read_header(write(tmp_path, data))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_tensors_over_each_other_and_between_the_steps_of_the_alignment(tmp_path: Path) -> None:
    header = read_header(write(tmp_path, GOOD))
    offset = header.tensors["b"].start - header.tensors["a"].start
    place = GOOD.index(struct.pack("<IQ", 1, offset)) + 4
    with pytest.raises(CheckpointError, match=r"tensor '[ab]' overlaps the tensor before it"):
        read_header(write(tmp_path, patched(place, "<Q", 0)))
    with pytest.raises(CheckpointError, match="lies at 33, no multiple of the alignment 32"):
        read_header(write(tmp_path, patched(place, "<Q", 33)))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    end = max(entry.start + entry.nbytes for entry in read_header(write(tmp_path, GOOD)).tensors.values())
    for size in range(end):
        with pytest.raises(CheckpointError):
            read_header(write(tmp_path, GOOD[:size]))
    assert len(read_header(write(tmp_path, GOOD[:end])).tensors) == 3


def use(header: Header) -> None:
    """Read everything that a header promises."""
    for key in header.metadata:
        for read in (header.strings, header.numbers):
            with contextlib.suppress(CheckpointError):
                read(key)
    assert len(header.content("")) < header.path.stat().st_size
    for entry in header.tensors.values():
        assert entry.start + entry.nbytes <= header.path.stat().st_size


def test_flipped_bits_never_crash(tmp_path: Path) -> None:
    generator, length = random.Random(5), GOOD.index(FLOATS.tobytes())
    accepted = 0
    for _ in range(3000):
        data = bytearray(GOOD)
        for _ in range(generator.randint(1, 3)):
            data[generator.randrange(length)] = generator.choice(
                b"\0\1\2\4\x08\x09\x0a\x7f\xff" + generator.randbytes(3)
            )
        try:
            header = read_header(write(tmp_path, bytes(data)))
        except CheckpointError:
            continue
        use(header)
        accepted += 1
    assert accepted > 300


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 4), st.integers(0, 4))
def test_any_bytes_give_a_header_or_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, tensors: int, pairs: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + data)
    try:
        header = read_header(path)
    except CheckpointError:
        return
    use(header)


def test_counts_of_a_large_file_do_not_take_memory(tmp_path: Path) -> None:
    """A sparse file of 8 GB whose header claims long arrays and texts."""
    path = tmp_path / "large.gguf"
    for content in (
        encode({"x": "text"}, {}).replace(struct.pack("<Q", 4) + b"text", struct.pack("<Q", 1 << 32)),
        encode({"x": [1, 2]}, {}).replace(struct.pack("<Q", 2), struct.pack("<Q", 1 << 30)),
        encode({"x": ["", ""]}, {}).replace(struct.pack("<Q", 2), struct.pack("<Q", 1 << 29)),
    ):
        with path.open("wb") as file:
            file.write(content)
            file.truncate(1 << 33)
        with pytest.raises(CheckpointError, match="fit the header"):
            read_header(path)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_values_are_those_of_the_description(kind: str) -> None:
    _, values, nbytes, _ = TYPES[kind]
    generator = np.random.default_rng(0)
    raw = np.concatenate([random_blocks(kind, 5, 3 * values, generator), np.zeros((1, 3 * nbytes), np.uint8)])
    matrix = unpack_matrix("m", kind, (6, 3 * values), lambda: raw)
    plain = [[block_values(kind, row[at : at + nbytes].tobytes()) for at in range(0, len(row), nbytes)] for row in raw]
    expected = np.array(plain).reshape(6, -1)
    found = matrix.dequantize()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7 * np.abs(expected).max())
    order = np.array([3, 0, 1, 5, 4, 2])
    moved = unpack_matrix("m", kind, (6, 3 * values), lambda: raw, order).dequantize()
    np.testing.assert_array_equal(moved, found[order])


@pytest.mark.parametrize("kind", QUANTIZED)
def test_every_bit_of_a_block_means_what_the_description_says(kind: str) -> None:
    """Random bytes: extreme codes, negative scales, signs and top bits. Blocks with infinite scales are left out."""
    _, values, nbytes, places = TYPES[kind]
    raw = np.random.default_rng(1).integers(0, 256, (400, nbytes), np.uint8)
    for place in places:
        raw[:, place + 1] &= 0xBF  # no float16 of 2 or more, so no infinity
    if kind == "MXFP4":
        raw = raw[raw[:, 0] < 200]
    expected = np.array([block_values(kind, row.tobytes()) for row in raw])
    found = unpack_matrix("m", kind, (len(raw), values), lambda: raw).dequantize()
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7 * np.abs(expected).max(1, keepdims=True).max())


def test_nothing_is_read_before_it_is_used(tmp_path: Path) -> None:
    raw = random_blocks("Q4_K", 3, 512, np.random.default_rng(0))
    header = read_header(write(tmp_path, encode({}, {"m": ("Q4_K", (3, 512), raw.tobytes())})))
    tensors = GgufFormat().tensors(header.tensors, {"m": (3, 512)}, "here", False)
    matrix = tensors["m"]
    assert isinstance(matrix, QuantizedTensor)
    parts = [matrix.codes, matrix.scales.values, matrix.biases and matrix.biases.values]
    parts += [part.scale and part.scale.values for part in (matrix.scales, matrix.biases) if part is not None]
    assert len(parts) == 5
    assert all(isinstance(part, LazyArray) for part in parts)
    np.testing.assert_array_equal(matrix.dequantize(), unpack_matrix("m", "Q4_K", (3, 512), lambda: raw).dequantize())
    header.path.write_bytes(header.path.read_bytes()[:-400])
    with pytest.raises(CheckpointError, match="became shorter"):
        matrix.load_codes()


def test_large_matrices_are_unpacked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = random_blocks("Q6_K", 37, 256, np.random.default_rng(0))
    whole = unpack_matrix("m", "Q6_K", (37, 256), lambda: raw).dequantize()
    monkeypatch.setattr("pocketvlm.checkpoint.formats.gguf._CHUNK", 1000)
    np.testing.assert_array_equal(unpack_matrix("m", "Q6_K", (37, 256), lambda: raw).dequantize(), whole)


def test_dense_types_are_mapped_and_vectors_are_never_quantized(tmp_path: Path) -> None:
    bits = np.arange(16, dtype=np.uint16) << 7
    tensors = {
        "f16": ("F16", (4, 4), np.arange(16, dtype=np.float16).tobytes()),
        "bf16": ("BF16", (4, 4), bits.tobytes()),
        "vector": ("Q8_0", (64,), random_blocks("Q8_0", 1, 64, np.random.default_rng(0)).tobytes()),
    }
    header = read_header(write(tmp_path, encode({}, tensors)))
    read = GgufFormat().tensors(header.tensors, {"f16": (4, 4), "bf16": (4, 4), "vector": (64,)}, "here", False)
    assert all(isinstance(tensor, DenseTensor) for tensor in read.values())
    assert read["vector"].shape == (64,)
    assert (read["f16"].dequantize().ravel() == np.arange(16)).all()
    assert (read["bf16"].dequantize().ravel() == (bits.astype(np.uint32) << 16).view(np.float32)).all()


def test_tensors_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    header = read_header(write(tmp_path, GOOD))
    with pytest.raises(TensorError) as error:
        GgufFormat().tensors(header.tensors, {"a": (4, 3), "d": (1,)}, "here", False)
    text = str(error.value)
    assert text.startswith("here: the tensors do not fit: the files are damaged or of another model")
    assert "1 missing: d" in text
    assert "2 unexpected: b, c" in text
    assert "1 of another shape than the metadata asks for: a [3, 4] instead of [4, 3]" in text


@pytest.mark.parametrize(("kind", "name", "nbytes"), [(16, "IQ2_XXS", 66), (29, "IQ1_M", 56), (34, "TQ1_0", 54)])
def test_types_that_are_not_read_are_refused_by_name(tmp_path: Path, kind: int, name: str, nbytes: int) -> None:
    header = read_header(write(tmp_path, encode({}, {"m": (str(kind), (1, 256), bytes(nbytes))})))
    with pytest.raises(ConfigError, match=f"tensor 'm' has the type {name}, which is not supported: .* e.g. Q4_K_M"):
        check_types(header.tensors, str(header.path))


def test_descriptions() -> None:
    assert GgufFormat(kinds=("BF16", "F16", "F32")).describe() is None
    assert GgufFormat(kinds=("F32", "Q4_K", "Q6_K")).describe() == "GGUF Q4_K + Q6_K"


def test_the_fingerprint_covers_header_and_samples(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + bytes(1 << 20))
    first = fingerprint([path])
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns

    def changed(at: int) -> str:
        data = bytearray(GOOD + bytes(1 << 20))
        data[at] ^= 1
        path.write_bytes(bytes(data))
        os.utime(path, ns=times)
        return fingerprint([path])

    assert changed(GOOD.index(b"qwen35")) != first
    assert changed(len(GOOD) + (1 << 20) - 1) != first

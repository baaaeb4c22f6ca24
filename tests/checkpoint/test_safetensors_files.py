"""Safetensors reading and writing: equal to the real library, zero-copy, and a clear error for every damage."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mapped import resident
from safetensors_kit import encode

from pocketvlm.checkpoint.formats.safetensors import leave, map_tensors, read_header, write_tensors
from pocketvlm.errors import CheckpointError, PocketVLMError, TensorError
from pocketvlm.tensors import DenseTensor, LazyArray

GOOD = encode(
    {
        "first": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
        "second": ("BF16", np.arange(5, dtype=np.uint16)),
        "third": ("F16", np.arange(4, dtype=np.float16).reshape(4, 1)),
    }
)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return path


def crafted(folder: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return write(folder, len(text).to_bytes(8, "little") + text + data)


def item(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def library_accepts(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, "np") as file:
            file.keys()
            return True
    except Exception:
        return False


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_equal_the_real_library(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "matrix": torch.randn(7, 5, generator=generator).to(dtype),
        "scalar": torch.tensor(1.5, dtype=dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
        "four.axes": torch.randn(2, 3, 4, 5, generator=generator).to(dtype),
        "special": torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-40], dtype=dtype),
        "ünïcode ✓": torch.ones(1, dtype=dtype),
    }
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    stored = {tensor.name: tensor for tensor in map_tensors(read_header(path).values())}
    assert set(stored) == set(tensors)
    for name, want in tensors.items():
        assert stored[name].shape == tuple(want.shape)
        bits = want.view(torch.int32 if dtype == torch.float32 else torch.int16).numpy()
        assert np.array_equal(stored[name].data.view(bits.dtype), bits)
        if name != "special":
            assert np.array_equal(stored[name].float32().reshape(want.shape), want.float().numpy())
    with pytest.raises(TensorError, match=rf"^{path}: special: 3 of 5 values are infinite or NaN, the first at"):
        stored["special"].float32()


def test_views_are_mapped_and_read_only(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    first, second, third = map_tensors(read_header(path).values())
    for tensor in (first, second, third):
        assert not tensor.data.flags.writeable
        assert not tensor.data.flags.owndata
    assert first.data.dtype == np.float32
    assert second.data.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        first.data[0, 0] = 1


def test_a_misaligned_file_is_mapped_as_it_is(tmp_path: Path) -> None:
    header = {"odd": item(), "next": item("F16", (2,), (4, 8))}
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)
    data = np.float32(2.5).tobytes() + np.array([1, 2], np.float16).tobytes()
    for tensor in map_tensors(read_header(crafted(tmp_path, text, data)).values()):
        assert not tensor.data.flags.aligned
        assert not tensor.data.flags.owndata
        assert tensor.float32().flags.aligned
        assert not tensor.data.flags.writeable
        assert tensor.data.ravel()[0] == (2.5 if tensor.name == "odd" else 1)


def test_data_order_may_differ_from_header_order(tmp_path: Path) -> None:
    path = crafted(tmp_path, {"b": item(offsets=(4, 8)), "a": item(offsets=(0, 4))}, np.float32([1, 2]).tobytes())
    assert {t.name: float(t.data[0]) for t in map_tensors(read_header(path).values())} == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"[]", b"", "not a JSON object"),
        (b"{,}", b"", "header: line 1, column 2: not valid JSON"),
        (b'{"a":1,"a":2}', b"", "'a' appears twice"),
        (b'{"\xff":1}', b"", "byte 2 is not UTF-8"),
        (b'{"a":' + b"[" * 90000, b"", "not"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
        ({"a": 5}, b"", "tensor 'a'.*lacks dtype"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"0" * 4, "tensor 'a'.*lacks dtype"),
        ({"a": item("F31")}, b"0" * 4, "tensor 'a': unknown dtype 'F31'"),
        ({"a": item(["F32"])}, b"0" * 4, "unknown dtype"),
        ({"a": item(shape=[-1])}, b"0" * 4, r"shape \[-1\]"),
        ({"a": item(shape=[True])}, b"0" * 4, r"shape \[True\]"),
        ({"a": item(shape=[1.0])}, b"0" * 4, "shape"),
        ({"a": item(shape=[0, 2**60])}, b"0" * 4, "shape"),
        ({"a": item(shape=3)}, b"0" * 4, "shape 3"),
        ({"a": item(offsets=[0])}, b"0" * 4, "data_offsets"),
        ({"a": item(offsets=[4, 0])}, b"0" * 4, "data_offsets"),
        ({"a": item(offsets=[0, 3])}, b"0" * 3, r"tensor 'a': F32 of shape \[1\] needs 4 bytes.*give 3"),
        ({"a": item("F4", (3,), (0, 2))}, b"0" * 2, "needs 1.5 bytes"),
        ({"a": item(offsets=[0, 4])}, b"0" * 3, "tensor 'a' ends at byte .* cut off"),
        ({"a": item(offsets=[4, 8])}, b"0" * 8, "tensor 'a' leaves a gap"),
        ({"a": item(), "b": item(offsets=[2, 6])}, b"0" * 8, "tensor 'b' overlaps"),
        ({"a": item()}, b"0" * 9, "5 bytes follow"),
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    path = crafted(tmp_path, header, data)
    with pytest.raises(CheckpointError, match=message) as error:
        read_header(path)
    assert str(path) in str(error.value)
    assert not library_accepts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are not a safetensors file"),
        (b"1234567", "7 bytes are not"),
        (b"\0" * 8, "not a safetensors file"),
        (b"\xff" * 200, "header of"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "header of"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_header(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        read_header(tmp_path / "gone.safetensors")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for size in range(len(GOOD)):
        path = write(tmp_path, GOOD[:size])
        with pytest.raises(CheckpointError, match="download or copy it again"):
            read_header(path)
    assert len(read_header(write(tmp_path, GOOD))) == 3


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path: Path) -> None:
    entries = read_header(write(tmp_path, GOOD))
    write(tmp_path, GOOD[:-3])
    with pytest.raises(CheckpointError, match="became shorter"):
        map_tensors(entries.values())
    write(tmp_path, b"")
    with pytest.raises(CheckpointError, match="cannot be mapped"):
        map_tensors(entries.values())


def test_flipped_header_bits_never_crash_and_never_widen_what_the_library_accepts(tmp_path: Path) -> None:
    generator = random.Random(5)
    length = 8 + int.from_bytes(GOOD[:8], "little")
    for _ in range(1500):
        data = bytearray(GOOD)
        for _ in range(generator.randint(1, 3)):
            data[generator.randrange(length)] = generator.choice(
                b'\0 "{}[],:0129-.eE\xff' + bytes([generator.randrange(256)])
            )
        path = write(tmp_path, bytes(data))
        try:
            entries = read_header(path)
        except PocketVLMError:
            continue
        assert library_accepts(path), bytes(data[:length])
        map_tensors(entry for entry in entries.values() if entry.dtype in {"F32", "F16", "BF16"})


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_entries_or_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, framed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data if framed else data)
    try:
        read_header(path)
    except CheckpointError:
        return
    assert library_accepts(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_tensors_that_were_left_can_be_read_again(tmp_path: Path) -> None:
    values = np.arange(40_000, dtype=np.float32).reshape(200, 200)
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode({"a": ("F32", values), "b": ("F32", values * 2)}))
    tensors = map_tensors(read_header(path).values(), sparse=True)
    turned = [tensor.transposed() for tensor in tensors]
    lazy = LazyArray((200, 200), np.dtype(np.float32), lambda array=tensors[0].data: array * 3)
    assert all((tensor.data == factor * values).all() for factor, tensor in enumerate(tensors, 1))
    assert resident(path) > 300_000
    leave([tmp_path / "other.safetensors"])
    assert resident(path) > 300_000
    leave([path])
    assert not resident(path)
    assert (lazy.read() == 3 * values).all()
    leave([path])
    assert not resident(path)
    assert all((tensor.data == (factor * values).T).all() for factor, tensor in enumerate(turned, 1))
    assert all((tensor.data == factor * values).all() for factor, tensor in enumerate(tensors, 1))


def test_what_is_written_is_read_again_by_us_and_by_the_real_library(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensors = {
        "été": DenseTensor("x", "f32", numbers.T),  # not contiguous
        "bits": DenseTensor("bits", "bf16", (numbers.view(np.uint32) >> 16).astype(np.uint16)),
        "lazy": DenseTensor("lazy", "f16", LazyArray((12,), np.dtype(np.float16), lambda: np.arange(12).astype("f2"))),
        "scalar": DenseTensor("scalar", "f32", np.array(1.5, np.float32)),
        "empty": DenseTensor("empty", "f16", np.zeros((0, 3), np.float16)),
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"before")
    write_tensors(path, tensors, {"format": "pt"})
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        library = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    read = {tensor.name: tensor for tensor in map_tensors(read_header(path).values())}
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(read[name].float32(), tensor.float32())
        np.testing.assert_array_equal(library[name].float().numpy(), tensor.float32())
    assert list(tmp_path.iterdir()) == [path]
    assert all(entry.start % 2 == 0 for entry in read_header(path).values())


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be written: No such file"):
        write_tensors(path, {})

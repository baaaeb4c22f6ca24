"""GGUF against the gguf library and llama.cpp: values of every type, headers, files that the library wrote, logits."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.formats

from gguf_kit import QUANTIZED, TYPES, Tensors, encode, random_blocks, write_pair  # noqa: E402
from libraries import Library  # noqa: E402

import pocketvlm  # noqa: E402
from pocketvlm.checkpoint.formats.gguf import unpack_matrix  # noqa: E402
from pocketvlm.checkpoint.gguf.header import TENSOR_TYPES, read_header  # noqa: E402
from pocketvlm.errors import CheckpointError, TensorError  # noqa: E402

gguf = Library("gguf")

# Types that the library itself can quantize.
WRITTEN = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")
PICTURE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


def dequantize(kind: str, rows: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind])


def test_types_and_sizes_of_blocks() -> None:
    sizes = {kind.value: (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert sizes == TENSOR_TYPES


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("kind", QUANTIZED)
def test_values_are_those_of_the_library_bit_for_bit(kind: str, columns: int) -> None:
    _, values, nbytes, _ = TYPES[kind]
    generator = np.random.default_rng(columns)
    rows = [
        generator.integers(0, 256, (2000, columns * nbytes), np.uint8),
        random_blocks(kind, 200, columns * values, generator),
        np.zeros((1, columns * nbytes), np.uint8),
        np.full((1, columns * nbytes), 255, np.uint8),
    ]
    raw = np.concatenate(rows)
    expected = dequantize(kind, raw)
    whole = np.isfinite(expected).all(axis=1)
    assert whole.mean() > 0.7
    found = unpack_matrix("m", kind, (int(whole.sum()), columns * values), lambda: raw[whole]).dequantize()
    np.testing.assert_array_equal(found.view(np.uint32), expected[whole].view(np.uint32))
    for row in raw[~whole][:20]:
        with pytest.raises(TensorError, match="are infinite or NaN: the file is damaged"):
            unpack_matrix("m", kind, (1, columns * values), lambda row=row: row[None]).dequantize()


@pytest.mark.parametrize("kind", WRITTEN)
def test_matrices_that_the_library_quantized(kind: str) -> None:
    values = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    values[3] = 0
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    found = unpack_matrix("m", kind, values.shape, lambda: raw).dequantize()
    np.testing.assert_array_equal(found, dequantize(kind, raw))
    assert np.abs(found - values).std() < {"Q8_0": 0.02, "MXFP4": 0.2}.get(kind, 0.11)


def test_what_is_read_the_library_reads_too(tmp_path: Path) -> None:
    """Headers with flipped bits: what we accept has the same tensors for the library."""
    metadata = {"general.architecture": "qwen35", "n": 7, "x": 0.5, "words": ["a", "bc"], "numbers": [1, 2, 3]}
    tensors = {"a": ("F32", (3, 4), bytes(48)), "b": ("Q8_0", (2, 64), bytes(136)), "c": ("Q6_K", (1, 256), bytes(210))}
    good = encode(metadata, tensors)
    generator, path, accepted = random.Random(3), tmp_path / "x.gguf", 0
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(generator.randint(1, 2)):
            data[generator.randrange(len(good) - 480)] = generator.choice(b"\0\1\2\4\x08\x0a\x20\x7f\xff")
        path.write_bytes(bytes(data))
        try:
            header = read_header(path)
        except CheckpointError:
            continue
        library = gguf.GGUFReader(path)
        found = {tensor.name: tensor for tensor in library.tensors}
        assert set(found) == set(header.tensors)
        for name, entry in header.tensors.items():
            assert found[name].tensor_type.name == entry.dtype
            assert tuple(reversed(found[name].shape.tolist())) == entry.shape
            assert (found[name].data_offset, found[name].n_bytes) == (entry.start, entry.nbytes)
        accepted += 1
    assert accepted > 100


def write_by_library(path: Path, metadata: Mapping[str, Any], tensors: Tensors) -> None:
    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    for key, value in metadata.items():
        if key == "general.architecture":
            continue
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        (writer.add_array if isinstance(value, list) else add[type(value)])(key, value)
    for name, (kind, shape, content) in tensors.items():
        if kind in ("F32", "F16"):
            writer.add_tensor(name, np.frombuffer(content, "f4" if kind == "F32" else "f2").reshape(shape))
        else:
            rows = np.frombuffer(content, np.uint8).reshape(shape[0], -1)
            writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_logits_of_files_that_the_library_wrote(tmp_path: Path, backend: str, mode: str) -> None:
    """Every type once; the dense checkpoint holds the values that the library makes of the blocks."""
    pair = write_pair(tmp_path / "model", dequantize, mode=mode, write=write_by_library)
    picture = {"type": "image", "image": PICTURE}
    found = []
    for path in (pair.text, pair.dense):
        with pocketvlm.load(path, backend=backend, precision="exact") as model:  # type: ignore[arg-type]
            prompts = [[{"type": "text", "text": "What is 12 + 3?"}], [picture, {"type": "text", "text": "And this?"}]]
            found.append([model.logits(model.processor([{"role": "user", "content": parts}])) for parts in prompts])
    for ours, dense in zip(*found, strict=True):
        np.testing.assert_allclose(ours, dense, atol=2e-4 * float(dense.std()))


@pytest.mark.parametrize(
    ("kinds", "heads", "tolerance"),
    [(["F32"], 2, 2e-3), (["F32"], 4, 2e-3), (["F16"], 2, 5e-2), (["Q4_K", "Q6_K"], 2, 0.5), (QUANTIZED, 2, 0.5)],
)
def test_logits_of_llama_cpp(tmp_path: Path, kinds: list[str], heads: int, tolerance: float) -> None:
    """The same file in llama.cpp, which rounds activations to 8 bits where weights are quantized, to 16 with F16.

    The tolerance is relative to the size of the logits. heads: four value heads for two key heads are regrouped.
    """
    pair = write_pair(tmp_path / "model", dequantize, kinds, text={"linear_num_value_heads": heads})
    with pocketvlm.load(pair.text, precision="exact") as model:
        prompt = model.processor([{"role": "user", "content": "What is 12 + 3? नमस्ते"}])
        ours = model.logits(prompt)
        tokenizer = model.processor.tokenizer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = Library("llama_cpp").Llama(str(pair.text), logits_all=True, n_ctx=256, n_threads=2, verbose=False)
        for text in ("Hello wörld 123\n\n  x", "<|im_start|>user\nनमस्ते<|im_end|>", "<image></image> 日本語 🙂"):
            assert peer.tokenize(text.encode(), add_bos=False, special=True) == tokenizer.encode_template(text)
        peer.eval(prompt.ids.tolist())
        theirs = np.array(peer.scores[: len(prompt.ids)])
        peer.close()
    assert np.abs(ours - theirs).max() < tolerance * ours.std()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.97

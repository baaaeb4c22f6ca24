"""Our GGUF files in other hands: the gguf library's values, llama.cpp's choice of types, logits and features."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.formats

from gguf_kit import QUANTIZED, random_blocks  # noqa: E402
from gguf_sources import small_checkpoint, small_tensors, write_files  # noqa: E402
from libraries import Library  # noqa: E402
from llama_kit import Peer, PeerVision, llama_cpp, quantize  # noqa: E402

import pocketvlm  # noqa: E402
from pocketvlm.checkpoint.checkpoint import Checkpoint  # noqa: E402
from pocketvlm.checkpoint.formats.gguf import unpack_matrix  # noqa: E402
from pocketvlm.checkpoint.gguf.header import read_header  # noqa: E402
from pocketvlm.checkpoint.gguf.names import file_name, hub_name  # noqa: E402
from pocketvlm.checkpoint.hub import embedded_directory  # noqa: E402
from pocketvlm.checkpoint.reader import open_checkpoint  # noqa: E402
from pocketvlm.checkpoint.writers.gguf.matrices import as_blocks  # noqa: E402
from pocketvlm.checkpoint.writers.gguf.metadata import FILE_TYPES  # noqa: E402
from pocketvlm.model import expected_tensors, tensor_roles  # noqa: E402
from pocketvlm.quantize.methods import nearest  # noqa: E402
from pocketvlm.quantize.mixtures import MIXTURES  # noqa: E402
from pocketvlm.quantize.recipes import file_label, recipe, schemes  # noqa: E402
from pocketvlm.quantize.tensor_schemes import tensor_scheme  # noqa: E402
from pocketvlm.tensors import Tensor  # noqa: E402

gguf = Library("gguf")

NANO = embedded_directory()
TEXTS = ("Hello wörld 123\n\n  x", "<|im_start|>user\nनमस्ते<|im_end|>", "<image></image> 日本語 🙂")
# llama.cpp has room for the released 70 x 70 positions alone.
RELEASED_POSITIONS = {"image_size": 980, "intermediate_size": 96}


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_bytes_are_those_of_the_library(kind: str) -> None:
    """Matrices that the library quantized: from their fields we make its bytes."""
    values = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    blocks = as_blocks(unpack_matrix("m", kind, values.shape, lambda: raw))
    found = np.concatenate([rows.ravel() for rows in blocks.rows()])
    assert blocks.kind == kind
    np.testing.assert_array_equal(found, raw.ravel())


def test_the_library_reads_the_same_values(tmp_path: Path) -> None:
    checkpoint = small_checkpoint({"num_hidden_layers": 16})
    tensors, kinds = small_tensors(checkpoint.model), {}
    generator = np.random.default_rng(1)
    roles = tensor_roles(checkpoint.model)
    matrices = [name for name, role in roles.items() if role in ("matrix", "tied_embedding")]
    for number, name in enumerate(matrices):
        kind, shape = QUANTIZED[number % len(QUANTIZED)], tensors[name].shape
        rows = random_blocks(kind, shape[0], shape[1], generator)
        tensors[name] = unpack_matrix(name, kind, shape, lambda rows=rows: rows)  # type: ignore[misc]
        kinds[file_name(name)] = kind
    text, vision = write_files(checkpoint, tensors, tmp_path / "out", "Q4_K_M")
    for path in (text, vision):
        reader = gguf.GGUFReader(path)
        for tensor in reader.tensors:
            ours = tensors[hub_name(tensor.name)]
            if tensor.name in kinds:
                assert tensor.tensor_type.name == kinds[tensor.name]
                theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
                np.testing.assert_array_equal(theirs, ours.dequantize())
            assert [*reversed(tensor.shape.tolist())] == [
                side for side in ours.shape if side != 1 or "conv" not in tensor.name
            ]
    fields = gguf.GGUFReader(text).fields
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert fields["tokenizer.ggml.tokens"].contents()[1231] == "<|im_start|>"
    assert fields["general.name"].contents() == "small"


@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize(
    ("tied", "text"),
    [
        (True, {"num_hidden_layers": 16}),
        (True, {"num_hidden_layers": 24, "num_attention_heads": 8, "head_dim": 32}),
        (False, {"num_hidden_layers": 8, "hidden_size": 192, "intermediate_size": 448}),
        (False, {"num_hidden_layers": 8, "intermediate_size": 304}),
    ],
)
def test_types_of_mixtures_are_those_of_llama_cpp(
    tmp_path: Path, tied: bool, text: Mapping[str, Any], importance: bool
) -> None:
    heads = {"linear_key_head_dim": 32, "linear_value_head_dim": 32}
    checkpoint = small_checkpoint({"intermediate_size": 256, **heads, **text}, tie_word_embeddings=tied)
    checkpoint = replace(checkpoint, model=replace(checkpoint.model, vision=None))
    roles = tensor_roles(checkpoint.model)
    (source,) = write_files(checkpoint, small_tensors(checkpoint.model), tmp_path / "f16", "F16")
    widths = {
        file_name(name): shape[1] for name, shape in expected_tensors(checkpoint.model).items() if len(shape) == 2
    }
    for mixture in ["Q4_0", "Q5_0", "Q4_K_M", "IQ4_NL"] if importance else MIXTURES:
        target = tmp_path / f"{mixture}.gguf"
        quantize(source, target, FILE_TYPES[mixture], widths if importance else None)
        theirs = {hub_name(name): entry.dtype for name, entry in read_header(target).tensors.items()}
        ours = recipe(mixture, "gguf", checkpoint.model, roles, importance=importance)
        dense = {name: "F16" if kind == "F16" else "F32" for name, kind in theirs.items()}
        assert theirs == {name: kind or dense[name] for name, kind in ours.items()}, mixture
        target.unlink()


def quantized(checkpoint: Checkpoint, scheme: str, vision: str = "default") -> dict[str, Tensor]:
    """All tensors, rounded to nearest as a scheme says."""
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model))
    chosen = recipe(scheme, "gguf", checkpoint.model, tensor_roles(checkpoint.model), vision=vision)
    return {
        name: tensor if (kind := chosen[name]) is None else nearest(name, tensor.dequantize(), tensor_scheme(kind))
        for name, tensor in tensors.items()
    }


def divergence(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """KL divergence of each row of logits."""
    logs = [part.astype(np.float64) - part.max(1, keepdims=True) for part in (ours, theirs)]
    p, q = (part - np.log(np.exp(part).sum(1, keepdims=True)) for part in logs)
    return np.asarray((np.exp(p) * (p - q)).sum(1))


@pytest.mark.parametrize("scheme", ["F16", "BF16", *schemes("gguf")])
def test_nano_in_llama_cpp(tmp_path: Path, scheme: str) -> None:
    """llama.cpp rounds activations to 8 bits where weights are quantized, and otherwise to the type of the weights.

    With bfloat16, whose mantissa has 8 bits, the mean is 2e-5 with AVX-512's products and 1.2e-4 with AVX2's.
    """
    nano = open_checkpoint(NANO)
    dense = scheme in ("F16", "BF16")
    tensors = nano.tensors(expected_tensors(nano.model)) if dense else quantized(nano, scheme)
    text, _ = write_files(nano, tensors, tmp_path / "out", scheme if dense else file_label(scheme, "gguf"))
    with pocketvlm.load(text, precision="exact") as model:
        prompt = model.processor([{"role": "user", "content": "What is 12 + 3? Write the number as a word."}])
        ours = model.logits(prompt)
        with Peer(text) as peer:
            for line in TEXTS:
                assert peer.tokenize(line) == model.processor.tokenizer.encode_template(line)
            theirs = peer.logits(prompt.ids)
    found = divergence(ours, theirs)
    assert found.mean() < {"F16": 1e-5, "BF16": 3e-4}.get(scheme, 3e-3)
    best, other = ours.argmax(1), theirs.argmax(1)
    rows = np.arange(len(ours))
    assert (ours[rows, best] - ours[rows, other] < 0.1 * ours.std()).all()  # equal but for near ties


@pytest.mark.parametrize(
    ("mode", "label"), [("16x", "F32"), ("16x", "F16"), ("16x", "Q8_0"), ("4x", "F16"), ("4x alone", "BF16")]
)
def test_features_in_llama_cpp(tmp_path: Path, mode: str, label: str) -> None:
    checkpoint = small_checkpoint(vision=RELEASED_POSITIONS, downsample_mode=mode[:3].rstrip())
    vision = checkpoint.model.vision
    assert vision is not None
    if mode == "4x alone":
        checkpoint = replace(checkpoint, model=replace(checkpoint.model, vision=replace(vision, insert_layer_id=None)))
    tensors = small_tensors(checkpoint.model)
    if label == "Q8_0":
        roles = tensor_roles(checkpoint.model)
        chosen = recipe("Q8_0", "gguf", checkpoint.model, roles, vision="Q8_0")
        for name, kind in chosen.items():
            if kind is not None:
                tensors[name] = nearest(name, tensors[name].dequantize(), tensor_scheme(kind))
    text, mmproj = write_files(checkpoint, tensors, tmp_path / "out", label)
    assert mmproj.name == f"mmproj-small-{label}.gguf"
    pixels = np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)
    with PeerVision(text, mmproj) as peer, pocketvlm.load(text, precision="exact") as model:
        prompt = model.processor([{"role": "user", "content": [{"type": "image", "image": pixels}]}])
        ours = model.engine.runner.encode(tuple(view.load() for view in prompt.views))
        theirs = peer.features(pixels)
    assert len(ours) == len(theirs) == 1
    for one, other in zip(map(np.asarray, ours), theirs, strict=True):
        assert one.shape == other.shape
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        assert ((one * other).sum(1) / lengths).min() > 0.999


def test_an_answer_about_a_picture_in_llama_cpp(tmp_path: Path) -> None:
    """The way in which people use both files: a chat handler."""
    from llama_cpp.llama_chat_format import MTMDChatHandler

    checkpoint = small_checkpoint(vision=RELEASED_POSITIONS)
    text, mmproj = write_files(checkpoint, small_tensors(checkpoint.model), tmp_path / "out", "F16")
    with PeerVision(text, mmproj):
        handler = MTMDChatHandler(clip_model_path=str(mmproj), verbose=False, use_gpu=False)
    model = llama_cpp.Llama(str(text), chat_handler=handler, n_ctx=512, n_threads=2, verbose=False)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
    answer = model.create_chat_completion(
        [{"role": "user", "content": content}], max_tokens=4, temperature=0, repeat_penalty=1.0
    )
    assert answer["usage"]["completion_tokens"] > 0
    model.close()

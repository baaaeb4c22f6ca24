"""GGUF models: configuration, tokenizer and logits are those of the checkpoint that the files stand for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_kit import (
    QUANTIZED,
    Pair,
    encode,
    random_blocks,
    tiny_config,
    write_pair,
)
from gguf_metadata import text_metadata, tokenizer_metadata, vision_metadata
from gguf_pair import PICTURE, dequantize, logits, rewritten

import pocketvlm
from pocketvlm.api import processor_for
from pocketvlm.bench.shape import released_config
from pocketvlm.checkpoint.gguf import defaults
from pocketvlm.checkpoint.gguf.header import read_header
from pocketvlm.checkpoint.gguf.settings import generation_config, model_config
from pocketvlm.checkpoint.gguf.tokenizer import tokenizer_source
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import OptionError, PocketVLMError
from pocketvlm.processor.tokenizer import Tokenizer


def same_logits(text: Path, dense: Path, backend: str, **options: Any) -> None:
    """The same logits within the rounding of float32, the order of sums aside."""
    with pocketvlm.load(text, backend=backend, precision="exact") as ours:  # type: ignore[arg-type]
        found = logits(ours, **options)
    with pocketvlm.load(dense, backend=backend, precision="exact") as reference:  # type: ignore[arg-type]
        expected = logits(reference, **options)
    for one, other in zip(found, expected, strict=True):
        assert 0.3 < other.std() < 30
        np.testing.assert_allclose(one, other, atol=2e-4 * float(other.std()))


def test_configurations_are_those_of_the_dense_checkpoint(pair: Pair) -> None:
    ours, dense = open_checkpoint(pair.text), open_checkpoint(pair.dense)
    assert ours.path == pair.text
    assert ours.tensor_files == (pair.text, pair.mmproj)
    assert ours.model.text == dense.model.text
    assert ours.model.vision == dense.model.vision
    assert (ours.model.image_token_id, ours.model.video_token_id) == (1242, 1243)
    assert ours.processor == dense.processor
    assert ours.eos_token_ids == dense.eos_token_ids == (1230, 1232)
    assert ours.generation.temperature == 0.7
    assert ours.generation.do_sample
    assert ours.chat_template == dense.chat_template
    assert ours.parameters == dense.parameters
    assert ours.quantization == f"GGUF {' + '.join(sorted(QUANTIZED))}"
    assert ours.dtypes["F32"] < ours.parameters / 10
    ends = {key: ours.tokenizer_config[key] for key in ("bos_token", "eos_token", "pad_token")}
    assert ends == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_logits_of_every_type(pair: Pair, backend: str) -> None:
    same_logits(pair.text, pair.dense, backend)


@pytest.mark.parametrize("kinds", [["F16"], ["BF16"], ["F32"]])
def test_logits_of_dense_types(tmp_path: Path, kinds: list[str]) -> None:
    pair = write_pair(tmp_path / "model", dequantize, kinds)
    assert open_checkpoint(pair.text).quantization is None
    same_logits(pair.text, pair.dense, "native")


def test_logits_of_a_file_made_for_4x(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "model", dequantize, ["Q8_0"], mode="4x")
    checkpoint = open_checkpoint(pair.text)
    assert checkpoint.processor.downsample_mode == "4x"
    assert checkpoint.model.downsample_modes == ("4x",)
    same_logits(pair.text, pair.dense, "native")
    with pocketvlm.load(pair.text, precision="exact") as model:
        with pytest.raises(OptionError, match="downsample_mode='16x' is not supported by this checkpoint"):
            logits(model, downsample_mode="16x")
        with pocketvlm.load(pair.dense, precision="exact") as dense:
            picture = {"type": "image", "image": PICTURE}
            prompt = dense.processor([{"role": "user", "content": [picture]}], downsample_mode="16x")
        with pytest.raises(PocketVLMError, match="view 0 has downsample_mode '16x', but the vision tower runs 4x"):
            model.generate(prompt)


def test_logits_of_a_quantized_vision_file(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "model", dequantize, ["F16"], vision_kind="Q8_0")
    assert open_checkpoint(pair.text).quantization == "GGUF Q8_0"
    same_logits(pair.text, pair.dense, "native")
    with pocketvlm.load(pair.text) as fast, pocketvlm.load(pair.dense, precision="exact") as dense:
        for one, other in zip(logits(fast), logits(dense), strict=True):
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98


def test_logits_where_value_heads_outnumber_key_heads(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "model", dequantize, ["Q4_K", "Q6_K", "F16"], text={"linear_num_value_heads": 4})
    same_logits(pair.text, pair.dense, "native")


def test_fast_arithmetic_and_its_cache(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvlm.api.about.MIN_CACHED_BYTES", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pocketvlm.load(pair.text, cache=tmp_path / "cache") as model:
            first = logits(model)
        assert len(list((tmp_path / "cache").rglob("*.packed"))) == 2  # weights and tokenizer
        refuse_unpacking(monkeypatch)
        with pocketvlm.load(pair.text, cache=tmp_path / "cache") as model:
            again = logits(model)
    with pocketvlm.load(pair.dense, precision="exact") as model:
        expected = logits(model)
    for one, two, exact in zip(first, again, expected, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.corrcoef(one.ravel(), exact.ravel())[0, 1] > 0.98


def refuse_unpacking(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("values were unpacked although they are cached")

    monkeypatch.setattr("pocketvlm.checkpoint.formats.gguf._unpack_rows", refuse)
    monkeypatch.setattr("pocketvlm.checkpoint.gguf.tokenizer._tokenizer_json", refuse)


def header_of(tmp_path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> Any:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf"
    path.write_bytes(encode(metadata, tensors))
    return read_header(path)


def test_the_released_configuration(tmp_path: Path) -> None:
    released = released_config()
    text, vision = released.text, released.vision
    assert vision is not None
    rows = {f"blk.{number}.attn_norm.weight": ("F32", (0,), b"") for number in range(24)}
    metadata = text_metadata(tiny_config())
    metadata |= {key: value for key, value in text_metadata(released).items() if key.startswith("qwen35.")}
    header = header_of(tmp_path, metadata, {"token_embd.weight": ("F32", (248094, 0), b""), **rows})
    tower = header_of(
        tmp_path,
        vision_metadata(released),
        {"v.position_embd.weight": ("F32", (4900, 0), b""), "v.vit_merger.ln1.weight": ("F32", (0,), b"")},
    )
    found = model_config(header, tower, {"<|image_pad|>": 248056, "<|video_pad|>": 248057}, (248044, 248046))
    assert found.text == text
    assert found.vision == vision
    assert (found.image_token_id, found.video_token_id) == (released.image_token_id, released.video_token_id)


@pytest.mark.parametrize("nextn", [None, 0, 1])
@pytest.mark.parametrize("present", [False, True])
def test_prediction_layers_are_left_out(tmp_path: Path, pair: Pair, nextn: int | None, present: bool) -> None:
    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        metadata["qwen35.block_count"] = 5
        if nextn is not None:
            metadata["qwen35.nextn_predict_layers"] = nextn
        if present:
            tensors["blk.4.nextn.eh_proj.weight"] = ("F32", (4, 8), bytes(128))
            tensors["blk.4.attn_norm.weight"] = ("F32", (256,), bytes(1024))

    checkpoint = open_checkpoint(rewritten(pair, tmp_path, change))
    assert checkpoint.model.text == open_checkpoint(pair.text).model.text
    assert checkpoint.parameters == open_checkpoint(pair.text).parameters


def test_layers_by_name_and_heads_by_layer(tmp_path: Path, pair: Pair) -> None:
    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        metadata["qwen35.attention.recurrent_layers"] = [True, True, True, False]
        metadata["qwen35.attention.head_count_kv"] = [0, 0, 0, 2]
        metadata["general.sampling.temp"] = 0.25
        metadata["general.sampling.top_k"] = 20
        del metadata["qwen35.full_attention_interval"]

    checkpoint = open_checkpoint(rewritten(pair, tmp_path, change))
    assert checkpoint.model.text == open_checkpoint(pair.text).model.text
    assert (checkpoint.generation.temperature, checkpoint.generation.top_k) == (0.25, 20)
    assert generation_config(read_header(pair.text)) == defaults.GENERATION


def test_an_output_matrix_of_its_own(tmp_path: Path, pair: Pair) -> None:
    rows = random_blocks("Q6_K", 1280, 256, np.random.default_rng(9), 0.1)

    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["output.weight"] = ("Q6_K", (1280, 256), rows.tobytes())

    text = rewritten(pair, tmp_path, change)
    assert not open_checkpoint(text).model.text.tie_word_embeddings
    with pocketvlm.load(text, precision="exact") as ours, pocketvlm.load(pair.text, precision="exact") as tied:
        found, other = logits(ours)[0], logits(tied)[0]
        head = np.asarray(ours.engine.model.weights.lm_head.data)
    np.testing.assert_array_equal(head, dequantize("Q6_K", rows))
    assert np.abs(found - other).max() > 0.1


def test_scales_of_whole_nvfp4_matrices(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "model", dequantize, ["NVFP4"])

    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["blk.0.ffn_up.scale"] = ("F32", (1,), np.float32(3).tobytes())
        tensors["blk.0.ffn_up.input_scale"] = ("F32", (1,), np.float32(9).tobytes())

    name, shape = "model.language_model.layers.0.mlp.up_proj.weight", (512, 256)
    checkpoint = open_checkpoint(rewritten(pair, tmp_path, change))
    expected = {key: entry.shape for key, entry in checkpoint.entries.items()}
    expected |= {key: (*side[:1], 1, *side[1:]) for key, side in expected.items() if "conv1d" in key}
    found = checkpoint.tensors(expected)[name]
    assert found.shape == shape
    np.testing.assert_array_equal(found.dequantize(), pair.tensors[name] * np.float32(3))


TEXTS = [
    "Hello, world!  It's 2026: 1+1=2.\n\n\tWe'll   see\r\n",
    "नमस्ते दुनिया, ខ្មែរ ภาษาไทย",
    "日本語と中文、한국어. 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🙂👩‍👩‍👧",
    "ﬁ Å e\u0301 ½ — “quoted” …",
    "שלום עולם العربية Ελληνικά Русский",
    "<|im_start|>user\n<image></image><tool_call>{}</tool_call><think>\n</think><|im_end|>\n<|image_pad|>",
    "[PAD5] <|not_a_token|> \x00\x7f\x85 a\u00a0b",
]


@pytest.mark.parametrize("spare", [0, 3000])
def test_token_ids_are_those_of_tokenizer_json(tmp_path: Path, spare: int) -> None:
    """spare: vocabulary with a hole of this size before the control tokens, as padded vocabularies have them."""
    tokenizers = pytest.importorskip("tokenizers")
    content = json.loads((embedded_directory() / "tokenizer.json").read_text())
    plain = tokenizers.Tokenizer.from_str(json.dumps(content))
    for token in content["added_tokens"]:
        token["id"] += spare
    header = header_of(tmp_path, tokenizer_metadata(content, 1280 + spare + 7), {})
    ours = Tokenizer.from_files(tokenizer_source(header))
    shift = {id_: id_ + spare for id_ in plain.get_added_tokens_decoder()}
    for text in TEXTS:
        ids = [shift.get(id_, id_) for id_ in plain.encode(text, add_special_tokens=False).ids]
        assert ours.encode_template(text) == ids
        assert ours.decode(ids) == plain.decode(plain.encode(text, add_special_tokens=False).ids)
    reference = Tokenizer.from_files(embedded_directory() / "tokenizer.json")
    assert {name: id_ + spare for name, id_ in reference.control_ids.items()} == ours.control_ids
    skipped = {id_ for id_ in ours.control_ids.values() if ours.is_skipped(id_)}
    assert skipped == {id_ + spare for id_ in reference.control_ids.values() if reference.is_skipped(id_)}
    assert ours.token_bytes(1230 + spare - 1) == (b"" if spare else reference.token_bytes(1229))


def test_prompts_are_those_of_the_dense_checkpoint(pair: Pair) -> None:
    ours, dense = (processor_for(open_checkpoint(path, weights=False)) for path in (pair.text, pair.dense))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "Was ist das?"}]},
    ]
    one, other = ours(messages), dense(messages)
    assert one.text == other.text
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.views[0].load().patches, other.views[0].load().patches)

"""Whole GGUF files: copies of files that the tests' own writer made, dense tensors, metadata, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_kit import CONFIG, QUANTIZED, Pair, gguf_name, in_file, write_pair
from gguf_metadata import text_metadata, vision_metadata
from gguf_pair import dequantize
from gguf_sources import grouped, small_checkpoint, small_tensors, write_files

from pocketvlm.checkpoint.gguf.header import ArrayValue, Header, read_header
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.checkpoint.writers.gguf.container import Item, has_content, write_gguf
from pocketvlm.checkpoint.writers.gguf.metadata import model_name
from pocketvlm.checkpoint.writers.gguf.writer import GgufWriter
from pocketvlm.errors import CheckpointError, ConfigError, TensorError
from pocketvlm.families import MINICPMV4_7
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.tensors import DenseTensor, float32_to_bfloat16
from pocketvlm.types import TokenizerSource

NANO = embedded_directory()
EXCHANGED = ("v.patch_embd.weight", "v.position_embd.weight")


def content(header: Header) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    data = header.path.read_bytes()
    return {
        name: (entry.dtype, entry.shape, data[entry.start : entry.start + entry.nbytes])
        for name, entry in header.tensors.items()
    }


def plain(header: Header, key: str) -> Any:
    """A value of the metadata, arrays as lists."""
    value = header.metadata.get(key)
    if not isinstance(value, ArrayValue):
        return value
    numbers = header.numbers(key) if value.kind != 8 else None
    return header.strings(key) if numbers is None else numbers.tolist()


def copied(text: Path, directory: Path, label: str = "Q4_K_M") -> tuple[Path, ...]:
    checkpoint = open_checkpoint(text)
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model))
    return write_files(checkpoint, tensors, directory, label)


@pytest.mark.parametrize(("heads", "mode"), [(2, "16x"), (4, "16x"), (2, "4x")])
def test_a_copy_of_a_file_has_its_bytes(tmp_path: Path, heads: int, mode: str) -> None:
    """All types, in files that share no code with reader and writer; with four heads they are in another order."""
    text = {"linear_num_value_heads": heads}
    pair = write_pair(tmp_path / "model", dequantize, mode=mode, text=text, vision_kind="Q8_0")
    files = copied(pair.text, tmp_path / "copy")
    assert [path.name for path in files] == ["tiny-Q4_K_M.gguf", "mmproj-tiny-Q8_0.gguf"]
    for path, original in zip(files, (pair.text, pair.mmproj), strict=True):
        wanted, found = content(read_header(original)), content(read_header(path))
        assert found.keys() == wanted.keys()
        for name, (kind, shape, data) in wanted.items():
            if name in EXCHANGED:  # F16 and F32 the other way round: as llama.cpp's converter has them
                types = [np.dtype(np.float16 if dtype == "F16" else np.float32) for dtype in (kind, found[name][0])]
                assert types[0] != types[1]
                values = [np.frombuffer(part, of) for part, of in zip((data, found[name][2]), types, strict=True)]
                np.testing.assert_array_equal(*values)
                continue
            assert found[name][:2] == (kind, shape), name
            if name.endswith("ssm_a"):  # -exp(log(-x))
                values = [np.frombuffer(part, np.float32) for part in (data, found[name][2])]
                np.testing.assert_allclose(values[1], values[0], rtol=3e-7)
            else:
                assert found[name][2] == data, name


def test_metadata_are_those_of_a_converter(pair: Pair, tmp_path: Path) -> None:
    files = copied(pair.text, tmp_path / "copy")
    config = open_checkpoint(pair.text).model
    for path, wanted in zip(files, (text_metadata(config), vision_metadata(config)), strict=True):
        header = read_header(path)
        assert {key: plain(header, key) for key in wanted} == wanted
        general = {"general.name": "tiny", "general.basename": "tiny", "general.quantization_version": 2}
        assert {key: header.metadata[key] for key in general} == general
        assert header.metadata["general.size_label"] in ("1M", "2M", "3M")
        assert all(entry.start % 32 == 0 for entry in header.tensors.values())


@pytest.mark.parametrize("label", ["F32", "F16", "BF16", "Q4_K_M"])
def test_nano_reads_back_as_it_was(tmp_path: Path, label: str) -> None:
    nano = open_checkpoint(NANO)
    expected = expected_tensors(nano.model)
    tensors = nano.tensors(expected)
    seen: list[tuple[int, int]] = []
    roles = tensor_roles(nano.model)
    (tmp_path / "out").mkdir()
    files = GgufWriter().write(nano, tensors, roles, tmp_path / "out", label, lambda *counts: seen.append(counts))
    vision = label if label in ("F32", "BF16") else "F16"
    assert [path.name for path in files] == [f"nano-{label}.gguf", f"mmproj-nano-{vision}.gguf"]
    assert (
        seen[-1][0]
        == seen[-1][1]
        == sum(entry.nbytes for file in files for entry in read_header(file).tensors.values())
    )
    size = sum(path.stat().st_size for path in files)
    if label == "BF16":
        assert size < GgufWriter().nbytes(tensors, roles) < size + (1 << 25)
    again = open_checkpoint(files[0])
    assert again.processor == nano.processor
    assert again.generation == replace(nano.generation, eos_token_ids=())
    assert again.model == replace(nano.model, eos_token_ids=again.eos_token_ids)
    assert set(again.eos_token_ids) == set(nano.eos_token_ids)
    assert again.chat_template == nano.chat_template
    ours, theirs = (json.loads(source.tokenizer.text()) for source in (nano, again))
    assert theirs["added_tokens"] == ours["added_tokens"]
    assert theirs["model"]["vocab"].items() >= ours["model"]["vocab"].items()
    assert [" ".join(merge) for merge in theirs["model"]["merges"]] == [" ".join(m) for m in ours["model"]["merges"]]
    for name, tensor in again.tensors(expected).items():
        exact = tensors[name].dequantize()
        if name.endswith("A_log"):
            np.testing.assert_allclose(tensor.dequantize(), exact, atol=3e-7)
        elif in_file(name, exact) is not exact:
            np.testing.assert_array_equal(tensor.dequantize() + np.float32(1), exact + np.float32(1), err_msg=name)
        elif label in ("F32", "BF16") or "language_model" in name:
            np.testing.assert_allclose(tensor.dequantize(), exact, atol=2**-25, err_msg=name)


def test_values_in_the_file_are_those_of_a_converter(tmp_path: Path) -> None:
    checkpoint = small_checkpoint()
    tensors = small_tensors(checkpoint.model)
    found = {}
    for path in write_files(checkpoint, tensors, tmp_path / "out"):
        found |= content(read_header(path))
    assert len(found) == len(tensors)
    for name, tensor in tensors.items():
        kind, _, data = found[gguf_name(name)]
        assert kind == "F32"
        np.testing.assert_array_equal(np.frombuffer(data, np.float32), in_file(name, tensor.dequantize()).ravel())


def test_a_head_of_its_own_and_a_model_without_vision(tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tie_word_embeddings=False)
    checkpoint = replace(checkpoint, model=replace(checkpoint.model, vision=None))
    files = write_files(checkpoint, small_tensors(checkpoint.model), tmp_path / "out")
    assert [path.name for path in files] == ["small-F32.gguf"]
    assert "output.weight" in read_header(files[0]).tensors
    again = open_checkpoint(files[0]).model
    assert (again.vision, again.text) == (None, checkpoint.model.text)


def test_a_tower_for_4x_alone(tmp_path: Path) -> None:
    checkpoint = small_checkpoint(downsample_mode="4x")
    vision = checkpoint.model.vision
    assert vision is not None
    checkpoint = replace(checkpoint, model=replace(checkpoint.model, vision=replace(vision, insert_layer_id=None)))
    files = write_files(checkpoint, small_tensors(checkpoint.model), tmp_path / "out")
    header = read_header(files[1])
    assert header.metadata["clip.vision.projector.scale_factor"] == 2
    assert "clip.vision.wa_layer_indexes" not in header.metadata
    again = open_checkpoint(files[0]).model
    assert (again.vision, again.downsample_modes) == (checkpoint.model.vision, ("4x",))


def test_layers_out_of_the_usual_order(tmp_path: Path) -> None:
    kinds = ["full_attention", "linear_attention", "linear_attention", "full_attention"]
    checkpoint = small_checkpoint({"layer_types": kinds})
    files = write_files(checkpoint, small_tensors(checkpoint.model), tmp_path / "out")
    assert plain(read_header(files[0]), "qwen35.attention.recurrent_layers") == [False, True, True, False]
    assert open_checkpoint(files[0]).model.text == checkpoint.model.text


def test_values_beyond_float16_are_bfloat16(tmp_path: Path) -> None:
    checkpoint = small_checkpoint()
    tensors = small_tensors(checkpoint.model)
    names = ["model.language_model.layers.0.mlp.up_proj.weight", "model.vision_tower.encoder.layers.0.mlp.fc1.weight"]
    for name in [*names, "model.vision_tower.embeddings.patch_embedding.weight"]:
        values = tensors[name].dequantize().copy()
        values.ravel()[7] = 1e5
        tensors[name] = DenseTensor(name, "bf16", float32_to_bfloat16(values))
    kinds = {}
    for path in write_files(checkpoint, tensors, tmp_path / "out", "F16"):
        kinds |= {name: entry.dtype for name, entry in read_header(path).tensors.items()}
    assert [kinds[gguf_name(name)] for name in names] == ["BF16", "BF16"]
    assert kinds["v.patch_embd.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == "F16"


@pytest.mark.parametrize("label", ["F16", "F32"])
def test_damaged_values_are_refused(tmp_path: Path, label: str) -> None:
    checkpoint = small_checkpoint()
    tensors = small_tensors(checkpoint.model)
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    values = tensors[name].dequantize().copy()
    values[3, 5] = np.nan
    tensors[name] = DenseTensor(name, "f32", values, "a file")
    with pytest.raises(TensorError, match=rf"a file: {name}: 1 of \d+ values are infinite or NaN"):
        write_files(checkpoint, tensors, tmp_path / "out", label)


def test_values_beyond_bfloat16_are_refused(tmp_path: Path) -> None:
    checkpoint = small_checkpoint()
    tensors = small_tensors(checkpoint.model)
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    values = np.full(tensors[name].shape, 3.4028e38, np.float32)
    tensors[name] = DenseTensor(name, "f32", values)
    with pytest.raises(TensorError, match=f"{name}: has values beyond the range of BF16"):
        write_files(checkpoint, tensors, tmp_path / "out", "BF16")


def test_models_that_gguf_cannot_describe_are_refused(tmp_path: Path) -> None:
    checkpoint = small_checkpoint()
    tensors = small_tensors(checkpoint.model)
    other = replace(checkpoint, model=replace(checkpoint.model, family=MINICPMV4_7))
    with pytest.raises(ConfigError, match=r"positions have three dimensions, as MiniCPM-V 4\.7 has them: use another"):
        write_files(other, tensors, tmp_path / "a")
    twice = replace(checkpoint, model=replace(checkpoint.model, merger_times=2))
    with pytest.raises(ConfigError, match="merger_times=2: GGUF files have one merger"):
        write_files(twice, tensors, tmp_path / "b")
    wide = replace(
        checkpoint, model=replace(checkpoint.model, text=replace(checkpoint.model.text, linear_value_head_dim=64))
    )
    with pytest.raises(ConfigError, match="linear_value_head_dim=64 is not linear_key_head_dim=128"):
        write_files(wide, tensors, tmp_path / "c")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def changed_tokenizer(**parts: Any) -> TokenizerSource:
    data = json.loads((NANO / "tokenizer.json").read_text()) | parts
    return TokenizerSource("tokenizer.json", bytes, lambda: json.dumps(data).encode())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": None}, "cuts text into words in a way that llama.cpp has no name for"),
        (
            {"pre_tokenizer": {"type": "ByteLevel"}},
            "cuts text into words in a way that llama.cpp has no name for: None",
        ),
        ({"model": {"type": "Unigram"}}, "is no tokenizer of byte pairs"),
        (
            {"added_tokens": [{"content": "<x>", "id": 1280, "special": True}]},
            "has the token id 1280, but the embedding has only 1280 rows",
        ),
    ],
)
def test_tokenizers_that_gguf_cannot_hold_are_refused(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    checkpoint = replace(small_checkpoint(), tokenizer=changed_tokenizer(**parts))
    with pytest.raises(CheckpointError, match=f"tokenizer.json: {message}.*: use another format, such as native"):
        write_files(checkpoint, small_tensors(checkpoint.model), tmp_path / "out")


def test_only_matrices_may_be_quantized(tmp_path: Path) -> None:
    checkpoint = small_checkpoint()
    name = "model.vision_tower.embeddings.position_embedding.weight"
    tensor = grouped(4, 32, (49, 64))
    message = "GGUF files have quantized matrices alone: leave the tensor dense"
    assert message in (GgufWriter().problem(name, "position_embedding", tensor, checkpoint.model) or "")
    assert GgufWriter().problem("x", "matrix", tensor, checkpoint.model) is None
    with pytest.raises(TensorError, match=f"a file: m.weight: {message}"):
        write_files(checkpoint, {**small_tensors(checkpoint.model), name: tensor}, tmp_path / "out")


def test_heads_that_groups_do_not_divide_are_refused(tmp_path: Path) -> None:
    """Four value heads of 128 for two key heads: the file has the columns of out_proj in another order."""
    checkpoint = small_checkpoint({"linear_num_value_heads": 4})
    tensors = small_tensors(checkpoint.model)
    name = "model.language_model.layers.0.linear_attn.out_proj.weight"
    tensors[name] = grouped(4, 256, (256, 512), zeros="middle")
    with pytest.raises(TensorError, match="another order of heads, which groups of 256 columns do not allow"):
        write_files(checkpoint, tensors, tmp_path / "a")
    tensors[name] = grouped(4, 64, (256, 512), zeros="middle")
    files = write_files(checkpoint, tensors, tmp_path / "b", "Q4_0")
    again = open_checkpoint(files[0]).tensors(expected_tensors(checkpoint.model))
    np.testing.assert_array_equal(again[name].dequantize(), tensors[name].dequantize())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/MiniCPM-V-4.6", "MiniCPM-V-4.6"),
        ("/x/MiniCPM-V-4.6-Q4_K_M.gguf", "MiniCPM-V-4.6"),
        ("/x/MiniCPM-V-4.6-int4-g64", "MiniCPM-V-4.6"),
        ("/hub/models--openbmb--MiniCPM-V-4.6/snapshots/0123abc", "MiniCPM-V-4.6"),
        ("/x/MiniCPM-V-4.6-Thinking.gguf", "MiniCPM-V-4.6-Thinking"),
    ],
)
def test_files_are_named_after_the_model(path: str, name: str) -> None:
    assert model_name(Path(path)) == name


def test_all_types_are_tried_here() -> None:
    assert CONFIG["text_config"]["hidden_size"] % 256 == 0
    assert len(QUANTIZED) == 14


def test_a_full_disk_is_an_error_of_the_library(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"/dev/full: cannot be written: No space left on device: make room, or choose"
    ):
        write_gguf(Path("/dev/full"), {"general.name": "x"}, [], lambda count: None)


def test_the_content_of_a_file_is_compared(tmp_path: Path) -> None:
    data = np.arange(6, dtype=np.float32)
    items = [Item("a", "F32", (6,), 24, lambda: [data[:2], data[2:]])]
    path = tmp_path / "a.gguf"
    write_gguf(path, {"general.name": "x"}, items, lambda count: None)
    assert has_content(path, {"general.name": "x"}, items)
    assert not has_content(path, {"general.name": "y"}, items)
    assert not has_content(tmp_path / "b.gguf", {"general.name": "x"}, items)
    data[5] = 0
    assert not has_content(path, {"general.name": "x"}, items)

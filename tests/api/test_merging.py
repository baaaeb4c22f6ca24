"""Merged checkpoints hold W + scale * update, rounded once, and everything else as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import PREFIX, factors, write_folder
from gguf_kit import TYPES, write_pair
from safetensors_kit import write_json
from writer_kit import SHAPES, quantized, write, write_source

from pocketvlm.api.merging import merge_adapter
from pocketvlm.checkpoint.formats.gguf import unpack_matrix
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import CheckpointError, OptionError, TensorError
from pocketvlm.model import expected_tensors
from pocketvlm.tensors import DenseTensor, Tensor, bfloat16_to_float32, float32_to_bfloat16

Q = "model.language_model.layers.3.self_attn.q_proj"
MODULES = (Q, "model.language_model.layers.0.linear_attn.in_proj_b", "model.vision_tower.encoder.layers.0.mlp.fc1")
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
EMBED = PREFIX + EMBEDDING.removesuffix(".weight")
NORM = "model.language_model.norm.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "MiniCPM-V-4.6")


def tensors_of(path: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(path)
    return checkpoint.tensors(expected_tensors(checkpoint.model))


def rounded(values: np.ndarray) -> np.ndarray:
    return bfloat16_to_float32(float32_to_bfloat16(np.ascontiguousarray(values, np.float32)))


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def update(state: dict[str, np.ndarray], module: str, scale: float) -> np.ndarray:
    a, b = (state[f"{PREFIX}{module}.lora_{half}.weight"] for half in "AB")
    return scale * b @ a


def assert_merged(out: Path, base: dict[str, Tensor], expected: dict[str, np.ndarray]) -> None:
    """expected: the changed tensors in float32; at a tie of rounding the neighbour is right too."""
    found = tensors_of(out)
    for name, tensor in found.items():
        assert isinstance(tensor, DenseTensor)
        assert tensor.dtype == "bf16"
        if name in expected:
            exact = rounded(expected[name])
            error = np.abs(tensor.dequantize().reshape(exact.shape) - exact)
            assert (error <= np.abs(exact) * 2.0**-7).all()
            assert (error > 0).mean() < 0.001
            assert not np.array_equal(exact, base[EMBEDDING if name == HEAD else name].dequantize())
        else:
            assert np.array_equal(tensor.dequantize(), rounded(base[name].dequantize())), name


@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
def test_updates_are_added_with_their_scale(source: Path, tmp_path: Path, scale: float) -> None:
    state = factors(MODULES, SHAPES)
    folder = write_folder(tmp_path / "a", state, alpha_pattern={"q_proj": 4})
    calls: list[tuple[str, int, int]] = []
    result = merge_adapter(source, folder, tmp_path / "out", scale=scale, progress=lambda *call: calls.append(call))
    base = tensors_of(source)
    scales = {module: scale * (1.0 if module == Q else 2.0) for module in MODULES}
    expected = {
        f"{module}.weight": base[f"{module}.weight"].dequantize() + update(state, module, scales[module])
        for module in MODULES
    }
    assert_merged(tmp_path / "out", base, expected)
    assert (result.changes.updated, result.changes.replaced, result.changes.untied, result.dequantized) == (
        3,
        0,
        False,
        None,
    )
    assert tmp_path / "out" / "model.safetensors" in result.paths
    assert calls[-1][0] == "write"
    assert calls[-1][1] == calls[-1][2]
    for name in ("tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert json.loads(json.dumps(result.to_dict()))["updated"] == 3


def test_replaced_tensors_stand_in_with_updates_on_top(source: Path, tmp_path: Path) -> None:
    norm, matrix = array(*SHAPES[NORM]), array(*SHAPES[f"{Q}.weight"])
    state = factors([Q], SHAPES) | {f"{PREFIX}{NORM}": norm, f"{PREFIX}{Q}.weight": matrix}
    result = merge_adapter(source, write_folder(tmp_path / "a", state), tmp_path / "out")
    assert_merged(tmp_path / "out", tensors_of(source), {NORM: norm, f"{Q}.weight": matrix + update(state, Q, 2.0)})
    assert (result.changes.updated, result.changes.replaced) == (1, 2)


def test_the_patch_embedding_is_merged_as_a_convolution(source: Path, tmp_path: Path) -> None:
    name = "model.vision_tower.embeddings.patch_embedding"
    out, *kernel = SHAPES[f"{name}.weight"]
    a, b = array(4, *kernel), array(out, 4, 1, 1, seed=1)
    folder = write_folder(tmp_path / "a", {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b})
    merge_adapter(source, folder, tmp_path / "out")
    base = tensors_of(source)
    changed = base[f"{name}.weight"].dequantize() + 2 * np.einsum("or,rcij->ocij", b[:, :, 0, 0], a)
    assert_merged(tmp_path / "out", base, {f"{name}.weight": changed})


def is_tied(directory: Path) -> bool:
    config = json.loads((directory / "config.json").read_text())
    tied: bool = config["tie_word_embeddings"]
    assert config["text_config"].get("tie_word_embeddings", tied) == tied
    return tied


def test_an_adapted_embedding_is_untied_from_the_head(source: Path, tmp_path: Path) -> None:
    """As peft computes it: the head stays what the embedding was."""
    vocabulary, hidden = SHAPES[EMBEDDING]
    first, second = array(4, vocabulary), array(hidden, 4, seed=1)
    state = {f"{EMBED}.lora_embedding_A": first, f"{EMBED}.lora_embedding_B": second}
    result = merge_adapter(source, write_folder(tmp_path / "a", state), tmp_path / "out")
    assert result.changes.untied
    assert not is_tied(tmp_path / "out")
    base = tensors_of(source)
    assert_merged(
        tmp_path / "out",
        {**base, HEAD: base[EMBEDDING]},
        {EMBEDDING: base[EMBEDDING].dequantize() + 2 * (second @ first).T},
    )


def test_a_replaced_head_is_untied_from_the_embedding(source: Path, tmp_path: Path) -> None:
    head = array(*SHAPES[EMBEDDING])
    result = merge_adapter(source, write_folder(tmp_path / "a", {f"{PREFIX}{HEAD}": head}), tmp_path / "out")
    assert result.changes.untied
    assert not is_tied(tmp_path / "out")
    assert_merged(tmp_path / "out", tensors_of(source), {HEAD: head})


def test_what_changes_head_and_embedding_alike_leaves_them_tied(source: Path, tmp_path: Path) -> None:
    rows, base = array(2, SHAPES[EMBEDDING][1]), tensors_of(source)
    tokens = write_folder(
        tmp_path / "a", {f"{EMBED}.token_adapter.trainable_tokens_delta": rows}, trainable_token_indices=[5, 0]
    )
    assert not merge_adapter(source, tokens, tmp_path / "rows").changes.untied
    assert is_tied(tmp_path / "rows")
    expected = base[EMBEDDING].dequantize().copy()
    expected[[5, 0]] = rows
    assert_merged(tmp_path / "rows", base, {EMBEDDING: expected})
    both = {f"{PREFIX}{name}": array(*SHAPES[EMBEDDING]) for name in (EMBEDDING, HEAD)}
    assert not merge_adapter(source, write_folder(tmp_path / "b", both), tmp_path / "both").changes.untied
    assert is_tied(tmp_path / "both")
    assert_merged(tmp_path / "both", base, {EMBEDDING: both[f"{PREFIX}{HEAD}"]})


def test_a_quantized_base_is_merged_through_its_dequantized_weights(source: Path, tmp_path: Path) -> None:
    base = quantized(source, "int4-g64")
    write("awq", source, base, tmp_path / "awq")
    state = factors(MODULES, SHAPES)
    result = merge_adapter(tmp_path / "awq", write_folder(tmp_path / "a", state), tmp_path / "out")
    assert result.dequantized is not None
    assert "AWQ" in result.dequantized
    changed = {
        f"{module}.weight": base[f"{module}.weight"].dequantize() + update(state, module, 2.0) for module in MODULES
    }
    assert_merged(tmp_path / "out", dict(base), changed)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_gguf_pair_is_a_base(tmp_path: Path) -> None:
    def dequantize(kind: str, rows: np.ndarray) -> np.ndarray:
        _, values, nbytes, _ = TYPES[kind]
        return unpack_matrix("m", kind, (len(rows), rows.shape[1] // nbytes * values), lambda: rows).dequantize()

    pair = write_pair(tmp_path / "pair", dequantize, ["Q4_0", "Q8_0"])
    state = factors([Q], SHAPES) | {f"{PREFIX}{HEAD}": array(*SHAPES[EMBEDDING])}
    folder = write_folder(tmp_path / "a", state)
    write_json(folder / "pocketvlm.json", {"version": 1, "options": {"downsample_mode": "4x"}})
    result = merge_adapter(pair.text, folder, tmp_path / "out")
    assert result.dequantized is not None
    assert result.changes.untied
    assert not is_tied(tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").processor.downsample_mode == "4x"
    base = tensors_of(pair.text)
    changed = base[f"{Q}.weight"].dequantize() + update(state, Q, 2.0)
    assert_merged(tmp_path / "out", base, {f"{Q}.weight": changed, HEAD: state[f"{PREFIX}{HEAD}"]})


def test_options_go_into_the_settings_of_the_checkpoint(source: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    options = {"downsample_mode": "4x", "max_slice_nums": 3, "slice_mode": False, "use_image_id": False}
    write_json(folder / "pocketvlm.json", {"version": 1, "options": {**options, "stack_frames": 3, "fps": 2.0}})
    result = merge_adapter(source, folder, tmp_path / "out")
    assert result.changes.saved == options
    assert result.changes.left == {"stack_frames": 3, "fps": 2.0}
    assert result.changes.for_videos == {"max_slice_nums": 3}
    merged, before = open_checkpoint(tmp_path / "out"), open_checkpoint(source)
    assert {name: getattr(merged.processor, name) for name in options} == options
    assert merged.processor.scale_resolution == before.processor.scale_resolution
    assert merged.model.downsample_mode == "4x"  # the reference's model reads the mode from config.json


def test_options_go_into_the_file_that_is_read(source: Path, tmp_path: Path) -> None:
    """Newer tools save a section of processor_config.json, which wins."""
    write_source(tmp_path / "in")
    settings = {"max_slice_nums": 9, "patch_size": 14, "image_processor_type": "X"}
    write_json(tmp_path / "in" / "processor_config.json", {"processor_class": "Y", "image_processor": settings})
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    write_json(folder / "pocketvlm.json", {"version": 1, "options": {"max_slice_nums": 2}})
    merge_adapter(tmp_path / "in", folder, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "processor_config.json").read_text())
    assert found == {"processor_class": "Y", "image_processor": {**settings, "max_slice_nums": 2}}
    assert open_checkpoint(tmp_path / "out").processor.max_slice_nums == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scale": 0}, "scale=0"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"scale": 0.5}, "scale=0.5.*replaces 1 tensors.*norm.weight.*give 1"),
    ],
)
def test_scales_that_mean_nothing_are_refused(
    source: Path, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES) | {f"{PREFIX}{NORM}": array(*SHAPES[NORM])})
    with pytest.raises(OptionError, match=words):
        merge_adapter(source, folder, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_names_are_checked_before_the_work(source: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    with pytest.raises(OptionError, match="exists already"):
        merge_adapter(source, folder, folder)
    with pytest.raises(OptionError, match=r"is a directory.*--merge-adapter"):
        merge_adapter(source, folder, tmp_path / "out.gguf")
    with pytest.raises(CheckpointError, match="no such folder"):
        merge_adapter(source, tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_beyond_the_dtype_are_refused_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    state = factors([Q], SHAPES)
    state[f"{PREFIX}{Q}.lora_B.weight"][:] = 3e38
    with pytest.raises(TensorError, match=f"{Q}.weight: the merged values are larger than bf16 holds"):
        merge_adapter(source, write_folder(tmp_path / "a", state), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]

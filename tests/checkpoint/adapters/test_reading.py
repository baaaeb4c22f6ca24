"""Adapters of each tool become updates and replacements under the checkpoint's names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import PREFIX, State, factors, stored, write_folder
from safetensors_kit import write_json
from writer_kit import SHAPES

from pocketvlm.checkpoint.adapters import read_adapter
from pocketvlm.tensors import DenseTensor

Q = "model.language_model.layers.3.self_attn.q_proj"
QKV = "model.language_model.layers.0.linear_attn.in_proj_qkv"
FC1 = "model.vision_tower.encoder.layers.0.mlp.fc1"
MODULES = (Q, QKV, FC1, "model.vision_tower.vit_merger.linear_1", "model.merger.mlp.0.linear_1")
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
BASE = {name: DenseTensor(name, "f32", np.zeros(shape, np.float32)) for name, shape in SHAPES.items()}


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def renamed(change: Callable[[str], str]) -> State:
    return {change(key): values for key, values in factors(MODULES, SHAPES).items()}


# What the tools, their older versions, and dumps of a state dict call the same tensors.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "peft": lambda key: key,
    "with the adapter's name": lambda key: key.replace(".weight", ".default.weight"),
    "with another name": lambda key: key.replace(".weight", ".invoices.weight"),
    "older transformers": lambda key: key.replace("model.language_model.", "language_model.model."),
    "without peft's prefix": lambda key: key.removeprefix(PREFIX),
    "fsdp": lambda key: key.replace("self_attn.", "_fsdp_wrapped_module.self_attn."),
    "compiled": lambda key: key.replace(PREFIX, f"{PREFIX}_orig_mod."),
    "the first release": lambda key: key.replace("model.language_model.", "llm.model.").replace(
        "model.vision_tower.", "vpm."
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_keys_of_all_tools_mean_the_same_tensors(tmp_path: Path, spelling: str) -> None:
    expected = factors(MODULES, SHAPES)
    adapter = read_adapter(write_folder(tmp_path / "a", renamed(SPELLINGS[spelling])), SHAPES)
    assert set(adapter.updates) == {f"{module}.weight" for module in MODULES}
    for module in MODULES:
        update = adapter.updates[f"{module}.weight"]
        assert np.array_equal(update.a, expected[f"{PREFIX}{module}.lora_A.weight"])
        assert np.array_equal(update.b, expected[f"{PREFIX}{module}.lora_B.weight"])
        assert update.scale == 2.0
    assert not adapter.replacements
    assert not adapter.options


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_factors_of_each_dtype_are_read_exactly(tmp_path: Path, dtype: str) -> None:
    state = factors([Q], SHAPES)
    update = read_adapter(write_folder(tmp_path / "a", state, dtype), SHAPES).updates[f"{Q}.weight"]
    bits = stored(state[f"{PREFIX}{Q}.lora_A.weight"], dtype)
    values = (bits.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else bits.astype(np.float32)
    assert update.a.dtype == np.float32
    assert np.array_equal(update.a, values)


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, {Q: 2.0, QKV: 2.0}),
        ({"use_rslora": True, "lora_alpha": 10}, {Q: 10 / math.sqrt(4), QKV: 10 / math.sqrt(4)}),
        ({"alpha_pattern": {"q_proj": 16}}, {Q: 4.0, QKV: 2.0}),
        # The whole key has to match the end of a name, from a dot on.
        ({"alpha_pattern": {"proj": 16, "layers.0.linear_attn.in_proj_qkv": 12}}, {Q: 2.0, QKV: 3.0}),
        ({"alpha_pattern": {"q_proj|in_proj_qkv": 6, "q_proj": 60}}, {Q: 1.5, QKV: 1.5}),
        ({"alpha_pattern": {r"layers\.[0-2]\..*": 20}}, {Q: 2.0, QKV: 5.0}),
        ({"fan_in_fan_out": True}, {Q: 2.0, QKV: 2.0}),
    ],
)
def test_scales_follow_alpha_and_rank(tmp_path: Path, config: dict[str, Any], scales: dict[str, float]) -> None:
    found = read_adapter(write_folder(tmp_path / "a", factors([Q, QKV], SHAPES), **config), SHAPES).updates
    assert {module: found[f"{module}.weight"].scale for module in scales} == pytest.approx(scales)


def test_a_rank_pattern_gives_rank_and_scale(tmp_path: Path) -> None:
    state = factors([QKV], SHAPES) | factors([Q], SHAPES, rank=16)
    folder = write_folder(tmp_path / "a", state, rank_pattern={"self_attn.q_proj": 16}, use_rslora=True)
    updates = read_adapter(folder, SHAPES).updates
    assert updates[f"{Q}.weight"].rank == 16
    assert updates[f"{Q}.weight"].scale == 2.0
    assert updates[f"{QKV}.weight"].scale == 4.0


def test_the_tensors_and_no_list_of_targets_say_what_is_adapted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", factors([FC1], SHAPES), target_modules=["k_proj"], layers_to_transform=[7])
    assert set(read_adapter(folder, SHAPES).updates) == {f"{FC1}.weight"}


def test_an_embedding_adds_rows_and_leaves_a_tied_head_alone(tmp_path: Path) -> None:
    vocabulary, hidden = SHAPES[EMBEDDING]
    module = PREFIX + EMBEDDING.removesuffix(".weight")
    first, second = array(4, vocabulary), array(hidden, 4, seed=1)
    state = {
        f"{module}.lora_embedding_A": first,
        f"{module}.lora_embedding_B": second,
        f"{module}.base_layer.weight": array(vocabulary, hidden),  # peft saves the frozen weights too
    }
    adapter = read_adapter(write_folder(tmp_path / "a", state), SHAPES)
    assert set(adapter.updates) == {EMBEDDING}
    assert not adapter.replacements
    update = adapter.updates[EMBEDDING]
    assert np.allclose(update.b @ update.a, (second @ first).T, atol=1e-6)
    assert update.b.flags.c_contiguous
    assert update.a.flags.c_contiguous


def test_the_patch_embedding_is_a_matrix(tmp_path: Path) -> None:
    name = "model.vision_tower.embeddings.patch_embedding"
    out, *kernel = SHAPES[f"{name}.weight"]
    state = {
        f"{PREFIX}{name}.lora_A.weight": array(4, *kernel),
        f"{PREFIX}{name}.lora_B.weight": array(out, 4, 1, 1, seed=1),
    }
    update = read_adapter(write_folder(tmp_path / "a", state), SHAPES).updates[f"{name}.weight"]
    assert update.a.shape == (4, math.prod(kernel))
    assert update.b.shape == (out, 4)


def test_saved_modules_and_biases_replace_tensors(tmp_path: Path) -> None:
    norm = "model.language_model.norm.weight"
    merger = "model.merger.mlp.0.linear_1"
    state = {
        f"{PREFIX}{norm}": array(*SHAPES[norm]),
        f"{PREFIX}model.merger.modules_to_save.default.mlp.0.linear_1.weight": array(*SHAPES[f"{merger}.weight"]),
        f"{PREFIX}model.merger.mlp.0.linear_1.modules_to_save.bias": array(*SHAPES[f"{merger}.bias"]),
        f"{PREFIX}lm_head.weight": array(*SHAPES[EMBEDDING]),
        f"{PREFIX}{FC1}.base_layer.bias": array(*SHAPES[f"{FC1}.bias"], seed=3),
    }
    adapter = read_adapter(write_folder(tmp_path / "a", state, "BF16"), SHAPES)
    assert not adapter.updates
    assert set(adapter.replacements) == {norm, f"{merger}.weight", f"{merger}.bias", HEAD, f"{FC1}.bias"}
    for name, tensor in adapter.replacements.items():
        assert (tensor.name, tensor.dtype) == (name, "bf16")
    bits = stored(state[f"{PREFIX}{FC1}.base_layer.bias"], "BF16")
    assert np.array_equal(adapter.replacements[f"{FC1}.bias"].data, bits)


@pytest.mark.parametrize("tokens", [[3, 0, 9], {"embed_tokens": [3, 0, 9]}])
def test_trained_tokens_replace_rows_of_embedding_and_tied_head(tmp_path: Path, tokens: Any) -> None:
    vocabulary, hidden = SHAPES[EMBEDDING]
    rows, old = array(3, hidden), array(vocabulary, hidden, seed=1)
    key = f"{PREFIX}model.language_model.embed_tokens.token_adapter.trainable_tokens_delta"
    folder = write_folder(tmp_path / "a", {key: rows}, trainable_token_indices=tokens)
    adapter = read_adapter(folder, SHAPES, base={**BASE, EMBEDDING: DenseTensor(EMBEDDING, "f32", old)})
    assert set(adapter.updates) == {EMBEDDING, HEAD}
    for update in adapter.updates.values():
        merged = old + update.scale * update.b @ update.a
        assert np.allclose(merged[[3, 0, 9]], rows, atol=1e-6)
        merged[[3, 0, 9]] = old[[3, 0, 9]]
        assert np.array_equal(merged, old)


def test_options_are_read_and_unknown_keys_are_not(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    options = {"downsample_mode": "4x", "max_slice_nums": 4, "stack_frames": 3, "enable_thinking": True, "fps": 2}
    said = {"version": 1, "options": {**options, "slice_mode": None, "new": 7}, "base": {"name": "x"}, "training": {}}
    write_json(folder / "pocketvlm.json", said)
    assert read_adapter(folder, SHAPES).options == options


def test_the_file_may_be_overwritten_while_the_adapter_is_used(tmp_path: Path) -> None:
    norm = "model.language_model.norm.weight"
    state = {f"{PREFIX}{norm}": array(*SHAPES[norm]), **factors([Q], SHAPES)}
    folder = write_folder(tmp_path / "a", state)
    adapter = read_adapter(folder, SHAPES)
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(0)
    assert np.array_equal(adapter.replacements[norm].data, state[f"{PREFIX}{norm}"])
    assert np.array_equal(adapter.updates[f"{Q}.weight"].a, state[f"{PREFIX}{Q}.lora_A.weight"])


def test_names_of_the_source_are_in_the_adapter(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    assert read_adapter(str(folder), SHAPES).source == str(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"

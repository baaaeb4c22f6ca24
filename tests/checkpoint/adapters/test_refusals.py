"""What cannot be read is refused in one line: file, key, value, and the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import PREFIX, State, factors, write_folder
from safetensors_kit import write_json
from writer_kit import SHAPES

from pocketvlm.checkpoint.adapters import read_adapter
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import CheckpointError, ConfigError, OptionError, TensorError
from pocketvlm.tensors import DenseTensor

Q = "model.language_model.layers.3.self_attn.q_proj"
A, B = f"{PREFIX}{Q}.lora_A.weight", f"{PREFIX}{Q}.lora_B.weight"
TOKENS = f"{PREFIX}model.language_model.embed_tokens.token_adapter.trainable_tokens_delta"
HIDDEN = SHAPES["model.language_model.embed_tokens.weight"][1]
BASE = {name: DenseTensor(name, "f32", np.zeros(shape, np.float32)) for name, shape in SHAPES.items()}
CONVERT, MERGE = "path_initial_model_for_weight_conversion", "merge_and_unload"


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def refused(folder: Path | str, error: type[Exception], *words: str, **arguments: Any) -> None:
    with pytest.raises(error) as caught:
        read_adapter(folder, SHAPES, **arguments)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, ("use_dora=True", "DoRA", MERGE)),
        ({"alora_invocation_tokens": [1, 2]}, ("alora_invocation_tokens=[1, 2]", "aLoRA")),
        ({"lora_bias": True}, ("lora_bias=True", MERGE)),
        ({"target_parameters": ["mlp.gate"]}, ("target_parameters=['mlp.gate']", MERGE)),
        ({"layer_replication": [[0, 2]]}, ("layer_replication=[[0, 2]]",)),
        ({"use_qalora": True}, ("use_qalora=True", "QA-LoRA")),
        ({"init_lora_weights": "pissa"}, ("init_lora_weights='pissa'", "PiSSA", CONVERT)),
        ({"init_lora_weights": "pissa_niter_16"}, ("PiSSA", CONVERT)),
        ({"init_lora_weights": "olora"}, ("OLoRA", CONVERT)),
        ({"init_lora_weights": "corda"}, ("CorDA", CONVERT)),
        ({"init_lora_weights": "lora_ga"}, ("LoRA-GA", CONVERT)),
        ({"init_lora_weights": "loftq"}, ("LoftQ", MERGE)),
        ({"peft_type": "LOHA"}, ("peft_type='LOHA'", "'LORA'", MERGE)),
        ({"peft_type": "IA3"}, ("peft_type='IA3'",)),
        ({"peft_type": None}, ("peft_type is missing",)),
        ({"r": 0}, ("r=0", "at least 1")),
        ({"r": "16"}, ("r='16'", "whole number")),
        ({"lora_alpha": None}, ("lora_alpha=None", "finite number")),
        ({"use_rslora": "yes"}, ("use_rslora='yes'", "true or false")),
        ({"rank_pattern": {"q_proj": 0}}, ("rank_pattern['q_proj']=0", "1 to")),
        ({"rank_pattern": ["q_proj"]}, ("rank_pattern=['q_proj']", "an object")),
        ({"alpha_pattern": {"(": 4}}, ("alpha_pattern['(']", "regular expression")),
    ],
)
def test_settings_that_are_no_plain_lora(tmp_path: Path, config: dict[str, Any], words: tuple[str, ...]) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES), **config)
    refused(folder, ConfigError, str(folder / "adapter_config.json"), *words)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_starts_that_leave_the_base_alone_are_read(tmp_path: Path, start: Any) -> None:
    assert read_adapter(write_folder(tmp_path / "a", factors([Q], SHAPES), init_lora_weights=start), SHAPES).updates


def changed(**changes: Callable[[np.ndarray], np.ndarray] | None) -> Callable[[State], State]:
    def apply(state: State) -> State:
        for half, change in changes.items():
            key = {"a": A, "b": B}[half]
            values = state.pop(key)
            if change is not None:
                state[key] = change(values)
        return state

    return apply


def with_key(key: str, *shape: int) -> Callable[[State], State]:
    return lambda state: {**state, key: zeros(*shape)}


BAD: dict[str, tuple[Callable[[State], State], tuple[str, ...]]] = {
    "no B": (changed(b=None), (A, "no other half", "lora_B")),
    "no A": (changed(a=None), (B, "no other half", "lora_A")),
    "rank": (changed(a=lambda v: v[:2], b=lambda v: v[:, :2]), (A, "rank 2", "says 4")),
    "halves of two ranks": (changed(b=lambda v: v[:, :2]), (B, "[")),
    "empty, as unfinished shards leave it": (changed(a=lambda v: v[:0]), (A, "rank 0")),
    "flat": (changed(a=lambda v: v.reshape(-1)), (A, "instead of")),
    "wider base": (changed(a=lambda v: np.tile(v, 2)), (A, "instead of")),
    "taller base": (changed(b=lambda v: np.tile(v, (2, 1))), (B, f"{Q}.weight")),
    "another layer": (with_key(f"{PREFIX}model.language_model.layers.99.mlp.up_proj.lora_A.weight", 4, 8), ("99",)),
    "a text model": (with_key(f"{PREFIX}model.layers.0.mlp.up_proj.weight", 4, 8), ("does not have",)),
    "dora": (with_key(f"{PREFIX}{Q}.lora_magnitude_vector", 8), ("DoRA",)),
    "bias of B": (with_key(f"{PREFIX}{Q}.lora_B.bias", 8), ("a bias of lora_B",)),
    "loha": (with_key(f"{PREFIX}{Q}.hada_w1_a", 8, 4), ("does not have",)),
    "adalora": (with_key(f"{PREFIX}{Q}.lora_E", 4, 1), ("no tensor of a plain LoRA",)),
    "no module": (with_key("prompt_embeddings", 4, 1), ("no tensor of a plain LoRA",)),
    "norm": (with_key(f"{PREFIX}model.language_model.norm.weight", 3), ("norm.weight", "[3]")),
    "a trained token of another width": (with_key(TOKENS, 1, HIDDEN + 1), (TOKENS, "values")),
}


@pytest.mark.parametrize("case", BAD)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, case: str) -> None:
    change, words = BAD[case]
    folder = write_folder(tmp_path / "a", change(factors([Q], SHAPES)), trainable_token_indices=[1])
    refused(folder, TensorError, str(folder / "adapter_model.safetensors"), "org/base", *words, base=BASE)


def test_a_depthwise_convolution_and_a_vector_have_no_updates(tmp_path: Path) -> None:
    for name, what in (("layers.0.linear_attn.conv1d", "convolution"), ("norm", "vector")):
        module = f"{PREFIX}model.language_model.{name}"
        state = {f"{module}.lora_A.weight": zeros(4, 1, 4), f"{module}.lora_B.weight": zeros(8, 4, 1)}
        refused(write_folder(tmp_path / name, state), TensorError, what)


def test_of_many_problems_some_are_named_and_the_others_counted(tmp_path: Path) -> None:
    modules = [f"model.language_model.layers.{index}.mlp.up_proj" for index in range(4)]
    folder = write_folder(tmp_path / "a", factors(modules, SHAPES), r=8)
    refused(folder, TensorError, "rank 4", "and ", " more", "give the adapter's own base")


def test_two_adapters_in_a_file_are_refused(tmp_path: Path) -> None:
    both = {A.replace("weight", "one.weight"): zeros(4, 8), A.replace("weight", "two.weight"): zeros(4, 8)}
    refused(write_folder(tmp_path / "a", both), TensorError, "2 adapters", "one, two")
    twice = {**factors([Q], SHAPES), A.removeprefix(PREFIX): zeros(4, 8)}
    refused(write_folder(tmp_path / "b", twice), TensorError, A, "keep one")


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    state = factors([Q], SHAPES)
    state[B][1, 2] = value
    refused(write_folder(tmp_path / "a", state), TensorError, B, "[1, 2]", "infinite or NaN")
    norm = f"{PREFIX}model.language_model.norm.weight"
    saved = {norm: np.full(SHAPES["model.language_model.norm.weight"], value, np.float32)}
    refused(write_folder(tmp_path / "b", saved), TensorError, "norm.weight", "infinite or NaN")


def test_an_adapter_of_nothing_is_refused(tmp_path: Path) -> None:
    refused(write_folder(tmp_path / "a", {}), TensorError, "no tensor changes the model")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (None, ("trainable_token_indices=None",)),
        ([1, 1], ("different",)),
        ([1.5, 2], ("1.5",)),
        ({"lm_head": [1, 2]}, ("lm_head",)),
        ([1, 10**7], ("10000000", "tokens")),
        ([1, -1], ("-1",)),
        ([1, 2, 3], ("2 rows", "3 tokens")),
    ],
)
def test_trained_tokens_have_their_ids(tmp_path: Path, tokens: Any, words: tuple[str, ...]) -> None:
    folder = write_folder(tmp_path / "a", {TOKENS: zeros(2, HIDDEN)}, trainable_token_indices=tokens)
    refused(folder, CheckpointError, *words, base=BASE)


def test_trained_tokens_need_the_base(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", {TOKENS: zeros(2, HIDDEN)}, trainable_token_indices=[1, 2])
    refused(folder, CheckpointError, "need the base's embedding", "pocketvlm merge")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"version": 2}, ("version=2", "newer pocketvlm")),
        ({"options": {}}, ("version=None",)),
        ({"version": 1, "options": [1]}, ("options=[1]", "an object")),
        ({"version": 1, "options": {"downsample_mode": "8x"}}, ("downsample_mode='8x'", "'16x'")),
        ({"version": 1, "options": {"max_slice_nums": 0}}, ("max_slice_nums=0",)),
        ({"version": 1, "options": {"stack_frames": "3"}}, ("stack_frames='3'",)),
        ({"version": 1, "options": {"enable_thinking": 1}}, ("enable_thinking=1",)),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, content: dict[str, Any], words: tuple[str, ...]) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    write_json(folder / "pocketvlm.json", content)
    refused(folder, CheckpointError, str(folder / "pocketvlm.json"), *words)


def test_folders_without_an_adapter_say_what_they_are(tmp_path: Path) -> None:
    refused(tmp_path / "none", CheckpointError, "no such folder")
    refused("no/such/thing", CheckpointError, "no such folder")
    refused("", CheckpointError, "no such folder")
    refused(tmp_path, CheckpointError, "has no adapter_config.json")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", CheckpointError, "is a file")
    for step in (100, 200):
        write_folder(tmp_path / "run" / f"checkpoint-{step}", factors([Q], SHAPES))
    refused(tmp_path / "run", CheckpointError, "checkpoint-100, checkpoint-200")
    write_json(tmp_path / "config.json", {})
    refused(tmp_path, CheckpointError, "whole checkpoint")
    refused(tmp_path / "run" / "checkpoint-100", OptionError, "revision='main'", revision="main")
    refused("org/name@main", OptionError, "contradicts", revision="other")


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    with pytest.raises(CheckpointError, match=r"a: is an adapter, no model: give its base.*--adapter"):
        open_checkpoint(folder)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole = weights.read_bytes()
    for size in (0, 7, 40, len(whole) - 1):
        weights.write_bytes(whole[:size])
        refused(folder, CheckpointError, str(weights))
    weights.unlink()
    refused(folder, CheckpointError, "neither adapter_model.safetensors nor adapter_model.bin")
    config.write_text(config.read_text()[:-20])
    refused(folder, CheckpointError, str(config), "not valid JSON")


def test_a_dtype_that_holds_no_floats_of_16_or_32_bits_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    file = folder / "adapter_model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[A]["dtype"] = "I32"
    text = json.dumps(header).encode().ljust(length)
    assert len(text) == length
    file.write_bytes(data[:8] + text + data[8 + length :])
    refused(folder, TensorError, A, "I32", "F32")


@pytest.mark.parametrize("seed", range(30))
def test_any_damaged_byte_gives_the_values_or_one_line(tmp_path: Path, seed: int) -> None:
    folder = write_folder(tmp_path / "a", factors([Q], SHAPES))
    file = folder / ("adapter_config.json" if seed % 3 == 0 else "adapter_model.safetensors")
    data = bytearray(file.read_bytes())
    generator = np.random.default_rng(seed)
    data[int(generator.integers(min(len(data), 400)))] = int(generator.integers(256))
    file.write_bytes(data)
    try:
        read_adapter(folder, SHAPES)
    except CheckpointError as error:
        message = str(error)
    else:
        return
    assert str(folder) in message

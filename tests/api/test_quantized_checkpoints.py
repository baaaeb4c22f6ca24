"""load() and info() with checkpoints of other tools: what is rounded, what is said of it, what stays in memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mapped import resident
from oracle import make_prompt, reference_logits
from quantized_checkpoint import GATES, HEAD, PUBLISHED, with_arrays, write_quantized
from word_kit import gptq_arrays, round_matrix

import pocketvlm
from pocketvlm.api import about
from pocketvlm.checkpoint.formats import gptq
from pocketvlm.errors import CheckpointError, OptionError, TensorError

GPTQ: dict[str, Any] = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 128,
    "desc_act": False,
    "sym": True,
    "checkpoint_format": "gptq",
    "modules_in_block_to_quantize": [["no.such.module"], ["self_attn.q_proj"]],
}
QUANTIZE = with_arrays(lambda weight: round_matrix(weight, 4, 128, symmetric=True), gptq_arrays)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the published GPTQ checkpoint has: the language model's large matrices in 4 bits, the rest in float16."""
    directory = tmp_path_factory.mktemp("published") / "gptq"
    write_quantized(directory, GPTQ, QUANTIZE)
    return directory


def parts(directory: Path, **options: Any) -> dict[str, dict[str, Any]]:
    with pocketvlm.load(directory, threads=2, cache=False, **options) as model:
        return {part["part"]: part for part in model.info()["parts"]}


def test_info_says_how_each_part_is_stored_and_multiplied(published: Path) -> None:
    with pocketvlm.load(published, threads=2, cache=False) as model:
        info = model.info()
    assert info["quantization"] == "GPTQ, 4 bits, groups of 128"
    found = {part["part"]: part for part in info["parts"]}
    down = found["down_proj"]
    assert (down["matrices"], down["bits"], down["group"], down["quantized"]) == (4, 4, 128, True)
    assert down["stored"] == "4 bits, groups of 128"
    assert down["kernel"].startswith("4-bit integer products (4-bit codes, groups of 128")
    for name in ("embedding and head", "in_proj_a", "in_proj_b"):
        assert (found[name]["stored"], found[name]["quantized"]) == ("f16", False)
        assert found[name]["kernel"].startswith("8-bit integer products (8-bit codes, groups of 32")
        assert "quantized at load, int8 weights" in found[name]["kernel"]
    for name in ("vision tower", "window merger", "merger"):
        assert found[name]["kernel"].startswith("8-bit integer products (8-bit codes, one scale a row")
    assert found["patch embedding"]["kernel"].startswith("float32 products")
    assert found["position embedding"]["kernel"].startswith("rows are looked up, as stored")
    assert sum(part["matrices"] for part in info["parts"]) > 50
    modules = info["quantized_modules"]
    assert len(modules) == sum(part["matrices"] for part in info["parts"] if part["quantized"])
    assert all(PUBLISHED.fullmatch(f"{name}.weight") for name in modules)


def test_nothing_else_is_rounded_with_stored_weights(published: Path) -> None:
    for weights in ("stored", "bf16"):
        found = parts(published, weights=weights)
        assert found["down_proj"]["kernel"].startswith("4-bit integer products")
        assert found["vision tower"]["kernel"] == f"float32 products (stored in float16): {weights} weights"


def test_exact_arithmetic_and_torch_dequantize(published: Path) -> None:
    assert parts(published, precision="exact")["down_proj"]["kernel"].startswith("float32 products (dequantized")
    assert parts(published, backend="torch")["down_proj"]["kernel"].startswith("float32 products (dequantized")


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_weights_are_not_rounded_twice(published: Path, weights: str) -> None:
    message = (
        rf"weights='{weights}': the checkpoint is quantized already \(GPTQ\), and rounding it "
        r"again would cost accuracy: leave weights out, give weights='stored', or use the 16-bit checkpoint"
    )
    with pytest.raises(OptionError, match=message):
        pocketvlm.load(published, weights=weights, cache=False)  # type: ignore[arg-type]


def test_both_group_sizes_of_a_mixed_checkpoint(tmp_path: Path) -> None:
    """Gates with groups of their own and a head in 8 bits, as `dynamic` and `lm_head` ask for."""

    def quantize(name: str, weight: np.ndarray) -> Any:
        bits, group = (8, 32) if GATES.fullmatch(name) or HEAD.fullmatch(name) else (4, 128)
        return with_arrays(lambda values: round_matrix(values, bits, group, symmetric=True), gptq_arrays)(name, weight)

    settings = {**GPTQ, "lm_head": True, "dynamic": {".*in_proj_[ab]": {"bits": 8, "group_size": 32}}}
    oracle = write_quantized(tmp_path, settings, quantize, modules=(PUBLISHED, GATES, HEAD), tied=False)
    with pocketvlm.load(tmp_path, threads=2, cache=False) as model:
        found = {part["part"]: part for part in model.info()["parts"]}
        assert model.info()["quantization"] == "GPTQ, 4 bits, groups of 128 or 8 bits, groups of 32"
        assert [(found[name]["bits"], found[name]["group"]) for name in ("in_proj_a", "head", "q_proj")] == [
            (8, 32),
            (8, 32),
            (4, 128),
        ]
        prompt = make_prompt(oracle.config, [], seed=2)
        difference = model.logits(prompt) - reference_logits(oracle, prompt)
    assert np.linalg.norm(difference) < 0.15 * np.linalg.norm(reference_logits(oracle, prompt))


def of_other_tools(name: str) -> str:
    """Prefixes that third parties write."""
    name = name.replace("model.vision_tower.vit_merger.", "model.vit_merger.")
    return name.replace("model.vision_tower.", "model.vpm.")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shards_names_of_other_tools_and_the_type_in_the_settings(tmp_path: Path, dtype: torch.dtype) -> None:
    oracle = write_quantized(tmp_path, GPTQ, QUANTIZE, dtype=dtype, shards=3, rename=of_other_tools)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for key in ("dtype", "torch_dtype"):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: "float16"}), encoding="utf-8")
        with pocketvlm.load(tmp_path, precision="exact", threads=2, cache=False) as model:
            prompt = make_prompt(oracle.config, [(8, 8)], seed=1)
            reference = reference_logits(oracle, prompt)
            assert np.abs(model.logits(prompt) - reference).max() < 2e-5 * np.abs(reference).max()


def test_a_missing_array_of_a_shard_is_named(tmp_path: Path) -> None:
    lost = "model.language_model.layers.3.self_attn.o_proj.scales"
    write_quantized(tmp_path, GPTQ, QUANTIZE, rename=lambda name: "mtp.extra" if name == lost else name)
    with pytest.raises(TensorError, match=rf"{lost}: the array is missing, the file has only .*: download"):
        pocketvlm.load(tmp_path, cache=False)


def test_a_truncated_file(published: Path, tmp_path: Path) -> None:
    for file in published.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[:-100] if file.suffix == ".safetensors" else data)
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensor .* the file was cut off: download"):
        pocketvlm.load(tmp_path, cache=False)


def test_settings_that_are_gone(published: Path, tmp_path: Path) -> None:
    for file in published.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        TensorError, match=r"the quantization settings in config.json do not describe: copy config.json"
    ):
        pocketvlm.load(tmp_path, cache=False)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_packed_matrices_are_all_that_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the second start reads no codes: packed weights come from the cache, however often it starts."""
    monkeypatch.setattr(about, "MIN_CACHED_BYTES", 0)
    published = tmp_path / "gptq"
    prompt = make_prompt(write_quantized(published, GPTQ, QUANTIZE, dtype=torch.bfloat16).config, [], seed=1)
    monkeypatch.setattr("pocketvlm.api._TENSORS_UNTIL_UNMAPPED", 1)
    meanwhile: list[int] = []

    def progress(*_: object) -> None:
        meanwhile.append(resident(published / "model.safetensors"))

    with pocketvlm.load(published, threads=2, cache=tmp_path, progress=progress) as model:
        assert len(meanwhile) > 50
        assert max(meanwhile) == resident(published / "model.safetensors") == 0
        expected = model.logits(prompt)
        assert resident(published / "model.safetensors") > 0  # rows of the embedding
    monkeypatch.setattr(gptq, "unpack", lambda *_: pytest.fail("codes were unpacked"))
    with pocketvlm.load(published, threads=2, cache=tmp_path) as model:
        assert model.info()["backend"]["packed weights"].startswith("read from ")
        np.testing.assert_array_equal(model.logits(prompt), expected)


def test_changed_settings_are_not_read_from_the_cache(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same arrays mean other zero points when config.json speaks of version 2."""
    monkeypatch.setattr(about, "MIN_CACHED_BYTES", 0)
    directory = tmp_path / "copy"
    directory.mkdir()
    for file in published.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    found = []
    for version in ("gptq", "gptq_v2"):
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        config["quantization_config"]["checkpoint_format"] = version
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pocketvlm.load(directory, threads=2, cache=tmp_path) as model:
            assert "encoded" in model.info()["backend"]["packed weights"]
            found.append(model.logits(make_prompt(model.checkpoint.model, [], seed=1)))
    assert np.abs(found[0] - found[1]).max() > 0.1

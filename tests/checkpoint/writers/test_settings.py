"""What writers say in config.json and copy, so that transformers, vLLM and mlx-vlm load the files right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from writer_kit import PUBLISHED, ROLES, SHAPES, Tensors, quantized, write

from pocketvlm.checkpoint.formats.safetensors import read_entries
from pocketvlm.checkpoint.writers import directory as directory_module
from pocketvlm.checkpoint.writers.modules import FUSED, dense_linears
from pocketvlm.tensors import QuantizedTensor

# How vLLM names the parts of the model: the first prefix that fits is exchanged.
VLLM = {
    "model.vision_tower.vit_merger.": "vit_merger.",
    "model.vision_tower.": "vpm.",
    "model.merger.": "merger.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
# The linear layers that vLLM makes of the vision tower: those of the merger are none of its own.
LINEARS = [
    name.removesuffix(".weight")
    for name, role in ROLES.items()
    if role in ("matrix", "gate", "vision_matrix") and len(SHAPES[name]) == 2
]


def vllm_name(name: str) -> str:
    for prefix, target in VLLM.items():
        if name.startswith(prefix):
            return target + name.removeprefix(prefix)
    return name


def config_of(source: Path, tensors: Tensors, format: str, out: Path) -> dict[str, Any]:
    write(format, source, tensors, out)
    found: dict[str, Any] = json.loads((out / "config.json").read_text())
    return found


def quantized_names(tensors: Tensors) -> set[str]:
    return {name.removesuffix(".weight") for name, its in tensors.items() if isinstance(its, QuantizedTensor)}


def fused_prefixes() -> list[tuple[str, list[str]]]:
    """What vLLM makes of the linear layers: their names there, and the parts of each."""
    found: dict[str, list[str]] = {}
    of_part = {part: fused for fused, parts in FUSED.items() for part in parts}
    for name in LINEARS:
        prefix, _, part = vllm_name(name).rpartition(".")
        found.setdefault(f"{prefix}.{of_part.get(part, part)}", []).append(name)
    return list(found.items())


def except_layer_1(name: str) -> str | None:
    return None if ".layers.1." in name else "int4-g64"


@pytest.mark.parametrize("scheme", ["int4-g64", except_layer_1])
def test_awq_lists_what_vllm_must_not_convert(source: Path, tmp_path: Path, scheme: Any) -> None:
    """vLLM looks for each name, in its own spelling, inside the layer's name; transformers at both of its ends."""
    tensors = quantized(source, scheme)
    settings = config_of(source, tensors, "awq", tmp_path / "out")["quantization_config"]
    listed = settings.pop("modules_to_not_convert")
    assert settings == {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
    mapped = [vllm_name(name) for name in listed]
    for prefix, parts in fused_prefixes():
        last = prefix.rpartition(".")[2]
        shards = [prefix.replace(last, part) for part in FUSED.get(last, (last,))]
        skipped = {any(name in shard for name in mapped) for shard in shards}
        assert skipped == {not set(parts) <= quantized_names(tensors)}, prefix
    for name in LINEARS:
        skipped = {bool(re.match(rf"(?:{key})(?:(?<=\\.)|(?=\\.|$))", name) or name.endswith(key)) for key in listed}
        assert (True in skipped) == (name not in quantized_names(tensors)), name
    assert "lm_head" in listed


@pytest.mark.parametrize("scheme", ["int4-g64", except_layer_1])
def test_gptq_lists_what_is_quantized(source: Path, tmp_path: Path, scheme: Any) -> None:
    """vLLM looks for the listed names in the layer's name, after the rules; the vision tower has such names too."""
    tensors = quantized(source, scheme)
    out = tmp_path / "out"
    settings = config_of(source, tensors, "gptq", out)["quantization_config"]
    assert json.loads((out / "quantize_config.json").read_text()) == settings
    assert settings["quant_method"] == "gptq"
    assert settings["checkpoint_format"] == "gptq"
    assert (settings["bits"], settings["group_size"], settings["desc_act"], settings["sym"]) == (4, 64, False, False)
    assert settings["modules_in_block_to_quantize"] == [
        ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"],
        ["self_attn.o_proj"],
        ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z"],
        ["linear_attn.out_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]
    listed = [name for group in settings["modules_in_block_to_quantize"] for name in group]
    for prefix, parts in fused_prefixes():
        last = prefix.rpartition(".")[2]
        shards = [prefix.replace(last, part) for part in FUSED.get(last, (last,))]
        rules = [rule for rule in settings["dynamic"] if re.match(rule[2:], prefix)]
        taken = all(any(name in shard for name in listed) for shard in shards)
        assert (taken and not rules) == (set(parts) <= quantized_names(tensors)), prefix
        assert all(rule.startswith("-:") for rule in rules)
    for name in LINEARS:  # GPTQModel applies the rules to the names of the hub
        ruled = any(re.match(rule[2:], name) for rule in settings["dynamic"])
        assert not (ruled and name in quantized_names(tensors))


def test_gptq_rules_for_other_bits(source: Path, tmp_path: Path) -> None:
    tensors = quantized(source, lambda name: "int8-g128-sym" if ".layers.3.mlp" in name else "int4-g64-sym")
    settings = config_of(source, tensors, "gptq", tmp_path / "out")["quantization_config"]
    assert settings["sym"]
    rules = {rule: value for rule, value in settings["dynamic"].items() if rule.startswith("+:")}
    for name in ("mlp.gate_up_proj", "mlp.gate_proj", "mlp.down_proj"):
        found = [value for rule, value in rules.items() if re.match(rule[2:], f"model.language_model.layers.3.{name}")]
        assert found[0] == {"bits": 8, "group_size": 128}
    assert not any(re.match(rule[2:], "model.language_model.layers.13.mlp.gate_proj") for rule in rules)


@pytest.mark.parametrize(
    ("scheme", "version", "act_order"),
    [("int4-g64", "gptq", False), ("int2-g32", "gptq_v2", False), ("int4-g64-permuted", "gptq", True)],
)
def test_gptq_version_and_act_order(source: Path, tmp_path: Path, scheme: str, version: str, act_order: bool) -> None:
    """Version 1 stores zero points less one, which for a zero point 0 confuses kernels: then version 2 is written."""
    tensors = quantized(source, scheme)
    settings = config_of(source, tensors, "gptq", tmp_path / "out")["quantization_config"]
    assert (settings["checkpoint_format"], settings["desc_act"]) == (version, act_order)


def test_compressed_tensors_groups(source: Path, tmp_path: Path) -> None:
    one = config_of(source, quantized(source, "int4-g64"), "compressed-tensors", tmp_path / "one")
    settings = one["quantization_config"]
    tensors = quantized(source, "int4-g64")
    assert settings["ignore"] == dense_linears(tensors, ROLES)
    assert {*settings["ignore"], *quantized_names(tensors)} == {*LINEARS, "lm_head"}
    assert settings["format"] == "pack-quantized"
    (group,) = settings["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert group["weights"]["symmetric"] is False
    tensors = quantized(source, lambda name: "mxfp4" if "down_proj" in name else "int4-g64-sym")
    settings = config_of(source, tensors, "compressed-tensors", tmp_path / "two")["quantization_config"]
    assert settings["format"] == "mixed-precision"
    groups = list(settings["config_groups"].values())
    assert {name for group in groups for name in group["targets"]} == quantized_names(tensors)
    assert {(group["format"], group["weights"]["type"]) for group in groups} == {
        ("pack-quantized", "int"),
        ("mxfp4-pack-quantized", "float"),
    }
    assert all(group["weights"]["symmetric"] for group in groups)


def test_mlx_files_are_as_mlx_vlm_writes_them(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = config_of(source, quantized(source, "int4-g64-bias"), "mlx", out)
    assert config["quantization"] == config["quantization_config"] == {"group_size": 64, "bits": 4, "mode": "affine"}
    entries = read_entries(out)
    assert not any(name.startswith("model.") for name in entries)
    assert "language_model.model.embed_tokens.weight" in entries
    assert "vit_merger.linear_1.weight" in entries
    assert entries["language_model.model.layers.0.linear_attn.conv1d.weight"].shape[1:] == (4, 1)
    assert entries["vision_tower.embeddings.patch_embedding.weight"].shape[1:] == (14, 14, 3)
    up = "language_model.model.layers.0.mlp.up_proj"
    kinds = {suffix: entries[f"{up}.{suffix}"].dtype for suffix in ("weight", "scales", "biases")}
    assert kinds == {"weight": "U32", "scales": "BF16", "biases": "BF16"}


def test_files_are_copied_and_the_dtype_is_named(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths = write("awq", source, quantized(source, "int4-g64"), out)
    assert sorted(path.name for path in paths) == sorted(path.name for path in out.iterdir())
    skipped = {"README.md", "model.safetensors", "config.json"}
    for path in source.iterdir():
        if path.name not in skipped:
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert not (out / "README.md").exists()
    config, before = (json.loads((folder / "config.json").read_text()) for folder in (out, source))
    assert config.pop("torch_dtype") == "bfloat16"
    del config["quantization_config"], before["torch_dtype"]
    assert config == before


def test_large_checkpoints_have_shards_and_an_index(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_SHARD", 1 << 20)
    out, tensors = tmp_path / "out", quantized(source, "int4-g64")
    write("gptq", source, tensors, out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files == [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    entries = read_entries(out)
    assert index["weight_map"] == {name: entry.file.name for name, entry in sorted(entries.items())}
    assert index["metadata"]["total_size"] == sum(entry.nbytes for entry in entries.values())
    for name in entries:  # the arrays of a matrix are in one file
        module, _, suffix = name.rpartition(".")
        if suffix == "qweight":
            assert entries[f"{module}.scales"].file == entries[name].file
    assert len([name for name in entries if name.endswith("qweight")]) == len(
        [n for n in SHAPES if PUBLISHED.fullmatch(n)]
    )

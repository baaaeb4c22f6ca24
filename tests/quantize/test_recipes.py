"""Recipes: llama.cpp's mixtures of the released model, what each format quantizes, and what is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from pocketvlm.bench.shape import released_config
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.writers.registry import WRITERS
from pocketvlm.config import ModelConfig
from pocketvlm.errors import OptionError
from pocketvlm.families import MINICPMV4_7
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.quantize.recipes import FORMATS, FUSED_GROUPS, default_scheme, file_label, recipe, scheme_name, schemes
from pocketvlm.quantize.tensor_schemes import tensor_scheme

RELEASED = released_config()
NANO = ModelConfig.from_dict(json.loads((embedded_directory() / "config.json").read_text()))
SIXES = {0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23}
Recipe = dict[str, str | None]


def made(scheme: str, format: str, config: ModelConfig = RELEASED, **options: object) -> Recipe:
    return recipe(scheme, format, config, tensor_roles(config), **options)  # type: ignore[arg-type]


def layers(found: Recipe, module: str, kind: str) -> set[int]:
    names = [name for name, its in found.items() if name.endswith(f".{module}.weight") and its == kind]
    return {int(name.split(".")[3]) for name in names}


def test_q4_k_m_is_the_published_mixture() -> None:
    found = made("Q4_K_M", "gguf")
    assert Counter(found.values()) == {None: 592, "Q4_K": 162, "Q6_K": 25}
    assert found["model.language_model.embed_tokens.weight"] == "Q6_K"
    assert layers(found, "mlp.down_proj", "Q6_K") == SIXES
    assert layers(found, "linear_attn.in_proj_qkv", "Q6_K") == SIXES - {11, 23}
    assert layers(found, "self_attn.v_proj", "Q6_K") == {11, 23}
    sizes = {"Q4_K": 144 / 256, "Q6_K": 210 / 256}
    shapes = expected_tensors(RELEASED)
    nbytes = sum(shapes[name][0] * shapes[name][1] * sizes[kind] for name, kind in found.items() if kind)
    assert round(nbytes / 1e6) == 516  # of a file of 518 million


def test_an_importance_matrix_changes_a_few_types() -> None:
    assert layers(made("IQ4_NL", "gguf"), "mlp.down_proj", "Q5_K") == {0, 1, 2}
    assert layers(made("IQ4_NL", "gguf", importance=True), "mlp.down_proj", "Q5_K") == set()
    assert layers(made("Q4_0", "gguf", importance=True), "mlp.down_proj", "Q4_1") == {0, 1, 2}


def test_rows_that_super_blocks_do_not_divide_take_other_types() -> None:
    found = made("Q4_K_M", "gguf", NANO)
    assert Counter(found.values()) == {None: 144, "Q5_0": 24, "Q8_0": 5, "Q4_K": 2}
    narrow = replace(NANO, text=replace(NANO.text, intermediate_size=440))
    found = made("Q4_K_M", "gguf", narrow)
    assert found["model.language_model.layers.0.mlp.down_proj.weight"] is None


@pytest.mark.parametrize("config", [RELEASED, NANO])
@pytest.mark.parametrize(("format", "scheme"), [(format, name) for format in FORMATS for name in schemes(format)])
def test_what_a_recipe_says_exists_and_its_format_holds_it(config: ModelConfig, format: str, scheme: str) -> None:
    if "g128" in scheme and config is NANO:
        with pytest.raises(OptionError, match="has 192 inputs, no multiple of 128"):
            made(scheme, format, config)
        return
    found = made(scheme, format, config)
    shapes, roles = expected_tensors(config), tensor_roles(config)
    assert list(found) == list(roles)
    seen = set()
    for name, kind in found.items():
        if kind is None or (kind, shapes[name]) in seen:
            continue
        rows, columns = shapes[name]
        seen.add((kind, shapes[name]))
        tensor = tensor_scheme(kind)
        assert tensor.problem((rows, columns)) is None
        assert WRITERS[format].problem(name, roles[name], tensor.placeholder(name, (rows, columns)), config) is None
    assert seen


def test_what_each_format_quantizes() -> None:
    roles = tensor_roles(RELEASED)
    matrices = {name for name, role in roles.items() if role == "matrix"}
    for format in ("awq", "gptq", "compressed-tensors"):
        assert {name for name, kind in made("int4-g128", format).items() if kind} == matrices
    found = made("int4-g64", "mlx")
    assert {kind for kind in found.values() if kind} == {"int4-g64-bias"}
    assert not any(kind and ".linear_attn." in name for name, kind in found.items())
    assert found["model.language_model.embed_tokens.weight"]
    found = made("int4-g64", "native")
    expected = {"matrix": "int4-g64", "tied_embedding": "int4-g64", "gate": "int8", "vision_matrix": "int8"}
    assert {role: found[name] for name, role in roles.items()} == {role: expected.get(role) for role in roles.values()}
    assert {made("x", format)[name] for format in ("bf16", "f16") for name in roles} == {None}


def test_the_vision_tower_in_gguf() -> None:
    assert not any(kind for name, kind in made("Q4_K_M", "gguf").items() if "vision" in name)
    found = made("Q4_K_M", "gguf", vision="Q8_0")
    roles = tensor_roles(RELEASED)
    dense = {name for name, role in roles.items() if role == "vision_matrix" and found[name] is None}
    assert {name.rpartition("mlp.")[2] for name in dense} == {"fc2.weight"}  # rows of 4304
    assert len(dense) == 27
    assert not any(kind for name, kind in made("int4-g64", "native", vision="stored").items() if "vision" in name)
    assert made("Q4_K_M", "gguf", vision="int8") == found
    assert made("int4-g64", "native", vision="q8_0") == made("int4-g64", "native", vision="Q8_0")
    for format, takes in (("awq", "default, stored"), ("native", "default, stored, int8, Q8_0")):
        with pytest.raises(OptionError, match=f"vision='Q4_K': the format {format} has no .*: it takes {takes}$"):
            made("int4-g64", format, vision="Q4_K")
    text = {name: role for name, role in roles.items() if role != "vision_matrix"}
    with pytest.raises(OptionError, match="vision='int8': the model has no vision tower: leave it out"):
        recipe("int4-g64", "native", RELEASED, text, vision="int8")


def test_patterns_leave_tensors_dense() -> None:
    plain, found = made("Q4_K_M", "gguf"), made("Q4_K_M", "gguf", keep=["*.down_proj.weight", "*embed_tokens*"])
    assert all(found[name] == (None if "down_proj" in name or "embed" in name else plain[name]) for name in plain)
    with pytest.raises(OptionError, match=re.escape("keep='*.down': matches no tensor")):
        made("Q4_K_M", "gguf", keep=["*.down"])


@pytest.mark.parametrize("format", ["awq", "gptq", "compressed-tensors"])
@pytest.mark.parametrize("group", FUSED_GROUPS[:3])
def test_patterns_do_not_split_what_engines_join(format: str, group: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match=f"engines join {', '.join(group)}, which need one scheme"):
        made("int4-g64", format, keep=[f"*.{group[0]}.weight"])
    found = made("int4-g64", format, keep=[f"*.{module}.weight" for module in group])
    assert not any(found[name] for name in found if name.endswith(tuple(f"{module}.weight" for module in group)))
    assert made("int4-g64", "native", keep=[f"*.{group[0]}.weight"])


def test_each_format_has_a_default_scheme() -> None:
    found = {format: default_scheme(format) for format in FORMATS}
    assert all(found[format] in schemes(format) for format in FORMATS if schemes(format))
    assert found == {
        **{"gguf": "Q4_K_M", "mlx": "int4-g64", "native": "int4-g64", "bf16": "bf16", "f16": "f16"},
        **dict.fromkeys(("awq", "gptq", "compressed-tensors"), "int4-g128"),
    }


def test_names() -> None:
    assert scheme_name("q4_k_m", "gguf") == "Q4_K_M"
    assert scheme_name("int8", "gguf") == "Q8_0"
    assert [file_label("MXFP4", "gguf"), file_label("mxfp4", "mlx"), file_label("x", "bf16")] == [
        "MXFP4",
        "mxfp4",
        "bf16",
    ]
    with pytest.raises(OptionError, match="scheme='Q4_K_X': the format gguf has no such scheme: did you mean Q4_K_S"):
        scheme_name("Q4_K_X", "gguf")
    with pytest.raises(OptionError, match="scheme='int4-g64': the format gguf has no such scheme: it takes Q4_0, "):
        made("int4-g64", "gguf")
    with pytest.raises(OptionError, match="format='onnx': no such format, these are known: gguf, awq"):
        made("int8", "onnx")


def test_positions_in_three_dimensions_are_refused_before_the_work() -> None:
    with pytest.raises(OptionError, match=r"as MiniCPM-V 4\.7 has them: use another format, such as native"):
        made("Q4_K_M", "gguf", replace(NANO, family=MINICPMV4_7))


def test_widths_that_groups_do_not_divide_name_groups_that_do() -> None:
    with pytest.raises(OptionError, match=r"no multiple of 128: use groups that divide it \(int4-g32, int4-g64\), or"):
        made("int4-g128", "awq", NANO)
    assert made("int4-g128", "awq", RELEASED)
    odd = replace(NANO, text=replace(NANO.text, hidden_size=200))
    with pytest.raises(OptionError, match="no multiple of 32: use another scheme, or keep='model"):
        made("mxfp4", "compressed-tensors", odd)

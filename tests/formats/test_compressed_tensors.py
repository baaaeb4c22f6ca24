"""compressed-tensors checkpoints whose matrices the library itself compressed, with settings that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_writer import compress, compressor, config, scheme
from small_checkpoint import assert_changes, assert_same_logits, matrices, weights, write

from pocketvlm.api.parts import quantization_of
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.model import expected_tensors

pytestmark = pytest.mark.formats

PACKED, INT, FLOAT = "pack-quantized", "int-quantized", "float-quantized"
# The format, the scheme of the weights, the dtype of the scales before they are compressed, and the description.
SCHEMES: list[tuple[str, dict[str, Any], str]] = [
    *(
        (PACKED, {"num_bits": bits, "strategy": "group", "group_size": 32}, f"{bits} bits, groups of 32")
        for bits in (2, 3, 4, 5, 6, 7, 8)
    ),
    *(
        (PACKED, {"num_bits": bits, "strategy": "group", "group_size": 64, "symmetric": False}, "groups of 64")
        for bits in (3, 4, 8)
    ),
    (PACKED, {"num_bits": 4, "strategy": "channel"}, "4 bits, one scale an output"),
    (PACKED, {"num_bits": 4, "strategy": "channel", "symmetric": False}, "4 bits, one scale an output"),
    (PACKED, {"num_bits": 8, "strategy": "tensor", "symmetric": False}, "8 bits, one scale a matrix"),
    (PACKED, {"num_bits": 4, "strategy": "group", "group_size": 128, "actorder": "weight"}, "4 bits, groups of 128"),
    (INT, {"num_bits": 8, "strategy": "channel"}, "8 bits, one scale an output"),
    (INT, {"num_bits": 8, "strategy": "channel", "symmetric": False}, "8 bits, one scale an output"),
    (INT, {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}, "4 bits, groups of 32"),
    (INT, {"num_bits": 8, "strategy": "tensor"}, "8 bits, one scale a matrix"),
    (INT, {"num_bits": 8, "strategy": "block", "block_structure": [128, 128]}, "8 bits, blocks of 128 x 128"),
    (FLOAT, {"num_bits": 8, "type": "float", "strategy": "channel"}, "8 bits, one scale an output"),
    (FLOAT, {"num_bits": 8, "type": "float", "strategy": "tensor"}, "8 bits, one scale a matrix"),
    (
        FLOAT,
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 96]},
        "8 bits, blocks of 128 x 96",
    ),
    ("naive-quantized", {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 64}, "groups of 64"),
    (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "scale_dtype": "float8_e4m3fn"},
        "4 bits, groups of 16",
    ),
    *(
        (
            format_,
            {"num_bits": bits, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "uint8"},
            f"{bits} bits, groups of 32",
        )
        for format_, bits in (("mxfp4-pack-quantized", 4), ("mxfp6-pack-quantized", 6), ("mxfp8-quantized", 8))
    ),
]


def fitting(how: Mapping[str, Any]) -> list[str]:
    """The matrices that the library can compress so: it wants whole groups, and to read zero points, over 8 outputs."""
    width, min_outputs = how.get("group_size") or 1, 1 if how.get("symmetric", True) else 9
    shapes = {name: tensor.shape for name, tensor in weights().items()}
    return [name for name in matrices() if shapes[name][1] % width == 0 and shapes[name][0] >= min_outputs]


@pytest.mark.parametrize(("format_", "how", "described"), SCHEMES)
def test_values_are_those_of_the_library(tmp_path: Path, format_: str, how: dict[str, Any], described: str) -> None:
    """Bit for bit in float32 and in the type of the scales, also where blocks are not full."""
    tensors, group, names = weights(), scheme(format_, how, ["Linear"]), fitting(how)
    values = compress(tensors, names, group)
    assert_changes(values)
    write(tmp_path, tensors, **config([group], [], format_))
    checkpoint = read_checkpoint(tmp_path)
    assert described in (quantization_of(checkpoint) or "")
    found = checkpoint.tensors(expected_tensors(checkpoint.model))
    for name in names:
        module = name.removesuffix("weight")
        assert np.array_equal(found[name].dequantize(), values[name]), name
        local = {key.removeprefix(module): value for key, value in tensors.items() if key.startswith(module)}
        local.pop("bias", None)
        rounded = compressor(format_).decompress(local, group)["weight"]
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(torch.from_numpy(found[name].dequantize()).bfloat16(), rounded), name


@pytest.mark.parametrize("index", [2, 8, 14, 19, 23, 24, 25, 26])
def test_logits_are_those_of_the_values(tmp_path: Path, index: int) -> None:
    """One scheme of each format."""
    format_, how, _ = SCHEMES[index]
    tensors, group, names = weights(), scheme(format_, how, ["Linear"]), fitting(how)
    values = compress(tensors, names, group)
    ignored = ["lm_head", "re:.*a_module_that_is_not_there", *(set(matrices()) - set(names))]
    write(tmp_path, tensors, **config([group], ignored, format_))
    assert_same_logits(tmp_path, values, quantization_of(read_checkpoint(tmp_path)))


def test_groups_of_different_formats(tmp_path: Path) -> None:
    """Targets by name, expression and class, the most exact one first; scales of activations and of the cache."""
    tensors = weights()
    by_name, by_expression = [], []
    for name in matrices():
        if "down_proj" in name:
            by_name.append(name.removesuffix(".weight"))
        elif ".mlp." in name and ".language_model." in name:
            by_expression.append(name)
    groups = [
        scheme(PACKED, {"num_bits": 4, "strategy": "group", "group_size": 64}, ["Linear"]),
        scheme(FLOAT, {"num_bits": 8, "type": "float", "strategy": "channel"}, ["re:.*language_model.*mlp.*"]),
        scheme(INT, {"num_bits": 8, "strategy": "channel"}, by_name),
    ]
    others = [name for name in matrices("matrix") if ".mlp." not in name]
    values = compress(tensors, others, groups[0])
    values |= compress(tensors, by_expression, groups[1])
    values |= compress(tensors, [f"{name}.weight" for name in by_name], groups[2])
    for name in others:
        tensors[name.replace("weight", "input_scale")] = torch.ones(1)
        if "k_proj" in name:
            tensors[name.replace("weight", "k_scale")] = torch.ones(1)
    write(tmp_path, tensors, **config(groups, ["lm_head", "re:.*vision_tower.*"], "mixed-precision"))
    described = (
        "compressed-tensors pack-quantized + float-quantized + int-quantized, 4 bits, groups of 64 or 8 bits, "
        "one scale an output"
    )
    assert_same_logits(tmp_path, values, described)


@pytest.mark.filterwarnings("ignore:You passed")
@pytest.mark.parametrize("index", [2, 8, 19])
def test_transformers_reads_the_same(tmp_path: Path, index: int) -> None:
    """The files are what transformers takes for this format; it rounds to the type of the scales."""
    transformers = import_module("transformers")
    format_, how, _ = SCHEMES[index]
    tensors, group = weights(), scheme(format_, how, ["Linear"])
    names = [name for name in fitting(how) if name in matrices("matrix")]
    values = compress(tensors, names, group)
    ignored = ["lm_head", *(name.removesuffix(".weight") for name in matrices() if name not in names)]
    write(tmp_path, tensors, **config([group], ignored, format_))
    whole = transformers.CompressedTensorsConfig(run_compressed=False)
    model = transformers.MiniCPMV4_6ForConditionalGeneration.from_pretrained(tmp_path, quantization_config=whole)
    theirs = dict(model.named_parameters())
    for name in names:
        assert torch.equal(theirs[name].detach().bfloat16(), torch.from_numpy(values[name]).bfloat16()), name
    assert_same_logits(tmp_path, values, quantization_of(read_checkpoint(tmp_path)))

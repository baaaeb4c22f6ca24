"""FP8 checkpoints: PyTorch casts the weights, and transformers reads what is written."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_checkpoint import assert_changes, assert_same_logits, matrices, weights, write

from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.model import expected_tensors

pytestmark = pytest.mark.formats

BLOCK = [128, 128]


def settings(block: list[int] | None) -> dict[str, Any]:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block}


def quantize(
    weight: torch.Tensor, block: tuple[int, int], dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Codes, scales of blocks and the values that they stand for; blocks at the edges may be smaller."""
    rows, columns = weight.shape
    high, wide = (math.ceil(side / step) for side, step in zip(weight.shape, block, strict=True))
    scales = torch.empty(high, wide)
    codes, values = torch.empty(rows, columns, dtype=dtype), torch.empty(rows, columns)
    for i in range(high):
        for j in range(wide):
            at = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
            scales[i, j] = weight[at].float().abs().max() / torch.finfo(dtype).max
            codes[at] = (weight[at].float() / scales[i, j]).to(dtype)
            values[at] = codes[at].float() * scales[i, j]
    return codes, scales, values.numpy()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("block", torch.float8_e4m3fn),
        ("block", torch.float8_e5m2),
        ("row", torch.float8_e4m3fn),
        ("matrix", torch.float8_e4m3fn),
        ("matrix_inv", torch.float8_e4m3fn),
    ],
)
def test_scales_of_each_kind(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    tensors, values = weights(), {}
    for name in matrices():
        rows, columns = tensors[name].shape
        block = {"block": (128, 128), "row": (1, columns)}.get(kind, (rows, columns))
        tensors[name], scales, values[name] = quantize(tensors[name], block, dtype)
        suffix = "_scale_inv" if kind in ("block", "matrix_inv") else "_scale"
        tensors[name + suffix] = scales.reshape(()) if kind.startswith("matrix") else scales
        tensors[name.replace("weight", "activation_scale")] = torch.tensor(1.0)
    assert_changes(values)
    block_size = BLOCK if kind == "block" else None
    write(tmp_path, tensors, quantization_config={**settings(block_size), "activation_scheme": "static"})
    whole = "one scale a matrix"  # also of matrices that are one block
    blocks = {"block": f"blocks of 128 x 128 or 8 bits, {whole}", "row": "one scale an output"}.get(kind, whole)
    assert_same_logits(tmp_path, values, f"FP8, 8 bits, {blocks}")


def test_values_are_those_of_transformers(tmp_path: Path) -> None:
    """On CPUs it dequantizes what it loads; it wants whole blocks."""
    transformers = import_module("transformers")
    tensors, names = weights(), []
    for name in matrices():
        if all(side % 128 == 0 for side in tensors[name].shape):
            names.append(name)
            tensors[name], tensors[f"{name}_scale_inv"], _ = quantize(tensors[name], (128, 128))
    assert len(names) > 20
    others = [name.removesuffix(".weight") for name in matrices() if name not in names]
    write(tmp_path, tensors, quantization_config={**settings(BLOCK), "modules_to_not_convert": ["lm_head", *others]})
    model = transformers.MiniCPMV4_6ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    expected = dict(model.named_parameters())
    checkpoint = read_checkpoint(tmp_path)
    found = checkpoint.tensors(expected_tensors(checkpoint.model))
    for name in names:
        ours, theirs = torch.from_numpy(found[name].dequantize()), expected[name].detach()
        assert torch.equal(ours.to(theirs.dtype), theirs), name

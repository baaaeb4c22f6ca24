"""Matrices as other readers make them (FP8, bitsandbytes, GGUF, ModelOpt, AutoRound) in the formats that hold them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_kit import random_blocks
from writer_kit import NAME, assert_same_codes, read_back, with_matrix, write

from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3, e5m2
from pocketvlm.checkpoint.formats.gguf import unpack_matrix
from pocketvlm.errors import OptionError
from pocketvlm.tensors import BlockValues, QuantizedTensor

SHAPE = ROWS, COLUMNS = 512, 256
FUSED = r".*layers\.3\.mlp\.(gate|up)_proj\.weight"
DICE = np.random.default_rng(0)


def float8(block: tuple[int, int], scales: np.ndarray, codebook: Any = None) -> QuantizedTensor:
    codes = DICE.integers(0, 120, SHAPE).astype(np.uint8)
    table = e4m3() if codebook is None else codebook
    return QuantizedTensor(NAME, 8, SHAPE, codes, BlockValues(scales, block), codebook=np.array(table))


def int8(**fields: Any) -> QuantizedTensor:
    codes = DICE.integers(-127, 128, SHAPE).astype(np.int8)
    scales = BlockValues(DICE.uniform(0.1, 1, (ROWS, 1)).astype(np.float32), (1, COLUMNS))
    return QuantizedTensor(NAME, 8, SHAPE, codes, scales, **fields)


def gguf(kind: str) -> QuantizedTensor:
    blocks = random_blocks(kind, ROWS, COLUMNS, np.random.default_rng(1))
    return unpack_matrix(NAME, kind, SHAPE, lambda: blocks)


def four_bits(**fields: Any) -> QuantizedTensor:
    codes = DICE.integers(0, 16, SHAPE).astype(np.uint8)
    scales = BlockValues(DICE.uniform(0.1, 1, (ROWS, 4)).astype(np.float16), (1, 64))
    return QuantizedTensor(NAME, 4, SHAPE, codes, **{"scales": scales, **fields})


def nvfp4(**fields: Any) -> QuantizedTensor:
    scales = BlockValues(DICE.integers(40, 100, (ROWS, 16)).astype(np.uint8), (1, 16), np.array(e4m3()))
    return four_bits(scales=scales, codebook=np.array(e2m1()), **fields)


def offset_zeros(values: np.ndarray) -> QuantizedTensor:
    return four_bits(zero_points=BlockValues(values.astype(np.uint8), (1, 64), offset=1.0))


F32 = np.float32
HELD = [
    ("compressed-tensors", float8((128, 128), DICE.uniform(0.1, 1, (4, 2)).astype(F32)), "block"),
    ("compressed-tensors", float8((1, COLUMNS), DICE.uniform(0.1, 1, (ROWS, 1)).astype(F32)), "channel"),
    ("compressed-tensors", float8(SHAPE, np.full((1, 1), 0.5, F32)), "tensor"),
    ("compressed-tensors", int8(global_divisor=127.0), "channel"),
    ("compressed-tensors", int8(zero_points=BlockValues(np.full((ROWS, 1), 3, np.int8), (1, COLUMNS))), "channel"),
    ("compressed-tensors", nvfp4(global_divisor=0.375), "tensor_group"),
    ("compressed-tensors", nvfp4(global_scale=0.25), "tensor_group"),
    *((format, gguf(kind), "") for kind in ("MXFP4", "NVFP4") for format in ("compressed-tensors", "mlx")),
    ("mlx", nvfp4(global_scale=0.5, global_divisor=2.0), ""),
    *((format, gguf("Q4_0"), "") for format in ("awq", "gptq", "compressed-tensors", "mlx")),
    *((format, offset_zeros(DICE.integers(0, 15, (ROWS, 4))), "") for format in ("awq", "gptq", "native")),
    ("awq", four_bits(zero_points=BlockValues(DICE.integers(0, 16, (ROWS, 1)).astype(np.uint8), (1, COLUMNS))), ""),
    ("gptq", four_bits(scales=BlockValues(np.full((4, 2), 0.5, F32), (128, 128))), ""),
]


@pytest.mark.parametrize(("format", "matrix", "strategy"), HELD)
def test_values_come_back(source: Path, tmp_path: Path, format: str, matrix: QuantizedTensor, strategy: str) -> None:
    tensors = with_matrix(source, matrix, FUSED)
    write(format, source, tensors, tmp_path / "out")
    found = read_back(tmp_path / "out")
    for name, tensor in tensors.items():
        if isinstance(tensor, QuantizedTensor):
            assert np.array_equal(found[name].dequantize(), tensor.dequantize()), name
    if matrix.codebook is None:
        assert assert_same_codes(found, tensors) == 2
    if strategy:
        assert f'"strategy": "{strategy}"' in (tmp_path / "out" / "config.json").read_text()


REFUSED = [
    ("compressed-tensors", float8((1, COLUMNS), np.ones((ROWS, 1), F32), e5m2()), "other numbers than E2M1 and E4M3"),
    ("compressed-tensors", nvfp4(global_scale=0.3), "its global scale 0.3 multiplies, and no exact number divides"),
    ("mlx", nvfp4(global_divisor=0.375), "MLX files have no global scale, and the matrix has one"),
    ("mlx", nvfp4(global_scale=2.0**-20), "a scale has the code"),
    ("mlx", float8((1, COLUMNS), np.ones((ROWS, 1), F32)), "its scales are no 8-bit powers of two"),
    ("mlx", int8(), "MLX stores scales in 16 bits, and there is scale"),
    ("gptq", int8(), "the format stores scales in 16 bits, and there is scale"),
    ("awq", offset_zeros(np.full((ROWS, 4), 15)), "zero points 16 to 16 do not fit 4 bits"),
]


@pytest.mark.parametrize(("format", "matrix", "message"), REFUSED)
def test_what_does_not_fit(source: Path, tmp_path: Path, format: str, matrix: QuantizedTensor, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        write(
            format, source, with_matrix(source, matrix, r".*layers\.3\.mlp\.(gate|up)_proj\.weight"), tmp_path / "out"
        )
    assert not list(tmp_path.iterdir())

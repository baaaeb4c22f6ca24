"""Quantized tensors of every form that checkpoint formats hold, random, for tests of the native backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pocketvlm.schemes import INT4_CODEBOOK
from pocketvlm.tensors import BlockValues, Floats, QuantizedTensor, grid_shape


def tensor_of(shape: tuple[int, int] = (20, 96), bits: int = 4, block: Any = (1, 32), **parts: Any) -> QuantizedTensor:
    """A random tensor as a file may hold it; unsigned codes, scales in float16."""
    random = np.random.default_rng(bits)
    grid = grid_shape(shape, block)
    given = {name: value(random, grid, block) if callable(value) else value for name, value in parts.items()}
    defaults = {
        "codes": random.integers(0, 2**bits, shape).astype(np.uint8),
        "scales": BlockValues(random.uniform(0.01, 0.1, grid).astype(np.float16), block),
    }
    return QuantizedTensor("w", bits, shape, **{**defaults, **given})


def integers(random: np.random.Generator, grid: Any, block: Any) -> BlockValues:
    """Zero points."""
    return BlockValues(random.integers(0, 16, grid).astype(np.uint8), block)


def floats(dtype: Any, size: float = 1.0) -> Any:
    """Scales or biases of a dtype."""
    return lambda random, grid, block: BlockValues((random.uniform(-1, 1, grid) * size).astype(dtype), block)


NF4 = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
FP4 = [sign * value for sign in (1, -1) for value in (0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4)]
E2M1 = [sign * value for sign in (1, -1) for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6)]
IQ4_NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
E2M3 = [
    sign * (m / 8 if e == 0 else 2.0 ** (e - 1) * (1 + m / 8)) for sign in (1, -1) for e in range(4) for m in range(8)
]


def small_float(exponents: int, mantissas: int, bias: int) -> Floats:
    """All numbers of a small float type by code; the codes of NaN as the largest number."""
    codes = np.arange(2 * exponents * mantissas)
    sign, exponent, mantissa = codes // (exponents * mantissas), codes // mantissas % exponents, codes % mantissas
    size = np.where(exponent == 0, mantissa, mantissas + mantissa) * 2.0 ** (np.maximum(exponent, 1) - bias)
    return np.where(sign == 1, -size / mantissas, size / mantissas).astype(np.float32)


E4M3 = small_float(16, 8, 7)


def book(*entries: float) -> Floats:
    return np.array(entries, np.float32)


def powers(low: int, high: int) -> Any:
    """E8M0 scales: bytes with the codebook of powers of two."""
    codebook = np.append(np.ldexp(np.float32(1), np.arange(255) - 127), np.nan).astype(np.float32)
    return lambda random, grid, block: BlockValues(
        random.integers(low + 127, high + 128, grid).astype(np.uint8), block, codebook
    )


def e4m3(random: np.random.Generator, grid: Any, block: Any) -> BlockValues:
    """Positive E4M3 scales, as NVFP4 has them."""
    return BlockValues(random.integers(1, 0x7F, grid).astype(np.uint8), block, E4M3)


def two_levels(span: int, sign: int = 1, low: int = 0, dtype: Any = np.float16) -> Any:
    """Small integers, each with a factor for `span` of them."""

    def made(random: np.random.Generator, grid: Any, block: Any) -> BlockValues:
        factors = random.uniform(0.001, 0.01, [grid[0], -(-grid[1] // span)]) * sign
        values = random.integers(low, 64, grid).astype(np.int8 if low < 0 else np.uint8)
        return BlockValues(values, block, scale=BlockValues(factors.astype(dtype), (1, span)))

    return made


def nested(random: np.random.Generator, grid: Any, block: Any) -> BlockValues:
    """Double quantization: a codebook times float32 numbers of 256 blocks, and an offset."""
    second = BlockValues(random.uniform(0.01, 1, -(-grid[0] // 256)).astype(np.float32), 256)
    codes = random.integers(0, 256, grid).astype(np.uint8)
    return BlockValues(codes, block, np.linspace(-1, 1, 256, dtype=np.float32), second, offset=0.0317)


def bf16(low: float, high: float) -> Any:
    """bfloat16 numbers of very different size, of both signs, as float32."""

    def made(random: np.random.Generator, grid: Any, block: Any) -> BlockValues:
        numbers = (np.exp2(random.uniform(low, high, grid)) * random.choice([-1, 1], grid)).astype(np.float32)
        return BlockValues((numbers.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32), block)

    return made


def signed(bits: int, shape: tuple[int, int] = (20, 96)) -> Any:
    return lambda random, grid, block: random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int8)


def case(name: str, container: int, tensor: QuantizedTensor, stored: int = 11) -> Any:
    """A form, the bits of the container that it must get, and the largest relative error 2^-stored of a value."""
    return pytest.param(tensor, container, stored, id=name)


# A tensor of every form that checkpoint formats hold. 23: nothing but float32 arithmetic is rounded.
FORMS = [
    *(
        case(f"plain 4 bit, group {group}", 4, tensor_of((20, 256), block=(1, group), zero_points=integers), 23)
        for group in (16, 32, 64, 128, 256)
    ),
    *(
        case(f"codebook, group {group}", 4, tensor_of((20, 256), block=(1, group), codebook=book(*IQ4_NL)), 23)
        for group in (16, 32, 64, 128, 256)
    ),
    case("AWQ", 4, tensor_of((36, 384), block=(1, 128), zero_points=integers), 23),
    case("GPTQ, symmetric", 4, tensor_of(zero_points=BlockValues(np.full((1, 1), 8, np.uint8), (20, 96))), 23),
    case("GPTQ, zero points of 16", 4, tensor_of(zero_points=lambda r, g, b: BlockValues(r.integers(1, 17, g), b)), 23),
    case(
        "GPTQ, permuted", 4, tensor_of(zero_points=integers, permutation=np.random.default_rng(1).permutation(96)), 23
    ),
    case("GPTQ, 8 bits", 8, tensor_of(bits=8, zero_points=lambda r, g, b: BlockValues(r.integers(0, 256, g), b)), 23),
    case("GPTQ, 3 bits", 4, tensor_of(bits=3, zero_points=lambda r, g, b: BlockValues(r.integers(0, 8, g), b)), 23),
    case("GPTQ, 2 bits", 4, tensor_of(bits=2, block=(1, 8), zero_points=integers), 23),
    case("zero points between integers", 4, tensor_of(zero_points=floats(np.float32)), 23),
    case("zero points of other blocks", 4, tensor_of(zero_points=BlockValues(np.array([[3], [9]]), (10, 96))), 23),
    case("Q4_0", 4, tensor_of(codes=signed(4)), 23),
    case("Q4_1", 4, tensor_of(biases=floats(np.float16)), 23),
    case("Q4_K", 4, tensor_of((20, 512), scales=two_levels(8), biases=two_levels(8, -1)), 23),
    case("Q5_0", 5, tensor_of(bits=5, codes=signed(5)), 23),
    case("Q5_K", 5, tensor_of((20, 512), bits=5, scales=two_levels(8), biases=two_levels(8, -1)), 23),
    case(
        "Q6_K",
        6,
        tensor_of((20, 512), bits=6, block=(1, 16), codes=signed(6, (20, 512)), scales=two_levels(16, low=-64)),
        23,
    ),
    case("Q8_0", 8, tensor_of(bits=8, codes=signed(8)), 23),
    case("IQ4_NL", 4, tensor_of(codebook=book(*IQ4_NL)), 23),
    case("MXFP4", 4, tensor_of(codebook=book(*E2M1), scales=powers(-12, 3)), 23),
    case("MXFP4, wide range", 4, tensor_of(codebook=book(*E2M1), scales=powers(-100, 100)), 23),
    case("NVFP4", 4, tensor_of(block=(1, 16), codebook=book(*E2M1), scales=e4m3, global_divisor=3270.7), 23),
    *(
        case(
            f"MLX, {bits} bits",
            max(4, bits),
            tensor_of(bits=bits, scales=bf16(-12, -7), biases=bf16(-9, -3)),
            23,
        )
        for bits in (2, 3, 4, 5, 6, 8)
    ),
    case(
        "MLX, group 64, negative scales",
        4,
        tensor_of((20, 192), block=(1, 64), scales=bf16(-9, -8), biases=bf16(-7, -5)),
        23,
    ),
    case("bfloat16 scales of all sizes", 4, tensor_of(scales=bf16(-60, 3), biases=bf16(-60, 3)), 23),
    case("NF4", 4, tensor_of(block=32, codebook=book(*NF4), scales=floats(np.float32)), 15),
    case("NF4, nested absmax", 4, tensor_of((20, 1024), block=64, codebook=book(*NF4), scales=nested), 15),
    case("NF4, blocks that straddle rows", 4, tensor_of((20, 272), block=64, codebook=book(*NF4), scales=nested), 15),
    case("FP4", 4, tensor_of(block=32, codebook=book(*FP4), scales=floats(np.float32)), 22),
    case("FP8, 128 x 128", 16, tensor_of((150, 200), 8, (128, 128), codebook=E4M3, scales=floats(np.float32)), 8),
    case("FP8, a scale an output", 16, tensor_of(bits=8, block=(1, 96), codebook=E4M3, scales=floats(np.float32)), 8),
    case("MXFP8", 16, tensor_of(bits=8, codebook=E4M3, scales=powers(-12, 3)), 23),
    case("MXFP6 E2M3", 8, tensor_of(bits=6, codebook=book(*E2M3), scales=powers(-12, 3)), 23),
    case("MXFP6 E3M2", 16, tensor_of(bits=6, codebook=small_float(8, 4, 3), scales=powers(-12, 3)), 23),
    case(
        "LLM.int8",
        8,
        tensor_of(bits=8, block=(1, 96), codes=signed(8), scales=floats(np.float32), global_divisor=127.0),
        23,
    ),
    case("W8A8, zero points", 8, tensor_of(bits=8, block=(1, 96), codes=signed(8), zero_points=integers), 23),
    case(
        "a scale for the tensor", 8, tensor_of(bits=8, block=(20, 96), codes=signed(8), scales=floats(np.float32)), 23
    ),
    case(
        "128 x 128 blocks",
        8,
        tensor_of((150, 200), 8, (128, 128), codes=signed(8, (150, 200)), scales=floats(np.float32)),
        23,
    ),
    case("blocks of rows", 8, tensor_of(bits=8, block=(16, 24), zero_points=integers), 23),
    case("flat blocks that divide rows", 4, tensor_of(block=48, zero_points=integers), 23),
    case("one scale", 4, tensor_of(block=(20, 96)), 23),
    case("a scale a row of 300", 4, tensor_of((20, 300), block=(1, 300), zero_points=integers), 23),
    case("a flat block a row of 300", 4, tensor_of((20, 300), block=300, zero_points=integers), 23),
    case("flat blocks of three rows", 4, tensor_of((20, 300), block=900, zero_points=integers), 23),
    case("groups of 320 are split", 4, tensor_of((20, 960), block=(1, 320), zero_points=integers), 23),
    case("groups of 264 stay", 4, tensor_of((20, 528), block=(1, 264), zero_points=integers), 23),
    case("a partial group", 4, tensor_of((20, 90), zero_points=integers), 23),
    case("blocks of different widths", 4, tensor_of(biases=BlockValues(np.ones((20, 2), np.float32) / 3, (1, 48))), 23),
    case("codebook, global scale", 4, tensor_of(codebook=np.array(INT4_CODEBOOK, np.float32), global_scale=3.0), 23),
    case("codebook, biases", 4, tensor_of(codebook=book(*E2M1), biases=floats(np.float16)), 23),
    case("codebook, zero points", 4, tensor_of(codebook=book(*E2M1), zero_points=integers), 23),
    case("global divisor, biases", 4, tensor_of(global_divisor=5.0, biases=floats(np.float16)), 23),
    case("float32 scales of all sizes", 6, tensor_of(bits=6, block=(1, 16), scales=floats(np.float32, 1e-20)), 23),
    case("scales of zero", 4, tensor_of(scales=BlockValues(np.zeros((20, 3), np.float32), (1, 32))), 23),
    case("groups of 12", 32, tensor_of(block=(1, 12)), 23),
]


def form(name: str) -> QuantizedTensor:
    """The tensor of a form by its name."""
    found: Any = next(form.values[0] for form in FORMS if form.id == name)
    assert isinstance(found, QuantizedTensor)
    return found

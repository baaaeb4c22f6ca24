"""Tensor schemes: names, fields as readers make them, exact values, and matrices at the edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pocketvlm import _native
from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.options import choose
from pocketvlm.checkpoint.formats.gguf import BLOCK_TYPES, unpack_matrix
from pocketvlm.errors import OptionError, TensorError
from pocketvlm.quantize.levels import codebook
from pocketvlm.quantize.methods import nearest
from pocketvlm.quantize.tensor_scheme import TensorScheme
from pocketvlm.quantize.tensor_schemes import schemes, tensor_scheme
from pocketvlm.tensors import BlockValues, Floats, LazyArray, QuantizedTensor, load

BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL")
FLOATS = ("mxfp4", "mxfp8", "nvfp4", "nvfp4-mlx")
NAMES = [
    *(f"int{bits}-g{group}" for bits in (2, 3, 4, 5, 6, 8) for group in (16, 128)),
    *("int4-g32-sym", "int3-g64-sym", "int8-g128-sym", "int4-g64-bias", "int5-g32-bias", "int8-g64-bias"),
    *("int4-g32-permuted", "int4-g32-sym-permuted", "int8", *BLOCKS, *FLOATS),
]


def weights(shape: tuple[int, int], seed: int = 0) -> Floats:
    """Weights with heavy tails."""
    return (0.02 * np.random.default_rng(seed).standard_t(4, shape)).astype(np.float32)


def fitted(scheme: TensorScheme, w: Floats) -> tuple[QuantizedTensor, Floats]:
    """A tensor made with the scheme's own methods, and the values that its grids give."""
    scheme = scheme.bound(w)
    span = scheme.span(w.shape[1])
    parameters, codes, values = [], [], []
    for at in range(0, w.shape[1], span):
        part = w[:, at : at + span]
        parameters.append(scheme.fit(part))
        grid = scheme.grid(parameters[-1])
        codes.append(grid.encode(np.ascontiguousarray(part.T)).T)
        values.append(grid.decode(np.ascontiguousarray(codes[-1].T)).T)
    return scheme.tensor("w", np.concatenate(codes, 1), parameters), np.concatenate(values, 1)


@pytest.mark.parametrize("name", NAMES)
def test_decoded_values_are_those_of_the_tensor(name: str) -> None:
    """Bit for bit; so are those of the method, of single columns, and of the native backend."""
    scheme, w = tensor_scheme(name), weights((7, 512))
    tensor, values = fitted(scheme, w)
    np.testing.assert_array_equal(tensor.dequantize(), values)
    np.testing.assert_array_equal(nearest("w", w, scheme).dequantize(), values)
    assert np.linalg.norm(values - w) < {2: 0.6, 3: 0.35}.get(tensor.bits, 0.15) * np.linalg.norm(w)
    bound = scheme.bound(w)
    span = bound.span(512)
    parameters = bound.fit(w[:, -span:])
    grid = bound.grid(parameters)
    for column in {0, span // 2 + 1, span - 1}:
        one = w[:, 512 - span + column : 512 - span + column + 1]
        codes, found = grid.round(np.ascontiguousarray(one.T), column // grid.group)
        assert codes.dtype == tensor.codes.dtype
        np.testing.assert_array_equal(codes[0], load(tensor.codes)[:, 512 - span + column])
        np.testing.assert_array_equal(found[0], values[:, 512 - span + column])


@pytest.mark.parametrize("name", NAMES)
def test_values_are_quantized_to_themselves(name: str) -> None:
    """With the same parameters, each value has the code that it came from."""
    scheme, w = tensor_scheme(name), weights((5, 256), 1)
    scheme = scheme.bound(w)
    span = scheme.span(256)
    grid = scheme.grid(scheme.fit(w[:, :span]))
    values = grid.decode(grid.encode(np.ascontiguousarray(w[:, :span].T)))
    again = grid.decode(grid.encode(values))
    np.testing.assert_array_equal(again, values)


def described(part: BlockValues | None) -> Any:
    """Shape, dtype, block and further levels of numbers of blocks."""
    if part is None:
        return None
    book = None if part.codebook is None else part.codebook.tobytes()
    return tuple(part.values.shape), part.values.dtype, part.block, book, described(part.scale), part.offset


@pytest.mark.parametrize("name", BLOCKS)
def test_fields_are_those_of_the_reader(name: str) -> None:
    w = weights((3, 512))
    read = unpack_matrix("w", name, (3, 512), lambda: np.zeros((3, 512 // BLOCK_TYPES[name].values), np.uint8))
    scheme = tensor_scheme(name)
    for tensor in (nearest("w", w, scheme), scheme.placeholder("w", (3, 512))):
        assert (tensor.bits, tensor.codes.dtype) == (read.bits, read.codes.dtype)
        assert described(tensor.scales) == described(read.scales)
        assert described(tensor.biases) == described(read.biases)
        assert tensor.zero_points is read.zero_points is None
        assert (tensor.codebook is None) == (read.codebook is None)
        if tensor.codebook is not None:
            np.testing.assert_array_equal(tensor.codebook, read.codebook)
    bits = BLOCK_TYPES[name].nbytes * 8 / BLOCK_TYPES[name].values
    assert scheme.bits_per_weight((3, 512)) == bits


@pytest.mark.parametrize("name", NAMES)
def test_a_placeholder_has_the_fields_of_a_tensor(name: str) -> None:
    w = weights((4, 256))
    scheme = tensor_scheme(name).bound(w)
    tensor, empty = nearest("w", w, scheme), scheme.placeholder("w", (4, 256))
    assert empty.codes.dtype == tensor.codes.dtype
    for field in ("scales", "zero_points", "biases"):
        assert described(getattr(empty, field)) == described(getattr(tensor, field))
    assert isinstance(empty.codes, LazyArray)
    with pytest.raises(TensorError, match="w: was not quantized yet"):
        empty.dequantize()


@pytest.mark.parametrize("name", NAMES)
def test_the_native_backend_holds_the_values(name: str) -> None:
    tensor = nearest("w", weights((20, 256)), tensor_scheme(name))
    ops = NativeBackend(_native.Runtime(1, _native.usable_isas()[-1]), {}, choose("native"))
    table = ops.prepare(tensor, "embedding")
    found = ops.embed(table, np.arange(20, dtype=np.int32))
    if name == "nvfp4":  # the divisor becomes part of the scales
        np.testing.assert_allclose(found, tensor.dequantize(), rtol=1e-6)
    else:
        np.testing.assert_array_equal(found, tensor.dequantize())
    ops.prepare(tensor, "matrix")


@pytest.mark.parametrize("name", NAMES)
def test_groups_at_the_edge(name: str) -> None:
    """Zeros are exact; constants, one huge number, tiny numbers, one row and inputs without importance are finite."""
    scheme = tensor_scheme(name)
    w = weights((6, 256))
    w[0] = 0
    w[1] = 0.0125
    w[2] = -0.3
    w[3, 17] = 1000
    w[4] *= 1e-6
    w[5, :16] = 0
    importance = np.zeros(256, np.float32)
    importance[200:] = 1
    for some in (None, importance, np.zeros(256, np.float32)):
        values = nearest("w", w, scheme, some).dequantize()
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values[0], 0)
        others = slice(200, None) if some is importance else slice(None)
        for row in (1, 2):
            assert (np.abs(values[row] - w[row])[others] <= 0.18 * np.abs(w[row, 0])).all()
        np.testing.assert_allclose(values[3, 17] if some is not importance else 1000, 1000, rtol=0.2)
    alone = nearest("w", w[5:], scheme).dequantize()
    assert np.linalg.norm(alone - w[5:]) < {2: 0.6, 3: 0.35}.get(scheme.placeholder("w", (1, 256)).bits, 0.2) * (
        np.linalg.norm(w[5])
    )


def test_every_scheme_says_what_it_needs() -> None:
    for name, scheme in schemes().items():
        assert scheme.name == name
        width = scheme.span(512)
        assert scheme.problem((8, 512)) is None
        if width != 512:
            assert scheme.problem((8, 512 + width // 2)) == (
                f"{name} needs rows of a multiple of {width} inputs, not {512 + width // 2}"
            )
        empty = scheme.placeholder("w", (8, 512))
        assert empty.bits <= scheme.bits_per_weight((8, 512)) <= empty.bits + 2.5
    assert tensor_scheme("int4-g128").bits_per_weight((1024, 1024)) == 4 + 20 / 128
    assert tensor_scheme("int4-g64-bias").bits_per_weight((1024, 1024)) == 4.5
    assert tensor_scheme("Q4_K").bits_per_weight((1024, 1024)) == 4.5


def test_unknown_names_are_refused() -> None:
    for name in ("int4", "int7-g64", "int4-g48", "q4_k", "Q4_K_M", ""):
        with pytest.raises(OptionError, match=r"unknown quantization scheme .*Q4_K"):
            tensor_scheme(name)


def test_only_schemes_that_permute_store_a_permutation() -> None:
    scheme, w = tensor_scheme("int4-g32"), weights((4, 64))
    parameters = [scheme.fit(w[:, at : at + 32]) for at in (0, 32)]
    codes = np.zeros((4, 64), np.uint8)
    with pytest.raises(TensorError, match="int4-g32 does not store a permutation"):
        scheme.tensor("w", codes, parameters, np.arange(64)[::-1])


@pytest.mark.parametrize("name", ["IQ4_NL", "mxfp4", "mxfp8"])
def test_numbers_get_the_nearest_entry_of_a_codebook(name: str) -> None:
    """Any number, those next to the middles of neighbours included."""
    entries = tensor_scheme(name).placeholder("w", (1, 256)).codebook
    assert entries is not None
    levels = codebook(entries)
    usable = np.unique(entries[np.isfinite(entries)]).astype(np.float64)
    middles = ((usable[1:] + usable[:-1]) / 2).astype(np.float32)
    t = np.concatenate([np.nextafter(middles, np.float32(-1e9)), np.nextafter(middles, np.float32(1e9)), middles])
    t = np.concatenate(
        [t, np.random.default_rng(0).standard_normal(2000).astype(np.float32) * usable[-1], [1e30, -1e30]]
    )
    t = t.astype(np.float32)
    expected = np.abs(t[:, None].astype(np.float64) - usable).min(1)
    found = levels.decode(levels.encode(t))
    np.testing.assert_array_equal(np.abs(found.astype(np.float64) - t), expected)
    np.testing.assert_array_equal(levels.nearest(t.copy()), found)


def test_codebooks_that_the_table_cannot_round_are_refused() -> None:
    with pytest.raises(ValueError, match="8 significant bits"):
        codebook(np.array([0.0, 1.0 + 2.0**-12], np.float32))

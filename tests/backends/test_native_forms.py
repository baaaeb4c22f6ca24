"""Every form of quantized tensor: its container, its values in the kernels, and exact products of small integers."""

from __future__ import annotations

import numpy as np
import pytest
from native_kit import Inputs, usable
from quantized_forms import E2M1, E2M3, FORMS, FP4, IQ4_NL, NF4, book, form, integers, signed, tensor_of

from pocketvlm import _native
from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.native.layout import integer_codebook, kernel_of, layout_of
from pocketvlm.backends.native.pack import pack, pack_codes
from pocketvlm.backends.native.packed_matrix import PackedMatrix, packed_matrix
from pocketvlm.backends.options import choose
from pocketvlm.tensors import Floats, QuantizedTensor, spread

RUNTIME = _native.Runtime(2, usable()[-1])


@pytest.mark.parametrize(("tensor", "container", "stored"), FORMS)
def test_a_form_is_packed_and_multiplied_without_a_second_rounding(
    tensor: QuantizedTensor, container: int, stored: int
) -> None:
    """The kernels see the values of the formula; with activations that 8 bits hold, products are exact."""
    assert layout_of(tensor).bits == container
    ops = NativeBackend(RUNTIME, {}, choose("native"))
    weight = ops.prepare(tensor, "matrix")
    values = tensor.dequantize()
    ids = np.arange(tensor.shape[0], dtype=np.int32)
    found = ops.embed(weight, ids)
    size = np.abs(values)
    if tensor.codebook is not None:  # entries are rounded relative to the largest
        scales = spread(tensor.block_scales(), tensor.block, tensor.shape)
        size = np.abs(scales * np.abs(tensor.codebook).max()) if stored < 23 and container < 16 else size
    if tensor.biases is not None:
        size = size + np.abs(tensor.biases.spread(tensor.shape))
    if tensor.zero_points is not None:
        scales = spread(tensor.block_scales(), tensor.block, tensor.shape)
        size = size + np.abs(scales * tensor.zero_points.spread(tensor.shape))
    assert (np.abs(found - values) <= 2.0**-stored * size * 1.01).all()
    x = exact_activations(tensor, 7)
    expected = x.astype(np.float64) @ values.T.astype(np.float64)
    allowed = (2.0**-20 + 2.0**-stored) * (np.abs(x).astype(np.float64) @ (size + np.abs(values)).T) + 1e-30
    for rows in (1, 2, 7):
        assert (np.abs(ops.linear(x[:rows], weight) - expected[:rows]) <= allowed[:rows]).all()
    # Any other activations are rounded to 8 bits, and nothing else is.
    x = Inputs(7)(5, tensor.shape[1])
    expected = x.astype(np.float64) @ values.T.astype(np.float64)
    assert np.linalg.norm(ops.linear(x, weight) - expected) <= 0.02 * np.linalg.norm(expected)
    # Exact arithmetic multiplies the numbers of the formula.
    exact = NativeBackend(RUNTIME, {})
    found = exact.linear(x, exact.prepare(tensor, "matrix"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def exact_activations(tensor: QuantizedTensor, rows: int) -> Floats:
    """Small integers with one of 127 in each group of a row: their 8-bit scale is 1."""
    inputs, group = tensor.shape[1], layout_of(tensor).group or tensor.shape[1]
    x = np.random.default_rng(3).integers(-127, 128, (rows, inputs)).astype(np.float32)
    firsts = np.arange(0, inputs, group)
    x[:, firsts if tensor.permutation is None else tensor.permutation[firsts]] = 127
    return x


@pytest.mark.parametrize(
    "name",
    ["AWQ", "GPTQ, permuted", "GPTQ, 3 bits", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"]
    + [f"MLX, {bits} bits" for bits in (2, 3, 4, 5, 6, 8)],
)
def test_rows_are_looked_up_exactly(name: str) -> None:
    """Bit for bit, whether the matrix is multiplied too or not."""
    tensor = form(name)
    ops = NativeBackend(RUNTIME, {}, choose("native"))
    rows = np.array([3, 0, 19], np.int32)
    for role in ("embedding", "tied_embedding"):
        table = ops.prepare(tensor, role)
        assert isinstance(table, PackedMatrix)
        np.testing.assert_array_equal(ops.embed(table, rows), tensor.dequantize()[rows])


def test_pixels_are_not_rounded() -> None:
    tensor = form("AWQ")
    ops = NativeBackend(RUNTIME, {}, choose("native"))
    found = ops.linear(np.eye(384, dtype=np.float32), ops.prepare(tensor, "patch_embedding"))
    np.testing.assert_array_equal(found, tensor.dequantize().T)


def test_an_embedding_that_is_not_packed_is_looked_up_exactly() -> None:
    tensor = form("FP8, 128 x 128")
    ops = NativeBackend(RUNTIME, {}, choose("native"))
    rows = np.array([3, 0, 19], np.int32)
    np.testing.assert_array_equal(ops.embed(ops.prepare(tensor, "embedding"), rows), tensor.dequantize()[rows])


@pytest.mark.parametrize(("tensor", "container", "stored"), FORMS)
def test_a_form_says_which_kernel_multiplies_it(tensor: QuantizedTensor, container: int, stored: int) -> None:
    said = kernel_of(tensor)
    kernel = {16: "bfloat16", 32: "float32"}.get(container, f"{container}-bit integer")
    assert said.startswith(f"{kernel} products (")
    assert ("rounded to bfloat16 (at most 2^-8" in said) == (stored == 8)
    assert ("bfloat16 holds its values exactly" in said) == (container == 16 and stored == 23)
    assert ("rounded to 16 bits, by 1.3e-05" in said) == (stored == 15)
    assert ("inputs permuted" in said) == (tensor.permutation is not None)


@pytest.mark.parametrize(
    ("bits", "group", "container", "said"),
    [
        (5, 32, 5, "5-bit codes, groups of 32, zero points: codes as stored)"),
        (5, 16, 6, "codes as stored, 5-bit products need groups of a multiple of 32)"),
        (5, 48, 6, "codes as stored, 5-bit products need groups of a multiple of 32)"),
        (5, 8, 8, "codes as stored, 5-bit products need groups of a multiple of 32)"),
        (6, 16, 6, "6-bit codes, groups of 16, zero points: codes as stored)"),
        (6, 8, 8, "codes as stored, 6-bit products need groups of a multiple of 16)"),
        (6, 96, 6, "6-bit codes, groups of 96, zero points: codes as stored)"),
        (7, 32, 8, "7-bit codes, groups of 32, zero points: codes as stored)"),
    ],
)
def test_codes_of_5_and_6_bits_have_their_own_container(bits: int, group: int, container: int, said: str) -> None:
    """Where their groups fill its lines; the same codes as bytes give the same bits."""
    tensor = tensor_of((40, 288), bits=bits, block=(1, group), codes=signed(bits, (40, 288)), zero_points=integers)
    layout = layout_of(tensor)
    assert (layout.bits, layout.group) == (container, group)
    assert kernel_of(tensor).endswith(said)
    packed = pack(RUNTIME, tensor)
    assert isinstance(packed, PackedMatrix)
    assert packed.codes.size == 48 * 288 * container // 8
    codes = (tensor.load_codes().astype(np.int16) + 128).astype(np.uint8)
    numbers = {name: value for name, value in packed.arrays().items() if name not in ("codes", "permutation")}
    wide = packed_matrix(
        8,
        group,
        288,
        40,
        pack_codes(codes, 8, 288),
        codebook=None,
        group_bias=None,
        span=1,
        zero=packed.zero,
        **numbers,
    )
    ops = NativeBackend(RUNTIME, {}, choose("native"))
    for rows in (1, 2, 12, 29):
        x = Inputs(rows)(rows, 288)
        np.testing.assert_array_equal(ops.linear(x, packed), ops.linear(x, wide))


@pytest.mark.parametrize(("bits", "inputs", "group"), [(5, 300, 128), (6, 300, 128), (6, 40, 48), (5, 40, 64)])
def test_a_scale_a_row_is_repeated_for_parts_of_it(bits: int, inputs: int, group: int) -> None:
    shape = (20, inputs)
    tensor = tensor_of(shape, bits=bits, block=(1, inputs), codes=signed(bits, shape))
    layout = layout_of(tensor)
    assert (layout.bits, layout.group) == (bits, group)
    ops = NativeBackend(RUNTIME, {}, choose("native"))
    table = ops.prepare(tensor, "embedding")
    np.testing.assert_array_equal(ops.embed(table, np.arange(20, dtype=np.int32)), tensor.dequantize())


@pytest.mark.parametrize(("bits", "group"), [(4, 8), (5, 32), (6, 16), (8, 8)])
def test_codes_lie_in_lines(bits: int, group: int) -> None:
    """Any outputs, packed a part at a time: nibbles, and the upper bits of the same inputs in a line after them."""
    random = np.random.default_rng(bits)
    lines = {4: 1, 5: 5, 6: 3, 8: 1}[bits]
    inputs = 32 * lines // bits
    depth = 4 * max(inputs, group)
    codes = random.integers(0, 2**bits, (37, depth - 3)).astype(np.uint8)
    packed = pack_codes(codes, bits, depth)
    assert packed.shape == (3, depth * bits // 32, 64)
    for output, k in zip(random.integers(0, 48, 300), random.integers(0, depth, 300), strict=True):
        unit = packed[output // 16].reshape(-1, lines, 16, 4)[k // inputs, :, output % 16, k % 4]
        word = int(k) % inputs // 4
        code = int(unit[0]) if bits == 8 else int(unit[word // 2]) >> word % 2 * 4 & 15
        for bit in range(bits - 4 if bits in (5, 6) else 0):
            code |= (int(unit[-1]) >> (4 + (bits - 4) * word + bit) % 8 & 1) << 4 + bit
        assert code == (codes[output, k] if output < 37 and k < depth - 3 else 2 ** (bits - 1))


@pytest.mark.parametrize(
    ("name", "scale", "bias", "zeros"),
    [
        ("AWQ", "uint16", None, True),
        ("GPTQ, symmetric", "uint16", None, False),
        ("Q4_1", "uint16", "uint16", False),
        ("Q4_K", "int8", "int8", False),
        ("Q6_K", "int8", None, False),
        ("MXFP4", "uint16", None, False),
        ("MXFP4, wide range", "float32", None, False),
        ("NVFP4", "uint16", None, False),
        ("MLX, 4 bits", "uint16", "uint16", False),
        ("bfloat16 scales of all sizes", "float32", "float32", False),
        ("NF4, nested absmax", "float32", None, False),
        ("W8A8, zero points", "uint16", None, True),
        ("zero points between integers", "uint16", "float32", False),
    ],
)
def test_numbers_of_groups_have_the_smallest_type_that_holds_them(
    name: str, scale: str, bias: str | None, zeros: bool
) -> None:
    packed = pack(RUNTIME, form(name))
    assert isinstance(packed, PackedMatrix)
    assert packed.group_scale is not None
    assert packed.group_scale.dtype == scale
    assert (None if packed.group_bias is None else packed.group_bias.dtype) == bias
    assert (packed.zero_points is not None) == zeros


def test_integer_codebooks() -> None:
    """Exact where integers of 8 or 16 bits give the entries; NF4 is rounded to 16 bits, and says by how much."""
    for entries, wide in ((E2M1, False), (IQ4_NL, False), (E2M3, False), (FP4, True)):
        found = integer_codebook(book(*entries))
        assert (found.wide, found.error) == (wide, 0.0)
        np.testing.assert_allclose(found.integers * found.unit, entries, rtol=1e-7, atol=1e-7)
    nf4 = integer_codebook(book(*NF4))
    assert nf4.wide
    assert 0 < nf4.error <= 2.0**-16
    np.testing.assert_allclose(nf4.integers * nf4.unit, NF4, atol=nf4.error * 1.001)
    high, low = nf4.packed().astype(int) - 128
    np.testing.assert_array_equal(256 * high + low, nf4.integers)


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize(
    "name",
    [
        "AWQ",
        "GPTQ, permuted",
        "Q4_1",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "MLX, 8 bits",
        "MXFP4, wide range",
        "NF4, nested absmax",
        "FP4",
    ],
)
def test_a_row_does_not_depend_on_its_batch(name: str, isa: str) -> None:
    ops = NativeBackend(_native.Runtime(2, isa), {}, choose("native"))
    tensor = form(name)
    weight = ops.prepare(tensor, "matrix")
    x = Inputs(4)(30, tensor.shape[1])
    everything = ops.linear(x, weight)
    for rows in (1, 2, 3, 5, 8, 13, 17, 29):
        np.testing.assert_array_equal(ops.linear(x[:rows], weight), everything[:rows])
        np.testing.assert_array_equal(ops.linear(x[30 - rows :], weight), everything[30 - rows :])


@pytest.mark.parametrize("isa", usable())
def test_matrices_that_share_a_permutation_multiply_together(isa: str) -> None:
    """The same as one after the other, whether the permutation is the same array, an equal one or another one."""
    runtime = _native.Runtime(2, isa)
    ops = NativeBackend(runtime, {}, choose("native"))
    orders = [np.random.default_rng(seed).permutation(96) for seed in (1, 1, 2)] + [None]
    weights = [ops.prepare(tensor_of(zero_points=integers, permutation=order), "matrix") for order in orders]
    for rows in (1, 5, 120):
        x = Inputs(rows)(rows, 96)
        for together, weight in zip(ops.linears(x, weights), weights, strict=True):  # type: ignore[arg-type]
            np.testing.assert_array_equal(together, ops.linear(x, weight))

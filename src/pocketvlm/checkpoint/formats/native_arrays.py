"""The arrays that a tensor becomes in the native format, and what its JSON text says of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.bitstream import byte_count, pack
from pocketvlm.checkpoint.formats.format import Shape
from pocketvlm.checkpoint.formats.safetensors import FileArray, dense_array
from pocketvlm.errors import TensorError
from pocketvlm.tensors import (
    BlockValues,
    DenseTensor,
    QuantizedTensor,
    Tensor,
    all_finite,
    bfloat16_to_float32,
    load,
)

VERSION = 1
TEXT = "quantization"  # what follows the name of a matrix in that of its JSON text
BLOCK_PARTS = ("scales", "zero_points", "biases")
LEVELS = 3  # of scales of scales
_FLOATS: dict[str, str] = {"float32": "F32", "float16": "F16", "float64": "F64"}
INTEGERS: dict[str, str] = {"uint8": "U8", "int8": "I8"}
DTYPES = {**_FLOATS, **INTEGERS, "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64"}


def native_arrays(name: str, tensor: Tensor) -> dict[str, FileArray]:
    """The arrays of a tensor by their names in the file."""
    if isinstance(tensor, DenseTensor):
        return {name: replace(dense_array(tensor), read=tensor.finite_data)}
    how: dict[str, Any] = {
        "version": VERSION,
        "shape": list(tensor.shape),
        "bits": tensor.bits,
        "signed": tensor.codes.dtype == np.int8,
        "global_scale": float(tensor.global_scale),
        "global_divisor": float(tensor.global_divisor),
    }
    arrays: dict[str, FileArray] = {"codes": _packed(tensor.shape, tensor.bits, tensor.codes.dtype, tensor.load_codes)}
    for part in BLOCK_PARTS:
        values: BlockValues | None = getattr(tensor, part)
        if values is not None:
            how[part] = _block_values(tensor, part, values, arrays)
    if tensor.codebook is not None:
        arrays["codebook"] = _codebook(tensor.codebook)
    if tensor.permutation is not None:
        order = tensor.permutation.astype(np.int32)
        arrays["permutation"] = FileArray("I32", order.shape, lambda: order)
    text = np.frombuffer(json.dumps(how).encode(), np.uint8)
    arrays = {TEXT: FileArray("U8", text.shape, lambda: text), **arrays}
    return {f"{name}.{suffix}": array for suffix, array in arrays.items()}


def _packed(shape: Shape, bits: int, dtype: np.dtype[Any], read: Callable[[], NDArray[Any]]) -> FileArray:
    """Integers of a byte each, packed along the last axis unless they need all of its bits."""
    if bits == 8:
        return FileArray(INTEGERS[dtype.name], shape, read)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    stored = (*shape[:-1], byte_count(columns, bits))
    return FileArray("U8", stored, lambda: pack(read().reshape(rows, columns), bits).reshape(stored))


def _codebook(codebook: NDArray[Any]) -> FileArray:
    values = codebook.astype(np.float32)
    return FileArray("F32", values.shape, lambda: values)


def _block_values(
    tensor: QuantizedTensor, path: str, numbers: BlockValues, arrays: dict[str, FileArray]
) -> dict[str, Any]:
    """The description of the numbers of blocks; adds their arrays. Raises TensorError for what cannot be stored."""
    if path.count(".scale") >= LEVELS:
        raise TensorError(f"{tensor.label}: {path}: more than {LEVELS} levels of scales are not supported")
    values = load(numbers.values)
    dtype = values.dtype.newbyteorder("=").name
    if dtype not in DTYPES:
        raise TensorError(f"{tensor.label}: {path} of {dtype} are not supported: {', '.join(DTYPES)} are")
    if dtype in ("float32", "float16") and not all_finite(values, "f32" if dtype == "float32" else "f16"):
        raise TensorError(f"{tensor.label}: {path}: a value is infinite or NaN: quantize or copy the matrix again")
    block = numbers.block if isinstance(numbers.block, int) else list(numbers.block)
    how: dict[str, Any] = {"block": block, "dtype": dtype}
    if numbers.offset:
        how["offset"] = float(numbers.offset)
    if dtype in INTEGERS and values.size and values.min() == values.max() and numbers.codebook is None:
        how["value"] = int(values.flat[0])
    elif dtype in INTEGERS:
        how["bits"] = _bits_needed(values)
        arrays[path] = _packed(values.shape, how["bits"], values.dtype, lambda: load(numbers.values))
    elif dtype == "float32" and np.array_equal(bfloat16_to_float32(_high_bits(values)), values):
        arrays[path] = FileArray("BF16", values.shape, lambda: _high_bits(load(numbers.values)))
    else:
        arrays[path] = FileArray(DTYPES[dtype], values.shape, lambda: load(numbers.values))
    if numbers.codebook is not None:
        if len(numbers.codebook) < 2 ** how["bits"]:
            raise TensorError(
                f"{tensor.label}: {path}: a codebook of {len(numbers.codebook)} numbers is not supported for codes of "
                f"{how['bits']} bits"
            )
        arrays[f"{path}.codebook"] = _codebook(numbers.codebook)
    if numbers.scale is not None:
        how["scale"] = _block_values(tensor, f"{path}.scale", numbers.scale, arrays)
    return how


def _high_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The upper 16 bits of float32 numbers: the bits of bfloat16 ones."""
    bits: NDArray[np.uint16] = (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
    return bits


def _bits_needed(values: NDArray[Any]) -> int:
    """The bits that hold all integers of an array of bytes, with their sign if the dtype has one."""
    if not values.size:
        return 1
    low, high = int(values.min()), int(values.max())
    if values.dtype == np.uint8:
        return max(1, high.bit_length())
    return 1 + max(high.bit_length() if high >= 0 else 0, (-low - 1).bit_length() if low < 0 else 0)

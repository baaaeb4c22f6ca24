"""Matrices of small integers packed into 32-bit words, as AWQ, GPTQ and AutoRound share them: shapes, units, checks.

Values lie end to end, least significant bit first: value i takes the bits [i * bits, (i + 1) * bits) of the words, so
values of 3, 5, 6 and 7 bits may straddle two words. The last word is padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.format import Entries, ModuleFormat, Parts, Shape, StoredArray, lazy
from pocketvlm.checkpoint.formats.safetensors import TensorEntry, map_arrays
from pocketvlm.errors import TensorError
from pocketvlm.tensors import Block, BlockValues, LazyArray, Tensor, bfloat16_to_float32

WAY_OUT = "download or copy the checkpoint again, or use the 16-bit checkpoint"
WORD_BITS = 32
# Values that are unpacked at once, of an output matrix that may have hundreds of millions.
_CHUNK = 1 << 22
_FLOATS = ("F16", "BF16", "F32")


class WordsFormat(ModuleFormat):
    """What AWQ and GPTQ share: a matrix is quantized where the file has its `qweight`."""

    marker: ClassVar[str] = "qweight"

    def tensors(self, entries: Entries, expected: Mapping[str, Shape], where: str, sparse: bool) -> dict[str, Tensor]:
        return super().tensors(_without_empty_biases(entries, expected), expected, where, sparse)


def _without_empty_biases(entries: Entries, expected: Mapping[str, Shape]) -> dict[str, TensorEntry]:
    """The entries without zero biases of quantized layers that have none: AutoGPTQ used to write those everywhere.

    Raises TensorError for such a bias that is not zero.
    """
    result = dict(entries)
    for name in entries:
        module, _, suffix = name.rpartition(".")
        if suffix != "bias" or name in expected or f"{module}.qweight" not in entries:
            continue
        (values,) = map_arrays([entries[name]], sparse=True)
        if values.any():
            raise TensorError(f"{entries[name].name}: the model has no bias there, and this one is not zero: {WAY_OUT}")
        del result[name]
    return result


def unpack(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """The values uint8 [..., n * 32 // bits] of 32-bit words [..., n]."""
    data = np.ascontiguousarray(words, words.dtype.newbyteorder("<")).view(np.uint8)
    if 8 % bits == 0:
        each = 8 // bits
        values = np.empty((*data.shape[:-1], data.shape[-1] * each), np.uint8)
        for i in range(each):
            np.bitwise_and(data >> np.uint8(i * bits), np.uint8(2**bits - 1), out=values[..., i::each])
        return values
    single = np.unpackbits(data, axis=-1, bitorder="little")
    whole = single.shape[-1] // bits * bits
    return np.packbits(single[..., :whole].reshape(*words.shape[:-1], -1, bits), axis=-1, bitorder="little")[..., 0]


def word_count(values: int, bits: int) -> int:
    """The words that hold so many values."""
    return -(-values * bits // WORD_BITS)


def chunks(side: int, other: int, unit: int) -> Iterable[slice]:
    """Slices of one side of a matrix, in multiples of `unit`, each with a bounded number of values."""
    step = max(_CHUNK // max(other, 1) // unit, 1) * unit
    return (slice(start, min(start + step, side)) for start in range(0, side, step))


def matrix_sides(name: str, shape: Shape) -> tuple[int, int]:
    """Outputs and inputs. Raises TensorError for a tensor that is no matrix."""
    if len(shape) != 2:
        raise TensorError(f"{name} has {len(shape)} dimensions, quantized it cannot be read: {WAY_OUT}")
    return shape[0], shape[1]


def sides(name: str, suffix: str, array: StoredArray) -> tuple[int, int]:
    """Rows and columns of an array. Raises TensorError unless it has two sides."""
    found = array.data.shape
    if len(found) != 2:
        raise TensorError(f"{_part(name, suffix)} has shape {list(found)}, not rows and columns: {WAY_OUT}")
    return found[0], found[1]


def require(name: str, parts: Parts, wanted: Sequence[str]) -> None:
    """Raise TensorError unless all arrays of a quantized matrix are there."""
    if missing := [suffix for suffix in wanted if suffix not in parts]:
        module = name.removesuffix("weight")
        raise TensorError(
            f"{module}qweight is there, but {', '.join(module + part for part in missing)} not: {WAY_OUT}"
        )


def check_words(name: str, suffix: str, array: StoredArray, shape: Shape) -> None:
    """Raise TensorError unless an array holds 32-bit words in this shape."""
    if array.dtype not in ("I32", "U32"):
        raise TensorError(f"{_part(name, suffix)} has dtype {array.dtype}, not I32: other words are not supported")
    if array.data.shape != shape:
        found = list(array.data.shape)
        raise TensorError(f"{_part(name, suffix)} has shape {found}, {name} needs {list(shape)}: {WAY_OUT}")


def fitting_bits(name: str, values: int, words: int, configured: int, choices: Sequence[int]) -> int:
    """The bits a value, from the number of values and of words: those of the settings, or the only ones that fit.

    Raises TensorError, naming what does not fit.
    """
    fitting = [bits for bits in choices if word_count(values, bits) == words]
    if configured in fitting:
        return configured
    if len(fitting) != 1:
        widths = ", ".join(map(str, choices))
        raise TensorError(
            f"{_part(name, 'qweight')}: {words} words for {values} values do not hold {widths} bits each: {WAY_OUT}"
        )
    return fitting[0]


def group_size(name: str, inputs: int, groups: int, configured: Iterable[int]) -> int:
    """Inputs that share a scale, of which the last group may have fewer.

    configured: sizes that the settings name, -1 for all inputs; the one that fits the number of groups counts, else an
    even division. Raises TensorError if no size fits, or several do.
    """
    sizes = {inputs if size < 1 else min(size, inputs) for size in configured}
    fitting = sorted(size for size in sizes if size and -(-inputs // size) == groups)
    if len(fitting) == 1:
        return fitting[0]
    if groups < 1 or (not fitting and inputs % groups):
        raise TensorError(f"{_part(name, 'scales')}: {groups} groups do not divide {inputs} inputs evenly: {WAY_OUT}")
    if fitting:
        raise TensorError(f"{name}: groups of {' or '.join(map(str, fitting))} inputs both fit {groups} rows of scales")
    return inputs // groups


def middle(outputs: int, groups: int, bits: int, block: Block) -> BlockValues:
    """The zero points of symmetric codes that come without any: the middle code."""
    zero = 2 ** (bits - 1)
    return BlockValues(lazy((outputs, groups), np.uint8, lambda: np.full((outputs, groups), zero, np.uint8)), block)


def scale_values(name: str, array: StoredArray, shape: Shape) -> LazyArray:
    """Scales [groups, outputs] as [outputs, groups]: float16 as it is, other types as float32.

    Raises TensorError for another dtype or shape.
    """
    if array.dtype not in _FLOATS:
        raise TensorError(
            f"{_part(name, 'scales')} has dtype {array.dtype}, not one of {', '.join(_FLOATS)}: {WAY_OUT}"
        )
    if array.data.shape != shape:
        found = list(array.data.shape)
        raise TensorError(f"{_part(name, 'scales')} has shape {found}, {name} needs {list(shape)}: {WAY_OUT}")

    def read() -> NDArray[Any]:
        turned = np.ascontiguousarray(array.data.T)
        if array.dtype == "BF16":
            return bfloat16_to_float32(turned)
        return turned.astype(np.float16 if array.dtype == "F16" else np.float32, copy=False)

    return lazy((shape[1], shape[0]), np.float16 if array.dtype == "F16" else np.float32, read)


def _part(name: str, suffix: str) -> str:
    return name.removesuffix("weight") + suffix

"""compressed-tensors checkpoints, as llm-compressor writes them: integers or small floats, a scheme for each group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.bitstream import Order, packed_codes, unpack, unpack_words, word_count
from pocketvlm.checkpoint.formats.codebooks import e2m1, e2m3, e8m0
from pocketvlm.checkpoint.formats.compressed_config import FP4_GROUP, MX_GROUP, Group, find_group, read_groups
from pocketvlm.checkpoint.formats.format import Entries, ModuleFormat, Parts, Settings, Shape, lazy
from pocketvlm.checkpoint.formats.modules import QuantizedModule
from pocketvlm.checkpoint.formats.safetensors import TensorEntry
from pocketvlm.checkpoint.formats.settings import method_of
from pocketvlm.tensors import BlockValues, QuantizedTensor

_SCALES, _ZEROS, _ORDER = "weight_scale", "weight_zero_point", "weight_g_idx"


@dataclass(frozen=True, slots=True)
class CompressedTensors(ModuleFormat):
    """value = (code - zero point) * scale, or codebook[code] * scale / global scale. groups: of config_groups."""

    groups: tuple[Group, ...]
    where: str

    suffixes = frozenset(
        {"weight", "weight_packed", "weight_shape", "weight_global_scale", _SCALES, _ZEROS, _ORDER},
    )
    marker = _SCALES
    # Of activations and of the key-value cache, which are not quantized so here.
    unused = frozenset(
        {f"{what}_{part}" for what in ("input", "output", "q", "k", "v") for part in ("scale", "zero_point")}
        | {"input_global_scale", "output_global_scale"}
    )

    def describe(self) -> str:
        return f"compressed-tensors {' + '.join(dict.fromkeys(group.format for group in self.groups))}"

    def is_quantized(self, parts: Mapping[str, TensorEntry]) -> bool:
        return not parts.keys() <= {"weight"}

    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor:
        module = QuantizedModule.of(name, shape, parts)
        group = find_group(self.groups, name.removesuffix(".weight"), self.where)
        match group.format:
            case "pack-quantized":
                return _packed_integers(module, group)
            case "nvfp4-pack-quantized":
                return _fp4(module)
            case "mxfp4-pack-quantized":
                return _mx(module, 4)
            case "mxfp6-pack-quantized":
                return _mx(module, 6)
            case "mxfp8-quantized":
                return module.float8(module.block_values(_SCALES, (1, MX_GROUP), e8m0(), ("U8",)))
            case _ if group.is_float:
                return module.float8(_scales(module, group))
            case _:
                return _integers(module, group)


def _scales(module: QuantizedModule, group: Group) -> BlockValues:
    return module.block_values(_SCALES, group.block)


def _integers(module: QuantizedModule, group: Group) -> QuantizedTensor:
    """One signed code a byte, whatever the bits."""
    codes = module.array("weight", ("I8",), module.shape).data
    scales = _scales(module, group)
    return QuantizedTensor(module.name, group.bits, module.shape, codes, scales, _zero_points(module, group, scales))


def _zero_points(module: QuantizedModule, group: Group, scales: BlockValues) -> BlockValues | None:
    """Signed zero points, one a byte, in the shape of the scales."""
    if group.symmetric and _ZEROS not in module.parts:
        return None
    shape = tuple(scales.values.shape)
    stored = module.array(_ZEROS, ("I8",), shape, *((shape[:1],) if shape[1] == 1 else ()))
    return BlockValues(stored.data.reshape(shape), scales.block)


def _packed_integers(module: QuantizedModule, group: Group) -> QuantizedTensor:
    """Codes are stored without a sign, raised by half of their range; packed zero points are too, others are not."""
    bits, columns = group.bits, module.shape[1]
    packed = module.array("weight_packed", ("I32",)).data
    if "weight_shape" in module.parts:
        shape = module.array("weight_shape", ("I64", "I32"), (2,)).data
        if tuple(shape) != module.shape:
            raise module.fail("weight_shape", f"{shape.tolist()} does not fit a matrix {list(module.shape)}")
    packing = _packing(module, packed, bits)
    scales = _scales(module, group)
    zero_points, signed = _stored_zero_points(module, group, scales, packing)
    permutation = _permutation(module, group)

    def codes() -> NDArray[Any]:
        values = packing.unpack(packed, bits, columns, permutation)
        if not signed:
            return values
        values -= np.uint8(2 ** (bits - 1))  # wraps around, and is right when the bytes are read with a sign
        return values.view(np.int8)

    stored = lazy(module.shape, np.int8 if signed else np.uint8, codes)
    return QuantizedTensor(module.name, bits, module.shape, stored, scales, zero_points, permutation=permutation)


def _stored_zero_points(
    module: QuantizedModule, group: Group, scales: BlockValues, packing: Packing
) -> tuple[BlockValues | None, bool]:
    """Zero points of packed codes, and whether they, or codes without any, have a sign."""
    if _ZEROS not in module.parts or module.parts[_ZEROS].dtype != "I32":
        return _zero_points(module, group, scales), True
    outputs, groups = scales.values.shape
    packed = module.array(_ZEROS, ("I32",), (packing.words(outputs, group.bits), groups)).data.T
    values = lazy((outputs, groups), np.uint8, lambda: packing.unpack(packed, group.bits, outputs, None).T)
    return BlockValues(values, scales.block), False


@dataclass(frozen=True, slots=True)
class Packing:
    """How codes lie in 32-bit words. words: (codes, bits) -> words. unpack: see `bitstream.unpack`."""

    words: Callable[[int, int], int]
    unpack: Callable[[NDArray[Any], int, int, Order | None], NDArray[np.uint8]]


# New versions pack codes end to end, old ones fill each word by itself.
_DENSE = Packing(word_count, unpack)
_PADDED = Packing(lambda count, bits: -(-count // (32 // bits)), unpack_words)


def _packing(module: QuantizedModule, packed: NDArray[Any], bits: int) -> Packing:
    """The packing that the number of words shows."""
    rows, columns = module.shape
    widths = [packing.words(columns, bits) for packing in (_DENSE, _PADDED)]
    if len(packed.shape) != 2 or packed.shape[0] != rows or packed.shape[1] not in widths:
        wanted = " or ".join(str(width) for width in dict.fromkeys(widths))
        what = f"{list(packed.shape)} words do not hold {rows} x {columns} codes: {wanted} a row would"
        raise module.fail("weight_packed", what)
    if widths[0] == widths[1] and 32 % bits:
        what = f"{widths[0]} words a row may be packed in two ways for {columns} codes of {bits} bits"
        raise module.fail("weight_packed", what)
    return _DENSE if packed.shape[1] == widths[0] else _PADDED


def _permutation(module: QuantizedModule, group: Group) -> Order | None:
    """The columns in the order of their groups; None where they are stored so, or the array was never filled."""
    columns = module.shape[1]
    if _ORDER not in module.parts:
        return None
    index = module.array(_ORDER, ("I32", "I64"), (columns,)).data
    width = columns if group.block is None else min(group.block[1], columns)
    in_order = np.arange(columns) // width
    if -1 in index or np.array_equal(index, in_order):
        return None
    if not np.array_equal(np.sort(index), in_order):
        raise module.fail(_ORDER, f"its values do not put {columns} columns into groups of {width}")
    return np.argsort(index, kind="stable")


def _fp4(module: QuantizedModule) -> QuantizedTensor:
    rows, columns = module.shape
    packed = module.array("weight_packed", ("U8",), (rows, -(-columns // 2))).data
    return QuantizedTensor(
        module.name,
        4,
        module.shape,
        packed_codes(packed, 4, module.shape),
        module.block_values(_SCALES, (1, FP4_GROUP), dtypes=("F8_E4M3",)),
        codebook=e2m1(),
        global_divisor=module.scalar("weight_global_scale"),
    )


def _mx(module: QuantizedModule, bits: int) -> QuantizedTensor:
    """Small floats whose groups of 32 share a power of two."""
    rows, columns = module.shape
    packed = module.array("weight_packed", ("U8",), (rows, -(-columns * bits // 8))).data
    scales = module.block_values(_SCALES, (1, MX_GROUP), e8m0(), ("U8",))
    codes = packed_codes(packed, bits, module.shape)
    return QuantizedTensor(module.name, bits, module.shape, codes, scales, codebook=e2m1() if bits == 4 else e2m3())


def read_compressed_tensors(settings: Settings, where: str, entries: Entries) -> CompressedTensors | None:
    """compressed-tensors for its settings. Raises ConfigError for a format or scheme that is not supported."""
    if method_of(settings) != "compressed-tensors":
        return None
    return CompressedTensors(read_groups(settings, where), where)

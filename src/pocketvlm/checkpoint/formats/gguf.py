"""The tensor types of GGUF files: blocks of neighbours in a row, each with its scales, become QuantizedTensors.

A block is a few bytes of scales and packed codes. Everything is unpacked when it is used, some rows at a time. The
layouts are those of llama.cpp; `dequantize()` of each type equals that of the `gguf` library bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.format import Entries, Shape, check_tensors, lazy
from pocketvlm.checkpoint.formats.safetensors import TensorEntry, map_arrays, map_tensors
from pocketvlm.errors import ConfigError, TensorError
from pocketvlm.tensors import BlockValues, DenseTensor, Floats, LazyArray, QuantizedTensor, Tensor

Bytes = NDArray[np.uint8]
Numbers = NDArray[Any]
Integers = NDArray[np.integer[Any]]
# Blocks [n, bytes of a block] -> what is in each: codes [n, values of a block], or numbers [n, numbers of a block].
Unpack = Callable[[Bytes], Numbers]
# What a converter did to a tensor, undone.
Change = Callable[[Tensor], Tensor]

DENSE = frozenset({"F32", "F16", "BF16"})
_CHUNK = 1 << 24  # values that are unpacked at once


@dataclass(frozen=True, slots=True, eq=False)
class BlockType:
    """One type: a block of `values` numbers in `nbytes` bytes.

    bits, dtype, codes: of the codes. group: neighbours that share a scale. scales, biases: the number of each group.
    super_scales, super_biases: where those are integers, the number of each block that they are multiplied by.
    """

    values: int
    nbytes: int
    bits: int
    dtype: type[np.generic]
    codes: Unpack
    group: int
    scales: Unpack
    scale_dtype: type[np.generic] = np.float16
    super_scales: Unpack | None = None
    biases: Unpack | None = None
    bias_dtype: type[np.generic] = np.float16
    super_biases: Unpack | None = None
    codebook: Floats | None = None
    scale_codebook: Floats | None = None


def _half(at: int, sign: int = 1) -> Unpack:
    """The float16 at a byte of each block, negated with sign -1."""

    def unpack(blocks: Bytes) -> Numbers:
        number = np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)
        return -number if sign < 0 else number

    return unpack


def _nibbles(blocks: Bytes, run: int) -> Integers:
    """[n, b] -> [n, 2 b]: of each run of bytes first the low nibbles, then the high ones."""
    runs = blocks.reshape(len(blocks), -1, 1, run)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(len(blocks), -1)


def _pairs_of_bits(blocks: Bytes, run: int) -> Integers:
    """[n, b] -> [n, 4 b]: of each run of bytes the lowest two bits of all, then the next two, and so on."""
    runs = blocks.reshape(len(blocks), -1, 1, run)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    return (runs >> shifts & 3).reshape(len(blocks), -1)


def _bits(blocks: Bytes) -> Integers:
    """[n, b] -> [n, 8 b]: the lowest bit of all bytes, then the next, and so on."""
    return (blocks[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(len(blocks), -1)


def _four_bits(at: int) -> Unpack:
    return lambda blocks: _nibbles(blocks[:, at : at + 16], 16)


def _five_bits(at: int) -> Unpack:
    """A word with the fifth bits of 32 values at a byte of each block, their nibbles after it."""

    def unpack(blocks: Bytes) -> Integers:
        high = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
        return _nibbles(blocks[:, at + 4 : at + 20], 16) | high << 4

    return unpack


def _signed(unpack: Unpack, offset: int) -> Unpack:
    """Unsigned numbers minus an offset, as int8."""
    return lambda blocks: (unpack(blocks).astype(np.int16) - offset).astype(np.int8)


def _six_bit_scales(high: bool) -> Unpack:
    """Eight numbers of 6 bits in 12 bytes from byte 4 on, as Q4_K and Q5_K have them; high: the second set of eight."""

    def unpack(blocks: Bytes) -> Numbers:
        low, middle, top = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
        first, nibble = (middle, top >> 4) if high else (low, top & 15)
        return np.concatenate([first & 63, nibble | first >> 6 << 4], axis=1)

    return unpack


def _q3_codes(blocks: Bytes) -> Integers:
    low = _pairs_of_bits(blocks[:, 32:96], 32).astype(np.int8)
    return low - ((_bits(blocks[:, :32]) ^ 1) << 2).astype(np.int8)


def _q3_scales(blocks: Bytes) -> Integers:
    return _nibbles(blocks[:, 96:104], 8) | _pairs_of_bits(blocks[:, 104:108], 4) << 4


def _q5_codes(blocks: Bytes) -> Integers:
    return _nibbles(blocks[:, 48:176], 32) | _bits(blocks[:, 16:48]) << 4


def _q6_codes(blocks: Bytes) -> Integers:
    return _nibbles(blocks[:, :128], 64) | _pairs_of_bits(blocks[:, 128:192], 32) << 4


def _iq4_xs_scales(blocks: Bytes) -> Integers:
    """Low four bits in order, two numbers a byte; the upper two bits of all in a word before them."""
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(len(blocks), 8)
    word = blocks[:, 2:4, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    found: Integers = low | word.reshape(len(blocks), 8) << 4
    return found


def _nvfp4_codes(blocks: Bytes) -> Integers:
    return _nibbles(blocks[:, 4:36], 8)


def _powers_of_two() -> Floats:
    """Half the value of each E8M0 byte: 2 ** (e - 128)."""
    return np.ldexp(np.float32(1), np.arange(256) - 128).astype(np.float32)


def _unsigned_e4m3() -> Floats:
    """Half the value of each unsigned E4M3 byte, whose highest bit says nothing; 127 is not a number and means 0."""
    exponent, mantissa = np.arange(256) >> 3 & 15, np.arange(256) & 7
    values = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0)) / 2
    values[0x7F] = 0
    return values.astype(np.float32)


# Twice the values of E2M1; the scales are halved.
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_U8, _I8 = np.uint8, np.int8

BLOCK_TYPES: Mapping[str, BlockType] = {
    "Q8_0": BlockType(32, 34, 8, _I8, lambda blocks: blocks[:, 2:34].view(np.int8), 32, _half(0)),
    "Q4_0": BlockType(32, 18, 4, _I8, _signed(_four_bits(2), 8), 32, _half(0)),
    "Q4_1": BlockType(32, 20, 4, _U8, _four_bits(4), 32, _half(0), biases=_half(2)),
    "Q5_0": BlockType(32, 22, 5, _I8, _signed(_five_bits(2), 16), 32, _half(0)),
    "Q5_1": BlockType(32, 24, 5, _U8, _five_bits(4), 32, _half(0), biases=_half(2)),
    "Q2_K": BlockType(
        256, 84, 2, _U8, lambda blocks: _pairs_of_bits(blocks[:, 16:80], 32), 16,
        lambda blocks: blocks[:, :16] & 15, _U8, _half(80),
        lambda blocks: blocks[:, :16] >> 4, _U8, _half(82, -1),
    ),
    "Q3_K": BlockType(256, 110, 3, _I8, _q3_codes, 16, _signed(_q3_scales, 32), _I8, _half(108)),
    "Q4_K": BlockType(
        256, 144, 4, _U8, lambda blocks: _nibbles(blocks[:, 16:144], 32), 32,
        _six_bit_scales(False), _U8, _half(0), _six_bit_scales(True), _U8, _half(2, -1),
    ),
    "Q5_K": BlockType(
        256, 176, 5, _U8, _q5_codes, 32,
        _six_bit_scales(False), _U8, _half(0), _six_bit_scales(True), _U8, _half(2, -1),
    ),
    "Q6_K": BlockType(
        256, 210, 6, _I8, _signed(_q6_codes, 32), 16, lambda blocks: blocks[:, 192:208].view(np.int8), _I8, _half(208)
    ),
    "IQ4_NL": BlockType(32, 18, 4, _U8, _four_bits(2), 32, _half(0), codebook=_IQ4),
    "IQ4_XS": BlockType(
        256, 136, 4, _U8, lambda blocks: _nibbles(blocks[:, 8:136], 16), 32,
        _signed(_iq4_xs_scales, 32), _I8, _half(0), codebook=_IQ4,
    ),
    "MXFP4": BlockType(
        32, 17, 4, _U8, _four_bits(1), 32, lambda blocks: blocks[:, :1], _U8, codebook=_E2M1,
        scale_codebook=_powers_of_two(),
    ),
    "NVFP4": BlockType(
        64, 36, 4, _U8, _nvfp4_codes, 16, lambda blocks: blocks[:, :4], _U8, codebook=_E2M1,
        scale_codebook=_unsigned_e4m3(),
    ),
}  # fmt: skip
SUPPORTED = (*sorted(DENSE), *BLOCK_TYPES)


def unpack_matrix(
    name: str,
    kind: str,
    shape: tuple[int, int],
    read: Callable[[], Bytes],
    order: NDArray[np.intp] | None = None,
    factor: float = 1.0,
) -> QuantizedTensor:
    """A matrix of one of BLOCK_TYPES; nothing is read before it is used.

    read: the bytes uint8 [rows, bytes of a row]. order: the stored row that comes to each place. factor: of
    all scales.
    """
    type_ = BLOCK_TYPES[kind]
    rows, columns = shape
    blocks = columns // type_.values
    groups = columns // type_.group

    def part(unpack: Unpack, width: int, dtype: type[np.generic]) -> LazyArray:
        return lazy((rows, width), dtype, lambda: _unpack_rows(read(), type_.nbytes, unpack, width, dtype, order))

    def numbers(unpack: Unpack, dtype: type[np.generic], above: Unpack | None, codebook: Floats | None) -> BlockValues:
        second = None
        if above is not None:
            second = BlockValues(part(above, blocks, np.float16), (1, type_.values // type_.group))
        return BlockValues(part(unpack, groups, dtype), (1, type_.group), codebook, second)

    biases = None
    if type_.biases is not None:
        biases = numbers(type_.biases, type_.bias_dtype, type_.super_biases, None)
    return QuantizedTensor(
        name,
        type_.bits,
        shape,
        part(type_.codes, columns, type_.dtype),
        numbers(type_.scales, type_.scale_dtype, type_.super_scales, type_.scale_codebook),
        biases=biases,
        codebook=type_.codebook,
        global_scale=factor,
    )


def _unpack_rows(
    data: Bytes, nbytes: int, unpack: Unpack, width: int, dtype: type[np.generic], order: NDArray[np.intp] | None
) -> Numbers:
    """What is in the blocks of each row [rows, width], some rows at a time."""
    rows = len(data)
    found: Numbers = np.empty((rows, width), dtype)
    step = max(1, _CHUNK // max(1, width))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        some = data[start:stop] if order is None else data[order[start:stop]]
        blocks = np.ascontiguousarray(some).reshape(-1, nbytes)
        found[start:stop] = unpack(blocks).reshape(stop - start, width)
    return found


class GgufFormat:
    """Tensors of GGUF files under the hub's names, whose values a converter may have changed."""

    def __init__(
        self,
        changes: Mapping[str, Change] | None = None,
        shapes: Mapping[str, Shape] | None = None,
        orders: Mapping[str, NDArray[np.intp]] | None = None,
        factors: Mapping[str, float] | None = None,
        kinds: tuple[str, ...] = (),
    ) -> None:
        """All by the hub's names: what is done to a tensor, the shape that the file has it in, the order of its rows,
        and the number that all of its values are multiplied by. kinds: the types in the files, for `describe`.
        """
        self._changes, self._shapes = changes or {}, shapes or {}
        self._orders, self._factors = orders or {}, factors or {}
        self._kinds = tuple(kind for kind in kinds if kind not in DENSE)

    def describe(self) -> str | None:
        return f"GGUF {' + '.join(self._kinds)}" if self._kinds else None

    def tensors(self, entries: Entries, expected: Mapping[str, Shape], where: str, sparse: bool) -> dict[str, Tensor]:
        stored = {name: self._shapes.get(name, shape) for name, shape in expected.items()}
        check_tensors(
            entries,
            stored,
            where,
            SUPPORTED,
            "the files are damaged or of another model: download or copy them again",
            "the metadata",
        )
        dense = [name for name in expected if entries[name].dtype in DENSE]
        for name in self._factors:
            if entries[name].dtype not in ("MXFP4", "NVFP4"):
                raise TensorError(
                    f"{entries[name].file}: tensor {entries[name].name!r} has a scale, which only MXFP4 and NVFP4 "
                    f"matrices have: download or copy the file again"
                )
        views = map_tensors([entries[name] for name in dense], sparse)
        mapped = dict(zip(dense, views, strict=True))

        def tensor(name: str) -> Tensor:
            found: Tensor
            if name in mapped:
                found = replace(mapped[name], name=name)
                if name in self._orders:
                    found = _reordered(found, self._orders[name])
            else:
                found = self._quantized(name, entries[name])
            return self._changes[name](found) if name in self._changes else found

        return {name: tensor(name) for name in expected}

    def _quantized(self, name: str, entry: TensorEntry) -> Tensor:
        """A matrix as it is; anything else, which no kernel multiplies, as the numbers that it stands for."""
        shape = (int(np.prod(entry.shape[:-1])), entry.shape[-1])
        type_ = BLOCK_TYPES[entry.dtype]
        packed = replace(entry, dtype="U8", shape=(shape[0], shape[1] // type_.values * type_.nbytes))

        def read() -> Bytes:
            return map_arrays([packed])[0]

        order, factor = self._orders.get(name), self._factors.get(name, 1.0)
        origin = str(entry.file)
        matrix = replace(unpack_matrix(name, entry.dtype, shape, read, order, factor), origin=origin)
        if len(entry.shape) == 2:
            return matrix
        source = lazy(entry.shape, np.float32, lambda: matrix.dequantize().reshape(entry.shape))
        return DenseTensor(name, "f32", source, origin)


def _reordered(tensor: DenseTensor, order: NDArray[np.intp]) -> DenseTensor:
    return replace(tensor, source=lazy(tensor.shape, tensor.source.dtype, lambda: tensor.data[order]))


def check_types(entries: Entries, where: str) -> None:
    """Raise ConfigError, naming it, for a type of tensors that is not read."""
    for entry in entries.values():
        if entry.dtype not in SUPPORTED:
            raise ConfigError(
                f"{where}: tensor {entry.name!r} has the type {entry.dtype}, which is not supported: use a file of "
                f"one of {', '.join(SUPPORTED)}, e.g. Q4_K_M"
            )


def read_factor(entry: TensorEntry) -> float:
    """The one number in a tensor of scale. Raises TensorError if it holds more than one."""
    if entry.dtype != "F32" or entry.parameters != 1:
        raise TensorError(f"{entry.file}: tensor {entry.name!r} is no single F32 number: download the file again")
    return float(map_tensors([entry])[0].data.reshape(-1)[0])

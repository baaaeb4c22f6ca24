"""pocketvlm's own format: safetensors files that hold the fields of `QuantizedTensor` one to one, and dense tensors.

A quantized matrix NAME has a JSON text `NAME.quantization` and arrays named `NAME.codes`, `NAME.scales` and so on;
docs/formats.md has the whole layout. Integers are packed to their bits along each row; float32 numbers that bfloat16
holds exactly are stored so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.bitstream import byte_count, pack, unpack
from pocketvlm.checkpoint.formats.format import Entries, ModuleFormat, Parts, Settings, Shape, StoredArray, lazy
from pocketvlm.checkpoint.formats.modules import WAY_OUT, QuantizedModule
from pocketvlm.checkpoint.formats.safetensors import (
    SUPPORTED,
    FileArray,
    dense_array,
    map_arrays,
    map_tensors,
    read_header,
    write_arrays,
)
from pocketvlm.checkpoint.formats.settings import method_of
from pocketvlm.checkpoint.jsonfile import parse_object
from pocketvlm.errors import CheckpointError, ConfigError, TensorError
from pocketvlm.fields import is_finite, shown
from pocketvlm.tensors import (
    Array,
    BlockValues,
    DenseTensor,
    QuantizedTensor,
    Tensor,
    all_finite,
    bfloat16_to_float32,
    grid_shape,
    load,
)

METHOD = "pocketvlm"
VERSION = 1
TEXT = "quantization"  # what follows the name of a matrix in that of its JSON text
_BLOCK_PARTS = ("scales", "zero_points", "biases")
_LEVELS = 3  # of scales of scales
_FLOATS: dict[str, str] = {"float32": "F32", "float16": "F16", "float64": "F64"}
_INTEGERS: dict[str, str] = {"uint8": "U8", "int8": "I8"}
_DTYPES = {**_FLOATS, **_INTEGERS, "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64"}


def _suffixes() -> frozenset[str]:
    """What follows the name of a matrix in the names of all of its arrays."""
    paths = [part + ".scale" * level for part in _BLOCK_PARTS for level in range(_LEVELS)]
    return frozenset({TEXT, "codes", "codebook", "permutation", *paths, *(f"{path}.codebook" for path in paths)})


@dataclass(frozen=True, slots=True)
class Native(ModuleFormat):
    """Quantized matrices in pocketvlm's own format."""

    suffixes = frozenset(f"weight.{suffix}" for suffix in _suffixes())
    marker = f"weight.{TEXT}"

    def describe(self) -> str:
        return "native"

    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor:
        found = _matrix(name, {suffix.removeprefix("weight."): array for suffix, array in parts.items()})
        if found.shape != tuple(shape):
            raise _fail(name, TEXT, f"it describes a matrix {list(found.shape)}, the model needs {list(shape)}")
        return found


def read_native_settings(settings: Settings, where: str, entries: Entries) -> Native | None:
    """The native format for settings of method "pocketvlm". Raises ConfigError for a newer version."""
    if method_of(settings) != METHOD:
        return None
    version = settings.get("version")
    if version != VERSION or isinstance(version, bool):
        raise ConfigError(
            f"{where}: version={shown(version)} is not supported, only {VERSION} is: install a newer pocketvlm, or "
            f"convert the original checkpoint again"
        )
    return Native()


def native_settings() -> dict[str, Any]:
    """The quantization settings of config.json."""
    return {"quant_method": METHOD, "version": VERSION}


def write_native(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors under their keys to one file, whole or not at all; lazy arrays are read one after the other.

    Scales, zero points and biases are read twice, since their values say how they are stored. Raises TensorError for
    values that are no finite numbers or do not fit their bits, and CheckpointError where the file cannot be written.
    """
    arrays = {key: array for name, tensor in tensors.items() for key, array in native_arrays(name, tensor).items()}
    write_arrays(path, arrays, {"format": METHOD})


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
    for part in _BLOCK_PARTS:
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
        return FileArray(_INTEGERS[dtype.name], shape, read)
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
    if path.count(".scale") >= _LEVELS:
        raise TensorError(f"{tensor.label}: {path}: more than {_LEVELS} levels of scales are not supported")
    values = load(numbers.values)
    dtype = values.dtype.newbyteorder("=").name
    if dtype not in _DTYPES:
        raise TensorError(f"{tensor.label}: {path} of {dtype} are not supported: {', '.join(_DTYPES)} are")
    if dtype in ("float32", "float16") and not all_finite(values, "f32" if dtype == "float32" else "f16"):
        raise TensorError(f"{tensor.label}: {path}: a value is infinite or NaN: quantize or copy the matrix again")
    block = numbers.block if isinstance(numbers.block, int) else list(numbers.block)
    how: dict[str, Any] = {"block": block, "dtype": dtype}
    if numbers.offset:
        how["offset"] = float(numbers.offset)
    if dtype in _INTEGERS:
        how["bits"] = _bits_needed(values)
        arrays[path] = _packed(values.shape, how["bits"], values.dtype, lambda: load(numbers.values))
    elif dtype == "float32" and np.array_equal(bfloat16_to_float32(_high_bits(values)), values):
        arrays[path] = FileArray("BF16", values.shape, lambda: _high_bits(load(numbers.values)))
    else:
        arrays[path] = FileArray(_DTYPES[dtype], values.shape, lambda: load(numbers.values))
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
    """The upper halves of float32 numbers: the bits of bfloat16 ones."""
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


def read_native(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name, as views of the mapped file; packed integers are unpacked when they are used.

    Raises CheckpointError, naming file and tensor, for a file that is damaged or not of this format.
    """
    entries = read_header(path)
    matrices = [name.removesuffix(f".{TEXT}") for name in entries if name.endswith(f".{TEXT}")]
    names = sorted(_suffixes())
    tensors: dict[str, Tensor] = {}
    used: set[str] = set()
    for name in matrices:
        own = {suffix: entries[key] for suffix in names if (key := f"{name}.{suffix}") in entries}
        views = map_arrays(own.values())
        parts = {
            suffix: StoredArray(entry.dtype, view) for (suffix, entry), view in zip(own.items(), views, strict=True)
        }
        try:
            tensors[name] = replace(_matrix(name, parts), origin=str(path))
        except TensorError as error:
            raise TensorError(f"{path}: {error}") from None
        used.update(entry.name for entry in own.values())
    others = [entry for name, entry in entries.items() if name not in used]
    for entry in others:
        if entry.dtype not in SUPPORTED:
            raise TensorError(
                f"{path}: tensor {entry.name!r} has dtype {entry.dtype} and belongs to no matrix: the file is damaged "
                f"or of another format: {WAY_OUT}"
            )
    tensors.update({tensor.name: tensor for tensor in map_tensors(others)})
    order = {name.removesuffix(f".{TEXT}"): index for index, name in enumerate(entries)}
    return dict(sorted(tensors.items(), key=lambda item: order[item[0]]))


def _fail(name: str, suffix: str, what: str) -> TensorError:
    return TensorError(f"{name}.{suffix}: {what}: {WAY_OUT}")


def _matrix(name: str, parts: Parts) -> QuantizedTensor:
    """The matrix of arrays by what follows its name."""
    stored = parts.get(TEXT)
    if stored is None or stored.dtype != "U8":
        raise _fail(name, TEXT, "the JSON text is missing" if stored is None else f"dtype {stored.dtype} is no text")
    try:
        how = parse_object(stored.data.tobytes().decode("utf-8", "replace"), TEXT)
    except CheckpointError:
        raise _fail(name, TEXT, "its text is no JSON object") from None
    if how.get("version") != VERSION:
        raise _fail(name, TEXT, f"version {shown(how.get('version'))} is not supported, only {VERSION} is")
    sides, bits, signed = how.get("shape"), how.get("bits"), how.get("signed")
    if not isinstance(sides, list) or len(sides) != 2 or not all(_is_size(side) for side in sides):
        raise _fail(name, TEXT, f"shape {shown(sides)} is not rows and columns")
    if type(bits) is not int or not 2 <= bits <= 8 or not isinstance(signed, bool):
        raise _fail(name, TEXT, f"bits {shown(bits)}, signed {shown(signed)} are not supported")
    shape = (sides[0], sides[1])
    module = _Arrays(name, shape, {f"weight.{suffix}": array for suffix, array in parts.items()})
    for key in ("global_scale", "global_divisor"):
        if not is_finite(how.get(key)):
            raise _fail(name, TEXT, f"{key} {shown(how.get(key))} is no finite number")
    values = {part: _read_blocks(module, part, how[part], shape, 1) for part in _BLOCK_PARTS if part in how}
    if "scales" not in values:
        raise _fail(name, TEXT, "it describes no scales")
    return QuantizedTensor(
        name,
        bits,
        shape,
        _integers(module, "codes", shape, bits, np.dtype(np.int8 if signed else np.uint8)),
        values["scales"],
        values.get("zero_points"),
        values.get("biases"),
        module.codebook("codebook", 2**bits) if "codebook" in parts else None,
        _permutation(module) if "permutation" in parts else None,
        float(how["global_scale"]),
        float(how["global_divisor"]),
    )


class _Arrays(QuantizedModule):
    """The arrays of one matrix, whose names begin with that of the matrix."""

    def label(self, suffix: str) -> str:
        return f"{self.name}.{suffix.removeprefix('weight.')}"

    def codebook(self, suffix: str, size: int | None = None) -> NDArray[np.float32]:
        """Float32 numbers by code. size: how many there must be; None: any number that bytes can name."""
        values = self.array(f"weight.{suffix}", ("F32",)).data
        if values.ndim != 1 or not 0 < values.size <= 256 or (size is not None and values.size != size):
            raise self.fail(suffix, f"shape {list(values.shape)} is no codebook")
        return np.array(values)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _integers(module: _Arrays, suffix: str, shape: Shape, bits: int, dtype: np.dtype[Any]) -> Array:
    """Integers of a byte each, which are packed along the last axis unless they need all of its bits."""
    if bits == 8:
        return module.array(f"weight.{suffix}", (_INTEGERS[dtype.name],), shape).data
    rows, columns = math.prod(shape[:-1]), shape[-1]
    size = byte_count(columns, bits)
    packed = module.array(f"weight.{suffix}", ("U8",), (*shape[:-1], size)).data

    def read() -> NDArray[Any]:
        found = unpack(packed.reshape(rows, size), bits, columns)
        if dtype == np.int8:
            middle = np.uint8(2 ** (bits - 1))
            found = ((found ^ middle) - middle).view(np.int8)  # wraps around: the sign is in the highest bit
        return found.reshape(shape)

    return lazy(shape, dtype, read)


def _read_blocks(module: _Arrays, path: str, how: Any, shape: Shape, level: int) -> BlockValues:
    """The numbers of the blocks of an array of this shape, as their description says."""
    if not isinstance(how, Mapping) or level > _LEVELS:
        raise _fail(module.name, TEXT, f"{path} {shown(how)} is no description")
    block, dtype, offset, bits = (how.get(key) for key in ("block", "dtype", "offset", "bits"))
    bits = 8 if bits is None else bits
    sides = block if isinstance(block, list) else [block]
    if not all(_is_size(side) and side != 0 for side in sides) or (
        isinstance(block, list) and len(sides) != len(shape)
    ):
        raise _fail(module.name, TEXT, f"{path}: block {shown(block)} is no block of an array {list(shape)}")
    steps: Any = tuple(sides) if isinstance(block, list) else block
    if not isinstance(dtype, str) or dtype not in _DTYPES or not (offset is None or is_finite(offset)):
        raise _fail(module.name, TEXT, f"{path}: dtype {shown(dtype)}, offset {shown(offset)} are not supported")
    grid = grid_shape(shape, steps)
    values: Array
    if dtype in _INTEGERS:
        if type(bits) is not int or not 1 <= bits <= 8:
            raise _fail(module.name, TEXT, f"{path}: bits {shown(bits)} are not supported")
        values = _integers(module, path, grid, bits, np.dtype(dtype))
    else:
        stored = module.array(f"weight.{path}", (_DTYPES[dtype], *(("BF16",) if dtype == "float32" else ())), grid)
        values = stored.data
        if stored.dtype == "BF16":
            values = lazy(grid, np.float32, lambda: bfloat16_to_float32(stored.data))
    codebook = module.codebook(f"{path}.codebook") if f"weight.{path}.codebook" in module.parts else None
    if codebook is not None and (dtype != "uint8" or codebook.size < 2**bits):
        raise module.fail(f"{path}.codebook", f"{codebook.size} numbers are none for codes of {shown(bits)} bits")
    second = _read_blocks(module, f"{path}.scale", how["scale"], grid, level + 1) if "scale" in how else None
    return BlockValues(values, steps, codebook, second, float(offset or 0.0))


def _permutation(module: _Arrays) -> NDArray[np.int64]:
    return module.array("weight.permutation", ("I32",), (module.shape[1],)).data.astype(np.int64)

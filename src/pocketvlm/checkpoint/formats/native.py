"""pocketvlm's own format: safetensors files that hold the fields of `QuantizedTensor` one to one, and dense tensors.

A quantized matrix NAME has a JSON text `NAME.quantization` and arrays named `NAME.codes`, `NAME.scales` and so on;
docs/formats.md has the whole layout. Integers are packed to their bits along each row; float32 numbers that bfloat16
holds exactly are stored so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.bitstream import byte_count, unpack
from pocketvlm.checkpoint.formats.format import Entries, ModuleFormat, Parts, Settings, Shape, StoredArray, lazy
from pocketvlm.checkpoint.formats.modules import WAY_OUT, QuantizedModule
from pocketvlm.checkpoint.formats.native_arrays import (
    BLOCK_PARTS,
    DTYPES,
    INTEGERS,
    LEVELS,
    TEXT,
    VERSION,
    native_arrays,
)
from pocketvlm.checkpoint.formats.safetensors import SUPPORTED, map_arrays, map_tensors, read_header, write_arrays
from pocketvlm.checkpoint.formats.settings import method_of
from pocketvlm.checkpoint.jsonfile import parse_object
from pocketvlm.errors import CheckpointError, ConfigError, TensorError
from pocketvlm.fields import is_finite, shown
from pocketvlm.tensors import (
    Array,
    BlockValues,
    QuantizedTensor,
    Tensor,
    bfloat16_to_float32,
    grid_shape,
)

METHOD = "pocketvlm"


def _suffixes() -> frozenset[str]:
    """What follows the name of a matrix in the names of all of its arrays."""
    paths = [part + ".scale" * level for part in BLOCK_PARTS for level in range(LEVELS)]
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
    values = {part: _read_blocks(module, part, how[part], shape, 1) for part in BLOCK_PARTS if part in how}
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
        return module.array(f"weight.{suffix}", (INTEGERS[dtype.name],), shape).data
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
    if not isinstance(how, Mapping) or level > LEVELS:
        raise _fail(module.name, TEXT, f"{path} {shown(how)} is no description")
    block, dtype, offset, bits = (how.get(key) for key in ("block", "dtype", "offset", "bits"))
    bits = 8 if bits is None else bits
    sides = block if isinstance(block, list) else [block]
    if not all(_is_size(side) and side != 0 for side in sides) or (
        isinstance(block, list) and len(sides) != len(shape)
    ):
        raise _fail(module.name, TEXT, f"{path}: block {shown(block)} is no block of an array {list(shape)}")
    steps: Any = tuple(sides) if isinstance(block, list) else block
    if not isinstance(dtype, str) or dtype not in DTYPES or not (offset is None or is_finite(offset)):
        raise _fail(module.name, TEXT, f"{path}: dtype {shown(dtype)}, offset {shown(offset)} are not supported")
    grid = grid_shape(shape, steps)
    values: Array
    if dtype in INTEGERS and "value" in how:
        value, limits = how["value"], np.iinfo(dtype)
        if type(value) is not int or not limits.min <= value <= limits.max:
            raise _fail(module.name, TEXT, f"{path}: value {shown(value)} is no {dtype} number")
        values = lazy(grid, dtype, lambda: np.full(grid, value, dtype))
    elif dtype in INTEGERS:
        if type(bits) is not int or not 1 <= bits <= 8:
            raise _fail(module.name, TEXT, f"{path}: bits {shown(bits)} are not supported")
        values = _integers(module, path, grid, bits, np.dtype(dtype))
    else:
        stored = module.array(f"weight.{path}", (DTYPES[dtype], *(("BF16",) if dtype == "float32" else ())), grid)
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

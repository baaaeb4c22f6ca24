"""bitsandbytes checkpoints: NF4 and FP4 codes in flat blocks, and LLM.int8() matrices with a scale for each output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.format import Entries, ModuleFormat, Parts, Settings, Shape, StoredArray, lazy
from pocketvlm.checkpoint.formats.modules import QuantizedModule
from pocketvlm.checkpoint.formats.safetensors import TensorEntry
from pocketvlm.checkpoint.formats.settings import INSTEAD, method_of
from pocketvlm.checkpoint.jsonfile import parse_object
from pocketvlm.errors import CheckpointError, ConfigError
from pocketvlm.fields import shown
from pocketvlm.tensors import BlockValues, QuantizedTensor

_ABSMAX, _MAP = "weight.absmax", "weight.quant_map"
_NESTED_ABSMAX, _NESTED_MAP = "weight.nested_absmax", "weight.nested_quant_map"
_STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")
_METHODS = ("load_in_4bit", "_load_in_4bit", "load_in_8bit", "_load_in_8bit")
# The bytes of 4-bit codes are stored under any of these dtypes.
_STORAGES = ("U8", "I8", "BF16", "F16", "I16", "U16", "F32", "I32", "U32", "F64", "I64", "U64")
_MAX_BLOCK = 1 << 31  # the library has blocks of 32 to 4096 values
_ROW_MAJOR = 0  # the only layout of LLM.int8() matrices that new versions write and read


@dataclass(frozen=True, slots=True)
class BitsAndBytes(ModuleFormat):
    """4 bits: value = quant_map[code] * absmax of its block. 8 bits: value = code * SCB / 127 of its output.

    kind: the codes by name.
    """

    kind: str

    suffixes = frozenset({"weight", _ABSMAX, _MAP, _NESTED_ABSMAX, _NESTED_MAP, *_STATES, "SCB", "weight_format"})
    marker = _ABSMAX

    def describe(self) -> str:
        return f"bitsandbytes {self.kind}"

    def is_quantized(self, parts: Mapping[str, TensorEntry]) -> bool:
        return not parts.keys() <= {"weight"}

    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor:
        module = QuantizedModule.of(name, shape, parts)
        return _int8(module) if "SCB" in parts else _four_bits(module)


def _four_bits(module: QuantizedModule) -> QuantizedTensor:
    """Codes of neighbours in row-major order; blocks of `blocksize` of them share a scale and may straddle rows."""
    count = module.shape[0] * module.shape[1]
    state = next((suffix for suffix in _STATES if suffix in module.parts), _STATES[0])
    how = _State.of(module, state)
    stored = module.array("weight", _STORAGES)
    size = stored.data.nbytes
    if not 0 <= size - -(-count // 2) < stored.data.itemsize:
        raise module.fail("weight", f"{size} bytes do not hold {count} codes of 4 bits")
    blocks = -(-count // how.blocksize)
    codebook = np.array(module.array(_MAP, ("F32",), (16,)).data)
    if _NESTED_ABSMAX in module.parts:
        nested = module.array(_NESTED_ABSMAX, ("F32",), (-(-blocks // how.nested_blocksize),))
        scales = BlockValues(
            module.array(_ABSMAX, ("U8",), (blocks,)).data,
            how.blocksize,
            np.array(module.array(_NESTED_MAP, ("F32",), (256,)).data),
            BlockValues(nested.data, how.nested_blocksize),
            how.nested_offset,
        )
    else:
        scales = BlockValues(module.array(_ABSMAX, ("F32",), (blocks,)).data, how.blocksize)
    codes = lazy(module.shape, np.uint8, lambda: _nibbles(stored, count).reshape(module.shape))
    return QuantizedTensor(module.name, 4, module.shape, codes, scales, codebook=codebook)


def _nibbles(stored: StoredArray, count: int) -> NDArray[np.uint8]:
    """The first codes of bytes of any dtype; the first of each two is in the high half."""
    packed = stored.data.reshape(-1).view(np.uint8)
    codes = np.empty((packed.size, 2), np.uint8)
    np.right_shift(packed, 4, out=codes[:, 0])
    np.bitwise_and(packed, 15, out=codes[:, 1])
    return codes.reshape(-1)[:count]


def _int8(module: QuantizedModule) -> QuantizedTensor:
    rows, columns = module.shape
    codes = module.array("weight", ("I8",), module.shape)
    scales = module.array("SCB", ("F32",), (rows,))
    if "weight_format" in module.parts:
        layout = int(module.array("weight_format", ("U8",), (), (1,)).data.reshape(()))
        if layout != _ROW_MAJOR:
            raise module.fail("weight_format", f"layout {layout} is not supported, only rows ({_ROW_MAJOR}) are")
    values = BlockValues(scales.data.reshape(rows, 1), (1, columns))
    return QuantizedTensor(module.name, 8, module.shape, codes.data, values, global_divisor=127.0)


@dataclass(frozen=True, slots=True)
class _State:
    """What the JSON text among the arrays of a 4-bit matrix says."""

    blocksize: int
    nested_blocksize: int
    nested_offset: float

    @classmethod
    def of(cls, module: QuantizedModule, suffix: str) -> _State:
        """Raises TensorError for a text that is none, or is about a matrix of another shape."""
        text = module.array(suffix, ("U8",)).data.tobytes().decode("utf-8", "replace")
        try:
            state = parse_object(text, suffix)
        except CheckpointError:
            raise module.fail(suffix, "its text is not read: it is no JSON object") from None
        if state.get("shape") != list(module.shape):
            raise module.fail(suffix, f"shape {state.get('shape')!r} does not fit a matrix {list(module.shape)}")
        sizes = [state.get("blocksize"), state.get("nested_blocksize", 256)]
        offset = state.get("nested_offset", 0.0)
        for size in sizes:
            if type(size) is not int or not 1 <= size <= _MAX_BLOCK:
                raise module.fail(suffix, f"blocks of {shown(size)} values are not supported")
        if isinstance(offset, bool) or not isinstance(offset, int | float) or not abs(offset) < 2.0**127:
            raise module.fail(suffix, f"nested_offset={shown(offset)} is not a finite number")
        return cls(sizes[0], sizes[1], float(offset))


def read_bitsandbytes(settings: Settings, where: str, entries: Entries) -> BitsAndBytes | None:
    """bitsandbytes for its settings. Raises ConfigError if they ask neither for 4 nor for 8 bits."""
    given = {key: value for key, value in settings.items() if key in _METHODS}
    if method_of(settings) != "bitsandbytes" and not (method_of(settings) is None and given):
        return None
    if any(given.get(key) for key in _METHODS[:2]):
        return BitsAndBytes(_four_bit_kind(settings, where))
    if any(given.get(key) for key in _METHODS[2:]):
        return BitsAndBytes("LLM.int8()")
    raise ConfigError(f"{where}: neither load_in_4bit nor load_in_8bit is true: {INSTEAD}")


def _four_bit_kind(settings: Mapping[str, Any], where: str) -> str:
    kind = settings.get("bnb_4bit_quant_type", "fp4")
    if kind not in ("nf4", "fp4"):
        raise ConfigError(f"{where}: bnb_4bit_quant_type={shown(kind)} is not supported: nf4 and fp4 are")
    return f"{kind.upper()}{', double quantization' if settings.get('bnb_4bit_use_double_quant') else ''}"

"""MLX checkpoints: matrices in affine groups or small floats, and tensors in the layouts that mlx-vlm stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from pocketvlm.checkpoint.formats.bitstream import packed_codes
from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3, e8m0
from pocketvlm.checkpoint.formats.format import Entries, ModuleFormat, Parts, Settings, Shape, lazy
from pocketvlm.checkpoint.formats.modules import FLOATS, QuantizedModule
from pocketvlm.checkpoint.formats.safetensors import TensorEntry
from pocketvlm.checkpoint.names import ZERO_CENTRED_NORMS, canonical_name
from pocketvlm.errors import ConfigError, TensorError
from pocketvlm.fields import shown
from pocketvlm.tensors import DenseTensor, Floats, QuantizedTensor, Tensor

# Mode -> its groups and bits; the first of each is MLX's default.
MODES = {
    "affine": ((64, 32, 128), (4, 2, 3, 5, 6, 8)),
    "mxfp4": ((32,), (4,)),
    "mxfp8": ((32,), (8,)),
    "nvfp4": ((16,), (4,)),
}
CONV, PATCH = "conv1d.weight", "patch_embedding.weight"
# Norms of a file whose weights were shifted twice: nearly none lies below 1, and most lie around 2.
_RARELY, _HIGH = 0.001, 1.5


@dataclass(frozen=True, slots=True)
class Quantization:
    """How MLX quantizes one matrix."""

    group: int
    bits: int
    mode: str


@dataclass(frozen=True)
class MLX(ModuleFormat):
    """value = scale * code + bias in mode "affine", where scales may be negative; codebook[code] * scale in the others.

    default: of matrices without an entry of their own; None for a file without quantized ones. overrides: by module, in
    the hub's names. transposed: the names' ends of the convolutions that are stored with channels last. shifted: the
    norms that compute with 1 + weight are stored as that sum.
    """

    default: Quantization | None
    overrides: Mapping[str, Quantization] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()
    shifted: bool = False

    suffixes = frozenset({"weight", "scales", "biases"})
    marker = "scales"

    def describe(self) -> str | None:
        if self.default is None:
            return None
        return f"MLX {' + '.join(dict.fromkeys(how.mode for how in (self.default, *self.overrides.values())))}"

    def is_quantized(self, parts: Mapping[str, TensorEntry]) -> bool:
        return "scales" in parts or ("weight" in parts and parts["weight"].dtype == "U32")

    def tensors(self, entries: Entries, expected: Mapping[str, Shape], where: str, sparse: bool) -> dict[str, Tensor]:
        if unknown := [module for module in self.overrides if f"{module}.weight" not in expected]:
            raise ConfigError(
                f"{where}/config.json: quantization: {unknown[0]!r} is no module of this model: config.json and the "
                f"weights do not belong together, download or copy both again"
            )
        tensors = super().tensors(entries, expected, where, sparse)
        if not self.shifted:
            return tensors
        shifted = {name: its for name, its in tensors.items() if is_zero_centred(name) and isinstance(its, DenseTensor)}
        norms = Norms(shifted, where)
        return {name: norms.weight(name) if name in norms.stored else its for name, its in tensors.items()}

    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor:
        module = QuantizedModule.of(name, shape, parts)
        how = self.overrides.get(name.removesuffix(".weight"), self.default)
        if how is None:
            raise module.fail("weight", "the matrix is quantized, and config.json has no quantization settings")
        rows, columns = module.shape
        if columns % how.group:
            raise module.fail("weight", f"groups of {how.group} do not divide {columns} columns")
        words, width = module.array("weight", ("U32",)).data, columns * how.bits // 32
        if words.shape != (rows, width):
            what = f"{list(words.shape)} words do not hold {rows} x {columns} codes of {how.bits} bits"
            raise module.fail("weight", f"{what}, which config.json says they do: {width} a row would")
        tensor = partial(QuantizedTensor, name, how.bits, module.shape, packed_codes(words, how.bits, module.shape))
        block = (1, how.group)
        if how.mode == "affine":
            scales, biases = (module.block_values(suffix, block, dtypes=FLOATS) for suffix in ("scales", "biases"))
            return tensor(scales, biases=biases)
        exponents = e4m3() if how.mode == "nvfp4" else e8m0()
        scales = module.block_values("scales", block, exponents, ("U8",))
        return tensor(scales, codebook=e4m3() if how.mode == "mxfp8" else e2m1())

    def dense_shape(self, name: str, shape: Shape) -> Shape:
        if not name.endswith(tuple(self.transposed)) or len(shape) < 3:
            return shape
        return (shape[0], *shape[2:], shape[1])

    def dense(self, name: str, tensor: DenseTensor) -> DenseTensor:
        if not name.endswith(tuple(self.transposed)):
            return tensor
        shape = (tensor.shape[0], tensor.shape[-1], *tensor.shape[1:-1])

        def channels_first() -> Any:
            return np.ascontiguousarray(np.moveaxis(tensor.data, -1, 1))

        return replace(tensor, source=lazy(shape, tensor.source.dtype, channels_first))


@dataclass(frozen=True)
class Norms:
    """The norms that are stored as 1 + weight, all of them together: whether they were shifted twice shows in all."""

    stored: Mapping[str, DenseTensor]
    where: str

    def weight(self, name: str) -> DenseTensor:
        """The weight as the hub stores it, in float32: exact, and so is the sum that the network computes of it."""
        stored = self.stored[name]
        return replace(stored, dtype="f32", source=lazy(stored.shape, np.float32, lambda: self.values[name] - 1))

    @cached_property
    def values(self) -> dict[str, Floats]:
        """The stored values. Raises TensorError for those of a file that was converted twice."""
        values = {name: tensor.float32() for name, tensor in self.stored.items()}
        together = np.concatenate(list(values.values()))
        below = int((together < 1).sum())
        if below < _RARELY * together.size and np.median(together) >= _HIGH:
            raise TensorError(
                f"{self.where}: 1 was added twice to the norms of the language model: only {below} of {together.size} "
                f"values are below 1, and their median is {np.median(together):.3g}: convert the original checkpoint "
                f"again, with an mlx-vlm that is newer than July 2026"
            )
        return values


def read_mlx(settings: Settings, where: str, entries: Entries) -> MLX | None:
    """MLX for its settings, which name no method. Raises ConfigError for a mode, group or bits that it lacks."""
    keys = settings.keys()
    if keys & {"quant_method", "method", "desc_act"} or not keys & {"group_size", "bits", "mode"}:
        return None
    own = {name: value for name, value in settings.items() if name not in ("group_size", "bits", "mode")}
    default = _quantization(settings, where)
    overrides = {}
    for module, value in own.items():
        # Whether a matrix is quantized shows in its arrays; true and false say no more.
        if isinstance(value, Mapping):
            name = canonical_name(f"{module}.weight") or ""
            overrides[name.removesuffix(".weight")] = _quantization(value, f"{where}: {module}")
        elif not isinstance(value, bool) and value is not None:
            raise ConfigError(f"{where}: {module}={shown(value)} is not supported: expected an object, true or false")
    overrides.pop("", None)
    return replace(read_layout(entries), default=default, overrides=MappingProxyType(overrides))


def read_layout(entries: Entries) -> MLX:
    """MLX without quantized matrices, and with the layouts that the files' shapes show.

    mlx-vlm transposes convolutions in the same step in which it adds 1 to norms, so the first tell the second.
    """
    ends = {end for name, entry in entries.items() for end in (CONV, PATCH) if _channels_last(name, end, entry.shape)}
    return MLX(None, transposed=frozenset(ends), shifted=CONV in ends)


def read_unquantized_mlx(entries: Entries) -> MLX | None:
    """MLX for files in its layouts without quantization settings."""
    found = read_layout(entries)
    return found if found.transposed else None


def _channels_last(name: str, end: str, shape: Shape) -> bool:
    """[channels, kernel, 1] instead of [channels, 1, kernel], or [out, height, width, 3] instead of [out, 3, ...]."""
    if not name.endswith(end):
        return False
    if end == CONV:
        return len(shape) == 3 and shape[2] == 1 != shape[1]
    return len(shape) == 4 and shape[1] == shape[2] != shape[3]


def is_zero_centred(name: str) -> bool:
    """Whether a tensor is a norm that computes with 1 + weight, and that mlx-vlm stores as this sum."""
    return name.startswith("model.language_model.") and name.endswith(ZERO_CENTRED_NORMS)


def _quantization(settings: Mapping[str, Any], where: str) -> Quantization:
    mode = settings.get("mode", "affine")
    if not isinstance(mode, str) or mode not in MODES:
        raise ConfigError(f"{where}: mode={shown(mode)} is not supported: {', '.join(MODES)} are")
    groups, bits = MODES[mode]
    found = {}
    for key, choices in (("group_size", groups), ("bits", bits)):
        value = settings.get(key)
        found[key] = choices[0] if value is None else value
        if type(found[key]) is not int or found[key] not in choices:
            supported = ", ".join(str(choice) for choice in sorted(choices))
            raise ConfigError(
                f"{where}: {key}={shown(value)} is not supported with mode {shown(mode)}, only {supported}"
            )
    return Quantization(found["group_size"], found["bits"], mode)

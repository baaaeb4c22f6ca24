"""The base of an adapter: sums of some of its values tell whether a model is the one that the adapter was trained on.

A hash of files would not do: copies in other formats have other bytes. A sum of values survives every format that keeps
a tensor dense, and differs where weights were trained further or merged with another adapter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm.adapters import Adapter
from pocketvlm.checkpoint.names import ZERO_CENTRED_NORMS
from pocketvlm.errors import ConfigError
from pocketvlm.fields import is_finite, shown
from pocketvlm.tensors import DenseTensor, Floats, LazyArray, Tensor, bfloat16_to_float32, float32_to_bfloat16

_VALUES = 128  # of each tensor, in one run: a page of its file
_LAZY_VALUES = 1 << 18  # of tensors that have to be computed as a whole; larger ones are skipped
_LAYER = re.compile(r"\.\d+\.")
# Relative to the square root of the sum of squares. Loose: float16 and 1 + weight, which MLX files store in bfloat16,
# are rounded another time.
_TOLERANCE, _LOOSE_TOLERANCE = 2.0**-16, 2.0**-9
# Tensors that quantizers neither round nor scale. AWQ scales the norms in front of matrices, and the matrices next to
# those that it rounds (Lin et al. 2024).
_UNSCALED = re.compile(
    r"\.(q_norm\.weight|k_norm\.weight|A_log|dt_bias|patch_embedding\.weight|patch_embedding\.bias"
    r"|position_embedding\.weight|out_proj\.bias|fc2\.bias)$"
)


def sample_of(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Sums of some values of a dense checkpoint, by kind of tensor: its name with * for the number of the layer."""
    return {kind: float(f"{math.fsum(values.tolist()):.9g}") for kind, (values, _) in _samples(tensors).items()}


def check_sample(base: Any, where: str) -> dict[str, Any]:
    """What pocketvlm.json says of the base: `model`, its name, and `sample`, if they are there. Raises ConfigError."""
    if not isinstance(base, Mapping):
        raise ConfigError(f"{where}: base={shown(base)} is not supported: expected an object")
    found: dict[str, Any] = {"model": base["model"]} if isinstance(base.get("model"), str) else {}
    sums = base.get("sample")
    if sums is not None:
        if not isinstance(sums, Mapping) or not all(is_finite(each) for each in sums.values()):
            raise ConfigError(f"{where}: base: sample={shown(sums)} is not supported: expected an object of numbers")
        found["sample"] = dict(sums)
    return found


def difference(base: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    """The kind of tensor whose values differ most from the base's; None where none does, or nothing is known.

    base: `Adapter.base`. tensors: of the model. Of a quantized model only those tensors are compared that quantizers
    leave as they are: a quantized copy of the base is the base.
    """
    sums = base.get("sample") or {}
    worst, found = 1.0, None
    for kind, (values, dtypes) in _samples(tensors, set(sums)).items():
        size = math.sqrt(math.fsum((values.astype(np.float64) ** 2).tolist()))
        tolerance = _LOOSE_TOLERANCE if "f16" in dtypes else _TOLERANCE
        if kind.endswith(ZERO_CENTRED_NORMS):
            size, tolerance = size + math.sqrt(values.size), _LOOSE_TOLERANCE
        allowed = tolerance * size + 1e-9
        off = abs(math.fsum(values.tolist()) - float(sums[kind])) / allowed
        if off > worst:
            worst, found = off, kind
    return found


def _samples(tensors: Mapping[str, Tensor], wanted: set[str] | None = None) -> dict[str, tuple[Floats, set[str]]]:
    """Values of each kind of tensor that is dense in all layers, rounded to bfloat16, and the dtypes they have."""
    is_quantized = any(not isinstance(tensor, DenseTensor) for tensor in tensors.values())
    kinds: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        kind = _LAYER.sub(".*.", name)
        if (wanted is None or kind in wanted) and not (is_quantized and _UNSCALED.search(kind) is None):
            kinds.setdefault(kind, []).append(tensor)
    found: dict[str, tuple[Floats, set[str]]] = {}
    for kind, members in kinds.items():
        dense = [each for each in members if isinstance(each, DenseTensor) and _is_usable(each, is_quantized)]
        if len(dense) == len(members):
            found[kind] = np.concatenate([_values(each) for each in dense]), {each.dtype for each in dense}
    return found


def _is_usable(tensor: DenseTensor, is_quantized: bool) -> bool:
    """Whether a tensor is cheap to read; lazy ones of a quantized model may be rounded, if they are no vectors."""
    if not isinstance(tensor.source, LazyArray):
        return True
    return math.prod(tensor.shape) <= _LAZY_VALUES and not (is_quantized and len(tensor.shape) > 1)


def _values(tensor: DenseTensor) -> Floats:
    """A run of values from the middle of a tensor; of zero-centred norms what they multiply by, 1 + weight."""
    flat = tensor.data.reshape(-1)
    start = max(flat.size - _VALUES, 0) // 2
    run = flat[start : start + _VALUES]
    values = np.nan_to_num(bfloat16_to_float32(run) if tensor.dtype == "bf16" else run.astype(np.float32))
    if tensor.name.endswith(ZERO_CENTRED_NORMS):
        values += 1
    return bfloat16_to_float32(float32_to_bfloat16(values))


def other_base(adapter: Adapter, kind: str) -> str:
    """The end of a message about an adapter of another base: what it was trained on, where that differs, what to do."""
    made_for = f" (on {adapter.base['model']})" if adapter.base.get("model") else ""
    return f"{made_for}: values of {kind} differ: give the adapter's own base as the model, or train it on this one"

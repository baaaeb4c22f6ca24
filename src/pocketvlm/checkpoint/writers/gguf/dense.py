"""Dense tensors in GGUF files: their type, and the changes that llama.cpp's converter makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.format import lazy
from pocketvlm.checkpoint.gguf.names import file_name, has_one_added, is_text
from pocketvlm.checkpoint.writers.gguf.container import Item
from pocketvlm.checkpoint.writers.gguf.order import reordered
from pocketvlm.config import TextConfig
from pocketvlm.errors import TensorError
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, Floats, StoredDtype, all_finite, float32_to_bfloat16

DENSE = ("F32", "F16", "BF16")
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_LARGEST_HALF = 65504.0
_DTYPES: dict[str, StoredDtype] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_CHUNK = 1 << 22
_ALWAYS_FLOAT32: tuple[Role, ...] = ("norm", "conv", "vector", "position_embedding")


def dense_kind(name: str, role: Role, tensor: DenseTensor, label: str) -> str:
    """The type of a tensor in a file with this label. Reads values where it depends on their range."""
    if role in _ALWAYS_FLOAT32:
        return "F32"
    own = next(kind for kind, dtype in _DTYPES.items() if dtype == tensor.dtype)
    kind = label if label in DENSE else own if is_text(name) else "F16"
    if kind == "F16" and own != "F16" and not _fits_half(tensor):
        kind = "BF16"
    # llama.cpp convolves pixels in F16 and F32 alone.
    return "F32" if kind == "BF16" and role == "patch_embedding" else kind


def dense_item(name: str, tensor: DenseTensor, kind: str, text: TextConfig) -> Item:
    """The tensor as the file holds it."""
    changed = reordered(name, _changed(name, tensor), text)
    shape = (tensor.shape[0], tensor.shape[-1]) if name.endswith("conv1d.weight") else tensor.shape
    count = int(np.prod(shape))

    def rows() -> Iterator[NDArray[Any]]:
        data = changed.finite_data().reshape(-1)
        for start in range(0, count, _CHUNK):
            some = replace(changed, source=data[start : start + _CHUNK])
            yield data[start : start + _CHUNK] if _DTYPES[kind] == changed.dtype else _converted(some, kind)

    return Item(file_name(name), kind, shape, count * _BYTES[kind], rows)


def _changed(name: str, tensor: DenseTensor) -> DenseTensor:
    """1 + weight of norms, and -exp of A_log."""
    if has_one_added(name):
        return _mapped(tensor, lambda values: values + np.float32(1))
    if name.endswith("linear_attn.A_log"):
        return _mapped(tensor, lambda values: -np.exp(values))
    return tensor


def _mapped(tensor: DenseTensor, change: Any) -> DenseTensor:
    return replace(tensor, dtype="f32", source=lazy(tensor.shape, np.float32, lambda: change(tensor.float32())))


def _fits_half(tensor: DenseTensor) -> bool:
    data = tensor.finite_data().reshape(-1)
    parts = (replace(tensor, source=data[at : at + _CHUNK]).float32() for at in range(0, data.size, _CHUNK))
    return all(bool(np.abs(part).max(initial=0) <= _LARGEST_HALF) for part in parts)


def _converted(tensor: DenseTensor, kind: str) -> NDArray[Any]:
    values: Floats = tensor.float32()
    if kind == "F32":
        return values
    with np.errstate(over="ignore"):
        found = values.astype(np.float16) if kind == "F16" else float32_to_bfloat16(values)
    if not all_finite(found, _DTYPES[kind]):
        raise TensorError(f"{tensor.label}: has values beyond the range of {kind}: write F32, or BF16 instead of F16")
    return found

"""Lists the parts of a network with how the checkpoint stores each and how a backend multiplies it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.quantize import quantized
from pocketvlm.schemes import ARRAY_ROLES, Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor

_BITS = {"f32": 32, "f16": 16, "bf16": 16}
_NAMES: Mapping[str, str] = {
    "embedding": "embedding",
    "tied_embedding": "embedding and head",
    "head": "head",
    "patch_embedding": "patch embedding",
    "position_embedding": "position embedding",
}


def parts_of(checkpoint: Checkpoint, ops: AnyBackend) -> list[dict[str, Any]]:
    """Matrices that are stored and multiplied alike, by part of the network, in the network's order; reads no weight.

    part: a kind of matrix of the language model by its name, "embedding", "head", "vision tower", "window merger",
    "merger" and so on. matrices: how many. stored: how the checkpoint has them, in words; bits and group (inputs that
    share a scale, None without groups); quantized: whether their codes are the checkpoint's. kernel: how they are
    multiplied, and why. Raises TensorError for tensors that do not fit.
    """
    roles = tensor_roles(checkpoint.model)
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model), sparse=True)
    prepared = quantized(tensors, roles, ops.scheme)
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, tensor in tensors.items():
        role = roles[name]
        if role in ARRAY_ROLES:
            continue
        part = {"part": _part(name, role), **_stored(tensor), "kernel": _kernel(tensor, prepared[name], role, ops)}
        entry = found.setdefault(tuple(part.values()), {"part": part["part"], "matrices": 0, **part})
        entry["matrices"] += 1
    return list(found.values())


def quantization_of(checkpoint: Checkpoint) -> str | None:
    """Format, bits and groups of the matrices that the checkpoint holds quantized; None where all tensors are dense.

    Bits and groups are those of the arrays, whatever the settings say.
    """
    if checkpoint.quantization is None:
        return None
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model), sparse=True).values()
    kinds = dict.fromkeys(_codes(tensor)[0] for tensor in tensors if isinstance(tensor, QuantizedTensor))
    return f"{checkpoint.quantization}, {' or '.join(kinds) or 'but no matrix is quantized'}"


def quantized_modules(checkpoint: Checkpoint) -> list[str]:
    """The modules whose matrices the checkpoint holds quantized, in the network's order."""
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model), sparse=True)
    return [name.removesuffix(".weight") for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)]


def _part(name: str, role: Role) -> str:
    if role in _NAMES:
        return _NAMES[role]
    if role == "vision_matrix":
        if name.startswith("model.merger."):
            return "merger"
        return "window merger" if ".vit_merger." in name else "vision tower"
    return name.removesuffix(".weight").rpartition(".")[2]


def _stored(tensor: Tensor) -> dict[str, Any]:
    if isinstance(tensor, DenseTensor):
        return {"stored": tensor.dtype, "bits": _BITS[tensor.dtype], "group": None, "quantized": False}
    words, group = _codes(tensor)
    order = ", inputs permuted" if tensor.permutation is not None else ""
    return {"stored": f"{words}{order}", "bits": tensor.bits, "group": group, "quantized": True}


def _codes(tensor: QuantizedTensor) -> tuple[str, int]:
    """Bits and blocks in words, and the inputs that share a scale."""
    block, bits = tensor.block, f"{tensor.bits} bits"
    if isinstance(block, int):
        return f"{bits}, blocks of {block}", block
    rows, group = block
    if block == tensor.shape:
        return f"{bits}, one scale a matrix", group
    if rows > 1:
        return f"{bits}, blocks of {rows} x {group}", group
    return f"{bits}, {'one scale an output' if group >= tensor.shape[1] else f'groups of {group}'}", group


def _kernel(tensor: Tensor, prepared: Tensor, role: Role, ops: AnyBackend) -> str:
    how = ops.product(prepared, role)
    if role == "tied_embedding" and isinstance(tensor, DenseTensor) and isinstance(prepared, QuantizedTensor):
        how = f"{how}, rows looked up as stored"
    if isinstance(tensor, QuantizedTensor):
        return how
    reason = ops.scheme.storage[role].reason
    return f"{how}: quantized at load, {reason}" if isinstance(prepared, QuantizedTensor) else f"{how}: {reason}"

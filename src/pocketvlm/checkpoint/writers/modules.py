"""Names of modules as engines treat them: which are linear layers, and which are fused into one matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pocketvlm.schemes import Role
from pocketvlm.tensors import QuantizedTensor, Tensor

LINEAR_ROLES: tuple[Role, ...] = ("matrix", "gate", "vision_matrix", "head")
LAYERS = "model.language_model.layers."

# What vLLM joins into one matrix: its name, and those of its parts (docs/formats.md, vLLM's names).
FUSED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
_OF_PART = {part: (fused, parts) for fused, parts in FUSED.items() for part in parts}


def module(name: str) -> str:
    """The module of a weight."""
    return name.removesuffix(".weight")


def dense_linears(tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> list[str]:
    """The linear layers whose weights stay dense, in the network's order; the output matrix also where it is tied."""
    found = [
        module(name)
        for name, tensor in tensors.items()
        if roles[name] in LINEAR_ROLES and not isinstance(tensor, QuantizedTensor)
    ]
    return found if "lm_head.weight" in tensors else [*found, "lm_head"]


def fused_groups(names: Mapping[str, object]) -> Iterator[tuple[str, list[str]]]:
    """The fused matrices among these weights: prefix and name of the matrix, and the weights that it is made of."""
    found: dict[str, list[str]] = {}
    for name in names:
        prefix, _, part = module(name).rpartition(".")
        if part in _OF_PART:
            found.setdefault(f"{prefix}.{_OF_PART[part][0]}", []).append(name)
    return iter(found.items())


def with_fused_name(part: str) -> list[str]:
    """The last part of a module's name, all it is fused with, and the name of the whole."""
    if part not in _OF_PART:
        return [part]
    fused, parts = _OF_PART[part]
    return [*parts, fused]

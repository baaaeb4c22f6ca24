"""Tensor names of other tools are mapped to the hub's names."""

from __future__ import annotations

from collections.abc import Mapping

from pocketvlm.checkpoint.formats.safetensors import TensorEntry
from pocketvlm.errors import TensorError

EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"

_LANGUAGE = "model.language_model."

# Ends of the names of the language model's norms that compute with 1 + weight (docs/model.md 3.1).
ZERO_CENTRED_NORMS = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "q_norm.weight",
    "k_norm.weight",
    "language_model.norm.weight",
)

# Prefixes of other tools for the same module (docs/model.md 2), tried in order after a leading "model." is taken off.
_ROOTS = (
    ("language_model.", _LANGUAGE),
    ("llm.", _LANGUAGE),
    ("vision_tower.", "model.vision_tower."),
    ("vpm.", "model.vision_tower."),
    ("visual.", "model.vision_tower."),
    ("vit_merger.", "model.vision_tower.vit_merger."),
    ("merger.", "model.merger."),
)


def canonical_name(name: str) -> str | None:
    """The hub's name for a tensor, the name itself if nothing is known about it, or None for one that is never used.

    Returns None for `mtp.*`, the multi-token-prediction head, which the reference drops too.
    """
    local = name.removeprefix("model.")
    for root, target in _ROOTS:
        if local.startswith(root):
            tail = local.removeprefix(root)
            while target == _LANGUAGE and tail.startswith("model."):
                tail = tail.removeprefix("model.")
            if target == _LANGUAGE and tail.startswith(("lm_head.", "mtp.")):
                local = tail
                break
            return target + tail
    if local.startswith("mtp."):
        return None
    return local if local.startswith("lm_head.") else name


def canonical_entries(entries: Mapping[str, TensorEntry], where: str) -> dict[str, TensorEntry]:
    """Entries by the hub's names; raises TensorError if two of the file's names mean the same tensor."""
    result: dict[str, TensorEntry] = {}
    for name, entry in entries.items():
        target = canonical_name(name)
        if target is None:
            continue
        if target in result:
            raise TensorError(
                f"{where}: tensors {result[target].name!r} and {name!r} both mean {target!r}: keep one of them"
            )
        result[target] = entry
    return result

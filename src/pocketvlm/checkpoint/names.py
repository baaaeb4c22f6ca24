"""Tensor names of other tools are mapped to the hub's names and matched with the tensors that the model needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pocketvlm.checkpoint.formats.safetensors import SUPPORTED, TensorEntry
from pocketvlm.errors import TensorError

EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"

_LANGUAGE = "model.language_model."
_SHOWN = 8
_QUANTIZED_SUFFIXES = (".qweight", ".qzeros", ".scales", ".weight_packed", ".weight_scale", ".absmax")

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


def match(
    entries: Mapping[str, TensorEntry], expected: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, TensorEntry]:
    """The entry for each expected name, in the order of `expected`.

    entries: by canonical name. expected: the shape of every tensor the model needs. Raises one TensorError that counts
    and lists all missing, unexpected and mis-shaped tensors and those with a dtype that is not loaded.
    """
    missing = [name for name in expected if name not in entries]
    unexpected = [entry.name for name, entry in entries.items() if name not in expected]
    shaped = [
        f"{entry.name} {list(entry.shape)} instead of {list(expected[name])}"
        for name, entry in entries.items()
        if name in expected and entry.shape != tuple(expected[name])
    ]
    unsupported = [
        f"{entry.name} ({entry.dtype})"
        for name, entry in entries.items()
        if name in expected and entry.dtype not in SUPPORTED
    ]
    lines = [
        _line(missing, "missing"),
        _line(unexpected, "unexpected"),
        _line(shaped, "of another shape than config.json asks for"),
        _line(unsupported, f"of a dtype that is not loaded (only {', '.join(sorted(SUPPORTED))} are)"),
    ]
    if any(lines):
        quantized = bool(unsupported) or any(name.endswith(_QUANTIZED_SUFFIXES) for name in unexpected)
        way_out = (
            "this looks like a quantized checkpoint, which pocketvlm does not load yet: use the 16-bit one"
            if quantized
            else "config.json and the weights do not belong together, or the weights are another model's"
        )
        raise TensorError("\n  ".join([f"{where}: the tensors do not fit: {way_out}", *filter(None, lines)]))
    return {name: entries[name] for name in expected}


def _line(names: Sequence[str], what: str) -> str:
    """`3 missing: a, b, c`, cut after some names; empty if there are none."""
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"

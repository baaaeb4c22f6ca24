"""The keys of an adapter's tensors are translated to the checkpoint's names."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from pocketvlm.checkpoint.names import EMBEDDING, HEAD, canonical_name

Part = Literal["lora_A", "lora_B", "embedding_A", "embedding_B", "tokens", "base", "replacement", "unknown"]

# What wrappers of training put between the names of modules.
_WRAPPERS = re.compile(r"(?<![^.])(_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.")
_PREFIXES = ("base_model.model.", "base_model.", "module.")
# The adapter's name stands between, where a file has it: "lora_A.default.weight".
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<half>[AB])(?:\.(?P<adapter>[^.]+))?")
_TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.(?P<adapter>[^.]+))?")
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save(?:\.(?P<adapter>[^.]+))?\.(?P<what>.+)")
_BASE = re.compile(r"(?P<module>.+)\.base_layer\.(?P<what>[^.]+)")


@dataclass(frozen=True, slots=True)
class Key:
    """What a key of a file means. text: the key. name: the checkpoint's name of the tensor that it changes.

    module: the trained network's name of the module, for rank_pattern. adapter: its name in the key, "" where none is.
    """

    text: str
    part: Part
    name: str
    module: str
    adapter: str = ""


def parse_key(text: str) -> Key:
    """Translate a key as peft, LLaMA-Factory or ms-swift write it."""
    local = _WRAPPERS.sub("", text)
    for prefix in _PREFIXES:
        local = local.removeprefix(prefix)

    def key(part: Part, module: str, what: str, adapter: str | None) -> Key:
        return Key(text, part, canonical_name(f"{module}.{what}") or f"{module}.{what}", module, adapter or "")

    if found := _FACTOR.fullmatch(local):
        return key("lora_A" if found["half"] == "A" else "lora_B", found["module"], "weight", found["adapter"])
    if found := _EMBEDDING.fullmatch(local):
        part: Part = "embedding_A" if found["half"] == "A" else "embedding_B"
        return key(part, found["module"], "weight", found["adapter"])
    if found := _TOKENS.fullmatch(local):
        return key("tokens", found["module"], "weight", found["adapter"])
    if "lora_" in local:
        return Key(text, "unknown", local, local)
    if found := _SAVED.fullmatch(local):
        return key("replacement", found["module"], found["what"], found["adapter"])
    if found := _BASE.fullmatch(local):
        # peft saves adapted embeddings with their frozen weights. Other layers have these keys where they were trained.
        name = key("replacement", found["module"], found["what"], None)
        return replace(name, part="base") if name.name in (EMBEDDING, HEAD) else name
    module, _, what = local.rpartition(".")
    return key("replacement", module, what, None) if module else Key(text, "unknown", local, local)

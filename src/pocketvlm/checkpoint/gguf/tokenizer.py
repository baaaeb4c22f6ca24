"""The tokenizer of a GGUF file as the content of a tokenizer.json, and its control tokens by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.gguf import defaults
from pocketvlm.checkpoint.gguf.header import Header
from pocketvlm.errors import CheckpointError
from pocketvlm.fields import Fields
from pocketvlm.types import TokenizerSource

_PREFIX = "tokenizer."
_TOKENS, _TYPES, _MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges"))
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5
_NAMES = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """Control tokens of a vocabulary: ids by spelling, the special ones among them, and spellings by role.

    ends: ids that end an answer. size: of the vocabulary, with its unused tokens.
    """

    ids: Mapping[str, int]
    special: frozenset[str]
    roles: Mapping[str, str]
    ends: tuple[int, ...]
    size: int


def tokenizer_source(header: Header) -> TokenizerSource:
    """The tokenizer of a text file; its vocabulary is read when it is needed. Raises ConfigError for another kind."""
    fields = Fields(header.metadata, str(header.path))
    fields.only("tokenizer.ggml.model", "gpt2", default=None)
    fields.only("tokenizer.ggml.pre", *defaults.SPLIT_EXPRESSIONS, default=None)
    return TokenizerSource(
        where=f"{header.path}: tokenizer",
        identity=lambda: header.content(_PREFIX),
        text=lambda: json.dumps(_tokenizer_json(header), ensure_ascii=False).encode(),
    )


def control_tokens(header: Header) -> ControlTokens:
    """The control tokens of a text file. Raises CheckpointError for a vocabulary that does not fit its types."""
    tokens, types = _vocabulary(header)
    numbers = np.flatnonzero(np.isin(types, (_UNKNOWN, _CONTROL, _USER_DEFINED)))
    ids = {header.decode(tokens[number], _TOKENS): int(number) for number in numbers}
    special = frozenset(text for text, number in ids.items() if types[number] != _USER_DEFINED)
    roles = {}
    for role, key in _NAMES.items():
        number = Fields(header.metadata, str(header.path)).optional_integer(f"tokenizer.ggml.{key}_token_id")
        if number is not None and number < len(tokens):
            roles[role] = header.decode(tokens[number], _TOKENS)
    names = (*defaults.END_TOKENS, roles.get("eos_token"))
    ends = tuple(sorted({ids[name] for name in names if name in ids}))
    return ControlTokens(ids, special, roles, ends, len(tokens))


def _vocabulary(header: Header) -> tuple[list[bytes], NDArray[Any]]:
    """Tokens and their types by id."""
    tokens, types = header.raw_strings(_TOKENS), header.numbers(_TYPES)
    if types is None or len(types) != len(tokens) or not tokens:
        count = "no" if types is None else len(types)
        raise CheckpointError(
            f"{header.path}: {len(tokens)} tokens with {count} types: the file is damaged: download or copy it again"
        )
    return tokens, types


def _tokenizer_json(header: Header) -> dict[str, Any]:
    """The content of a tokenizer.json with the same ids."""
    tokens, types = _vocabulary(header)
    control = control_tokens(header)
    expression = defaults.SPLIT_EXPRESSIONS[header.metadata["tokenizer.ggml.pre"]]
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": text, **plain, "special": text in control.special}
            for text, number in control.ids.items()
        ],
        "normalizer": defaults.NORMALIZER,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            # Control tokens too, so that each keeps its id where the vocabulary has holes.
            "vocab": {
                header.decode(tokens[number], _TOKENS): number for number in np.flatnonzero(types != _UNUSED).tolist()
            },
            "merges": [merge.split(" ") for merge in header.strings(_MERGES)],
        },
    }

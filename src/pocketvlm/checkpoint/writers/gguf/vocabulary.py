"""The key-value pairs of a GGUF file that say what its tokenizer is, out of a tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.gguf import defaults
from pocketvlm.errors import CheckpointError

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_ROLES = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
_WAY_OUT = "use another format, such as native"


def tokenizer_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """The pairs, with fillers for ids without a token. Raises CheckpointError for a tokenizer that GGUF cannot hold."""
    where, size = checkpoint.tokenizer.where, checkpoint.model.text.vocab_size
    try:
        content = json.loads(checkpoint.tokenizer.text())
        model, added = content["model"], content["added_tokens"]
        vocabulary, merges = dict(model["vocab"]), list(model["merges"])
        special = {item["content"]: (int(item["id"]), bool(item["special"])) for item in added}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: is no tokenizer of byte pairs ({error}): {_WAY_OUT}") from None
    ids = {**vocabulary, **{text: number for text, (number, _) in special.items()}}
    if (largest := max(ids.values(), default=0)) >= size:
        raise CheckpointError(
            f"{where}: has the token id {largest}, but the embedding has only {size} rows: {_WAY_OUT}"
        )
    tokens, types = [f"[PAD{number}]" for number in range(size)], [_UNUSED] * size
    for text, number in vocabulary.items():
        tokens[number], types[number] = text, _NORMAL
    for text, (number, is_special) in special.items():
        tokens[number], types[number] = text, _CONTROL if is_special else _USER_DEFINED
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _word_split(content, where),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "tokenizer.ggml.add_bos_token": False,
    }
    for key, role in _ROLES.items():
        number = ids.get(_spelling(checkpoint.tokenizer_config.get(key)))
        if number is not None:
            found[f"tokenizer.ggml.{role}_token_id"] = number
    return {**found, "tokenizer.chat_template": checkpoint.chat_template}


def _spelling(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) and "content" in token else token)


def _word_split(content: Mapping[str, Any], where: str) -> str:
    """llama.cpp's name of the way in which text is cut into words."""
    steps = (content.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    expression = (steps[0].get("pattern") or {}).get("Regex")
    for name, known in defaults.SPLIT_EXPRESSIONS.items():
        if expression == known and content.get("normalizer") == defaults.NORMALIZER:
            return name
    raise CheckpointError(
        f"{where}: cuts text into words in a way that llama.cpp has no name for: {expression!r}: {_WAY_OUT}"
    )

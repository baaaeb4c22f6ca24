"""A checkpoint directory of the released shape with random weights, so that whole starts can be timed.

Tensors, configuration and sizes are those of the released checkpoint. The tokenizer is a stand-in with as many tokens
and merges, made of random words, so that reading takes as long; the text of the chat template has as many tokens as in
the released one, and special tokens have their ids. All other files are nano's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketvlm.bench.shape import RELEASED
from pocketvlm.checkpoint.formats.safetensors import write_tensors

if TYPE_CHECKING:
    from pocketvlm.tensors import DenseTensor

LONGEST_WORD = 12
TEMPLATE_WORDS = ("system", "user", "assistant", "\u010a\u010a")  # the last is two line breaks


def digest(tensors: Mapping[str, DenseTensor]) -> str:
    """Ten hex digits that tell apart sets of weights: names, shapes and the first and last values of each."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.data.reshape(-1)
        state.update(f"{name} {tensor.shape} {tensor.dtype}\n".encode())
        state.update(flat[:64].tobytes() + flat[-64:].tobytes())
    return state.hexdigest()[:10]


def write_checkpoint(tensors: Mapping[str, DenseTensor], nano: Path, directory: Path) -> Path:
    """Write the directory unless it is there; nano: the embedded checkpoint's directory."""
    if directory.exists():
        return directory
    unfinished = directory.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_tensors(unfinished / "model.safetensors", tensors)
    write_settings(nano, unfinished)
    return unfinished.replace(directory)


def write_settings(nano: Path, directory: Path, shape: Mapping[str, Any] = RELEASED, **config: Any) -> None:
    """Write all files but the weights; `shape` and `config` go into config.json."""
    small = json.loads((nano / "config.json").read_text())
    first, size = shape["eos_token_id"], shape["text_config"]["vocab_size"]
    shift = size - small["text_config"]["vocab_size"]
    _write(directory / "config.json", {**shape, **config})
    generation = json.loads((nano / "generation_config.json").read_text())
    generation["bos_token_id"] += shift
    generation["eos_token_id"] = [number + shift for number in generation["eos_token_id"]]
    _write(directory / "generation_config.json", generation)
    pictures = json.loads((nano / "preprocessor_config.json").read_text())
    _write(directory / "preprocessor_config.json", {**pictures, "scale_resolution": 448, "max_slice_nums": 9})
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(nano / name, directory / name)
    tokenizer = json.loads((nano / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["id"] += shift
    assert min(token["id"] for token in tokenizer["added_tokens"]) == first
    vocabulary, merges = random_words(first)
    tokenizer["model"] |= {"vocab": vocabulary, "merges": merges}
    _write(directory / "tokenizer.json", tokenizer)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def template_merges() -> list[tuple[str, str]]:
    """The merges, letter by letter, that make one token of each word of a chat template."""
    return [(word[:i], word[i]) for word in TEMPLATE_WORDS for i in range(1, len(word))]


def random_words(size: int, seed: int = 0) -> tuple[dict[str, int], list[list[str]]]:
    """A byte-level vocabulary of `size` tokens and the merges that make those beyond the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    merges = [list(pair) for pair in template_merges()]
    tokens = [*letters, *("".join(pair) for pair in merges)]
    vocabulary |= {token: number for number, token in enumerate(tokens)}
    random = np.random.default_rng(seed)
    usual = "\u0120etaoinshrdlucmfwypvbgkjqxz" + "".join(letters[94:])
    while len(tokens) < size:
        firsts = random.random(size)
        seconds = np.minimum(random.exponential(20, size).astype(int), len(usual) - 1)
        for first, second in zip(firsts, seconds, strict=True):
            left, right = tokens[int(first * len(tokens))], usual[second]
            word = left + right
            if len(word) <= LONGEST_WORD and word not in vocabulary and len(tokens) < size:
                vocabulary[word] = len(tokens)
                tokens.append(word)
                merges.append([left, right])
    return vocabulary, merges

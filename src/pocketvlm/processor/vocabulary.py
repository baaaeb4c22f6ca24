"""The vocabulary of a tokenizer is a few sorted arrays, built from tokenizer.json or mapped from the cache."""

from __future__ import annotations

import hashlib
import json
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketvlm.errors import CheckpointError
from pocketvlm.packfile import SUFFIX, VERSION, Item, PackedError, open_items, opened, write_items, written
from pocketvlm.types import TokenizerSource

if TYPE_CHECKING:
    from pocketvlm.backends.backend import CacheLocation

# Increase this when `parse` makes other arrays of the same file.
FORMAT = 1
# The kind in the header of a cache file; files of weights have the type of their weights there.
KIND = "tokenizer"

_ARRAYS: dict[str, Literal["B", "I", "Q"]] = {
    "pairs": "Q",
    "ranks": "I",
    "merged": "I",
    "text": "B",
    "ends": "I",
    "byte_ids": "I",
}
# Ways to merge that the loop in `bpe` does not know. How unknown characters are treated does not matter: all 256 bytes
# must have a token.
_REFUSED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
_MAX_IDS = 1 << 24


def _byte_alphabet() -> dict[str, int]:
    """Character of the byte-level alphabet to byte: printable bytes stand for themselves, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    rest = [byte for byte in range(256) if byte not in set(plain)]
    table.update({chr(256 + index): byte for index, byte in enumerate(rest)})
    return table


ALPHABET = _byte_alphabet()


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A control token. special: decoding leaves it out by default."""

    text: str
    id: int
    special: bool


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Tokens and merges; arrays may be mapped and are read-only.

    rules: `normalizer` and `pre_tokenizer` as in tokenizer.json. added: the control tokens. size: ids with a token.
    pairs uint64, ascending: left id << 32 | right id of each merge, then a sentinel. ranks, merged uint32, in the same
    order: the rank of each merge (the lowest goes first) and the id that it makes. text uint8: the bytes of all tokens
    by id; ends uint32: where each token ends. byte_ids uint32 [256].
    """

    rules: Mapping[str, Any]
    added: tuple[AddedToken, ...]
    size: int
    pairs: memoryview
    ranks: memoryview
    merged: memoryview
    text: memoryview
    ends: memoryview
    byte_ids: memoryview

    def merge(self, left: int, right: int) -> tuple[int, int] | None:
        """Rank and resulting id of the merge of two neighbours, or None where there is none."""
        pair = left << 32 | right
        at = bisect_left(self.pairs, pair)
        return (self.ranks[at], self.merged[at]) if self.pairs[at] == pair else None

    def token(self, id_: int) -> bytes:
        """Bytes of a token that is no control token; empty for an id without one."""
        if not 0 <= id_ < len(self.ends):
            return b""
        return self.text[self.ends[id_ - 1] if id_ else 0 : self.ends[id_]].tobytes()


def token_bytes(text: str) -> bytes:
    """The bytes that a token in tokenizer.json stands for."""
    try:
        return bytes(ALPHABET[char] for char in text)
    except KeyError:  # a token with characters outside the alphabet stands for itself
        return text.encode()


def load(source: Path | TokenizerSource, cache: CacheLocation | None = None) -> Vocabulary:
    """Read tokenizer.json, or what is cached of the same content in `cache`; cache it there for the next time.

    A damaged cache file only costs time and a CacheWarning, because tokenizer.json is then parsed again. Raises
    CheckpointError.
    """
    if isinstance(source, Path):
        source = TokenizerSource.of_file(source)
    if cache is None:
        return parse(source.text(), source.where)
    name = hashlib.sha256(f"{KIND} {FORMAT} {VERSION} {sys.byteorder}\n".encode())
    name.update(source.identity())
    file = cache.directory / (name.hexdigest()[:32] + SUFFIX)
    found = opened(file, lambda: _open(file))
    if found is None:
        found = made = parse(source.text(), source.where)
        written(file, f"tokenizer of {cache.model}", lambda: _write(file, made, cache))
    return found


def parse(data: bytes, where: str) -> Vocabulary:
    """The vocabulary in the content of a tokenizer.json. Raises CheckpointError for anything but byte-level BPE."""
    try:
        content = json.loads(data)
        model, decoder = content["model"], content.get("decoder") or {}
        for kind, what, known in (("model", model, "BPE"), ("decoder", decoder, "ByteLevel")):
            if what.get("type", "BPE" if kind == "model" else None) != known:
                raise CheckpointError(
                    f"{where}: {kind} {what.get('type')!r} is not supported: pocketvlm reads byte-level BPE only"
                )
        for option in _REFUSED:
            if model.get(option):
                raise CheckpointError(f"{where}: model.{option}={model[option]!r} is not supported")
        ids = model["vocab"]
        added = _added(content.get("added_tokens") or [], ids, where)
        arrays = {**_tokens(ids, where), **_merges(ids, model["merges"], where)}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{where}: not a tokenizer: {type(error).__name__}: {error}") from None
    rules = {name: content.get(name) for name in ("normalizer", "pre_tokenizer")}
    size = len(ids) + sum(token.text not in ids for token in added)
    return Vocabulary(rules, added, size, **{name: arrays[name].data.toreadonly() for name in _ARRAYS})


def _added(items: Sequence[Mapping[str, Any]], ids: Mapping[str, int], where: str) -> tuple[AddedToken, ...]:
    """The control tokens with the ids that the tokenizers library gives them: in their order, after the vocabulary."""
    found: dict[str, AddedToken] = {}
    free = len(ids)
    for item in items:
        text = item["content"]
        if item.get("lstrip") or item.get("rstrip") or item.get("single_word"):
            raise CheckpointError(f"{where}: token {text!r} uses lstrip, rstrip or single_word, which is not supported")
        if text:
            known = found[text].id if text in found else ids.get(text)
            found[text] = AddedToken(text, free if known is None else known, bool(item.get("special")))
            free += known is None
    return tuple(sorted(found.values(), key=lambda token: token.id))


def _merges(ids: Mapping[str, int], merges: Sequence[Any], where: str) -> dict[str, NDArray[Any]]:
    """Pairs, ranks and merged."""
    if merges and isinstance(merges[0], str):  # as older files have them
        merges = [merge.split(" ") for merge in merges if not merge.startswith("#version")]
    if not (set(map(type, merges)) <= {list} and set(map(len, merges)) <= {2}):
        raise CheckpointError(f"{where}: model.merges holds something other than pairs of tokens")
    try:
        parts = (map(itemgetter(0), merges), map(itemgetter(1), merges), map("".join, merges))
        found = [np.fromiter(map(ids.__getitem__, part), np.uint32, len(merges)) for part in parts]
    except KeyError as error:
        raise CheckpointError(f"{where}: the merges need a token {error}, which the vocabulary lacks") from None
    left, right, merged = found
    pairs = np.append(left.astype(np.uint64) << np.uint64(32) | right, np.uint64(np.iinfo(np.uint64).max))
    order = np.argsort(pairs, kind="stable")
    # If a merge is listed twice, the library uses the last one.
    order = order[np.append(pairs[order][1:] != pairs[order][:-1], True)]
    return {
        "pairs": pairs[order],
        "ranks": order.astype(np.uint32),
        "merged": np.append(merged, np.uint32(0))[order],
    }


def _tokens(ids: Mapping[str, int], where: str) -> dict[str, NDArray[Any]]:
    """Text, ends and byte_ids."""
    missing = [byte for char, byte in ALPHABET.items() if char not in ids]
    if missing:
        raise CheckpointError(f"{where}: the vocabulary has no token for byte {missing[0]}")
    given = np.array(list(ids.values()))
    if given.dtype.kind != "i" or given.min() < 0 or given.max() >= _MAX_IDS or len(np.unique(given)) != len(given):
        raise CheckpointError(f"{where}: ids of the vocabulary are not different numbers from 0 to {_MAX_IDS - 1}")
    texts = [""] * (int(given.max()) + 1)
    for text, id_ in ids.items():
        texts[id_] = text
    # All characters at once; those outside of the alphabet become 256.
    table = np.full(0x200, 256, np.uint16)
    table[[ord(char) for char in ALPHABET]] = list(ALPHABET.values())
    characters = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    found = table[np.minimum(characters, len(table) - 1)]
    if found.max() < 256:
        data, lengths = found.astype(np.uint8), list(map(len, texts))
    else:
        tokens = list(map(token_bytes, texts))
        data, lengths = np.frombuffer(b"".join(tokens), np.uint8), list(map(len, tokens))
    each = sorted(ALPHABET, key=ALPHABET.__getitem__)
    return {
        "text": data,
        "ends": np.cumsum(lengths, dtype=np.uint32),
        "byte_ids": np.array([ids[char] for char in each], np.uint32),
    }


def _checksum(data: memoryview) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def _open(file: Path) -> Vocabulary:
    item = open_items(file, _checksum)[KIND]
    try:
        added = tuple(AddedToken(*token) for token in item.fields["added"])
        arrays = {name: item.arrays[name].cast("B").cast(form) for name, form in _ARRAYS.items()}
        found = Vocabulary(item.fields["rules"], added, item.fields["size"], **arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise PackedError(f"the header is not what this version writes ({error})") from None
    return found


def _write(file: Path, vocabulary: Vocabulary, cache: CacheLocation) -> None:
    fields = {
        "rules": vocabulary.rules,
        "added": [(token.text, token.id, token.special) for token in vocabulary.added],
        "size": vocabulary.size,
    }
    arrays = {name: getattr(vocabulary, name) for name in _ARRAYS}
    write_items(file, _checksum, {KIND: Item(fields, arrays)}, cache.model, cache.path, KIND)

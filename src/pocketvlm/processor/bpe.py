"""Byte-level BPE encodes text: the tokenizers library splits it into words, a `Vocabulary` gives the merges.

The tokenizers library would do all of it, but takes half a second to build its own tables of a large vocabulary.
"""

from __future__ import annotations

import json
from functools import lru_cache
from heapq import heapify, heappop, heappush

from pocketvlm.errors import CheckpointError
from pocketvlm.processor.vocabulary import ALPHABET, Vocabulary

# Limits of the caches of words and merges, and the longest word that is cached.
_MAX_WORDS = _MAX_MERGES = 1 << 16
_MAX_WORD_LENGTH = 64


class Bpe:
    """The ids of ordinary text, in which nothing is a control token. Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary, where: str) -> None:
        """Raises CheckpointError for rules that the library does not know or that do not end in bytes."""
        import tokenizers

        empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
        try:
            library = tokenizers.Tokenizer.from_str(json.dumps({**empty, **vocabulary.rules}))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{where}: not a tokenizer: {error}") from None
        self._normalizer, self._splitter = library.normalizer, library.pre_tokenizer
        self._merge_of = lru_cache(_MAX_MERGES)(vocabulary.merge)
        self._ids = {char: vocabulary.byte_ids[byte] for char, byte in ALPHABET.items()}
        self._words: dict[str, list[int]] = {}
        if self._splitter is None or not set("".join(self._split("a é\n中"))) <= set(ALPHABET):
            raise CheckpointError(f"{where}: the pre_tokenizer is not byte-level: pocketvlm reads byte-level BPE only")

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises what the library raises for text without a UTF-8 form."""
        ids: list[int] = []
        for word in self._split(text):
            found = self._words.get(word)
            if found is None:
                found = self._merge([self._ids[char] for char in word])
                if len(word) <= _MAX_WORD_LENGTH and len(self._words) < _MAX_WORDS:
                    self._words[word] = found
            ids += found
        return ids

    def _split(self, text: str) -> list[str]:
        """The words of a text in the byte-level alphabet."""
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        return [word for word, _ in self._splitter.pre_tokenize_str(text)]

    def _merge(self, ids: list[int]) -> list[int]:
        """Merge neighbours, the lowest rank first and among equal ones the leftmost, until none can be merged."""
        count, merge = len(ids), self._merge_of
        after, before = list(range(1, count + 1)), list(range(-1, count - 1))
        found = ((merge(ids[at], ids[at + 1]), at) for at in range(count - 1))
        waiting = [(merged[0], at, merged[1]) for merged, at in found if merged]
        heapify(waiting)
        while waiting:
            rank, at, made = heappop(waiting)
            follower = after[at]
            # The pair may be stale: one of its tokens was merged with its other neighbour.
            if ids[at] < 0 or follower == count or merge(ids[at], ids[follower]) != (rank, made):
                continue
            ids[at], ids[follower] = made, -1
            after[at] = after[follower]
            if after[at] < count:
                before[after[at]] = at
            for left, right in ((before[at], at), (at, after[at])):
                if left >= 0 and right < count and (merged := merge(ids[left], ids[right])):
                    heappush(waiting, (merged[0], left, merged[1]))
        return [id_ for id_ in ids if id_ >= 0]

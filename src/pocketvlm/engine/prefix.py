"""The prefix cache stores the state after shared prompt prefixes and names each entry by a chain of hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pocketvlm.engine.memory import Allocation, Memory, PrefixEntry
from pocketvlm.lru import LRU
from pocketvlm.types import Prompt

# A copy of the state costs about as much as prefilling so few tokens (docs/log.md).
MIN_GAP = 8


def chunk_boundaries(
    length: int, breakpoints: Sequence[int], chunk: int, gap: int = MIN_GAP
) -> tuple[list[int], list[int]]:
    """Ends of the parts in which a prompt of `length` tokens is prefilled, and those of them that end a cache entry.

    Each cache breakpoint at least `gap` tokens after the last entry ends an entry, and a part ends after every `chunk`
    tokens. The boundaries up to an entry depend on nothing after it, so any request that resumes there was split at the
    same boundaries.
    """
    ends: list[int] = []
    for position in breakpoints:
        if gap + (ends[-1] if ends else 0) <= position < length:
            ends.append(position)
    return sorted({*ends, *range(chunk, length, chunk), length}), ends


def entry_keys(prompt: Prompt, ends: Sequence[int], adapter: str | None = None) -> dict[int, bytes]:
    """The key of each prefix-cache entry by its end: a chain of hashes over ids, positions, views and earlier entries.

    All views have the same placeholder id, so their digests are hashed; a view without a digest ends the chain.
    adapter: digest of the adapter, part of every key, because the state depends on it; None without one.
    """
    keys: dict[int, bytes] = {}
    key, start = b"" if adapter is None else hashlib.blake2b(adapter.encode(), digest_size=16).digest(), 0
    for stop in ends:
        hash_ = hashlib.blake2b(key, digest_size=16)
        hash_.update((stop - start).to_bytes(8, "little"))
        hash_.update(prompt.ids[start:stop].astype("<i4").tobytes())
        if prompt.positions is not None:
            hash_.update(np.ascontiguousarray(prompt.positions.values[:, start:stop], dtype="<i4").tobytes())
        for view in prompt.views:
            if view.start < stop and view.start + view.tokens > start:
                if not view.digest:
                    return keys
                hash_.update(f"{view.start} {view.tokens} {view.downsample_mode} {view.digest}\n".encode())
        keys[stop] = key = hash_.digest()
        start = stop
    return keys


class PrefixCache:
    """Entries by key, most recently used last. They share pages with each other and with running sequences."""

    def __init__(self, memory: Memory, limit: int) -> None:
        """limit: bytes of all entries together; 0 means no cache."""
        self.memory, self.limit = memory, limit
        self._entries: LRU[bytes, PrefixEntry] = LRU()  # the memory says when to evict
        self.hits = self.misses = self.reused = 0

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        """Whether the entry with this key is cached."""
        return key in self._entries

    def count(self, tokens: int) -> None:
        """Record that a request was admitted and that its first `tokens` tokens were cached."""
        if tokens:
            self.hits += 1
        else:
            self.misses += 1
        self.reused += tokens

    def use(self, keys: dict[int, bytes]) -> PrefixEntry | None:
        """The entry of the longest cached prefix, which becomes the most recently used."""
        for key in reversed(keys.values()):
            if (found := self._entries.use(key)) is not None:
                return found
        return None

    def reserve(self, key: bytes, tokens: int) -> int | None:
        """The copy of a slot for an entry of `tokens` tokens. May evict other entries. Returns None if the entry is
        cached already or cannot be cached.
        """
        if key in self._entries or self.memory.bytes_for(tokens) > self.limit:
            return None
        while (copy := self.memory.reserve_copy()) is None:
            if not self.evict():
                return None
        return copy

    def store(self, key: bytes, allocation: Allocation, tokens: int, copy: int) -> None:
        """Cache the state of a sequence after its first `tokens` tokens. copy: of its slot, from `reserve`."""
        if key not in self._entries:
            self._entries.put(key, self.memory.store(allocation, tokens, copy))
        while self.memory.cached > self.limit:
            self.evict()

    def evict(self) -> bool:
        """Evict the least recently used entry; False if there is none."""
        if not self._entries:
            return False
        self.memory.drop(self._entries.pop_oldest()[1])
        return True

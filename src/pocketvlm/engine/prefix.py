"""The prefix cache stores the state after shared prompt prefixes and names each entry by a chain of hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pocketvlm.backends.ops import Array
from pocketvlm.engine.memory import Holding, Memory, Snapshot
from pocketvlm.lru import LRU
from pocketvlm.types import Prompt

# A copy of the state costs about as much as reading so few tokens again (docs/log.md).
LEAST_GAP = 8


def cut_places(length: int, marks: Sequence[int], chunk: int, gap: int = LEAST_GAP) -> tuple[list[int], list[int]]:
    """Ends of the parts that a prompt of `length` tokens is read in, and those of them that are checkpoints.

    Each mark that is at least `gap` behind the last checkpoint is one, and a part ends behind every `chunk` tokens. Up
    to a checkpoint this depends on nothing behind it: whoever goes on there was cut alike.
    """
    checkpoints: list[int] = []
    for mark in marks:
        if gap + (checkpoints[-1] if checkpoints else 0) <= mark < length:
            checkpoints.append(mark)
    return sorted({*checkpoints, *range(chunk, length, chunk), length}), checkpoints


def name_checkpoints(prompt: Prompt, checkpoints: Sequence[int]) -> dict[int, bytes]:
    """A name for each checkpoint: a chain of hashes over ids, views and the checkpoints before it.

    Placeholders of all views are the same id, so digests count; behind a view without one nothing has a name.
    """
    names: dict[int, bytes] = {}
    name, start = b"", 0
    for stop in checkpoints:
        hash_ = hashlib.blake2b(name, digest_size=16)
        hash_.update((stop - start).to_bytes(8, "little"))
        hash_.update(prompt.ids[start:stop].astype("<i4").tobytes())
        for view in prompt.views:
            if view.start < stop and view.start + view.tokens > start:
                if not view.digest:
                    return names
                hash_.update(f"{view.start} {view.tokens} {view.downsample_mode} {view.digest}\n".encode())
        names[stop] = name = hash_.digest()
        start = stop
    return names


class PrefixCache:
    """Snapshots by name, those used last at the end. They share pages with each other and with running sequences."""

    def __init__(self, memory: Memory, limit: int) -> None:
        """limit: bytes that all snapshots together may hold; 0 keeps none."""
        self.memory, self.limit = memory, limit
        self._snapshots: LRU[bytes, Snapshot] = LRU()  # the memory says when to evict
        self.hits = self.misses = self.reused = 0

    def __len__(self) -> int:
        """Snapshots kept."""
        return len(self._snapshots)

    def __contains__(self, key: bytes) -> bool:
        """Whether the state of this name is kept."""
        return key in self._snapshots

    def count(self, tokens: int) -> None:
        """Book that a request came in and needs not read its first `tokens` tokens."""
        if tokens:
            self.hits += 1
        else:
            self.misses += 1
        self.reused += tokens

    def find(self, keys: dict[int, bytes]) -> Snapshot | None:
        """The longest beginning that is kept, now the one used last."""
        for key in reversed(keys.values()):
            if (found := self._snapshots.use(key)) is not None:
                return found
        return None

    def reserve(self, key: bytes, tokens: int) -> list[Array] | None:
        """Arrays for a copy of the slot of this name, after `tokens` tokens; others go for it. None: it is not kept."""
        if key in self._snapshots or self.memory.bytes_for(tokens) > self.limit:
            return None
        while (copies := self.memory.reserve_copy()) is None:
            if not self.evict():
                return None
        return copies

    def keep(self, key: bytes, holding: Holding, tokens: int, copies: Sequence[Array]) -> None:
        """Keep the state of a sequence after its first `tokens` tokens, for which there is room; copies of its slot."""
        if key not in self._snapshots:
            self._snapshots.put(key, self.memory.snapshot(holding, tokens, copies))
        while self.memory.kept > self.limit:
            self.evict()

    def evict(self) -> bool:
        """Drop the one not used for the longest time; False where there is none."""
        if not self._snapshots:
            return False
        self.memory.drop(self._snapshots.pop_oldest()[1])
        return True

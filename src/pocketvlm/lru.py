"""A mapping with a bound: the entries used longest ago are evicted first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LRU(Mapping[K, V]):
    """Values by key, those used last at the end. Reading marks nothing as used, `use` and `put` do.

    Not locked: its user does that where several threads share it.
    """

    def __init__(self, limit: int | None = None, size: Callable[[V], int] = lambda _: 1) -> None:
        """limit: bound on the sum of the sizes of all values; None: only `pop_oldest` evicts. size: of a value."""
        self.limit = limit
        self.total = 0  # sum of all sizes
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._entries)

    def __getitem__(self, key: K) -> V:
        """A value, without marking it as used."""
        return self._entries[key]

    def __iter__(self) -> Iterator[K]:
        """Keys, those used longest ago first."""
        return iter(self._entries)

    def use(self, key: K) -> V | None:
        """The value of a key, now the one used last; None where there is none."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: K, value: V) -> list[tuple[K, V]]:
        """Set a value, now the one used last. Returns what was evicted for it: the entry itself if it is too large."""
        self.pop(key)
        self._entries[key] = value
        self.total += self._size(value)
        evicted = []
        while self.limit is not None and self.total > self.limit:
            evicted.append(self.pop_oldest())
        return evicted

    def pop(self, key: K) -> V | None:
        """Remove an entry and return its value; None where there is none."""
        if key not in self._entries:
            return None
        value = self._entries.pop(key)
        self.total -= self._size(value)
        return value

    def pop_oldest(self) -> tuple[K, V]:
        """Remove the entry used longest ago and return it. Raises KeyError where there is none."""
        key, value = self._entries.popitem(last=False)
        self.total -= self._size(value)
        return key, value

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self.total = 0

"""`Memory` allocates KV pages and recurrent-state slots, counts them in bytes, and grows them up to a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.batch import Ints
from pocketvlm.backends.ops import KVCache
from pocketvlm.config import TextConfig
from pocketvlm.model import MiniCPMV
from pocketvlm.model.text import DeltaState, LayerState, new_state, resized, state_arrays, write_index
from pocketvlm.options.load import KVCacheDtype

PAGE_SIZE = 64
_MIN_PAGES = 16
# Preallocated copies of slots: fresh memory costs a page fault for every 4 KiB (docs/log.md).
_MAX_SPARE_COPIES = 4


@dataclass(slots=True, eq=False)
class Allocation:
    """The pages and the slot of one running sequence."""

    slot: int
    table: Ints = field(default_factory=lambda: np.empty(_MIN_PAGES, np.int32))
    count: int = 0

    @property
    def pages(self) -> Ints:
        """The pages in order, int32 [count]; a view."""
        return self.table[: self.count]

    def append(self, pages: list[int]) -> None:
        """Add pages at the end."""
        stop = self.count + len(pages)
        if stop > len(self.table):
            self.table = np.concatenate([self.pages, np.empty(max(stop, 2 * len(self.table)) - self.count, np.int32)])
        self.table[self.count : stop] = pages
        self.count = stop


@dataclass(frozen=True, slots=True, eq=False)
class PrefixEntry:
    """The state after the first `tokens` tokens of some sequence: shared pages int32 [n], and a copy of its slot."""

    tokens: int
    pages: Ints
    copy: int


def page_bytes(config: TextConfig, page_size: int, kv_cache: KVCacheDtype) -> int:
    """Bytes of one page over all full-attention layers. kv_cache: the type of keys and values."""
    full = config.layer_types.count("full_attention")
    row = {"f32": 4 * config.head_dim, "bf16": 2 * config.head_dim, "int8": config.head_dim + 4}[kv_cache]
    return full * 2 * page_size * config.num_key_value_heads * row


def slot_bytes(config: TextConfig, itemsize: int) -> int:
    """Bytes of one slot over all linear-attention layers. itemsize: of the backend's `state_dtype`."""
    linear = config.layer_types.count("linear_attention")
    conv = (config.linear_conv_kernel_dim - 1) * config.conv_dim
    delta = config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim
    return linear * (conv + delta) * itemsize


class Memory:
    """Owns the state arrays of all layers and allocates their pages and slots. Call `reserve` before any allocation.

    `moving` is called before the arrays are replaced by larger or smaller ones. Arrays and copies together never exceed
    `limit` bytes; while one layer moves, both of its arrays exist.
    """

    def __init__(
        self, model: MiniCPMV, limit: int, page_size: int = PAGE_SIZE, moving: Callable[[], None] = lambda: None
    ) -> None:
        self.model, self.limit, self.page_size, self.moving = model, limit, page_size, moving
        config, backend = model.config.text, model.backend
        self.page_bytes = page_bytes(config, page_size, backend.scheme.kv_cache)
        self.slot_bytes = slot_bytes(config, backend.state_dtype.itemsize)
        self.states: tuple[LayerState, ...] = tuple(
            new_state(model.backend, config, kind, 0, page_size) for kind in config.layer_types
        )
        self._allocations: set[Allocation] = set()
        self._entries: set[PrefixEntry] = set()
        self._reserved: set[int] = set()  # copies of slots that the current step fills
        self._spare: list[int] = []  # copies of slots: of evicted entries, or preallocated
        self._copy_indices = 0  # number of indices, in use or unallocated
        self._unallocated: list[int] = []  # indices of copies without arrays
        # How many running sequences and how many entries use each page.
        self._running, self._cached = np.zeros(0, np.int32), np.zeros(0, np.int32)
        self._slots = 0
        self._free_pages: list[int] = []  # popped from the end: low numbers first, so that memory is touched late
        self._free_slots: list[int] = []

    def pages_for(self, tokens: int) -> int:
        """Pages that hold `tokens` tokens."""
        return -(-tokens // self.page_size)

    def bytes_for(self, tokens: int) -> int:
        """Bytes that one sequence of `tokens` tokens needs."""
        return self._bytes(self.pages_for(tokens), 1)

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest sequence that fits into the limit."""
        return max(0, (self.limit - self.slot_bytes) // self.page_bytes) * self.page_size

    @property
    def allocated(self) -> int:
        """Bytes of arrays and copies, used or not."""
        return self._bytes(len(self._running), self._slots + self._copies)

    @property
    def used(self) -> int:
        """Bytes that sequences and prefix-cache entries use now; shared pages count once."""
        pages = len(self._running) - len(self._free_pages)
        return self._bytes(pages, len(self._allocations) + len(self._entries))

    @property
    def cached(self) -> int:
        """Bytes of prefix-cache entries, including pages that running sequences share."""
        return self._bytes(int(np.count_nonzero(self._cached)), len(self._entries))

    def feasible(self, pages: int, entry: PrefixEntry | None = None) -> bool:
        """Whether a sequence of so many pages, which shares the first with `entry`, fits without all other entries."""
        if entry is not None:
            whole = entry.pages[: entry.tokens // self.page_size]
            pages -= int(np.count_nonzero(self._running[whole]))
        pages += int(np.count_nonzero(self._running))
        return self._bytes(pages, len(self._allocations) + 1) <= self.limit

    def reserve(self, pages: int, slots: int, last_resort: bool = False) -> bool:
        """Make sure that so many pages and slots are free; returns False and changes nothing if the limit forbids it.

        last_resort: also move the arrays for a small gain, or shrink the free part of the other kind.
        """
        used = len(self._running) - len(self._free_pages), len(self._allocations)
        more = max(0, pages - len(self._free_pages)), max(0, slots - len(self._free_slots))
        if not any(more):
            return True
        minimum = len(self._running) + more[0], self._slots + more[1]
        if self._bytes(minimum[0], minimum[1] + self._copies) > self.limit:
            self._free_spare_copies()
        room = self.limit - self._bytes(minimum[0], minimum[1] + self._copies)
        if room >= 0:
            growth = max(_MIN_PAGES, len(self._running) * 3 // 2) - minimum[0] if more[0] else 0
            extra = max(0, min(growth, room // self.page_bytes))
            # Growing copies the whole arrays, so it must add enough.
            if last_resort or not more[0] or more[0] + extra >= len(self._running) // 8:
                self._resize(minimum[0] + extra, minimum[1])
                return True
        if not last_resort:
            return False
        minimum = used[0] + pages, used[1] + slots
        room = self.limit - self._bytes(minimum[0], minimum[1] + self._copies)
        if room < 0:
            return False
        self._resize(minimum[0] + min(room // self.page_bytes, max(0, len(self._running) - minimum[0])), minimum[1])
        return True

    def reserve_copy(self) -> int | None:
        """The index of a copy of a slot, for this step to fill; None if the limit forbids it."""
        if not self._spare and self.allocated + self.slot_bytes > self.limit:
            surplus = -(-len(self._free_pages) // 2)
            if surplus * self.page_bytes < max(self.slot_bytes, self.limit // 16):
                return None
            self._resize(len(self._running) - surplus, self._slots)
        copy = self._spare.pop() if self._spare else self._new_copy()
        self._reserved.add(copy)
        return copy

    def release_copies(self) -> None:
        """Release the reserved copies that no entry was made of; at the end of a step."""
        while self._reserved:
            self._free_copy(self._reserved.pop())

    def can_preallocate(self, limit: int) -> bool:
        """Whether `preallocate` would do something. limit: bytes that all copies may have."""
        return self._lacks_copies(limit) or self._pages_ahead() > 0

    def preallocate(self, limit: int) -> None:
        """Allocate one more copy, or more pages, before they are needed; both count as allocated."""
        if self._lacks_copies(limit):
            copy = self._new_copy()
            for array in self.copy_arrays(copy):
                array[:] = 0  # memory is mapped at the first write
            self._spare.append(copy)
        elif more := self._pages_ahead():
            self._resize(len(self._running) + more, self._slots)

    def open(self, entry: PrefixEntry | None = None) -> Allocation:
        """Allocate a slot for a new sequence, or for one that resumes at `entry`. Then also allocates a copy of the
        entry's last page if it is partial, because two sequences must not write to one page.
        """
        allocation = Allocation(self._free_slots.pop())
        self._allocations.add(allocation)
        if entry is None:
            return allocation
        whole = entry.pages[: entry.tokens // self.page_size]
        self._running[whole] += 1
        allocation.append(whole.tolist())
        if len(whole) < len(entry.pages):
            self.extend(allocation, entry.tokens)
            to, source = int(allocation.pages[-1]), int(entry.pages[-1])
            for array in self._arrays(KVCache):
                array[to] = array[source]
        for array, copy in zip(self._arrays(DeltaState), self.copy_arrays(entry.copy), strict=True):
            write_index(self.model.backend, array, allocation.slot, copy)
        return allocation

    def extend(self, allocation: Allocation, tokens: int) -> None:
        """Allocate the pages that are missing for `tokens` tokens."""
        pages = [self._free_pages.pop() for _ in range(self.pages_for(tokens) - allocation.count)]
        self._running[pages] = 1
        allocation.append(pages)

    def close(self, allocation: Allocation) -> None:
        """Release pages and slot of a sequence."""
        self._allocations.remove(allocation)
        self._free_slots.append(allocation.slot)
        self._running[allocation.pages] -= 1
        self._free(allocation.pages)

    def store(self, allocation: Allocation, tokens: int, copy: int) -> PrefixEntry:
        """A prefix-cache entry of the state after a sequence's first `tokens` tokens; consumes one reserved copy.

        copy: of its slot at that position. The sequence may have written more rows of the last page since.
        """
        pages = allocation.pages[: self.pages_for(tokens)].copy()
        entry = PrefixEntry(tokens, pages, copy)
        self._reserved.discard(copy)
        self._entries.add(entry)
        self._cached[pages] += 1
        return entry

    def drop(self, entry: PrefixEntry) -> None:
        """Release an entry."""
        self._entries.remove(entry)
        self._cached[entry.pages] -= 1
        self._free(entry.pages)
        if len(self._spare) < _MAX_SPARE_COPIES:
            self._spare.append(entry.copy)
        else:
            self._free_copy(entry.copy)

    def _lacks_copies(self, limit: int) -> bool:
        lacks = len(self._spare) < _MAX_SPARE_COPIES
        return (
            lacks and (self._copies + 1) * self.slot_bytes <= limit and self.allocated + self.slot_bytes <= self.limit
        )

    def _pages_ahead(self) -> int:
        """Pages to preallocate if few are free and half of the limit stays unallocated."""
        more = max(_MIN_PAGES, len(self._running) // 2)
        fits = self.allocated + more * self.page_bytes <= self.limit // 2
        return more if fits and len(self._free_pages) < _MIN_PAGES else 0

    def copy_arrays(self, copy: int) -> Iterator[Any]:
        """The arrays [1, n] of a copy of a slot, in the order of the layers."""
        for layer in self._delta_layers():
            yield from layer.copies[copy]

    def _delta_layers(self) -> list[DeltaState[Any]]:
        return [state for state in self.states if isinstance(state, DeltaState)]

    def _new_copy(self) -> int:
        """The index of a copy with new arrays."""
        made = [
            tuple(self.model.backend.zeros(1, math.prod(array.shape[1:])) for array in layer.arrays)
            for layer in self._delta_layers()
        ]
        index = self._unallocated.pop() if self._unallocated else self._copy_indices
        self._copy_indices = max(self._copy_indices, index + 1)
        for layer, arrays in zip(self._delta_layers(), made, strict=True):
            layer.copies[index : index + 1] = [arrays]
        return index

    def _free_copy(self, copy: int) -> None:
        for layer in self._delta_layers():
            layer.copies[copy] = ()
        self._unallocated.append(copy)

    def _free_spare_copies(self) -> None:
        while self._spare:
            self._free_copy(self._spare.pop())

    def _arrays(self, kind: type[LayerState]) -> Iterator[Any]:
        return state_arrays(self.states, kind)

    @property
    def _copies(self) -> int:
        return len(self._entries) + len(self._reserved) + len(self._spare)

    def _bytes(self, pages: int, slots: int) -> int:
        return pages * self.page_bytes + slots * self.slot_bytes

    def _free(self, pages: Ints) -> None:
        unused = pages[(self._running[pages] == 0) & (self._cached[pages] == 0)]
        self._free_pages.extend(unused[::-1].tolist())

    def _resize(self, pages: int, slots: int) -> None:
        """Resize the arrays to so many pages and slots. Used ones retain their content, but move if arrays shrink."""
        self.moving()
        if pages != len(self._running):
            self._resize_pages(pages)
        if slots != self._slots:
            self._resize_slots(slots)

    def _resize_pages(self, pages: int) -> None:
        used = old = len(self._running)
        retained: slice | NDArray[np.intp] = slice(0, old)
        if pages < old:
            retained = np.flatnonzero(self._running + self._cached)
            used = len(retained)
        self._replace(KVCache, pages, retained)
        if pages < old:
            moved_to = np.full(old, -1, np.int32)
            moved_to[retained] = np.arange(used, dtype=np.int32)
            for pages_of in [*(each.pages for each in self._allocations), *(each.pages for each in self._entries)]:
                pages_of[:] = moved_to[pages_of]
            self._free_pages.clear()
        self._running, self._cached = (_fit(counts[retained], pages) for counts in (self._running, self._cached))
        self._free_pages[:0] = range(pages - 1, used - 1, -1)

    def _resize_slots(self, slots: int) -> None:
        used = self._slots
        retained: slice | NDArray[np.intp] = slice(0, used)
        allocations = sorted(self._allocations, key=lambda allocation: allocation.slot)
        if slots < self._slots:
            retained = np.array([allocation.slot for allocation in allocations], np.intp)
            used = len(retained)
        self._replace(DeltaState, slots, retained)
        if slots < self._slots:
            for slot, allocation in enumerate(allocations):
                allocation.slot = slot
            self._free_slots.clear()
        self._free_slots[:0] = range(slots - 1, used - 1, -1)
        self._slots = slots

    def _replace(self, kind: type[LayerState], count: int, retained: slice | NDArray[np.intp]) -> None:
        """Replace one layer after the other, so that only one exists twice; if one fails, the others stay."""
        states, self.states = list(self.states), ()
        try:
            for i in range(len(states)):
                if isinstance(states[i], kind):
                    states[i] = resized(self.model.backend, states[i], count, retained)
        finally:
            self.states = tuple(states)


def _fit(counts: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    return np.concatenate([counts, np.zeros(length - len(counts), np.int32)])

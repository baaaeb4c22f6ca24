"""`Memory` allocates KV pages and recurrent-state slots, counts them in bytes, and grows them up to a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.ops import Array, Ints
from pocketvlm.config import TextConfig
from pocketvlm.model import MiniCPMV
from pocketvlm.model.text import AttentionState, DeltaState, LayerState, new_state, read_place, resized, write_place

PAGE_SIZE = 64
_LEAST_PAGES = 16
# Room for copies that waits for snapshots: fresh memory costs a page fault for every 4 KiB (docs/log.md).
_SPARE_COPIES = 4


@dataclass(slots=True, eq=False)
class Holding:
    """The pages and the slot of one running sequence."""

    slot: int
    table: Ints = field(default_factory=lambda: np.empty(_LEAST_PAGES, np.int32))
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
class Snapshot:
    """The state after the first `tokens` tokens of some sequence: shared pages int32 [n], and a copy of its slot.

    copies: what the slot held, array by array, [1, n] each.
    """

    tokens: int
    pages: Ints
    copies: tuple[Array, ...]


def page_bytes(config: TextConfig, page_size: int = PAGE_SIZE) -> int:
    """Bytes of one page over all full-attention layers, float32."""
    full = config.layer_types.count("full_attention")
    return full * 2 * page_size * config.num_key_value_heads * config.head_dim * 4


def slot_bytes(config: TextConfig) -> int:
    """Bytes of one slot over all linear-attention layers, float32."""
    linear = config.layer_types.count("linear_attention")
    conv = (config.linear_conv_kernel_dim - 1) * config.conv_dim
    delta = config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim
    return linear * (conv + delta) * 4


class Memory:
    """Owns the state arrays of all layers, and says who may use which part. `secure` comes before whatever takes.

    `moving` is called before the arrays are replaced by larger or smaller ones. Arrays and copies together never exceed
    `limit` bytes; while one layer moves, both of its arrays exist.
    """

    def __init__(
        self, model: MiniCPMV, limit: int, page_size: int = PAGE_SIZE, moving: Callable[[], None] = lambda: None
    ) -> None:
        self.model, self.limit, self.page_size, self.moving = model, limit, page_size, moving
        self.page_bytes = page_bytes(model.config.text, page_size)
        self.slot_bytes = slot_bytes(model.config.text)
        config = model.config.text
        self.states: tuple[LayerState, ...] = tuple(
            new_state(model.ops, config, kind, 0, page_size) for kind in config.layer_types
        )
        self._holdings: set[Holding] = set()
        self._snapshots: set[Snapshot] = set()
        self.reserved = 0  # snapshots to come
        self._spare: list[list[Array]] = []  # arrays of snapshots that were dropped, or made beforehand
        # How many running sequences and how many snapshots use each page.
        self._running, self._kept = np.zeros(0, np.int32), np.zeros(0, np.int32)
        self._slots = 0
        self._free_pages: list[int] = []  # the last one is taken first: low numbers, so that memory is touched late
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
        """Bytes that sequences and snapshots hold now; what they share counts once."""
        pages = len(self._running) - len(self._free_pages)
        return self._bytes(pages, len(self._holdings) + len(self._snapshots))

    @property
    def kept(self) -> int:
        """Bytes that snapshots hold, what they share with running sequences included."""
        return self._bytes(int(np.count_nonzero(self._kept)), len(self._snapshots))

    def feasible(self, pages: int, snapshot: Snapshot | None = None) -> bool:
        """Whether a sequence of so many pages, the first ones out of `snapshot`, fits if all other snapshots go."""
        if snapshot is not None:
            whole = snapshot.pages[: snapshot.tokens // self.page_size]
            pages -= int(np.count_nonzero(self._running[whole]))
        pages += int(np.count_nonzero(self._running))
        return self._bytes(pages, len(self._holdings) + 1) <= self.limit

    def secure(self, pages: int, slots: int, last_resort: bool = False) -> bool:
        """Make sure that so many pages and slots are free; False, and nothing changed, where the limit forbids it.

        last_resort: also move the arrays for little gain, or take room from what is free of the other kind.
        """
        held = len(self._running) - len(self._free_pages), len(self._holdings)
        more = max(0, pages - len(self._free_pages)), max(0, slots - len(self._free_slots))
        if not any(more):
            return True
        least = len(self._running) + more[0], self._slots + more[1]
        if self._bytes(least[0], least[1] + self._copies) > self.limit:
            self._spare.clear()
        room = self.limit - self._bytes(least[0], least[1] + self._copies)
        if room >= 0:
            wish = max(_LEAST_PAGES, len(self._running) * 3 // 2) - least[0] if more[0] else 0
            extra = max(0, min(wish, room // self.page_bytes))
            # Every growth copies all that is there: it should be worth it.
            if last_resort or not more[0] or more[0] + extra >= len(self._running) // 8:
                self._resize(least[0] + extra, least[1])
                return True
        if not last_resort:
            return False
        least = held[0] + pages, held[1] + slots
        room = self.limit - self._bytes(least[0], least[1] + self._copies)
        if room < 0:
            return False
        self._resize(least[0] + min(room // self.page_bytes, max(0, len(self._running) - least[0])), least[1])
        return True

    def reserve_copy(self) -> list[Array] | None:
        """Room for a snapshot of this step: arrays [1, n] for what its slot holds; None where the limit forbids it."""
        if not self._spare and self.allocated + self.slot_bytes > self.limit:
            less = -(-len(self._free_pages) // 2)
            if less * self.page_bytes < max(self.slot_bytes, self.limit // 16):
                return None
            self._resize(len(self._running) - less, self._slots)
        copy = self._spare.pop() if self._spare else self._new_copy()
        self.reserved += 1
        return copy

    def can_preallocate(self, limit: int) -> bool:
        """Whether `preallocate` would do something. limit: bytes that copies may have."""
        return self._lacks_copies(limit) or self._pages_ahead() > 0

    def preallocate(self, limit: int) -> None:
        """Make room for one more copy, or more pages, before they are needed; both count as allocated."""
        if self._lacks_copies(limit):
            for array in (copy := self._new_copy()):
                array[:] = 0  # only what has been written to has memory
            self._spare.append(copy)
        elif more := self._pages_ahead():
            self._resize(len(self._running) + more, self._slots)

    def open(self, snapshot: Snapshot | None = None) -> Holding:
        """Take a slot for a new sequence, or for one that goes on after `snapshot`; takes a page for its last, partial
        page then, which two sequences must not share.
        """
        holding = Holding(self._free_slots.pop())
        self._holdings.add(holding)
        if snapshot is None:
            return holding
        whole = snapshot.pages[: snapshot.tokens // self.page_size]
        self._running[whole] += 1
        holding.append(whole.tolist())
        if len(whole) < len(snapshot.pages):
            self.extend(holding, snapshot.tokens)
            to, source = int(holding.pages[-1]), int(snapshot.pages[-1])
            for array in self._arrays(AttentionState):
                write_place(self.model.ops, array, to, read_place(self.model.ops, array, source))
        for array, copy in zip(self._arrays(DeltaState), snapshot.copies, strict=True):
            write_place(self.model.ops, array, holding.slot, copy)
        return holding

    def extend(self, holding: Holding, tokens: int) -> None:
        """Take the pages that are missing for `tokens` tokens."""
        pages = [self._free_pages.pop() for _ in range(self.pages_for(tokens) - holding.count)]
        self._running[pages] = 1
        holding.append(pages)

    def close(self, holding: Holding) -> None:
        """Give pages and slot of a sequence back."""
        self._holdings.remove(holding)
        self._free_slots.append(holding.slot)
        self._running[holding.pages] -= 1
        self._free(holding.pages)

    def snapshot(self, holding: Holding, tokens: int, copies: Sequence[Array]) -> Snapshot:
        """Keep the state of a sequence after its first `tokens` tokens, for which room is reserved.

        copies: what its slot held then, array by array, [1, n] each. The sequence may have gone on behind them, into
        the last page too.
        """
        pages = holding.pages[: self.pages_for(tokens)].copy()
        snapshot = Snapshot(tokens, pages, tuple(copies))
        self.reserved -= 1
        self._snapshots.add(snapshot)
        self._kept[pages] += 1
        return snapshot

    def drop(self, snapshot: Snapshot) -> None:
        """Give up a snapshot."""
        self._snapshots.remove(snapshot)
        self._kept[snapshot.pages] -= 1
        self._free(snapshot.pages)
        if len(self._spare) < _SPARE_COPIES:
            self._spare.append(list(snapshot.copies))

    def _lacks_copies(self, limit: int) -> bool:
        few = len(self._spare) < _SPARE_COPIES
        return few and (self._copies + 1) * self.slot_bytes <= limit and self.allocated + self.slot_bytes <= self.limit

    def _pages_ahead(self) -> int:
        """Pages to add where few are free, as long as half of the limit stays for whatever else will be needed."""
        more = max(_LEAST_PAGES, len(self._running) // 2)
        room = self.allocated + more * self.page_bytes <= self.limit // 2
        return more if room and len(self._free_pages) < _LEAST_PAGES else 0

    def _new_copy(self) -> list[Array]:
        ops = self.model.ops
        return [ops.zeros(1, math.prod(array.shape[1:])) for array in self._arrays(DeltaState)]

    def _arrays(self, kind: type[LayerState]) -> Iterator[Array]:
        """Every array of the layers of one kind, in order."""
        for state in self.states:
            if isinstance(state, kind):
                yield from (getattr(state, name) for name in state.__slots__)

    @property
    def _copies(self) -> int:
        return len(self._snapshots) + self.reserved + len(self._spare)

    def _bytes(self, pages: int, slots: int) -> int:
        return pages * self.page_bytes + slots * self.slot_bytes

    def _free(self, pages: Ints) -> None:
        unused = pages[(self._running[pages] == 0) & (self._kept[pages] == 0)]
        self._free_pages.extend(unused[::-1].tolist())

    def _resize(self, pages: int, slots: int) -> None:
        """Arrays for so many pages and slots; what is in use keeps its contents and, where they shrink, moves."""
        self.moving()
        if pages != len(self._running):
            self._resize_pages(pages)
        if slots != self._slots:
            self._resize_slots(slots)

    def _resize_pages(self, pages: int) -> None:
        used = old = len(self._running)
        kept: slice | NDArray[np.intp] = slice(0, old)
        if pages < old:
            kept = np.flatnonzero(self._running + self._kept)
            used = len(kept)
        self._replace(AttentionState, pages, kept)
        if pages < old:
            place = np.full(old, -1, np.int32)
            place[kept] = np.arange(used, dtype=np.int32)
            for pages_of in [*(h.pages for h in self._holdings), *(s.pages for s in self._snapshots)]:
                pages_of[:] = place[pages_of]
            self._free_pages.clear()
        self._running, self._kept = (_fit(counts[kept], pages) for counts in (self._running, self._kept))
        self._free_pages[:0] = range(pages - 1, used - 1, -1)

    def _resize_slots(self, slots: int) -> None:
        used = self._slots
        kept: slice | NDArray[np.intp] = slice(0, used)
        holdings = sorted(self._holdings, key=lambda holding: holding.slot)
        if slots < self._slots:
            kept = np.array([holding.slot for holding in holdings], np.intp)
            used = len(kept)
        self._replace(DeltaState, slots, kept)
        if slots < self._slots:
            for slot, holding in enumerate(holdings):
                holding.slot = slot
            self._free_slots.clear()
        self._free_slots[:0] = range(slots - 1, used - 1, -1)
        self._slots = slots

    def _replace(self, kind: type[LayerState], places: int, kept: slice | NDArray[np.intp]) -> None:
        """One layer after the other, so that only one is there twice; if one fails, the rest stays as it was."""
        states, self.states = list(self.states), ()
        try:
            for i in range(len(states)):
                if isinstance(states[i], kind):
                    states[i] = resized(self.model.ops, states[i], places, kept)
        finally:
            self.states = tuple(states)


def _fit(counts: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    return np.concatenate([counts, np.zeros(length - len(counts), np.int32)])

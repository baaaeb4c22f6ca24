"""Steps in which each sequence adds one token are captured once for each batch size and then replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pocketvlm.backends.ops import Array, Batch
from pocketvlm.engine.memory import Memory
from pocketvlm.engine.request import Work
from pocketvlm.lru import LRU
from pocketvlm.model import MiniCPMV
from pocketvlm.model.text import LayerState

_MAX_STEPS = 64
_MIN_PAGES = 16


class _Step:
    """One token for each of n sequences whose page tables hold at most `width` pages, on arrays at fixed addresses."""

    def __init__(self, model: MiniCPMV, states: tuple[LayerState, ...], n: int, width: int, page_size: int) -> None:
        self.model, self.states = model, states
        self.ids, self.rows = np.zeros(n, np.int32), np.arange(n, dtype=np.int32)
        context_lens, slots, pages = np.zeros(n, np.int32), np.zeros(n, np.int32), np.empty((n, width), np.int32)
        self.batch = Batch(np.arange(n + 1, dtype=np.int32), context_lens.copy(), context_lens, pages, slots, page_size)
        self._replay: Callable[[], Array] | None = None

    def run(self, work: Sequence[Work]) -> Array:
        batch = self.batch
        batch.pages.fill(-1)
        for row, item in enumerate(work):
            allocation = item.sequence.allocation
            assert allocation is not None
            self.ids[row] = item.sequence.output[-1]
            batch.context_lens[row] = batch.positions[row] = item.start
            batch.slots[row] = allocation.slot
            batch.pages[row, : allocation.count] = allocation.pages
        if self._replay is not None:
            return self._replay()
        logits, self._replay = self.model.ops.capture(self._compute)
        return logits

    def _compute(self) -> Array:
        hidden = self.model.forward(self.model.embed(self.ids), self.batch, self.states)
        return self.model.logits(hidden, self.rows)


class Decoding:
    """Finds the captured step that fits, or captures it."""

    def __init__(self, model: MiniCPMV, memory: Memory) -> None:
        self.model, self.memory = model, memory
        self._steps: LRU[tuple[int, int], _Step] = LRU(_MAX_STEPS)
        memory.moving = self._steps.clear  # captured steps refer to the arrays that move

    def forget(self) -> None:
        """Drop all captured steps; the next steps are captured again."""
        self._steps.clear()

    def fits(self, work: Sequence[Work]) -> bool:
        """Whether all of `work` is the last token of an answer that has begun."""
        return all(
            item.start >= len(item.sequence.request.prompt.ids) and item.start + 1 == item.stop == item.sequence.length
            for item in work
        )

    def run(self, work: Sequence[Work]) -> Array:
        """Logits [n, vocab] of the next token of each sequence; they live until the next step."""
        pages = max(item.sequence.allocation.count for item in work if item.sequence.allocation is not None)
        width = max(_MIN_PAGES, 1 << (pages - 1).bit_length())
        step = self._steps.use((len(work), width))
        if step is None:
            step = _Step(self.model, self.memory.states, len(work), width, self.memory.page_size)
            self._steps.put((len(work), width), step)
        return step.run(work)

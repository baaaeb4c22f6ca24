"""Steps in which each sequence adds one token are captured once for each batch size and then replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pocketvlm.backends.batch import Batch, SubBatch
from pocketvlm.backends.ops import Array
from pocketvlm.engine.memory import Memory
from pocketvlm.engine.request import Work
from pocketvlm.lru import LRU
from pocketvlm.model import MiniCPMV
from pocketvlm.model.text import LayerState

_MAX_STEPS = 64
_MIN_PAGES = 16


class _DecodeStep:
    """One token for each of n sequences whose page tables hold at most `width` pages, on arrays at fixed addresses."""

    def __init__(
        self,
        model: MiniCPMV,
        states: tuple[LayerState, ...],
        width: int,
        page_size: int,
        adapters: tuple[int, ...],
    ) -> None:
        """adapters: index of the adapter of each sequence, or -1."""
        self.model, self.states = model, states
        n = len(adapters)
        offsets = np.arange(n + 1, dtype=np.int32)
        self._context_lens, self._slots = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.batch = Batch(
            offsets,
            self._context_lens,
            np.full((n, width), -1, np.int32),
            page_size,
            rotary_positions=np.zeros((*model.rotary_axes, n), np.int32),
            sub_batches=(SubBatch(slice(None), offsets, self._context_lens, self._slots, self._slots),),
            ids=np.zeros(n, np.int32),
            logit_rows=np.arange(n, dtype=np.int32),
            adapters=np.array(adapters, np.int32) if max(adapters) >= 0 else None,
        )
        self.step = model.backend.step(self.batch)
        self._replay: Callable[[], Array] | None = None

    def run(self, work: Sequence[Work]) -> Array:
        batch = self.batch
        batch.pages.fill(-1)
        for row, item in enumerate(work):
            allocation = item.sequence.allocation
            assert allocation is not None
            batch.ids[row] = item.sequence.output[-1]
            batch.context_lens[row] = item.start
            batch.rotary_positions[..., row] = item.start + item.sequence.position_delta
            self._slots[row] = allocation.slot
            batch.pages[row, : allocation.count] = allocation.pages
        self.step.update(batch)
        if self._replay is not None:
            return self._replay()
        logits: Array
        logits, self._replay = self.model.backend.capture(self._compute)
        return logits

    def _compute(self) -> Array:
        hidden = self.model.forward(self.model.embed(self.step), self.step, self.states)
        return self.model.logits(hidden, self.step)


class Decoding:
    """Finds the captured step that fits, or captures it."""

    def __init__(self, model: MiniCPMV, memory: Memory) -> None:
        self.model, self.memory = model, memory
        self._steps: LRU[tuple[int, tuple[int, ...]], _DecodeStep] = LRU(_MAX_STEPS)
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
        """Logits [n, vocab] of the next token of each sequence; they are valid until the next step."""
        pages = max(item.sequence.allocation.count for item in work if item.sequence.allocation is not None)
        width = max(_MIN_PAGES, 1 << (pages - 1).bit_length())
        key = width, tuple(self.model.adapter_index(item.sequence.request.adapter) for item in work)
        step = self._steps.use(key)
        if step is None:
            step = _DecodeStep(self.model, self.memory.states, width, self.memory.page_size, key[1])
            self._steps.put(key, step)
        return step.run(work)

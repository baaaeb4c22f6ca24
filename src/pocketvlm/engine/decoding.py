"""Steps in which each sequence adds one token are captured once for each batch size and then replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pocketvlm.backends.batch import Batch, Ints, SubBatch
from pocketvlm.backends.ops import Array
from pocketvlm.engine.memory import Memory
from pocketvlm.engine.request import Work
from pocketvlm.lru import LRU
from pocketvlm.model import LoadedAdapter, MiniCPMV
from pocketvlm.model.text import LayerState

_MAX_STEPS = 64
_MIN_PAGES = 16


def number_adapters(adapters: Sequence[LoadedAdapter | None]) -> tuple[list[LoadedAdapter], Ints | None]:
    """The different adapters among those of some sequences, and for `Batch.adapters` the index of each or -1.

    Without any adapter the indices are None.
    """
    found = list(dict.fromkeys(adapter for adapter in adapters if adapter is not None))
    if not found:
        return [], None
    return found, np.array([-1 if adapter is None else found.index(adapter) for adapter in adapters], np.int32)


class _DecodeStep:
    """One token for each of n sequences whose page tables hold at most `width` pages, on arrays at fixed addresses."""

    def __init__(
        self,
        model: MiniCPMV,
        states: tuple[LayerState, ...],
        width: int,
        page_size: int,
        adapters: tuple[LoadedAdapter | None, ...],
    ) -> None:
        """adapters: of each sequence."""
        self.model, self.states = model, states
        self._adapters, indices = number_adapters(adapters)
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
            adapters=indices,
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
        x = self.model.embed(self.step, (), self._adapters)
        hidden = self.model.forward(x, self.step, self.states, self._adapters)
        return self.model.logits(hidden, self.step, self._adapters)


class Decoding:
    """Finds the captured step that fits, or captures it."""

    def __init__(self, model: MiniCPMV, memory: Memory) -> None:
        self.model, self.memory = model, memory
        self._steps: LRU[tuple[int, tuple[LoadedAdapter | None, ...]], _DecodeStep] = LRU(_MAX_STEPS)
        memory.moving = self._steps.clear  # captured steps refer to the arrays that move

    def forget(self) -> None:
        """Drop all captured steps; the next steps are captured again."""
        self._steps.clear()

    def forget_adapter(self, adapter: LoadedAdapter) -> None:
        """Drop the captured steps in which a sequence has this adapter."""
        for key in [key for key in self._steps if adapter in key[1]]:
            self._steps.pop(key)

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
        key = width, tuple(item.sequence.adapter for item in work)
        step = self._steps.use(key)
        if step is None:
            step = _DecodeStep(self.model, self.memory.states, width, self.memory.page_size, key[1])
            self._steps.put(key, step)
        return step.run(work)

"""The runner executes a plan: it puts vision features into the embeddings and runs one ragged batch."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np

from pocketvlm.backends.batch import Batch, Ints, SubBatch
from pocketvlm.backends.ops import Array
from pocketvlm.engine.decoding import Decoding, number_adapters
from pocketvlm.engine.memory import Memory
from pocketvlm.engine.request import Plan, Work
from pocketvlm.engine.sampler import LogitsRow
from pocketvlm.model import LoadedAdapter, MiniCPMV
from pocketvlm.types import PendingView, View


class Runner:
    """Runs plans. It has no policy: the plan says what runs."""

    def __init__(self, model: MiniCPMV, memory: Memory) -> None:
        self.model = model
        self.memory = memory
        self.decoding = Decoding(model, memory)
        self.prefill_seconds = self.decode_seconds = 0.0  # of all steps; mixed ones are divided by rows

    def run(self, plan: Plan) -> dict[int, LogitsRow]:
        """Logits of the next token for each sequence of the plan that has all its known tokens computed, by id.

        They are valid until the next step.
        """
        began = time.perf_counter()
        sampling = [i for i, work in enumerate(plan.work) if work.samples]
        if self.decoding.fits(plan.work):
            rows = self.decoding.run(plan.work)
        else:
            last = np.cumsum([work.stop - work.start for work in plan.work], dtype=np.int32) - np.int32(1)
            rows = self.logits(plan, last[sampling])
        logits = {plan.work[i].sequence.id: LogitsRow(self.model.backend, rows, row) for row, i in enumerate(sampling)}
        spent = time.perf_counter() - began
        decoded = computed = 0
        for work in plan.work:
            seconds = work.sequence.seconds
            computed += work.stop - work.start
            if not work.sequence.prefilling:
                seconds.decode += spent
                decoded += work.stop - work.start
            else:
                seconds.prefill += spent
        self.decode_seconds += spent * decoded / computed
        self.prefill_seconds += spent * (computed - decoded) / computed
        return logits

    def logits(self, plan: Plan, rows: Ints) -> Array:
        """Logits [n, vocab] of the given rows of a plan, whose tokens end to end are its rows."""
        model = self.model
        adapters, indices = number_adapters([work.sequence.adapter for work in plan.work])
        if indices is not None:
            indices = np.repeat(indices, [work.stop - work.start for work in plan.work])
        step = model.backend.step(self._batch(plan, rows, indices))
        splices, offset = [], 0
        for work in plan.work:
            splices += [(model.backend.indices(at), values) for at, values in _splices(work, offset)]
            offset += work.stop - work.start
        hidden = model.forward(model.embed(step, splices, adapters), step, self.memory.states, adapters)
        return model.logits(hidden, step, adapters)

    def encode(self, views: tuple[View | PendingView, ...], adapter: LoadedAdapter | None = None) -> list[Array]:
        """Features of views, as many at a time as the backend prefers."""
        features: list[Array] = []
        max_patches = self.model.backend.patches_at_once
        group: list[View] = []
        for view in views:
            if group and sum(v.rows * v.cols for v in group) + view.rows * view.cols > max_patches:
                features += self.model.encode(group, [adapter] * len(group))
                group = []
            group.append(view.load())
        return features + self.model.encode(group, [adapter] * len(group))

    def _batch(self, plan: Plan, logit_rows: Ints, adapters: Ints | None) -> Batch:
        parts = [(work, start, stop) for work in plan.work for start, stop in work.parts()]
        allocations = [work.sequence.allocation for work, _, _ in parts if work.sequence.allocation is not None]
        pages = np.full((len(parts), max(allocation.count for allocation in allocations)), -1, dtype=np.int32)
        for row, allocation in zip(pages, allocations, strict=True):
            row[: allocation.count] = allocation.pages
        offsets = np.cumsum([0, *(stop - start for _, start, stop in parts)]).astype(np.int32)
        context_lens = np.array([start for _, start, _ in parts], dtype=np.int32)
        slots = np.array([allocation.slot for allocation in allocations], dtype=np.int32)
        copies = [work.sequence.copies[stop] if stop in work.entry_ends else -1 for work, _, stop in parts]
        return Batch(
            offsets,
            context_lens,
            pages,
            self.memory.page_size,
            rotary_positions=self._rotary_positions(plan),
            sub_batches=sub_batches(offsets, context_lens, slots, np.array(copies, np.int32)),
            ids=np.concatenate([work.sequence.ids(work.start, work.stop) for work in plan.work]),
            logit_rows=logit_rows,
            adapters=adapters,
        )

    def _rotary_positions(self, plan: Plan) -> Ints:
        """Rotary positions of a plan: int32 [rows], or [3, rows] for a model whose positions have three dimensions."""
        found = np.empty((*self.model.rotary_axes, sum(work.stop - work.start for work in plan.work)), np.int32)
        row = 0
        for work in plan.work:
            end = row + work.stop - work.start
            found[..., row:end] = work.sequence.rotary_positions(work.start, work.stop)
            row = end
        return found


def sub_batches(offsets: Ints, context_lens: Ints, slots: Ints, copies: Ints) -> tuple[SubBatch, ...]:
    """A batch split between the parts of one sequence, which are neighbours with the same slot.

    copies: int32 [sequences], the copy of a slot that receives the state after each part, or -1.
    """
    splits = [s for s in range(1, len(slots)) if slots[s] == slots[s - 1]]
    found = []
    for first, last in pairwise((0, *splits, len(slots))):
        rows = slice(int(offsets[first]), int(offsets[last])) if splits else slice(None)
        part = slice(first, last)
        found.append(
            SubBatch(
                rows,
                offsets[first : last + 1] - offsets[first],
                context_lens[part],
                slots[part],
                slots[part],
                copies[part] if (copies[part] >= 0).any() else None,
            )
        )
    return tuple(found)


def _splices(work: Work, offset: int) -> list[tuple[Ints, Array]]:
    """Rows of the batch and feature rows for the parts of views that fall into this chunk."""
    found = []
    for index, view in enumerate(work.sequence.request.prompt.views):
        begin, end = max(view.start, work.start), min(view.start + view.tokens, work.stop)
        if begin < end:
            rows = np.arange(begin - work.start + offset, end - work.start + offset, dtype=np.int32)
            found.append((rows, work.sequence.features[index][begin - view.start : end - view.start]))
    return found

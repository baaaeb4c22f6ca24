"""The runner executes a plan: it puts vision features into the embeddings and runs one ragged batch."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.ops import Array, Batch, Ints
from pocketvlm.engine.decoding import Decoding
from pocketvlm.engine.memory import Memory
from pocketvlm.engine.request import Plan, Work
from pocketvlm.model import MiniCPMV
from pocketvlm.types import PendingView, View


class Runner:
    """Holds no policy: the plan says what runs."""

    def __init__(self, model: MiniCPMV, memory: Memory) -> None:
        self.model = model
        self.memory = memory
        self.decoding = Decoding(model, memory)

    def run(self, plan: Plan) -> dict[int, NDArray[np.float32]]:
        """Logits [vocab] of the next token for each sequence of the plan that has all its known tokens computed.

        They live until the next step.
        """
        began = time.perf_counter()
        wanted = [i for i, work in enumerate(plan.work) if work.samples]
        rows: Array | None = None
        if self.decoding.fits(plan.work):
            rows = self.decoding.run(plan.work)
        else:
            hidden = self.hidden(plan)
            if wanted:
                last = np.cumsum([work.stop - work.start for work in plan.work], dtype=np.int32) - np.int32(1)
                rows = self.model.logits(hidden, last[wanted])
        logits: dict[int, NDArray[np.float32]] = {}
        if rows is not None:
            table = self.model.ops.to_numpy(rows)
            logits = {plan.work[i].sequence.id: table[row] for row, i in enumerate(wanted)}
        spent = time.perf_counter() - began
        for work in plan.work:
            seconds = work.sequence.seconds
            if not work.sequence.prefilling:
                seconds.decode += spent
            else:
                seconds.prefill += spent
        return logits

    def hidden(self, plan: Plan) -> Array:
        """Hidden rows [T, hidden] of every token of the plan."""
        ids = np.concatenate([work.sequence.ids(work.start, work.stop) for work in plan.work])
        splices: list[tuple[Ints, Array]] = []
        offset = 0
        for work in plan.work:
            splices += _splices(work, offset)
            offset += work.stop - work.start
        return self.model.forward(self.model.embed(ids, splices), self._batch(plan), self.memory.states)

    def encode(self, views: tuple[View | PendingView, ...]) -> list[Array]:
        """Features of views, as many at a time as the backend prefers."""
        features: list[Array] = []
        most = self.model.ops.patches_at_once
        group: list[View] = []
        for view in views:
            if group and sum(v.rows * v.cols for v in group) + view.rows * view.cols > most:
                features += self.model.encode(group)
                group = []
            group.append(view.load())
        return features + self.model.encode(group)

    def _batch(self, plan: Plan) -> Batch:
        parts = [(work, start, stop) for work in plan.work for start, stop in work.parts()]
        allocations = [work.sequence.allocation for work, _, _ in parts if work.sequence.allocation is not None]
        pages = np.full((len(parts), max(allocation.count for allocation in allocations)), -1, dtype=np.int32)
        for row, allocation in zip(pages, allocations, strict=True):
            row[: allocation.count] = allocation.pages
        return Batch(
            offsets=np.cumsum([0, *(stop - start for _, start, stop in parts)]).astype(np.int32),
            positions=np.concatenate([np.arange(work.start, work.stop, dtype=np.int32) for work in plan.work]),
            context_lens=np.array([start for _, start, _ in parts], dtype=np.int32),
            pages=pages,
            slots=np.array([allocation.slot for allocation in allocations], dtype=np.int32),
            page_size=self.memory.page_size,
            kept={
                i: iter(work.sequence.copies[stop])
                for i, (work, _, stop) in enumerate(parts)
                if stop in work.entry_ends
            },
        )


def _splices(work: Work, offset: int) -> list[tuple[Ints, Array]]:
    """Rows of the batch and feature rows for the parts of views that fall into this chunk."""
    found = []
    for index, view in enumerate(work.sequence.request.prompt.views):
        begin, end = max(view.start, work.start), min(view.start + view.tokens, work.stop)
        if begin < end:
            rows = np.arange(begin - work.start + offset, end - work.start + offset, dtype=np.int32)
            found.append((rows, work.sequence.features[index][begin - view.start : end - view.start]))
    return found

"""Runs a plan: splices features of views in, and puts all tokens through the network in one ragged batch."""

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
    """Holds no policy: what runs is said by the plan."""

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
            hidden, batch = self.hidden(plan)
            if wanted:
                rows = self.model.logits(hidden, (batch.offsets[1:] - 1)[wanted])
        logits: dict[int, NDArray[np.float32]] = {}
        if rows is not None:
            table = self.model.ops.to_numpy(rows)
            logits = {plan.work[i].sequence.id: table[row] for row, i in enumerate(wanted)}
        spent = time.perf_counter() - began
        for work in plan.work:
            seconds = work.sequence.seconds
            if not work.sequence.reading:
                seconds.decode += spent
            else:
                seconds.prefill += spent
        return logits

    def hidden(self, plan: Plan) -> tuple[Array, Batch]:
        """Hidden rows [T, hidden] of every token of the plan, and the batch that says whose they are."""
        batch = self._batch(plan)
        ids = np.concatenate([work.sequence.ids(work.start, work.stop) for work in plan.work])
        splices = [
            splice
            for work, offset in zip(plan.work, batch.offsets, strict=False)
            for splice in _splices(work, int(offset))
        ]
        x = self.model.embed(ids, splices)
        return self.model.forward(x, batch, self.memory.states), batch

    def encode(self, views: tuple[View | PendingView, ...]) -> list[Array]:
        """Features of views, as many at a time as the backend likes."""
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
        counts = [work.stop - work.start for work in plan.work]
        held = [work.sequence.holding for work in plan.work if work.sequence.holding is not None]
        pages = np.full((len(plan.work), max(holding.count for holding in held)), -1, dtype=np.int32)
        for row, holding in zip(pages, held, strict=True):
            row[: holding.count] = holding.pages
        return Batch(
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            positions=np.concatenate([np.arange(w.start, w.stop, dtype=np.int32) for w in plan.work]),
            context=np.array([work.start for work in plan.work], dtype=np.int32),
            pages=pages,
            slots=np.array([holding.slot for holding in held], dtype=np.int32),
            page_size=self.memory.page_size,
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

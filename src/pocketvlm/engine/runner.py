"""Runs a plan: encodes new views, splices them in, and puts all tokens through the network in one ragged batch."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.ops import Array, Batch, Ints
from pocketvlm.engine.decoding import Decoding
from pocketvlm.engine.memory import Memory
from pocketvlm.engine.request import Plan, Sequence, Work
from pocketvlm.model import MiniCPMV
from pocketvlm.types import View

# One view of the usual size: what lies between two layers then stays in the cache. Sixteen at a time took 8 % longer.
PATCHES_PER_CALL = 1024


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
        for work in plan.work:
            self._ensure_features(work.sequence)
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
            if work.sequence.output:
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

    def encode(self, views: tuple[View, ...]) -> list[Array]:
        """Features of views, at most PATCHES_PER_CALL patches (or one view) at a time."""
        features: list[Array] = []
        group: list[View] = []
        for view in views:
            if group and sum(v.rows * v.cols for v in group) + view.rows * view.cols > PATCHES_PER_CALL:
                features += self.model.encode(group)
                group = []
            group.append(view)
        return features + self.model.encode(group)

    def _ensure_features(self, sequence: Sequence) -> None:
        views = sequence.request.prompt.views
        if len(sequence.features) == len(views) or sequence.computed >= len(sequence.request.prompt.ids):
            return
        began = time.perf_counter()
        sequence.features = self.encode(views)
        sequence.seconds.vision += time.perf_counter() - began

    def _batch(self, plan: Plan) -> Batch:
        counts = [work.stop - work.start for work in plan.work]
        held = [work.sequence.reservation for work in plan.work]
        pages = np.full((len(held), max(len(r.pages) for r in held if r is not None)), -1, dtype=np.int32)
        for row, reservation in zip(pages, held, strict=True):
            assert reservation is not None
            row[: len(reservation.pages)] = reservation.pages
        return Batch(
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            positions=np.concatenate([np.arange(w.start, w.stop, dtype=np.int32) for w in plan.work]),
            context=np.array([work.start for work in plan.work], dtype=np.int32),
            pages=pages,
            slots=np.array([r.slot for r in held if r is not None], dtype=np.int32),
            page_size=self.memory.page_size,
        )


def _splices(work: Work, offset: int) -> list[tuple[Ints, Array]]:
    """Rows of the batch and feature rows for the parts of views that fall into this chunk."""
    found = []
    for view, features in zip(work.sequence.request.prompt.views, work.sequence.features, strict=False):
        begin, end = max(view.start, work.start), min(view.start + view.tokens, work.stop)
        if begin < end:
            rows = np.arange(begin - work.start + offset, end - work.start + offset, dtype=np.int32)
            found.append((rows, features[begin - view.start : end - view.start]))
    return found

"""The scheduler decides which sequences run in a step, which prompt chunks they take, and which are preempted."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from pocketvlm.engine.memory import Memory
from pocketvlm.engine.prefix import PrefixCache
from pocketvlm.engine.request import Drawn, Plan, Sequence, TokenEvent, Work
from pocketvlm.options.load import DEFAULT_MAX_SEQS, DEFAULT_PREFILL_CHUNK
from pocketvlm.types import FinishReason, PendingView, Pictures

# As quick as 512 for the prompt itself, and other streams wait half as long (docs/log.md).
# So few rows in one step have the bits of single ones; more are summed in another order. Parts of an answer that are
# read again after a preemption have no more.
FEW_ROWS = 3
# A rest of a prompt that goes before the next view.
SHORT_REST = 64


class Views(Protocol):
    """What the scheduler asks of the vision side."""

    def missing(self, sequence: Sequence, start: int, stop: int) -> Iterator[int]:
        """The views that start..stop needs and whose features the sequence does not have."""

    def attach_cached_features(self, sequence: Sequence, start: int, stop: int) -> None:
        """Give the sequence the features that are cached of the views that start..stop needs."""


class Scheduler:
    """Holds no tensor: it moves sequences from waiting to running to gone. Both lists are in order of precedence."""

    def __init__(
        self,
        memory: Memory,
        prefix: PrefixCache,
        views: Views,
        prefill_chunk: int = DEFAULT_PREFILL_CHUNK,
        max_seqs: int = DEFAULT_MAX_SEQS,
    ) -> None:
        self.memory, self.prefix, self.views = memory, prefix, views
        self.prefill_chunk, self.max_seqs = prefill_chunk, max_seqs
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = self.prompt_tokens = self.generated_tokens = 0
        self._passed_over = False

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        bisect.insort(self.waiting, sequence, key=_order)

    def admit(self) -> None:
        """Let waiting sequences run, in order, as long as there is room for all that they have to read.

        A sequence of higher precedence takes the place of a running one of lower priority. One whose beginning is being
        read by another right now waits for that checkpoint.
        """
        coming: set[bytes] | None = None
        for sequence in list(self.waiting):
            if coming is None:
                coming = self._coming()
            if self._awaits_another(sequence, coming):
                continue
            if not self._enter(sequence):
                break
            coming = None

    def attach_cached_features(self) -> None:
        """Give running sequences the cached features that their next chunks need; before `due_views` and `plan`."""
        for sequence in self.running:
            if sequence.reading:
                stop = len(sequence.request.prompt.ids) if self._nearly_read(sequence) else self._stop(sequence)
                self.views.attach_cached_features(sequence, sequence.computed, stop)

    def due_views(self, patches: int, timeout: float = 0.0) -> list[tuple[Sequence, int]]:
        """The views to encode next: those that the next chunks of running sequences need, the first of them in any case
        and more up to so many patches. Equal ones are there once; one of few rows has other bits in company, so it is
        encoded alone. Views of clips that are still being decoded hold up their own sequence only; the first of them is
        waited for, so many seconds at most.
        """
        found: list[tuple[Sequence, int]] = []
        names: set[tuple[str, str]] = set()
        readers: dict[Pictures, Sequence] = {}
        for sequence in self.running:
            if not sequence.reading:
                continue
            for index in self.views.missing(sequence, sequence.computed, self._stop(sequence)):
                view = sequence.request.prompt.views[index]
                name = (view.digest, view.downsample_mode)
                if view.digest and name in names:
                    continue
                # A clip keeps few pictures around the one asked for: the first in order is its reader.
                if isinstance(view, PendingView) and (
                    readers.setdefault(view.source, sequence) is not sequence
                    or not view.prepare(0.0 if found else timeout)
                ):
                    timeout = 0.0
                    break
                patches -= view.rows * view.cols
                few = view.tokens <= FEW_ROWS
                if found and (few or patches < 0):
                    return found
                found.append((sequence, index))
                names.add(name)
                if few:
                    return found
        return found

    def nearly_read(self) -> bool:
        """Whether a prompt that was begun has few tokens left, and all the views for them."""
        for sequence in self.running:
            length = len(sequence.request.prompt.ids)
            if self._nearly_read(sequence) and self._has_features(sequence, length):
                return True
        return False

    def _has_features(self, sequence: Sequence, stop: int) -> bool:
        """Whether no features are missing for its tokens up to `stop`."""
        return next(self.views.missing(sequence, sequence.computed, stop), None) is None

    def _nearly_read(self, sequence: Sequence) -> bool:
        """Whether its prompt was begun and has few tokens left."""
        return 0 < sequence.computed < len(sequence.request.prompt.ids) <= sequence.computed + SHORT_REST

    def plan(self) -> Plan:
        """One token of each decoding sequence, and parts of prompts up to `prefill_chunk` tokens in all.

        A prompt is always cut at the same places, whoever else is there: sums are then rounded in the same order, and
        its answer has the same bits. A part that does not fit any more waits a step; in every second such step the
        sequence with the least to read goes first, so that a short prompt does not wait for long ones before it.
        """
        readers, work = [], []
        for sequence in self.running:
            stop = self._stop(sequence)
            if not sequence.reading:
                work.append(Work(sequence, sequence.computed, stop))
            elif self._has_features(sequence, stop):
                readers.append(sequence)
        if self._passed_over:
            readers.sort(key=_priority_and_rest)
        room, passed_over = self.prefill_chunk, False
        for sequence in readers:
            cuts = self._cuts(sequence, room)
            if cuts:
                room -= cuts[-1] - sequence.computed
                work.append(Work(sequence, sequence.computed, cuts[-1], cuts[:-1]))
            else:
                passed_over = True
        self._passed_over = passed_over and not self._passed_over
        work.sort(key=lambda item: item.sequence.order)
        # Growing may preempt, but only sequences behind the one that grows.
        work = [item for item in work if self._grow(item.sequence, item.stop)]
        return Plan(tuple(self._with_checkpoints(item) if item.sequence.reading else item for item in work))

    def commit(self, plan: Plan, drawn: dict[int, Drawn]) -> list[TokenEvent]:
        """Book what a step computed, and the tokens drawn by request id; finished sequences leave."""
        events = []
        for work in plan.work:
            sequence = work.sequence
            if sequence.holding is None:  # it failed meanwhile
                continue
            sequence.computed = work.stop
            views = sequence.request.prompt.views
            for index in [i for i in sequence.features if views[i].start + views[i].tokens <= work.stop]:
                del sequence.features[index]
            for place in work.kept:
                self.prefix.keep(sequence.keys[place], sequence.holding, place, sequence.copies.pop(place))
            token = drawn.get(sequence.id)
            if token is None:
                continue
            sequence.output.append(token.id)
            self.generated_tokens += 1
            reason = _finish_reason(sequence, token)
            events.append(TokenEvent(sequence.id, token.id, reason, token.logprob))
            if reason is not None:
                self.remove(sequence)
        self.memory.reserved = 0
        return events

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free what it holds."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._let_go(sequence)

    def secure(self, pages: int, slots: int) -> bool:
        """Make sure that so many pages and slots are free; checkpoints go for it."""
        while not self.memory.secure(pages, slots):
            if not self.prefix.evict():
                return self.memory.secure(pages, slots, last_resort=True)
        return True

    def _enter(self, sequence: Sequence) -> bool:
        while len(self.running) >= self.max_seqs or not self._open(sequence):
            if not self.running or self.running[-1].request.priority <= sequence.request.priority:
                return False
            self._preempt(self.running[-1])
        if sequence.admitted is None:
            sequence.admitted, sequence.cached = time.perf_counter(), sequence.computed
            self.prefix.count(sequence.computed)
            self.prompt_tokens += len(sequence.request.prompt.ids)
        self.waiting.remove(sequence)
        bisect.insort(self.running, sequence, key=_order)
        return True

    def _open(self, sequence: Sequence) -> bool:
        """Take a slot and go on after the longest beginning that is kept, if all the rest will fit."""
        memory = self.memory
        whole = memory.pages_for(sequence.length + 1)
        promised = sum(self._promised(other) for other in self.running)
        while True:
            snapshot = self.prefix.find(sequence.keys)
            shared = 0 if snapshot is None else snapshot.tokens // memory.page_size
            if not memory.feasible(whole + promised, snapshot) or not self.secure(whole - shared + promised, 1):
                return False
            if snapshot is self.prefix.find(sequence.keys):
                break
        sequence.holding = memory.open(snapshot)
        sequence.computed = 0 if snapshot is None else snapshot.tokens
        return True

    def _promised(self, sequence: Sequence) -> int:
        """Pages that a running sequence will need for what it has still to read."""
        assert sequence.holding is not None
        return max(0, self.memory.pages_for(sequence.length + 1) - sequence.holding.count)

    def _coming(self) -> set[bytes]:
        """Names of the checkpoints that running sequences have still to reach."""
        if not self.prefix.limit:
            return set()
        return {key for other in self.running for position, key in other.keys.items() if position > other.computed}

    def _awaits_another(self, sequence: Sequence, coming: set[bytes]) -> bool:
        for key in reversed(sequence.keys.values()):
            if key in self.prefix:
                return False
            if key in coming:
                return True
        return False

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Pages for so many tokens; the last in order gives way, perhaps this one itself: False."""
        while sequence.holding is not None:
            needed = self.memory.pages_for(tokens) - sequence.holding.count
            if needed <= 0:
                return True
            if self.secure(needed, 0):
                self.memory.extend(sequence.holding, tokens)
                return True
            self._preempt(self.running[-1])
        return False

    def _preempt(self, sequence: Sequence) -> None:
        """Back to waiting: prompt and output will be read again; output, random generator and constraint stay."""
        self.running.remove(sequence)
        self._let_go(sequence)
        self.add(sequence)
        self.preemptions += 1

    def _let_go(self, sequence: Sequence) -> None:
        if sequence.holding is not None:
            self.memory.close(sequence.holding)
            sequence.holding = None
        sequence.computed = 0
        sequence.features.clear()
        sequence.copies.clear()

    def _stop(self, sequence: Sequence) -> int:
        """Up to where the next step of a sequence goes if it has all the room."""
        if sequence.reading:
            return self._cuts(sequence, self.prefill_chunk)[-1]
        return min(sequence.computed + FEW_ROWS, sequence.length)

    def _cuts(self, sequence: Sequence, room: int) -> tuple[int, ...]:
        """Ends of the next parts of a prompt that have up to `room` tokens together; none where the first has more."""
        cuts, at = sequence.cuts, sequence.computed
        return cuts[bisect.bisect_right(cuts, at) : bisect.bisect_right(cuts, at + room)]

    def _with_checkpoints(self, work: Work) -> Work:
        """The same with the checkpoints on its way that there is room for."""
        keys, copies = work.sequence.keys, work.sequence.copies
        for _, place in work.parts():
            if place in keys and (room := self.prefix.reserve(keys[place], place)) is not None:
                copies[place] = room
        return replace(work, kept=tuple(copies))


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order


def _priority_and_rest(sequence: Sequence) -> tuple[int, int]:
    return sequence.request.priority, len(sequence.request.prompt.ids) - sequence.computed


def _finish_reason(sequence: Sequence, token: Drawn) -> FinishReason | None:
    made = len(sequence.output)
    if token.closes or (token.id in sequence.request.stop_ids and made >= sequence.request.params.min_tokens):
        return "stop"
    return "length" if made >= sequence.max_tokens else None

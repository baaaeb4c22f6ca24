"""The scheduler decides which sequences run in a step, which prompt chunks they take, and which are preempted."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from pocketvlm.engine.memory import Memory
from pocketvlm.engine.prefix import PrefixCache
from pocketvlm.engine.request import Plan, Sampled, Sequence, TokenEvent, Work
from pocketvlm.options.load import DEFAULT_MAX_SEQS, DEFAULT_PREFILL_CHUNK
from pocketvlm.types import FinishReason, PendingView, Pictures

# Steps of at most so many rows have the bits of single rows; longer ones are summed in another order. So the output is
# prefilled in runs of this length after a preemption.
FEW_ROWS = 3
# Prompts with at most so many tokens left are finished before the next view is encoded.
SHORT_REMAINDER = 64


class Views(Protocol):
    """The part of `Vision` that the scheduler calls."""

    def missing(self, sequence: Sequence, start: int, stop: int) -> Iterator[int]:
        """The views that tokens start..stop need and whose features the sequence lacks."""

    def attach_cached_features(self, sequence: Sequence, start: int, stop: int) -> None:
        """Give the sequence the cached features of the views that tokens start..stop need."""


class Scheduler:
    """Moves sequences from waiting to running. Both lists are in order of precedence; it holds no tensor."""

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
        """Let waiting sequences run, in order, as long as their whole prefill fits into memory.

        A sequence of higher precedence takes the slot of a running one of lower priority. A sequence whose prefix is
        being prefilled by another one waits for that prefix-cache entry. Background sequences wait for the others.
        """
        expected: set[bytes] | None = None
        for sequence in list(self.waiting):
            if sequence.background and self.running and not self.running[0].background:
                break
            if expected is None:
                expected = self._expected_keys(sequence.background)
            if self._waits_for_entry(sequence, expected):
                continue
            if not self._admit_one(sequence):
                break
            expected = None

    def attach_cached_features(self) -> None:
        """Give running sequences the cached features that their next chunks need; before `due_views` and `plan`."""
        for sequence in self._active():
            if sequence.prefilling:
                stop = len(sequence.request.prompt.ids) if self._nearly_prefilled(sequence) else self._stop(sequence)
                self.views.attach_cached_features(sequence, sequence.computed, stop)

    def due_views(self, patches: int, timeout: float = 0.0) -> list[tuple[Sequence, int]]:
        """The views to encode next: the first that the next chunks of running sequences need, and more of them up to
        `patches` patches. Equal views are listed once. A view with few rows is listed alone, because batching it
        changes the rounding. A view of a clip that is not decoded yet delays its own sequence only; the call waits
        `timeout` seconds at most for the first of them.
        """
        due: list[tuple[Sequence, int]] = []
        listed: set[tuple[str, str, str]] = set()
        owners: dict[Pictures, Sequence] = {}
        for sequence in self._active():
            if not sequence.prefilling:
                continue
            for index in self.views.missing(sequence, sequence.computed, self._stop(sequence)):
                view = sequence.request.prompt.views[index]
                name = (view.digest, view.downsample_mode, sequence.vision_digest)
                if view.digest and name in listed:
                    continue
                # A clip retains few pictures around the requested one, so only the first sequence in order uses it.
                if isinstance(view, PendingView) and (
                    owners.setdefault(view.source, sequence) is not sequence
                    or not view.prepare(0.0 if due else timeout)
                ):
                    timeout = 0.0
                    break
                patches -= view.rows * view.cols
                alone = view.tokens <= FEW_ROWS
                if due and (alone or patches < 0):
                    return due
                due.append((sequence, index))
                listed.add(name)
                if alone:
                    return due
        return due

    def nearly_prefilled(self) -> bool:
        """Whether a prompt whose prefill has begun has few tokens left, and the features of all its views."""
        for sequence in self._active():
            length = len(sequence.request.prompt.ids)
            if self._nearly_prefilled(sequence) and self._has_features(sequence, length):
                return True
        return False

    def _active(self) -> list[Sequence]:
        """The running sequences that the next step may take: the background ones only if there are no others."""
        if self.running and not self.running[0].background:
            return [sequence for sequence in self.running if not sequence.background]
        return self.running

    def _has_features(self, sequence: Sequence, stop: int) -> bool:
        """Whether the sequence has the features for its tokens up to `stop`."""
        return next(self.views.missing(sequence, sequence.computed, stop), None) is None

    def _nearly_prefilled(self, sequence: Sequence) -> bool:
        """Whether its prefill has begun and few tokens are left."""
        return 0 < sequence.computed < len(sequence.request.prompt.ids) <= sequence.computed + SHORT_REMAINDER

    def plan(self) -> Plan:
        """One token of each decoding sequence, and parts of prompts up to `prefill_chunk` tokens in all.

        A prompt is split at the same chunk boundaries in any batch: sums are then rounded in the same order, so results
        are batch-invariant. A part that does not fit waits a step; in every second such step the sequence with the
        fewest remaining prompt tokens goes first, so that a short prompt does not wait for long ones before it.
        """
        prefilling, work = [], []
        for sequence in self._active():
            stop = self._stop(sequence)
            if not sequence.prefilling:
                work.append(Work(sequence, sequence.computed, stop))
            elif self._has_features(sequence, stop):
                prefilling.append(sequence)
        if self._passed_over:
            prefilling.sort(key=_priority_and_remaining)
        room, passed_over = self.prefill_chunk, False
        for sequence in prefilling:
            boundaries = self._boundaries(sequence, room)
            if boundaries:
                room -= boundaries[-1] - sequence.computed
                work.append(Work(sequence, sequence.computed, boundaries[-1], boundaries[:-1]))
            else:
                passed_over = True
        self._passed_over = passed_over and not self._passed_over
        work.sort(key=lambda item: item.sequence.order)
        # Growing may preempt, but only sequences after the one that grows.
        work = [item for item in work if self._grow(item.sequence, item.stop)]
        return Plan(tuple(self._with_entries(item) if item.sequence.prefilling else item for item in work))

    def commit(self, plan: Plan, sampled: dict[int, Sampled]) -> list[TokenEvent]:
        """Record what a step computed and the sampled tokens by request id; finished sequences are removed."""
        events = []
        for work in plan.work:
            sequence = work.sequence
            if sequence.allocation is None:  # it failed after `plan`
                continue
            sequence.computed = work.stop
            views = sequence.request.prompt.views
            for index in [i for i in sequence.features if views[i].start + views[i].tokens <= work.stop]:
                del sequence.features[index]
            for end in work.entry_ends:
                self.prefix.store(sequence.keys[end], sequence.allocation, end, sequence.copies.pop(end))
            token = sampled.get(sequence.id)
            if token is None:
                continue
            sequence.output.append(token.id)
            self.generated_tokens += 1
            reason = _finish_reason(sequence, token)
            events.append(TokenEvent(sequence.id, token.id, reason, token.logprob))
            if reason is not None:
                self.remove(sequence)
        self.memory.release_copies()
        return events

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence, waiting or running, and release its memory."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def reserve(self, pages: int, slots: int) -> bool:
        """Make sure that so many pages and slots are free. May evict prefix-cache entries."""
        while not self.memory.reserve(pages, slots):
            if not self.prefix.evict():
                return self.memory.reserve(pages, slots, last_resort=True)
        return True

    def _admit_one(self, sequence: Sequence) -> bool:
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
        """Allocate a slot and resume at the longest cached prefix, if the remaining prefill will fit."""
        memory = self.memory
        needed = memory.pages_for(sequence.length + 1)
        committed = sum(self._committed_pages(other) for other in self.running)
        while True:
            entry = self.prefix.use(sequence.keys)
            shared = 0 if entry is None else entry.tokens // memory.page_size
            if not memory.feasible(needed + committed, entry) or not self.reserve(needed - shared + committed, 1):
                return False
            if entry is self.prefix.use(sequence.keys):
                break
        sequence.allocation = memory.open(entry)
        sequence.computed = 0 if entry is None else entry.tokens
        return True

    def _committed_pages(self, sequence: Sequence) -> int:
        """Pages that a running sequence will still need for its prefill."""
        assert sequence.allocation is not None
        return max(0, self.memory.pages_for(sequence.length + 1) - sequence.allocation.count)

    def _expected_keys(self, background: bool) -> set[bytes]:
        """Keys of the prefix-cache entries that running sequences have still to reach.

        background: include background sequences, for which others do not wait.
        """
        if not self.prefix.limit:
            return set()
        others = [other for other in self.running if background or not other.background]
        return {key for other in others for position, key in other.keys.items() if position > other.computed}

    def _waits_for_entry(self, sequence: Sequence, expected: set[bytes]) -> bool:
        for key in reversed(sequence.keys.values()):
            if key in self.prefix:
                return False
            if key in expected:
                return True
        return False

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Allocate pages for so many tokens. May preempt the last sequences in order; False if it preempts this one."""
        while sequence.allocation is not None:
            needed = self.memory.pages_for(tokens) - sequence.allocation.count
            if needed <= 0:
                return True
            if self.reserve(needed, 0):
                self.memory.extend(sequence.allocation, tokens)
                return True
            self._preempt(self.running[-1])
        return False

    def _preempt(self, sequence: Sequence) -> None:
        """Move a sequence back to waiting: its prompt and output are prefilled again, so its answer does not change."""
        self.running.remove(sequence)
        self._release(sequence)
        self.add(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        if sequence.allocation is not None:
            self.memory.close(sequence.allocation)
            sequence.allocation = None
        sequence.computed = 0
        sequence.features.clear()
        sequence.copies.clear()

    def _stop(self, sequence: Sequence) -> int:
        """Where the next step of a sequence ends if it gets the whole prefill chunk."""
        if sequence.prefilling:
            return self._boundaries(sequence, self.prefill_chunk)[-1]
        return min(sequence.computed + FEW_ROWS, sequence.length)

    def _boundaries(self, sequence: Sequence, room: int) -> tuple[int, ...]:
        """Ends of the next parts of a prompt with up to `room` tokens together; empty if the first part has more."""
        boundaries, at = sequence.boundaries, sequence.computed
        return boundaries[bisect.bisect_right(boundaries, at) : bisect.bisect_right(boundaries, at + room)]

    def _with_entries(self, work: Work) -> Work:
        """The same work with those prefix-cache entries on its way that fit into memory."""
        keys, copies = work.sequence.keys, work.sequence.copies
        for _, end in work.parts():
            if end in keys and (room := self.prefix.reserve(keys[end], end)) is not None:
                copies[end] = room
        return replace(work, entry_ends=tuple(copies))


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order


def _priority_and_remaining(sequence: Sequence) -> tuple[int, int]:
    return sequence.request.priority, len(sequence.request.prompt.ids) - sequence.computed


def _finish_reason(sequence: Sequence, token: Sampled) -> FinishReason | None:
    made = len(sequence.output)
    if token.closes or (token.id in sequence.request.stop_ids and made >= sequence.request.params.min_tokens):
        return "stop"
    return "length" if made >= sequence.max_tokens else None

"""Who runs in the next step: waiting requests in order of arrival, prompt chunks beside single decode tokens."""

from __future__ import annotations

from collections import deque

from pocketvlm.engine.memory import Memory
from pocketvlm.engine.request import Plan, Sequence, TokenEvent, Work
from pocketvlm.types import FinishReason

DEFAULT_PREFILL_CHUNK = 512


class Scheduler:
    """Holds no tensor: it moves sequences from waiting to running to gone."""

    def __init__(self, memory: Memory, prefill_chunk: int = DEFAULT_PREFILL_CHUNK) -> None:
        self.memory = memory
        self.prefill_chunk = prefill_chunk
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def plan(self) -> Plan:
        """One token of each decoding sequence, and prompt chunks up to `prefill_chunk` tokens in all.

        A prompt is always cut at the same places, multiples of `prefill_chunk`, whoever else is there: sums are then
        rounded in the same order, and its answer has the same bits. A chunk that no longer fits waits a step.
        """
        while self.waiting and self.memory.can_reserve(self._budget(self.waiting[0])):
            sequence = self.waiting.popleft()
            sequence.reservation = self.memory.reserve(self._budget(sequence))
            self.running.append(sequence)
        room = self.prefill_chunk
        work = []
        for sequence in self.running:
            left = sequence.length - sequence.computed
            count = min(left, self.prefill_chunk - sequence.computed % self.prefill_chunk)
            if left > 1:
                if count > room:
                    continue
                room -= count
            work.append(Work(sequence, sequence.computed, sequence.computed + count))
        return Plan(tuple(work))

    def commit(self, plan: Plan, sampled: dict[int, int]) -> list[TokenEvent]:
        """Book what a step computed and sampled (request id -> token id); finished sequences leave."""
        events = []
        for work in plan.work:
            sequence = work.sequence
            sequence.computed = work.stop
            if sequence.id not in sampled:
                continue
            token = sampled[sequence.id]
            sequence.output.append(token)
            reason = self._finish_reason(sequence, token)
            events.append(TokenEvent(sequence.id, token, reason))
            if reason is not None:
                self.remove(sequence)
        return events

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free what it holds."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence.reservation is not None:
            self.memory.release(sequence.reservation)
            sequence.reservation = None
        sequence.features.clear()

    def _budget(self, sequence: Sequence) -> int:
        return len(sequence.request.prompt.ids) + sequence.max_tokens

    @staticmethod
    def _finish_reason(sequence: Sequence, token: int) -> FinishReason | None:
        made = len(sequence.output)
        if token in sequence.request.stop_ids and made >= sequence.request.params.min_tokens:
            return "stop"
        return "length" if made >= sequence.max_tokens else None

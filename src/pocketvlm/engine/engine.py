"""The engine's loop: plan, run, sample, commit."""

from __future__ import annotations

import itertools
import os

import numpy as np
from numpy.typing import NDArray

from pocketvlm.engine.memory import Memory
from pocketvlm.engine.request import Plan, Request, Sequence, StageSeconds, TokenEvent, Work
from pocketvlm.engine.runner import Runner
from pocketvlm.engine.sampler import sample
from pocketvlm.engine.scheduler import DEFAULT_PREFILL_CHUNK, Scheduler
from pocketvlm.errors import OptionError, PromptError
from pocketvlm.model import MiniCPMV
from pocketvlm.types import Prompt, SamplingParams


def default_memory_limit() -> int:
    """Half of the machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


class Engine:
    """Turns requests into one step, again and again. Not thread-safe: one caller steps it."""

    def __init__(
        self, model: MiniCPMV, memory_limit: int | None = None, prefill_chunk: int = DEFAULT_PREFILL_CHUNK
    ) -> None:
        if prefill_chunk < 1:
            raise OptionError(f"prefill_chunk={prefill_chunk} is out of range: give at least 1 token")
        self.model = model
        self.memory = Memory(model, memory_limit or default_memory_limit())
        self.scheduler = Scheduler(self.memory, prefill_chunk)
        self.runner = Runner(model, self.memory)
        self.sequences: dict[int, Sequence] = {}
        self._numbers = itertools.count()

    def check(self, request: Request) -> int:
        """Tokens that the request may make, at most max_tokens; raises PromptError where it can never run."""
        params, prompt = request.params, request.prompt
        max_tokens = min(params.max_tokens, self._room(prompt))
        self._check_memory(prompt, max_tokens)
        return max_tokens

    def add(self, request: Request) -> int:
        """Queue a request and return its id; raises PromptError where it can never run."""
        max_tokens, params = self.check(request), request.params
        number = next(self._numbers)
        sequence = Sequence(number, request, max_tokens, np.random.default_rng(params.seed))
        self.sequences[number] = sequence
        self.scheduler.add(sequence)
        return number

    def step(self) -> list[TokenEvent]:
        """Run one step and return the tokens that it made."""
        plan = self.scheduler.plan()
        if not plan.work:
            return []
        logits = self.runner.run(plan)
        sampled = {number: sample(row, self.sequences[number]) for number, row in logits.items()}
        return self.scheduler.commit(plan, sampled)

    def release(self, number: int) -> StageSeconds:
        """Forget a request, ended or not; returns the time it spent in each stage."""
        sequence = self.sequences.pop(number)
        self.scheduler.remove(sequence)
        if sequence.request.prompt.views and not self.sequences:
            self.model.ops.return_memory()
        return sequence.seconds

    def prompt_logits(self, prompt: Prompt, chunk: int | None = None) -> NDArray[np.float32]:
        """Logits float32 [tokens, vocab] of every prompt position, in chunks of `chunk` tokens (None: the default)."""
        self._room(prompt, spare=0)
        self._check_memory(prompt, 0)
        chunk = chunk or self.scheduler.prefill_chunk
        total = len(prompt.ids)
        request = Request(prompt, SamplingParams(max_tokens=1))
        sequence = Sequence(-1, request, 1, np.random.default_rng(0))
        sequence.features = self.runner.encode(prompt.views)
        sequence.reservation = self.memory.reserve(total)
        try:
            parts = []
            for start in range(0, total, chunk):
                stop = min(start + chunk, total)
                hidden, _ = self.runner.hidden(Plan((Work(sequence, start, stop),)))
                rows = np.arange(stop - start, dtype=np.int32)
                parts.append(self.model.ops.to_numpy(self.model.logits(hidden, rows)))
            return np.concatenate(parts)
        finally:
            self.memory.release(sequence.reservation)

    def _check_memory(self, prompt: Prompt, max_tokens: int) -> None:
        """Raise PromptError where the state of prompt and answer can never fit."""
        need = self.memory.bytes_for(len(prompt.ids) + max_tokens)
        if need > self.memory.limit:
            raise PromptError(
                f"the prompt has {len(prompt.ids)} tokens and max_tokens is {max_tokens}: their state takes "
                f"{need / 2**20:.0f} MiB, the limit is {self.memory.limit / 2**20:.0f} MiB; lower max_tokens, use "
                "fewer or smaller images, or raise the memory limit"
            )

    def _room(self, prompt: Prompt, spare: int = 1) -> int:
        """Tokens of answer that the context has room for; PromptError where the prompt is empty or too long."""
        config = self.model.config.text
        total, limit = len(prompt.ids), config.max_position_embeddings
        if total == 0:
            raise PromptError("the prompt has no tokens: give it some text or an image")
        if total + spare > limit:
            raise PromptError(
                f"the prompt has {total} tokens but the model's context holds {limit}: shorten the text, or use fewer "
                "images, a smaller max_slice_nums or downsample_mode='16x'"
            )
        if int(prompt.ids.max()) >= config.vocab_size or int(prompt.ids.min()) < 0:
            raise PromptError(f"the prompt has a token id outside 0..{config.vocab_size - 1}")
        return limit - total

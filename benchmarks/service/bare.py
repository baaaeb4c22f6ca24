"""The engine without a server: the same prompts straight into the engine's driver, in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pocketvlm
from pocketvlm.engine.request import Request, TokenEvent
from pocketvlm.types import SamplingParams


class Bare:
    """An engine on a thread."""

    def __init__(self, checkpoint: str, cache: str, threads: int, weights: str) -> None:
        self._model = pocketvlm.load(checkpoint, weights=weights, threads=threads, cache=cache)  # type: ignore[arg-type]
        self._service = self._model.driver
        self._service.start()

    def per_token(self, texts: Sequence[str], output_len: int) -> float:
        """Mean seconds a token after the first, of all of these questions at the same time."""
        messages = [[{"role": "user", "content": text}] for text in texts]
        prompts = [self._model.processor(conversation) for conversation in messages]
        times: list[list[float]] = [[] for _ in texts]
        left = len(texts)
        ended = threading.Event()

        def take(event: TokenEvent, index: int) -> None:
            nonlocal left
            times[index].append(time.perf_counter())
            if event.finish_reason is not None:
                left -= 1
                if not left:
                    ended.set()

        params = SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True)
        for index, prompt in enumerate(prompts):
            self._service.submit(Request(prompt, params), lambda event, index=index: take(event, index))
        ended.wait()
        return sum((moments[-1] - moments[0]) / (len(moments) - 1) for moments in times) / len(times)

    def close(self) -> None:
        """End the thread."""
        self._service.close()

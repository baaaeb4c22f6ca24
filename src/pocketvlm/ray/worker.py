"""`Worker` is the actor of a processor: it loads the model once and answers the rows of its tasks together."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import threading
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Choice
from pocketvlm.api import load
from pocketvlm.errors import InputError, PocketVLMError
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.pending import PendingAnswer
from pocketvlm.interfaces.preparation import RequestBuilder
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.ray.config import requests_at_once
from pocketvlm.ray.cores import bound
from pocketvlm.ray.rows import DATA, ERROR, answer_columns, failed_columns, label, question_of


class Answering:
    """Answers rows on threads: each prepares its row and then sleeps, while the engine runs all of them on its own.

    Knows nothing of Ray.
    """

    def __init__(
        self,
        model_source: str,
        engine_kwargs: Mapping[str, Any],
        max_pending_requests: int | None = None,
        adapter_dir: str | None = None,
    ) -> None:
        """Load the model. Raises PocketVLMError where it cannot be loaded."""
        self._name, self._adapter_dir = model_source, adapter_dir
        self._loading = threading.Lock()
        self.model = load(model_source, **engine_kwargs)
        self.builder = RequestBuilder(self.model, MediaLimits())
        running = self.model.engine.scheduler.max_seqs
        # Decoded pictures take memory, and more threads than cores decode none sooner; one more waits for files.
        self._decoding = threading.Semaphore(engine_kwargs.get("threads", len(os.sched_getaffinity(0))) + 1)
        self.model.driver.start()
        self.pool = ThreadPoolExecutor(max_pending_requests or requests_at_once(running), "pocketvlm-row")

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that the answer to a row adds. Raises PocketVLMError and ApiError."""
        began = time.perf_counter()
        builder = self.builder
        question = replace(question_of(row), adapter=self._adapter(row.get("model")))
        with nullcontext() if has_url(question.messages) else self._decoding:
            prompt = builder.prompt(question)
        request = builder.requests(question, prompt, builder.constraint(question, False))[0]
        self.model.engine.check(request)
        choice = Choice(0, request, builder.answer_options(question, False), began)
        answers: Future[Sequence[Answer]] = Future()
        PendingAnswer(self.model.driver, [choice], answers.set_result, answers.set_exception)
        return answer_columns(choice, answers.result()[0], time.perf_counter() - began)

    def close(self) -> None:
        """End the threads, and release the model."""
        self.pool.shutdown()
        self.model.close()

    def _adapter(self, name: Any) -> str | None:
        """The adapter that column `model` names, loaded on first use. Raises InputError and CheckpointError."""
        if not name or name == self._name:
            return None
        if not isinstance(name, str):
            raise InputError(f"model must be the name of an adapter, not {type(name).__name__}")
        with self._loading:
            if name not in self.model.adapters:
                if self._adapter_dir is None:
                    raise InputError(
                        f"model={name!r} is not {self._name!r}: give dynamic_lora_loading_path, the folder of adapters"
                    )
                if name in (".", "..") or "/" in name:
                    raise InputError(f"model={name!r} is no folder of {self._adapter_dir}: give the name of one")
                self.model.add_adapter(name, Path(self._adapter_dir) / name)
        return name


class Worker:
    """What Ray Data calls with tasks of rows. Several calls run at a time, so that the engine always has rows."""

    def __init__(
        self,
        model_source: str,
        engine_kwargs: Mapping[str, Any],
        max_pending_requests: int | None,
        adapter_dir: str | None,
        should_continue_on_error: bool,
        num_cpus: float | None = None,
    ) -> None:
        self._cores = bound(num_cpus, engine_kwargs)  # released when this process ends
        try:
            self._answering = Answering(model_source, engine_kwargs, max_pending_requests, adapter_dir)
        except (PocketVLMError, OSError, MemoryError) as error:
            # Ray shows the last line of what an actor raises: no chain of causes.
            reason = "no memory is left" if isinstance(error, MemoryError) else error
            raise RuntimeError(f"this node cannot load model_source={model_source!r}: {reason}") from None
        self._continue = should_continue_on_error

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A task: rows, each as one pickled dictionary in column `__data`, with the columns of their answers."""
        loop, name = asyncio.get_running_loop(), uuid.uuid4().hex
        rows = [pickle.loads(bytes(each)) for each in batch[DATA]]
        waiting = [loop.run_in_executor(self._answering.pool, self._row, row, name) for row in rows]
        try:
            done = await asyncio.gather(*waiting)
        except BaseException:
            for each in waiting:
                each.cancel()
            raise
        found = np.empty(len(done), dtype=object)
        found[:] = [pickle.dumps(row, pickle.HIGHEST_PROTOCOL) for row in done]
        yield {**batch, DATA: found}

    def _row(self, row: dict[str, Any], batch_uuid: str) -> dict[str, Any]:
        """A row with its answer, or with its error where the job continues."""
        if row.get(ERROR):
            return row
        names = {"request_id": uuid.uuid4().hex, "batch_uuid": batch_uuid}
        try:
            return {**row, **self._answering.answer(row), **names}
        except (PocketVLMError, ApiError) as error:
            message = error.message if isinstance(error, ApiError) else str(error)
            if not self._continue:
                raise ValueError(f"row {label(row)}: {message}") from None
            return {**row, **failed_columns(f"{type(error).__name__}: {message}"), **names}
        except MemoryError:
            _end_process("no memory is left")


def has_url(messages: Any) -> bool:
    """Whether a text of messages is the URL of something to fetch; a text that begins with a URL counts too."""
    if isinstance(messages, str):
        return messages.lstrip()[:8].lower().startswith(("http://", "https://"))
    if isinstance(messages, Mapping):
        return any(has_url(each) for each in messages.values())
    return isinstance(messages, list | tuple) and any(has_url(each) for each in messages)


def _end_process(reason: str) -> NoReturn:
    """End the process: Ray starts another actor and runs its tasks again, which it does not after an exception."""
    traceback.print_exc()
    print(f"pocketvlm: {reason}: this actor ends, and Ray starts another", file=sys.stderr, flush=True)
    os._exit(1)

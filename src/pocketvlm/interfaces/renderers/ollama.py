"""Answers of Ollama's /api/chat and /api/generate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pocketvlm.answers.answer import Answer, Call
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.renderers.common import call_id, dump, logprobs
from pocketvlm.interfaces.schemas.ollama import OllamaBase, OllamaChatRequest, OllamaGenerateRequest
from pocketvlm.interfaces.usage import RequestOutput
from pocketvlm.parsing import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.types import TokenLogprob


def timestamp(seconds: float | None = None) -> str:
    """A time, now by default, in the form of Go's JSON."""
    seconds = time.time() if seconds is None else seconds
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"


class OllamaRenderer:
    """An answer as JSON objects, one a line. Calls are given whole, as Ollama does."""

    media_type = "application/x-ndjson"
    ping = b""

    def __init__(self, output: RequestOutput, body: OllamaBase) -> None:
        self._output = output
        self._chat = isinstance(body, OllamaChatRequest)
        self._unloads = body.unloads
        raw = isinstance(body, OllamaGenerateRequest) and bool(body.raw)
        # An earlier conversation comes back as ids alone, in which images would be missing.
        self._gives_ids = not (self._chat or raw or any(choice.request.prompt.views for choice in output.choices))
        self._ids: list[int] = []
        self._calls: list[Call] = []
        self._logprobs: list[TokenLogprob] = []

    def stream(self) -> OllamaRenderer:
        """The lines."""
        return self

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def delta(self, delta: Delta) -> bytes:
        """A line for each delta with text; one for the calls, at their end."""
        out = []
        self._ids += delta.token_ids
        self._logprobs += delta.logprobs
        for part in delta.parts:
            match part:
                case Content(text):
                    out.append(self._line(text, "", [], {}))
                case Reasoning(text):
                    out.append(self._line("", text, [], {}))
                case CallBegin(_, name):
                    self._calls.append(Call(name))
                case CallArguments(_, text):
                    self._calls[-1].arguments.append(text)
        if delta.finish_reason is not None and self._calls:
            out.append(self._line("", "", self._calls, {}))
        return b"".join(dump(line) + b"\n" for line in out)

    def tail(self) -> bytes:
        """The last line: why it ended, counts and times."""
        return dump(self._line("", "", [], self._end())) + b"\n"

    def failure(self, error: ApiError) -> bytes:
        """A line with the error."""
        return dump(error.body("ollama")) + b"\n"

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """All of an answer as one object; without an answer, that the model is loaded or unloaded."""
        if not answers:
            reason = "unload" if self._unloads else "load"
            return self._line("", "", [], {"done": True, "done_reason": reason})
        answer = answers[0]
        self._ids, self._logprobs = answer.token_ids, answer.logprobs
        return self._line("".join(answer.text), "".join(answer.reasoning), answer.calls, self._end())

    def _line(self, text: str, thinking: str, calls: list[Call], end: dict[str, Any]) -> dict[str, Any]:
        """One object, with the log-probabilities of all tokens since the last one."""
        line: dict[str, Any] = {"model": self._output.model, "created_at": timestamp()}
        thought = {"thinking": thinking} if thinking else {}
        if self._chat:
            called = {"tool_calls": self._called(calls)} if calls else {}
            line["message"] = {"role": "assistant", "content": text, **thought, **called}
        else:
            line |= {"response": text, **thought}
        if self._logprobs:
            line["logprobs"] = logprobs(self._output.tokenizer, self._logprobs)
            self._logprobs = []
        return {**line, **(end or {"done": False})}

    def _called(self, calls: list[Call]) -> list[dict[str, Any]]:
        return [
            {
                "id": call_id(self._output.id, 0, index),
                "function": {
                    "index": index,
                    "name": call.name,
                    "arguments": call.parsed_arguments(),
                },
            }
            for index, call in enumerate(calls)
        ]

    def _end(self) -> dict[str, Any]:
        """The fields of the last object; times are nanoseconds.

        load_duration is how long the request waited for the model: Ollama's time until one is ready.
        """
        usage = self._output.usage()
        ids = {"context": [*self._output.choices[0].request.prompt.ids.tolist(), *self._ids]} if self._gives_ids else {}
        return {
            "done": True,
            "done_reason": str(self._output.choices[0].finish_reason),
            **ids,
            "total_duration": int(usage.total * 1e9),
            "load_duration": max(1, int(usage.queue * 1e9)),
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": int((usage.vision + usage.prefill) * 1e9),
            "eval_count": usage.completion,
            "eval_duration": int(usage.decode * 1e9),
        }

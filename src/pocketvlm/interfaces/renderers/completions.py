"""Answers of OpenAI's /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.renderers.chunks import ChunkStream, finish_reason, head, stop_reason
from pocketvlm.interfaces.renderers.common import event
from pocketvlm.interfaces.schemas.chat import CompletionRequest
from pocketvlm.interfaces.usage import RequestOutput
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.types import TokenLogprob


class CompletionRenderer:
    """An answer as a text completion."""

    def __init__(self, output: RequestOutput, body: CompletionRequest) -> None:
        self._output = output
        self._body = body
        self._head = {**head(output, "cmpl"), "object": "text_completion"}

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The completion with all choices; those of several prompts stand one after the other."""
        usage = self._output.usage()
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        return {**self._head, "choices": choices, "usage": usage.counts(), "timings": usage.timings()}

    def stream(self) -> CompletionStream:
        """The chunks."""
        return CompletionStream(self._output, self._head, self._body)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        tokenizer = self._output.tokenizer
        echo = _prompt_text(self._output, index) if self._body.echo else ""
        return {
            "index": index,
            "text": echo + "".join(answer.text),
            "logprobs": None if self._body.logprobs is None else _logprobs(tokenizer, answer.logprobs, 0)[0],
            "finish_reason": finish_reason(answer.finish_reason),
            "stop_reason": stop_reason(answer.finish_reason, answer.stop),
        }


def _prompt_text(output: RequestOutput, index: int) -> str:
    ids = output.choices[index].request.prompt.ids
    return output.tokenizer.decode(ids.tolist(), skip_special_tokens=False)


def _logprobs(tokenizer: Tokenizer, tokens: list[TokenLogprob], offset: int) -> tuple[dict[str, Any], int]:
    """The older form of log-probabilities: lists side by side; and where the next token's text begins."""

    def text(token: int) -> str:
        return tokenizer.token_bytes(token).decode("utf-8", "replace")

    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(text(token.token_id))
    found = {
        "tokens": [text(token.token_id) for token in tokens],
        "token_logprobs": [max(token.logprob, -9999.0) for token in tokens],
        # The sampled token is always among them, so that logprobs=0 shows it alone.
        "top_logprobs": [
            {text(other): max(value, -9999.0) for other, value in ((token.token_id, token.logprob), *token.top)}
            for token in tokens
        ],
        "text_offset": offsets,
    }
    return found, offset


class CompletionStream(ChunkStream):
    """Chunks of /v1/completions."""

    def __init__(self, output: RequestOutput, head: dict[str, Any], body: CompletionRequest) -> None:
        super().__init__(output, head, body.stream_options.usage if body.stream_options else "none")
        self._echo = bool(body.echo)
        self._logprobs = body.logprobs is not None
        self._pending: list[list[TokenLogprob]] = [[] for _ in output.choices]
        self._offsets = [0] * len(output.choices)

    def head(self) -> bytes:
        """The prompts, where they are to be repeated."""
        if not self._echo:
            return b""
        choices = self._output.choices
        return b"".join(self._chunk(choice.index, _prompt_text(self._output, choice.index), None) for choice in choices)

    def delta(self, delta: Delta) -> bytes:
        """A chunk of text."""
        text = delta.text
        self._pending[delta.index] += delta.logprobs
        if not text and delta.finish_reason is None:
            return b""
        stop = stop_reason(delta.finish_reason, delta.stop)
        return self._chunk(delta.index, text, finish_reason(delta.finish_reason), stop)

    def _chunk(self, index: int, text: str, finish: str | None, stop: str | None = None) -> bytes:
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        if stop is not None:
            choice["stop_reason"] = stop
        if self._logprobs and self._pending[index]:
            choice["logprobs"], self._offsets[index] = _logprobs(
                self._output.tokenizer, self._pending[index], self._offsets[index]
            )
            self._pending[index] = []
        chunk = self.with_usage({**self._head, "choices": [choice]})
        if finish is not None and self._output.done:
            chunk["timings"] = self._output.usage().timings()
        return event(chunk)

"""Answers of OpenAI's /v1/responses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pocketvlm.answers.answer import Answer, TextLogprobs
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.renderers.common import call_id, event, logprobs
from pocketvlm.interfaces.schemas.responses import ResponsesRequest
from pocketvlm.interfaces.schemas.tools import FlatFunction
from pocketvlm.interfaces.usage import RequestOutput
from pocketvlm.parsing import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.types import TokenLogprob


class ResponseRenderer:
    """An answer as a response object."""

    def __init__(self, output: RequestOutput, body: ResponsesRequest) -> None:
        self._output = output
        self._body = body.model_copy(update={"input": ""})  # images need not stay as long as the answer takes

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The response with all its items."""
        answer, items = answers[0], []
        if answer.reasoning:
            items.append(self.reasoning("".join(answer.reasoning)))
        text = "".join(answer.text)
        if text or not answer.calls:
            items.append(self.message(text, answer.text_logprobs))
        for index, call in enumerate(answer.calls):
            items.append(self.call(index, call.name, call.arguments_json))
        return self.response(items)

    def stream(self) -> ResponseStream:
        """The events."""
        return ResponseStream(self)

    def response(self, items: list[dict[str, Any]], error: ApiError | None = None) -> dict[str, Any]:
        """As it is now."""
        body, choice = self._body, self._output.choices[0]
        params = choice.request.params
        reason = choice.finish_reason
        status, why = "in_progress", None
        if error is not None:
            status = "failed"
        elif reason is not None:
            status = "completed" if reason == "stop" else "incomplete"
            # Clients know no word for an answer that was cut because it repeated itself.
            why = "max_output_tokens" if reason != "stop" else None
        return {
            "id": f"resp_{self._output.id}",
            "object": "response",
            "created_at": self._output.created,
            "status": status,
            "error": None if error is None else {"code": "server_error", "message": error.message},
            "incomplete_details": None if why is None else {"reason": why},
            "background": False,
            "completed_at": int(time.time()) if status == "completed" else None,
            "frequency_penalty": params.frequency_penalty,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "metadata": body.metadata or {},
            "model": self._output.model,
            "output": items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "presence_penalty": params.presence_penalty,
            "previous_response_id": None,
            "prompt_cache_key": _given_back(body, "prompt_cache_key"),
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "safety_identifier": _given_back(body, "safety_identifier"),
            "service_tier": "default",
            "store": False,
            "temperature": params.temperature,
            "text": {"format": _format(body)},
            "tool_choice": _tool_choice(body),
            "tools": [tool.model_dump() for tool in body.tools or () if isinstance(tool, FlatFunction)],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None if reason is None else self._usage(),
            **({} if reason is None else {"timings": self._output.usage().timings()}),
        }

    def _usage(self) -> dict[str, Any]:
        usage = self._output.usage()
        return {
            "input_tokens": usage.prompt,
            "input_tokens_details": {
                "cached_tokens": usage.cached,
                "cache_write_tokens": 0,
                "image_tokens": usage.image,
            },
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.completion,
        }

    def reasoning(self, text: str, status: str = "completed") -> dict[str, Any]:
        """An item of reasoning."""
        content = [{"type": "reasoning_text", "text": text}] if text else []
        return {"id": f"rs_{self._output.id}", "type": "reasoning", "summary": [], "content": content, "status": status}

    def message(
        self,
        text: str | None,
        tokens: list[TokenLogprob],
        number: int = 0,
        status: str = "completed",
    ) -> dict[str, Any]:
        """An item of text with the log-probabilities of its tokens; without content while there is none."""
        content = [] if text is None else [self.part(text, tokens)]
        item_id = f"msg_{self._output.id}{'' if number == 0 else f'x{number}'}"
        return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def part(self, text: str, tokens: list[TokenLogprob]) -> dict[str, Any]:
        """The content of a message."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs(tokens)}

    def logprobs(self, tokens: list[TokenLogprob]) -> list[dict[str, Any]]:
        """Tokens with their log-probabilities, if the request asked for them."""
        return logprobs(self._output.tokenizer, tokens) if self._body.with_logprobs else []

    def call(self, index: int, name: str, arguments: str, status: str = "completed") -> dict[str, Any]:
        """An item that calls a function."""
        number = call_id(self._output.id, 0, index)
        return {
            "id": f"fc_{number.removeprefix('call_')}",
            "type": "function_call",
            "call_id": number,
            "name": name,
            "arguments": arguments,
            "status": status,
        }


def _given_back(body: ResponsesRequest, name: str) -> str:
    """A field without effect that answers repeat; the published description wants a string."""
    value = (body.model_extra or {}).get(name)
    return value if isinstance(value, str) else ""


def _tool_choice(body: ResponsesRequest) -> Any:
    choice = body.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump(exclude_none=True)


def _format(body: ResponsesRequest) -> dict[str, Any]:
    form = body.text.format if body.text else None
    return {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)


class ResponseStream:
    """Events of /v1/responses: one item after the other, each begun, filled and done."""

    media_type = "text/event-stream; charset=utf-8"
    ping = b": still at work\n\n"

    def __init__(self, renderer: ResponseRenderer) -> None:
        self._renderer = renderer
        self._number = -1
        self._items: list[dict[str, Any]] = []
        self._kind: str | None = None
        self._text: list[str] = []
        self._tokens: list[TokenLogprob] = []  # of the text of the open item
        self._reader = TextLogprobs()
        self._call = (0, "")
        self._messages = 0

    def head(self) -> bytes:
        """The response without output."""
        response = self._renderer.response([])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def delta(self, delta: Delta) -> bytes:
        """Items, and what is added to them."""
        out = []
        tokens = self._reader.add(delta)
        for part in delta.parts:
            match part:
                case Content(text):
                    if self._kind != "message":
                        out += [self._done(), self._begin("message")]
                    self._tokens += tokens
                    shown, tokens = self._renderer.logprobs(tokens), []
                    out.append(self._delta("response.output_text.delta", text, content_index=0, logprobs=shown))
                case Reasoning(text):
                    if self._kind != "reasoning":
                        out += [self._done(), self._begin("reasoning")]
                    out.append(self._delta("response.reasoning_text.delta", text, content_index=0))
                case CallBegin(index, name):
                    out.append(self._done())
                    self._call = (index, name)
                    out.append(self._begin("call"))
                case CallArguments(_, text):
                    out.append(self._delta("response.function_call_arguments.delta", text))
        return b"".join(out)

    def tail(self) -> bytes:
        """The response as a whole."""
        out = self._done()
        if all(item["type"] == "reasoning" for item in self._items):
            out += self._begin("message") + self._done()
        response = self._renderer.response(self._items)
        return out + self._event(f"response.{response['status']}", response=response)

    def failure(self, error: ApiError) -> bytes:
        """The response, failed."""
        return self._event("response.failed", response=self._renderer.response(self._items, error))

    def _begin(self, kind: str) -> bytes:
        self._kind, self._text, self._tokens = kind, [], []
        item = self._item(None, "in_progress")
        out = self._event("response.output_item.added", output_index=len(self._items), item=item)
        if kind == "message":
            out += self._part("response.content_part.added", self._renderer.part("", []))
        elif kind == "reasoning":
            out += self._part("response.content_part.added", {"type": "reasoning_text", "text": ""})
        return out

    def _done(self) -> bytes:
        """End the item that is open."""
        if self._kind is None:
            return b""
        text, place = "".join(self._text), self._place()
        if self._kind == "message":
            shown = self._renderer.logprobs(self._tokens)
            out = self._event("response.output_text.done", **place, content_index=0, text=text, logprobs=shown)
            out += self._part("response.content_part.done", self._renderer.part(text, self._tokens))
        elif self._kind == "reasoning":
            out = self._event("response.reasoning_text.done", **place, content_index=0, text=text)
            out += self._part("response.content_part.done", {"type": "reasoning_text", "text": text})
        else:
            out = self._event("response.function_call_arguments.done", **place, name=self._call[1], arguments=text)
        item = self._item(text, "completed")
        out += self._event("response.output_item.done", output_index=len(self._items), item=item)
        self._messages += self._kind == "message"
        self._items.append(item)
        self._kind = None
        return out

    def _item(self, text: str | None, status: str) -> dict[str, Any]:
        if self._kind == "message":
            return self._renderer.message(text, self._tokens, self._messages, status)
        if self._kind == "reasoning":
            return self._renderer.reasoning(text or "", status)
        return self._renderer.call(*self._call, text or "", status)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item(None, "")["id"], "output_index": len(self._items)}

    def _delta(self, name: str, text: str, /, **fields: Any) -> bytes:
        self._text.append(text)
        return self._event(name, **self._place(), delta=text, **fields)

    def _part(self, name: str, part: dict[str, Any]) -> bytes:
        return self._event(name, **self._place(), content_index=0, part=part)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": name, "sequence_number": self._number, **fields}, name)

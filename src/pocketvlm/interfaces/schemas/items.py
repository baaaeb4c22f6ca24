"""Input items of OpenAI's /v1/responses become messages; each knows its place in the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketvlm.errors import PromptError
from pocketvlm.interfaces.requests import Place
from pocketvlm.interfaces.schemas.common import MessageReader
from pocketvlm.interfaces.schemas.parts import plain_part

# Items that tell a client what OpenAI's own servers did; their results are in other items.
_SILENT = ("web_search_call", "file_search_call", "code_interpreter_call", "mcp_list_tools")


class Items(MessageReader):
    """Reads the items of one request, in order. Parts of one answer (reasoning, text, calls) become one message."""

    def read(
        self, instructions: str | None, items: str | Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], tuple[Place, ...]]:
        """The messages, and where each stands in the request. Raises PromptError."""
        if instructions:
            self._append({"role": "system", "content": instructions}, Place("instructions"))
        if isinstance(items, str):
            self._append({"role": "user", "content": items}, Place("input"))
        else:
            for index, item in enumerate(items):
                self._item(item, f"input[{index}]")
        return self._messages, tuple(self._places)

    def _item(self, item: Mapping[str, Any], where: str) -> None:
        match item.get("type") or "message":
            case "message":
                self._message(item, where)
            case "reasoning":
                self._append({"role": "assistant", "reasoning_content": _thought(item, where)}, Place(where))
            case "function_call":
                self._call(item, item.get("arguments"), where)
            case "custom_tool_call":
                self._call(item, {"input": item.get("input")}, where)
            case "function_call_output" | "custom_tool_call_output":
                if not isinstance(item.get("output"), str | list | None):
                    raise PromptError(f"{where}.output must be a string or a list of parts")
                content, parts = self._content(item.get("output"), f"{where}.output")
                answer = {"role": "tool", "content": content, "tool_call_id": item.get("call_id")}
                self._append(answer, Place(where, parts))
            case kind if kind in _SILENT:
                self._ignored.add(where)
            case "item_reference":
                raise PromptError(f"{where}: nothing is stored: give the item itself instead of a reference to it")
            case kind:
                raise PromptError(f"{where}: items of type {str(kind)[:40]!r} are not supported")

    def _message(self, item: Mapping[str, Any], where: str) -> None:
        role = item.get("role")
        content, parts = self._content(item.get("content"), f"{where}.content")
        last = self._answer()
        if role != "assistant":
            self._append({"role": role, "content": content}, Place(where, parts))
        elif last is not None and "content" not in last:
            last["content"] = _text(content, f"{where}.content")
        else:
            self._append({"role": role, "content": _text(content, f"{where}.content")}, Place(where, parts))

    def _call(self, item: Mapping[str, Any], arguments: Any, where: str) -> None:
        function = {"name": item.get("name"), "arguments": arguments}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        last = self._answer()
        if last is None:
            self._append({"role": "assistant", "content": "", "tool_calls": [call]}, Place(where))
        else:
            last.setdefault("content", "")
            last.setdefault("tool_calls", []).append(call)

    def _answer(self) -> dict[str, Any] | None:
        """The last message, if it is one of the assistant's."""
        return self._messages[-1] if self._messages and self._messages[-1]["role"] == "assistant" else None

    def _content(self, content: Any, where: str) -> tuple[Any, tuple[str, ...]]:
        """Content in the form of chat completions, and the place of each part."""
        if not isinstance(content, list):
            return content, ()
        places = tuple(f"{where}[{index}]" for index in range(len(content)))
        parts = []
        for part, place in zip(content, places, strict=True):
            if not isinstance(part, Mapping):
                raise PromptError(f"{place} must be an object")
            plain = plain_part(part, place, self._ignored)
            if plain.get("type") not in ("text", "image", "image_url", "video", "video_url"):
                raise PromptError(f"{place}: parts of type {str(part.get('type'))[:40]!r} are not supported")
            parts.append(plain)
        return parts, places


def _thought(item: Mapping[str, Any], where: str) -> str:
    parts = item.get("content") or item.get("summary") or []
    if not isinstance(parts, str | list):
        raise PromptError(f"{where}: content and summary of reasoning must be lists of parts")
    return _text(parts, where)


def _text(content: Any, where: str) -> str:
    """The text of an answer or of its reasoning, which have no other parts. Raises PromptError."""
    if not isinstance(content, list):
        if not isinstance(content, str | None):
            raise PromptError(f"{where} must be a string or a list of parts, not {type(content).__name__}")
        return content or ""
    for index, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise PromptError(f"{where}[{index}]: an answer has parts with a text only: send images in a user message")
    return "".join(part["text"] for part in content)

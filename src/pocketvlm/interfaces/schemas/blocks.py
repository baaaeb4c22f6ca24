"""Anthropic's content blocks become messages; each knows its place in the request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pocketvlm.errors import PromptError
from pocketvlm.interfaces import fields
from pocketvlm.interfaces.fields import MESSAGES
from pocketvlm.interfaces.media import names_video
from pocketvlm.interfaces.requests import Place
from pocketvlm.interfaces.schemas.common import MessageReader
from pocketvlm.options.media import IMAGE_OPTIONS, MEDIA_OPTIONS
from pocketvlm.processor.messages import plain_data

# For each type of block: the keys that are read.
_KEYS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "image": ("source", *MEDIA_OPTIONS),
    "document": ("source", "title", "context"),
    "search_result": ("source", "title", "content"),
    "tool_reference": ("tool_name",),
    "compaction": ("content", "encrypted_content", "signature"),
    "thinking": ("thinking", "signature"),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content"),
}
_DATA = {"base64": "data", "url": "url", "file": "file_id"}
# A content part in the processor's form, and its place in the request.
_Part = tuple[dict[str, Any], str]


class Blocks(MessageReader):
    """Reads the turns of one request, in order. Each result of a tool becomes a message."""

    def read(
        self, system: str | Sequence[Any] | None, turns: Iterable[tuple[str, str | Sequence[Any]]]
    ) -> tuple[list[dict[str, Any]], tuple[Place, ...]]:
        """The messages, and where each stands in the request. turns: role and content. Raises PromptError.

        If the last message is an answer, the model continues its text; an empty one is left out.
        """
        if text := self._system(system or "", "system"):
            self._append({"role": "system", "content": text}, Place("system"))
        for index, (role, content) in enumerate(turns):
            where = f"messages[{index}]"
            if role == "assistant":
                self._append(self._answer(content, where), Place(where))
            elif role == "system":
                self._append({"role": role, "content": self._system(content, f"{where}.content")}, Place(where))
            else:
                self._question(content, where)
        self._check_last()
        return self._messages, tuple(self._places)

    def _check_last(self) -> None:
        last = self._messages[-1] if self._messages else {}
        if "tool_calls" in last:
            raise PromptError(f"{self._places[-1].message}: the last message calls a tool: add its tool_result")
        if last.get("role") == "assistant" and not last["content"] and "reasoning_content" not in last:
            del self._messages[-1], self._places[-1]

    def _known(self, block: Any, where: str) -> str:
        """The type of a block, once its other keys have been judged."""
        if not isinstance(block, Mapping):
            raise PromptError(f"{where} must be an object with a type")
        kind = str(block.get("type"))
        for key, value in block.items():
            if kind in _KEYS and key not in ("type", *_KEYS[kind]):
                fields.judge(MESSAGES, f"{where}.{key}", value, self._ignored)
        return kind

    def _system(self, content: str | Sequence[Any], where: str) -> str:
        if isinstance(content, str):
            return content
        texts = []
        for index, block in enumerate(content):
            place = f"{where}[{index}]"
            if self._known(block, place) != "text":
                raise PromptError(f"{place}: only text blocks are supported here")
            texts.append(_string(block, "text", place))
        return "\n".join(texts)

    def _answer(self, content: str | Sequence[Any], where: str) -> dict[str, Any]:
        if isinstance(content, str):
            return {"role": "assistant", "content": content}
        texts, thoughts, calls = [], [], []
        for index, block in enumerate(content):
            place = f"{where}.content[{index}]"
            match self._known(block, place):
                case "text":
                    texts.append(_string(block, "text", place))
                case "thinking":
                    thoughts.append(_string(block, "thinking", place))
                case "tool_use":
                    calls.append(_call(block, place))
                case "compaction" if isinstance(block.get("content"), str):
                    texts.append(block["content"])
                case _:  # what other servers' tools did, and thoughts that only those servers can read
                    self._ignored.add(place)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        if thoughts:
            message["reasoning_content"] = "\n".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        return message

    def _question(self, content: str | Sequence[Any], where: str) -> None:
        if isinstance(content, str) or not content:
            self._append({"role": "user", "content": content or ""}, Place(where))
            return
        parts: list[_Part] = []
        for index, block in enumerate(content):
            place = f"{where}.content[{index}]"
            if self._known(block, place) == "tool_result":
                self._user(parts, where)
                parts = []
                self._result(block, place)
            else:
                parts += self._parts(block, place)
        self._user(parts, where)

    def _user(self, parts: list[_Part], where: str) -> None:
        if parts:
            message = {"role": "user", "content": [part for part, _ in parts]}
            self._append(message, Place(where, tuple(place for _, place in parts)))

    def _result(self, block: Mapping[str, Any], where: str) -> None:
        message = {"role": "tool", "tool_call_id": block.get("tool_use_id")}
        # A failure without a text would read like a success that printed nothing.
        nothing = "error" if block.get("is_error") is True else ""
        parts = self._content(block.get("content") or nothing, where)
        if isinstance(parts, str):
            self._append({**message, "content": parts}, Place(where))
        else:
            content = [part for part, _ in parts]
            self._append({**message, "content": content}, Place(where, tuple(place for _, place in parts)))

    def _content(self, content: Any, where: str) -> str | list[_Part]:
        """The content of a tool's result, a document or a search result."""
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise PromptError(f"{where}.content must be a string or a list of blocks")
        places = [f"{where}.content[{index}]" for index in range(len(content))]
        return [part for each, place in zip(content, places, strict=True) for part in self._parts(each, place)]

    def _parts(self, block: Any, where: str) -> list[_Part]:
        """What a block of a user's turn says."""
        kind = self._known(block, where)
        match kind:
            case "text":
                return [(_text(_string(block, "text", where)), where)]
            case "image":
                return [(self._image(block, where), where)]
            case "document":
                return self._document(block, where)
            case "search_result":
                return self._titled(block, ("title", "source"), block.get("content"), where, where)
            case "tool_reference":
                return [(_text(_string(block, "tool_name", where)), where)]
            case "compaction":
                return [(_text(_string(block, "content", where)), where)]
            case "video":
                raise PromptError(
                    f"{where}: this interface has no videos: send them to /v1/chat/completions or /v1/responses"
                )
        raise PromptError(
            f"{where}: blocks of type {kind[:40]!r} are not supported here: give text, image, document or search_result"
        )

    def _image(self, block: Mapping[str, Any], where: str) -> dict[str, Any]:
        source = block.get("source")
        if not isinstance(source, Mapping):
            raise PromptError(f"{where}: an image needs a source")
        key = _DATA.get(str(source.get("type")))
        if key is None or not isinstance(source.get(key), str):
            raise PromptError(f"{where}: source must be base64 with data, url with url, or file with file_id")
        for name, value in source.items():
            if name not in ("type", "media_type", key):
                fields.judge(MESSAGES, f"{where}.source.{name}", value, self._ignored)
        part: dict[str, Any] = {"type": "image", {"data": "base64"}.get(key, key): source[key]}
        known = MEDIA_OPTIONS if names_video(part) else IMAGE_OPTIONS
        for name in MEDIA_OPTIONS:
            if name in known and name in block:
                part[name] = block[name]
            else:
                fields.judge(MESSAGES, f"{where}.{name}", block.get(name), self._ignored)
        return part

    def _document(self, block: Mapping[str, Any], where: str) -> list[_Part]:
        match block.get("source"):
            case {"type": "text", "data": str() as content} | {"type": "content", "content": content}:
                return self._titled(block, ("title", "context"), content, where, f"{where}.source")
            case {"type": "base64" | "url" | "file"}:
                raise PromptError(f"{where}: PDF files are not read here: send each page as an image block")
        raise PromptError(f"{where}: the source of a document must be text with data, or content with text or blocks")

    def _titled(
        self, block: Mapping[str, Any], heads: Sequence[str], content: Any, where: str, inside: str
    ) -> list[_Part]:
        """Content below a part with the lines that say what it is. inside: the place of the content."""
        lines = [_string(block, name, where) for name in heads if block.get(name) is not None]
        parts = self._content(content, inside)
        body = [(_text(parts), where)] if isinstance(parts, str) else parts
        return [(_text("\n".join(lines)), where), *body] if lines else body


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _string(block: Mapping[str, Any], key: str, where: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise PromptError(f"{where}.{key} must be a string, not {type(value).__name__}")
    return value


def _call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = block.get("input")
    arguments = plain_data({} if given is None else given, f"{where}.input")
    if not isinstance(arguments, dict):
        raise PromptError(f"{where}.input must be an object, not {type(given).__name__}")
    function = {"name": _string(block, "name", where), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}

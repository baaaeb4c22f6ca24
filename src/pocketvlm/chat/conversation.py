"""A conversation is a list of messages with media; it is saved and loaded as OpenAI messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketvlm.atomic import replacing, write_all
from pocketvlm.chat.media import Medium, open_media
from pocketvlm.errors import InputError, PromptError
from pocketvlm.options.media import Alpha
from pocketvlm.processor.messages import read_messages

_KNOWN = ("role", "content", "reasoning_content")


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message. parts: texts and media in order. extra: other keys, passed on unchanged, such as tool_calls."""

    role: str
    parts: tuple[str | Medium, ...]
    reasoning: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Its texts, joined."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def media(self) -> tuple[Medium, ...]:
        """Its media, in order."""
        return tuple(part for part in self.parts if isinstance(part, Medium))

    def plain(self, media: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As an OpenAI message, with these parts for its media."""
        remaining = iter(media)
        content: Any = [
            {"type": "text", "text": part} if isinstance(part, str) else next(remaining) for part in self.parts
        ]
        if not media:
            content = self.text
        reasoning = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": self.role, "content": content, **reasoning, **self.extra}


@dataclass(slots=True)
class Conversation:
    """The messages in order, and the system prompt, if there is one."""

    messages: list[Message] = field(default_factory=list)
    system: str | None = None

    @property
    def media(self) -> list[Medium]:
        """All media, in reading order."""
        return [medium for message in self.messages for medium in message.media]

    def prompt(self, alpha: Alpha = "white") -> list[dict[str, Any]]:
        """The messages for the processor. alpha: how to remove the transparency of pictures."""
        said = [message.plain([one.part(alpha) for one in message.media]) for message in self.messages]
        return [*self._system(), *said]

    def _system(self) -> Iterator[dict[str, Any]]:
        if self.system:
            yield {"role": "system", "content": self.system}

    def undo(self) -> list[Message]:
        """Remove the last question and everything after it; returns the removed messages, none without a question."""
        at = next((at for at in reversed(range(len(self.messages))) if self.messages[at].role == "user"), None)
        if at is None:
            return []
        taken = self.messages[at:]
        del self.messages[at:]
        return taken

    def save(self, path: Path, embed: bool) -> int:
        """Write the messages as JSON, whole or not at all; returns the bytes written. Raises InputError.

        embed: store the pixels of all pictures; otherwise pictures with an address are stored as that address.
        """
        said = [message.plain([one.saved(embed) for one in message.media]) for message in self.messages]
        text = json.dumps([*self._system(), *said], ensure_ascii=False, indent=1) + "\n"
        data = text.encode("utf-8", "replace")
        try:
            with replacing(path) as file:
                write_all(file, data)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
        return len(data)

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """Read a file of OpenAI messages, a list or an object with them, and open its media. Raises InputError."""
        try:
            given = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path}: not a JSON file, as it is not text") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not a JSON file: {error}") from None
        messages = given.get("messages") if isinstance(given, Mapping) else given
        if not isinstance(messages, list):
            raise InputError(f"{path}: holds no list of messages")
        try:
            return cls._from(messages)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def _from(cls, messages: list[Any]) -> Conversation:
        talk = cls()
        for index, given in enumerate(messages):
            where = f"messages[{index}]"
            if not isinstance(given, Mapping):
                raise PromptError(f"{where} must be an object with 'role' and 'content'")
            content = given.get("content")
            parts = [content] if isinstance(content, str) else content or []
            if not isinstance(parts, list):
                raise PromptError(f"{where}.content must be a string or a list of parts")
            read = tuple(_part(part, f"{where}.content[{number}]") for number, part in enumerate(parts))
            extra = {key: value for key, value in given.items() if key not in _KNOWN and value is not None}
            bare = {**given, "content": None if content is None else ""}
            try:
                (checked,) = read_messages([bare]).messages
            except InputError as error:
                raise type(error)(str(error).replace("messages[0]", where)) from None
            message = Message(checked["role"], read, checked.get("reasoning_content", ""), extra)
            if message.role == "system" and index == 0 and not message.media:
                talk.system = message.text
            else:
                talk.messages.append(message)
        return talk


def _part(part: Any, where: str) -> str | Medium:
    """A part of a saved message, its medium opened."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") in ("video", "video_url"):
        kind = str(part["type"])
        value = part.get(kind)
        source = value.get("url") if isinstance(value, Mapping) else value
        if not isinstance(source, str):
            raise PromptError(f"{where}: {kind!r} must be a string or an object with a 'url' string")
        options = {key: value for key, value in part.items() if key not in ("type", kind)}
        return open_media(source, "video", options=options).media[0]
    try:
        read = read_messages([{"role": "user", "content": [part]}])
    except InputError as error:
        raise type(error)(str(error).replace("messages[0].content[0]", where)) from None
    if not read.images:
        return str(read.messages[0]["content"][0]["text"])
    image = read.images[0]
    if not isinstance(image.source, str):
        raise PromptError(f"{where}: an image must be a path, a URL or a data URI")
    source = f"data:image/*;base64,{image.source}" if image.base64 else image.source
    try:
        return open_media(source, "image", options=image.options).media[0]
    except InputError as error:
        raise type(error)(f"{where}: {error}") from error

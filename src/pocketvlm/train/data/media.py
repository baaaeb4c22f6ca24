"""Media of a record: paths relative to its file, and placeholders in texts, become parts of messages."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketvlm.errors import DataError
from pocketvlm.processor.formats import HEAD, recognize
from pocketvlm.train.data.files import kind_of

KINDS = ("image", "video")
_TAG = re.compile("<(image|video)>")
_URI = re.compile(r"(?:data|https?|file):", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Folders:
    """Where relative paths of media are looked for, in order; the first is named in messages."""

    places: Sequence[Path]

    def source(self, value: Any, where: str) -> Any:
        """An image or video as the processor takes it. Raises DataError.

        value: a path, URL, data URI, base64 text, bytes, {"path", "bytes"}, or a list of paths: the frames of a video.
        """
        if isinstance(value, Mapping):
            value = _inner(value, where)
        if isinstance(value, bytes):
            return "data:;base64," + base64.b64encode(value).decode()
        if isinstance(value, list) and value:
            return [self.source(item, f"{where}[{number}]") for number, item in enumerate(value)]
        if not isinstance(value, str):
            raise DataError(f"{where} must be a path, a URL or a data URI, not {kind_of(value)}")
        if not value.strip():
            raise DataError(f"{where} is empty: give a path, a URL or a data URI")
        return value if _URI.match(value.strip()) else self._local(value, where)

    def _local(self, value: str, where: str) -> str:
        try:
            path = Path(value).expanduser()
            found = next((whole for place in self.places if (whole := place / path).exists()), None)
        except (OSError, ValueError, RuntimeError):  # a name too long, a NUL in it, ~ without a home
            found = None
        if found is not None:
            return str(found)
        if _is_base64(value):
            return f"data:;base64,{''.join(value.split())}"
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        way = "correct the path" if Path(shown).is_absolute() else f"put it in {self.places[0]}, or give media_dir"
        raise DataError(f"{where}={shown!r}: no such file: {way}")


def _inner(value: Mapping[str, Any], where: str) -> Any:
    """The content of {"path", "bytes"} or {"url"}."""
    data = value.get("bytes")
    if isinstance(data, str) and data:
        return f"data:;base64,{data}"
    if data is not None and data != "":
        return data
    for key in ("path", "url"):
        if value.get(key) is not None:
            return value[key]
    raise DataError(f"{where} has the keys {', '.join(map(repr, value)) or 'none'}: give 'path' or 'bytes'")


def _is_base64(text: str) -> bool:
    if not _BASE64.fullmatch(text):
        return False
    head = "".join(text[: 2 * HEAD].split())
    try:
        found = recognize(base64.b64decode(head[: len(head) // 4 * 4]))
    except (binascii.Error, ValueError):
        return False
    return found is not None and found.group in KINDS


@dataclass(slots=True)
class Columns:
    """The media columns of one record, given out in order. sources: by kind; keys: the record's names of them."""

    folders: Folders
    sources: Mapping[str, Sequence[Any]]
    keys: Mapping[str, str]
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    inline: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def next(self, kind: str) -> dict[str, Any]:
        """The part of the next image or video; an empty part after the last one, which `check` reports."""
        number = self.used[kind]
        self.used[kind] += 1
        if number >= len(self.sources[kind]):
            return {"type": kind}
        where = f"{self.keys[kind]}[{number}]"
        return {"type": kind, kind: self.folders.source(self.sources[kind][number], where)}

    def split(self, text: str) -> str | list[dict[str, Any]]:
        """A text whose `<image>` and `<video>` become parts; the text itself if it has none.

        White space up to one line break next to a placeholder is dropped: the template writes a line break there.
        """
        strings = _TAG.split(text)
        if len(strings) == 1:
            return text
        parts: list[dict[str, Any]] = []
        last = len(strings) - 1
        for index, string in enumerate(strings):
            if index % 2:
                parts.append(self.next(string))
                continue
            body = string if index == 0 else re.sub(r"\A[ \t]*(\r?\n)?", "", string)
            body = body if index == last else re.sub(r"(\r?\n)?[ \t]*\Z", "", body)
            if body.strip():
                parts.append({"type": "text", "text": body})
        return parts

    def in_front(self, content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
        """The content of the first question with the media of columns without any placeholder before it."""
        missing = [kind for kind in KINDS if self.sources[kind] and not self.used[kind]]
        if not missing:
            return content
        parts = [self.next(kind) for kind in missing for _ in self.sources[kind]]
        text = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return [*parts, *(part for part in text if part.get("text") != "")]

    def check(self) -> None:
        """Raise DataError unless each image and video has one placeholder."""
        for kind in KINDS:
            count, placeholders = len(self.sources[kind]), self.used[kind]
            if count != placeholders:
                raise DataError(
                    f"{_counted(placeholders, f'<{kind}> placeholder')} in the questions, but "
                    f"{_counted(count, kind)} in {self.keys[kind]!r}: write <{kind}> once for each, where it stands"
                )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def column(value: Any, key: str) -> list[Any]:
    """The values of a media column: a list, one value, or nothing. Raises DataError."""
    if value is None:
        return []
    if isinstance(value, str | bytes | Mapping):
        return [value]
    if not isinstance(value, list):
        raise DataError(f"{key!r} must be a list of paths, URLs or data URIs, not {kind_of(value)}")
    return value

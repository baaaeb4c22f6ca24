"""Content parts of OpenAI's form become the parts that the processor reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketvlm.errors import PromptError
from pocketvlm.interfaces import fields
from pocketvlm.interfaces.fields import CHAT, IgnoredFields
from pocketvlm.interfaces.media import names_video
from pocketvlm.options.media import IMAGE_OPTIONS, MEDIA_OPTIONS

_TYPES = ("text", "image", "image_url", "video", "video_url")
_MESSAGE = (
    "role", "content", "refusal", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning",
)  # fmt: skip
_SOURCES = ("url", "path", "base64", "file_id", "detail")


def plain_messages(messages: Sequence[Any], ignored: IgnoredFields) -> list[Any]:
    """The messages with parts that hold nothing but what the processor reads. Raises OptionError and PromptError."""
    return [_message(message, f"messages[{index}]", ignored) for index, message in enumerate(messages)]


def _message(message: Any, where: str, ignored: IgnoredFields) -> Any:
    if isinstance(message, Mapping):
        for key, value in message.items():
            if key not in _MESSAGE:
                fields.judge(CHAT, f"{where}.{key}", value, ignored)
        refusal = message.get("refusal")
        if message.get("content") is None and isinstance(refusal, str):
            return {**message, "content": refusal}
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return message
    parts = [plain_part(part, f"{where}.content[{index}]", ignored) for index, part in enumerate(content)]
    return {**message, "content": parts}


def plain_part(part: Any, where: str, ignored: IgnoredFields) -> Any:
    """One part: other spellings of its type are translated, keys that mean nothing are reported and left out."""
    if not isinstance(part, Mapping):
        return part
    part = _translated(part, where)
    kind = part.get("type")
    if kind not in _TYPES:
        return part  # the processor says which types there are
    plain = _only(part, _known(part), where, ignored)
    inner = plain.get(kind)
    if isinstance(inner, Mapping) and kind.endswith("_url"):
        plain[kind] = _only(inner, ("url", "detail", "file_id"), f"{where}.{kind}", ignored)
    return plain


def _known(part: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of a part that are read."""
    kind = str(part["type"])
    if kind == "text":
        return ("type", "text")
    is_video = kind.startswith("video") or names_video(part)
    return ("type", kind, *_SOURCES, *(MEDIA_OPTIONS if is_video else IMAGE_OPTIONS))


def _only(value: Mapping[str, Any], names: tuple[str, ...], where: str, ignored: IgnoredFields) -> dict[str, Any]:
    """The items with these names; the others are reported."""
    for key, item in value.items():
        if key not in names and item is not None:
            ignored.add(f"{where}.{key}")
    return {key: item for key, item in value.items() if key in names}


def _translated(part: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A part of another interface's or another server's type as one of our own types."""
    match part.get("type"):
        case "input_text":
            return {**part, "type": "text"}
        case "output_text":  # an earlier answer's, which clients send back with all that it came with
            rest = {key: value for key, value in part.items() if key not in ("annotations", "logprobs")}
            return {**rest, "type": "text"}
        case "refusal":
            return {"type": "text", "text": part.get("refusal")}
        case "input_image" | "input_video" as kind:
            return _flat(part, f"{kind.removeprefix('input_')}_url", where)
        case "file" if isinstance(part.get("file"), Mapping):
            return _file(part, where)
    return part


def _flat(part: Mapping[str, Any], by_url: str, where: str) -> dict[str, Any]:
    """Responses' form of an image or video: its URL and detail are not in an object of their own."""
    url, file_id = part.get(by_url), part.get("file_id")
    if (url is None) == (file_id is None):
        raise PromptError(f"{where}: an {part['type']} needs one of {by_url} and file_id")
    if isinstance(url, Mapping):
        return {**part, "type": by_url}
    source = {"url": url} if file_id is None else {"file_id": file_id}
    detail = {} if part.get("detail") is None else {"detail": part["detail"]}
    rest = {key: value for key, value in part.items() if key not in ("type", by_url, "file_id", "detail")}
    return {**rest, "type": by_url, by_url: {**source, **detail}}


def _file(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    """OpenAI's file part as an image: an uploaded file, or a picture's data URI."""
    file = part["file"]
    file_id, data = file.get("file_id"), file.get("file_data")
    rest = {key: value for key, value in part.items() if key not in ("type", "file")}
    if file_id is not None:
        return {**rest, "type": "image", "file_id": file_id}
    if not isinstance(data, str):
        raise PromptError(f"{where}: a file needs file_id of an upload, or file_data with a picture's data URI")
    return {**rest, "type": "image_url", "image_url": {"url": data}}

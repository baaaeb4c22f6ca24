"""OpenAI-style messages are checked and converted for chat templates; media are collected in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketvlm.errors import InputError, OptionError, PromptError
from pocketvlm.options.media import IMAGE_OPTIONS, VIDEO_OPTIONS

ROLES = ("system", "user", "assistant", "tool")
MAX_DEPTH = 100
# Names of roles in other interfaces and in older versions of this one.
_SAME_ROLE = {"developer": "system", "function": "tool"}
_SOURCE_KEYS = ("url", "path", "base64")
_DETAIL: dict[str, str | None] = {"low": "16x", "high": "4x", "auto": None, "original": None}
_A = {"image": "an image", "video": "a video"}
# The first is the name that templates read; the others are what other servers and libraries call it.
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True)
class MediaPart:
    """One image or video: what to load, its own options, and where it stands (for error messages)."""

    source: Any
    options: Mapping[str, Any]
    where: str
    base64: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages ready for a template, and the images and videos in reading order.

    messages: plain dictionaries; every media part has become {"type": "image"} or {"type": "video"}.
    """

    messages: list[dict[str, Any]]
    images: list[MediaPart] = field(default_factory=list)
    videos: list[MediaPart] = field(default_factory=list)


def read_messages(messages: Any) -> Conversation:
    """Check messages and take their media out. Raises PromptError or OptionError naming message, part and key.

    Accepted content: a string, None, or a list of parts {"type": "text", "text": ...},
    {"type": "image", "image" | "url" | "path" | "base64": ..., + image options} and
    {"type": "image_url", "image_url": {"url": ..., "detail": "low" | "high" | "auto" | "original"} or a string,
    + image options};
    the same with "video", with options of images and of videos. Keys whose value is None count as absent.
    """
    if messages is None:
        raise PromptError("messages is missing: give a list of {'role', 'content'} objects")
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise PromptError(f"messages must be a list of {{'role', 'content'}} objects, not {type(messages).__name__}")
    if not messages:
        raise PromptError("messages is empty: give at least one user message")
    read = Conversation([])
    for index, message in enumerate(messages):
        read.messages.append(_message(message, f"messages[{index}]", read))
    return read


def as_messages(
    text: str, images: Sequence[Any] = (), system: str | None = None, videos: Sequence[Any] = ()
) -> list[dict[str, Any]]:
    """OpenAI-style messages of one question with its images, then its videos, before the text.

    An image that is "video:..." is a video in that place.
    """
    for name, given in (("images", images), ("videos", videos)):
        if isinstance(given, str | bytes | Path | Mapping) or not isinstance(given, Sequence):
            raise InputError(f"{name} must be a list, not {type(given).__name__}: write {name}=[...]")
    content: Any = text
    if images or videos:
        media = [("video" if _is_video(image) else "image", image) for image in images]
        media += [("video", video) for video in videos]
        content = [*({"type": kind, kind: source} for kind, source in media), {"type": "text", "text": text}]
    system_part = [] if system is None else [{"role": "system", "content": system}]
    return [*system_part, {"role": "user", "content": content}]


def _is_video(source: Any) -> bool:
    return isinstance(source, str) and source[:6].lower() == "video:"


def _message(message: Any, where: str, media: Conversation) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} must be an object with 'role' and 'content', not {type(message).__name__}")
    given = {key: value for key, value in message.items() if value is not None}
    role = given.pop("role", None)
    role = _SAME_ROLE.get(role, role) if isinstance(role, str) else role
    if role is None:
        raise PromptError(f"{where}: 'role' is missing: give one of {', '.join(ROLES)}")
    if role not in ROLES:
        raise PromptError(f"{where}: role={role!r} is not supported: give one of {', '.join(ROLES)}")
    result: dict[str, Any] = {"role": str(role)}
    content = given.pop("content", None)
    calls = given.pop("tool_calls", None)
    if content is None and role in ("system", "user"):
        raise PromptError(f"{where}: a {role} message needs 'content': a string or a list of parts")
    if content is not None:
        result["content"] = _content(content, f"{where}.content", media)
    if calls:
        result["tool_calls"] = _tool_calls(calls, f"{where}.tool_calls")
    reasoning = next((given[name] for name in _REASONING if name in given), None)
    if reasoning is not None:
        if not isinstance(reasoning, str):
            raise PromptError(f"{where}: reasoning_content must be a string, not {type(reasoning).__name__}")
        result["reasoning_content"] = reasoning
    for key, value in given.items():
        if key not in result:
            result[str(key)] = plain_data(value, f"{where}.{key}")
    return result


def _content(content: Any, where: str, media: Conversation) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return str(content)
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise PromptError(f"{where} must be a string or a list of parts, not {type(content).__name__}")
    return [_part(part, f"{where}[{index}]", media) for index, part in enumerate(content)]


def _part(part: Any, where: str, media: Conversation) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        hint = " (text is {'type': 'text', 'text': ...}, an image {'type': 'image', 'image': ...})"
        raise PromptError(f"{where} must be an object with a 'type', not {type(part).__name__}{hint}")
    given = {key: value for key, value in part.items() if value is not None}
    kind = given.pop("type", None)
    if kind == "text":
        text = given.pop("text", None)
        if text is None:
            raise PromptError(f"{where}: 'text' is missing: a text part is {{'type': 'text', 'text': ...}}")
        if not isinstance(text, str):
            raise PromptError(f"{where}: 'text' must be a string, not {type(text).__name__}")
        _nothing_left(given, where, ())
        return {"type": "text", "text": str(text)}
    if kind in ("image", "video"):
        (media.images if kind == "image" else media.videos).append(_plain(kind, given, where))
        return {"type": kind}
    if kind in ("image_url", "video_url"):
        (media.images if kind == "image_url" else media.videos).append(_by_url(kind, given, where))
        return {"type": kind.removesuffix("_url")}
    if kind is None:
        raise PromptError(f"{where}: 'type' is missing: give 'text', 'image', 'image_url', 'video' or 'video_url'")
    raise PromptError(
        f"{where}: type={kind!r} is not supported: give 'text', 'image', 'image_url', 'video' or 'video_url'"
    )


def _plain(kind: str, given: dict[str, Any], where: str) -> MediaPart:
    keys = (kind, *_SOURCE_KEYS)
    sources = [key for key in keys if key in given]
    if len(sources) != 1:
        found = " and ".join(map(repr, sources)) or "none"
        raise PromptError(f"{where}: {_A[kind]} part needs exactly one of {', '.join(keys)}; found {found}")
    key = sources[0]
    source = given.pop(key)
    if key in ("url", "base64") and not isinstance(source, str):
        raise PromptError(f"{where}: {key!r} must be a string, not {type(source).__name__}")
    return MediaPart(source, _options(kind, given, where), where, base64=key == "base64")


def _by_url(key: str, given: dict[str, Any], where: str) -> MediaPart:
    value = given.pop(key, None)
    detail = given.pop("detail", None)
    if isinstance(value, Mapping):
        inner = {key: item for key, item in value.items() if item is not None}
        value, detail = inner.pop("url", None), inner.pop("detail", detail)
        _nothing_left(inner, f"{where}.{key}", ("url", "detail"))
        if value is None:
            raise PromptError(f"{where}.{key}: 'url' is missing: give a URL or a data URI")
    if value is None:
        raise PromptError(f"{where}: {key!r} is missing: give a string or an object with a 'url' string")
    if not isinstance(value, str):
        raise PromptError(f"{where}: {key!r} must be a string or an object with a 'url' string")
    options = _options(key.removesuffix("_url"), given, where)
    if detail is not None:
        if not isinstance(detail, str) or detail not in _DETAIL:
            raise OptionError(f"{where}: detail={detail!r} is not supported: give 'low', 'high', 'auto' or 'original'")
        mode = _DETAIL[detail]
        if mode is not None and options.setdefault("downsample_mode", mode) != mode:
            raise OptionError(
                f"{where}: detail={detail!r} means downsample_mode={mode!r}, but the part says "
                f"downsample_mode={options['downsample_mode']!r}: give only one of them"
            )
    return MediaPart(value, options, where)


def _options(kind: str, given: dict[str, Any], where: str) -> dict[str, Any]:
    known = IMAGE_OPTIONS if kind == "image" else (*VIDEO_OPTIONS, *IMAGE_OPTIONS)
    for key in given:
        if key not in known:
            raise OptionError(f"{where}: {key!r} is not {_A[kind]} option: give one of {', '.join(known)}")
    return dict(given)


def _nothing_left(given: Mapping[Any, Any], where: str, allowed: Sequence[str]) -> None:
    for key in given:
        also = f": give {', '.join(map(repr, allowed))}" if allowed else ""
        raise PromptError(f"{where}: unknown key {key!r}{also}")


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise PromptError(f"{where} must be a list, not {type(calls).__name__}")
    result = []
    for index, call in enumerate(calls):
        place = f"{where}[{index}]"
        if not isinstance(call, Mapping):
            raise PromptError(f"{place} must be an object, not {type(call).__name__}")
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise PromptError(f"{place}: 'function' must be an object with a 'name' string")
        arguments = _arguments(function.get("arguments"), f"{place}.function.arguments")
        entry = {"type": "function", "function": {"name": str(function["name"]), "arguments": arguments}}
        if isinstance(call.get("id"), str):
            entry["id"] = str(call["id"])
        result.append(entry)
    return result


def _arguments(value: Any, where: str) -> dict[str, Any]:
    """Arguments as a mapping: OpenAI sends JSON text, templates want an object; absent or blank means none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{where} is not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise PromptError(f"{where} must be an object or its JSON text, not {type(value).__name__}")
    result: dict[str, Any] = plain_data(value, where)
    return result


def read_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Tool definitions (JSON objects) as plain data; None and an empty list mean no tools. Raises PromptError."""
    if tools is None:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise PromptError(f"tools must be a list of objects, not {type(tools).__name__}")
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise PromptError(f"tools[{index}] must be a JSON object, not {type(tool).__name__}")
    return [plain_data(tool, f"tools[{index}]") for index, tool in enumerate(tools)] or None


def plain_data(value: Any, where: str, depth: int = 0) -> Any:
    """A copy made of dict, list, str, int, float, bool and None only, which is all that a template may see.

    Raises PromptError naming the place for anything else, and for nesting deeper than MAX_DEPTH.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if depth > MAX_DEPTH:
        raise PromptError(f"{where[:100]}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {str(key): plain_data(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain_data(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise PromptError(f"{where} must be JSON data, not {type(value).__name__}")

"""The messages of a record in one form: roles of this package, contents with their media, tool calls as objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import DataError
from pocketvlm.train.data.files import kind_of
from pocketvlm.train.data.formats import Layout
from pocketvlm.train.data.media import KINDS, Columns

_REASONING = ("reasoning_content", "reasoning", "thinking")
# Names of part types in other interfaces.
_TEXT = ("text", "input_text", "output_text")
_SAME_PART = {"input_image": "image_url", "input_video": "video_url"}


def read_message(message: Any, where: str, layout: Layout, columns: Columns) -> dict[str, Any]:
    """One message: role (also "call"), content, reasoning_content, tool_calls, and `learn`. Raises DataError."""
    if not isinstance(message, Mapping):
        raise DataError(f"{where} must be an object with a role and a text, not {kind_of(message)}")
    given = {str(key): value for key, value in message.items() if value is not None}
    role_key, content_key = _keys(given, where, layout)
    name = given[role_key]
    role = layout.roles.get(name) if isinstance(name, str) else None
    if role is None:
        raise DataError(f"{where}: {role_key}={name!r} is not a role: give one of {', '.join(layout.roles)}")
    if given.get("function_call") is not None:
        raise DataError(f"{where}: 'function_call' is the old form of a tool call: write it as 'tool_calls'")
    result: dict[str, Any] = {"role": role, "learn": _learn(given, where)}
    calls, content = given.get("tool_calls") or [], given.get(content_key)
    if not isinstance(calls, list):
        raise DataError(f"{where}.tool_calls must be a list of calls, not {kind_of(calls)}")
    reasoning = next((given[key] for key in _REASONING if key in given), None)
    if role == "assistant" and isinstance(content, list):
        content, thought, more = _split_parts(content, f"{where}.{content_key}")
        calls, reasoning = [*calls, *more], reasoning or thought
    if calls:
        result["tool_calls"] = calls
    if content is None and not (role == "assistant" and calls):
        raise DataError(f"{where}: {content_key!r} is missing: give the text of the {role}")
    result["content"] = _content("" if content is None else content, f"{where}.{content_key}", role, columns)
    if reasoning is not None:
        if not isinstance(reasoning, str):
            raise DataError(f"{where}: reasoning_content must be a string, not {kind_of(reasoning)}")
        result["reasoning_content"] = reasoning
    return result


def _keys(given: Mapping[str, Any], where: str, layout: Layout) -> tuple[str, str]:
    """The keys of role and text: those of the layout, or those that the message has."""
    if layout.role_key is not None and layout.content_key is not None:
        if layout.role_key not in given:
            raise DataError(f"{where}: {layout.role_key!r} is missing: its keys are {', '.join(map(repr, given))}")
        return layout.role_key, layout.content_key
    for role_key, content_key in (("role", "content"), ("from", "value")):
        if role_key in given:
            return role_key, content_key
    found = ", ".join(map(repr, given)) or "none"
    raise DataError(f"{where} has no role: its keys are {found}; give 'role' and 'content', or 'from' and 'value'")


def _learn(given: Mapping[str, Any], where: str) -> bool:
    """Whether an answer is learnt: `loss` of ms-swift, `weight` of OpenAI, `loss_weight` of LLaMA-Factory."""
    for key in ("loss", "weight", "loss_weight", "loss_scale"):
        value = given.get(key)
        if value is None:
            continue
        if value not in (0, 1):
            raise DataError(f"{where}: {key}={value!r} is not supported: give true or false (1 or 0)")
        if not value:
            return False
    return True


def _content(content: Any, where: str, role: str, columns: Columns) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return columns.split(content) if role in ("user", "tool") else content
    if not isinstance(content, list):
        raise DataError(f"{where} must be a string or a list of parts, not {kind_of(content)}")
    parts = [_part(part, f"{where}[{index}]", columns) for index, part in enumerate(content)]
    media = next((part["type"] for part in parts if part["type"] != "text"), None)
    if media is not None and role not in ("user", "tool"):
        way = "put it into a message of the user" if role == "system" else "the model writes text alone: remove it"
        raise DataError(f"{where}: a message of the {role} holds a part of type {media!r}: {way}")
    return parts


def _split_parts(content: list[Any], where: str) -> tuple[list[Any], str | None, list[dict[str, Any]]]:
    """An answer's parts of text and media, its reasoning, and its tool calls, which LLaMA-Factory writes as parts."""
    texts: list[Any] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "tool_call":
            calls += call_of(part.get("value"), f"{where}[{index}]")
        elif kind in ("reasoning", "thinking"):
            thought = part.get("value", part.get(kind, part.get("text")))
            if not isinstance(thought, str):
                raise DataError(f"{where}[{index}]: its reasoning must be a string, not {kind_of(thought)}")
            thoughts.append(thought)
        else:
            texts.append(part)
    return texts, "\n".join(thoughts) if thoughts else None, calls


def _part(part: Any, where: str, columns: Columns) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise DataError(f"{where} must be an object with a 'type', not {kind_of(part)}")
    given = {str(key): value for key, value in part.items() if value is not None}
    kind = given.pop("type", None)
    if "value" in given and isinstance(kind, str):  # the key of LLaMA-Factory's newer format, for every type
        given.setdefault("text" if kind in _TEXT else kind, given.pop("value"))
    if kind in _TEXT:
        text = given.get("text")
        if not isinstance(text, str):
            raise DataError(f"{where}: 'text' must be a string, not {kind_of(text)}")
        return {"type": "text", "text": text}
    kind = _SAME_PART.get(kind, kind) if isinstance(kind, str) else kind
    if kind in ("image_url", "video_url"):
        return _by_url(kind, given, where, columns)
    if kind not in KINDS:
        known = "'text', 'image', 'image_url', 'video' or 'video_url'"
        raise DataError(f"{where}: type={kind!r} is not supported: give {known}")
    if isinstance(given.get("source"), Mapping):
        return {"type": kind, kind: _anthropic(given["source"], where, columns)}
    keys = [key for key in (kind, "url", "path", "base64") if key in given]
    if len(keys) > 1:
        raise DataError(f"{where}: {keys[0]!r} and {keys[1]!r} both name its source: give one of them")
    if not keys:
        return {**columns.next(kind), **given}
    source = given.pop(keys[0])
    if keys[0] == "base64":
        source = f"data:;base64,{source}"
    columns.inline[kind] += 1
    return {"type": kind, kind: columns.folders.source(source, f"{where}.{keys[0]}"), **given}


def _by_url(kind: str, given: dict[str, Any], where: str, columns: Columns) -> dict[str, Any]:
    """{"image_url": "..." or {"url": "...", "detail": "..."}}; a part without a source takes the next of the column."""
    value = given.pop(kind, None)
    name = kind.removesuffix("_url")
    if value is None:
        if given.get("file_id") is not None:
            raise DataError(f"{where}: file_id={given['file_id']!r} is on a server: give the path of the file")
        return {**columns.next(name), **given}
    rest = {key: item for key, item in value.items() if key != "url"} if isinstance(value, Mapping) else {}
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str):
        raise DataError(f"{where}: {kind!r} must be a string or an object with a 'url' string")
    columns.inline[name] += 1
    return {"type": kind, kind: {"url": columns.folders.source(url, f"{where}.{kind}"), **rest}, **given}


def _anthropic(source: Mapping[str, Any], where: str, columns: Columns) -> Any:
    if source.get("type") == "base64" and isinstance(source.get("data"), str):
        return f"data:{source.get('media_type', '')};base64,{source['data']}"
    if source.get("type") == "url":
        return columns.folders.source(source.get("url"), f"{where}.source.url")
    raise DataError(f"{where}: source has type={source.get('type')!r}: give 'base64' with 'data', or 'url' with 'url'")


def call_of(content: Any, where: str) -> list[dict[str, Any]]:
    """The tool calls that a message of role "call" holds as JSON: {"name", "arguments"}, or a list of them."""
    value = _parsed(content, f"{where}: a tool call", "{'name', 'arguments'}")
    calls = value if isinstance(value, list) else [value]
    for call in calls:
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise DataError(f"{where}: a tool call needs a 'name' string and 'arguments': {str(call)[:60]}")
    return [{"type": "function", "function": {"arguments": {}, **call}} for call in calls]


def read_tools(tools: Any, key: str) -> list[dict[str, Any]]:
    """The tools of a record: a list of JSON objects, or its JSON text. Raises DataError."""
    if isinstance(tools, str) and tools.strip():
        tools = _parsed(tools, repr(key), "a list of functions")
    if not tools:
        return []
    if not isinstance(tools, list):
        raise DataError(f"{key!r} must be a list of functions, not {kind_of(tools)}")
    result = []
    for index, given in enumerate(tools):
        tool = _parsed(given, f"{key}[{index}]", "a function") if isinstance(given, str) else given
        if not isinstance(tool, Mapping):
            raise DataError(f"{key}[{index}] must be an object, not {kind_of(tool)}")
        # LLaMA-Factory lists functions without OpenAI's envelope, which the template's examples have.
        result.append(dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)})
    return result


def _parsed(text: Any, where: str, wanted: str) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}): give {wanted}") from None

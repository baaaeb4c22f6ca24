"""The affinity key of a request: requests with one key find their image features and prompt on one replica."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

# Fields that hold media, in the parts of all interfaces: OpenAI's, Anthropic's, Ollama's.
_MEDIA = ("image_url", "video_url", "input_image", "image", "video", "source", "images", "file_id")


def affinity_key(body: bytes) -> str:
    """A digest of the first media item of a request, else of what its conversation begins with; "" for none.

    Questions about one image, and later turns of one conversation, have the same key. A body that is no JSON has none:
    any replica refuses it.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, Mapping):
        return ""
    part = next(_media(found), None)
    if part is None:
        part = _beginning(found)
    if part is None:
        return ""
    return hashlib.blake2b(json.dumps(part, sort_keys=True).encode(), digest_size=16).hexdigest()


def _media(value: Any, depth: int = 0) -> Iterator[Any]:
    """Media items, in the order of the request."""
    if depth > 8:
        return
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name in _MEDIA and each:
                yield each[0] if isinstance(each, list) else each
            else:
                yield from _media(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from _media(each, depth + 1)


def _beginning(body: Mapping[str, Any]) -> Any:
    """System prompt and first question of a conversation, or a prompt."""
    for name in ("messages", "input"):
        messages = body.get(name)
        if isinstance(messages, list) and messages:
            first = next(
                (at for at, each in enumerate(messages) if isinstance(each, Mapping) and each.get("role") == "user"), 0
            )
            return [body.get("system"), body.get("instructions"), messages[: first + 1]]
    return next((body[name] for name in ("prompt", "input") if body.get(name)), None)

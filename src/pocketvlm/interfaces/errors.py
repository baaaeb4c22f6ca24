"""`ApiError` is the failure of a request, with its body in the form of each interface."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pocketvlm.answers.choice import Delta
from pocketvlm.errors import ImageError, InputError, OptionError, PocketVLMError, PromptError, VideoError
from pocketvlm.interfaces.requests import Place

Style = Literal["openai", "anthropic", "ollama"]

_OPENAI = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_ANTHROPIC = {
    **_OPENAI,
    413: "request_too_large",
    503: "overloaded_error",
}


class ApiError(Exception):
    """A failure with an HTTP status, a sentence, and, where there is one, the request field it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """details: what Anthropic's clients read to decide how to continue. headers: of an answer by HTTP."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers
        self.details = details

    def body(self, style: Style, request_id: str = "") -> dict[str, Any]:
        """The JSON body in the shape that clients of this interface read."""
        if style == "ollama":
            return {"error": self.message}
        if style == "anthropic":
            kind = _ANTHROPIC.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
            more = {} if self.details is None else {"details": dict(self.details)}
            details = {"type": kind, "message": self.message, **more}
            return {"type": "error", "error": details, "request_id": request_id}
        kind = _OPENAI.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def from_failure(error: PocketVLMError, places: Sequence[Place] = ()) -> ApiError:
    """The error that a client gets for a failure of the layers below. places: of the messages in the request."""
    message = _renamed(str(error).removeprefix("options: "), places)
    # Every interface calls this option of the processor chat_template_kwargs.
    if message.startswith("template_kwargs"):
        message = f"chat_{message}"
    if isinstance(error, ImageError):
        return ApiError(400, message, param=_place(message), code="invalid_image")
    if isinstance(error, VideoError):
        return ApiError(400, message, param=_place(message), code="invalid_video")
    if isinstance(error, PromptError):
        long = "context holds" in message or "state takes" in message
        code = "context_length_exceeded" if long else "invalid_prompt"
        return ApiError(400, message, param=_place(message), code=code)
    if isinstance(error, OptionError | InputError):
        named = _FIELD.match(message)
        return ApiError(400, message, param=_place(message) or (named[1] if named else None))
    return ApiError(500, message, code="internal_error")


def from_delta(delta: Delta) -> ApiError | None:
    """Why a choice failed, if it did."""
    if delta.error is not None:
        if isinstance(delta.cause, InputError):  # frames of a video are decoded when they are due
            return from_failure(delta.cause)
        return ApiError(500, f"the engine failed on this request: {delta.error}", code="engine_error")
    if delta.finish_reason == "abort":
        return ApiError(503, "the server ended this request: it is shutting down", code="aborted")
    return None


_JSON_TYPES: dict[type, str] = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
_MESSAGE = re.compile(r"messages\[(\d+)\](?:\.content\[(\d+)\])?")
_FIELD = re.compile(r"([a-z_]\w*(?:\[\d+\]|\.\w+)*)[:=]")
_FIELDS = ("messages", "tools", "input", "instructions", "system", "images", "prompt")
_PATH = re.compile(rf"({'|'.join(_FIELDS)})(\[\d+\]|\.\w+)*(?=[:. ]|$)")


def _renamed(text: str, places: Sequence[Place]) -> str:
    """A message in which `messages[i].content[j]` is what the request itself calls that part."""

    def named(found: re.Match[str]) -> str:
        number, part = int(found[1]), found[2]
        if number >= len(places):
            return found[0]
        place = places[number]
        if part is None:
            return place.message
        return place.parts[int(part)] if int(part) < len(place.parts) else f"{place.message}.content[{part}]"

    return _MESSAGE.sub(named, text) if places else text


def _place(message: str) -> str | None:
    """The request field at the beginning of a message such as `messages[0].content[1]: ...`."""
    found = _PATH.match(message)
    if found is None or not ("[" in found[0] or message[found.end() :].startswith(":")):
        return None
    return found[0]


def from_validation(errors: Sequence[Any]) -> ApiError:
    """The first complaint of pydantic's list, with the path of the field that it is about."""
    first = errors[0]
    steps = [step for step in first.get("loc", ()) if step not in ("body", "query", "path")]
    # The names of a union's members stand in the path too; a client knows only its own fields.
    path = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps if isinstance(step, int) or _plain(step)
    ).lstrip(".")
    kind, text = first.get("type", ""), str(first.get("msg", "invalid"))
    if kind == "missing":
        if not path:
            return ApiError(400, "the request needs a JSON object as its body", code="missing_required_parameter")
        return ApiError(400, f"{path}: this field is required", param=path, code="missing_required_parameter")
    if not path:
        given = _JSON_TYPES.get(type(first.get("input")), "")
        return ApiError(400, f"the body must be a JSON object{given and f', not {given}'}", code="invalid_value")
    text = text.removeprefix("Value error, ")
    return ApiError(400, f"{path}: {text}" if path else text, param=path or None, code="invalid_value")


def _plain(step: str) -> bool:
    return (
        step.replace("-", "_").isidentifier() and step not in ("str", "int", "float", "bool") and step == step.lower()
    )

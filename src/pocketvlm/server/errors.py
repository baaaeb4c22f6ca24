"""Failures as HTTP answers: one exception, and its body in the shape of whichever interface was called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from starlette.exceptions import HTTPException

from pocketvlm.errors import ImageError, InputError, OptionError, PocketVLMError, PromptError, VideoError

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


class ApiError(HTTPException):
    """A failure with an HTTP status, a sentence, and, where there is one, the request field it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.message = message
        self.param = param
        self.code = code

    def body(self, style: Style, request_id: str = "") -> dict[str, Any]:
        """The JSON body in the shape that clients of this interface read."""
        if style == "ollama":
            return {"error": self.message}
        if style == "anthropic":
            kind = _ANTHROPIC.get(self.status_code, "api_error" if self.status_code >= 500 else "invalid_request_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}, "request_id": request_id}
        kind = _OPENAI.get(self.status_code, "server_error" if self.status_code >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def internal(request_id: str) -> ApiError:
    """What a client is told of a failure that is ours."""
    return ApiError(500, f"internal error; the server's log has request {request_id}", code="internal_error")


def style_of(path: str) -> Style:
    """Which interface a path belongs to."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "ollama" if path.startswith("/api/") else "openai"


def from_failure(error: PocketVLMError) -> ApiError:
    """What a failure of the layers below means to a client."""
    message = str(error).removeprefix("options: ")
    if isinstance(error, ImageError):
        return ApiError(400, message, param=_place(message), code="invalid_image")
    if isinstance(error, VideoError):
        return ApiError(400, message, param=_place(message), code="invalid_video")
    if isinstance(error, PromptError):
        long = "context holds" in message or "state takes" in message
        code = "context_length_exceeded" if long else "invalid_prompt"
        return ApiError(400, message, param=_place(message), code=code)
    if isinstance(error, OptionError | InputError):
        name = message.split("=", 1)[0]
        return ApiError(400, message, param=_place(message) or (name if name.isidentifier() else None))
    return ApiError(500, message, code="internal_error")


def _place(message: str) -> str | None:
    """The request field at the beginning of a message such as `messages[0].content[1]: ...`."""
    head = message.split(":", 1)[0].split(" ", 1)[0]
    return head if head.startswith(("messages", "tools")) else None


def from_validation(errors: list[Any]) -> ApiError:
    """The first complaint of pydantic's list, with the path of the field that it is about."""
    first = errors[0]
    steps = [step for step in first.get("loc", ()) if step not in ("body", "query", "path")]
    # The names of a union's members stand in the path too; a client knows only its own fields.
    path = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps if isinstance(step, int) or _plain(step)
    ).lstrip(".")
    kind, text = first.get("type", ""), str(first.get("msg", "invalid"))
    if kind == "extra_forbidden":
        return ApiError(400, f"{path}: this field is not supported", param=path, code="unsupported_parameter")
    if kind == "missing":
        where = path or "the request needs a JSON body; it"
        return ApiError(400, f"{where}: this field is required", param=path or None, code="missing_required_parameter")
    text = text.removeprefix("Value error, ")
    return ApiError(400, f"{path}: {text}" if path else text, param=path or None, code="invalid_value")


def _plain(step: str) -> bool:
    return (
        step.replace("-", "_").isidentifier() and step not in ("str", "int", "float", "bool") and step == step.lower()
    )

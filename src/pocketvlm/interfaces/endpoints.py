"""Endpoints are the paths that answer: each has the class of its bodies and the renderer of its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pydantic_core
from pydantic import ValidationError

from pocketvlm.interfaces.errors import ApiError, Style, from_validation
from pocketvlm.interfaces.renderers.anthropic import MessageRenderer
from pocketvlm.interfaces.renderers.chat import ChatRenderer
from pocketvlm.interfaces.renderers.common import Renderer
from pocketvlm.interfaces.renderers.completions import CompletionRenderer
from pocketvlm.interfaces.renderers.ollama import OllamaRenderer
from pocketvlm.interfaces.renderers.responses import ResponseRenderer
from pocketvlm.interfaces.schemas.anthropic import MessagesRequest
from pocketvlm.interfaces.schemas.chat import ChatRequest, CompletionRequest
from pocketvlm.interfaces.schemas.common import AnswerRequest
from pocketvlm.interfaces.schemas.ollama import OllamaChatRequest, OllamaGenerateRequest
from pocketvlm.interfaces.schemas.responses import ResponsesRequest
from pocketvlm.interfaces.usage import RequestOutput

B = TypeVar("B", bound=AnswerRequest)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path that answers: the class of its bodies, the form of its errors, and what writes its answers."""

    body: type[AnswerRequest]
    style: Style
    renderer: Callable[[RequestOutput, Any], Renderer]


ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(ChatRequest, "openai", ChatRenderer),
    "/v1/completions": Endpoint(CompletionRequest, "openai", CompletionRenderer),
    "/v1/responses": Endpoint(ResponsesRequest, "openai", ResponseRenderer),
    "/v1/messages": Endpoint(MessagesRequest, "anthropic", MessageRenderer),
    "/api/chat": Endpoint(OllamaChatRequest, "ollama", OllamaRenderer),
    "/api/generate": Endpoint(OllamaGenerateRequest, "ollama", OllamaRenderer),
}


def read_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises ApiError, also for NaN and infinity."""
    try:
        return pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        nested = "recursion limit" in str(error)
        why = "is nested too deeply" if nested else f"is not valid JSON: {error}"
        raise ApiError(400, f"the body {why}", code="invalid_json") from None


def read_body(kind: type[B], body: bytes | str | Mapping[str, Any]) -> B:
    """A body, JSON or already parsed, as the typed request of its endpoint. Raises ApiError."""
    if body in (b"", ""):
        raise from_validation([{"type": "missing"}])
    value = read_json(body) if isinstance(body, bytes | str) else body
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise from_validation(error.errors()) from None

"""Errors of HTTP: which interface a path belongs to, and what a client is told of a failure of the server's own."""

from __future__ import annotations

from pocketvlm.interfaces.errors import ApiError, Style


def style_of(path: str) -> Style:
    """Which interface a path belongs to."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "ollama" if path == "/api" or path.startswith("/api/") else "openai"


def internal(request_id: str) -> ApiError:
    """What a client is told of a failure that is ours."""
    return ApiError(500, f"internal error; the server's log has request {request_id}", code="internal_error")

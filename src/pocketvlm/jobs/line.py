"""A `Line` is one request of a job, and `result_line` writes its answer in the form of OpenAI's batch output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocketvlm.interfaces.responder import Response

# The endpoints whose bodies a line may hold.
URLS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line has no request that could be answered. code: for programs; message: one sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Line:
    """One request. number: its line in the input, from 1. size: bytes of the input that it takes.

    With a problem there is no body, and the custom_id only if it could be read.
    """

    number: int
    custom_id: str | None
    url: str = ""
    body: Mapping[str, Any] | None = None
    problem: Problem | None = None
    size: int = 0


def read_line(number: int, data: bytes) -> Line:
    """A line of OpenAI's batch input: {custom_id, method, url, body}."""
    size = len(data)

    def wrong(code: str, message: str, custom_id: str | None = None) -> Line:
        return Line(number, custom_id, problem=Problem(code, f"line {number}: {message}"), size=size)

    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return wrong("invalid_json_line", f"this is not valid JSON: {reason}")
    if not isinstance(value, dict):
        return wrong("invalid_json_line", f"a JSON object is wanted, not {type(value).__name__}")
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return wrong("missing_custom_id", "custom_id must be a string that is not empty")
    method, url, body = value.get("method", "POST"), value.get("url"), value.get("body")
    if method != "POST":
        return wrong("invalid_method", f"method={str(method)[:40]!r} is not supported: give POST", custom_id)
    if url not in URLS:
        return wrong("invalid_url", f"url={str(url)[:80]!r} is not supported: give {', '.join(URLS)}", custom_id)
    if not isinstance(body, dict):
        return wrong("invalid_body", "body must be a JSON object", custom_id)
    return Line(number, custom_id, url, body, size=size)


def result_line(result_id: str, line: Line, response: Response | Problem) -> bytes:
    """The output line of an answer, of a refused request (a response with its status), or of a problem."""
    answer: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    if isinstance(response, Problem):
        error = {"code": response.code, "message": response.message}
    else:
        answer = {"status_code": response.status, "request_id": response.request_id, "body": response.body}
    value = {"id": result_id, "custom_id": line.custom_id, "response": answer, "error": error}
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"

"""The end of a batch: its journal becomes files of answers and errors, or Anthropic's results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from pocketvlm.jobs.journal import Journal, is_failure
from pocketvlm.jobs.line import Line, Problem, result_line
from pocketvlm.jobs.sources.source import Source
from pocketvlm.server.batches.batch import Batch

# What OpenAI's error files say of lines without an answer.
_LEFT = {
    True: Problem("batch_expired", "This request could not be executed before the completion window expired."),
    False: Problem("batch_cancelled", "The batch was cancelled before this request was executed."),
}


def count_usage(usage: dict[str, int], value: Mapping[str, Any]) -> None:
    """Add the tokens of an answer in any form."""
    given = (value["response"]["body"].get("usage") or {}) if value["response"] else {}
    details = {**(given.get("prompt_tokens_details") or {}), **(given.get("input_tokens_details") or {})}
    more = {**(given.get("completion_tokens_details") or {}), **(given.get("output_tokens_details") or {})}
    for name, count in (
        ("input", given.get("prompt_tokens", given.get("input_tokens", 0))),
        ("output", given.get("completion_tokens", given.get("output_tokens", 0))),
        ("cached", details.get("cached_tokens", given.get("cache_read_input_tokens") or 0)),
        ("reasoning", more.get("reasoning_tokens", 0)),
    ):
        usage[name] = usage.get(name, 0) + int(count or 0)


def writer(lines: Callable[[], Iterator[bytes]]) -> Callable[[BinaryIO], None]:
    """What writes lines to a file."""

    def write(file: BinaryIO) -> None:
        for line in lines():
            file.write(line)

    return write


def answers(journal: Journal, usage: dict[str, int]) -> Iterator[bytes]:
    """The output lines with an answer, in order; their tokens are added to `usage`."""
    for data in journal.lines(in_order=True):
        value = json.loads(data)
        if not is_failure(value):
            count_usage(usage, value)
            yield data


def errors(batch: Batch, journal: Journal, source: Source) -> Iterator[bytes]:
    """The output lines with an error, then a line for each request that was not executed."""
    for data in journal.lines(in_order=True):
        if is_failure(json.loads(data)):
            yield data
    if batch.unfinished:
        for line in source.lines(journal.__contains__):
            yield result_line(journal.result_id(line.number), line, _LEFT[batch.expired])


def anthropic(batch: Batch, journal: Journal, source: Source, usage: dict[str, int]) -> Iterator[bytes]:
    """Anthropic's results: a line for each request, with its message or why there is none."""
    for data in journal.lines(in_order=True):
        value = json.loads(data)
        if is_failure(value):
            body = value["response"]["body"] if value["response"] else _error(value["error"]["message"])
            result: dict[str, Any] = {"type": "errored", "error": body}
        else:
            count_usage(usage, value)
            result = {"type": "succeeded", "message": value["response"]["body"]}
        yield _line(value["custom_id"], result)
    if batch.unfinished:
        for line in source.lines(journal.__contains__):
            yield _line(line.custom_id, {"type": "expired" if batch.expired else "canceled"})


def _error(message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


def _line(custom_id: str | None, result: dict[str, Any]) -> bytes:
    value = {"custom_id": custom_id, "result": result}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def as_failure(line: Line) -> dict[str, Any]:
    """A line that ends a batch before it begins, as an entry of the batch's errors."""
    problem = line.problem or Problem("invalid_request", "")
    return {"code": problem.code, "line": line.number, "message": problem.message, "param": None}

"""Output lines become rows of a table: the fields of each answer by its schema, or the text of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.jobs.parquet import convert

_OWN = ("custom_id", "error")
_TEXT = {"type": "string"}
_PLAIN = {
    "custom_id": _TEXT,
    "text": _TEXT,
    "finish_reason": _TEXT,
    "prompt_tokens": {"type": "integer"},
    "completion_tokens": {"type": "integer"},
    "error": _TEXT,
}


def columns_for(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Name and JSON schema of each column. Raises OptionError for a schema that gives no columns."""
    if schema is None:
        return dict(_PLAIN)
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise OptionError("--schema: rows need a schema of an object with properties, which become the columns")
    for name in _OWN:
        if name in properties:
            raise OptionError(f"--schema: the property {name!r} has the name of a column of its own: rename it")
    return {"custom_id": _TEXT, **properties, "error": _TEXT}


def row_of(value: Mapping[str, Any], schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """The row of an output line. error: why there is no answer, or none of the schema."""
    row: dict[str, Any] = {"custom_id": value["custom_id"], "error": failure(value)}
    if row["error"] is not None:
        return row
    body = value["response"]["body"]
    if schema is None:
        text, reason = text_of(body)
        usage = body.get("usage") or {}
        counts = {
            "prompt_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
            "completion_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
        }
        return {**row, "text": text, "finish_reason": reason, **counts}
    answer = fitting(body, schema)
    if answer is None:
        reason = text_of(body)[1]
        return {**row, "error": f"the answer is no JSON object (finish reason {reason}): raise --max-tokens"}
    columns = columns_for(schema)
    return {**row, **{name: convert(columns[name], answer.get(name)) for name in columns if name not in _OWN}}


def fitting(body: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    """The value of an answer to a request with a schema; None if it is no JSON, or no object where one is wanted.

    The grammar allows nothing else: such an answer was cut off.
    """
    try:
        answer = json.loads(text_of(body)[0])
    except ValueError:
        return None
    return answer if isinstance(answer, Mapping) or not schema.get("properties") else None


def failure(value: Mapping[str, Any]) -> str | None:
    """Why an output line has no answer; None if it has one."""
    if value["error"] is not None:
        return str(value["error"]["message"])
    response = value["response"]
    if response["status_code"] == 200:
        return None
    error = response["body"].get("error")
    return str(error["message"] if isinstance(error, Mapping) else error)


def text_of(body: Mapping[str, Any]) -> tuple[str, str | None]:
    """Text and finish reason of an answer in the form of any of the endpoints."""
    if "choices" in body:  # chat completions and completions
        choice = body["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        return text or "", choice["finish_reason"]
    if "output" in body:  # responses
        parts = [part for item in body["output"] for part in item.get("content") or () if item["type"] == "message"]
        return "".join(part.get("text", "") for part in parts), body.get("status")
    return "".join(block.get("text", "") for block in body["content"]), body.get("stop_reason")

"""`--schema` makes every answer JSON of a schema, and `--to parquet` makes rows of them."""

from __future__ import annotations

import json

import jsonschema
import pyarrow
import pyarrow.parquet
import pytest
from jobs.kit import line, read_lines, write_lines

from pocketvlm.errors import OptionError
from pocketvlm.jobs import parquet
from pocketvlm.jobs.rows import columns_for, row_of, text_of

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 0, "maximum": 999},
        "sure": {"type": "boolean"},
        "kind": {"enum": ["bird", "dog"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
        "box": {
            "type": "object",
            "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["x"],
            "additionalProperties": False,
        },
        "any": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["name", "count", "sure", "kind", "tags", "box", "any"],
    "additionalProperties": False,
}


def lines():
    found = [
        line("chat"),
        {"custom_id": "responses", "url": "/v1/responses", "body": {"input": "hello"}},
        {"custom_id": "completion", "url": "/v1/completions", "body": {"prompt": "hello"}},
        line("message", url="/v1/messages"),
        line("own", response_format={"type": "json_object"}),
        line("cut", max_tokens=1),
        "{",
    ]
    for each, name in (
        (0, "max_tokens"),
        (1, "max_output_tokens"),
        (2, "max_tokens"),
        (3, "max_tokens"),
        (4, "max_tokens"),
    ):
        found[each]["body"][name] = 200
    return found


def test_every_answer_has_the_schema(batch, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    write_lines(tmp_path / "in.jsonl", lines())
    batch("in.jsonl", "-o", "out.jsonl", "--schema", "schema.json")
    found = read_lines(tmp_path / "out.jsonl")
    for each in found[:5]:
        jsonschema.validate(json.loads(text_of(each["response"]["body"])[0]), SCHEMA)
    outcome = batch("in.jsonl", "-o", "out.parquet", "--schema", "schema.json", "--json")
    assert "7 lines, 2 failed (1 without the JSON of --schema: raise --max-tokens) in " in outcome.err
    counts = json.loads(outcome.out)
    assert [counts[name] for name in ("answered", "failed", "unfit")] == [5, 2, 1]
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "custom_id": "string",
        "name": "string",
        "count": "int64",
        "sure": "bool",
        "kind": "string",
        "tags": "list<element: string>",
        "box": "struct<x: int64>",
        "any": "string",
        "error": "string",
    }
    rows = table.to_pylist()
    for row, each in zip(rows[:5], found[:5], strict=True):
        expected = json.loads(text_of(each["response"]["body"])[0])
        expected["any"] = json.dumps(expected["any"]) if expected["any"] is not None else None
        assert row == {"custom_id": each["custom_id"], **expected, "error": None}
    assert rows[5]["error"] == "the answer is no JSON object (finish reason length): raise --max-tokens"
    assert rows[6]["error"].startswith("line 7: this is not valid JSON")
    assert rows[6]["custom_id"] is None
    assert sum(row["error"] is not None for row in rows) == counts["failed"]
    assert not (tmp_path / "out.parquet.partial").exists()


def test_without_a_schema_rows_have_texts(batch, tmp_path):
    write_lines(tmp_path / "in.jsonl", lines()[:4])
    assert batch("in.jsonl", "-o", "out.parquet", "--max-tokens", "5").code == 0
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["custom_id"] for row in rows] == ["chat", "responses", "completion", "message"]
    assert all(row["text"] is not None and row["completion_tokens"] and row["prompt_tokens"] for row in rows)
    assert {row["error"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string"}, "--schema: rows need a schema of an object"),
        ({"properties": {"error": {}}}, "--schema: the property 'error' has the name of a column"),
    ],
)
def test_schemas_that_give_no_columns(schema, message):
    with pytest.raises(OptionError, match=message):
        columns_for(schema)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--schema=schema.json: cannot be read: No such file"),
        ("{", "--schema=schema.json: not valid JSON"),
        ("[]", "--schema=schema.json: a JSON schema is an object, not list"),
    ],
)
def test_schema_files_that_cannot_be_read(batch, tmp_path, text, message):
    if text is not None:
        (tmp_path / "schema.json").write_text(text)
    write_lines(tmp_path / "in.jsonl", lines())
    outcome = batch("in.jsonl", "-o", "out.jsonl", "--schema", "schema.json")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {message}")
    assert not list(tmp_path.glob("out*"))


def test_values_that_fit_no_column_are_null(tmp_path):
    columns = {"count": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}}
    rows = [{"count": 1 << 80, "tags": ["a"]}, {"count": 2, "tags": 3}, {"count": None}]
    with (tmp_path / "rows.parquet").open("wb") as file:
        parquet.write(file, columns, iter(rows))
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == [
        {"count": None, "tags": ["a"]},
        {"count": 2, "tags": None},
        {"count": None, "tags": None},
    ]


def test_a_refused_line_is_a_row_with_its_error():
    value = {"custom_id": "a", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}, "error": None}
    assert row_of(value, None) == {"custom_id": "a", "error": "no"}

"""Values of parameters: read as their schema says, and never an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pocketvlm.parsing.schemas import STRING, UNTYPED, Signature
from pocketvlm.parsing.values import is_text, to_json

ALL = ["string", "integer", "number", "boolean", "null", "object", "array"]
DEEP = "[" * 100_000


def types(schema: Any, **root: Any) -> frozenset[str]:
    return Signature({"type": "object", "properties": {"x": schema}, **root}).types("x")


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "string"}, "string"),
        ({"type": "number", "description": "d"}, "number"),
        ({"type": ["integer", "null"]}, "integer null"),
        ({"type": "integer", "nullable": True}, "integer null"),
        ({"type": "dict"}, "object"),
        ({"type": "float"}, "number"),
        ({"enum": ["a", "1", ""]}, "string"),
        ({"type": "string", "enum": ["a", None]}, "string null"),
        ({"type": "string", "enum": ["a", 1]}, "string"),
        ({"type": "boolean", "enum": [1, "a"]}, "boolean"),
        ({"type": "number", "const": 3}, "integer"),
        ({"enum": [1, 2.5, True, None, [], {}]}, "integer number boolean null array object"),
        ({"const": 3.0}, "integer"),
        ({"anyOf": [{"type": "integer"}, {"type": "string", "format": "date"}]}, "integer string"),
        ({"oneOf": [{"type": "array"}, {"anyOf": [{"const": None}, {"type": "boolean"}]}]}, "array null boolean"),
        ({"anyOf": [{"type": "integer"}, {}]}, "integer string object array"),
        ({"allOf": [{"type": ["integer", "null"]}, {"type": ["string", "integer"]}, {"title": "t"}]}, "integer"),
        ({"$ref": "#/$defs/a"}, "boolean"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}], "allOf": [{"type": "string"}]}, "string"),
        ({"$ref": "#/$defs/list", "type": ["number", "string"]}, "integer"),
        ({"type": "boolean", "allOf": [{"type": "string"}]}, "boolean"),
        ({"allOf": [{"$ref": "#/$defs/a~1b"}]}, "array"),
        ({"$ref": "#/$defs/round"}, "string object array"),
        ({"$ref": "#/$defs/list/anyOf/1"}, "null"),
        ({"items": {}}, "array"),
        ({"properties": {}}, "object"),
        ({"maxLength": 3}, "string"),
        ({"minimum": 0}, "number"),
        # These say nothing
        ({}, "string object array"),
        (True, "string object array"),
        ("string", "string object array"),
        ({"type": "thing"}, "string object array"),
        ({"type": []}, "string object array"),
        ({"enum": []}, "string object array"),
        ({"$ref": "#/$defs/none"}, "string object array"),
        ({"$ref": "#/$defs/list/anyOf/7"}, "string object array"),
        ({"$ref": "https://example.com/a.json"}, "string object array"),
    ],
)
def test_types_of_a_schema(schema, wanted):
    defs = {
        "a": {"type": "boolean"},
        "a/b": {"type": "array"},
        "round": {"anyOf": [{"$ref": "#/$defs/round"}, {"type": "string"}]},
        "list": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    }
    assert types(schema, **{"$defs": defs}) == set(wanted.split())


def test_parameters_are_found_wherever_the_schema_lists_them():
    signature = Signature(
        {
            "$ref": "#/$defs/base",
            "$defs": {"base": {"properties": {"a": {"type": "integer"}}, "allOf": [{"$ref": "#"}]}},
            "oneOf": [{"properties": {"b": {"type": "null"}}}, {"properties": {"b": {"type": "array"}, "c": False}}],
            "additionalProperties": {"type": "boolean"},
        }
    )
    assert [signature.types(name) for name in "abcd"] == [{"integer"}, {"null", "array"}, UNTYPED, {"boolean"}]
    assert [signature.knows(name) for name in "abcd"] == [True, True, True, False]


@pytest.mark.parametrize("parameters", [None, {}, [], "x", {"properties": []}, {"properties": {"y": {}}}])
def test_without_a_schema_values_are_untyped(parameters):
    assert Signature(parameters).types("x") == UNTYPED
    assert not Signature(parameters).knows("x")


def test_a_schema_that_refers_to_itself_many_times_is_read_once():
    refs = [{"$ref": f"#/$defs/{n}"} for n in range(50)]
    root = {"$defs": {str(n): {"anyOf": refs, "allOf": refs} for n in range(50)}, "anyOf": refs}
    signature = Signature({**root, "properties": {"x": {"anyOf": refs}}})
    assert "string" in signature.types("x")
    assert not signature.knows("y")


@pytest.mark.parametrize(
    ("kinds", "text", "wanted"),
    [
        ("string", " 12 ", " 12 "),
        ("string", '"a"', '"a"'),
        ("string", "None", "None"),
        ("integer", "12", 12),
        ("integer", " -3\n", -3),
        ("integer", "3.0", 3),
        ("integer", "3.5", 3.5),
        ("integer", "three", "three"),
        ("integer", "", ""),
        ("integer", '"5"', '"5"'),
        ("number", "2.50", 2.5),
        ("number", "3", 3),
        ("number", "NaN", "NaN"),
        ("number", "-Infinity", "-Infinity"),
        ("boolean", "true", True),
        ("boolean", "False", False),
        ("boolean", "yes", "yes"),
        ("boolean", "1", 1),
        ("null", "None", None),
        ("object", '{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ("object", "{'it\\'s': 'say \"x\"', 'n': None, \"T\": True,}", {"it's": 'say "x"', "n": None, "T": True}),
        ("object", "{'None, True': 'None', \"it's\": [False, ]}", {"None, True": "None", "it's": [False]}),
        ("object", "{'a': '\\n\\\\'}", {"a": "\n\\"}),
        ("object", "{'a': }", "{'a': }"),
        ("object", "[1]", [1]),
        ("array", "[1, 2,\n]", [1, 2]),
        ("array", "a, b", "a, b"),
        ("array", DEEP, DEEP),
        ("array", '["\\ud800", "\\ud83d\\ude00"]', ["\ufffd", "\U0001f600"]),
        ("number", "1E309", 1.7976931348623157e308),
        ("array", "[-1e999, 2e3]", [-1.7976931348623157e308, 2000.0]),
        ("integer", "1e400", int(1.7976931348623157e308)),
        ("integer", "-" + "9" * 5000, -int(1.7976931348623157e308)),
        ("integer", "-0", 0),
        ("number", "-0.0", 0.0),
        ("array", "[" * 90 + "]" * 90, json.loads("[" * 90 + "]" * 90)),
        ("array", "[" * 150 + "]" * 150, "[" * 150 + "]" * 150),
        ("object", '{"a": 1, "a": 2}', {"a": 2}),
        # Several types: what can be read as one of them, else text
        ("string integer", "12", 12),
        ("string integer", "12.5", "12.5"),
        ("string integer", "12 monkeys", "12 monkeys"),
        ("string integer", '"12"', '"12"'),
        ("string null", "null", None),
        ("string null", "None", None),
        ("string null", "none", "none"),
        ("string null", "", ""),
        ("string boolean", "True", True),
        ("string array", "['a']", ["a"]),
        ("string array", "[a]", "[a]"),
        ("integer null", "None", None),
        ("integer number", "2.0", 2.0),
        # Nothing known
        ("string object array", "3", "3"),
        ("string object array", "true", "true"),
        ("string object array", '{"a": 1}', {"a": 1}),
        ("string object array", "{not json}", "{not json}"),
    ],
)
def test_values(kinds, text, wanted):
    made = to_json(text, frozenset(kinds.split()))
    assert json.loads(made) == wanted
    assert type(json.loads(made)) is type(wanted)
    made.encode()


KINDS = st.frozensets(st.sampled_from(ALL), min_size=1)
TEXTS = st.sampled_from(
    ["null", "None", "true", "False", "nul", "T", "12", "-", ".5", "e", "+", "{", "}", "[", "]", "'", '"', "\\", ",",
     ":", " ", "\n", "\t", "a", "é", "١", "(", "NaN", "1e999"]
)  # fmt: skip
TEXT = st.one_of(st.text(max_size=20), st.lists(TEXTS, max_size=8).map("".join))


@settings(max_examples=3000, deadline=None)
@given(text=TEXT, kinds=KINDS)
@example(text="{" * 50_000, kinds=frozenset({"object"}))
def test_every_text_has_a_value_and_text_is_known_as_such_early(text, kinds):
    value = json.loads(to_json(text, kinds), parse_constant=pytest.fail)
    if isinstance(value, str):
        assert value == text
    if kinds == STRING:
        assert value == text
    decided = [is_text(text[:length], kinds) for length in range(min(len(text), 50) + 1)]
    known = [verdict for verdict in decided if verdict is not None]
    assert len(set(known)) <= 1
    assert all(verdict is not None for verdict in decided[len(decided) - len(known) :])
    if True in known:
        assert value == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(value=st.dictionaries(st.text(), JSON) | st.lists(JSON))
def test_json_comes_back(value):
    assert json.loads(to_json(json.dumps(value), frozenset({"object", "array"}))) == value


PLAIN = st.text(st.sampled_from("ab'\"\\ \n,]}é:TrueNone"), max_size=8)
PYTHON = st.recursive(
    st.none() | st.booleans() | st.integers() | PLAIN,
    lambda inner: st.lists(inner) | st.dictionaries(PLAIN, inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(value=st.dictionaries(PLAIN, PYTHON) | st.lists(PYTHON))
def test_python_comes_back(value):
    assert json.loads(to_json(repr(value), frozenset({"object", "array"}))) == value

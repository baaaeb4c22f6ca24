"""JSON under a schema: sampled texts are valid, valid texts are possible, and unsupported keywords are named."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from guided_kit import fits, write
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import OptionError
from pocketvlm.guided import Grammars

STRICT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "of the thing"},
        "kind": {"type": "string", "enum": ["cat", "dog", "größer"]},
        "box": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
        "parent": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        "count": {"type": ["integer", "null"], "minimum": -3, "exclusiveMaximum": 12},
        "day": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-\\d+$"},
        "child": {"$ref": "#"},
    },
    "required": ["name", "kind", "box", "parent", "count", "day", "code"],
    "additionalProperties": False,
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"value": {"const": 3}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
}
NAMES = st.sampled_from(["a", "b", "käse", 'with "quotes"', "x y", "</think>"])


def integers() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-200, 200), st.integers(0, 300))
    return bounds.map(lambda pair: {"type": "integer", "minimum": pair[0], "maximum": sum(pair)})


def texts() -> st.SearchStrategy[dict[str, Any]]:
    lengths = st.tuples(st.integers(0, 4), st.integers(0, 6))
    return st.one_of(
        lengths.map(lambda pair: {"type": "string", "minLength": pair[0], "maxLength": sum(pair)}),
        st.sampled_from(["^[a-f]{2,5}$", "ab|c", "^\\d\\d?(\\.\\d+)?$", "[^\\s]"]).map(
            lambda pattern: {"type": "string", "pattern": pattern}
        ),
        st.sampled_from(["date", "uuid", "ipv4"]).map(lambda name: {"type": "string", "format": name}),
    )


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(NAMES, inner, max_size=4).flatmap(
        lambda properties: st.builds(
            lambda required, others: {
                "type": "object",
                "properties": properties,
                "required": sorted(required),
                "additionalProperties": others,
            },
            st.sets(st.sampled_from(sorted(properties))) if properties else st.just(set()),
            st.one_of(st.just(False), inner),
        )
    )


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5))
LEAVES = st.one_of(
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": "number", "minimum": 0}, {"type": "string"}]),
    integers(),
    texts(),
    st.lists(SCALARS, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    SCALARS.map(lambda value: {"const": value}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        arrays(inner), objects(inner), st.lists(inner, min_size=1, max_size=3).map(lambda ways: {"anyOf": ways})
    ),
    max_leaves=6,
)


def valid(schema: object) -> Any:
    """A judge of whole texts."""
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())

    def judge(text: str) -> bool:
        try:
            return bool(validator.is_valid(json.loads(text)))
        except json.JSONDecodeError:
            return False

    return judge


@settings(max_examples=80, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 1000))
def test_any_draw_under_any_schema_is_valid(grammars: Grammars, schema: dict[str, Any], seed: int) -> None:
    write(grammars.json_schema(schema), seed, valid(schema))


@pytest.mark.parametrize("seed", range(10))
def test_the_strict_subset_with_references_and_recursion(grammars: Grammars, seed: int) -> None:
    value = json.loads(write(grammars.json_schema(STRICT), seed, valid(STRICT)))
    assert [name for name in STRICT["properties"] if name in value] == list(value)


VALUE = {
    "name": 'a\n"b"',
    "kind": "größer",
    "box": [1, 2.5],
    "parent": {"value": 3, "next": None},
    "count": None,
    "day": "2024-02-29",
    "code": "AB-12",
}


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (", ", ":"), (",", ": ")])
def test_json_on_one_line(grammars: Grammars, separators: tuple[str, str]) -> None:
    grammar = grammars.json_schema(STRICT)
    text = json.dumps(VALUE, ensure_ascii=False, separators=separators)
    assert fits(grammar, text)
    for wrong in (text.replace(",", ",  "), text.replace("{", "{ "), text.replace("]", " ]"), f" {text}", f"{text}\n"):
        assert not fits(grammar, wrong)
    assert not fits(grammar, json.dumps(VALUE, ensure_ascii=False, indent=2))
    assert not fits(grammar, json.dumps({**VALUE, "kind": "cow"}, ensure_ascii=False))
    assert not fits(grammar, json.dumps({**VALUE, "more": 1}, ensure_ascii=False))


@pytest.mark.parametrize("indent", [None, 2, 8])
def test_indented_json_where_it_is_asked_for(grammars: Grammars, indent: int | None) -> None:
    grammar = grammars.json_schema(STRICT, pretty=True)
    assert fits(grammar, json.dumps(VALUE, indent=indent, ensure_ascii=False))
    assert fits(grammar, json.dumps(VALUE, indent=indent, ensure_ascii=False, separators=(",", ":")))
    assert not fits(grammar, json.dumps(VALUE, ensure_ascii=False).replace(", ", ",  "))
    assert not fits(grammar, json.dumps(VALUE, indent=40, ensure_ascii=False))
    assert not fits(grammar, json.dumps(VALUE, indent=2, ensure_ascii=False).replace("\n", "\n\n"))


@pytest.mark.parametrize("seed", range(40))
def test_one_short_value_needs_few_tokens(grammars: Grammars, seed: int) -> None:
    schema = {"type": "object", "properties": {"colour": {"const": "red"}}, "required": ["colour"]}
    text = write(grammars.json_schema(schema), seed, valid(schema), long=10_000)
    assert json.loads(text) == {"colour": "red"}
    assert len(text) <= len('{"colour": "red"}')


@pytest.mark.parametrize("seed", range(5))
def test_any_object(grammars: Grammars, seed: int) -> None:
    assert isinstance(json.loads(write(grammars.json_object(), seed, valid({"type": "object"}))), dict)
    assert not fits(grammars.json_object(), "[1]")


def test_json_after_thinking(grammars: Grammars) -> None:
    grammar = grammars.json_schema({"const": {"a": 1}}, thinking=True)
    text = write(grammar, 1, lambda text: "</think>\n\n" in text, ["</think>"])
    thought, end, answer = text.partition("</think>\n\n")
    assert thought
    assert end
    assert json.loads(answer) == {"a": 1}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "not": {"const": "a"}}, '"not"'),
        ({"if": {"type": "string"}, "then": {"minLength": 2}}, '"if", "then"'),
        ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, '"uniqueItems"'),
        ({"type": "array", "contains": {"const": 1}}, '"contains"'),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, '"propertyNames"'),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, '"dependentRequired"'),
        ({"type": "object", "unevaluatedProperties": False}, '"unevaluatedProperties"'),
        ({"oneOf": [{"type": "string"}, {"minLength": 2, "type": "string"}]}, '"oneOf"'),
        ({"type": "string", "format": "binary"}, "\"format\": 'binary'"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "nothing satisfies it: minLength 3"),
        ({"type": "text"}, "text"),
        ({"$ref": "#/$defs/none"}, "/\\$defs/none"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"$ref": "#"}, "\"\\$ref\": '#' refers to itself without end"),
        ({"enum": []}, "nothing satisfies it"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "property 'a' is required, but"),
        ({"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 5}, "no number lies between 1 and 4"),
        ({"const": 2**53 + 1}, "the number 9007199254740993 cannot be written exactly"),
        ({"type": "number", "minimum": 1e300}, '"minimum": numbers beyond'),
        ({"type": "object", "additionalProperties": {}, "minProperties": 2}, '"minProperties": 2 cannot be enforced'),
        ({"properties": {"a": 1}}, "a schema must be an object or a Boolean, not 1"),
        ({"anyOf": [None]}, "a schema must be an object or a Boolean, not None"),
        ({"required": "a"}, "\"required\" must be a list of names, not 'a'"),
        ({"maxLength": -1}, '"maxLength" must be a whole number of at least 0'),
        ({"multipleOf": 0}, '"multipleOf" must be a number above 0'),
        (False, "must be an object, not False"),
        ([1], "must be an object"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": {1, 2}}, "not JSON"),
        ({"not": {}, "x-guidance": {"lenient": True}}, '"not"'),
    ],
)
def test_what_cannot_be_enforced_is_named(grammars: Grammars, schema: Any, named: str) -> None:
    with pytest.raises(OptionError, match=f"^json schema.*{named}") as caught:
        grammars.json_schema(schema)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "good", "bad"),
    [
        ({"exclusiveMinimum": 2, "maximum": 2.5}, ["2.1", "2.5"], ["2", "2.0", "2.6"]),
        ({"exclusiveMinimum": 2, "maximum": 3.5}, ["2.1", "3"], ["2", "2.0"]),
        ({"minimum": -2.5, "exclusiveMaximum": -2}, ["-2.1", "-2.5"], ["-2", "-2.0"]),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, ["0.1", "0.001"], ["0", "0.0", "-0", "1", "1.0"]),
        ({"exclusiveMinimum": -0.5, "exclusiveMaximum": 0}, ["-0.1"], ["0", "-0", "-0.0", "-0.5"]),
        ({"exclusiveMinimum": -0.5, "exclusiveMaximum": 0.5}, ["0", "0.1", "-0.1"], ["-0.5", "0.5"]),
    ],
)
def test_exclusive_limits(grammars: Grammars, limits: dict[str, float], good: list[str], bad: list[str]) -> None:
    grammar = grammars.json_schema({"type": "number", **limits})
    assert [text for text in [*good, *bad] if fits(grammar, text)] == good
    with pytest.raises(OptionError, match="no number lies between"):
        grammars.json_schema({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-20})

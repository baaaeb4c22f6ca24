"""Rewritten schemas: closed after everything is merged, without annotations or parts that nothing satisfies."""

from __future__ import annotations

from typing import Any

import pytest

from pocketvlm.errors import OptionError
from pocketvlm.guided.schemas import closed_schema

INT, TEXT = {"type": "integer"}, {"type": "string"}
A = {"type": "object", "properties": {"a": INT}, "required": ["a"]}
B = {"properties": {"b": TEXT}}
SELF = {"$ref": "#"}


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """A closed object as the result has it."""
    found: dict[str, Any] = {"type": "object"}
    if properties:
        found["properties"] = properties
    if required:
        found["required"] = list(required)
    return {**found, "additionalProperties": False}


def values(*given: Any) -> dict[str, Any]:
    return {"enum": list(given)}


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "object"}, {"type": "object"}),
        ({}, {}),
        ({"title": "anything", "x-order": 1}, {}),
        ({"type": "object", "properties": {}}, closed({})),
        (A, closed({"a": INT}, "a")),
        ({**A, "additionalProperties": True}, {"type": "object", "properties": {"a": INT}, "required": ["a"]}),
        ({**A, "additionalProperties": INT}, {**closed({"a": INT}, "a"), "additionalProperties": INT}),
        (
            {"type": "object", "additionalProperties": B},
            {"type": "object", "additionalProperties": closed({"b": TEXT})},
        ),
        # Names in "required" are named
        ({**A, "required": ["a", "c"]}, closed({"a": INT, "c": True}, "a", "c")),
        # Merged first, closed then
        ({"allOf": [A, B]}, closed({"a": INT, "b": TEXT}, "a")),
        ({"allOf": [{"$ref": "#/$defs/A"}, B], "$defs": {"A": A}}, closed({"a": INT, "b": TEXT}, "a")),
        ({"$ref": "#/$defs/A", **B, "$defs": {"A": A}}, closed({"a": INT, "b": TEXT}, "a")),
        ({**B, "$ref": "#/$defs/A", "$defs": {"A": A}}, closed({"b": TEXT, "a": INT}, "a")),
        (
            {"allOf": [A, {**B, "additionalProperties": INT}]},
            {**closed({"a": INT, "b": TEXT}, "a"), "additionalProperties": INT},
        ),
        (
            {**A, "anyOf": [B, {"required": ["c"]}]},
            {"anyOf": [closed({"a": INT, "b": TEXT}, "a"), closed({"a": INT, "c": True}, "a", "c")]},
        ),
        ({"type": "array", "items": A}, {"type": "array", "items": closed({"a": INT}, "a")}),
        (
            {"type": "array", "items": [A], "additionalItems": False},
            {"type": "array", "items": False, "prefixItems": [closed({"a": INT}, "a")]},
        ),
        # One part allows what another one lists
        (
            {"allOf": [{**A, "patternProperties": {"^x": INT}}, B]},
            {**closed({"a": INT, "b": TEXT}, "a"), "patternProperties": {"^x": INT}},
        ),
        # Types that the keywords mean
        ({"minLength": 2}, {"type": "string", "minLength": 2}),
        ({"properties": {"a": INT}}, closed({"a": INT})),
        # Values
        ({"enum": ["a", "b", "a", 1, 1.0], "const": "b"}, values("b")),
        ({"type": ["string", "null"], "enum": ["a", None, 3]}, {"anyOf": [values(None), values("a")]}),
        ({"enum": [1, 5, 9], "minimum": 2, "maximum": 8}, values(5)),
        ({"enum": [{"a": 1}, {"a": "x"}, {"b": 1}], **A}, values({"a": 1})),
        ({"oneOf": [values(1, 2), values(2, 3)]}, {"anyOf": [values(1), values(3)]}),
        # Numbers
        (
            {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
            {**INT, "minimum": 1024 - 2**63, "maximum": 2**63 - 1024},
        ),
        ({"type": "number", "minimum": 3, "exclusiveMinimum": True}, {"type": "number", "exclusiveMinimum": 3}),
        (
            {"allOf": [{"minimum": 2}, {"exclusiveMinimum": 2}, {"maximum": 7}, INT]},
            {**INT, "exclusiveMinimum": 2, "maximum": 7},
        ),
        # What says nothing, and what nothing satisfies
        ({**A, "required": None, "anyOf": None, "description": None}, closed({"a": INT})),
        ({"type": "object", "properties": None}, {"type": "object"}),
        ({"type": "object", "properties": {"a": None}}, closed({"a": True})),
        ({"type": ["integer"], "enum": None, "minimum": None}, INT),
        ({"const": None}, values(None)),
        ({"type": "array", "items": INT, "uniqueItems": False}, {"type": "array", "items": INT}),
        ({"type": "object", "propertyNames": TEXT}, {"type": "object"}),
        ({"properties": {"a": INT, "b": {"enum": []}}}, closed({"a": INT})),
        ({"properties": {"b": {"type": "array", "items": SELF, "minItems": 1}}, "required": ["b"]}, None),
        ({"anyOf": [{"type": "integer", "minimum": 2, "maximum": 1}, TEXT]}, TEXT),
        ({"type": "object", "properties": {"a": INT}, "minProperties": 2}, None),
        ({"allOf": [INT, TEXT]}, None),
    ],
)
def test_what_becomes_of_a_schema(schema: dict[str, Any], wanted: dict[str, Any] | None) -> None:
    if wanted is None:
        with pytest.raises(OptionError, match=r"^s: nothing satisfies it: "):
            closed_schema(schema, "s")
    else:
        assert closed_schema(schema, "s") == wanted


def branch(tag: str, **more: Any) -> dict[str, Any]:
    """A branch of a discriminated union, whose tag has a default, as pydantic writes it."""
    return {"type": "object", "title": tag, "properties": {"kind": {"const": tag, "default": tag}, "x": INT}, **more}


@pytest.mark.parametrize("keyword", ["oneOf", "anyOf"])
def test_a_union_with_a_discriminator(keyword: str) -> None:
    mapping = {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}
    union = {
        keyword: [{"$ref": to} for to in mapping.values()],
        "discriminator": {"propertyName": "kind", "mapping": mapping},
    }
    found = closed_schema(
        {"properties": {"pet": union}, "$defs": {"Cat": branch("cat"), "Dog": branch("dog", required=["kind"])}}, "s"
    )
    always = ["kind"] if keyword == "oneOf" else []  # without it, readers of the union do not know the branch
    cat = closed({"kind": values("cat"), "x": INT}, *always)
    assert found == closed({"pet": {"anyOf": [cat, closed({"kind": values("dog"), "x": INT}, "kind")]}})


def test_branches_told_apart_by_what_they_require() -> None:
    schema = {"properties": {"a": INT, "b": TEXT}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert closed_schema(schema, "s") == {"anyOf": [closed({"a": INT}, "a"), closed({"b": TEXT}, "b")]}


@pytest.mark.parametrize(
    "branches",
    [[{}, {}], [A, A], [INT, {"type": "number"}], [TEXT, {"minLength": 2}], [{"required": ["a"]}, {"type": "object"}]],
)
def test_branches_that_may_overlap_are_refused(branches: list[Any]) -> None:
    with pytest.raises(OptionError, match=r'^s: keyword "oneOf" is enforced only where'):
        closed_schema({"oneOf": branches}, "s")


@pytest.mark.parametrize(
    "schema",
    [
        SELF,
        {"allOf": [SELF]},
        {"anyOf": [TEXT, SELF]},
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"anyOf": [{"$ref": "#/$defs/a"}]}]}},
        },
        {"properties": {"k": {"$ref": "#/$defs/e"}}, "$defs": {"e": {"title": "e", "$ref": "#/$defs/e"}}},
    ],
)
def test_a_reference_to_itself_alone_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="refers to itself without end"):
        closed_schema(schema, "s")


def test_recursion_that_goes_on_and_that_cannot_end() -> None:
    tree = {"type": "object", "properties": {"value": INT, "next": SELF, "all": {"type": "array", "items": SELF}}}
    found = closed_schema(tree, "s")
    inner = closed({"value": INT, "next": {"$ref": "#/$defs/1"}, "all": {"$ref": "#/$defs/2"}})
    assert found == {**inner, "$defs": {"1": inner, "2": {"type": "array", "items": {"$ref": "#/$defs/1"}}}}
    with pytest.raises(OptionError, match="nothing satisfies it: property 'next' is required, but nothing satisfies"):
        closed_schema({**tree, "required": ["next"]}, "s")


def test_both_sides_of_a_recursive_conjunction_go_on() -> None:
    inner = {name: {"properties": {"next": {"$ref": f"#/$defs/{name}"}, name: INT}} for name in ("a", "b")}
    found = closed_schema({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": inner}, "s")
    assert set(found["properties"]) == {"next", "a", "b"}
    assert set(found["$defs"]["1"]["properties"]) == {"next", "a", "b"}


@pytest.mark.parametrize("reference", ["#/$defs/x~1y", "#/%24defs/x~1y", "#name", "https://example.com/s#/$defs/x~1y"])
def test_places_of_references(reference: str) -> None:
    schema = {"$id": "https://example.com/s", "$ref": reference, "$defs": {"x/y": {"$anchor": "name", **INT}}}
    assert closed_schema(schema, "s") == INT


def test_errors_say_where() -> None:
    schema = {"properties": {"a": {"type": "array", "items": {"anyOf": [{"not": {}}, INT]}}}}
    with pytest.raises(
        OptionError, match=r"^s: property 'a', items: keyword \"not\" cannot be enforced; leave it out$"
    ):
        closed_schema(schema, "s")


def doubled(last: Any, depth: int = 60) -> dict[str, Any]:
    """Definitions each of which names the next one twice."""
    inner: dict[str, Any] = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": {**inner, f"d{depth}": last}}


@pytest.mark.parametrize("schema", [doubled(False), doubled(INT), {**doubled(INT), "enum": [1, 2]}, doubled(A, 11)])
def test_schemas_that_grow_without_bound_are_refused_in_time(schema: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="make it smaller"):
        closed_schema(schema, "s")

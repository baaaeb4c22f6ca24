"""Random JSON schemas: references and cycles, combinations, annotations, nulls, and unsupported keywords."""

from __future__ import annotations

import random
from typing import Any

NAMES = ["a", "b", "kind", "käse", 'with "quotes"', "x y", "</think>"]
TEXTS = ["a", "b", "cat", "größer", "", "line\nbreak", "1"]
SCALARS: list[Any] = [None, True, False, 0, 1, -7, 2.5, 1.0, *TEXTS]
VALUES: list[Any] = [*SCALARS, [], [1, "a"], {}, {"a": 1}, {"kind": "cat", "b": [None]}]
NOTES: dict[str, Any] = {
    "title": "Title",
    "description": "text",
    "default": 1,
    "examples": [1],
    "$comment": "c",
    "deprecated": True,
    "readOnly": True,
    "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/d0"}},
    "markdownDescription": "*text*",
    "x-order": 3,
    "contentMediaType": "text/plain",
    "nullable": False,
    "unknown": {"type": "nothing", "required": 3},
}
NULLS = ["required", "properties", "enum", "description", "items", "minimum", "type", "anyOf", "pattern", "$ref"]
REFUSED: dict[str, Any] = {
    "not": {"type": "string"},
    "uniqueItems": True,
    "if": {"type": "string"},
    "contains": {"const": 1},
    "propertyNames": {"pattern": "a"},
    "dependentRequired": {"a": ["b"]},
    "unevaluatedProperties": False,
    "format": "unheard-of",
}


class RandomSchemas:
    """Draws schemas. Without `opened`, every subschema names a type or values, and every object its properties."""

    def __init__(self, draw: random.Random, *, opened: bool = True, refused: bool = True) -> None:
        self.draw = draw
        self.opened = opened
        self.refused = refused
        self.definitions: list[str] = []

    def root(self) -> dict[str, Any]:
        """A whole schema with definitions, some of which refer to each other."""
        self.definitions = [f"d{number}" for number in range(self.draw.randrange(4))]
        schema = self.schema(3)
        inner = {name: self.schema(2) for name in self.definitions}
        return {**schema, "$defs": inner} if inner else schema

    def schema(self, depth: int) -> dict[str, Any]:
        """A schema with notes and nulls."""
        found = self.plain(depth)
        items = list(found.items())
        for name in self.draw.sample(sorted(NOTES), self.draw.choice([0, 0, 1, 2])):
            items.insert(self.draw.randrange(len(items) + 1), (name, NOTES[name]))
        if self.chance(0.1):
            items = [(name, None) for name in self.draw.sample(NULLS, 2) if name not in found] + items
        if self.refused and self.chance(0.01):
            items.append(self.draw.choice(sorted(REFUSED.items())))
        return dict(items)

    def plain(self, depth: int) -> dict[str, Any]:
        draw = self.draw
        makers = [self.number, self.text, self.values, lambda: {"type": draw.choice(["null", "boolean"])}]
        makers += [dict] * self.opened
        if depth > 0:
            makers += [lambda: self.object(depth), lambda: self.array(depth), lambda: self.combined(depth)] * 3
        if self.definitions:
            makers += [self.reference] * 4
        found: dict[str, Any] = draw.choice(makers)()
        if depth > 0 and self.chance(0.15):
            found = {**found, **draw.choice([self.reference, lambda: self.combined(depth), self.values, self.text])()}
        return found

    def number(self) -> dict[str, Any]:
        draw = self.draw
        found: dict[str, Any] = {"type": draw.choice(["integer", "number", ["integer", "null"]])}
        for keyword in draw.sample(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], draw.randrange(3)):
            found[keyword] = draw.choice([draw.randint(-9, 9), draw.randint(-99, 99) / 4, -(2**63), 2**63 - 1, 1e-3])
        if self.chance(0.2):
            found["multipleOf"] = draw.choice([2, 0.5])
        return found

    def text(self) -> dict[str, Any]:
        draw = self.draw
        found: dict[str, Any] = self.typed("string")
        for keyword in draw.sample(["minLength", "maxLength"], draw.randrange(3)):
            found[keyword] = draw.randrange(8)
        if self.chance(0.3):
            found["pattern"] = draw.choice(["^[a-f]{2,5}$", "ab|c", "^\\d+$", "[^\\s]", "^$"])
        return found

    def values(self) -> dict[str, Any]:
        draw = self.draw
        return draw.choice([{"const": draw.choice(VALUES)}, {"enum": draw.choices(VALUES, k=draw.randrange(4))}])

    def array(self, depth: int) -> dict[str, Any]:
        draw = self.draw
        found: dict[str, Any] = self.typed("array")
        if not self.opened or self.chance(0.8):
            found["items"] = self.schema(depth - 1) if self.chance(0.9) else False
        if self.chance(0.3):
            found["prefixItems"] = [self.schema(depth - 1) for _ in range(draw.randrange(1, 3))]
        for keyword in draw.sample(["minItems", "maxItems"], draw.randrange(3)):
            found[keyword] = draw.randrange(4)
        return found

    def object(self, depth: int) -> dict[str, Any]:
        draw = self.draw
        names = draw.sample(NAMES, draw.randrange(4))
        found: dict[str, Any] = self.typed("object")
        found["properties"] = {name: self.schema(depth - 1) for name in names}
        if self.chance(0.6):
            others = NAMES if self.opened and self.chance(0.1) else names
            found["required"] = draw.sample(others, draw.randrange(len(names) + 1))
        if self.chance(0.2):
            found["additionalProperties"] = False
        if self.opened and self.chance(0.2):
            found["additionalProperties"] = draw.choice([True, self.schema(depth - 1)])
        if self.opened and self.chance(0.1):
            found["patternProperties"] = {draw.choice(["^p", "b$"]): self.schema(depth - 1)}
        if self.opened and self.chance(0.1):
            del found["properties"]
        if self.chance(0.1):
            found[draw.choice(["minProperties", "maxProperties"])] = draw.randrange(3)
        return found

    def combined(self, depth: int) -> dict[str, Any]:
        keyword = self.draw.choice(["anyOf", "oneOf", "allOf"])
        if keyword == "oneOf" and self.chance(0.7):
            return {keyword: [self.tagged(depth, tag) for tag in ("cat", "dog", 3)[: self.draw.randrange(2, 4)]]}
        count = self.draw.randrange(1, 4)
        if keyword == "allOf" and self.chance(0.7):
            return {keyword: [self.object(depth) for _ in range(count)]}
        return {keyword: [self.schema(depth - 1) for _ in range(count)]}

    def tagged(self, depth: int, tag: Any) -> dict[str, Any]:
        """One branch of a discriminated union."""
        found = self.object(depth)
        found["properties"] = {"kind": {"const": tag}, **found.get("properties", {})}
        found["properties"]["kind"] = {"const": tag}
        return found

    def typed(self, name: str) -> dict[str, Any]:
        return {"type": name} if not self.opened or self.chance(0.9) else {}

    def reference(self) -> dict[str, Any]:
        return {"$ref": self.draw.choice(["#", *(f"#/$defs/{name}" for name in self.definitions * 3)])}

    def chance(self, part: float) -> bool:
        return self.draw.random() < part


def names_of(schema: Any) -> set[str]:
    """Every name that a schema gives to a property, in its constant values, too."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            found |= set(part)
            required = part.get("required")
            found |= set(required) if isinstance(required, list) else set()
            waiting += part.values()
    return found


def keys_of(value: Any) -> set[str]:
    """Every key in a JSON value."""
    found: set[str] = set()
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            found |= set(part)
            waiting += part.values()
    return found


# Blanks of ECMA-262, whose expressions JSON schemas use. Python's own class has U+001C to U+001F too.
BLANKS = "\\t\\n\\v\\f\\r \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff"


def clean(schema: Any) -> Any:
    """A schema as the validator understands it: without keywords that are null, and with ECMA's blanks."""
    if isinstance(schema, list):
        return [clean(part) for part in schema]
    if schema == "[^\\s]":
        return f"[^{BLANKS}]"
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in ("const", "enum", "default", "examples") else clean(value)
        for key, value in schema.items()
        if value is not None or key == "const"
    }

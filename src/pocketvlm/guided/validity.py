"""`valid` says whether a JSON value satisfies a schema, or that only the grammar library can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.guided.keywords import Keywords, SchemaReader, identity, kind

DEPTH = 100  # of subschemas that apply to one value, and of values inside each other


def valid(reader: SchemaReader, schema: Any, value: Any, depth: int = 0) -> bool | None:
    """Whether a schema allows a value; None where that depends on `pattern` or `format`. Raises OptionError."""
    if depth > DEPTH:
        raise OptionError('it is nested too deeply, or a "$ref" refers to itself without end')
    keywords = reader.keywords(schema)
    if isinstance(keywords, bool):
        return keywords
    found = [asserts(keywords, value), _parts(reader, keywords, value, depth + 1)]
    if "$ref" in keywords:
        found.append(valid(reader, reader.target(keywords["$ref"]), value, depth + 1))
    found += [valid(reader, one, value, depth + 1) for one in keywords.get("allOf", ())]
    if "anyOf" in keywords:
        ways = [valid(reader, one, value, depth + 1) for one in keywords["anyOf"]]
        found.append(True if True in ways else None if None in ways else False)
    if "oneOf" in keywords:
        ways = [valid(reader, one, value, depth + 1) for one in keywords["oneOf"]]
        sure = ways.count(True)
        found.append(False if sure > 1 or not any(way is not False for way in ways) else None if None in ways else True)
    return every(found)


def every(found: Sequence[bool | None]) -> bool | None:
    """Whether all are true; None where that is not known."""
    return False if False in found else None if None in found else True


def asserts(keywords: Keywords, value: Any) -> bool | None:
    """Whether the keywords that look at a value as a whole allow it."""
    kinds = keywords.get("type")
    if kinds is not None and kind(value) not in kinds and not ("integer" in kinds and _is_integer(value)):
        return False
    if "enum" in keywords and identity(value) not in keywords["enum"]:
        return False
    match kind(value):
        case "number":
            return _number(keywords, value)
        case "string":
            if not _within(keywords, "Length", len(value)):
                return False
            return None if "pattern" in keywords or "format" in keywords else True
        case "array":
            return _within(keywords, "Items", len(value))
        case "object":
            return _within(keywords, "Properties", len(value)) and set(keywords.get("required", ())) <= set(value)
    return True


def fraction(value: float) -> Fraction:
    """The decimal number that a JSON number is written as."""
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def _parts(reader: SchemaReader, keywords: Keywords, value: Any, depth: int) -> bool | None:
    """Whether the keywords for items and properties allow those of a value."""
    found: list[bool | None] = []
    if isinstance(value, list):
        prefix = keywords.get("prefixItems", [])
        for index, item in enumerate(value):
            schema = prefix[index] if index < len(prefix) else keywords.get("items", True)
            found.append(valid(reader, schema, item, depth))
    elif isinstance(value, Mapping):
        properties = keywords.get("properties", {})
        for name, inner in value.items():
            if name in properties:
                found.append(valid(reader, properties[name], inner, depth))
            elif "patternProperties" not in keywords:
                found.append(valid(reader, keywords.get("additionalProperties", True), inner, depth))
            if "patternProperties" in keywords:
                found.append(None)
    return every(found)


def _number(keywords: Keywords, value: float) -> bool:
    exact = fraction(value)
    bounds = {key: fraction(keywords[key]) for key in keywords if "imum" in key}
    return not (
        ("minimum" in bounds and exact < bounds["minimum"])
        or ("maximum" in bounds and exact > bounds["maximum"])
        or ("exclusiveMinimum" in bounds and exact <= bounds["exclusiveMinimum"])
        or ("exclusiveMaximum" in bounds and exact >= bounds["exclusiveMaximum"])
        or ("multipleOf" in keywords and (exact / fraction(keywords["multipleOf"])).denominator != 1)
    )


def _within(keywords: Keywords, what: str, size: int) -> bool:
    limit = keywords.get(f"max{what}")
    return bool(keywords.get(f"min{what}", 0) <= size and (limit is None or size <= limit))


def _is_integer(value: Any) -> bool:
    return kind(value) == "number" and (isinstance(value, int) or value.is_integer())

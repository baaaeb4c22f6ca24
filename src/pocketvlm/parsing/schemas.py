"""The JSON types of a tool's parameters are read from its schema.

Only keywords that decide how a written value is read count: `type` (one or several), `enum`, `const`, `anyOf`, `oneOf`,
`allOf`, `$ref` inside the schema, `nullable`, and keywords that belong to one type. Values are not validated.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from pocketvlm.errors import OptionError

Types = frozenset[str]
STRING: Types = frozenset({"string"})
# Types of a schema without types: text, unless the whole value is an object or a list. A lone 3 or true stays text.
UNTYPED: Types = frozenset({"string", "object", "array"})

_NAMES = {name: name for name in ("string", "integer", "number", "boolean", "null", "object", "array")}
# Type names of other languages, which hand-written tools use.
_NAMES |= {"str": "string", "int": "integer", "float": "number", "double": "number", "bool": "boolean"}
_NAMES |= {"dict": "object", "list": "array", "tuple": "array"}
_IMPLIED = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_DEPTH = 32  # maximum nesting of $ref, anyOf and the like


class Signature:
    """The parameters of one tool."""

    def __init__(self, parameters: Any = None) -> None:
        """parameters: a JSON schema of an object; anything else says nothing."""
        self._root = parameters
        self._known: dict[int, Types | None] = {}

    def knows(self, name: str) -> bool:
        """Whether the schema lists a parameter of this name."""
        return bool(self._listed(self._root, name))

    def types(self, name: str) -> Types:
        """JSON types that a parameter may have; never empty."""
        found = [self._types(schema) or UNTYPED for schema in self._listed(self._root, name)]
        if not found and isinstance(self._root, Mapping):
            found = [self._types(self._root.get("additionalProperties")) or UNTYPED]
        return frozenset().union(*found) or UNTYPED

    def _listed(self, schema: Any, name: str) -> list[Mapping[str, Any]]:
        """The schemas of a parameter, including those of alternatives and references."""
        found: list[Mapping[str, Any]] = []
        waiting, seen = [schema], set[int]()
        while waiting:
            part = waiting.pop()
            if not isinstance(part, Mapping) or id(part) in seen:
                continue
            seen.add(id(part))
            properties = part.get("properties")
            if isinstance(properties, Mapping) and name in properties:
                own = properties[name]
                found.append(own if isinstance(own, Mapping) else {})
            waiting += [
                self._target(part),
                *(other for key in ("allOf", "anyOf", "oneOf") for other in _list(part, key)),
            ]
        return found

    def _types(self, schema: Any, depth: int = 0) -> Types | None:
        """The types that a schema allows, None if it says nothing about them."""
        if not isinstance(schema, Mapping) or depth > _DEPTH:
            return None
        if id(schema) not in self._known:
            self._known[id(schema)] = None  # a reference cycle finds this; also, no part is visited twice
            found = self._stated(schema, depth)
            self._known[id(schema)] = found | {"null"} if found and schema.get("nullable") is True else found
        return self._known[id(schema)]

    def _stated(self, schema: Mapping[str, Any], depth: int) -> Types | None:
        stated = schema.get("type")
        names = [stated] if isinstance(stated, str) else _list(schema, "type")
        types = frozenset(_NAMES[name] for name in names if isinstance(name, str) and name in _NAMES)
        if values := [schema["const"]] if "const" in schema else _list(schema, "enum"):
            kinds = frozenset(map(kind_of, values))
            # An enum of texts and null with the type "string" allows null as well.
            return (_common(kinds, types) or types) | (kinds & {"null"}) if types else kinds
        found = [types]
        found.append(self._types(self._target(schema), depth + 1) or frozenset())
        for key in ("anyOf", "oneOf"):
            parts = [self._types(part, depth + 1) or UNTYPED for part in _list(schema, key)]
            found.append(frozenset().union(*parts))
        found += [self._types(part, depth + 1) or frozenset() for part in _list(schema, "allOf")]
        if known := [types for types in found if types]:
            # All parts must hold; if they exclude each other, the first one counts.
            return functools.reduce(_common, known) or known[0]
        implied = frozenset(name for name, keys in _IMPLIED.items() if any(key in schema for key in keys))
        return implied or None

    def _target(self, schema: Mapping[str, Any]) -> Any:
        """The target of `$ref` inside the tool's own schema; None without `$ref` or without a target."""
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        place: Any = self._root
        for step in reference[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping):
                place = place.get(key)
            elif isinstance(place, Sequence) and not isinstance(place, str) and key.isdecimal():
                place = place[int(key)] if int(key) < len(place) else None
            else:
                return None
        return place


def signatures(tools: Sequence[Mapping[str, Any]]) -> dict[str, Signature]:
    """Name -> parameters of each tool.

    tools: {"type": "function", "function": {"name", "parameters"}}, or the inner object alone. Raises OptionError
    naming the tool that has no name.
    """
    result = {}
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise OptionError(
                f"tools[{index}] has no function name: give {{'type': 'function', 'function': {{'name': ..., "
                "'parameters': ...}}"
            )
        result[name] = Signature(function.get("parameters"))
    return result


def kind_of(value: Any) -> str:
    """The JSON type of a value that came out of JSON; whole numbers are integers, also 2.0."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def _common(one: Types, two: Types) -> Types:
    """The types in both, where integers are numbers, too."""
    whole = "integer" in one | two and one & {"integer", "number"} and two & {"integer", "number"}
    return one & two | ({"integer"} if whole else frozenset())


def _list(schema: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = schema.get(key)
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()

"""A JSON schema is read one subschema at a time: validation keywords count, annotations do not.

Unknown keywords are annotations and ignored, and so is a keyword whose value is null, except `const`. Keywords of
older drafts are translated. A validation keyword that the grammar cannot enforce raises OptionError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from pocketvlm.errors import OptionError

VISITS = 200_000  # of subschemas of one root schema
TYPES = ("null", "boolean", "number", "string", "array", "object")
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_SCHEMAS = {"anyOf", "oneOf", "allOf", "prefixItems"}
_MAPS = {"properties", "patternProperties"}
_TEXTS = {"pattern", "format", "$ref"}
_ENFORCED = _COUNTS | _NUMBERS | _SCHEMAS | _MAPS | _TEXTS
_ENFORCED |= {"type", "enum", "const", "required", "items", "additionalItems", "additionalProperties"}
_REFUSED = {
    *("not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains", "propertyNames"),
    *("dependencies", "dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems"),
    *("$dynamicRef", "$recursiveRef"),
}
# Values with which an unsupported keyword allows everything, so that it need not be refused.
_NO_LIMIT: dict[str, list[Any]] = {
    "uniqueItems": [False],
    "propertyNames": [True, {}, {"type": "string"}],
    "unevaluatedProperties": [True, {}],
    "unevaluatedItems": [True, {}],
}

Keywords = Mapping[str, Any]


class SchemaReader:
    """The subschemas of one root schema, which must not change while the reader is in use."""

    def __init__(self, root: Any) -> None:
        """root: the schema in which `$ref` is resolved."""
        self._root = root
        # The dictionary also holds the schemas, so that no other object can get their ids.
        self._known: dict[int, tuple[Any, Keywords]] = {}
        self._visits = 0

    def keywords(self, schema: Any) -> Keywords | bool:
        """The keywords of a subschema that limit something, or the Boolean that it is. Raises OptionError.

        `const` is read as `enum` with one value, a list in `items` as `prefixItems`, `type` as a list, and `enum` as a
        mapping from the identity of each value to the value.
        """
        self._visits += 1
        if self._visits > VISITS:
            raise OptionError("its parts refer to each other in too many ways; make it smaller")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise OptionError(f"a schema must be an object or a Boolean, not {shown(schema)}")
        if id(schema) not in self._known:
            self._known[id(schema)] = (schema, _read(schema))
        return self._known[id(schema)][1]

    def part(self, keywords: Keywords, without: Iterable[str]) -> Keywords:
        """Some of the keywords of a subschema, as a subschema of their own."""
        found = {key: value for key, value in keywords.items() if key not in without}
        self._known[id(found)] = (found, found)
        return found

    def target(self, reference: str) -> Any:
        """The subschema that a `$ref` names. Raises OptionError for one outside the root schema."""
        own = self._root.get("$id") if isinstance(self._root, Mapping) else None
        pointer = reference
        if isinstance(own, str) and own.rstrip("#") and reference.startswith(own.rstrip("#")):
            pointer = reference[len(own.rstrip("#")) :] or "#"
        if pointer not in ("", "#") and not pointer.startswith("#/"):
            found = list(_anchored(self._root, pointer[1:])) if pointer.startswith("#") else []
            if found:
                return found[0]
            raise OptionError(f'keyword "$ref" must be "#" or begin with "#/", as in #/$defs/NAME, not {reference!r}')
        place = self._root
        for step in unquote(pointer[1:]).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping) and key in place:
                place = place[key]
            elif isinstance(place, list) and key.isdecimal() and int(key) < len(place):
                place = place[int(key)]
            else:
                raise OptionError(f'keyword "$ref" leads nowhere: {reference!r}')
        return place


def kind(value: Any) -> str:
    """The JSON type of a value that came out of JSON; every number is a "number"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def identity(value: Any) -> str:
    """A text that is equal for values that JSON Schema takes as equal: 1 and 1.0, objects in any order."""
    return json.dumps(_plain(value), sort_keys=True)


@contextmanager
def named(what: str) -> Iterator[None]:
    """Prefixes the OptionErrors about a schema with its name."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{what}: {error}") from None
    except RecursionError:
        raise OptionError(f"{what} is nested too deeply") from None


def _anchored(schema: Any, name: str) -> Iterator[Any]:
    """The subschemas with an `$anchor` of that name."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if part.get("$anchor") == name:
                yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _read(schema: Mapping[str, Any]) -> Keywords:
    found: dict[str, Any] = {}
    refused = []
    for key, value in schema.items():
        if value is None and key != "const":
            continue
        if key in _REFUSED and not any(type(value) is type(one) and value == one for one in _NO_LIMIT.get(key, ())):
            refused.append(f'"{key}"')
        elif key in _ENFORCED:
            found[key] = _checked(key, value)
    if refused:
        many = len(refused) > 1
        raise OptionError(
            f"keyword{'s' * many} {', '.join(refused)} cannot be enforced; leave {'them' if many else 'it'} out"
        )
    _translate(found)
    return found


def _translate(found: dict[str, Any]) -> None:
    """Older drafts' keywords and `const` in the words of draft 2020-12."""
    for bound in ("Minimum", "Maximum"):
        exclusive, inclusive = f"exclusive{bound}", bound.lower()
        if isinstance(found.get(exclusive), bool) and found.pop(exclusive) and inclusive in found:
            found[exclusive] = found.pop(inclusive)
    rest = found.pop("additionalItems", None)
    if isinstance(found.get("items"), list):
        found["prefixItems"] = found.pop("items")
        if rest is not None:
            found["items"] = rest
    if "const" in found:
        alone = {"enum": [found.pop("const")]}
        if "enum" in found:  # both must hold
            found["allOf"] = [*found.get("allOf", []), alone]
        else:
            found |= alone
    if "enum" in found:
        found["enum"] = {identity(value): value for value in found["enum"]}


def _checked(key: str, value: Any) -> Any:
    """A keyword's value, if it is of the right form. Raises OptionError."""
    good, wanted = True, ""
    if key in _COUNTS:
        good, wanted = _is_number(value) and value >= 0 and value == int(value), "a whole number of at least 0"
        value = int(value) if good else value
    elif key in _NUMBERS:
        flag = key.startswith("exclusive") and isinstance(value, bool)
        good, wanted = flag or (_is_number(value) and (key != "multipleOf" or value > 0)), "a number"
        wanted += " above 0" * (key == "multipleOf")
    elif key in _SCHEMAS or key == "enum":
        good, wanted = isinstance(value, list), "a list"
    elif key in _MAPS:
        good, wanted = isinstance(value, Mapping), "an object"
        value = {name: {} if inner is None else inner for name, inner in value.items()} if good else value
    elif key in _TEXTS:
        good, wanted = isinstance(value, str), "a text"
    elif key == "required":
        good = isinstance(value, list) and all(isinstance(one, str) for one in value)
        wanted = "a list of names"
    elif key == "type":
        value = [value] if isinstance(value, str) else value
        names = isinstance(value, list) and all(isinstance(one, str) for one in value)
        unknown = [one for one in value if one not in (*TYPES, "integer")] if names else []
        if unknown:
            raise OptionError(f'keyword "type": {unknown[0]!r} is none of {", ".join(TYPES)}, integer')
        good, wanted = names, "the name of a type or a list of them"
    if not good:
        raise OptionError(f'keyword "{key}" must be {wanted}, not {shown(value)}')
    return value


def _plain(value: Any) -> Any:
    """Whole numbers as integers, everywhere."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )


def shown(value: object) -> str:
    """A value for an error: one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

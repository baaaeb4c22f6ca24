"""What a tool's parameter may be, out of its JSON schema: raw texts, or JSON under a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from pocketvlm.errors import OptionError
from pocketvlm.guided import lark

# Keywords that allow and forbid nothing.
NOTES = {
    *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "strict"),
    *("deprecated", "readOnly", "writeOnly"),
}
_COMBINED = {"$ref", "anyOf", "oneOf", "allOf", "not", "if"}
_TYPES = ("array", "boolean", "integer", "null", "number", "object")
# JSON of a type as terminals. A text beside JSON has to be one terminal with it: the lexer takes the longest match.
_WORDS = {
    "null": ['"null"'],
    "boolean": ['"true"', '"false"'],
    "integer": ["/-?(0|[1-9][0-9]*)/"],
    "number": ["/-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?/"],
}


@dataclass(slots=True)
class Value:
    """What a parameter takes: raw texts, as terminals; or JSON of a schema where there are none."""

    texts: list[str] = field(default_factory=list)
    schema: dict[str, Any] | None = None


class Values:
    """Reads the schemas of one tool's parameters."""

    def __init__(self, root: Any) -> None:
        """root: the schema of all arguments, where `$ref` leads."""
        self.root = root

    def of(self, schema: object, what: str) -> Value:
        """What a parameter's schema allows; `what` is its name for errors. Raises OptionError."""
        found = self._parts(schema, what, ())
        if lark.ANY_TEXT in found.texts:  # which is everything else, too
            return Value([lark.ANY_TEXT])
        if found.texts and found.schema is not None:
            return Value(found.texts + _words(found.schema, what))
        if found.schema is not None:
            return Value([], {**found.schema, **self._definitions(found.schema)})
        if not found.texts:
            raise OptionError(f"{what}: nothing satisfies its schema")
        return found

    def _definitions(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The definitions of all arguments, for a schema that refers to any."""
        if '"$ref"' not in json.dumps(schema):
            return {}
        return {key: self.root[key] for key in ("$defs", "definitions") if key in self.root}

    def followed(self, schema: object, what: str) -> object:
        """A schema, or what it refers to where it is nothing but a reference with notes."""
        seen = set()
        while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str):
            reference = schema["$ref"]
            if set(schema) - {"$ref"} - NOTES or reference in seen:
                break
            if not reference.startswith(("#/$defs/", "#/definitions/")):
                raise OptionError(f'{what}: "$ref" must begin with #/$defs/ or #/definitions/, not {reference!r}')
            seen.add(reference)
            schema = self.root
            for step in unquote(reference[2:]).split("/"):
                key = step.replace("~1", "/").replace("~0", "~")
                if not isinstance(schema, Mapping) or key not in schema:
                    raise OptionError(f'{what}: "$ref" leads nowhere: {reference!r}')
                schema = schema[key]
        return schema

    def _split(self, schema: object, found: Value, what: str, above: tuple[int, ...]) -> None:
        """Sort what a schema allows into raw texts and JSON."""
        schema = self.followed(schema, what)
        if schema is True:
            schema = {}
        if schema is False:
            return
        if not isinstance(schema, Mapping):
            raise OptionError(f"{what}: its schema must be an object, not {lark.shown(schema)}")
        if id(schema) in above or len(above) > 16:
            raise OptionError(f"{what}: its schema is nested without end or too deeply")
        kinds = schema.get("type", _guessed(schema))
        kinds = [kinds] if isinstance(kinds, str) else listed(kinds, "type", what)
        if not all(isinstance(kind, str) for kind in kinds):
            raise OptionError(f'{what}: "type" must name types, not {lark.shown(kinds)}')
        if "enum" in schema or "const" in schema:
            values = listed(schema["enum"], "enum", what) if "enum" in schema else [schema["const"]]
            if "string" in kinds:
                found.texts += [lark.literal(value) for value in values if isinstance(value, str)]
            rest = [value for value in values if not isinstance(value, str)]
            if rest and (others := [kind for kind in kinds if kind != "string"]):
                found.schema = {"type": others, "enum": rest}
        elif "type" not in schema and (combined := sorted(_COMBINED & set(schema))):
            keyword = combined[0]
            ways = listed(schema[keyword], keyword, what) if keyword in {"anyOf", "oneOf", "allOf"} else []
            if set(schema) - {keyword} - NOTES or not ways or (keyword == "allOf" and len(ways) != 1):
                raise OptionError(f'{what}: keyword "{keyword}" here needs a "type" beside it that is not "string"')
            self._join(keyword, [self._parts(way, what, (*above, id(schema))) for way in ways], found, what)
        else:
            if "string" in kinds:
                if combined := sorted(_COMBINED & set(schema)):
                    raise OptionError(f'{what}: keyword "{combined[0]}" is not supported for texts')
                found.texts.append(_text(schema, what))
            if others := [kind for kind in kinds if kind != "string"]:
                found.schema = {**schema, "type": others}

    def _parts(self, schema: object, what: str, above: tuple[int, ...]) -> Value:
        found = Value()
        self._split(schema, found, what, above)
        return found

    def _join(self, keyword: str, parts: Sequence[Value], found: Value, what: str) -> None:
        """Add what any of some schemas allows; `oneOf` stays with the library, which knows where they overlap."""
        if keyword == "oneOf" and sum(bool(part.texts) for part in parts) > 1:
            raise OptionError(f'{what}: keyword "oneOf" with several kinds of texts is not supported; use "anyOf"')
        found.texts += [text for part in parts for text in part.texts]
        schemas = [part.schema for part in parts if part.schema is not None]
        if schemas:
            found.schema = schemas[0] if len(schemas) == 1 else {keyword: schemas}


def listed(value: object, keyword: str, what: str) -> list[Any]:
    """A keyword's value that must be a list."""
    if not isinstance(value, list):
        raise OptionError(f'{what}: "{keyword}" must be a list, not {lark.shown(value)}')
    return value


def _guessed(schema: Mapping[str, Any]) -> list[str]:
    """The types meant by a schema that names none: by its keywords, else all of them."""
    if {"properties", "additionalProperties", "patternProperties"} & set(schema):
        return ["object"]
    if {"items", "prefixItems"} & set(schema):
        return ["array"]
    if {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"} & set(schema):
        return ["number"]
    if {"enum", "const"} & set(schema):
        return ["string", *_TYPES]
    # A text without limits can say everything else, too.
    return ["string"]


def _text(schema: Mapping[str, Any], what: str) -> str:
    """A terminal for the raw texts that a schema of the type string allows."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if not all(isinstance(bound, int) and bound >= 0 for bound in (least, 0 if most is None else most)):
        raise OptionError(f"{what}: minLength and maxLength must be whole numbers")
    length = f"{least},{'' if most is None else most}"
    text = lark.ANY_TEXT if length == "0," else f"/(?s:.){{{length}}}/"
    pattern = schema.get("pattern")
    if pattern is None:
        return text
    if not isinstance(pattern, str):
        raise OptionError(f'{what}: "pattern" must be a text, not {lark.shown(pattern)}')
    lark.dump(pattern, f'{what}: "pattern"', lark.REGEX_BYTES)
    return f"({text} & /{_searched(pattern)}/)"


def _searched(pattern: str) -> str:
    """The inside of /.../ that matches whole texts in which a pattern is found."""
    ways = []
    for way in _alternatives(pattern):
        begun, ended = way.startswith("^"), re.search(r"(?<!\\)(\\\\)*\$$", way) is not None
        core = way[begun : len(way) - ended]
        ways.append(f"{'' if begun else '(?s:.*)'}(?:{lark.regex(core)}){'' if ended else '(?s:.*)'}")
    return "|".join(ways)


def _alternatives(pattern: str) -> list[str]:
    """A pattern cut at its outermost `|`."""
    parts, depth, start = [], 0, 0
    for found in re.finditer(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()|]", pattern, re.DOTALL):
        depth += {"(": 1, ")": -1}.get(found.group(), 0)
        if found.group() == "|" and depth == 0:
            parts.append(pattern[start : found.start()])
            start = found.end()
    return [*parts, pattern[start:]]


def _words(schema: Mapping[str, Any], what: str) -> list[str]:
    """Terminals for JSON without limits or parts, which may stand beside texts. Raises OptionError for other JSON."""
    kinds = schema.get("type", [])
    if set(schema) == {"type", "enum"}:
        return [lark.literal(json.dumps(value)) for value in schema["enum"] if _kinds(value) & set(kinds)]
    if "anyOf" in schema or "oneOf" in schema:
        ways = schema.get("anyOf", schema.get("oneOf"))
        words = [word for way in ways for word in _words(way, what)]
        if "anyOf" in schema or (len(set(words)) == len(words) and not _numbers(words)):
            return words
    elif not set(schema) - {"type"} - NOTES and set(kinds) <= set(_WORDS):
        return [word for kind in kinds for word in _WORDS[kind]]
    raise OptionError(f"{what}: a text with limits can stand beside null, booleans, numbers and enum only, plain ones")


def _numbers(words: list[str]) -> bool:
    """Whether integers could be two of some terminals."""
    return {*_WORDS["integer"], *_WORDS["number"]} <= set(words)


def _kinds(value: object) -> set[str]:
    """The types, of those that a word can have, of a value."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    return {"number"} if isinstance(value, float) else {"null"} if value is None else set()

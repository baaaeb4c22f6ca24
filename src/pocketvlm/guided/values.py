"""The schema of a tool's parameter decides whether its value is raw text or JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.guided import lark
from pocketvlm.guided.cases import Case, Conjunction
from pocketvlm.guided.numbers import UNLIMITED, Range
from pocketvlm.guided.schemas import ClosedSchemas

# Terminals for JSON of a type. A text as an alternative goes into the same terminal: the lexer takes the longest match.
_WORDS = {
    "null": ['"null"'],
    "boolean": ['"true"', '"false"'],
    "integer": ["/-?(0|[1-9][0-9]{0,17})/"],
    "number": ["/-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,17})?([eE][-+]?[0-9]{1,2})?/"],
}


# Raw texts that are read as JSON of a type: wrong where the schema speaks of it, but allows none or only some values.
_BLANKS = "[ \\t\\r\\n]*"
_LOOKS_LIKE = {
    "null": f"/{_BLANKS}(null|None){_BLANKS}/",
    "boolean": f"/{_BLANKS}([tT]rue|[fF]alse){_BLANKS}/",
    "number": f"/{_BLANKS}[-+]?[0-9.]+([eE][-+]?[0-9]+)?{_BLANKS}/",
    "array": f"/{_BLANKS}\\[(?s:.*)/",
    "object": f"/{_BLANKS}\\{{(?s:.*)/",
}


@dataclass(slots=True)
class Value:
    """The values of a parameter: raw texts, as terminals, or, without any, JSON of a schema."""

    texts: list[str] = field(default_factory=list)
    schema: dict[str, Any] = field(default_factory=dict)


def value_of(closed: ClosedSchemas, conjunction: Conjunction) -> Value:
    """The values of a parameter. Raises OptionError if there are none, or if texts and JSON cannot be told apart."""
    cases = closed.cases(conjunction)
    texts = [text for case in cases if case.kind == "string" for text in _texts(case)]
    others = [case for case in cases if case.kind != "string"]
    if not conjunction or lark.ANY_TEXT in texts:  # any text includes all JSON
        return Value([lark.ANY_TEXT])
    if not cases:
        raise OptionError(closed.reason(conjunction))
    if texts:
        allowed = {case.kind for case in others if case.values is None or case.kind == "null"}
        mistaken = "".join(
            f" & ~{_LOOKS_LIKE[name]}" for name in sorted(closed.kinds(conjunction) - allowed - {"string"})
        )
        texts = [f"({text}{mistaken})" if mistaken else text for text in texts]
        return Value(texts + [word for case in others for word in _words(case)])
    return Value([], closed.schema(others))


def _texts(case: Case) -> list[str]:
    """Terminals for the raw texts of a case of the type string; its `format` is only a note."""
    patterns = [f" & /{_searched(text['pattern'])}/" for text in case.texts if "pattern" in text]
    if case.values is not None:
        return [
            f"({lark.literal(value)}{''.join(patterns)})" if patterns else lark.literal(value) for value in case.values
        ]
    length = f"{case.min_size},{'' if case.max_size is None else case.max_size}"
    text = lark.ANY_TEXT if length == "0," else f"/(?s:.){{{length}}}/"
    return [f"({text}{''.join(patterns)})" if patterns else text]


def _searched(pattern: str) -> str:
    """The inside of /.../ that matches whole texts in which a pattern is found. Raises OptionError for a long one."""
    lark.dump(pattern, '"pattern"', lark.REGEX_BYTES)
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


def _words(case: Case) -> list[str]:
    """Terminals for JSON without parts or limits, as alternatives to texts. Raises OptionError for other JSON."""
    if case.values is not None and case.kind not in ("array", "object"):
        return [lark.literal(json.dumps(value)) for value in case.values]
    plain = case.values is None and case.number in (UNLIMITED, Range(integer=True))
    if not plain or case.kind not in _WORDS:
        raise OptionError("a text with limits can be an alternative only to plain null, booleans, numbers and enum")
    return _WORDS["integer" if case.number.integer else case.kind]

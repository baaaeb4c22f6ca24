"""The text of a tool's parameter is converted to JSON by its schema, without errors.

- If text is the only type, the value is the literal text, quotes and blanks included.
- Otherwise it is read as JSON, or as a Python literal ('...', True, None, a trailing comma). A value of an allowed type
  is used. A value of another type is used if text is not allowed, so that the caller sees what the model meant.
- Everything else is text: unreadable values, numbers that JSON cannot express, text among the allowed types.

A number beyond float64 becomes the largest float64, and half of a surrogate pair becomes U+FFFD, because many readers
refuse them. If a name comes twice, the last value counts. A value nested deeper than 100 levels is text.

So "12" for integer or string is 12, "null" for string or null is null, "None" for string alone is text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from pocketvlm.parsing.schemas import STRING, Types, kind_of
from pocketvlm.parsing.tape import BLANK

_DEPTH = 100  # less than any JSON reader takes
_MAX_MAGNITUDE = sys.float_info.max
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_NUMBER = re.compile(r"[-+]?[\d.]*([eE][-+]?\d*)?")
_PYTHON = re.compile(
    r"""(?P<single>'(?:[^'\\]|\\.)*')|"(?:[^"\\]|\\.)*"|(?P<word>\w+)|(?P<comma>,\s*(?=[\]}]))""", re.DOTALL
)
_QUOTED = re.compile(r"""\\(.)|(")""", re.DOTALL)


def is_text(text: str, types: Types) -> bool | None:
    """Whether a value with this beginning is text; None if later characters decide that."""
    if "string" not in types:
        return False
    if types == STRING:
        return True
    begin = text.strip(BLANK)
    if not begin:
        return None
    if (begin[0] == "{" and "object" in types) or (begin[0] == "[" and "array" in types):
        return False
    ended = begin != text.lstrip(BLANK)
    if any(word == begin if ended else word.startswith(begin) for word in _words(types)):
        return None
    return None if types & {"integer", "number"} and _NUMBER.fullmatch(begin) else True


def to_json(text: str, types: Types) -> str:
    """The value as JSON text. text: the text between the tags, without the line breaks of the syntax."""
    if types == STRING:
        return dump(text)
    try:
        value = _read(text)
        kind = kind_of(value)
        if kind == "integer" and types & {"integer", "number"}:
            value = int(value) if "number" not in types else value
        elif kind == "string" or (kind not in types and "string" in types):
            return dump(text)
        return dump(value)
    except (ValueError, RecursionError):
        return dump(text)


def dump(value: Any) -> str:
    """JSON as clients know it, on one line. Raises ValueError for numbers that are not finite."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _words(types: Types) -> list[str]:
    kinds = {"true": "boolean", "false": "boolean", "null": "null"}
    return [word for word, meaning in _WORDS.items() if kinds[meaning] in types]


def _read(text: str) -> Any:
    """The value of JSON or Python text. Raises ValueError or RecursionError."""
    try:
        value = _loaded(text)
    except ValueError:
        value = _loaded(_PYTHON.sub(_translate, text))
    level = [value]
    for _ in range(_DEPTH):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return value
    raise ValueError(f"nested deeper than {_DEPTH} levels")


def _loaded(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse, parse_float=_float, parse_int=_integer)


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _float(text: str) -> float:
    return min(max(float(text), -_MAX_MAGNITUDE), _MAX_MAGNITUDE)


def _integer(text: str) -> int:
    """An integer; Python itself refuses those with thousands of digits."""
    return int(text) if len(text) <= sys.float_info.max_10_exp else int(_float(text))


def _translate(token: re.Match[str]) -> str:
    """The JSON spelling of a Python token."""
    if token["comma"]:
        return ""
    if token["single"]:
        inner = _QUOTED.sub(lambda found: "'" if found[1] == "'" else '\\"' if found[2] else found[0], token[0][1:-1])
        return f'"{inner}"'
    return _WORDS.get(token[0], token[0])


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")

"""Grammars are built from pieces in Lark's syntax; errors of the grammar library get plain words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.guided.keywords import shown
from pocketvlm.guided.trial import TOO_LARGE, UNSATISFIABLE
from pocketvlm.guided.vocabulary import require_library

SCHEMA_BYTES = 256 << 10
REGEX_BYTES = 8 << 10
CHOICE_BYTES = 64 << 10
GRAMMAR_BYTES = 1 << 20
# Between the parts of indented JSON: nothing, one blank, or a new line with its indent.
PRETTY = r" |\n {0,32}"
ANY_TEXT = "/(?s:.*)/"


def dump(value: Any, what: str, limit: int) -> str:
    """A value as JSON text. Raises OptionError for what JSON cannot say and beyond `limit` bytes."""
    try:
        text = _plain(json.dumps(value, ensure_ascii=False, allow_nan=False))
        size = len(text.encode())
    except RecursionError:
        raise OptionError(f"{what} is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise OptionError(f"{what} is not JSON: {error}") from None
    if size > limit:
        raise OptionError(f"{what} has {size} bytes; at most {limit} are accepted")
    return text


def literal(text: str) -> str:
    """A text as it stands, as a terminal."""
    return _plain(json.dumps(text, ensure_ascii=False))


def _plain(text: str) -> str:
    """JSON text with every control character escaped: JSON itself may hold some that grammars may not."""
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found.group()):04x}", text)


def without(*texts: str) -> str:
    """A terminal for any text, line breaks too, in which none of `texts` occurs."""
    needles = "|".join(regex(re.escape(text)) for text in texts)
    return f"({ANY_TEXT} & ~/(?s:.*)(?:{needles})(?s:.*)/)"


def regex(pattern: str) -> str:
    """The inside of /.../ for a pattern, where `\\d` and `\\w` mean ASCII as they do in JSON schemas.

    Raises OptionError for a pattern that ends within an escape or is not text.
    """
    require_library()
    from llguidance import regex_to_lark

    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise OptionError(f"regex {shown(pattern)} ends with a single backslash")
    # An empty /.../ would begin a comment.
    return regex_to_lark(pattern, "dw") or "(?:)"


def json_rule(schema: Mapping[str, Any], what: str, *, pretty: bool = False) -> str:
    """A rule's body for JSON text of a schema that `ClosedSchemas` wrote.

    On one line, with or without a blank after "," and ":"; pretty: with line breaks and indents, if the model likes.
    Characters are written as themselves, not as \\u escapes, except where a text must hold a control character.
    """
    text = dump(schema, what, GRAMMAR_BYTES)
    how: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
    if pretty:
        how = {"whitespace_pattern": PRETTY}
    how["json_allowed_escapes"] = 'nrbtf\\"' + "u" * bool(re.search(r"\\u00(?:[01]|7f)", text))
    inside = text[1:-1]
    return f'%json {{"x-guidance": {json.dumps(how)}{"," if inside else ""}{inside}}}'


def explained(complaint: str) -> str:
    """An error of the library as half a sentence that names the keyword and what to do."""
    if complaint == TOO_LARGE:
        return complaint
    if found := re.search(r"Unknown format: (.*)", complaint):
        return f'keyword "format": {found[1]!r} cannot be enforced; use "pattern" or leave it out'
    if UNSATISFIABLE in complaint:
        return "nothing satisfies it"
    if found := re.search(r"^error: (.*)", complaint, re.MULTILINE):
        return found[1]
    if found := re.search(r"in regex\): (.*?)(;|$)", complaint):
        return found[1]
    line = complaint.replace("<non-verbose/>", "").strip().partition("\n")[0]
    return line[:200] or "it is refused without a reason"

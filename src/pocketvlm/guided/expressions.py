"""`matches` tests a regular expression in linear time, because Python's own engine may backtrack endlessly."""

from __future__ import annotations

from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from pocketvlm.errors import OptionError
from pocketvlm.guided import lark


def matches(pattern: str, text: str) -> bool:
    r"""Whether a pattern matches somewhere in a text; `\d` and `\w` mean ASCII. Raises OptionError."""
    try:
        _compiled(pattern).validate_python(text)
    except ValidationError:
        return False
    return True


@lru_cache(16)
def _compiled(pattern: str) -> SchemaValidator:
    if len(pattern.encode()) > lark.REGEX_BYTES:
        raise OptionError(f"it has more than {lark.REGEX_BYTES} bytes")
    try:
        return SchemaValidator(core_schema.str_schema(pattern=lark.regex(pattern), regex_engine="rust-regex"))
    except SchemaError as error:
        lines = str(error).splitlines()
        raise OptionError(lines[-1].removeprefix("error: ").strip().removeprefix("SchemaError: ")) from None

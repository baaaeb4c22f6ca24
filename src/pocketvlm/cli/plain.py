"""Commands parse plain values themselves, because Typer's validators take a fifth of the start-up time.

Typer parses all other values, above all wrong ones, so that results and error messages are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args, get_origin

from typer.core import TyperCommand

from pocketvlm.cli import typed

_NUMBERS = {int: re.compile(r"-?[0-9]{1,15}"), float: re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")}
_NOT_PLAIN = object()


class PlainValues:
    """Before TyperCommand or TyperGroup: options that are not given, texts, numbers and choices need no library."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turn a command line into parameters of the context; gives what is left of it."""
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            # A version of Typer without this method parses every value itself, only slower.
            usual = getattr(parameter, "get_runtime_param", None)
            if usual is not None and not _is_bounded(parameter):
                vars(parameter)["get_runtime_param"] = partial(_Coercion, _annotation(parameter), usual)
        return super().parse_args(ctx, args)  # type: ignore[misc,no-any-return]


class PlainCommand(PlainValues, TyperCommand):
    """A command that takes plain values as they are, and whose flags are those that messages name."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        typed.remember(self)
        return super().invoke(ctx)


class _Coercion:
    """Converts the value of an option, from the command line or a default, as Typer's own class does."""

    def __init__(self, annotation: Any, usual: Callable[[], Any]) -> None:
        self._annotation, self._usual = annotation, usual

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The converted value. Raises the same errors as Typer."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        found = plain(self._annotation, value)
        return self._usual().coerce(value, param=param, ctx=ctx) if found is _NOT_PLAIN else found


def plain(annotation: Any, value: Any) -> Any:
    """A plain value as its type, or _NOT_PLAIN."""
    origin = get_origin(annotation)
    if origin is list and isinstance(value, list | tuple):
        items = [plain(get_args(annotation)[0], item) for item in value]
        return _NOT_PLAIN if _NOT_PLAIN in items else items
    if origin is Literal:
        return value if isinstance(value, str) and value in get_args(annotation) else _NOT_PLAIN
    if annotation is str and isinstance(value, str):
        return value
    if annotation in _NUMBERS and isinstance(value, str) and _NUMBERS[annotation].fullmatch(value):
        return annotation(value)
    return value if annotation in _NUMBERS and type(value) is annotation else _NOT_PLAIN


def _annotation(parameter: Any) -> Any:
    return getattr(getattr(parameter, "type_descriptor", None), "annotation", None)


def _is_bounded(parameter: Any) -> bool:
    """Whether an option has limits or a parser of its own, which only Typer knows."""
    info = getattr(getattr(parameter, "type_descriptor", None), "parameter_info", None)
    return any(getattr(info, name, None) is not None for name in ("min", "max", "parser"))

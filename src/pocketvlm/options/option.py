"""An option is an annotated field of a dataclass; its name, type, default, range and help are read from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pocketvlm.bytesize import size_text
from pocketvlm.errors import OptionError
from pocketvlm.suggest import nearest

NUMBERS: Mapping[Any, tuple[type, str]] = {int: (Integral, "a whole number"), float: (Real, "a number")}


@dataclass(frozen=True, slots=True)
class Option:
    """What a field's annotation says about an option, besides its type: `Annotated[int, Option("Help.", low=1)]`.

    help: one sentence, for command line, chat, server and docs. low, high: the range, ends included; above, below: ends
    that are not. wanted: the accepted values in words, where type and range do not say them; check: whether a value is
    one of these. default: what applies where the field's default does not say so, such as "the checkpoint's". metavar:
    the value in --help. flag: the name on the command line and in YAML (""): the field's; None: not there). chat: the
    name of the chat's setting, in the same way. group: heading in --help ("": that of the dataclass). size: a number of
    bytes, which may be written as 512M. item: the type of one of several values on the command line, where the field's
    type does not say it.
    """

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    wanted: str = ""
    check: Callable[[Any], bool] | None = None
    default: str = ""
    metavar: str = ""
    flag: str | None = ""
    chat: str | None = ""
    group: str = ""
    size: bool = False
    item: type | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """One option: what its field says. type: without None and without metadata; optional: whether None is a value."""

    name: str
    type: Any
    optional: bool
    default: Any
    group: str
    option: Option

    @property
    def help(self) -> str:
        """The sentence that explains the option."""
        return self.option.help

    @property
    def argument(self) -> str | None:
        """The name on the command line and the key in YAML, with underscores; None if it is not there."""
        return None if self.option.flag is None else self.option.flag or self.name

    @property
    def flag(self) -> str:
        """The spelling on the command line; the name where the command line does not have the option."""
        return self.name if self.argument is None else f"--{self.argument.replace('_', '-')}"

    @property
    def setting(self) -> str | None:
        """The name of the chat's setting; None if the chat has none."""
        return None if self.option.chat is None else self.option.chat or self.name

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a Literal; () for any other type."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def item(self) -> Any:
        """The type of one of several values; None for an option with one value."""
        return get_args(self.type)[0] if get_origin(self.type) is tuple else self.option.item

    @property
    def is_switch(self) -> bool:
        """Whether the option is on or off, or may be."""
        return self.type is bool or bool in get_args(self.type)

    @property
    def wanted(self) -> str:
        """The accepted values in words, as messages and docs say them."""
        option = self.option
        if option.wanted:
            words = option.wanted
        elif self.choices:
            words = " or ".join([", ".join(map(repr, self.choices[:-1])), repr(self.choices[-1])])
        elif self.type is bool:
            words = "true or false"
        elif self.type in NUMBERS:
            maximum = "to" if option.low is not None else "and at most"
            minimum = "from" if option.high is not None else "of at least"
            ends = ((minimum, option.low), ("above", option.above), (maximum, option.high), ("and below", option.below))
            said = (f"{word} {_number(end)}" for word, end in ends if end is not None)
            words = " ".join([NUMBERS[self.type][1], *said])
        else:
            words = "texts" if self.item is str else "whole numbers" if self.item is int else "a text"
        return f"{words}, or none" if self.optional and not self.option.default else words

    @property
    def default_text(self) -> str:
        """What applies where the option is not given, for people; "" where nothing is worth saying."""
        value = self.default
        if self.option.default:
            return self.option.default
        if value is None or isinstance(value, bool | tuple):
            return ""
        if self.option.size:
            return size_text(value)
        return f"{value:g}" if isinstance(value, float) else str(value)

    def environment(self, command: str) -> str:
        """The environment variable that sets the option of a command such as "serve"."""
        return f"POCKETVLM_{command.replace(' ', '_').upper()}_{str(self.argument).upper()}"

    def check(self, value: Any, label: str = "") -> None:
        """Raise OptionError for a value of another type or out of range. label: the name in the message."""
        if (value is None and self.optional) or (self._has_type(value) and self._in_range(value)):
            return
        shown = list(value) if isinstance(value, tuple) else value
        problem = "is out of range" if self._has_type(value) and self.type in NUMBERS else "is not supported"
        near = nearest(str(value), self.choices) if self.choices else None
        hint = f": did you mean {near!r}?" if near else ""
        raise OptionError(f"{label or self.name}={shown!r} {problem}: give {self.wanted}{hint}")

    def _has_type(self, value: Any) -> bool:
        if self.option.check is not None:
            return self.option.check(value)
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if self.item is not None:
            return isinstance(value, tuple) and all(_is(self.item, each) for each in value)
        return _is(self.type, value)

    def _in_range(self, value: Any) -> bool:
        option = self.option
        return self.type not in NUMBERS or (
            (option.low is None or value >= option.low)
            and (option.high is None or value <= option.high)
            and (option.above is None or value > option.above)
            and (option.below is None or value < option.below)
        )


def _is(kind: Any, value: Any) -> bool:
    if kind in NUMBERS:
        return isinstance(value, NUMBERS[kind][0]) and not isinstance(value, bool)
    origin = get_origin(kind)
    return isinstance(value, kind if origin in (None, Union, UnionType) else origin)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


@cache
def definitions(owner: Any) -> tuple[Definition, ...]:
    """The options that a dataclass (its class) defines, in order; fields without an `Option` are none."""
    hints = get_type_hints(owner, include_extras=True)
    found = []
    for field in fields(owner):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            continue
        kind, *metadata = get_args(hint)
        option = next((each for each in metadata if isinstance(each, Option)), None)
        if option is None:
            continue
        is_union = get_origin(kind) in (Union, UnionType)
        members = get_args(kind) if is_union else (kind,)
        wanted = tuple(member for member in members if member is not type(None))
        plain = wanted[0] if len(wanted) == 1 else Union[wanted]  # noqa: UP007
        group = option.group or getattr(owner, "group", "")
        found.append(Definition(field.name, plain, type(None) in members, field.default, group, option))
    return tuple(found)


def definition(owner: type, name: str) -> Definition:
    """The option `name` that a dataclass defines. Raises KeyError."""
    return {each.name: each for each in definitions(owner)}[name]


def names(*owners: type) -> tuple[str, ...]:
    """Names of the options that dataclasses define."""
    return tuple(each.name for owner in owners for each in definitions(owner))


def validate(values: Any, label: Callable[[Definition], str] = lambda each: each.name) -> None:
    """Check all options of a dataclass's instance. Raises OptionError for the first one that is not accepted."""
    owner: type = type(values)
    for each in definitions(owner):
        each.check(getattr(values, each.name), label(each))


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """Raise OptionError for the first name that is not known, with the nearest known one. where: before the message."""
    known = tuple(known)
    for name in given:
        if name not in known:
            near = nearest(str(name), known)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}"
            raise OptionError(f"{where}unknown option {name!r}: {hint}")

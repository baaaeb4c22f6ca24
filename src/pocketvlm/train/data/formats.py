"""The format of a record follows from its keys; columns and tags say where a format's parts are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pocketvlm.errors import DataError, OptionError
from pocketvlm.suggest import nearest

FormatName = Literal["messages", "sharegpt", "alpaca", "query-response", "prompt-completion"]

# Roles of all formats; "call" is a tool call as a message of its own.
_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "model"),
    "tool": ("tool", "observation", "tool_response", "function"),
    "call": ("function_call", "tool_call"),
}
_PREFERENCE = ("chosen", "rejected", "rejected_response", "rejected_messages", "rejected_images", "kto_tag")


@dataclass(frozen=True, slots=True)
class Format:
    """One format. needs: its keys in words, for messages. strict: user and assistant alternate.

    in_front: images without a placeholder stand before the first question.
    """

    name: FormatName
    title: str
    needs: str
    strict: bool = False
    in_front: bool = False


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("messages", "OpenAI, ms-swift, TRL messages", "'messages' [{'role', 'content'}]", in_front=True),
        Format("sharegpt", "LLaMA-Factory sharegpt", "'conversations' [{'from', 'value'}]", strict=True),
        Format("alpaca", "LLaMA-Factory alpaca", "'instruction', 'output' (and 'input', 'history')", strict=True),
        Format("query-response", "ms-swift query and response", "'query', 'response'", strict=True, in_front=True),
        Format("prompt-completion", "TRL prompt and completion", "'prompt', 'completion'", in_front=True),
    )
}
FORMAT_NAMES = ("auto", *FORMATS)


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one file, as dataset_info.json names them, or the usual ones.

    columns: key in the record, by the name in this package. role_key, content_key: of a message; None: those that the
    message has. roles: role in this package, by the file's.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    role_key: str | None = None
    content_key: str | None = None
    roles: Mapping[str, str] = field(
        default_factory=lambda: {name: role for role, names in _ROLES.items() for name in names}
    )

    def get(self, record: Mapping[str, Any], name: str) -> Any:
        """The value of a column, or None."""
        return record.get(self.columns.get(name, name))

    def key(self, name: str) -> str:
        """What the record calls a column, for messages."""
        return self.columns.get(name, name)

    def with_roles(self, roles: Mapping[str, str]) -> Layout:
        """The same with more names of roles."""
        return replace(self, roles={**self.roles, **roles})


def detect(record: Mapping[str, Any]) -> Format | None:
    """The format of a record by its keys, or None. Raises DataError for kinds of data that are not samples."""
    refused = [key for key in _PREFERENCE if key in record]
    if refused:
        raise DataError(
            f"key {refused[0]!r}: preference data (chosen and rejected answers) is not trained on: give one answer for "
            f"each conversation, with {needs()}"
        )
    if "messages" in record:
        return FORMATS["messages"]
    if "conversations" in record:
        return FORMATS["sharegpt"]
    if "instruction" in record and "output" in record:
        return FORMATS["alpaca"]
    if "query" in record and "response" in record:
        return FORMATS["query-response"]
    if "prompt" in record and "completion" in record:
        return FORMATS["prompt-completion"]
    return None


def needs(names: Iterable[str] = FORMATS) -> str:
    """What each format needs, in one line."""
    return "; or ".join(f"{FORMATS[name].needs} ({FORMATS[name].title})" for name in names)


def by_name(name: str) -> Format | None:
    """The format of a name, None for "auto". Raises OptionError."""
    if name == "auto":
        return None
    if name not in FORMATS:
        near = nearest(name, FORMAT_NAMES)
        hint = "" if near is None else f" (did you mean {near!r}?)"
        raise OptionError(f"format={name!r} is not a format of training data{hint}: give {', '.join(FORMAT_NAMES)}")
    return FORMATS[name]


def keys_of(record: Mapping[str, Any]) -> str:
    """The keys of a record, for messages."""
    keys = [repr(str(key)) for key in record]
    return (", ".join(keys[:12]) + (", ..." if len(keys) > 12 else "")) or "none"


def no_format(records: Sequence[Mapping[str, Any]]) -> str:
    """Why no record of a file has a known format."""
    text = records[0].get("text", records[0].get("content"))
    if isinstance(text, str):
        return f"key 'text': plain text has no question and answer, which training needs: give {needs()}"
    return f"no known format: the keys are {keys_of(records[0])}; needed are {needs()}"

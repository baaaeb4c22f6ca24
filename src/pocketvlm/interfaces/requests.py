"""A `Question` is a request of any interface in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

GuideKind = Literal["json_object", "json_schema", "regex", "choice"]
Choice = Literal["auto", "none", "required", "named"]


@dataclass(frozen=True, slots=True)
class Guide:
    """The form that an answer must have. value: the schema, expression, or list of choices; None for any object.

    pretty: JSON may have line breaks and indents. field: the request's name for it.
    """

    kind: GuideKind
    value: Any = None
    pretty: bool = False
    field: str = ""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Functions that may be called (OpenAI's form), and whether one must be. name: of this one, for "named"."""

    tools: tuple[Mapping[str, Any], ...] = ()
    choice: Choice = "auto"
    name: str | None = None
    parallel: bool = True

    @property
    def offered(self) -> tuple[Mapping[str, Any], ...]:
        """The functions that the prompt describes."""
        return () if self.choice == "none" else self.tools


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message stands in the request as it was sent: its path, and that of each of its content parts."""

    message: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that a request asks for.

    messages: a conversation as `processor.messages` reads it, or None; then text or ids are a prompt without template.
    sampling: fields of SamplingParams that were given; "max_tokens": None is no limit but the context.
    options: image options and template variables for the processor.
    chat: take the answer apart into content, reasoning and calls. thinking_budget: maximum tokens of reasoning.
    places: one for each message where the request has no such list; then errors name these.
    before: token ids of an earlier conversation, which stand before the prompt of `messages`.
    context_limit: maximum tokens of prompt and answer; no limit for a prompt that is longer.
    adapter: name of the adapter that answers, whose own options are defaults; None: the model itself.
    """

    messages: Sequence[Mapping[str, Any]] | None = None
    text: str | None = None
    ids: Sequence[int] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: ToolUse = field(default_factory=ToolUse)
    guide: Guide | None = None
    n: int = 1
    chat: bool = True
    normalize_newlines: bool | None = None
    skip_special_tokens: bool = True
    priority: int = 0
    thinking_budget: int | None = None
    places: tuple[Place, ...] = ()
    before: Sequence[int] = ()
    context_limit: int | None = None
    adapter: str | None = None

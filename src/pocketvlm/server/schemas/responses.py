"""OpenAI's /v1/responses: its request, and how its items become messages. Nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from pocketvlm.errors import OptionError, PromptError
from pocketvlm.processor.messages import MEDIA_OPTIONS
from pocketvlm.server.asking import Guide, Question, ToolUse
from pocketvlm.server.media import check_options
from pocketvlm.server.schemas.common import Json, Strict
from pocketvlm.server.schemas.tools import tool_use

_EFFORT = {"none": False, "minimal": False, "low": True, "medium": True, "high": True, "xhigh": True}


class FlatFunction(Strict):
    """A function; here its fields stand beside its type."""

    type: Literal["function"]
    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$")
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None

    def plain(self) -> dict[str, Any]:
        """In the form of chat completions."""
        return {"type": "function", "function": self.model_dump(exclude_none=True, exclude={"type"})}


class FlatChoice(Strict):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class TextFormat(Strict):
    """The form that the text must have."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Json | None = Field(None, alias="schema")
    strict: bool | None = None


class TextSetting(Strict):
    """What the text is like."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningSetting(Strict):
    """Whether the model thinks first."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto"] | None = None


class ResponsesRequest(Strict):
    """A conversation to be answered. The whole of it must be given each time."""

    model: str
    input: str | Annotated[list[Json], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Literal[0] | None = None
    stream: bool | None = None
    tools: list[FlatFunction] | None = None
    tool_choice: Literal["auto", "none", "required"] | FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextSetting | None = None
    reasoning: ReasoningSetting | None = None
    truncation: Literal["disabled"] | None = None
    store: Literal[False] | None = Field(None, description="Nothing is stored: only false.")
    include: list[str] | None = Field(None, max_length=0)
    metadata: dict[str, str] | None = Field(None, description="Given back as it is.")
    mm_processor_kwargs: Json | None = None
    priority: int | None = None
    user: str | None = None

    def tool_use(self) -> ToolUse:
        """Tools and choice. Raises OptionError."""
        given = self.tool_choice or "auto"
        choice, name = (given, None) if isinstance(given, str) else ("named", given.name)
        return tool_use(
            [tool.plain() for tool in self.tools or ()], choice, name, self.parallel_tool_calls is not False
        )

    def question(self) -> Question:
        """What is asked. Raises OptionError and PromptError."""
        sampling = {name: value for name in ("temperature", "top_p") if (value := getattr(self, name)) is not None}
        if self.max_output_tokens is not None:
            sampling["max_tokens"] = self.max_output_tokens
        options = check_options(self.mm_processor_kwargs or {}, "mm_processor_kwargs", MEDIA_OPTIONS)
        if self.reasoning is not None and self.reasoning.effort is not None:
            options["enable_thinking"] = _EFFORT[self.reasoning.effort]
        tools, guide = self.tool_use(), self._guide()
        if guide is not None and tools.offered and tools.choice != "auto":
            raise OptionError("text.format cannot be kept while a function must be called: give only one of them")
        return Question(
            messages=self._messages(),
            sampling=sampling,
            options=options,
            tools=tools,
            guide=guide,
            priority=self.priority or 0,
        )

    def _guide(self) -> Guide | None:
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return Guide("json_object")
        if form.schema_ is None:
            raise OptionError("text.format.schema: this field is required with type json_schema")
        return Guide("json_schema", form.schema_)

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for index, item in enumerate(self.input):
            _add(item, f"input[{index}]", messages)
        if messages[0]["role"] == "system" and len(messages) > 1 and messages[1]["role"] == "system":
            first, second, *rest = messages
            messages = [{"role": "system", "content": f"{first['content']}\n\n{_text(second['content'])}"}, *rest]
        return messages


def _add(item: Mapping[str, Any], where: str, messages: list[dict[str, Any]]) -> None:
    """The message of one item; parts of one answer (reasoning, text, calls) become one message."""
    kind = item.get("type", "message")
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    match kind:
        case "message":
            role = {"developer": "system"}.get(str(item.get("role")), item.get("role"))
            content = _content(item.get("content"), where)
            if role == "assistant" and last is not None and "content" not in last:
                last["content"] = _text(content)
            else:
                messages.append({"role": role, "content": _text(content) if role == "assistant" else content})
        case "reasoning":
            parts = item.get("content") or item.get("summary") or []
            text = "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))
            messages.append({"role": "assistant", "reasoning_content": text})
        case "function_call":
            call = {
                "id": item.get("call_id"),
                "type": "function",
                "function": {"name": item.get("name"), "arguments": item.get("arguments")},
            }
            if last is None:
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            else:
                last.setdefault("content", "")
                last.setdefault("tool_calls", []).append(call)
        case "function_call_output":
            content = _content(item.get("output"), where)
            messages.append({"role": "tool", "content": content, "tool_call_id": item.get("call_id")})
        case _:
            raise PromptError(f"{where}: items of type {str(kind)[:40]!r} are not supported")


def _content(content: Any, where: str) -> Any:
    if not isinstance(content, list):
        return content
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(content):
        place = f"{where}.content[{index}]"
        if not isinstance(part, Mapping):
            raise PromptError(f"{place} must be an object")
        match part.get("type"):
            case "input_text" | "output_text" | "text":
                parts.append({"type": "text", "text": part.get("text")})
            case "input_image" | "input_video":
                parts.append(_medium(part, place))
            case kind:
                raise PromptError(f"{place}: parts of type {str(kind)[:40]!r} are not supported")
    return parts


def _medium(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An input_image, or our own input_video, as a part of chat completions; other keys are options."""
    by_url = str(part["type"]).removeprefix("input_") + "_url"
    more = {key: value for key, value in part.items() if key not in ("type", by_url, "file_id", "detail")}
    detail = {"detail": part["detail"]} if part.get("detail") is not None else {}
    url, file_id = part.get(by_url), part.get("file_id")
    if (url is None) == (file_id is None):
        raise PromptError(f"{where}: an {part['type']} needs one of {by_url} and file_id")
    source = {"url": url} if file_id is None else {"file_id": file_id}
    return {"type": by_url, by_url: {**source, **detail}, **more}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content if isinstance(content, str) else ""

"""Anthropic's /v1/messages: its request, and how its blocks become messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from pocketvlm.errors import OptionError, PromptError
from pocketvlm.processor.messages import MEDIA_OPTIONS
from pocketvlm.server.asking import Question, ToolUse
from pocketvlm.server.fields import MESSAGES, IgnoredFields
from pocketvlm.server.media import check_options
from pocketvlm.server.schemas.common import Body, Json, Object
from pocketvlm.server.schemas.tools import tool_use


class Message(Object):
    """One turn: text, or blocks of text, image, thinking, tool_use and tool_result."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Json]


class AnthropicTool(Object):
    """A function with a JSON schema of its arguments."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$")
    input_schema: Json
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: Json | None = None

    def plain(self) -> dict[str, Any]:
        """In OpenAI's form."""
        function: dict[str, Any] = {"name": self.name, "parameters": self.input_schema}
        if self.description is not None:
            function["description"] = self.description
        if self.strict is not None:
            function["strict"] = self.strict
        return {"type": "function", "function": function}


class AnthropicChoice(Object):
    """Which function must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingSetting(Object):
    """Whether the model thinks first, and for how many tokens at most."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized"] | None = None


class MessageMetadata(Object):
    """Who asks."""

    user_id: str | None = None


class CountRequest(Body):
    """What is to be counted."""

    interface = MESSAGES
    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[Json] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: ThinkingSetting | None = None
    mm_processor_kwargs: Json | None = None

    def question(self, ignored: IgnoredFields) -> Question:
        """What is asked. Raises OptionError and PromptError."""
        options = check_options(self.mm_processor_kwargs or {}, "mm_processor_kwargs", MEDIA_OPTIONS)
        if self.thinking is not None:
            options["enable_thinking"] = self.thinking.type != "disabled"
        if self.messages[-1].role == "assistant":
            options["continue_final_message"] = True
        system = [{"role": "system", "content": _system(self.system)}] if self.system else []
        messages = [
            plain for index, message in enumerate(self.messages) for plain in _plain(message, f"messages[{index}]")
        ]
        return Question(
            messages=[*system, *messages],
            options=options,
            tools=self._tools(),
            thinking_budget=self.thinking.budget_tokens if self.thinking else None,
        )

    def _tools(self) -> ToolUse:
        names = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}
        given = self.tool_choice or AnthropicChoice(type="auto")
        tools = [tool.plain() for tool in self.tools or ()]
        return tool_use(tools, names[given.type], given.name, given.disable_parallel_tool_use is not True)


class MessagesRequest(CountRequest):
    """A conversation to be answered."""

    max_tokens: Annotated[int, Field(ge=1)]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    metadata: MessageMetadata | None = None

    def question(self, ignored: IgnoredFields) -> Question:
        """What is asked. Raises OptionError and PromptError."""
        from dataclasses import replace

        names = ("max_tokens", "temperature", "top_p", "top_k")
        sampling: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.stop_sequences:
            sampling["stop"] = tuple(self.stop_sequences)
        return replace(super().question(ignored), sampling=sampling)


def _system(system: str | list[Json]) -> str:
    if isinstance(system, str):
        return system
    texts = []
    for index, block in enumerate(system):
        if block.get("type") != "text" or not isinstance(block.get("text"), str):
            raise PromptError(f"system[{index}]: only text blocks are supported here")
        texts.append(block["text"])
    return "\n".join(texts)


def _plain(message: Message, where: str) -> list[dict[str, Any]]:
    """The messages that a turn stands for: results of tools are messages of their own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_assistant(message.content, where)]
    found: list[dict[str, Any]] = []
    for index, block in enumerate(message.content):
        place = f"{where}.content[{index}]"
        if block.get("type") == "tool_result":
            found.append({"role": "tool", "content": _result(block, place), "tool_call_id": block.get("tool_use_id")})
            continue
        part = _part(block, place)
        if not found or found[-1]["role"] == "tool":
            found.append({"role": message.role, "content": []})
        found[-1]["content"].append(part)
    if not found:
        raise PromptError(f"{where}.content is empty: give at least one block")
    return found


def _part(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": block.get("text")}
    if kind == "video":
        raise PromptError(f"{where}: this interface has no videos: send them to /v1/chat/completions or /v1/responses")
    if kind != "image":
        raise PromptError(f"{where}: blocks of type {str(kind)[:40]!r} are not supported here: give text or image")
    source = block.get("source")
    if not isinstance(source, Mapping):
        raise PromptError(f"{where}: an image needs a source")
    options = {key: value for key, value in block.items() if key not in ("type", "source", "cache_control")}
    key = {"base64": "data", "url": "url", "file": "file_id"}.get(str(source.get("type")))
    if key is None or not isinstance(source.get(key), str):
        raise PromptError(f"{where}: source must be base64 with data, url with url, or file with file_id")
    return {"type": "image", {"data": "base64"}.get(key, key): source[key], **options}


def _result(block: Mapping[str, Any], where: str) -> Any:
    content = block.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise PromptError(f"{where}: content must be text or a list of blocks")
    return [_part(part, f"{where}.content[{index}]") for index, part in enumerate(content)]


def _assistant(blocks: list[Json], where: str) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for index, block in enumerate(blocks):
        match block.get("type"):
            case "text" if isinstance(block.get("text"), str):
                texts.append(block["text"])
            case "thinking" if isinstance(block.get("thinking"), str):
                thoughts.append(block["thinking"])
            case "tool_use" if isinstance(block.get("name"), str):
                arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
                function = {"name": block["name"], "arguments": arguments}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
            case kind:
                raise OptionError(f"{where}.content[{index}]: this block of type {str(kind)[:40]!r} is not supported")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message

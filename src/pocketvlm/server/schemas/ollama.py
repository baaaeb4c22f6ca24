"""Ollama's /api/chat and /api/generate: their requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pocketvlm.errors import OptionError
from pocketvlm.server.asking import Guide, Question
from pocketvlm.server.fields import OLLAMA, IgnoredFields
from pocketvlm.server.schemas.common import Body, Json, Object
from pocketvlm.server.schemas.tools import Tool, read_tools

Think = bool | Literal["low", "medium", "high"]


class OllamaOptions(Object):
    """How to sample, in Ollama's names."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    num_predict: int | None = Field(None, description="Most tokens of answer; -1: as many as there is room for.")
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    num_ctx: int | None = Field(None, description="At most what the server was started with; not needed.")

    def sampling(self, max_model_len: int) -> dict[str, Any]:
        """Fields of SamplingParams that were given. Raises OptionError."""
        if self.num_ctx is not None and not 0 < self.num_ctx <= max_model_len:
            raise OptionError(f"options.num_ctx={self.num_ctx}: this server's context holds {max_model_len} tokens")
        names = ("temperature", "top_k", "top_p", "min_p", "seed", "presence_penalty", "frequency_penalty")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.repeat_penalty is not None:
            given["repetition_penalty"] = self.repeat_penalty
        if self.num_predict is not None and self.num_predict != -1:
            given["max_tokens"] = self.num_predict
        elif self.num_predict == -1:
            given["max_tokens"] = max_model_len
        if self.stop is not None:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return given


class OllamaBase(Body):
    """Fields of both."""

    interface = OLLAMA
    model: str | None = None
    stream: bool | None = Field(None, description="true if it is left out.")
    options: OllamaOptions | None = None
    format: Literal["", "json"] | Json | None = Field(None, description="json, or a JSON schema.")
    think: Think | None = None
    keep_alive: str | int | float | None = Field(None, description="The model always stays: this changes nothing.")
    logprobs: Literal[False] | None = None

    def fields(self, max_model_len: int) -> dict[str, Any]:
        """Fields of a Question that both have. Raises OptionError."""
        options = {} if self.think is None else {"enable_thinking": self.think is not False}
        guide = None
        if self.format == "json":
            guide = Guide("json_object")
        elif isinstance(self.format, dict):
            guide = Guide("json_schema", self.format)
        sampling = (self.options or OllamaOptions.model_validate({})).sampling(max_model_len)
        return {"sampling": sampling, "options": options, "guide": guide}


class OllamaCall(Object):
    """A function call of an earlier answer."""

    function: Json
    id: str | None = None
    type: str | None = None


class OllamaMessage(Object):
    """One message; images are base64 text."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = None
    thinking: str | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """In OpenAI's form, images before the text."""
        content: Any = self.content or ""
        if self.images:
            content = [*pictures(self.images), {"type": "text", "text": content}]
        message: dict[str, Any] = {"role": self.role, "content": content}
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if self.tool_calls:
            message["tool_calls"] = [{"type": "function", "function": call.function} for call in self.tool_calls]
        return message


class OllamaChatRequest(OllamaBase):
    """A conversation to be answered."""

    messages: Annotated[list[OllamaMessage], Field(min_length=1)]
    tools: list[Tool] | None = None

    def question(self, max_model_len: int, ignored: IgnoredFields) -> Question:
        """What is asked. Raises OptionError."""
        tools = read_tools(self.tools, None, None)
        messages = [message.plain() for message in self.messages]
        return Question(messages=messages, tools=tools, **self.fields(max_model_len))


class OllamaGenerateRequest(OllamaBase):
    """A single question, with the template or without (raw)."""

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None

    def question(self, max_model_len: int, ignored: IgnoredFields) -> Question:
        """What is asked. Raises OptionError."""
        fields = self.fields(max_model_len)
        if self.raw:
            if self.system or self.images:
                raise OptionError("raw=true leaves the template out: no system, no images")
            return Question(text=self.prompt or "", chat=False, **{**fields, "options": {}})
        content: Any = self.prompt or ""
        if self.images:
            content = [*pictures(self.images), {"type": "text", "text": content}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        return Question(messages=[*system, {"role": "user", "content": content}], **fields)


class OllamaShowRequest(Body):
    """Which model."""

    interface = OLLAMA
    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


def pictures(images: list[str]) -> list[dict[str, Any]]:
    """Image parts of base64 text."""
    return [{"type": "image", "base64": image} for image in images]

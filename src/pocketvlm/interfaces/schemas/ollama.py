"""These are the requests of Ollama's /api/chat, /api/generate, /api/show and /api/pull."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pocketvlm.errors import OptionError
from pocketvlm.interfaces.fields import OLLAMA, IgnoredFields
from pocketvlm.interfaces.requests import Guide, Place, Question
from pocketvlm.interfaces.schemas.common import AnswerRequest, Count, Effort, Json, ModelRequest, Object, thinks
from pocketvlm.interfaces.schemas.tools import Tool, read_tools
from pocketvlm.types import SamplingParams


def _whole(value: Any) -> Any:
    """Clients in languages with one type of number write whole numbers as 40.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without_zeros(tool: Any) -> Any:
    """A tool without what Go and Python clients write for nothing: an empty type, null inside its parameters."""
    if not isinstance(tool, Mapping):
        return tool
    tool = {key: value for key, value in tool.items() if not (key == "type" and not value)}
    function = tool.get("function")
    if isinstance(function, Mapping) and isinstance(parameters := function.get("parameters"), Mapping):
        given = {key: value for key, value in parameters.items() if value is not None}
        tool["function"] = {**function, "parameters": given}
    return tool


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=-(1 << 63), lt=1 << 63)]
OllamaTool = Annotated[Tool, BeforeValidator(_without_zeros)]

# Ollama's names of sampling options, and ours.
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
}
_THEIRS = {ours: theirs for theirs, ours in _SAMPLING.items()}


class OllamaOptions(Object):
    """How to sample, in Ollama's names."""

    temperature: float | None = None
    top_k: Whole | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: Whole | None = Field(None, description="Below 0: another one each time.")
    num_predict: Whole | None = Field(
        None, description="Maximum tokens of answer; 0 and below: no limit but the context."
    )
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    num_ctx: Whole | None = Field(
        None,
        description="Maximum tokens of prompt and answer, up to the server's context. A longer prompt has no limit.",
    )

    def sampling(self) -> dict[str, Any]:
        """Fields of SamplingParams that were given. Raises OptionError."""
        given = {ours: value for theirs, ours in _SAMPLING.items() if (value := getattr(self, theirs)) is not None}
        if self.seed is not None and self.seed >= 0:
            given["seed"] = self.seed
        try:
            SamplingParams(**given)
        except OptionError as error:
            name, _, rest = str(error).partition("=")
            raise OptionError(f"options.{_THEIRS.get(name, name)}={rest}") from None
        if self.num_predict is not None:
            given["max_tokens"] = self.num_predict if self.num_predict > 0 else None
        return given


class OllamaModel(ModelRequest):
    """Which model: Ollama has two names for the field."""

    interface = OLLAMA
    name: str | None = Field(None, description="An older name of model.")

    @property
    def requested_model(self) -> str | None:
        """The model's name."""
        return self.model or self.name


class OllamaBase(OllamaModel, AnswerRequest):
    """Fields of chat and generate."""

    stream: bool | None = Field(None, description="true if it is left out.")
    options: OllamaOptions | None = None
    format: Literal["", "json"] | Json | None = Field(None, description="json, or a JSON schema.")
    think: bool | Effort | None = None
    keep_alive: str | int | float | None = Field(
        None, description="The model always stays in memory. 0 without a prompt is answered as if it did not."
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=20)] | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer comes as a stream; one that only says that the model is loaded never does."""
        return self.stream is not False

    @property
    def unloads(self) -> bool:
        """Whether keep_alive is no time at all: 0, "0", "0s", "0m0s"."""
        if isinstance(self.keep_alive, str):
            return "0" in self.keep_alive and not re.search("[1-9]", self.keep_alive)
        return self.keep_alive == 0

    def shared(self, ignored: IgnoredFields) -> dict[str, Any]:
        """Fields of a Question that both have. Raises OptionError."""
        given = self.options or OllamaOptions.model_validate({})
        sampling = given.sampling()
        if self.logprobs:
            sampling["logprobs"] = self.top_logprobs or 0
        elif self.top_logprobs:
            ignored.add("top_logprobs")
        guide = None
        if self.format == "json":
            guide = Guide("json_object")
        elif isinstance(self.format, dict):
            guide = Guide("json_schema", self.format)
        thinking = self.think if isinstance(self.think, bool) else thinks(self.think)
        limit = given.num_ctx if given.num_ctx is not None and given.num_ctx > 0 else None
        return {
            "sampling": sampling,
            "options": {} if thinking is None else {"enable_thinking": thinking},
            "guide": guide,
            "context_limit": limit,
        }


class OllamaCall(Object):
    """A function call of an earlier answer; its arguments are an object or JSON text."""

    function: Json
    id: str | None = None
    type: str | None = None


class OllamaMessage(Object):
    """One message; images are base64 text or data URIs."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = None
    thinking: str | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def plain(self, where: str) -> tuple[dict[str, Any], Place]:
        """In OpenAI's form, and where it stands in the request."""
        content, parts = _content(self.content, self.images, f"{where}.content", f"{where}.images")
        message: dict[str, Any] = {"role": self.role, "content": content}
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if self.tool_calls:
            message["tool_calls"] = [{"type": "function", "function": call.function} for call in self.tool_calls]
        return message, Place(where, parts)


class OllamaChatRequest(OllamaBase):
    """A conversation to be answered. Without messages: whether the model is loaded, which it is."""

    messages: list[OllamaMessage] | None = None
    tools: list[OllamaTool] | None = None

    def questions(self, ignored: IgnoredFields, template: str) -> list[Question]:
        """What is asked. Raises OptionError."""
        read = [message.plain(f"messages[{index}]") for index, message in enumerate(self.messages or ())]
        question = Question(
            messages=[message for message, _ in read],
            places=tuple(place for _, place in read),
            tools=read_tools(self.tools, None, None),
            **self.shared(ignored),
        )
        return [question] if self.messages else []


class OllamaGenerateRequest(OllamaBase):
    """A single question, with the template or without (raw)."""

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None
    context: list[Count] | None = Field(None, description="What an earlier answer gave: this question continues it.")
    template: str | None = Field(None, description="Nothing, or the template that /api/show tells.")

    def questions(self, ignored: IgnoredFields, template: str) -> list[Question]:
        """What is asked. Raises OptionError."""
        question = self._question(ignored, template)
        return [question] if self.prompt or self.images else []

    def _question(self, ignored: IgnoredFields, template: str) -> Question:
        if self.template and self.template != template:
            raise OptionError("template: another template is not supported: the checkpoint's own is used")
        shared = self.shared(ignored)
        if self.raw:
            for name in ("system", "images", "context"):
                if getattr(self, name):
                    raise OptionError(f"{name}: not with raw, which leaves the template out")
            if self.think is not None:
                ignored.add("think")
            return Question(text=self.prompt or "", chat=False, **{**shared, "options": {}})
        content, parts = _content(self.prompt, self.images, "prompt", "images")
        messages, places = [{"role": "user", "content": content}], [Place("prompt", parts)]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
            places.insert(0, Place("system"))
        return Question(messages=messages, places=tuple(places), before=self.context or (), **shared)


class OllamaShowRequest(OllamaModel):
    """Which model, and whether to list its tensors."""

    verbose: bool | None = None


class OllamaPullRequest(OllamaModel):
    """Which model to download: only the served one, which is there."""

    stream: bool | None = Field(None, description="true if it is left out.")


def _content(
    text: str | None, images: list[str] | None, text_place: str, images_place: str
) -> tuple[Any, tuple[str, ...]]:
    """Content of a message, images before the text, and where its parts stand in the request."""
    if not images:
        return text or "", ()
    # Only data URIs are taken as URLs: Ollama's clients send content, so that nothing is fetched for them.
    parts = [{"type": "image", "url" if image[:5].lower() == "data:" else "base64": image} for image in images]
    places = [f"{images_place}[{index}]" for index in range(len(images))]
    if text:
        parts.append({"type": "text", "text": text})
        places.append(text_place)
    return parts, tuple(places)

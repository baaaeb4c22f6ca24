"""These are the requests of OpenAI's /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from pocketvlm.errors import OptionError
from pocketvlm.interfaces.fields import CHAT, COMPLETIONS, IgnoredFields
from pocketvlm.interfaces.media import check_options
from pocketvlm.interfaces.requests import Guide, Question
from pocketvlm.interfaces.schemas.common import Count, Effort, Json, Object, Sampling, UsageChunks, thinks, token_limit
from pocketvlm.interfaces.schemas.parts import plain_messages
from pocketvlm.interfaces.schemas.tools import Tool, ToolChoice, form_of, read_tools
from pocketvlm.options.media import MEDIA_OPTIONS

_MESSAGES = Field(
    min_length=1,
    description="role: system, developer, user, assistant or tool. content: a string or parts: text, image_url "
    "({url, detail}; https, data and, where allowed, file URLs, or base64 text), image, file ({file_id}). An image "
    "part may have downsample_mode, max_slice_nums, scale_resolution, slice_mode and use_image_id of its own.",
    json_schema_extra={"examples": [[{"role": "user", "content": "What is this?"}]]},
)


class StreamOptions(Object):
    """What a stream tells besides the answer."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = Field(None, description="With include_usage: the usage so far in each chunk.")

    @property
    def usage(self) -> UsageChunks:
        """In which chunks the usage stands."""
        return "none" if not self.include_usage else "each" if self.continuous_usage_stats else "last"


class JsonSchema(Object):
    """A named JSON schema."""

    name: str | None = None
    description: str | None = None
    schema_: Json = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Object):
    """The form that an answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def guide(self) -> Guide | None:
        """As a guide. Raises OptionError."""
        if self.type == "json_schema":
            if self.json_schema is None:
                raise OptionError("response_format.json_schema: this field is required with type json_schema")
            return Guide("json_schema", self.json_schema.schema_)
        if self.json_schema is not None:
            raise OptionError(f"response_format.json_schema: not with type {self.type!r}")
        return Guide("json_object") if self.type == "json_object" else None


class StructuredOutputs(Object):
    """Guided output in one object, of which one field is given."""

    json_: Json | bool | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    whitespace_pattern: str | None = None


class Guided(Sampling):
    """Guided output: at most one of these."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: Json | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_whitespace_pattern: str | None = Field(
        None, description="An expression for the blanks in JSON; one that matches a line break allows indented JSON."
    )
    response_format: ResponseFormat | None = None

    def guide(self, ignored: IgnoredFields) -> Guide | None:
        """The one form that is asked for. Raises OptionError where there are two."""
        inner = self.structured_outputs or StructuredOutputs.model_validate({})
        found: dict[str, Guide | None] = {
            "response_format": self.response_format.guide() if self.response_format is not None else None,
            "guided_json": _json(self.guided_json),
            "guided_regex": Guide("regex", self.guided_regex) if self.guided_regex is not None else None,
            "guided_choice": _choice(self.guided_choice),
            "structured_outputs.json": _json(inner.json_),
            "structured_outputs.json_object": Guide("json_object") if inner.json_object else None,
            "structured_outputs.regex": Guide("regex", inner.regex) if inner.regex is not None else None,
            "structured_outputs.choice": _choice(inner.choice),
        }
        given = {name: guide for name, guide in found.items() if guide is not None}
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)}: give only one form for the answer")
        guide = next((replace(guide, field=name) for name, guide in given.items()), None)
        field, blanks = "guided_whitespace_pattern", self.guided_whitespace_pattern
        if blanks is None:
            field, blanks = "structured_outputs.whitespace_pattern", inner.whitespace_pattern
        if blanks is None:
            return guide
        pretty = _matches(blanks, "\n", field) or _matches(blanks, "\n  ", field)
        if guide is None or not guide.kind.startswith("json") or not (pretty or _matches(blanks, " ", field)):
            ignored.add(field)
            return guide
        return replace(guide, pretty=pretty)


def _matches(blanks: str, text: str, field: str) -> bool:
    """Whether an expression for blanks matches a text. Raises OptionError."""
    from pocketvlm.guided.expressions import matches

    try:
        return matches(f"^(?:{blanks})$", text)
    except OptionError as error:
        raise OptionError(f"{field}={blanks[:80]!r} is not a regular expression: {error}") from None


def _json(schema: Json | bool | None) -> Guide | None:
    return None if schema is None else Guide("json_schema", schema)


def _choice(choices: list[str] | None) -> Guide | None:
    if choices is None:
        return None
    if not choices or not all(choices):
        raise OptionError("guided_choice: give at least one choice, none of them empty")
    return Guide("choice", choices)


class Identified(Guided):
    """Fields of both OpenAI endpoints that say who sends a request, and under which id."""

    user: str | None = None
    request_id: str | None = Field(None, max_length=128, pattern=r"^[A-Za-z0-9._:\-]+$")

    @property
    def end_user(self) -> str | None:
        """Who asks."""
        return self.user

    @property
    def own_id(self) -> str | None:
        """Its request_id."""
        return self.request_id


class ChatRequest(Identified):
    """A conversation to be answered."""

    interface = CHAT
    messages: Annotated[list[Json], _MESSAGES]
    max_completion_tokens: int | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Json | None = Field(None, description="Variables of the template, such as enable_thinking.")
    reasoning_effort: Effort | None = Field(
        None, description="none and minimal: the model does not think first; default and auto leave it open."
    )
    thinking_token_budget: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Maximum number of tokens of reasoning; then the answer begins."
    )
    mm_processor_kwargs: Json | None = Field(
        None, description="Options for all images and videos: " + ", ".join(MEDIA_OPTIONS) + "."
    )
    continue_final_message: bool | None = Field(None, description="The answer goes on in the last message.")
    add_generation_prompt: bool | None = None
    skip_special_tokens: bool | None = None
    normalize_newlines: bool | None = Field(None, description="Make the two characters \\n a newline.")
    priority: int | None = Field(None, description="Lower numbers run first.")

    def questions(self, ignored: IgnoredFields, template: str) -> list[Question]:
        """What is asked. Raises OptionError and PromptError."""
        sampling = {**self.sampling(), **token_limit(self, "max_completion_tokens", "max_tokens")}
        if self.top_logprobs and not self.logprobs:
            raise OptionError("top_logprobs needs logprobs: true")
        if self.logprobs:
            sampling["logprobs"] = self.top_logprobs or 0
        if self.stream_options is not None and not self.stream:
            ignored.add("stream_options")
        tools = read_tools(self.tools, self.tool_choice, self.parallel_tool_calls)
        question = Question(
            messages=plain_messages(self.messages, ignored),
            sampling=sampling,
            options=self._options(),
            tools=tools,
            guide=form_of(self.guide(ignored), tools, ignored),
            n=self.n or 1,
            normalize_newlines=self.normalize_newlines,
            skip_special_tokens=self.skip_special_tokens is not False,
            priority=self.priority or 0,
            thinking_budget=self.thinking_token_budget,
        )
        return [question]

    def _options(self) -> dict[str, Any]:
        options = check_options(self.mm_processor_kwargs or {}, "mm_processor_kwargs", MEDIA_OPTIONS)
        if self.chat_template_kwargs is not None:
            options["template_kwargs"] = self.chat_template_kwargs
        thinking = thinks(self.reasoning_effort)
        if thinking is not None and "enable_thinking" not in (self.chat_template_kwargs or {}):
            options["enable_thinking"] = thinking
        if self.continue_final_message:
            if self.add_generation_prompt:
                raise OptionError("continue_final_message and add_generation_prompt exclude each other")
            options["continue_final_message"] = True
        if self.add_generation_prompt is not None:
            options["add_generation_prompt"] = self.add_generation_prompt
        return options


class CompletionRequest(Identified):
    """Text to be continued, without a chat template. Control tokens in it are control tokens."""

    interface = COMPLETIONS
    prompt: str | list[str] | list[Count] | list[list[Count]]
    n: Annotated[int, Field(ge=1)] | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    skip_special_tokens: bool | None = None
    normalize_newlines: bool | None = None
    priority: int | None = None

    def questions(self, ignored: IgnoredFields, template: str) -> list[Question]:
        """One for each prompt. Raises OptionError."""
        sampling = self.sampling()
        if self.logprobs is not None:
            if self.echo:
                raise OptionError("logprobs with echo: log-probabilities of the prompt are not supported")
            sampling["logprobs"] = self.logprobs
        if self.stream_options is not None and not self.stream:
            ignored.add("stream_options")
        prompts: list[Any] = [self.prompt]
        if isinstance(self.prompt, list) and not (self.prompt and isinstance(self.prompt[0], int)):
            prompts = list(self.prompt)
        if not prompts:
            raise OptionError("prompt is empty: give at least one")
        guide = self.guide(ignored)
        return [
            Question(
                text=prompt if isinstance(prompt, str) else None,
                ids=None if isinstance(prompt, str) else prompt,
                sampling=sampling,
                guide=guide,
                n=self.n or 1,
                chat=False,
                normalize_newlines=self.normalize_newlines,
                skip_special_tokens=self.skip_special_tokens is not False,
                priority=self.priority or 0,
            )
            for prompt in prompts
        ]

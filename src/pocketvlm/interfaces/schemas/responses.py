"""This is the request of OpenAI's /v1/responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pocketvlm.errors import OptionError
from pocketvlm.interfaces.fields import RESPONSES, IgnoredFields
from pocketvlm.interfaces.media import check_options
from pocketvlm.interfaces.requests import Guide, Question
from pocketvlm.interfaces.schemas.common import Effort, Json, Object, Sampling, thinks, token_limit
from pocketvlm.interfaces.schemas.items import Items
from pocketvlm.interfaces.schemas.tools import FlatTool, ToolChoice, form_of, read_tools
from pocketvlm.options.media import MEDIA_OPTIONS

LOGPROBS = "message.output_text.logprobs"


class TextFormat(Object):
    """The form that the text must have."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Json | None = Field(None, alias="schema")
    strict: bool | None = None


class TextSetting(Object):
    """What the text is like."""

    format: TextFormat | None = None


class ReasoningSetting(Object):
    """Whether the model thinks first."""

    effort: Effort | None = None


class ResponsesRequest(Sampling):
    """A conversation to be answered. The whole of it must be given each time."""

    interface = RESPONSES
    input: str | Annotated[list[Json], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, description="null or -1: no limit but the context.")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[FlatTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextSetting | None = None
    reasoning: ReasoningSetting | None = None
    include: list[str] | None = Field(None, description=f"{LOGPROBS}: log-probabilities of the text.")
    metadata: dict[str, str] | None = Field(None, description="Given back as it is.")
    chat_template_kwargs: Json | None = Field(None, description="Variables of the template, such as enable_thinking.")
    mm_processor_kwargs: Json | None = None
    priority: int | None = None
    user: str | None = None

    @property
    def with_logprobs(self) -> bool:
        """Whether the text comes with log-probabilities."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    @property
    def end_user(self) -> str | None:
        """Who asks."""
        return self.user

    def questions(self, ignored: IgnoredFields, template: str) -> list[Question]:
        """What is asked. Raises OptionError and PromptError."""
        sampling = {**self.sampling(), **token_limit(self, "max_output_tokens", "max_tokens")}
        for index, name in enumerate(self.include or ()):
            if name != LOGPROBS:
                ignored.add(f"include[{index}]")
        if self.with_logprobs:
            sampling["logprobs"] = self.top_logprobs or 0
        options = check_options(self.mm_processor_kwargs or {}, "mm_processor_kwargs", MEDIA_OPTIONS)
        if self.chat_template_kwargs is not None:
            options["template_kwargs"] = self.chat_template_kwargs
        thinking = thinks(self.reasoning.effort if self.reasoning else None)
        if thinking is not None and "enable_thinking" not in (self.chat_template_kwargs or {}):
            options["enable_thinking"] = thinking
        tools = read_tools(self.tools, self.tool_choice, self.parallel_tool_calls)
        messages, places = Items(ignored).read(self.instructions, self.input)
        question = Question(
            messages=messages,
            places=places,
            sampling=sampling,
            options=options,
            tools=tools,
            guide=form_of(self._guide(), tools, ignored),
            priority=self.priority or 0,
        )
        return [question]

    def _guide(self) -> Guide | None:
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return Guide("json_object", field="text.format")
        if form.schema_ is None:
            raise OptionError("text.format.schema: this field is required with type json_schema")
        return Guide("json_schema", form.schema_, field="text.format")

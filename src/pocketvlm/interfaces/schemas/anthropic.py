"""`MessagesRequest` is the request of Anthropic's /v1/messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pocketvlm.errors import OptionError
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.fields import MESSAGES, IgnoredFields
from pocketvlm.interfaces.media import check_options
from pocketvlm.interfaces.requests import Guide, Question, ToolUse
from pocketvlm.interfaces.schemas.blocks import Blocks
from pocketvlm.interfaces.schemas.common import AnswerRequest, Json, ModelRequest, Object
from pocketvlm.interfaces.schemas.tools import Name, OtherTool, form_of, tool_use
from pocketvlm.options.media import MEDIA_OPTIONS
from pocketvlm.processor.messages import plain_data


class Message(Object):
    """One turn: text, or blocks of text, image, document, thinking, tool_use, tool_result and other types."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Json]


class AnthropicTool(Object):
    """A function with a JSON schema of its arguments."""

    name: Name
    input_schema: Json
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = Field(None, description="true: calls keep to the schema, by grammar.")
    input_examples: list[Json] | None = Field(None, description="The model sees them as the schema's examples.")

    def plain(self, where: str) -> dict[str, Any]:
        """In OpenAI's form. where: its place in the request. Raises PromptError for JSON that is nested too deep."""
        parameters = plain_data(self.input_schema, f"{where}.input_schema")
        if self.input_examples:
            parameters["examples"] = plain_data(self.input_examples, f"{where}.input_examples")
        function: dict[str, Any] = {"name": self.name, "parameters": parameters}
        if self.description is not None:
            function["description"] = self.description
        if self.strict is not None:
            function["strict"] = self.strict
        return {"type": "function", "function": function}


def _kind(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "type", None)
    return "Own" if kind in (None, "custom", "function") else "Other"


Tool = Annotated[Annotated[AnthropicTool, Tag("Own")] | Annotated[OtherTool, Tag("Other")], Discriminator(_kind)]


class AnthropicChoice(Object):
    """Which function must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingSetting(Object):
    """Whether the model thinks first, and for how many tokens at most."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = Field(None, description="omitted: thinking blocks are empty.")


class OutputFormat(Object):
    """The form that the text must have."""

    type: Literal["json_schema"]
    schema_: Json = Field(alias="schema")


class OutputConfig(Object):
    """What the text is like."""

    format: OutputFormat | None = None


class MessageMetadata(Object):
    """Who asks."""

    user_id: str | None = None


class CountRequest(ModelRequest):
    """What is to be counted."""

    interface = MESSAGES
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[Json] | None = None
    tools: list[Tool] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: ThinkingSetting | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(None, description="The older name of output_config.format.")
    thread: Json | None = Field(None, description='Nothing is stored: only {"type": "create"} is accepted.')
    mm_processor_kwargs: Json | None = None

    def question(self, ignored: IgnoredFields) -> Question:
        """What is asked. Raises OptionError, PromptError and ApiError."""
        options = check_options(self.mm_processor_kwargs or {}, "mm_processor_kwargs", MEDIA_OPTIONS)
        if self.thinking is not None:
            options["enable_thinking"] = self.thinking.type != "disabled"
        if self.thread is not None:
            if self.thread.get("type") != "create":
                # The code with which clients replay their whole history, and after that go on without threads.
                raise ApiError(
                    400,
                    "thread: nothing is stored: send the whole conversation without it",
                    param="thread",
                    details={"error_code": "thread_not_found"},
                )
            ignored.add("thread")
        turns = ((message.role, message.content) for message in self.messages)
        messages, places = Blocks(ignored).read(self.system, turns)
        if messages and messages[-1]["role"] == "assistant":
            options["continue_final_message"] = True
        tools = self._tools()
        return Question(
            messages=messages,
            places=places,
            options=options,
            tools=tools,
            guide=form_of(self._guide(), tools, ignored),
            thinking_budget=self.thinking.budget_tokens if self.thinking else None,
        )

    def _guide(self) -> Guide | None:
        new = self.output_config.format if self.output_config else None
        given = new or self.output_format
        if new is not None and self.output_format not in (None, new):
            raise OptionError("output_config.format and output_format differ: give only one of them")
        field = "output_format" if new is None else "output_config.format"
        return None if given is None else Guide("json_schema", given.schema_, field=field)

    def _tools(self) -> ToolUse:
        names = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}
        given = self.tool_choice or AnthropicChoice(type="auto")
        if given.type == "tool" and given.name is None:
            raise OptionError("tool_choice.name: this field is required with type tool")
        tools = [
            tool.plain(f"tools[{index}]")
            for index, tool in enumerate(self.tools or ())
            if not isinstance(tool, OtherTool)
        ]
        if given.type in ("any", "tool") and not tools:
            raise OptionError(f"tool_choice.type={given.type!r} needs tools: give at least one with an input_schema")
        return tool_use(tools, names[given.type], given.name, given.disable_parallel_tool_use is not True)


class MessagesRequest(CountRequest, AnswerRequest):
    """A conversation to be answered."""

    max_tokens: Annotated[int, Field(ge=1)]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    metadata: MessageMetadata | None = None

    @property
    def hides_thinking(self) -> bool:
        """Whether thinking blocks have no text."""
        return self.thinking is not None and self.thinking.display == "omitted"

    @property
    def end_user(self) -> str | None:
        """Who asks."""
        return self.metadata.user_id if self.metadata else None

    def questions(self, ignored: IgnoredFields, template: str) -> list[Question]:
        """What is asked. Raises OptionError, PromptError and ApiError."""
        names = ("max_tokens", "temperature", "top_p", "top_k")
        sampling: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.stop_sequences:
            sampling["stop"] = self.stop_sequences
        return [replace(self.question(ignored), sampling=sampling)]

"""These are the requests of /tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pocketvlm.errors import OptionError
from pocketvlm.interfaces.fields import TOKENS, IgnoredFields
from pocketvlm.interfaces.media import check_options
from pocketvlm.interfaces.requests import Question
from pocketvlm.interfaces.schemas.common import Count, Json, ModelRequest
from pocketvlm.interfaces.schemas.parts import plain_messages
from pocketvlm.interfaces.schemas.tools import Tool, read_tools
from pocketvlm.options.media import MEDIA_OPTIONS


class TokenizeRequest(ModelRequest):
    """Text, or a conversation with its images."""

    interface = TOKENS
    prompt: str | None = None
    messages: Annotated[list[Json], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: Json | None = None
    mm_processor_kwargs: Json | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None

    def question(self, ignored: IgnoredFields) -> Question:
        """What is asked. Raises OptionError."""
        if (self.prompt is None) == (self.messages is None):
            raise OptionError("give prompt or messages, one of them")
        if self.messages is None:
            return Question(text=self.prompt, chat=False)
        options: dict[str, Any] = check_options(self.mm_processor_kwargs or {}, "mm_processor_kwargs", MEDIA_OPTIONS)
        if self.chat_template_kwargs is not None:
            options["template_kwargs"] = self.chat_template_kwargs
        for name in ("add_generation_prompt", "continue_final_message"):
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        return Question(
            messages=plain_messages(self.messages, ignored),
            options=options,
            tools=read_tools(self.tools, None, None),
        )


class DetokenizeRequest(ModelRequest):
    """Token ids."""

    interface = TOKENS
    tokens: Annotated[list[Count], Field(max_length=1_000_000)]

"""Functions that a model may call, in the forms of the interfaces, and which of them it must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from pocketvlm.errors import OptionError
from pocketvlm.server.asking import ToolUse
from pocketvlm.server.schemas.common import Json, Strict


class Function(Strict):
    """A function: its name, what it does, and a JSON schema of its arguments."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$")
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = Field(None, description="true: calls keep to the schema, by grammar.")


class Tool(Strict):
    """One tool; functions are the only kind."""

    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """As templates and parsers read it."""
        return {"type": "function", "function": self.function.model_dump(exclude_none=True)}


class NamedFunction(Strict):
    """The name of a function."""

    name: str


class NamedTool(Strict):
    """A tool choice that names the function to call."""

    type: Literal["function"]
    function: NamedFunction


def tool_use(tools: Sequence[Mapping[str, Any]], choice: str, name: str | None, parallel: bool) -> ToolUse:
    """Tools and choice, checked against each other. Raises OptionError."""
    names = [tool["function"]["name"] for tool in tools]
    for each in names:
        if names.count(each) > 1:
            raise OptionError(f"tools: there are two functions with the name {each!r}")
    if choice in ("required", "named") and not tools:
        raise OptionError(f"tool_choice={choice!r} needs tools")
    if choice == "named" and name not in names:
        raise OptionError(f"tool_choice: there is no function {name!r} among the tools")
    if choice not in ("auto", "none", "required", "named"):
        raise OptionError(f"tool_choice={choice!r} is not supported: give auto, none, required or a function")
    return ToolUse(tuple(tools), choice, name, parallel)  # type: ignore[arg-type]

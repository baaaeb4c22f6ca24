"""Tools of all interfaces become one form, with the choice of which must be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from pocketvlm.errors import OptionError
from pocketvlm.interfaces.fields import IgnoredFields
from pocketvlm.interfaces.requests import Guide, ToolUse
from pocketvlm.interfaces.schemas.common import Json, Object

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$")]


class Function(Object):
    """A function: its name, what it does, and a JSON schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = Field(None, description="true: calls keep to the schema, by grammar.")

    def plain(self) -> dict[str, Any]:
        """As templates and parsers read it."""
        names = ("name", "description", "parameters", "strict")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {"type": "function", "function": given}


class FunctionTool(Object):
    """A function that may be called."""

    type: Literal["function"] = "function"
    function: Function

    def plain(self) -> dict[str, Any]:
        """As templates and parsers read it."""
        return self.function.plain()


class FlatFunction(Function):
    """A function; here its fields have no object of their own."""

    type: Literal["function"] = "function"


class OtherTool(Object):
    """A tool that only OpenAI's or Anthropic's own servers have: the model is not told of it."""

    skipped: ClassVar[bool] = True
    type: str


def _kind(tool: Any) -> str:
    kind = tool.get("type", "function") if isinstance(tool, Mapping) else getattr(tool, "type", "function")
    return "FunctionTool" if kind in ("function", None) else "OtherTool"


Tool = Annotated[
    Annotated[FunctionTool, Tag("FunctionTool")] | Annotated[OtherTool, Tag("OtherTool")], Discriminator(_kind)
]
FlatTool = Annotated[
    Annotated[FlatFunction, Tag("FunctionTool")] | Annotated[OtherTool, Tag("OtherTool")], Discriminator(_kind)
]


class NamedFunction(Object):
    """The name of a function."""

    name: str


class NamedTool(Object):
    """The function that must be called. Its name stands in an object (chat) or next to the type (responses)."""

    type: Literal["function"]
    function: NamedFunction | None = None
    name: str | None = None


class AllowedTools(Object):
    """Some of the tools, of which one may (mode auto) or must (mode required) be called."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool]


class AllowedChoice(Object):
    """A choice among some of the tools: in an object (chat) or with mode and tools next to the type (responses)."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] | None = None


def _choice_kind(choice: Any) -> str:
    kind = choice.get("type") if isinstance(choice, Mapping) else getattr(choice, "type", None)
    return "Word" if isinstance(choice, str) else "AllowedChoice" if kind == "allowed_tools" else "NamedTool"


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("Word")]
    | Annotated[AllowedChoice, Tag("AllowedChoice")]
    | Annotated[NamedTool, Tag("NamedTool")],
    Discriminator(_choice_kind),
]


def read_tools(
    tools: Sequence[FunctionTool | FlatFunction | OtherTool] | None,
    choice: str | AllowedChoice | NamedTool | None,
    parallel: bool | None,
) -> ToolUse:
    """The functions of a request and which of them may be called. Raises OptionError."""
    functions = [tool.plain() for tool in tools or () if not isinstance(tool, OtherTool)]
    if isinstance(choice, AllowedChoice):
        if choice.allowed_tools is None and choice.tools is None:
            raise OptionError("tool_choice.tools: a list of the functions that may be called is required")
        given = choice.allowed_tools or AllowedTools(mode=choice.mode, tools=choice.tools or [])
        allowed = [_name(tool, f"tool_choice.tools[{index}]") for index, tool in enumerate(given.tools)]
        names = {tool["function"]["name"] for tool in functions}
        for name in allowed:
            if name not in names:
                raise _missing(name)
        wanted = set(allowed)
        functions = [tool for tool in functions if tool["function"]["name"] in wanted]
        return tool_use(functions, given.mode, None, parallel is not False)
    if isinstance(choice, NamedTool):
        return tool_use(functions, "named", _name(choice, "tool_choice"), parallel is not False)
    return tool_use(functions, choice or "auto", None, parallel is not False)


def _name(tool: NamedTool, where: str) -> str:
    name = tool.function.name if tool.function is not None else tool.name
    if name is None:
        raise OptionError(f"{where}: the name of a function is required")
    return name


def _missing(name: str | None) -> OptionError:
    return OptionError(f"tool_choice: there is no function {name!r} among the tools")


def tool_use(tools: Sequence[Mapping[str, Any]], choice: str, name: str | None, parallel: bool) -> ToolUse:
    """Tools and choice, checked against each other. Raises OptionError."""
    names: set[str] = set()
    for tool in tools:
        each = tool["function"]["name"]
        if each in names:
            raise OptionError(f"tools: there are two functions with the name {each!r}")
        names.add(each)
    if choice in ("required", "named") and not tools:
        raise OptionError(f"tool_choice={choice!r} needs tools: give at least one function")
    if choice == "named" and name not in names:
        raise _missing(name)
    if choice not in ("auto", "none", "required", "named"):
        raise OptionError(f"tool_choice={choice!r} is not supported: give auto, none, required or a function")
    return ToolUse(tuple(tools), choice, name, parallel)  # type: ignore[arg-type]


def form_of(guide: Guide | None, tools: ToolUse, ignored: IgnoredFields) -> Guide | None:
    """The form that an answer must have: none where a function must be called, whose arguments have their own."""
    if guide is not None and tools.offered and tools.choice in ("required", "named"):
        ignored.add(guide.field)
        return None
    return guide

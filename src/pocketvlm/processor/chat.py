"""The checkpoint's chat template runs in a Jinja sandbox as in transformers (docs/model.md 6)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from pocketvlm.errors import CheckpointError, PromptError
from pocketvlm.processor.guard import ASSISTANT_CONTROL, Guard

_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


# An escaped backslash, or an escaped private-use character: one unit below U+10000, a surrogate pair above.
_ESCAPED = re.compile(r"\\\\|\\u(e[0-9a-f]{3}|f[0-8][0-9a-f]{2})|\\u(db[89a-f][0-9a-f])\\u(d[c-f][0-9a-f]{2})")


def _unescape(match: re.Match[str]) -> str:
    single, high, low = match.groups()
    if single:
        return chr(int(single, 16))
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    return match.group()


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without Jinja's HTML escapes, keys in the order given."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    # The marks of `guard` are private-use characters; they must survive templates that ask for plain ASCII.
    return _ESCAPED.sub(_unescape, text) if ensure_ascii else text


def _compile(source: str, where: str) -> Any:
    """Compile a template; imports Jinja. Raises CheckpointError for a syntax error."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks assistant text for training; for a prompt only its body matters."""

        tags = {"generation"}  # noqa: RUF012 - the attribute that Jinja reads

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(f"{where}: line {error.lineno}: {error.message}") from error


class ChatTemplate:
    """A chat template and its variant for tools, if the checkpoint has one."""

    def __init__(
        self,
        source: str,
        tool_source: str | None = None,
        variables: Mapping[str, str] | None = None,
        where: str = "chat template",
    ) -> None:
        """Compile. variables: names such as eos_token that the template may use. Raises CheckpointError."""
        self.source = source
        self.where = where
        self._variables = dict(variables or {})
        self._template = _compile(source, where)
        self._tool_template = self._template if tool_source is None else _compile(tool_source, where)

    @classmethod
    def load(cls, jinja: str | None, tokenizer_config: Mapping[str, Any]) -> ChatTemplate:
        """From the text of chat_template.jinja, else (None) from tokenizer_config.json.

        tokenizer_config's `chat_template` may be one string or a list of {"name", "template"}: "default" is used, and
        "tool_use" when tools are given. Raises CheckpointError if there is no template.
        """
        extra = tokenizer_config.get("extra_special_tokens")
        names = {name: tokenizer_config.get(name) for name in _TOKEN_NAMES}
        names.update(extra if isinstance(extra, Mapping) else {})
        texts = {name: item.get("content") if isinstance(item, Mapping) else item for name, item in names.items()}
        variables = {name: text for name, text in texts.items() if isinstance(text, str)}
        if jinja is not None:
            return cls(jinja, variables=variables)
        where = "tokenizer_config.json: chat_template"
        given = tokenizer_config.get("chat_template")
        if isinstance(given, str):
            return cls(given, variables=variables, where=where)
        if isinstance(given, Sequence):
            named = {str(item.get("name")): item.get("template") for item in given if isinstance(item, Mapping)}
            default = named.get("default")
            if isinstance(default, str):
                return cls(default, named.get("tool_use"), variables, where)
            raise CheckpointError(f"{where} has no entry named 'default'; it has {sorted(named)}")
        raise CheckpointError(
            "the checkpoint has no chat template: neither chat_template.jinja nor one in tokenizer_config.json"
        )

    @cached_property
    def takes_system_anywhere(self) -> bool:
        """Whether the template writes every system message, also several and later ones."""
        texts = [f"probe-{number}" for number in range(5)]
        roles = ("system", "system", "user", "system", "user")
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        try:
            written = self.render(messages)
        except PromptError:
            return False
        places = [written.find(text) for text in texts]
        return min(places) >= 0 and places == sorted(places)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt text. messages and tools are plain data (messages.read_messages, read_tools).

        Raises PromptError with the template's own words when it refuses the messages.
        """
        template = self._tool_template if tools else self._template
        try:
            text: str = template.render(
                messages=list(messages),
                tools=None if tools is None else list(tools),
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **{**self._variables, **variables},
            )
        except Exception as error:  # a template is foreign code, and any exception of it is about these messages
            way_out = ": add a user message" if "No user query" in str(error) else ""
            raise PromptError(f"the chat template refused the messages: {error}{way_out}") from error
        return text


def protect_messages(messages: Sequence[Mapping[str, Any]], guard: Guard) -> list[dict[str, Any]]:
    """Messages with every user-written string marked; roles and part types stay as they are.

    An assistant's content and reasoning keep `<think>` and `<tool_call>` tags as control tokens, because the template
    parses them and the model wrote them; tool calls are protected in full.
    """
    result = []
    for message in messages:
        allowed = ASSISTANT_CONTROL if message["role"] == "assistant" else frozenset[str]()
        copy: dict[str, Any] = {}
        for key, value in message.items():
            if key == "role":
                copy[key] = value
            elif key in ("content", "reasoning_content"):
                copy[key] = _protect_content(value, guard, allowed)
            else:
                copy[key] = guard.protect_all(value)
        result.append(copy)
    return result


def _protect_content(content: Any, guard: Guard, allowed: frozenset[str]) -> Any:
    if isinstance(content, str):
        return guard.protect(content, allowed)
    return [{**part, "text": guard.protect(part["text"], allowed)} if "text" in part else part for part in content]

"""Messages name the parameters of Python; `as_typed` names the flags of the command that runs instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

# The command that runs, or ran last.
_command: ContextVar[Any] = ContextVar("command", default=None)
# Options of a content part or a file, which no flag set, come after one of these.
_ELSEWHERE = r"(?<!\]: )(?<!\.json: )"
# How a message about keys of a JSON object begins.
_KEYS = "--processor-kwargs: "


def remember(command: Any) -> None:
    """Take the flags of this command from now on."""
    _command.set(command)


def as_typed(text: str) -> str:
    """A message with `--max-length=8` for `max_length=8`, `--resume` for `resume=True`, `--media-dir` for `media_dir`.

    Names without an underscore are words too, so only those with a value are taken for parameters.
    """
    flags = _flags(_command.get())
    if not flags or text.startswith(_KEYS):
        return text
    names = "|".join(map(re.escape, sorted(flags, key=len, reverse=True)))

    def given(found: re.Match[str]) -> str:
        flag, value = flags[found[1]], found[2]
        return {"True": flag, "False": f"--no-{flag[2:]}"}.get(value or "", f"{flag}={value or ''}")

    text = re.sub(rf"(?<![^\s(]){_ELSEWHERE}({names})=(True\b|False\b)?", given, text)
    words = "|".join(re.escape(name) for name in flags if "_" in name)
    if not words:
        return text
    return re.sub(rf"(?<![^\s(])({words})(?=[\s,:;)]|$)", lambda found: flags[found[1]], text)


def _flags(command: Any) -> Mapping[str, str]:
    """The flag of each parameter of a command, by its name in Python."""
    found = {
        str(each.name): next(name for name in each.opts if name.startswith("--"))
        for each in getattr(command, "params", ())
        if any(name.startswith("--") for name in each.opts)
    }
    # Options whose flag has another name than the parameter.
    return found | dict(getattr(getattr(command, "callback", None), "flags", {}))

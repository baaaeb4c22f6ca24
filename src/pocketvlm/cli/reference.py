"""This module writes docs/cli.md from the application: `python -m pocketvlm.cli.reference > docs/cli.md`."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import typer

_INTRODUCTION = """\
# Command line

Made by `python -m pocketvlm.cli.reference > docs/cli.md`; a test keeps it up to date.

MODEL is `nano` (built in), a directory, or a hub id such as `openbmb/MiniCPM-V-4.6` or
`openbmb/MiniCPM-V-4.6@revision`. The answer or the table goes to stdout, everything else to stderr. Each option can be
set by an environment variable too: `POCKETVLM_<COMMAND>_<OPTION>`, for example `POCKETVLM_RUN_MAX_TOKENS=64`,
`POCKETVLM_RUN_THINKING=1` or `POCKETVLM_INFO_MODEL=nano`; an option that is typed wins.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: one line on stderr begins with `error:`; `--debug` adds the traceback |
| 2 | used wrongly: an unknown option, or a value that is not supported |
| 130 | interrupted with Ctrl+C |
| 141 | the reader of stdout went away, as with `\\| head -1` |
"""


def reference() -> str:
    """The page in Markdown."""
    from pocketvlm.cli.app import NAME, app

    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    leaves = {
        f"{name} {under}" if under else name: leaf
        for name, command in commands.items()
        for under, leaf in getattr(command, "commands", {"": command}).items()
    }
    return "\n".join([_INTRODUCTION, *(_section(NAME, name, leaf) for name, leaf in leaves.items())])


def _section(program: str, name: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    usage = [_usage(param) for param in arguments]
    lines = [f"## `{' '.join([program, name, *usage])}`", "", inspect.cleandoc(command.help), ""]
    panels: dict[str, list[Any]] = {"Arguments": arguments}
    for param in command.params:
        if param.param_type_name == "option" and param.rich_help_panel:
            panels.setdefault(param.rich_help_panel, []).append(param)
    for panel, params in panels.items():
        if not params:
            continue
        rows = [f"| {_spelling(param)} | {_cell(param.help)}{_default(param)} |" for param in params]
        lines += [f"| {panel} | |", "|---|---|", *rows, ""]
    examples, *notes = inspect.cleandoc(command.epilog).partition("Examples:\n\n")[2].split("\n\n")
    lines += ["```sh", inspect.cleandoc(examples), "```", ""]
    return "\n".join(lines + [f"{note}\n" for note in notes if not note.startswith("Each option")])


def _usage(argument: Any) -> str:
    name = f"{argument.metavar}{'...' if argument.nargs < 0 else ''}"
    return str(name) if argument.required else f"[{name}]"


def _spelling(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{param.metavar}`"
    value = f" {param.metavar}" if param.metavar else ""
    return ", ".join(f"`{_cell(spelling + value)}`" for spelling in (*param.opts, *param.secondary_opts))


def _default(param: Any) -> str:
    shown = isinstance(param.default, str)
    return f" Default: `{param.default}`." if shown else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())

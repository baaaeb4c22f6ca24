"""The application registers all commands and turns every failure into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted, 141 the reader of stdout went away.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pocketvlm import __version__
from pocketvlm.cli import cache, data
from pocketvlm.cli.batch import batch
from pocketvlm.cli.bench import bench
from pocketvlm.cli.bench_serve import bench_serve
from pocketvlm.cli.chat import chat
from pocketvlm.cli.compare import compare
from pocketvlm.cli.convert import convert
from pocketvlm.cli.evaluate import eval_
from pocketvlm.cli.failure import FAILED, report, warn
from pocketvlm.cli.finetune import finetune
from pocketvlm.cli.info import info
from pocketvlm.cli.merge import merge
from pocketvlm.cli.notices import Notices, clean_stderr, clean_warnings
from pocketvlm.cli.plain import PlainCommand, PlainValues
from pocketvlm.cli.pull import pull
from pocketvlm.cli.quantize import quantize
from pocketvlm.cli.run import run
from pocketvlm.cli.serve import serve
from pocketvlm.cli.tokens import tokens

NAME = "pocketvlm"

_EPILOG = """
Examples:

  pocketvlm run nano -i cat.jpg "What is this?"
  pocketvlm run nano -i page.png "Read the text." --downsample-mode 4x
  pocketvlm chat openbmb/MiniCPM-V-4.6
  pocketvlm serve openbmb/MiniCPM-V-4.6
  pocketvlm batch pictures/ -o captions.jsonl -p "Describe this image."
  pocketvlm tokens -i page.png
  pocketvlm info openbmb/MiniCPM-V-4.6
  pocketvlm quantize openbmb/MiniCPM-V-4.6 gguf --format gguf --report report.json

MODEL is "nano" (built in, the default), a directory, a GGUF file, or a hub id such as openbmb/MiniCPM-V-4.6; \
org/name:Q4_K_M is the GGUF file of that type.
"""


class _Group(PlainValues, TyperGroup):
    """Reports the exception of a command and turns it into an exit code. Knows commands whose names are two words."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if len(args) > 1 and two in self.commands else args)

    def invoke(self, ctx: typer.Context) -> None:  # type: ignore[override]
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(report(error, debug=bool(ctx.meta.get("debug")))) from None


app = typer.Typer(
    name=NAME,
    cls=_Group,
    epilog=_EPILOG,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        print(f"{NAME} {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """MiniCPM-V 4.6 on this machine: images in, text out."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


_COMMANDS = (
    run,
    chat,
    serve,
    batch,
    info,
    tokens,
    bench,
    bench_serve,
    pull,
    quantize,
    convert,
    compare,
    eval_,
    finetune,
    merge,
)
for _function in _COMMANDS:
    _python_name = _function.__name__.rstrip("_")
    _name = _python_name.replace("_", " ")
    app.command(
        _name,
        cls=PlainCommand,
        epilog=sys.modules[_function.__module__].EPILOG,
        context_settings={"auto_envvar_prefix": f"POCKETVLM_{_python_name.upper()}"},
    )(_function)


app.add_typer(cache.app, name="cache")
app.add_typer(data.app, name="data")


def start(argv: Sequence[str] | None = None) -> int:
    """Run the application and return its exit code."""
    if sys.stderr is None:  # closed by the shell; print() would then write to stdout
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        print("error: stdout is closed", file=sys.stderr)
        return FAILED
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    found = Notices(warn)
    # Not inside `clean_stderr`, which would lose the messages of compiled code that crashes.
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        with contextlib.nullcontext() if debug else clean_stderr(found), clean_warnings(found):
            code = typer.main.get_command(app).main(argv, NAME, standalone_mode=False, obj=found)
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        return report(error, debug=False)
    return code if isinstance(code, int) else 0

"""Every failure becomes one line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback

import typer

from pocketvlm.cli.terminal import printable
from pocketvlm.cli.typed import as_typed
from pocketvlm.errors import DataError, OptionError, PocketVLMError, VideoError
from pocketvlm.suggest import nearest

# How the processor names a part of a message.
_PART = re.compile(r"^messages\[\d+\]\.content\[(\d+)\]: ")

FAILED, USAGE, INTERRUPTED, READER_GONE = 1, 2, 130, 141


def report(error: BaseException, debug: bool) -> int:
    """Print a failure on stderr, with a traceback if `debug`, and return the exit code."""
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
        return READER_GONE
    if debug and not isinstance(error, typer.TyperException):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        _say(f"interrupted: {as_typed(str(error))}" if str(error) else "interrupted")
        return INTERRUPTED
    message, code = _explain(error)
    # Faults of training data come one a line.
    first, *others = message.split("\n") if isinstance(error, DataError) else [message]
    for line in (f"error: {first}", *others):
        _say(line)
    if isinstance(error, OSError):
        _drop_stdout()
    return code


def warn(text: str, source: str) -> None:
    """Say a warning of a library on stderr."""
    _say(f"warning: {source}{': ' if source else ''}{text}")


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, typer.TyperException):
        return _usage(error), error.exit_code
    if isinstance(error, PocketVLMError):
        return _as_typed(error), USAGE if isinstance(error, OptionError) else FAILED
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {error}' if str(error) else ''}: close other programs, or ask for less", FAILED
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}", FAILED
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"unexpected {text} (run again with --debug for the traceback)", FAILED


def _as_typed(error: PocketVLMError) -> str:
    """Rewrites parameters and message parts in an error as arguments; images are the first parts."""
    # A video may come after any number of images; its name is in the message.
    video = isinstance(error, VideoError)
    message = _PART.sub(lambda found: "video: " if video else f"image {int(found[1]) + 1}: ", str(error))
    return as_typed(message.removeprefix("options: "))


def _usage(error: typer.TyperException) -> str:
    """The parser's complaint in one line, with the nearest spelling where there is one."""
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    near = getattr(error, "possibilities", None)
    value, choices = _given(error), re.findall(r"'([^']+)'", message.partition(" is not one of ")[2])
    if near:
        message = f"{error.message}: did you mean {' or '.join(near)}?"
    elif choices and (near := nearest(str(value), choices)):
        message += f": did you mean {near!r}?"
    elif value is not None and not choices:
        message += f", not {value!r}"
    elif "extra argument" in message:
        message += ": put the prompt in quotes, and -i before each image"
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pocketvlm"
    return f"{message} (see {path} --help)"


def _given(error: typer.TyperException) -> object:
    """The value that the parser's validator refused, or None for another error."""
    details = getattr(error.__cause__, "errors", None)
    return details()[0].get("input") if callable(details) else None


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        # One write, because another thread may write at the same time.
        sys.stderr.write(printable(" ".join(line.split())) + "\n")
        sys.stderr.flush()


def _drop_stdout() -> None:
    """Discard the buffered output, so that the interpreter's last flush cannot fail again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

"""`clean_warnings` and `clean_stderr` turn each warning of libraries and compiled code into one line on stderr.

For the command line alone: an application that imports the package has its own ideas about all three.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from pocketvlm.errors import AdapterWarning, CacheWarning

# Text, and the library that it comes from (empty for our own).
Say = Callable[[str, str], None]

# Our own limits on the size of pictures apply, so this warning tells users nothing.
_USELESS = ("DecompressionBombWarning",)
_OWN = (CacheWarning, AdapterWarning)
# Each text is printed once, up to this number of texts, which bounds the memory and the log of a server.
_REMEMBERED = 1000


class Notices:
    """Writes the warnings of a command. write: the output function, may be replaced. quiet: suppresses all warnings."""

    def __init__(self, write: Say) -> None:
        self.write = write
        self.quiet = False

    def __call__(self, text: str, source: str) -> None:
        """Take a warning."""
        if not self.quiet:
            self.write(text, source)


def notices(context: Any) -> Notices:
    """The Notices of the command with this context; silent if `app.start` does not run the command."""
    found: Notices | None = context.find_object(Notices)
    return found or Notices(lambda text, source: None)


@contextlib.contextmanager
def clean_stderr(say: Say) -> Iterator[None]:
    """A block in which lines that compiled libraries write to file descriptor 2 go to `say`; `sys.stderr` goes on."""
    try:
        real = os.dup(2)
    except OSError:  # closed
        yield
        return
    usual = sys.stderr
    source, target = os.pipe()
    # A library may write while it holds the interpreter's lock, and must then not wait for the reading thread.
    os.set_blocking(target, False)
    if _is_descriptor_2(usual):
        sys.stderr = os.fdopen(real, "w", 1, usual.encoding, usual.errors, closefd=False)
    thread = threading.Thread(target=_forward, args=(source, say), name="stderr", daemon=True)
    thread.start()
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        os.dup2(real, 2)
        # A child process that still runs may hold the other end.
        thread.join(1.0)
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        sys.stderr = usual
        os.close(real)


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):
        return False


def _forward(source: int, say: Say) -> None:
    with os.fdopen(source, "rb") as lines:
        for line in lines:
            if line.strip():
                say(" ".join(line.decode("utf-8", "replace").split()), "")


@contextlib.contextmanager
def clean_warnings(say: Say) -> Iterator[None]:
    """A block in which each warning goes to `say` once, as one line, and nothing writes it to stderr itself."""
    said: set[tuple[str, str]] = set()

    def once(text: str, source: str) -> None:
        line = " ".join(text.split())
        if (line, source) not in said and len(said) < _REMEMBERED:
            said.add((line, source))
            say(line, source)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category.__name__ not in _USELESS:
            once(str(message), "" if issubclass(category, _OWN) else _library(filename))

    handler = _Handler(once)
    usual = logging.getLoggerClass()
    root = logging.getLogger()
    with warnings.catch_warnings():
        warnings.showwarning = show
        for own in _OWN:
            warnings.simplefilter("always", own)
        logging.setLoggerClass(_without_stderr(usual))
        root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)
            logging.setLoggerClass(usual)


class _Handler(logging.Handler):
    """Log records of libraries, from warnings on."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit: a library's slip must not end the command
            text = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        self._say(text, record.name.split(".")[0])


def _without_stderr(usual: type[logging.Logger]) -> type[logging.Logger]:
    """A class of loggers that take no handler for stderr; huggingface_hub gives its own loggers one."""

    class Logger(usual):  # type: ignore[valid-type, misc]
        def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802
            stream: TextIO | None = getattr(hdlr, "stream", None)
            if type(hdlr) is not logging.StreamHandler or stream not in (sys.stderr, sys.__stderr__):
                super().addHandler(hdlr)

    return Logger


def _library(filename: str) -> str:
    """The package that a source file is part of."""
    parts = Path(filename).parts
    after = [parts[at + 1] for at, part in enumerate(parts[:-1]) if part in ("site-packages", "dist-packages")]
    name = after[-1] if after else Path(filename).stem
    return {"PIL": "Pillow"}.get(name, name)

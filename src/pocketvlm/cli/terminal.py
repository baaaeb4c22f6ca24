"""Terminal output is made safe here: control characters, status lines, progress."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TextIO

from pocketvlm.bytesize import readable_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Text from models, files and servers must not control the terminal. Tab and newline are allowed.
_CONTROLS = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}

DELAY = 0.5


def printable(text: str) -> str:
    """Text with control characters replaced by their pictures."""
    return text.translate(_CONTROLS)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads this stream."""
    return stream.isatty()


def dim(text: str, stream: TextIO) -> str:
    """Text for a status line: less bright where the stream shows colours."""
    plain = not is_terminal(stream) or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[2m{text}\x1b[0m"


class Activity:
    """One line of progress on stderr, shown after DELAY seconds and removed at the end.

    Silent if stderr is no terminal. Any thread may report.
    """

    def __init__(self, quiet: bool) -> None:
        self._lock = threading.Lock()
        self._open = not quiet and is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
        self._timer: threading.Timer | None = None
        self._now = _Report("", 0, 0, False, "")
        self._progress: Progress | None = None
        self._task: tuple[str, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def say(self, label: str, done: int = 0, total: int = 0, in_bytes: bool = False, note: str = "") -> None:
        """Report the current activity, and its progress if that is known. note: follows the label, may change."""
        with self._lock:
            if not self._open:
                return
            self._now = _Report(label, done, total, in_bytes, note)
            if self._progress is not None:
                self._draw(self._progress)
            elif self._timer is None:
                self._timer = threading.Timer(DELAY, self._show)
                self._timer.daemon = True
                self._timer.start()

    def downloading(self, model: str) -> Callable[[int, int], None]:
        """A callback for bytes done and bytes in all."""
        return lambda done, total: self.say(f"downloading {model}", done, total, in_bytes=True)

    def loading(self, model: str) -> Callable[[str, int, int], None]:
        """A callback for the stages of `pocketvlm.load`: download, counted in bytes, then load."""
        download = self.downloading(model)

        def report(stage: str, done: int, total: int) -> None:
            if stage == "download":
                download(done, total)
            else:
                self.say(f"loading {model}", done, total)

        return report

    def close(self) -> None:
        """Remove the line; later reports show nothing."""
        with self._lock:
            self._open = False
            if self._timer is not None:
                self._timer.cancel()
            if self._progress is not None:
                self._progress.stop()
                self._progress = None

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with self._lock:
            if not self._open:
                return
            label = TextColumn("{task.description}", markup=False)
            columns = (SpinnerColumn(), label, BarColumn(bar_width=20), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._draw(self._progress)
            self._progress.start()

    def _draw(self, progress: Progress) -> None:
        now = self._now
        if self._task is None or self._task[0] != now.label:
            if self._task is not None:
                progress.remove_task(self._task[1])
            self._task = now.label, progress.add_task(now.label, total=None)
        progress.update(self._task[1], description=now.text, completed=now.done, total=now.total or None)


@dataclass(frozen=True, slots=True)
class _Report:
    """The progress of an activity; total is 0 if it is unknown."""

    label: str
    done: int
    total: int
    in_bytes: bool
    note: str

    @property
    def text(self) -> str:
        if self.total and self.in_bytes:
            return f"{self.label} {readable_size(self.done)} of {readable_size(self.total)}{self.note}"
        return f"{self.label}{self.note}"

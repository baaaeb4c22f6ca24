"""The live screen renders Markdown while an answer streams and folds the reasoning, with rich."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from pocketvlm.chat.figures import status
from pocketvlm.chat.session import AnswerSummary, ChatEvent
from pocketvlm.cli.chatting.markdown import split_blocks
from pocketvlm.cli.chatting.screen import Screen, Thought
from pocketvlm.cli.terminal import dim, printable
from pocketvlm.parsing import Content, Reasoning

# Seconds before the screen says that it waits.
_SILENT_SECONDS = 0.5
# Seconds between two drawings.
_PERIOD = 0.1


class LiveScreen(Screen):
    """Renders answers as Markdown: finished blocks scroll away, the last block is redrawn while it grows."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet)
        self.console = Console(markup=False, highlight=False, emoji=False)

    def answer(self, events: Iterator[ChatEvent]) -> AnswerSummary | None:
        """Show an answer while it streams; returns its summary."""
        state = _State()
        summary = None
        # Not rich's own thread: if it draws while another one prints, both count the same lines as drawn.
        with silent_keys(), Live(state, console=self.console, auto_refresh=False, transient=True) as live:
            try:
                with _redrawing(live) as lock:
                    for event in events:
                        with lock:
                            if isinstance(event, AnswerSummary):
                                summary = event
                            elif isinstance(event, Reasoning):
                                state.thought.add(printable(event.text))
                            elif isinstance(event, Content):
                                self._folded(live, state)
                                done, state.text = split_blocks(state.text + printable(event.text))
                                if done:
                                    live.console.print(_Block(done, state))
            finally:
                remaining, state.text = state.text, ""
                state.over = True
                live.refresh()
                self._folded(live, state)
                live.console.print(_Block(remaining, state))
        if summary is not None:
            self.note([status(summary)])
        return summary

    def gap(self) -> None:
        """Print an empty line after an answer."""
        self.console.print()

    def _folded(self, live: Live, state: _State) -> None:
        for line in state.thought.fold():
            if not self.quiet:
                live.console.print(_dim(line, self.console.width))

    def _err(self, lines: Iterable[str]) -> None:
        # Flush the drawing before text goes to the other stream.
        sys.stdout.flush()
        super()._err(lines)


@contextlib.contextmanager
def _redrawing(live: Live) -> Iterator[threading.Lock]:
    """Redraws the screen at intervals; holding the yielded lock prevents drawing."""
    lock, over = threading.Lock(), threading.Event()

    def draw() -> None:
        while not over.wait(_PERIOD):
            with lock, contextlib.suppress(OSError):
                live.refresh()

    thread = threading.Thread(target=draw, name="draw", daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        over.set()
        thread.join()


class _State:
    """The content of the live screen: a waiting line, the last thought, or the last block of the text."""

    def __init__(self) -> None:
        self.text = ""
        self.thought = Thought()
        self.over = False
        self.begun = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        seconds = self.thought.seconds
        if self.over:
            return
        if self.text.strip():
            # Of a block longer than the screen show the end; the whole block is printed when it is complete.
            lines = [*([[]] if self.begun else []), *_render_lines(self.text, console, options)]
            for line in lines[-max(console.height - 2, 1) :]:
                yield from line
                yield Segment.line()
        elif self.thought.text and not self.begun:
            last = " ".join(self.thought.text.rstrip().rpartition("\n")[2].split())
            yield _dim(f"thinking ... {seconds:.0f} s", options.max_width)
            yield _dim(last[-(options.max_width - 2) :], options.max_width)
        elif seconds >= _SILENT_SECONDS and not self.begun:
            yield _dim(f"reading ... {seconds:.0f} s (Ctrl+C stops)", options.max_width)


class _Block:
    """Finished Markdown, separated by one empty line from earlier output."""

    def __init__(self, text: str, state: _State) -> None:
        self._text = text
        self._state = state

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._text.strip():
            if self._state.begun:
                yield Segment.line()
            self._state.begun = True
            for line in _render_lines(self._text, console, options):
                yield from line
                yield Segment.line()


def _render_lines(text: str, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    """Markdown as lines, without empty ones around it."""
    # Addresses are written out, because the text of a link must not hide its address.
    markdown = Markdown(text, code_theme="ansi_dark", hyperlinks=False)
    lines = console.render_lines(markdown, options, pad=False)
    full = [at for at, line in enumerate(lines) if "".join(segment.text for segment in line).strip()]
    return lines[full[0] : full[-1] + 1] if full else []


def _dim(text: str, width: int) -> Text:
    return Text(text[:width], style="dim" if dim("", sys.stdout) else "", no_wrap=True, overflow="crop")


@contextlib.contextmanager
def silent_keys() -> Iterator[None]:
    """Keys typed meanwhile are not echoed into the drawing but go into the next line. Ctrl+C works."""
    import termios

    terminal = sys.stdin.fileno()
    try:
        usual = termios.tcgetattr(terminal)
    except termios.error:
        yield
        return
    silent = [*usual[:3], usual[3] & ~termios.ECHO, *usual[4:]]
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, usual)

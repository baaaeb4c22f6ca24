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
from pocketvlm.chat.session import ChatEvent, Turn
from pocketvlm.cli.chatting.markdown import split_blocks
from pocketvlm.cli.chatting.screen import Screen, Thought
from pocketvlm.cli.terminal import dim, printable
from pocketvlm.parsing import Content, Reasoning

# Shorter waits need no words.
_PATIENCE = 0.5
# Seconds between two drawings.
_PERIOD = 0.1


class LiveScreen(Screen):
    """Answers are Markdown: finished blocks scroll away, the last one is drawn again as it grows."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet)
        self.console = Console(markup=False, highlight=False, emoji=False)

    def answer(self, pieces: Iterator[ChatEvent]) -> Turn | None:
        """Show an answer as it comes; returns how it went."""
        state = _State()
        turn = None
        # Not rich's own thread: where it draws while another one prints, both count the same lines as drawn.
        with silent_keys(), Live(state, console=self.console, auto_refresh=False, transient=True) as live:
            try:
                with _drawn_again(live) as lock:
                    for piece in pieces:
                        with lock:
                            if isinstance(piece, Turn):
                                turn = piece
                            elif isinstance(piece, Reasoning):
                                state.thought.add(printable(piece.text))
                            elif isinstance(piece, Content):
                                self._folded(live, state)
                                done, state.text = split_blocks(state.text + printable(piece.text))
                                if done:
                                    live.console.print(_Block(done, state))
            finally:
                rest, state.text = state.text, ""
                state.over = True
                live.refresh()
                self._folded(live, state)
                live.console.print(_Block(rest, state))
        if turn is not None:
            self.note([status(turn)])
        return turn

    def gap(self) -> None:
        """An empty line behind an answer."""
        self.console.print()

    def _folded(self, live: Live, state: _State) -> None:
        for line in state.thought.fold():
            if not self.quiet:
                live.console.print(_dim(line, self.console.width))

    def _err(self, lines: Iterable[str]) -> None:
        # What was drawn must be there before what comes on the other stream.
        sys.stdout.flush()
        super()._err(lines)


@contextlib.contextmanager
def _drawn_again(live: Live) -> Iterator[threading.Lock]:
    """Draw now and then; whoever holds the lock keeps that from happening."""
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
    """What is drawn while an answer comes: that it is awaited, the last thought, or the last block of the text."""

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
            # The end of a block that is longer than the screen: its beginning comes when it is whole.
            lines = [*([[]] if self.begun else []), *_drawn(self.text, console, options)]
            for line in lines[-max(console.height - 2, 1) :]:
                yield from line
                yield Segment.line()
        elif self.thought.text and not self.begun:
            last = " ".join(self.thought.text.rstrip().rpartition("\n")[2].split())
            yield _dim(f"thinking ... {seconds:.0f} s", options.max_width)
            yield _dim(last[-(options.max_width - 2) :], options.max_width)
        elif seconds >= _PATIENCE and not self.begun:
            yield _dim(f"reading ... {seconds:.0f} s (Ctrl+C stops)", options.max_width)


class _Block:
    """Finished Markdown, one empty line apart from what was drawn before."""

    def __init__(self, text: str, state: _State) -> None:
        self._text = text
        self._state = state

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._text.strip():
            if self._state.begun:
                yield Segment.line()
            self._state.begun = True
            for line in _drawn(self._text, console, options):
                yield from line
                yield Segment.line()


def _drawn(text: str, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    """Markdown as lines, without empty ones around it."""
    # Addresses are written out: what a model calls a link must not hide where it leads.
    markdown = Markdown(text, code_theme="ansi_dark", hyperlinks=False)
    lines = console.render_lines(markdown, options, pad=False)
    full = [at for at, line in enumerate(lines) if "".join(segment.text for segment in line).strip()]
    return lines[full[0] : full[-1] + 1] if full else []


def _dim(text: str, width: int) -> Text:
    return Text(text[:width], style="dim" if dim("", sys.stdout) else "", no_wrap=True, overflow="crop")


@contextlib.contextmanager
def silent_keys() -> Iterator[None]:
    """What is typed meanwhile is not echoed into what is drawn; it waits for the next line. Ctrl+C works."""
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

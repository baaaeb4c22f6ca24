"""A chat's screen on a terminal: Markdown drawn while it comes, thinking folded, with rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from pocketvlm.chat.session import Piece, Turn
from pocketvlm.cli.chatting.markdown import split_blocks
from pocketvlm.cli.chatting.screen import Screen
from pocketvlm.cli.terminal import dim, printable
from pocketvlm.parsing import Content, Reasoning

# Shorter waits need no words.
_PATIENCE = 0.5


class LiveScreen(Screen):
    """Answers are Markdown: finished blocks scroll away, the last one is drawn again as it grows."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet)
        self.console = Console(markup=False, highlight=False, emoji=False)

    def answer(self, pieces: Iterator[Piece]) -> Turn | None:
        """Show an answer as it comes; returns how it went."""
        state = _State()
        turn = None
        with Live(state, console=self.console, refresh_per_second=10, transient=True, vertical_overflow="crop") as live:
            try:
                for piece in pieces:
                    if isinstance(piece, Turn):
                        turn = piece
                    elif isinstance(piece, Reasoning):
                        state.thought += printable(piece.text)
                    elif isinstance(piece, Content):
                        done, rest = split_blocks(state.text + printable(piece.text))
                        state.text = rest
                        if done.strip():
                            live.console.print(_markdown(done), Text())
            finally:
                rest, state.text, state.over = state.text, "", True
                live.refresh()
                if rest.strip():
                    live.console.print(_markdown(rest))
        self.after(turn)
        return turn

    def _err(self, lines: object) -> None:
        # One stream for all that is drawn, so that nothing overtakes anything.
        sys.stdout.flush()
        super()._err(lines)  # type: ignore[arg-type]

    def after(self, turn: Turn | None) -> None:
        """The lines below an answer, apart from it by an empty one."""
        super().after(turn)
        self.console.print()


class _State:
    """What is drawn while an answer comes: that it is awaited, the last thought, or the last block of the text."""

    def __init__(self) -> None:
        self.text = self.thought = ""
        self.over = False
        self._began = time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        seconds = time.monotonic() - self._began
        if self.over:
            return
        if self.text.strip():
            # The end of a block that is longer than the screen: its beginning comes when it is whole.
            lines = console.render_lines(_markdown(self.text), options, pad=False)
            for line in lines[-max(console.height - 2, 1) :]:
                yield from line
                yield Segment.line()
        elif self.thought:
            last = " ".join(self.thought.rstrip().rpartition("\n")[2].split())
            yield self._dim(f"thinking ... {seconds:.0f} s", options.max_width)
            yield self._dim(last[-(options.max_width - 2) :], options.max_width)
        elif seconds >= _PATIENCE:
            yield self._dim(f"reading ... {seconds:.0f} s (Ctrl+C stops)", options.max_width)

    def _dim(self, text: str, width: int) -> Text:
        return Text(text[:width], style="dim" if dim("", sys.stdout) else "", no_wrap=True, overflow="crop")


def _markdown(text: str) -> Markdown:
    # Addresses are written out: what a model calls a link must not hide where it leads.
    return Markdown(text, code_theme="ansi_dark", hyperlinks=False)

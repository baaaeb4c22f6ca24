"""Progress of work that takes minutes: a bar with the time left at a terminal, else a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from pocketvlm.bytesize import readable_size
from pocketvlm.cli.terminal import Activity, is_terminal, printable

# Seconds between the lines of one stage where stderr is no terminal.
INTERVAL = 30.0
# Stages whose work is counted in bytes.
_IN_BYTES = ("download", "write")
_MIN_SHARE = 0.02  # estimates of the time left before this share of a stage are worth nothing


class LongWork(Activity):
    """An activity with the time left. Where stderr is no terminal, it writes a line for each stage, and every 30 s."""

    def __init__(
        self, quiet: bool, words: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """words: how people read the names of stages."""
        super().__init__(quiet)
        self._words = words or {}
        self._lines = not quiet and not is_terminal(sys.stderr)
        self._clock = clock
        self._stage, self._began, self._written = "", 0.0, 0.0
        self._seen: set[str] = set()

    def step(self, stage: str, done: float, total: float, seconds_left: float | None = None, figures: str = "") -> None:
        """Report the work done of a stage. seconds_left: of all the work; None estimates those of the stage.

        figures: what else is worth knowing of the work so far.
        """
        now = self._clock()
        if begins := stage != self._stage:
            self._stage, self._began = stage, now
            if stage not in self._seen:  # a stage that comes again, as an evaluation does, gets no further line
                self._seen.add(stage)
                self._written = now - INTERVAL
        in_bytes, words = stage in _IN_BYTES, self._words.get(stage, stage)
        if seconds_left is None and total and done >= _MIN_SHARE * total:
            seconds_left = (now - self._began) * (total - done) / done
        left = "" if seconds_left is None or done >= total else f", {duration(seconds_left)} left"
        figures = f", {figures}" if figures else ""
        shown = (int(done), int(total)) if in_bytes or not total else (int(1000 * done / total), 1000)
        self.say(words, *shown, in_bytes, figures + left)
        if self._lines and now - self._written >= INTERVAL:
            self._written = now
            size = f" of {readable_size(total)}" if in_bytes else ""
            share = f": {done / total:.0%}{size}{figures}{left}" if total and not begins else ""
            print(printable(f"{words}{share}"), file=sys.stderr, flush=True)

    def show(self, label: str, done: int, total: int, note: str) -> None:
        """Report work whose figures the caller writes: at a terminal all the time, else every 30 s."""
        now = self._clock()
        if label != self._stage:
            self._stage, self._began, self._written = label, now, now
        self.say(label, done, total, False, note)
        if self._lines and now - self._written >= INTERVAL:
            self._written = now
            print(printable(f"{label}{note}"), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as people read them: 45 s, 3:05 min, 1:02 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, remainder = divmod(whole, 60)
    return f"{minutes}:{remainder:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"

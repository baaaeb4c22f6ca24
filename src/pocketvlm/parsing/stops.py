"""Stop strings are matched on a stream; text is held back only while it may become a stop string."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Matches stop strings in streamed text; `feed` returns text that is safe to show. Any split gives the same result.

    The match that is complete first ends the answer; if two end at the same character, the longer one counts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.matched: str | None = None
        self._held = ""

    def feed(self, text: str) -> str:
        """Read a chunk; returns the text that cannot become part of a stop string any more."""
        if self.matched is not None:
            return ""
        self._held += text
        found = [(start + len(stop), start, stop) for stop in self.stops if (start := self._held.find(stop)) >= 0]
        if found:
            _, start, self.matched = min(found)
            shown, self._held = self._held[:start], ""
            return shown
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """End the stream; returns the remaining text."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)

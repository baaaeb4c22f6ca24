"""Stop strings are matched on a stream; text is held back only while it may become a stop string."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Feed pieces of text; get back what is safe to show. The same result at any split.

    The match that is complete first ends the answer (the longer one, where two end at the same place).
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.matched: str | None = None
        self._held = ""

    def feed(self, text: str) -> str:
        """Take a piece; returns the text that no later piece can turn into a stop string."""
        if self.matched is not None:
            return ""
        self._held += text
        found = [(place + len(stop), place, stop) for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if found:
            _, place, self.matched = min(found)
            shown, self._held = self._held[:place], ""
            return shown
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """The rest, at the end of the stream."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)

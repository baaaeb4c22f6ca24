"""Measures one row of the comparison: two sides in turns, with medians, ranges and ratios."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Timer = Callable[[], float]
OWN = "pocketvlm"
PAUSE = 0.1  # seconds before each measurement, so that threads of the measurement before it go to sleep


class MissingError(Exception):
    """A peer that cannot be measured here; the text says how to get it."""


@dataclass(frozen=True)
class Row:
    """Timers of one task. tokens: divided by the seconds for tokens a second; 0 shows the seconds themselves.

    read: bytes that must be read from memory meanwhile, or 0 if memory is no limit. turns: maximum counted turns.
    warm: whether a warm-up turn goes first; not needed if the row before ran the same code.
    """

    name: str
    ours: Timer
    peers: Mapping[str, Timer] = field(default_factory=dict)
    tokens: int = 0
    read: int = 0
    turns: int | None = None
    warm: bool = True


@dataclass
class Figures:
    """The measurements: seconds of ours and of a peer next to each other, for each peer and turn.

    alone: seconds (or bytes) if there is no peer. bandwidth: bytes a second, measured with each of ours, in order.
    code: the commit that was measured.
    """

    name: str
    tokens: int = 0
    read: int = 0
    pairs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    alone: list[float] = field(default_factory=list)
    bandwidth: list[float] = field(default_factory=list)
    code: str = ""

    def ours(self) -> list[float]:
        """All of our figures, in the order they were taken."""
        turns = max((len(pairs) for pairs in self.pairs.values()), default=0)
        return self.alone or [pairs[i][0] for i in range(turns) for pairs in self.pairs.values()]

    def ratios(self, peer: str) -> list[float]:
        """The speed-up over a peer, for each pair."""
        return [theirs / own for own, theirs in self.pairs[peer]]

    def better(self) -> str | None:
        """The peer with the smallest median; other modes of our own are not peers."""
        medians = {
            peer: statistics.median(theirs for _, theirs in pairs)
            for peer, pairs in self.pairs.items()
            if not peer.startswith(OWN)
        }
        return min(medians, key=lambda peer: medians[peer]) if medians else None

    def shares(self) -> list[float]:
        """The part of the memory's bandwidth that reading `read` bytes takes up, for each of ours."""
        if not self.read or not self.bandwidth:
            return []
        return [self.read / own / best for own, best in zip(self.ours(), self.bandwidth, strict=True)]


def measure(row: Row, runs: int, bandwidth: Callable[[], float], complain: Callable[[str], None]) -> Figures:
    """Measure in turns: ours, a peer, ours, the next peer; the first turn is a warm-up. A failing peer is left out."""
    turns = min(runs, row.turns or runs)
    figures = Figures(row.name, row.tokens, row.read, {peer: [] for peer in row.peers})
    began = time.perf_counter()
    for turn in range(0 if row.warm else 1, turns + 1):
        taken: dict[str, tuple[float, float, float]] = {}
        for peer in list(figures.pairs) or [""]:
            best = bandwidth() if row.read else 0.0
            time.sleep(PAUSE)
            own, theirs = row.ours(), 0.0
            if peer:
                time.sleep(PAUSE)
                try:
                    theirs = row.peers[peer]()
                except Exception as error:
                    complain(f"{row.name}, {peer}: left out, it failed: {error}")
                    del figures.pairs[peer]
                    continue
            taken[peer] = own, theirs, best
        for peer, (own, theirs, best) in taken.items():
            if turn and peer:
                figures.pairs[peer].append((own, theirs))
            elif turn:
                figures.alone.append(own)
            if turn and row.read:
                figures.bandwidth.append(best)
    said = {peer: f"{statistics.median(figures.ratios(peer)):.2f}x" for peer in figures.pairs}
    own = statistics.median(figures.ours()) if figures.ours() else float("nan")
    print(f"{row.name}: {own:.4f} s, {said}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return figures

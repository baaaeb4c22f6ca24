"""A timeline finds the frame on the screen at second t: the last one that appeared at or before t.

Used where `start`, `end` or `fps` is given. Without them the reference's rule holds (`sampling.py`), which computes
frame numbers from the average rate. At a constant rate both choose the same frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.processor.sampling import thin

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Seconds; products of rates and times are rounded.
_ROUNDING = 1e-6
# Containers round times to their unit: differences up to half of it, but at most this many seconds, do not count.
_MAX_TOLERANCE = 5e-4


@dataclass(frozen=True, slots=True)
class Timeline:
    """When frames appear. starts: float64 [frames], ascending seconds from the first frame on, which is at 0.

    span: seconds until the last frame ends; file_span: seconds until the file ends, where the last frame stays on the
    screen while its sound goes on. unit: seconds that times are rounded to.
    """

    starts: NDArray[np.float64]
    span: float
    file_span: float
    unit: float = 0.0

    @classmethod
    def even(cls, total: int, fps: float) -> Timeline:
        """Frames that are equally long."""
        return cls(np.arange(total) / fps, total / fps, total / fps)

    def sample(
        self, begin: float, end: float, rate: float, maximum: int, stack: int = 1
    ) -> tuple[list[tuple[int, ...]], int]:
        """Frame numbers of each frame group that shows begin <= t < end, in order, and the number of main frames.

        There are `rate` main frames a second. A frame that stays on the screen is repeated once a second. If that gives
        more than `maximum` main frames, `maximum` of them are spread evenly over the part. If stack > 1, each main
        frame is followed by a composite of the stack - 1 moments before the next main frame.
        """
        starts = self.starts - min(self.unit / 2, _MAX_TOLERANCE) - _ROUNDING
        length = (end - begin) * rate
        moments = _moments((starts - begin) * rate, length, max(1, math.ceil(rate)))
        if len(moments) > maximum:
            # Tenths, as the reference thins a long video.
            moments = np.array(thin(int(length / 0.1), maximum)) * 0.1
        numbers = self._on_screen(starts, begin + moments / rate)
        groups: list[tuple[int, ...]] = []
        mains, shown = 0, (-1, -math.inf)
        for moment, number in zip(moments.tolist(), numbers.tolist(), strict=True):
            if number == shown[0] and moment - shown[1] < rate - _ROUNDING and rate > 1:
                continue
            mains, shown = mains + 1, (number, moment)
            groups.append((number,))
            inside = np.array([moment + part / stack for part in range(1, stack) if moment + part / stack < length])
            if len(inside):
                groups.append(tuple(self._on_screen(starts, begin + inside / rate).tolist()))
        return groups, mains

    def _on_screen(self, starts: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.int64]:
        numbers: NDArray[np.int64] = np.searchsorted(starts, seconds, side="right") - 1
        return np.maximum(numbers, 0)


def _moments(starts: NDArray[np.float64], end: float, every: int) -> NDArray[np.float64]:
    """Whole numbers 0 <= k < end at which a new frame is on the screen, and each `every` later while it stays.

    The number of results is bounded by that of frames and of seconds, whatever the rate.
    """
    count = max(1, math.ceil(end - _ROUNDING))
    first = np.clip(np.ceil(starts), 0, count).astype(np.int64)
    shown = -(-(np.append(first[1:], count) - first) // every)
    before = np.cumsum(shown) - shown
    repeats = np.arange(int(shown.sum())) - np.repeat(before, shown)
    found: NDArray[np.float64] = np.repeat(first, shown) + every * repeats.astype(np.float64)
    return found

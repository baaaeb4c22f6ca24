"""The sampling rule chooses frames of a video and groups some of them into composites (docs/model.md 4.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pocketvlm.options.media import ImageOptions
from pocketvlm.processor.sizes import plan_image
from pocketvlm.types import ImageInfo

# Width in pixels of the black lines between the frames of a composite.
GAP = 6


def sample(total: int, fps: float, seconds: float, maximum: int, stack: int = 1) -> tuple[list[int], list[int]]:
    """Indices of main frames and of sub-frames (none for stack 1) of a video of `total` frames.

    Up to `maximum` seconds there is one main frame a second. Of a longer video one for each tenth of a second is
    thinned to `maximum` of them. Products are cut to whole numbers in float64, as the reference does.
    """
    if seconds > maximum:
        count = int(seconds / 0.1)
        mains = [min(int(round(step * 0.1, 1) * fps), total - 1) for step in thin(count, maximum)]
    else:
        # Through rounding, a last second may begin after the last frame.
        mains = [index for second in range(math.ceil(seconds)) if (index := int(second * fps)) < total]
    return mains, [min(int(stamp * fps), total - 1) for stamp in _sub_stamps(seconds, maximum, stack)]


def thin(count: int, maximum: int) -> list[int]:
    """At most `maximum` of 0..count-1, evenly spread."""
    if count <= maximum:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, maximum, dtype=int)]


def _sub_stamps(seconds: float, maximum: int, stack: int) -> list[float]:
    """Times of the sub-frames: stack - 1 within each second, none past the end, thinned to maximum * (stack - 1)."""
    inside = stack - 1
    if inside < 1:
        return []
    last = math.ceil(seconds) - 1
    # Only in the last second can sub-frames lie after the end.
    count = last * inside + sum(last + part / stack < seconds for part in range(1, stack))
    return [step // inside + (step % inside + 1) / stack for step in thin(count, maximum * inside)]


def group_frames(total: int, fps: float, seconds: float, maximum: int, stack: int = 1) -> list[tuple[int, ...]]:
    """Frame indices of each group, in the order of the prompt: a main frame, then the composite of its sub-frames.

    The i-th main frame goes with the composite of second i, even if the main frames of a long video are further apart;
    composites of later seconds are then left out. That is the reference's rule.
    """
    mains, subs = sample(total, fps, seconds, maximum, stack)
    composites: dict[int, list[int]] = {}
    for stamp, index in zip(_sub_stamps(seconds, maximum, stack), subs, strict=True):
        composites.setdefault(int(stamp), []).append(index)
    found: list[tuple[int, ...]] = []
    for number, index in enumerate(mains):
        found.append((index,))
        if number in composites:
            found.append(tuple(composites[number]))
    return found


def plan_groups(width: int, height: int, groups: Sequence[tuple[int, ...]], options: ImageOptions) -> list[ImageInfo]:
    """The tokens of each frame group for frames of width x height, without any pixel (docs/model.md 4.6)."""
    plain = replace(options, use_image_id=False)
    return [
        plan_image(*canvas_size(canvas_grid(len(frames), width, height), width, height), plain) for frames in groups
    ]


def canvas_grid(count: int, width: int, height: int) -> tuple[int, int]:
    """(rows, columns) of a composite of `count` frames of width x height: nearest to square for 2 and 3 frames."""
    if count == 4:
        return 2, 2
    if count not in (2, 3):
        return 1, count
    row, column = (abs(_ratio(rows, cols, width, height) - 1.0) for rows, cols in ((1, count), (count, 1)))
    if row == column and count == 2:
        return (1, 2) if width / height >= 1.0 else (2, 1)
    return (1, count) if row <= column else (count, 1)


def _ratio(rows: int, cols: int, width: int, height: int) -> float:
    canvas = canvas_size((rows, cols), width, height)
    return canvas[0] / max(1, canvas[1])


def canvas_size(grid: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """(width, height) of a composite with frames of width x height in a grid of (rows, columns)."""
    rows, cols = grid
    return cols * width + (cols - 1) * GAP, rows * height + (rows - 1) * GAP

"""The sampling rule chooses frames of a video and groups some of them into composites (docs/model.md 4.6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import OptionError
from pocketvlm.processor.sizes import ImageOptions, plan_image
from pocketvlm.types import ImageInfo

MAX_FRAMES = 100_000
MAX_STACK = 64
# What the model card advises for video, where an image has the checkpoint's own settings.
ADVISED = {"max_slice_nums": 1, "use_image_id": False}
OWN = ("max_num_frames", "stack_frames", "fps", "start", "end")
# Width in pixels of the black lines between the frames of a composite.
GAP = 6


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How a video is sampled, and how each of its frames and composites is cut (`image`).

    max_num_frames: maximum number of main frames; those of a longer video are spread evenly over its length.
    stack_frames: frames a second; with 1 the main frame alone, with s > 1 the other s - 1 frames become one composite
    after it. fps: main frames a second (None: 1), or the rate of a source that has no rate. start, end: seconds of the
    part to sample. fps of a file, start and end switch to sampling by time (`timeline.py`).
    """

    max_num_frames: int = 128
    stack_frames: int = 1
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    image: ImageOptions = field(default_factory=lambda: ImageOptions(max_slice_nums=1, use_image_id=False))

    def __post_init__(self) -> None:
        """Refuse unsupported values, naming option, value and what is allowed."""
        checks = (
            ("max_num_frames", _whole(self.max_num_frames, MAX_FRAMES), f"a whole number from 1 to {MAX_FRAMES}"),
            ("stack_frames", _whole(self.stack_frames, MAX_STACK), f"a whole number from 1 (off) to {MAX_STACK}"),
            ("fps", self.fps is None or _number(self.fps, 1e-4, 1000.0), "a number from 0.0001 to 1000"),
            ("start", self.start is None or _number(self.start, 0.0, 1e9), "seconds from 0"),
            ("end", self.end is None or _number(self.end, 0.0, 1e9), "seconds from 0"),
        )
        for name, good, wanted in checks:
            if not good:
                raise OptionError(f"{name}={getattr(self, name)!r} is not supported: give {wanted}")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise OptionError(f"end={self.end!r} is not after start={self.start or 0.0!r}: nothing is between them")

    @classmethod
    def resolve(cls, config: ProcessorConfig, *overrides: Mapping[str, Any], where: str = "options") -> VideoOptions:
        """Combine the model card's advice, the checkpoint's defaults, and options of request and content part.

        Later ones win, None is "not given". Raises OptionError; `where` names the place in the message.
        """
        mine: dict[str, Any] = {}
        image_overrides = []
        for override in overrides:
            mine |= {name: value for name, value in override.items() if name in OWN and value is not None}
            image_overrides.append({name: value for name, value in override.items() if name not in OWN})
        image = ImageOptions.resolve(config, ADVISED, *image_overrides, where=where)
        try:
            return replace(cls(image=image), **mine)
        except OptionError as error:
            raise OptionError(f"{where}: {error}") from None


def _whole(value: object, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= maximum


def _number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


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

"""A clip decodes, composes, resizes and cuts the frames of a video on a thread, ahead of vision.

Sizes and token counts are known from the first frame, so a prompt is ready before anything else is decoded. Of a clip
of any length a few pictures are in memory: those that were just asked for, and `AHEAD` behind them.
"""

from __future__ import annotations

import hashlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import OptionError, VideoError
from pocketvlm.options.media import VideoOptions
from pocketvlm.processor.frames import Decoder, Frames, check_rate, open_frames, rated
from pocketvlm.processor.image import Patches, prepare_image
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.sampling import GAP, canvas_grid, canvas_size, sample, units
from pocketvlm.processor.sizes import Layout, describe, plan_layout, view_tokens
from pocketvlm.types import MediaSeconds, PendingView, VideoInfo, View

if TYPE_CHECKING:
    from PIL.Image import Image

# Stage ("watch"), pictures made, and how many there are.
Progress = Callable[[str, int, int], None]
# Pictures that are made before they are asked for.
AHEAD = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """One picture of a clip: the frames in it, its size in pixels, and the sizes of its views."""

    frames: tuple[int, ...]
    width: int
    height: int
    layout: Layout

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each view: the overview, then the slices row by row."""
        rows, cols = self.layout.grid or (0, 0)
        return [self.layout.overview, *[self.layout.slice_size or (0, 0)] * (rows * cols)]


class Clip:
    """The pictures of one video, by number. `load` is best called in ascending order; any thread may call it."""

    def __init__(self, frames: Frames, options: VideoOptions, config: ProcessorConfig, limits: MediaLimits) -> None:
        """Chooses the frames and decodes the first of them. Raises VideoError or OptionError."""
        self.frames, self.options, self._config = frames, options, config
        self.seconds = MediaSeconds()
        self.progress: Progress | None = None
        self.where = ""  # the part of a message that it is from, for errors
        chosen, self.main_frames, self.fps, self.duration = _choose(frames, options, limits)
        self._decoders: dict[int, Decoder] = {}
        self._lanes = _lanes(chosen)
        self._first: tuple[int, Image] | None = None
        self._chosen = chosen
        first = self._read(chosen[0][0], 0)
        self._first = (chosen[0][0], first)
        self.width, self.height = first.size
        self.units = tuple(self._unit(unit) for unit in chosen)
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._made: dict[int, Future[tuple[Patches, ...]]] = {}

    def views(self, number: int) -> list[PendingView]:
        """The views of a picture, without a place in a prompt (start 0)."""
        unit, options = self.units[number], self.options.image
        with self._placed():
            digest = self.frames.digest(unit.frames)
        settings = f"{unit.frames} {self.width} {self.height} {asdict(options)}\n".encode()
        found = []
        for part, (height, width) in enumerate(unit.sizes):
            name = hashlib.sha256(b"video %d\n" % part + settings + digest).hexdigest()
            rows, cols = height // options.patch_size, width // options.patch_size
            tokens = view_tokens((height, width), options)
            found.append(PendingView(self, number, part, rows, cols, options.downsample_mode, 0, tokens, name))
        return found

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Errors of frames that are read after the message was name its part, as those of the first frame do."""
        try:
            yield
        except VideoError as error:
            raise VideoError(f"{self.where}: {error}" if self.where else str(error)) from error.__cause__

    def describe(self, tokens: int) -> VideoInfo:
        """The public summary; `tokens` counts the whole block with its markers."""
        layout = plan_layout(self.width, self.height, self.options.image)
        one = describe(self.width, self.height, layout, self.options.image, 0)
        return VideoInfo(
            width=self.width,
            height=self.height,
            frames=self.frames.total,
            fps=self.fps,
            seconds=self.duration,
            pictures=tuple(unit.frames for unit in self.units),
            main_frames=self.main_frames,
            downsample_mode=one.downsample_mode,
            grid=one.grid,
            overview_size=one.overview_size,
            slice_size=one.slice_size,
            vision_tokens=self.vision_tokens,
            tokens=tokens,
        )

    @property
    def vision_tokens(self) -> int:
        """Tokens of all views."""
        return sum(view_tokens(size, self.options.image) for unit in self.units for size in unit.sizes)

    def prepare(self, number: int, timeout: float = 0.0) -> bool:
        """Begin to make the picture; whether `load` would not wait, after at most so many seconds.

        Several may be asked for one after the other before the first of them is loaded.
        """
        with self._lock:
            future = self._begin(number)
        return bool(wait_for([future], timeout).done)

    def load(self, number: int, part: int) -> View:
        """View `part` of a picture. Raises VideoError. Pictures before it are forgotten."""
        with self._lock:
            future = self._begin(number)
            self._forget([other for other in self._made if other < number])
        return future.result()[part].at(0)

    def _begin(self, number: int) -> Future[tuple[Patches, ...]]:
        """The picture in the making, and some behind it; after a jump the others are forgotten."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, "frames")
        if self._made and not min(self._made) <= number <= max(self._made) + 1:
            self._forget(list(self._made))
        for other in range(number, min(number + AHEAD + 1, len(self.units))):
            if other not in self._made:
                self._made[other] = self._threads.submit(_make, weakref.ref(self), other)
        return self._made[number]

    def _forget(self, numbers: list[int]) -> None:
        for number in numbers:
            self._made.pop(number).cancel()

    def _make(self, number: int) -> tuple[Patches, ...]:
        began, unit = time.perf_counter(), self.units[number]
        image = self._compose([self._read(index, self._lanes[number]) for index in unit.frames])
        if number:
            self._first = None
        decoded = time.perf_counter()
        views = prepare_image(image, self.options.image, self._config)
        self.seconds.decode += decoded - began
        self.seconds.resize += time.perf_counter() - decoded
        if self.progress is not None:
            self.progress("watch", number + 1, len(self.units))
        if number == len(self.units) - 1:
            self._close()
        return views

    def _read(self, number: int, lane: int) -> Image:
        if self._first is not None and self._first[0] == number:
            return self._first[1]
        if lane not in self._decoders:
            units = zip(self._chosen, self._lanes, strict=True)
            self._decoders[lane] = self.frames.decoder(sorted({n for unit, its in units if its == lane for n in unit}))
        return self._decoders[lane].read(number)

    def _close(self) -> None:
        for decoder in self._decoders.values():
            decoder.close()
        self._decoders.clear()

    def _unit(self, frames: tuple[int, ...]) -> Unit:
        width, height = self.width, self.height
        if len(frames) > 1:
            width, height = canvas_size(canvas_grid(len(frames), width, height), width, height)
        return Unit(frames, width, height, plan_layout(width, height, self.options.image))

    def _compose(self, images: Sequence[Image]) -> Image:
        """Several frames on a black canvas, row by row (docs/model.md 4.6); one frame as it is."""
        import PIL.Image

        for image in images:
            if image.size != (self.width, self.height):
                raise VideoError(
                    f"{self.frames.name}: a frame has {image.width}x{image.height} pixels, the first one "
                    f"{self.width}x{self.height}: give all frames one size"
                )
        if len(images) == 1:
            return images[0]
        grid = canvas_grid(len(images), self.width, self.height)
        canvas = PIL.Image.new("RGB", canvas_size(grid, self.width, self.height))
        for index, image in enumerate(images):
            row, col = divmod(index, grid[1])
            canvas.paste(image, (col * (self.width + GAP), row * (self.height + GAP)))
        return canvas


def _lanes(chosen: list[tuple[int, ...]]) -> list[int]:
    """For each picture which of two decoders reads it, so that both go forward only.

    Main frames of a long clip are spread over all of it, composites lie in its first minutes.
    """
    lanes, at = [], [-1, -1]
    for unit in chosen:
        lane = 0 if unit[0] >= at[0] else 1
        at[lane] = unit[-1]
        lanes.append(lane)
    return lanes


def _make(clip: weakref.ref[Clip], number: int) -> tuple[Patches, ...]:
    """A picture of a clip that somebody still wants: what waits in the queue does not keep it."""
    found = clip()
    if found is None:
        raise VideoError("nobody waits for this video any more")
    with found._placed():
        return found._make(number)


def open_clip(
    source: Any, options: VideoOptions, config: ProcessorConfig, limits: MediaLimits, *, is_base64: bool = False
) -> Clip:
    """A clip from what `frames.open_frames` takes, or "video:PATH[:fps]". Raises VideoError or OptionError."""
    fps = options.fps
    if isinstance(source, str) and not is_base64:
        source, said = rated(source)
        if said is not None:
            if fps not in (None, said):
                raise OptionError(f"video {source!r}: its name says fps={said:g}, the options fps={fps:g}: give one")
            fps = said
    if fps != options.fps:
        options = replace(options, fps=fps)
    part = None
    if options.start is not None or options.end is not None:
        part = (options.end or float("inf")) - (options.start or 0.0)
    alpha = options.image.alpha
    frames = open_frames(source, limits, fps=fps, is_base64=is_base64, part=part, alpha=alpha)
    return Clip(frames, options, config, limits)


def _choose(
    frames: Frames, options: VideoOptions, limits: MediaLimits
) -> tuple[list[tuple[int, ...]], int, float | None, float | None]:
    """Frame numbers of each picture; how many are main frames; rate and seconds of the part that is looked at."""
    check_rate(frames, options.stack_frames, options.start, options.end)
    if frames.fps is None or frames.seconds is None:
        if frames.total > options.max_num_frames:
            raise VideoError(
                f"{frames.name}: {frames.total} frames are more than max_num_frames={options.max_num_frames}: raise "
                "it, or give fps, the rate of these frames, to have some of them chosen"
            )
        return [(number,) for number in range(frames.total)], frames.total, None, None
    by_time = options.start is not None or options.end is not None or (options.fps is not None and not frames.paced)
    if not by_time:
        _check_seconds(frames, frames.seconds, limits)
        whole = (frames.total, frames.fps, frames.seconds, options.max_num_frames)
        return units(*whole, options.stack_frames), len(sample(*whole)[0]), frames.fps, frames.seconds
    line, begin = frames.timeline(), options.start or 0.0
    last = line.span if options.start is None and options.end is None else line.file_span
    end = last if options.end is None else min(options.end, last)
    if begin >= end:
        raise VideoError(f"{frames.name}: no frame at start={begin:g}: it is {last:g} s long: give a smaller start")
    _check_seconds(frames, end - begin, limits)
    rate = 1.0 if options.fps is None or frames.paced else options.fps
    chosen, mains = line.sample(begin, end, rate, options.max_num_frames, options.stack_frames)
    return chosen, mains, frames.fps, end - begin


def _check_seconds(frames: Frames, seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.max_video_seconds:
        raise VideoError(
            f"{frames.name}: {seconds:.0f} s are longer than the limit of {limits.max_video_seconds:g} s: give a "
            "shorter part with start and end, or raise max_video_seconds"
        )

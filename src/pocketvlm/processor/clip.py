"""A clip decodes, composes, resizes and cuts the frames of a video on a thread, before the vision tower needs them.

Sizes and token counts follow from the first frame, so a prompt is ready before any other frame is decoded. The model
sees a clip as a sequence of frame groups: a single frame, or several frames in one composite. However long a clip is,
memory holds only the groups requested last and the `AHEAD` groups after them.
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
from pocketvlm.processor.sampling import GAP, canvas_grid, canvas_size, group_frames, sample
from pocketvlm.processor.sizes import Layout, describe, plan_layout, view_tokens
from pocketvlm.types import MediaSeconds, PendingView, VideoInfo, View

if TYPE_CHECKING:
    from PIL.Image import Image

# Stage ("watch"), frame groups prepared, and their total number.
Progress = Callable[[str, int, int], None]
# Frame groups that are prepared before they are requested.
AHEAD = 4


@dataclass(frozen=True, slots=True)
class FrameGroup:
    """A single frame, or the frames of one composite; its size in pixels and the layout of its views."""

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
    """The frame groups of one video, by number. `load` is fastest in ascending order; any thread may call it."""

    def __init__(self, frames: Frames, options: VideoOptions, config: ProcessorConfig, limits: MediaLimits) -> None:
        """Chooses the frames and decodes the first of them. Raises VideoError or OptionError."""
        self.frames, self.options, self._config = frames, options, config
        self.seconds = MediaSeconds()
        self.progress: Progress | None = None
        self.where = ""  # the message part that the clip comes from, for errors
        chosen, self.main_frames, self.fps, self.duration = _choose(frames, options, limits)
        self._decoders: dict[int, Decoder] = {}
        self._decoder_numbers = _assign_decoders(chosen)
        self._first: tuple[int, Image] | None = None
        self._chosen = chosen
        first = self._read(chosen[0][0], 0)
        self._first = (chosen[0][0], first)
        self.width, self.height = first.size
        self.groups = tuple(self._group(group) for group in chosen)
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._made: dict[int, Future[tuple[Patches, ...]]] = {}

    def views(self, number: int) -> list[PendingView]:
        """The views of a frame group, not yet placed in a prompt (start 0)."""
        group, options = self.groups[number], self.options.image
        with self._errors_name_part():
            digest = self.frames.digest(group.frames)
        settings = f"{group.frames} {self.width} {self.height} {asdict(options)}\n".encode()
        found = []
        for part, (height, width) in enumerate(group.sizes):
            name = hashlib.sha256(b"video %d\n" % part + settings + digest).hexdigest()
            rows, cols = height // options.patch_size, width // options.patch_size
            tokens = view_tokens((height, width), options)
            found.append(PendingView(self, number, part, rows, cols, options.downsample_mode, 0, tokens, name))
        return found

    @contextmanager
    def _errors_name_part(self) -> Iterator[None]:
        """Makes errors of later frames name the message part, as errors of the first frame do."""
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
            pictures=tuple(group.frames for group in self.groups),
            main_frames=self.main_frames,
            downsample_mode=one.downsample_mode,
            grid=one.grid,
            overview_size=one.overview_size,
            slice_size=one.slice_size,
            vision_tokens=self.vision_tokens,
            tokens=tokens,
            times=self._times(),
        )

    def _times(self) -> tuple[tuple[float, ...], ...] | None:
        """When each chosen frame appears: frames of a file need not be equally long. None without a rate."""
        if self.fps is None:
            return None
        starts = self.frames.timeline().starts
        return tuple(tuple(round(float(starts[frame]), 4) for frame in group.frames) for group in self.groups)

    @property
    def vision_tokens(self) -> int:
        """Tokens of all views."""
        return sum(view_tokens(size, self.options.image) for group in self.groups for size in group.sizes)

    def prepare(self, number: int, timeout: float = 0.0) -> bool:
        """Start preparing a frame group; returns whether it is ready after at most `timeout` seconds.

        Several groups may be started before the first of them is loaded.
        """
        with self._lock:
            future = self._start(number)
        return bool(wait_for([future], timeout).done)

    def load(self, number: int, part: int) -> View:
        """View `part` of a frame group. Raises VideoError. Groups with smaller numbers are dropped from memory."""
        with self._lock:
            future = self._start(number)
            self._drop([other for other in self._made if other < number])
        return future.result()[part].at(0)

    def _start(self, number: int) -> Future[tuple[Patches, ...]]:
        """Start preparing a frame group and the `AHEAD` groups after it; after a jump, drop all others."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, "frames")
        if self._made and not min(self._made) <= number <= max(self._made) + 1:
            self._drop(list(self._made))
        for other in range(number, min(number + AHEAD + 1, len(self.groups))):
            if other not in self._made:
                self._made[other] = self._threads.submit(_make, weakref.ref(self), other)
        return self._made[number]

    def _drop(self, numbers: list[int]) -> None:
        for number in numbers:
            self._made.pop(number).cancel()

    def _make(self, number: int) -> tuple[Patches, ...]:
        began, group = time.perf_counter(), self.groups[number]
        image = self._compose([self._read(index, self._decoder_numbers[number]) for index in group.frames])
        if number:
            self._first = None
        decoded = time.perf_counter()
        views = prepare_image(image, self.options.image, self._config)
        self.seconds.decode += decoded - began
        self.seconds.resize += time.perf_counter() - decoded
        if self.progress is not None:
            self.progress("watch", number + 1, len(self.groups))
        if number == len(self.groups) - 1:
            self._close()
        return views

    def _read(self, index: int, decoder: int) -> Image:
        if self._first is not None and self._first[0] == index:
            return self._first[1]
        if decoder not in self._decoders:
            groups = zip(self._chosen, self._decoder_numbers, strict=True)
            wanted = {frame for frames, number in groups if number == decoder for frame in frames}
            self._decoders[decoder] = self.frames.decoder(sorted(wanted))
        return self._decoders[decoder].read(index)

    def _close(self) -> None:
        for decoder in self._decoders.values():
            decoder.close()
        self._decoders.clear()

    def _group(self, frames: tuple[int, ...]) -> FrameGroup:
        width, height = self.width, self.height
        if len(frames) > 1:
            width, height = canvas_size(canvas_grid(len(frames), width, height), width, height)
        return FrameGroup(frames, width, height, plan_layout(width, height, self.options.image))

    def _compose(self, images: Sequence[Image]) -> Image:
        """Several frames as a composite on a black canvas, row by row (docs/model.md 4.6); a single frame unchanged."""
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


def _assign_decoders(chosen: list[tuple[int, ...]]) -> list[int]:
    """For each frame group, which of two decoders (0 or 1) reads it, so that neither has to go back.

    A long clip needs two, because its main frames are spread over all of it while its composites lie in its first
    minutes.
    """
    numbers, last = [], [-1, -1]
    for frames in chosen:
        number = 0 if frames[0] >= last[0] else 1
        last[number] = frames[-1]
        numbers.append(number)
    return numbers


def _make(clip: weakref.ref[Clip], number: int) -> tuple[Patches, ...]:
    """Prepare a frame group. The queue holds the clip weakly, so that a clip that was dropped is not prepared."""
    found = clip()
    if found is None:
        raise VideoError("the clip of this frame was dropped before it was prepared")
    with found._errors_name_part():
        return found._make(number)


def open_clip(
    source: Any, options: VideoOptions, config: ProcessorConfig, limits: MediaLimits, *, is_base64: bool = False
) -> Clip:
    """Open a clip from any source of `frames.open_frames`, or "video:PATH[:fps]". Raises VideoError or OptionError."""
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
    """Frame numbers of each frame group, number of main frames, and rate and seconds of the part that is sampled."""
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
        return group_frames(*whole, options.stack_frames), len(sample(*whole)[0]), frames.fps, frames.seconds
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

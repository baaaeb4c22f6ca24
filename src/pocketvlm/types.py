"""These frozen values travel between the layers: views, prompts, sampling parameters, results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pocketvlm.errors import CheckpointError, PocketVLMError
from pocketvlm.options.sampling import SamplingParams as SamplingParams  # noqa: PLC0414 (its name among the values that travel)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

DownsampleMode = Literal["16x", "4x"]
FinishReason = Literal["stop", "length", "abort", "repetition", "error"]


@dataclass(frozen=True, slots=True, eq=False)
class TokenizerSource:
    """What a tokenizer is made of, read when it is needed.

    where: names it in errors. identity: bytes that are equal for equal tokenizers and quick to get. text: the content
    of a tokenizer.json.
    """

    where: str
    identity: Callable[[], bytes]
    text: Callable[[], bytes]

    @classmethod
    def of_file(cls, path: Path) -> TokenizerSource:
        """A tokenizer.json. Its functions raise CheckpointError where it cannot be read."""

        def read() -> bytes:
            try:
                return path.read_bytes()
            except FileNotFoundError:
                raise CheckpointError(f"{path}: no such file; a checkpoint needs its tokenizer.json") from None
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None

        return cls(str(path), read, read)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One overview or slice of an image, ready for the vision tower.

    patches: float32 [rows * cols, channels * patch_size * patch_size], normalised to about [-1, 1]; patches row-major,
        inside a patch (channel, row, column) as in docs/model.md 3.6.
    rows, cols: the view's grid in patches.
    downsample_mode: "16x" (the in-tower merger runs) or "4x".
    start: index in Prompt.ids of the first placeholder of this view; its placeholders are consecutive.
    tokens: number of placeholders, rows * cols / 16 or / 4.
    digest: hex SHA-256 over size, pixels and downsample_mode; equal digests mean equal features.
        "" says nothing: such a view is never shared.
    """

    patches: NDArray[np.float32]
    rows: int
    cols: int
    downsample_mode: DownsampleMode
    start: int
    tokens: int
    digest: str

    def load(self) -> View:
        """The view itself: its patches are here."""
        return self


class Pictures(Protocol):
    """Makes the views of a clip when they are due. See `pocketvlm.processor.clip.Clip`."""

    def prepare(self, number: int, timeout: float = 0.0) -> bool:
        """Begin to make the picture; whether `load` would not wait, after at most so many seconds."""

    def load(self, number: int, part: int) -> View:
        """View `part` of picture `number`, with start 0. Raises VideoError."""


@dataclass(frozen=True, slots=True, eq=False)
class PendingView:
    """A view whose patches are not made yet: part of a picture of a clip. Other fields as in `View`.

    digest: over what the pixels are made of, not over the pixels: equal digests mean equal views, equal views may have
        unequal ones.
    """

    source: Pictures
    number: int
    part: int
    rows: int
    cols: int
    downsample_mode: DownsampleMode
    start: int
    tokens: int
    digest: str

    def prepare(self, timeout: float = 0.0) -> bool:
        """Begin to make the picture; whether `load` would not wait, after at most so many seconds."""
        return self.source.prepare(self.number, timeout)

    def at(self, start: int) -> PendingView:
        """The same view with its first placeholder at index `start` of the prompt."""
        return replace(self, start=start)

    def load(self) -> View:
        """The view with its patches, and a digest over its pixels. Waits; raises VideoError where decoding fails."""
        return replace(self.source.load(self.number, self.part), start=self.start)


@dataclass(frozen=True, slots=True, eq=False)
class RotaryPositions:
    """Rotary positions of a prompt in three dimensions.

    values: int32 [3, tokens]: time, height and width. delta: the token of index n after the prompt has position
    n + delta in all three; usually negative, because a picture takes fewer positions than tokens.
    """

    values: NDArray[np.int32]
    delta: int


@dataclass(slots=True)
class MediaSeconds:
    """Seconds spent on the frames of a clip so far, on a thread beside vision."""

    decode: float = 0.0
    resize: float = 0.0


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What became of one image: sizes in pixels (width, height), grid (rows, cols) or None, token counts."""

    width: int
    height: int
    downsample_mode: DownsampleMode
    grid: tuple[int, int] | None
    overview_size: tuple[int, int]
    slice_size: tuple[int, int] | None
    vision_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What became of one video: sizes in pixels (width, height), token counts, and the frames that are looked at.

    frames: of the whole video. fps, seconds: rate, and length of the part that was asked for; None for frames without a
        rate. pictures: frame numbers of each picture, in order: one is a frame alone, several are a composite.
    main_frames: pictures that max_num_frames counts; the others are made of frames between them.
    times: when each of these frames appears, in seconds from the first frame on; None without a rate.
    grid, overview_size, slice_size: of a frame alone, as in ImageInfo.
    """

    width: int
    height: int
    frames: int
    fps: float | None
    seconds: float | None
    pictures: tuple[tuple[int, ...], ...]
    main_frames: int
    downsample_mode: DownsampleMode
    grid: tuple[int, int] | None
    overview_size: tuple[int, int]
    slice_size: tuple[int, int] | None
    vision_tokens: int
    tokens: int
    times: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A rendered, tokenized request.

    ids: int32 [tokens]; each image placeholder is one id. text: the rendered template before image expansion.
    views: in reading order. images, videos: one entry for each, in reading order.
    marks: positions in ids, ascending, up to which another prompt may begin alike: after the system prompt, after each
        image or video, before each assistant header.
    decode_seconds / resize_seconds / preprocess_seconds: time spent on fetching + decoding media, on making patches of
        pixels, and on everything after it. later: the same for each video, whose frames are decoded when they are due.
    positions: rotary positions in three dimensions; None: the position of each token is its index.
    """

    ids: NDArray[np.int32]
    views: tuple[View | PendingView, ...]
    images: tuple[ImageInfo, ...]
    text: str
    decode_seconds: float = 0.0
    preprocess_seconds: float = 0.0
    marks: tuple[int, ...] = ()
    resize_seconds: float = 0.0
    videos: tuple[VideoInfo, ...] = ()
    later: tuple[MediaSeconds, ...] = ()
    positions: RotaryPositions | None = None

    def later_seconds(self) -> MediaSeconds:
        """Decoding and resizing of all videos' frames up to now."""
        return MediaSeconds(sum(clip.decode for clip in self.later), sum(clip.resize for clip in self.later))

    @property
    def image_tokens(self) -> int:
        """Number of ids that stand for features of images and videos."""
        return sum(view.tokens for view in self.views)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was: natural logarithms of the softmax of the raw logits.

    top: the likeliest ids with theirs, descending, as many as SamplingParams.logprobs asks for.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Constraint(Protocol):
    """What may come next in one answer: one object for each sequence, not shared."""

    def mask(self) -> NDArray[np.uint32] | None:
        """Bit t % 32 of word t // 32 says whether token t may come next; None: every token."""

    def accept(self, token_id: int) -> None:
        """Advance by the sampled token. Raises ValueError if it was not allowed."""

    @property
    def finished(self) -> bool:
        """Whether nothing but an end id may follow."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer. image_tokens are part of prompt_tokens."""

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent in each stage of one answer; `ttft` counts from the call to the first token.

    decode_media: fetching and decoding. resize: pixels to patches. preprocess: template, ids, and what else comes
    before the model. Frames of videos are decoded and resized beside vision, so the sum may be more than passes.
    """

    load: float = 0.0
    decode_media: float = 0.0
    resize: float = 0.0
    preprocess: float = 0.0
    vision: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    ttft: float = 0.0

    def decode_rate(self, usage: Usage) -> float | None:
        """Tokens a second after the first, which comes with the prompt; None where there is no other."""
        others = usage.completion_tokens - 1
        return others / self.decode if others > 0 and self.decode > 0 else None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer. The last chunk carries finish_reason, usage and timings."""

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A whole answer: the fold of its chunks. error: what went wrong, for one of many questions."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    error: PocketVLMError | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary: text, finish_reason, usage, timings (seconds), and error if there is one."""
        usage = {**asdict(self.usage), "total_tokens": self.usage.total_tokens}
        timings = {name: round(value, 6) for name, value in asdict(self.timings).items()}
        error = {} if self.error is None else {"error": str(self.error)}
        return {"text": self.text, "finish_reason": self.finish_reason, "usage": usage, "timings": timings, **error}

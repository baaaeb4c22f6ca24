"""These frozen values travel between the layers: views, prompts, sampling parameters, results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pocketvlm.errors import OptionError, PocketVLMError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DownsampleMode = Literal["16x", "4x"]
FinishReason = Literal["stop", "length", "abort", "repetition", "error"]


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

    def ready(self, number: int, timeout: float = 0.0) -> bool:
        """Whether `load` would not wait, after at most so many seconds. Begins to make the picture."""

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

    def ready(self, timeout: float = 0.0) -> bool:
        """Whether `load` would not wait, after so many seconds at most. Asking is what begins the work."""
        return self.source.ready(self.number, timeout)

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
class SamplingParams:
    """How the next token is chosen and when generation ends (names as in vLLM and OpenAI).

    temperature 0 is greedy. top_k 0 or -1 and top_p 1 are off. Penalties follow the usual definitions: repetition over
    prompt and output, presence and frequency over the output. stop strings end the text before the match. logprobs: how
    many alternatives are reported beside each token, 0 to 20, None for no report. logit_bias: pairs of token id and a
    number from -100 to 100 that is added to its logit.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int = 1024
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """Bring other spellings into one form, and refuse values outside their range, naming field and value."""
        for name in ("stop", "stop_token_ids"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int) else tuple(value or ()))
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        checks: tuple[tuple[str, bool, str], ...] = (
            ("temperature", 0.0 <= self.temperature <= 100.0, "a number from 0 (greedy) to 100"),
            ("top_p", 0.0 < self.top_p <= 1.0, "a number above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 (off) or a positive whole number"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "a number from 0 to 1"),
            ("repetition_penalty", 0.0 < self.repetition_penalty < 100.0, "a number above 0, 1 is off"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "a number from -2 to 2"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "a number from -2 to 2"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, "0 to max_tokens"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("seed", self.seed is None or self.seed >= 0, "a whole number from 0, or none"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= 20, "0 to 20, or none"),
            ("logit_bias", all(t >= 0 and -100 <= b <= 100 for t, b in self.logit_bias), "token ids with -100 to 100"),
            ("stop", all(isinstance(text, str) and text for text in self.stop), "non-empty strings"),
        )
        for name, good, wanted in checks:
            if not good:
                value = getattr(self, name)
                shown = list(value) if isinstance(value, tuple) else value
                raise OptionError(f"{name}={shown!r} is out of range: give {wanted}")


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

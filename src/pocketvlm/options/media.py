"""`ImageOptions` and `VideoOptions` define the options of media: of a request, and of one part of a message."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pocketvlm.errors import OptionError
from pocketvlm.options.option import Option, names, validate
from pocketvlm.types import DownsampleMode

if TYPE_CHECKING:
    from pocketvlm.config import ProcessorConfig

Alpha = Literal["white", "reference"]

# Side of the square of patches that becomes one token: two 2x2 merges in 16x, one in 4x.
MERGE = {"16x": 4, "4x": 2}
MAX_SCALE_RESOLUTION = 4480
MAX_FRAMES = 100_000
MAX_STACK = 64
# What the model card advises for video, where an image has the checkpoint's own settings.
ADVISED = {"max_slice_nums": 1, "use_image_id": False}
_GROUP = "Image and video processing"
_CHECKPOINT = "the checkpoint's"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How one image is cut and resized, after checkpoint, request and content part have been combined.

    max_slice_nums: most slices per image, 1 never slices. scale_resolution: side of the square whose area a view aims
    at. patch_size: pixels per patch side. slice_mode: False never slices. use_image_id: write `<image_id>N</image_id>`.
    downsample_mode: "16x" or "4x". alpha: how to remove transparency ("white" or "reference", see media).
    """

    group: ClassVar[str] = _GROUP

    downsample_mode: Annotated[
        DownsampleMode,
        Option("16x: few tokens, fast. 4x: four times as many.", default=_CHECKPOINT, chat="mode"),
    ] = "16x"
    max_slice_nums: Annotated[
        int,
        Option(
            "Most slices an image is cut into; 1 never cuts, and is the default for videos.",
            low=1,
            high=10_000,
            default=_CHECKPOINT,
            chat="slices",
        ),
    ] = 9
    slice_mode: Annotated[bool, Option("Cut large images into slices.", default=_CHECKPOINT, chat=None)] = True
    use_image_id: Annotated[bool, Option("Number the images in the prompt; off for videos.", default=_CHECKPOINT)] = (
        True
    )
    scale_resolution: Annotated[
        int,
        Option(
            "Side in pixels of the square one view aims at.",
            low=1,
            high=MAX_SCALE_RESOLUTION,
            default=_CHECKPOINT,
            chat=None,
        ),
    ] = 448
    alpha: Annotated[
        Alpha,
        Option("Transparency: white puts images on white; reference does what transformers does."),
    ] = "white"
    patch_size: int = 14

    def __post_init__(self) -> None:
        """Refuse unsupported values, naming option, value and what is allowed."""
        validate(self)
        if self.scale_resolution < self.unit:
            raise OptionError(
                f"scale_resolution={self.scale_resolution!r} is out of range: "
                f"give a whole number from {self.unit} to {MAX_SCALE_RESOLUTION}"
            )

    @property
    def unit(self) -> int:
        """Both sides of every view are multiples of this many pixels: 56 in 16x, 28 in 4x (patch size 14)."""
        return self.patch_size * MERGE[self.downsample_mode]

    @classmethod
    def resolve(
        cls, config: "ProcessorConfig", *overrides: Mapping[str, Any], where: str = "options"
    ) -> "ImageOptions":
        """Combine the checkpoint's defaults with request and content-part options; later ones win, None is "not given".

        Raises OptionError for an unknown name or a value out of range; `where` names the place in the message.
        """
        # A checkpoint says nothing about transparency, so that has our own default.
        values: dict[str, Any] = {each.name: getattr(config, each.name, each.default) for each in fields(cls)}
        for override in overrides:
            for name, value in override.items():
                if name not in IMAGE_OPTIONS:
                    known = ", ".join(sorted(IMAGE_OPTIONS))
                    raise OptionError(f"{where}: {name!r} is not an image option: give one of {known}")
                if value is not None:
                    values[name] = value
        try:
            options = cls(**values)
        except OptionError as error:
            raise OptionError(f"{where}: {error}") from None
        modes = config.downsample_modes
        if modes and options.downsample_mode not in modes:
            raise OptionError(
                f"{where}: downsample_mode={options.downsample_mode!r} is not supported by this checkpoint, whose "
                f"vision tower was made for {modes[0]} alone: give {modes[0]!r}"
            )
        return options


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How a video is sampled, and how each of its frames and composites is cut (`image`).

    max_num_frames: maximum number of main frames; those of a longer video are spread evenly over its length.
    stack_frames: frames a second; with 1 the main frame alone, with s > 1 the other s - 1 frames become one composite
    after it. fps: main frames a second (None: 1), or the rate of a source that has no rate. start, end: seconds of the
    part to sample. fps of a file, start and end switch to sampling by time (`timeline.py`).
    """

    group: ClassVar[str] = _GROUP

    max_num_frames: Annotated[
        int, Option("Most frames of a video, evenly spread.", low=1, high=MAX_FRAMES, chat="frames")
    ] = 128
    stack_frames: Annotated[
        int,
        Option(
            "Frames of a video a second, all but the first in one picture; 3 or 5 for fast motion.",
            low=1,
            high=MAX_STACK,
            chat="stack",
        ),
    ] = 1
    fps: Annotated[
        float | None, Option("Frames of a video that are taken a second.", low=1e-4, high=1000, default="1")
    ] = None
    start: Annotated[
        float | None,
        Option(
            "Where in a video to begin.",
            low=0,
            high=1e9,
            wanted="seconds from 0",
            default="the beginning",
            metavar="SECONDS",
        ),
    ] = None
    end: Annotated[
        float | None,
        Option(
            "Where in a video to end.", low=0, high=1e9, wanted="seconds from 0", default="the end", metavar="SECONDS"
        ),
    ] = None
    image: ImageOptions = field(default_factory=lambda: ImageOptions(max_slice_nums=1, use_image_id=False))

    def __post_init__(self) -> None:
        """Refuse unsupported values, naming option, value and what is allowed."""
        validate(self)
        if self.end is not None and self.end <= (self.start or 0.0):
            raise OptionError(f"end={self.end!r} is not after start={self.start or 0.0!r}: nothing is between them")

    @classmethod
    def resolve(
        cls, config: "ProcessorConfig", *overrides: Mapping[str, Any], where: str = "options"
    ) -> "VideoOptions":
        """Combine the model card's advice, the checkpoint's defaults, and options of request and content part.

        Later ones win, None is "not given". Raises OptionError; `where` names the place in the message.
        """
        mine: dict[str, Any] = {}
        image_overrides = []
        for override in overrides:
            mine |= {name: value for name, value in override.items() if name in VIDEO_OPTIONS and value is not None}
            image_overrides.append({name: value for name, value in override.items() if name not in VIDEO_OPTIONS})
        image = ImageOptions.resolve(config, ADVISED, *image_overrides, where=where)
        try:
            return replace(cls(image=image), **mine)
        except OptionError as error:
            raise OptionError(f"{where}: {error}") from None


IMAGE_OPTIONS = names(ImageOptions)
VIDEO_OPTIONS = names(VideoOptions)
MEDIA_OPTIONS = (*IMAGE_OPTIONS, *VIDEO_OPTIONS)

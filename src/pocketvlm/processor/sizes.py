"""The size rules give view sizes, grids and token counts of a picture without any pixel (docs/model.md 4.2, 4.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import OptionError
from pocketvlm.processor.alpha import ALPHA, Alpha
from pocketvlm.types import DownsampleMode, ImageInfo

# Side of the square of patches that becomes one token: two 2x2 merges in 16x, one in 4x.
MERGE = {"16x": 4, "4x": 2}

MAX_SCALE_RESOLUTION = 4480


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How one image is cut and resized, after checkpoint, request and content part have been combined.

    max_slice_nums: most slices per image, 1 never slices. scale_resolution: side of the square whose area a view aims
    at. patch_size: pixels per patch side. slice_mode: False never slices. use_image_id: write `<image_id>N</image_id>`.
    downsample_mode: "16x" or "4x". alpha: what becomes of transparency ("white" or "reference", see media).
    """

    max_slice_nums: int = 9
    scale_resolution: int = 448
    patch_size: int = 14
    slice_mode: bool = True
    use_image_id: bool = True
    downsample_mode: DownsampleMode = "16x"
    alpha: Alpha = "white"

    def __post_init__(self) -> None:
        """Refuse values that we do not do, naming option, value and what is allowed."""
        low = self.unit
        checks = (
            ("max_slice_nums", _whole(self.max_slice_nums, 1, 10_000), "a whole number from 1 to 10000"),
            (
                "scale_resolution",
                _whole(self.scale_resolution, low, MAX_SCALE_RESOLUTION),
                f"a whole number from {low} to {MAX_SCALE_RESOLUTION}",
            ),
            ("slice_mode", isinstance(self.slice_mode, bool), "true or false"),
            ("use_image_id", isinstance(self.use_image_id, bool), "true or false"),
            ("alpha", isinstance(self.alpha, str) and self.alpha in ALPHA, "'white' or 'reference'"),
        )
        for name, good, wanted in checks:
            if not good:
                raise OptionError(f"{name}={getattr(self, name)!r} is not supported: give {wanted}")

    @property
    def unit(self) -> int:
        """Both sides of every view are multiples of this many pixels: 56 in 16x, 28 in 4x (patch size 14)."""
        if not isinstance(self.downsample_mode, str) or self.downsample_mode not in MERGE:
            raise OptionError(f"downsample_mode={self.downsample_mode!r} is not supported: give '16x' or '4x'")
        return self.patch_size * MERGE[self.downsample_mode]

    @classmethod
    def resolve(cls, config: ProcessorConfig, *overrides: Mapping[str, Any], where: str = "options") -> ImageOptions:
        """Combine the checkpoint's defaults with request and content-part options; later ones win, None is "not given".

        Raises OptionError for an unknown name or a value out of range; `where` names the place in the message.
        """
        # A checkpoint says nothing about transparency, so that has our own default.
        values: dict[str, Any] = {field.name: getattr(config, field.name, field.default) for field in fields(cls)}
        allowed = sorted(set(values) - {"patch_size"})
        for override in overrides:
            for name, value in override.items():
                if name not in allowed:
                    raise OptionError(f"{where}: {name!r} is not an image option: give one of {', '.join(allowed)}")
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


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes in pixels, each (height, width), of one image's views.

    overview: the whole image. grid: (rows, columns) of slices or None. slice_size: one slice, None without a grid.
    """

    overview: tuple[int, int]
    grid: tuple[int, int] | None
    slice_size: tuple[int, int] | None

    @property
    def refined(self) -> tuple[int, int] | None:
        """Size of the image that the slices are cut from."""
        if self.grid is None or self.slice_size is None:
            return None
        return self.slice_size[0] * self.grid[0], self.slice_size[1] * self.grid[1]


def nearest_multiple(length: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `length`, halves to the even multiple, at least one (docs/model.md 4.2)."""
    return max(round(length / divisor) * divisor, divisor)


def fit(height: float, width: float, options: ImageOptions, upscale: bool) -> tuple[int, int]:
    """Size of a view of an image part of height x width (docs/model.md 4.2: best_resize)."""
    area = options.scale_resolution * options.scale_resolution
    if height * width > area or upscale:
        ratio = width / height
        # The width follows from the truncated height, as in the reference.
        height = int(options.scale_resolution / math.sqrt(ratio))
        width = int(height * ratio)
    return nearest_multiple(height, options.unit), nearest_multiple(width, options.unit)


def choose_grid(height: int, width: int, max_slice_nums: int, scale_resolution: int) -> tuple[int, int] | None:
    """(rows, columns) of the slices, or None when the image stays whole (docs/model.md 4.2: grid)."""
    wanted = min(math.ceil(width * height / (scale_resolution * scale_resolution)), max_slice_nums)
    if wanted <= 1:
        return None
    log_ratio = math.log(width / height)
    best, best_error = (1, 1), math.inf
    for count in (wanted - 1, wanted, wanted + 1):
        if count == 1 or count > max_slice_nums:
            continue
        for rows in range(1, count + 1):
            if count % rows:
                continue
            error = abs(log_ratio - math.log(count // rows / rows))
            if error < best_error or (error == best_error and rows > best[0]):
                best, best_error = (rows, count // rows), error
    return best


def plan_layout(width: int, height: int, options: ImageOptions) -> Layout:
    """Sizes of all views of an image of width x height pixels (docs/model.md 4.2)."""
    grid = None
    if options.slice_mode:
        grid = choose_grid(height, width, options.max_slice_nums, options.scale_resolution)
    overview = fit(height, width, options, upscale=grid is None)
    if grid is None:
        return Layout(overview, None, None)
    rows, columns = grid
    part = nearest_multiple(height, rows) / rows, nearest_multiple(width, columns) / columns
    return Layout(overview, grid, fit(*part, options, upscale=True))


def view_tokens(size: tuple[int, int], options: ImageOptions) -> int:
    """Number of tokens of a view of (height, width) pixels: one per merged square of patches (docs/model.md 4.4)."""
    return (size[0] // options.unit) * (size[1] // options.unit)


def describe(width: int, height: int, layout: Layout, options: ImageOptions, tokens: int) -> ImageInfo:
    """The public summary of a layout; `tokens` counts the whole block with its markers."""
    vision = view_tokens(layout.overview, options)
    if layout.grid is not None and layout.slice_size is not None:
        vision += layout.grid[0] * layout.grid[1] * view_tokens(layout.slice_size, options)
    return ImageInfo(
        width=width,
        height=height,
        downsample_mode=options.downsample_mode,
        grid=layout.grid,
        overview_size=(layout.overview[1], layout.overview[0]),
        slice_size=None if layout.slice_size is None else (layout.slice_size[1], layout.slice_size[0]),
        vision_tokens=vision,
        tokens=tokens,
    )


def plan_image(width: int, height: int, options: ImageOptions | None = None, index: int = 0) -> ImageInfo:
    """What an image of width x height pixels will cost, without looking at any pixel (docs/model.md 4.2, 4.4, 4.5).

    index: number of the image in the conversation, which decides the digits of its id tag. ImageInfo.tokens counts
    placeholders, two markers per view, the newline after each row of slices but the last, and the id tag.
    Raises OptionError for a size below 1.
    """
    options = options or ImageOptions()
    if not (_whole(width, 1, 1 << 40) and _whole(height, 1, 1 << 40)):
        raise OptionError(f"image size {width!r}x{height!r} is not supported: give whole numbers of at least 1")
    layout = plan_layout(width, height, options)
    info = describe(width, height, layout, options, 0)
    rows, columns = layout.grid or (0, 0)
    tokens = info.vision_tokens + 2 * (1 + rows * columns) + max(rows - 1, 0)
    if options.use_image_id:
        tokens += 2 + len(str(index))
    return describe(width, height, layout, options, tokens)

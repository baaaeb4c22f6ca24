"""Pictures are resized, sliced and cut into patches with the reference's exact values (docs/model.md 4.2, 4.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketvlm.config import ProcessorConfig
from pocketvlm.options.media import ImageOptions
from pocketvlm.processor.sizes import Layout, describe, plan_image, plan_layout, view_tokens
from pocketvlm.types import DownsampleMode, View

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ImageOptions",
    "Layout",
    "Patches",
    "describe",
    "pack_pixel_values",
    "plan_image",
    "plan_layout",
    "prepare_image",
    "view_tokens",
]


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """One view before it has a place in a prompt: see `pocketvlm.types.View` for the fields."""

    patches: NDArray[np.float32]
    rows: int
    cols: int
    downsample_mode: DownsampleMode
    tokens: int
    digest: str

    def at(self, start: int) -> View:
        """The view whose first placeholder is at index `start` of the prompt."""
        return View(self.patches, self.rows, self.cols, self.downsample_mode, start, self.tokens, self.digest)


@lru_cache(maxsize=8)
def _levels(factor: float, mean: tuple[float, float, float], std: tuple[float, float, float]) -> NDArray[np.float32]:
    """The normalised value of each of the 256 grey levels, float32 [3, 256].

    The arithmetic of the reference, step by step: x * factor in float64, rounded to float32, then (x - mean) / std in
    float32. Only 256 inputs exist, so a table gives the same bits.
    """
    scaled = (np.arange(256, dtype=np.uint8).astype(np.float64) * factor).astype(np.float32)
    means, stds = np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)
    table: NDArray[np.float32] = (scaled[None, :] - means[:, None]) / stds[:, None]
    table.setflags(write=False)
    return table


def _flatten(pixels: NDArray[np.uint8], patch_size: int) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] to [rows * cols, 3 * patch * patch], inside a patch (channel, row, column)."""
    height, width, channels = pixels.shape
    rows, cols = height // patch_size, width // patch_size
    grid = pixels.reshape(rows, patch_size, cols, patch_size, channels).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(grid).reshape(rows * cols, channels * patch_size * patch_size)


def _view(pixels: NDArray[np.uint8], options: ImageOptions, config: ProcessorConfig) -> Patches:
    size = (pixels.shape[0], pixels.shape[1])
    codes = _flatten(pixels, options.patch_size)
    rows, cols = size[0] // options.patch_size, size[1] // options.patch_size
    digest = hashlib.sha256(f"{rows} {cols} {options.patch_size} {options.downsample_mode}\n".encode())
    digest.update(codes.data)
    table = _levels(config.rescale_factor, config.image_mean, config.image_std)
    area = options.patch_size * options.patch_size
    values = np.empty(codes.shape, dtype=np.float32)
    for channel in range(3):
        part = slice(channel * area, (channel + 1) * area)
        values[:, part] = table[channel][codes[:, part]]
    return Patches(values, rows, cols, options.downsample_mode, view_tokens(size, options), digest.hexdigest())


def _resized(image: Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL.Image import Resampling

    return np.asarray(image.resize((size[1], size[0]), Resampling.BICUBIC))


def prepare_image(
    image: Image, options: ImageOptions | None = None, config: ProcessorConfig | None = None
) -> tuple[Patches, ...]:
    """Views of an RGB image: the overview, then the slices row by row (docs/model.md 4.2, 4.3).

    Overview and slices are both resized from the original pixels with Pillow's bicubic filter. Values are bit-equal to
    those of transformers' MiniCPMV4_6ImageProcessorPil. Raises ValueError for an image that is not RGB.
    """
    options = options or ImageOptions()
    config = config or ProcessorConfig()
    if image.mode != "RGB":
        raise ValueError(f"image mode {image.mode!r}: convert to RGB first (media.load_image does)")
    layout = plan_layout(image.width, image.height, options)
    views = [_view(_resized(image, layout.overview), options, config)]
    if layout.grid is not None and layout.slice_size is not None and layout.refined is not None:
        pixels = _resized(image, layout.refined)
        height, width = layout.slice_size
        views += [
            _view(pixels[top : top + height, left : left + width], options, config)
            for top in range(0, pixels.shape[0], height)
            for left in range(0, pixels.shape[1], width)
        ]
    return tuple(views)


def pack_pixel_values(views: Sequence[View | Patches]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The reference's own arrays, for comparison (docs/model.md 3.6, 4.3).

    Returns pixel_values float32 [1, 3, patch, patch * patches of all views] and target_sizes int32 [views, 2] in
    patches (rows, columns).
    """
    flat = np.concatenate([view.patches for view in views])
    patch = round((flat.shape[1] / 3) ** 0.5)
    packed = flat.reshape(len(flat), 3, patch, patch).transpose(1, 2, 0, 3).reshape(1, 3, patch, len(flat) * patch)
    return np.ascontiguousarray(packed), np.array([[view.rows, view.cols] for view in views], dtype=np.int32)

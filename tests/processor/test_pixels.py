"""Patches are bit-equal to those of transformers' PIL image processor."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image
from processor_kit import PREPROCESSOR, noise, reference_images

from pocketvlm.config import ProcessorConfig
from pocketvlm.options.media import ImageOptions
from pocketvlm.processor import pack_pixel_values, plan_image, prepare_image

MODES = [(mode, maximum) for mode in ("16x", "4x") for maximum in (1, 9, 36)]
TABLE = [
    (448, 448),
    (640, 480),
    (1920, 1080),
    (100, 2000),
    (2000, 100),
    (30, 30),
    (449, 449),
    (1084, 820),
    (1000, 3000),
]


def compare(image: Image.Image, mode: str, maximum: int, **more: object) -> None:
    """All arrays of the reference, bit by bit."""
    wanted = reference_images()(image, downsample_mode=mode, max_slice_nums=maximum, return_tensors="np", **more)
    options = ImageOptions(max_slice_nums=maximum, downsample_mode=mode, **more)
    views = prepare_image(image, options, ProcessorConfig.from_dict(PREPROCESSOR))
    pixels, sizes = pack_pixel_values(views)
    assert pixels.dtype == wanted["pixel_values"].dtype == np.float32
    assert np.array_equal(pixels, wanted["pixel_values"])
    assert sizes.dtype == wanted["target_sizes"].dtype
    assert np.array_equal(sizes, wanted["target_sizes"])
    info = plan_image(image.width, image.height, options)
    assert info.vision_tokens == sum(view.tokens for view in views)
    assert (info.grid or (0, 0)) == tuple(wanted["grids"][0])
    for view in views:
        assert view.patches.shape == (view.rows * view.cols, 588)
        assert view.tokens * {"16x": 16, "4x": 4}[mode] == view.rows * view.cols


@pytest.mark.parametrize(("mode", "maximum"), MODES)
@pytest.mark.parametrize("size", TABLE, ids=str)
def test_table_sizes(size, mode, maximum):
    compare(noise(*size), mode, maximum)


@pytest.mark.parametrize("part", range(10))
def test_random_sizes(part):
    generator = random.Random(part)
    for index in range(20):
        width, height = (round(2 ** generator.uniform(0, 9.8)) for _ in "wh")
        mode, maximum = MODES[(part * 20 + index) % len(MODES)]
        compare(noise(width, height), mode, maximum)


@pytest.mark.parametrize("more", [{"slice_mode": False}, {"scale_resolution": 224}, {"scale_resolution": 300}])
def test_other_options(more):
    compare(noise(700, 333), "16x", 9, **more)
    compare(noise(333, 700), "4x", 9, **more)


def test_every_grey_level_with_uneven_mean_and_std():
    levels = np.arange(256, dtype=np.uint8).repeat(784).reshape(448, 448)
    image = Image.fromarray(np.stack([levels, levels.T, levels[::-1]], axis=-1))
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    wanted = reference_images()(image, image_mean=mean, image_std=std, return_tensors="np")["pixel_values"]
    config = ProcessorConfig(image_mean=tuple(mean), image_std=tuple(std))
    assert np.array_equal(pack_pixel_values(prepare_image(image, None, config))[0], wanted)


def test_digest_follows_pixels_size_and_mode():
    image = noise(448, 448)
    changed = image.copy()
    changed.putpixel((200, 200), (1, 2, 3))
    small = ImageOptions(downsample_mode="4x")
    first, again = prepare_image(image)[0], prepare_image(image.copy())[0]
    assert first.digest == again.digest
    others = {prepare_image(changed)[0].digest, prepare_image(image, small)[0].digest, first.digest}
    assert len(others) == 3
    # One colour: the same bytes in two shapes.
    wide, tall = (prepare_image(Image.new("RGB", size))[0] for size in ((896, 224), (224, 896)))
    assert (wide.rows, wide.cols) == (tall.cols, tall.rows)
    assert wide.digest != tall.digest


def test_only_rgb_is_taken():
    with pytest.raises(ValueError, match="RGB"):
        prepare_image(Image.new("L", (10, 10)))

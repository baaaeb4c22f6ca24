"""Sizes, grids and token counts: the table of docs/model.md 4.5, the reference's own helpers, options, refusals."""

from __future__ import annotations

import random

import pytest
from processor_kit import reference_images

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import OptionError
from pocketvlm.options.media import ImageOptions
from pocketvlm.processor.sizes import nearest_multiple, plan_image, plan_layout

# (width, height), mode, max_slice_nums, grid, overview (height, width), slice (height, width), vision tokens, tokens
# without the id tag.
TABLE = [
    ((448, 448), "16x", (1, 9, 36), None, (448, 448), None, 64, 66),
    ((448, 448), "4x", (1, 9, 36), None, (448, 448), None, 256, 258),
    ((640, 480), "16x", (1,), None, (392, 504), None, 63, 65),
    ((640, 480), "16x", (9, 36), (1, 2), (392, 504), (560, 392), 203, 209),
    ((640, 480), "4x", (1,), None, (392, 504), None, 252, 254),
    ((640, 480), "4x", (9, 36), (1, 2), (392, 504), (560, 364), 772, 778),
    ((1920, 1080), "16x", (1,), None, (336, 616), None, 66, 68),
    ((1920, 1080), "16x", (9,), (2, 4), (336, 616), (448, 448), 578, 597),
    ((1920, 1080), "16x", (36,), (3, 4), (336, 616), (392, 504), 822, 850),
    ((1920, 1080), "4x", (1,), None, (336, 588), None, 252, 254),
    ((1920, 1080), "4x", (9,), (2, 4), (336, 588), (476, 420), 2292, 2311),
    ((1920, 1080), "4x", (36,), (3, 4), (336, 588), (392, 504), 3276, 3304),
    ((4000, 3000), "16x", (1,), None, (392, 504), None, 63, 65),
    ((4000, 3000), "16x", (9,), (3, 3), (392, 504), (392, 504), 630, 652),
    ((4000, 3000), "16x", (36,), (5, 7), (392, 504), (448, 448), 2303, 2379),
    ((4000, 3000), "4x", (1,), None, (392, 504), None, 252, 254),
    ((4000, 3000), "4x", (9,), (3, 3), (392, 504), (392, 504), 2520, 2542),
    ((4000, 3000), "4x", (36,), (5, 7), (392, 504), (448, 448), 9212, 9288),
    ((100, 2000), "16x", (1, 9, 36), None, (2016, 112), None, 72, 74),
    ((100, 2000), "4x", (1, 9, 36), None, (2016, 112), None, 288, 290),
    ((2000, 100), "16x", (1, 9, 36), None, (112, 2016), None, 72, 74),
    ((2000, 100), "4x", (1, 9, 36), None, (112, 1988), None, 284, 286),
    ((30, 30), "16x", (1, 9, 36), None, (448, 448), None, 64, 66),
    ((224, 224), "4x", (1, 9, 36), None, (448, 448), None, 256, 258),
    ((449, 449), "16x", (9, 36), (2, 1), (448, 448), (336, 616), 196, 203),
    ((600, 600), "16x", (9, 36), (2, 1), (448, 448), (336, 616), 196, 203),
    ((449, 449), "4x", (9, 36), (2, 1), (448, 448), (308, 644), 762, 769),
    ((600, 600), "4x", (9, 36), (2, 1), (448, 448), (308, 644), 762, 769),
    ((1024, 768), "16x", (9, 36), (2, 2), (392, 504), (392, 504), 315, 326),
    ((1024, 768), "4x", (9, 36), (2, 2), (392, 504), (392, 504), 1260, 1271),
    ((1084, 820), "16x", (9, 36), (2, 3), (392, 504), (504, 392), 441, 456),
    ((1084, 820), "4x", (9, 36), (2, 3), (392, 504), (476, 420), 1782, 1797),
    ((1344, 1344), "16x", (9, 36), (3, 3), (448, 448), (448, 448), 640, 662),
    ((1344, 1344), "4x", (9, 36), (3, 3), (448, 448), (448, 448), 2560, 2582),
    ((1000, 3000), "16x", (9,), (4, 2), (784, 280), (560, 392), 630, 651),
    ((1000, 3000), "16x", (36,), (7, 2), (784, 280), (392, 504), 952, 988),
]


@pytest.mark.parametrize(("size", "mode", "maxima", "grid", "overview", "part", "vision", "tokens"), TABLE)
def test_worked_table(size, mode, maxima, grid, overview, part, vision, tokens):
    for maximum in maxima:
        options = ImageOptions(max_slice_nums=maximum, downsample_mode=mode, use_image_id=False)
        info = plan_image(*size, options)
        assert (info.width, info.height) == size
        assert info.downsample_mode == mode
        assert info.grid == grid
        assert info.overview_size == overview[::-1]
        assert info.slice_size == (None if part is None else part[::-1])
        assert (info.vision_tokens, info.tokens) == (vision, tokens)
        tagged = ImageOptions(max_slice_nums=maximum, downsample_mode=mode)
        assert [plan_image(*size, tagged, index=index).tokens - tokens for index in (0, 9, 10, 123)] == [3, 3, 4, 5]


def test_rounding_takes_halves_to_the_even_multiple():
    cases = {(28, 56): 56, (84, 56): 112, (140, 56): 112, (42, 28): 56, (70, 28): 56, (98, 28): 112, (0, 28): 28}
    assert {case: nearest_multiple(*case) for case in cases} == cases


@pytest.mark.parametrize("mode", ["16x", "4x"])
@pytest.mark.parametrize("maximum", [1, 2, 3, 9, 36])
def test_layouts_are_those_of_the_reference(mode, maximum):
    images, generator = reference_images(), random.Random(maximum)
    options = ImageOptions(max_slice_nums=maximum, downsample_mode=mode)
    sizes = [(generator.randint(1, 9000), generator.randint(1, 9000)) for _ in range(400)]
    sizes += [(int(1.5 ** generator.uniform(0, 24)) + 1, int(1.5 ** generator.uniform(0, 20)) + 1) for _ in range(200)]
    # Exactly at the area of one and of several views, one pixel around it, and squares, where the grids tie.
    sizes += [(448 * k + d, 448 * k + e) for k in (1, 2, 3, 5) for d in (-1, 0, 1) for e in (-1, 0, 1)]
    for width, height in sizes:
        layout = plan_layout(width, height, options)
        grid = images.get_sliced_grid((height, width), maximum, 448)
        assert layout.grid == (None if grid is None else tuple(grid)), (width, height)
        overview = images.find_best_resize((height, width), 448, 14, mode, allow_upscale=grid is None)
        assert layout.overview == overview, (width, height)
        if grid is not None:
            refined = images.get_refine_size((height, width), grid, 448, 14, mode, allow_upscale=True)
            assert layout.refined == refined, (width, height)


def test_options_combine_checkpoint_request_and_part():
    config = ProcessorConfig(max_slice_nums=9, downsample_mode="4x", use_image_id=False)
    options = ImageOptions.resolve(
        config, {"max_slice_nums": 36, "downsample_mode": None, "slice_mode": False}, {"max_slice_nums": 1}
    )
    assert options == ImageOptions(max_slice_nums=1, slice_mode=False, use_image_id=False, downsample_mode="4x")


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ({"max_slice_nums": 0}, "whole number from 1"),
        ({"max_slice_nums": True}, "whole number from 1"),
        ({"max_slice_nums": "9"}, "whole number from 1"),
        ({"scale_resolution": 20}, "from 56 to 4480"),
        ({"scale_resolution": 448.0}, "whole number from 1 to 4480"),
        ({"slice_mode": 1}, "true or false"),
        ({"use_image_id": "no"}, "true or false"),
        ({"downsample_mode": "8x"}, "'16x' or '4x'"),
        ({"downsample_mode": ["4x"]}, "'16x' or '4x'"),
        ({"alpha": "black"}, "'white' or 'reference'"),
        ({"alpha": ["white"]}, "'white' or 'reference'"),
        ({"patch_size": 16}, "give one of alpha, downsample_mode, max_slice_nums"),
        ({"max_slices": 3}, "give one of alpha, downsample_mode, max_slice_nums"),
    ],
)
def test_bad_options_are_named(option, wanted):
    with pytest.raises(OptionError) as caught:
        ImageOptions.resolve(ProcessorConfig(), option, where="messages[0].content[1]")
    text = str(caught.value)
    name, value = next(iter(option.items()))
    assert name in text
    assert wanted in text
    assert "messages[0].content[1]" in text
    assert wanted.startswith("give one of") or repr(value) in text


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 3), (2.0, 3), (True, 3)])
def test_sizes_below_one_pixel_are_refused(size):
    with pytest.raises(OptionError, match="at least 1"):
        plan_image(*size)

"""Sampled frames of a video: the same as in transformers, and the examples of docs/model.md 4.6."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from video_kit import reference_indices, reference_video

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import OptionError
from pocketvlm.options.media import VideoOptions
from pocketvlm.processor.sampling import canvas_grid, canvas_size, group_frames, sample

WORKED = [
    (300, 30, 128, 1, list(range(0, 300, 30)), []),
    (305, 30, 128, 1, list(range(0, 301, 30)), []),
    (3840, 30, 128, 1, list(range(0, 3811, 30)), []),
    (90, 30, 128, 3, [0, 30, 60], [10, 20, 40, 49, 70, 80]),
    (100, 30, 128, 5, [0, 30, 60, 90], [6, 12, 18, 24, 36, 42, 48, 54, 66, 72, 78, 84, 96]),
    (75, 25, 128, 5, [0, 25, 50], [5, 10, 15, 20, 30, 35, 40, 45, 55, 60, 65, 70]),
    (12, 30, 128, 1, [0], []),
]


@pytest.mark.parametrize(("total", "fps", "maximum", "stack", "mains", "subs"), WORKED)
def test_worked_cases(total, fps, maximum, stack, mains, subs):
    assert sample(total, fps, total / fps, maximum, stack) == (mains, subs)


def test_worked_cases_of_long_videos():
    mains, _ = sample(6000, 30, 200.0, 128)
    assert mains[:8] + mains[-4:] == [0, 45, 93, 141, 186, 234, 282, 330, 5853, 5901, 5949, 5997]
    mains, _ = sample(108000, 30, 3600.0, 128)
    assert len(mains) == 128
    assert mains[:6] + mains[-2:] == [0, 849, 1698, 2550, 3399, *mains[5:6], 107145, 107997]
    mains, subs = sample(6000, 30, 200.0, 128, 3)
    assert (len(mains), len(subs), subs[:9]) == (128, 256, [10, 20, 49, 70, 100, 110, 140, 160, 190])


@pytest.mark.parametrize("part", range(8))
def test_random_clips_as_transformers_chooses(part):
    generator = random.Random(part)
    for _ in range(150):
        fps = float(generator.choice([24, 25, 30, 60, 5, 1, Fraction(24000, 1001), Fraction(30000, 1001)]))
        fps = generator.choice([fps, generator.uniform(0.2, 120)])
        total = round(2 ** generator.uniform(0, 14))
        maximum, stack = generator.choice([1, 2, 7, 64, 128, 300]), generator.choice([1, 2, 3, 4, 5, 9])
        seconds = total / fps
        mains, subs = sample(total, fps, seconds, maximum, stack)
        assert mains + subs == reference_indices(total, fps, seconds, maximum, stack)


def test_all_frames_of_a_short_clip_and_none_after_them() -> None:
    """As many a second as there are: seconds times rate may be a little more than the number of frames."""
    over = 0
    for total in range(1, 60):
        for rate in (tenths / 10 for tenths in range(1, 300)):
            seconds = total / rate * rate
            over += seconds > total
            assert sample(total, rate / rate, seconds, 128)[0] == list(range(total))
    assert over > 100


def test_a_composite_belongs_to_the_second_of_its_main_frame():
    assert group_frames(90, 30, 3.0, 128, 3) == [(0,), (10, 20), (30,), (40, 49), (60,), (70, 80)]
    # 3.1 s: no sub-frame lies in the last tenth of a second.
    assert group_frames(31, 10, 3.1, 128, 2) == [(0,), (5,), (10,), (15,), (20,), (25,), (30,)]
    # A long video: main frames of all of it, composites of its first seconds, thinned like the main frames.
    assert group_frames(300, 10, 30.0, 3, 3) == [(0,), (3,), (149,), (299,)]


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (50, 50), (400, 30), (30, 400), (1920, 1080)])
@pytest.mark.parametrize("count", range(1, 9))
def test_canvases_have_the_size_of_the_references(size, count):
    import torch

    width, height = size
    wanted = reference_video().concat_frames_as_image(torch.ones((count, 3, height, width), dtype=torch.uint8))
    grid = canvas_grid(count, width, height)
    assert canvas_size(grid, width, height) == (wanted.shape[-1], wanted.shape[-2])


def test_options_are_checked_and_later_ones_win():
    config = ProcessorConfig(max_slice_nums=9, use_image_id=True)
    advised = VideoOptions.resolve(config)
    assert (advised.image.max_slice_nums, advised.image.use_image_id) == (1, False)
    given = VideoOptions.resolve(config, {"max_slice_nums": 4, "fps": None}, {"use_image_id": True, "stack_frames": 3})
    assert (given.image.max_slice_nums, given.image.use_image_id, given.stack_frames, given.fps) == (4, True, 3, None)
    for name, value in [
        ("max_num_frames", 0),
        ("max_num_frames", True),
        ("stack_frames", 0),
        ("stack_frames", 2.0),
        ("fps", 0),
        ("fps", float("nan")),
        ("start", -1),
        ("end", "3"),
    ]:
        with pytest.raises(OptionError, match=f"here: {name}="):
            VideoOptions.resolve(config, {name: value}, where="here")
    with pytest.raises(OptionError, match="end=1 is not after start=2"):
        VideoOptions.resolve(config, {"start": 2, "end": 1})

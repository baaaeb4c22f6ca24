"""Frames by time: what is on the screen at second t is the last frame at or before t."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from clips import drawing, write_clip
from PIL import Image

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import VideoError
from pocketvlm.options.media import VideoOptions
from pocketvlm.processor.clip import open_clip
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.sampling import group_frames
from pocketvlm.processor.timeline import Timeline

# Milliseconds: two seconds of movement, 56 s of one slide, two seconds of movement.
STILL = [*range(0, 2000, 40), *range(58_000, 60_000, 40)]
SLIDE = 49


def clip_of(data, **options):
    return open_clip(data, VideoOptions(**options), ProcessorConfig(), MediaLimits())


def shown(data, **options):
    return [group.frames for group in clip_of(data, **options).groups]


def clip_bytes(times, container, **options):
    stream = io.BytesIO()
    write_clip(stream, len(times), 25, container=container, times=times, options={"bf": "0"}, **options)
    return stream.getvalue()


@pytest.fixture(scope="module", params=["mp4", "matroska", "mpegts", "avi"])
def still(request):
    # AVI holds times of decoding only, which H.264 does not always tell.
    return clip_bytes(STILL, request.param, codec="mpeg4" if request.param == "avi" else "libx264")


def test_a_still_slide(still):
    assert shown(still, start=10, end=20) == [(SLIDE,)] * 10
    assert shown(still, start=29.5, end=30) == [(SLIDE,)]
    assert shown(still, start=1.5, end=4) == [(37,), (SLIDE,), (SLIDE,)]
    assert shown(still, start=57, end=100) == [(SLIDE,), (50,), (75,)]
    assert shown(still, start=57) == shown(still, start=57, end=100)
    assert shown(still, end=3) == [(0,), (25,), (SLIDE,)]
    assert shown(still, start=10, end=11, stack_frames=3) == [(SLIDE,), (SLIDE, SLIDE)]
    with pytest.raises(VideoError, match=r"no frame at start=61: it is 60 s long: give a smaller start"):
        shown(still, start=61)


def test_a_faster_rate_adds_frames_and_repeats_none_within_a_second(still):
    assert shown(still, start=0, end=2, fps=25) == [(number,) for number in range(50)]
    assert shown(still, start=0, end=2, fps=100) == [(number,) for number in range(50)]
    assert shown(still, start=1.9, end=5, fps=10) == [(47,), (SLIDE,), (SLIDE,), (SLIDE,)]
    every = [frames[0] for frames in shown(still, fps=25, max_num_frames=1000)]
    assert sorted(set(every)) == list(range(100))
    assert every.count(SLIDE) == 57
    few = [frames[0] for frames in shown(still, fps=25, max_num_frames=12)]
    assert few == [0, *[SLIDE] * 10, 99]


def test_token_counts_agree_and_equal_frames_have_one_digest(still):
    clip = clip_of(still, start=10, end=20)
    assert clip.main_frames == 10
    assert clip.duration == 10
    views = [clip.views(number)[0] for number in range(10)]
    assert clip.vision_tokens == sum(view.tokens for view in views)
    assert len({view.digest for view in views}) == 1
    assert len({clip.load(number, 0).digest for number in range(10)}) == 1


def test_without_options_the_reference_counts_on_the_average_rate(still):
    clip = clip_of(still)
    assert [group.frames for group in clip.groups] == group_frames(100, clip.fps, clip.duration, 128)
    assert clip.duration == pytest.approx(100 / clip.fps)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_times_count_from_the_first_frame(container):
    """Also where the first time is not 0; mp4 writes an edit list then."""
    late = clip_bytes([5000 + time for time in STILL], container)
    assert shown(late, start=1.5, end=4) == [(37,), (SLIDE,), (SLIDE,)]
    assert shown(late, start=57) == [(SLIDE,), (50,), (75,)]


def test_an_edit_list_hides_what_has_negative_times():
    early = clip_bytes([time - 1000 for time in STILL], "mov")
    assert clip_of(early).frames.total == 75
    assert shown(early, start=0, end=0.1) == [(0,)]
    assert shown(early, start=0.5, end=3) == [(12,), (24,), (24,)]


def test_of_frames_at_the_same_time_the_last_one_is_seen():
    line = Timeline(np.array([0.0, 1.0, 1.0, 1.0, 2.0]), 3.0, 3.0)
    assert line.sample(0.0, 3.0, 1.0, 128) == ([(0,), (3,), (4,)], 3)


def test_the_last_frame_stays_until_the_sound_ends(tmp_path):
    path = tmp_path / "a.mkv"
    write_clip(path, 5, 10, sound=True)
    data = path.read_bytes()
    assert shown(data, start=0.7, end=0.9) == [(4,)]
    assert len(shown(data, fps=10)) == 5
    with pytest.raises(VideoError, match="no frame at start=2"):
        shown(data, start=2)


def test_an_animated_webp_has_the_times_of_its_frames():
    frames = [Image.fromarray(drawing(number, 60, 40)) for number in range(4)]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], duration=[100, 5000, 100, 800])
    assert shown(stream.getvalue(), start=0) == [(0,), *[(1,)] * 5]
    assert shown(stream.getvalue(), start=5.15) == [(2,)]


def test_lists_with_a_rate():
    array = np.stack([drawing(number, 30, 20) for number in range(50)])
    assert shown(array, fps=10, start=1.05, end=3) == [(10,), (20,)]
    assert shown(array, fps=10) == group_frames(50, 10, 5.0, 128)


@pytest.mark.parametrize("seed", range(4))
def test_a_constant_rate_gives_the_references_frames(seed):
    generator = random.Random(seed)
    for _ in range(100):
        fps, total = generator.choice([5, 10, 12.5, 20, 25, 50]), generator.randint(1, 3000)
        maximum = generator.choice([1, 2, 7, 64, 128])
        line = Timeline.even(total, fps)
        mains, count = line.sample(0.0, line.span, 1.0, maximum)
        wanted = group_frames(total, fps, total / fps, maximum)
        assert count == len(mains) == len(wanted)
        # Products are cut in float64 there: 0.29 * 100 = 28.
        assert all(0 <= one[0] - other[0] <= 1 for one, other in zip(mains, wanted, strict=True))
        if total / fps <= maximum:
            stack = generator.randint(2, 5)
            stacked, _ = line.sample(0.0, line.span, 1.0, maximum, stack)
            others = group_frames(total, fps, total / fps, maximum, stack)
            assert [len(one) for one in stacked] == [len(other) for other in others]


@pytest.mark.parametrize("seed", range(4))
def test_any_times(seed):
    """Against a plain loop over moments."""
    generator = random.Random(seed)
    for _ in range(100):
        steps = [generator.choice([0.0, 0.04, 0.04, 0.1, 1.0, 7.0]) for _ in range(generator.randint(0, 40))]
        starts = np.cumsum([0.0, *steps])
        line = Timeline(starts, float(starts[-1]) + 0.5, float(starts[-1]) + 0.5)
        begin, rate = generator.uniform(0, line.span * 0.9), generator.choice([0.1, 0.7, 1.0, 2.0, 25.0, 1000.0])
        end = generator.uniform(begin + 0.01, line.span)
        found = [unit[0] for unit in line.sample(begin, end, rate, 100_000)[0]]
        seen = [
            int(np.flatnonzero(starts <= begin + step / rate + 1e-6)[-1])
            for step in range(max(1, int(np.ceil((end - begin) * rate - 1e-6))))
        ]
        assert list(dict.fromkeys(found)) == list(dict.fromkeys(seen))
        if rate <= 1:
            assert found == seen
        assert len(found) <= len(starts) + end - begin + 1

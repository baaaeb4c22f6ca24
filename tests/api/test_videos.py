"""Videos through `Model`: one path for all kinds of input, times of each stage, and failures with their class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clips import decode_all, write_clip
from PIL import Image

import pocketvlm
from pocketvlm import InputError, Model, OptionError, VideoError


@pytest.fixture(scope="module")
def model() -> Model:
    return pocketvlm.load("nano", threads=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(path, 45, 10)
    return path


def test_all_ways_are_one_road(model: Model, clip: Path) -> None:
    options = {"temperature": 0, "max_tokens": 8}
    asked = model.ask("What is this?", videos=[clip], **options)
    still = Image.new("RGB", (40, 40))
    for other in (
        model.ask("What is this?", [f"video:{clip}"], **options),
        model.ask("What is this?", videos=[clip.read_bytes()], **options),
        model.ask("What is this?", videos=[decode_all(clip)], fps=10, **options),
        model.chat(
            [
                {
                    "role": "user",
                    "content": [{"type": "video", "video": clip}, {"type": "text", "text": "What is this?"}],
                }
            ],
            **options,
        ),
    ):
        assert other.token_ids == asked.token_ids
        assert other.usage == asked.usage
    mixed = model.processor(
        [{"role": "user", "content": [{"type": "image", "image": still}, {"type": "video", "video": clip}]}]
    )
    assert [len(features) for features in model.encode_images(mixed)] == [mixed.images[0].vision_tokens]


def test_times_of_each_stage(model: Model, clip: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    fresh = pocketvlm.load("nano", threads=1, prefix_cache=0, vision_cache=0)
    prompt = fresh.processor(
        [{"role": "user", "content": [{"type": "video", "video": clip}]}],
        progress=lambda *report: seen.append(report),
    )
    first, repeated = (fresh.generate(prompt, max_tokens=2, temperature=0) for _ in range(2))
    assert first.token_ids == repeated.token_ids
    assert min(first.timings.decode_media, first.timings.resize, first.timings.vision) > 0
    # What the first answer spent on frames is not counted for the second one.
    spent = prompt.later_seconds()
    whole = first.timings.resize + repeated.timings.resize
    assert whole == pytest.approx(spent.resize, abs=1e-6)
    assert seen == [("watch", number, 5) for number in range(1, 6)] * 2
    # Cached features need no frames: not even the thread is started.
    cached = model.ask("What is this?", videos=[clip], temperature=0, max_tokens=2)
    cached = model.ask("What is this?", videos=[clip], temperature=0, max_tokens=2)
    assert (cached.timings.resize, cached.timings.vision) == (0, 0)


def test_failures_have_their_class(model: Model, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40 + (number == 4), 30), (number * 40, 0, 0)) for number in range(6)]
    with pytest.raises(VideoError, match=r"messages\[0\]\.content\[0\]: frame 4 of list of 6 images has 41x30 pixels"):
        model.ask("What is this?", videos=[frames])
    with pytest.raises(VideoError, match=r"messages\[0\]\.content\[0\]: .*no such file"):
        model.ask("What is this?", videos=[tmp_path / "no.mp4"])
    with pytest.raises(InputError, match="videos must be a list, not str"):
        model.ask("What is this?", videos="a.mp4")
    with pytest.raises(OptionError, match="put images, videos and the system prompt into the messages"):
        list(model.stream([{"role": "user", "content": "hi"}], videos=["a.mp4"]))
    with pytest.raises(OptionError, match="did you mean 'max_num_frames'"):
        model.ask("hi", max_num_frame=3)
    array = np.zeros((3, 20, 20, 3), np.uint8)
    assert model.ask("What is this?", videos=[array], max_tokens=2).usage.image_tokens > 0

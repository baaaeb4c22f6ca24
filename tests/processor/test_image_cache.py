"""The image cache: the same prompts as without it, and bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pocketvlm
from pocketvlm import ImageError, Model
from pocketvlm.processor import media_reader
from pocketvlm.processor.image_cache import ImageCache
from pocketvlm.processor.limits import MediaLimits


@pytest.fixture(scope="module")
def model() -> Model:
    return pocketvlm.load("nano", cache=False)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The images that are really cut."""
    made: list[Any] = []
    prepare = media_reader.prepare_image

    def noted(image: Any, *rest: Any) -> Any:
        made.append(image.size)
        return prepare(image, *rest)

    monkeypatch.setattr(media_reader, "prepare_image", noted)
    return made


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8))


def talk(*images: Any, **options: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": image, **options} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]


def test_prompts_are_the_same_and_each_picture_is_cut_once(model: Model, cut: list[Any]) -> None:
    first, second = picture(400, 300), picture(200, 90)
    cache = ImageCache()
    model.processor(talk(first), image_cache=cache)
    prompt = model.processor(talk(first, second, first), image_cache=cache)
    assert cut == [(400, 300), (200, 90)]
    plain = model.processor(talk(first, second, first))
    assert prompt.ids.tolist() == plain.ids.tolist()
    assert prompt.images == plain.images
    for one, other in zip(prompt.views, plain.views, strict=True):
        assert (one.start, one.digest) == (other.start, other.digest)
        assert np.array_equal(one.patches, other.patches)


def test_other_options_and_other_objects_are_cut_anew(model: Model, cut: list[Any]) -> None:
    image, cache = picture(400, 300), ImageCache()
    model.processor(talk(image), image_cache=cache)
    model.processor(talk(image, max_slice_nums=1), image_cache=cache)
    model.processor(talk(image), downsample_mode="4x", image_cache=cache)
    model.processor(talk(image.copy()), image_cache=cache)
    assert len(cut) == 4


def test_files_are_read_each_time(model: Model, cut: list[Any], tmp_path: Path) -> None:
    cache = ImageCache()
    path = tmp_path / "a.png"
    for width in (100, 120):
        picture(width, 80).save(path)
        model.processor(talk(str(path)), image_cache=cache)
    assert cut == [(100, 80), (120, 80)]


def test_the_cache_is_bounded(model: Model, cut: list[Any]) -> None:
    images = [picture(300 + number, 300) for number in range(3)]
    size = sum(view.patches.nbytes for view in model.processor(talk(images[0])).views)
    cache = ImageCache(int(2.5 * size))
    del cut[:]
    for image in (images[0], images[1], images[0], images[2], images[0], images[1]):
        model.processor(talk(image), image_cache=cache)
    assert [width for width, _ in cut] == [300, 301, 302, 301]
    none = ImageCache(size - 1)
    for _ in range(2):
        model.processor(talk(images[0]), image_cache=none)
    assert len(cut) == 6


def test_limits_count_cached_images_too(model: Model) -> None:
    image, cache = picture(400, 300), ImageCache()
    tokens = model.processor(talk(image), image_cache=cache).image_tokens
    with pytest.raises(ImageError, match="visual tokens up to here"):
        model.processor(talk(image, image), image_cache=cache, limits=MediaLimits(max_visual_tokens=tokens))

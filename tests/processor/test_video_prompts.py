"""Prompts with videos: token ids and pixels identical to transformers' own, resizing done by Pillow on both sides."""

from __future__ import annotations

import random

import numpy as np
import pytest
from clips import decode_all, drawing, write_clip
from processor_kit import noise
from video_kit import reference_video

from pocketvlm.errors import InputError, OptionError, VideoError
from pocketvlm.processor import MediaLimits, pack_pixel_values


def clip(frames, width, height):
    return np.stack([drawing(number, width, height) for number in range(frames)])


def user(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What happens?"}]}]


def video(source, **options):
    return {"type": "video", "video": source, **options}


def loaded(prompt):
    return [view.load() for view in prompt.views]


def wanted_of(theirs, messages, rates, **options):
    """transformers' ids and pixels; the sources of its messages are arrays, with a rate for each."""
    arrays = [part["video"] for part in messages[0]["content"] if part["type"] == "video"]
    images = [part["image"] for part in messages[0]["content"] if part["type"] == "image"]
    metadata = [
        {"total_num_frames": len(array), "fps": rate, "duration": len(array) / rate}
        for array, rate in zip(arrays, rates, strict=True)
    ]
    plain = [
        {"type": part["type"], **({"text": part["text"]} if "text" in part else {})} for part in messages[0]["content"]
    ]
    text = theirs.apply_chat_template([{"role": "user", "content": plain}], tokenize=False, add_generation_prompt=True)
    use_image_id = options.pop("use_image_id")
    return theirs(
        images=images or None,
        text=[text],
        videos=arrays,
        use_image_id=use_image_id,
        videos_kwargs={**options, "video_metadata": metadata, "return_tensors": "np"},
        images_kwargs={
            **({"max_slice_nums": options["max_slice_nums"]}),
            "downsample_mode": options["downsample_mode"],
        },
        text_kwargs={"return_tensors": "np"},
    )


def compare(ours, theirs, messages, rates, **options):
    chosen = {"max_slice_nums": 1, "use_image_id": False, "downsample_mode": "16x", **options}
    wanted = wanted_of(theirs, messages, rates, **chosen)
    with_rates = [dict(part) for part in messages[0]["content"]]
    for part, rate in zip([part for part in with_rates if part["type"] == "video"], rates, strict=True):
        part["fps"] = rate
    prompt = ours([{"role": "user", "content": with_rates}], **chosen)
    assert prompt.ids.tolist() == wanted["input_ids"][0].tolist()
    special = ours.tokenizer.special
    mine = [view.load() for view in prompt.views if prompt.ids[view.start] == special.video]
    pixels, sizes = pack_pixel_values(mine)
    assert np.array_equal(sizes, wanted["target_sizes_videos"])
    # transformers groups pictures of one size; the order within a video is the same for one size only.
    if len({(view.rows, view.cols) for view in mine}) == 1:
        assert np.array_equal(pixels, wanted["pixel_values_videos"])
    for view in prompt.views:
        assert len(set(prompt.ids[view.start : view.start + view.tokens].tolist())) == 1
        assert prompt.ids[view.start - 1] in (special.image_start, special.slice_start)
        assert prompt.ids[view.start + view.tokens] in (special.image_end, special.slice_end)
    assert prompt.image_tokens == sum(view.tokens for view in prompt.views)
    assert sum(info.tokens for info in prompt.videos) <= len(prompt.ids)
    return prompt


@pytest.mark.parametrize("mode", ["16x", "4x"])
@pytest.mark.parametrize("stack", [1, 2, 3, 5])
@pytest.mark.parametrize(("frames", "fps", "maximum"), [(25, 10, 128), (61, 10, 4), (7, 12.5, 128)])
def test_one_video(ours, theirs, frames, fps, maximum, stack, mode):
    source = clip(frames, 72, 40)
    compare(ours, theirs, user(video(source)), [fps], stack_frames=stack, max_num_frames=maximum, downsample_mode=mode)


def test_slices_and_ids(ours, theirs):
    source = clip(12, 640, 360)
    prompt = compare(ours, theirs, user(video(source)), [10], max_slice_nums=9, use_image_id=True)
    assert prompt.videos[0].grid == (1, 2)
    assert len(prompt.views) == 3 * len(prompt.videos[0].pictures)


def test_videos_and_images_in_one_prompt_keep_their_order(ours, theirs):
    parts = [
        {"type": "image", "image": noise(60, 90)},
        video(clip(20, 50, 50)),
        {"type": "text", "text": "and"},
        video(clip(14, 90, 60)),
        {"type": "image", "image": noise(91, 60)},
    ]
    prompt = compare(ours, theirs, user(*parts), [10, 7], use_image_id=True)
    assert [info.width for info in prompt.images] == [60, 91]
    assert [info.width for info in prompt.videos] == [50, 90]
    assert [view.start for view in prompt.views] == sorted(view.start for view in prompt.views)
    assert prompt.marks[-1] < len(prompt.ids)


def test_random_videos(ours, theirs):
    generator = random.Random(3)
    for _ in range(25):
        width, height = generator.randint(20, 200), generator.randint(20, 200)
        source, rate = clip(generator.randint(1, 40), width, height), generator.uniform(2, 30)
        options = {
            "stack_frames": generator.choice([1, 1, 2, 3, 4, 5]),
            "max_num_frames": generator.choice([1, 2, 3, 128]),
            "max_slice_nums": generator.choice([1, 1, 4]),
            "use_image_id": generator.random() < 0.5,
            "downsample_mode": generator.choice(["16x", "4x"]),
        }
        compare(ours, theirs, user(video(source)), [rate], **options)


def test_composites_have_the_references_pixels(ours, theirs):
    """One composite alone: its canvas, resized."""
    source = clip(30, 40, 64)
    prompt = ours(user(video(source, fps=10, stack_frames=4)))
    composite = [
        view.load() for view, group in zip(prompt.views, prompt.videos[0].pictures, strict=True) if len(group) > 1
    ]
    import torch

    theirs_video = reference_video()
    for view, group in zip(composite, [group for group in prompt.videos[0].pictures if len(group) > 1], strict=True):
        frames = torch.from_numpy(source[list(group)]).permute(0, 3, 1, 2)
        canvas = theirs_video.concat_frames_as_image(frames)
        wanted = theirs_video.preprocess(
            [canvas], do_sample_frames=False, max_slice_nums=1, video_metadata=None, return_tensors="np"
        )
        assert np.array_equal(pack_pixel_values([view])[0], wanted["pixel_values_videos"])


def test_a_file_has_the_frames_that_a_decoder_gives(ours, tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, 35, 10, (72, 40), options={"bf": "3"})
    frames = decode_all(path)
    for options in ({}, {"stack_frames": 3}, {"max_num_frames": 2}, {"fps": 5}):
        file = ours(user(video(str(path), **options)))
        chosen = [frames[list(group)] for group in file.videos[0].pictures]
        assert file.videos[0].frames == 35
        singles = [
            view.load() for view, group in zip(file.views, file.videos[0].pictures, strict=True) if len(group) == 1
        ]
        listed = ours(user(video(np.concatenate([group for group in chosen if len(group) == 1]))))
        for one, other in zip(singles, loaded(listed), strict=True):
            assert np.array_equal(one.patches, other.patches)
            assert one.digest == other.digest


def test_fps_start_and_end(ours, tmp_path):
    path = tmp_path / "clip.mkv"
    write_clip(path, 60, 10, (64, 48))

    def pictures(**options):
        return ours(user(video(str(path), **options))).videos[0].pictures

    assert pictures() == ((0,), (10,), (20,), (30,), (40,), (50,))
    assert pictures(fps=2) == tuple((5 * step,) for step in range(12))
    assert pictures(fps=0.5) == ((0,), (20,), (40,))
    assert pictures(start=2.0) == ((20,), (30,), (40,), (50,))
    assert pictures(start=2.05, end=4.05) == ((20,), (30,))
    assert pictures(end=0.1) == ((0,),)
    assert pictures(start=1, end=3, stack_frames=3) == ((10,), (13, 16), (20,), (23, 26))
    assert ours(user(video(f"video:{path}:2"))).videos[0].pictures == pictures(fps=2)
    assert ours(user({"type": "video_url", "video_url": f"video:{path}:0.5"})).videos[0].pictures == pictures(fps=0.5)
    with pytest.raises(VideoError, match="no frame at start=7: it is 6 s long: give a smaller start"):
        pictures(start=7)
    with pytest.raises(OptionError, match="its name says fps=2, the options fps=3"):
        ours(user(video(f"video:{path}:2", fps=3)))


def test_what_equals_what_has_one_digest(ours, tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, 30, 10)
    first, again = ours(user(video(str(path)))), ours(user(video(path.read_bytes())))
    assert [view.digest for view in first.views] == [view.digest for view in again.views]
    assert len({view.digest for view in first.views}) == len(first.views)
    still = ours(user(video(np.repeat(clip(1, 64, 48), 5, axis=0))))
    assert len({view.load().digest for view in still.views}) == 1
    write_clip(path, 31, 10)
    other = ours(user(video(str(path))))
    assert not {view.digest for view in first.views} & {view.digest for view in other.views}


def test_limits(ours, tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, 30, 10)
    one = user(video(str(path)))
    for limits, words in [
        (MediaLimits(max_videos=0), "1 videos are more than the limit of 0"),
        (MediaLimits(max_video_frames=2), "3 frames up to here are more than the limit of 2"),
        (MediaLimits(max_video_seconds=2), "3 s are longer than the limit of 2 s"),
        (MediaLimits(max_video_pixels=3000), "64x48 = 3072 pixels are more than the limit of 3000"),
        (MediaLimits(max_visual_tokens=100), "visual tokens up to here are more than the limit of 100"),
        (MediaLimits(local_files=False), "reading local files is switched off"),
    ]:
        with pytest.raises(VideoError, match=words):
            ours(one, limits=limits)
    part = user(video(str(path), start=1, end=2))
    assert len(ours(part, limits=MediaLimits(max_video_seconds=2)).videos[0].pictures) == 1
    with pytest.raises(VideoError, match="more than the limit of 10: send a smaller file or raise max_bytes"):
        ours(user(video(path.read_bytes())), limits=MediaLimits(max_bytes=10))


def test_a_tokenizer_or_template_without_video_says_so(ours, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(ours.tokenizer, "special", replace(ours.tokenizer.special, video=None))
    with pytest.raises(InputError, match="no token for video"):
        ours(user(video(clip(3, 40, 40))))


def test_the_references_own_filter_differs_by_two_levels_at_most():
    """torchvision resizes uint8 with torch's filter; ours is Pillow's. Both aim at the same numbers."""
    source = clip(2, 640, 360)
    options = {"do_sample_frames": False, "max_slice_nums": 1, "return_tensors": "np"}
    one, other = (
        reference_video(name).preprocess([source], video_metadata=None, **options)["pixel_values_videos"]
        for name in ("pillow", "torch")
    )
    levels = np.abs(one - other) * 255 / 2
    assert levels.max() <= 2.01
    assert (levels > 0.5).mean() < 0.01

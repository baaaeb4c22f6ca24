"""Videos given as decoded frames: folders, lists and arrays, and JPEG frames in one URI."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from clip_kit import LIMITS, clip_of, read, watch
from clips import drawing
from PIL import Image

from pocketvlm.errors import OptionError, VideoError
from pocketvlm.processor.frames import open_frames
from pocketvlm.processor.limits import MediaLimits


def test_a_folder_and_a_list_of_images(tmp_path):
    for number in (1, 2, 10, 3):
        Image.fromarray(drawing(number, 60, 40)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    frames = open_frames(str(tmp_path), LIMITS)
    found = read(frames.decoder([]), range(4))
    assert [np.array_equal(one, drawing(number, 60, 40)) for one, number in zip(found, (1, 2, 3, 10), strict=True)]
    assert len(clip_of(str(tmp_path)).groups) == 4
    assert [group.frames for group in clip_of(f"video:{tmp_path}:2").groups] == [(0,), (2,)]
    listed = [tmp_path / "frame1.png", str(tmp_path / "frame2.png"), Image.fromarray(drawing(3, 60, 40))]
    clip = clip_of(listed)
    assert len(clip.groups) == 3
    assert len({view.digest for number in range(3) for view in clip.views(number)}) == 3
    with pytest.raises(OptionError, match="stack_frames needs the times of frames: give fps"):
        clip_of(listed, stack_frames=3)
    with pytest.raises(VideoError, match="3 frames are more than max_num_frames=2: raise it"):
        clip_of(listed, max_num_frames=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="no image in this folder"):
        clip_of(str(tmp_path / "empty"))
    with pytest.raises(VideoError, match="a video of no images"):
        clip_of([])
    with pytest.raises(VideoError, match=r"frame 1 of list of 2 images has 61x40 pixels, the first one 60x40"):
        clip_of([Image.new("RGB", (60, 40)), Image.new("RGB", (61, 40))]).load(1, 0)


def test_frames_in_one_uri():
    """data:video/jpeg;base64,FRAME,FRAME: a list of images, as vLLM's clients send it."""

    def jpeg(number):
        stream = io.BytesIO()
        Image.fromarray(drawing(number, 60, 40)).save(stream, "JPEG")
        return stream.getvalue()

    data = [jpeg(number) for number in range(5)]
    texts = [base64.b64encode(frame).decode() for frame in data]
    uri = "data:video/jpeg;base64," + ",".join(texts)
    listed = clip_of(data)
    for same in (
        uri,
        uri.replace("video/jpeg", "Video/JPEG"),
        f"video:{uri}",
        uri.replace(",", "%2C").replace("%2C", ",", 1),
    ):
        clip = clip_of(same)
        assert [group.frames for group in clip.groups] == [(number,) for number in range(5)]
        assert [view.digest for view in clip.views(3)] == [view.digest for view in listed.views(3)]
        assert clip.load(4, 0).digest == listed.load(4, 0).digest
    assert [group.frames for group in clip_of(uri, fps=2).groups] == [(0,), (2,), (4,)]
    assert [group.frames for group in clip_of(uri, fps=2, start=1.3).groups] == [(2,), (4,)]
    assert len(clip_of(f"data:video/jpeg;base64,{texts[0]}").groups) == 1
    with pytest.raises(OptionError, match="start needs the times of frames: give fps"):
        clip_of(uri, start=1)
    for limits, says in (
        (MediaLimits(max_video_frames=4), "5 frames are more than the limit of 4: send fewer"),
        (MediaLimits(max_bytes=3000), "bytes are more than the limit of 3000: send a smaller file or raise max_bytes"),
    ):
        for fps in (None, 2):
            with pytest.raises(VideoError, match=says):
                open_frames(uri, limits, fps=fps)
    for bad, says in (
        ("", "frame 0 of 1 is empty: put one comma between two frames"),
        (f"{texts[0]},,{texts[1]}", "frame 1 of 3 is empty"),
        (f"{texts[0]},?!", "frame 1 of .*: not valid base64"),
        (f"{texts[0]},AAAA", "frame 1 of .*: not an image in a format we read"),
    ):
        with pytest.raises(VideoError, match=says):
            watch(f"data:video/jpeg;base64,{bad}")
    with pytest.raises(VideoError) as caught:
        watch(f"data:video/jpeg;base64,{texts[0]},{texts[1][: len(texts[1]) // 8 * 4]}")
    assert re.fullmatch(r"frame 1 of data:video/jpeg\S* \(\d+ characters\): damaged or .*", str(caught.value))


def test_arrays():
    array = np.stack([drawing(number, 30, 20) for number in range(5)])
    assert len(clip_of(array).groups) == 5
    assert len(clip_of(array, fps=2).groups) == 3
    assert np.array_equal(clip_of(array[..., :1]).load(2, 0).patches, clip_of(array[..., 0]).load(2, 0).patches)
    for bad in (array.astype(np.float32), array[0, 0], array[None], array[..., :2]):
        with pytest.raises(VideoError, match=r"give uint8 \[frames, height, width\]"):
            clip_of(bad)
    with pytest.raises(VideoError, match="a video cannot be a int"):
        clip_of(5)

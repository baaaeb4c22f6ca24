"""Videos through the server: every way to send one, its limits, and damage that shows only while it is decoded."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_clip
from PIL import Image
from server.kit import Running, image, picture, running

TEXT = {"type": "text", "text": "What is this?"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    write_clip(path, 30, 10)
    return path


@pytest.fixture(scope="module")
def local(clip: Path) -> Iterator[Running]:
    """A server that may read the clip's folder."""
    with running(allowed_media_path=(str(clip.parent),), max_videos=2, max_video_frames=20, max_video_seconds=60) as it:
        yield it


def uri(path: Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def ask(server: Running, *parts: Any, **fields: Any) -> Any:
    response = server.chat([*parts, TEXT], max_tokens=4, temperature=0, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_every_way_to_send_a_video_gives_the_same_prompt(local: Running, clip: Path) -> None:
    upload = local.client.post("/v1/files", files={"file": ("clip.mp4", clip.read_bytes())}, data={"purpose": "vision"})
    number = upload.json()["id"]
    ways = [
        {"type": "video_url", "video_url": {"url": uri(clip)}},
        {"type": "video_url", "video_url": uri(clip)},
        {"type": "video", "video": uri(clip).split(",")[1]},
        {"type": "video", "base64": uri(clip).split(",")[1]},
        {"type": "video_url", "video_url": {"url": clip.as_uri()}},
        {"type": "video", "path": str(clip)},
        {"type": "image_url", "image_url": {"url": f"video:{clip}"}},
        {"type": "video", "file_id": number},
        {"type": "video_url", "video_url": {"file_id": number}},
    ]
    answers = [ask(local, part) for part in ways]
    assert {answer["usage"]["prompt_tokens"] for answer in answers} == {answers[0]["usage"]["prompt_tokens"]}
    assert {answer["choices"][0]["message"]["content"] for answer in answers} == {
        answers[0]["choices"][0]["message"]["content"]
    }
    times = answers[0]["timings"]
    assert min(times["media"], times["resize"], times["vision"]) > 0


def test_jpeg_frames_in_one_uri(local: Running) -> None:
    frames = [encoded(Image.new("RGB", (60, 40), (number * 9, 80, 160))) for number in range(21)]
    uri = "data:video/jpeg;base64," + ",".join(frames[:3])
    listed = [f"data:image/jpeg;base64,{frame}" for frame in frames[:3]]
    one = ask(local, {"type": "video_url", "video_url": {"url": uri}})
    other = ask(local, {"type": "video", "video": listed})
    assert one["usage"]["prompt_tokens"] == other["usage"]["prompt_tokens"]
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert one["choices"][0]["message"] == other["choices"][0]["message"]
    long = "data:video/jpeg;base64," + ",".join(frames)
    response = local.chat([{"type": "video_url", "video_url": {"url": long}}, TEXT], max_tokens=4)
    assert response.status_code == 400
    assert "21 frames are more than the limit of 20: send fewer" in response.text


def encoded(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode()


def test_options_of_the_part_of_its_name_and_of_the_request(local: Running, clip: Path) -> None:
    def seen(part: Any, **fields: Any) -> int:
        return int(ask(local, part, **fields)["usage"]["prompt_tokens_details"]["image_tokens"])

    plain = {"type": "video_url", "video_url": {"url": uri(clip)}}
    one = seen(plain) // 3
    assert seen({**plain, "fps": 2}) == 6 * one
    assert seen(plain, mm_processor_kwargs={"fps": 2}) == 6 * one
    assert seen({"type": "video_url", "video_url": {"url": f"video:{clip}:2"}}) == 6 * one
    assert seen({**plain, "max_num_frames": 1}) == one
    assert seen({**plain, "start": 1, "end": 2}) == one
    assert seen(plain, mm_processor_kwargs={"downsample_mode": "4x"}) > 9 * one


def test_tokens_of_a_video_without_running_it(local: Running, clip: Path) -> None:
    messages = [{"role": "user", "content": [{"type": "video", "video": uri(clip)}, TEXT]}]
    counted = local.client.post("/tokenize", json={"messages": messages}).json()
    (video,) = counted["videos"]
    assert (video["frames"], video["pictures"], counted["images"]) == (30, [[0], [10], [20]], [])
    assert local.client.get("/v1/models/nano").json()["modalities"]["input"] == ["text", "image", "video"]
    assert counted["count"] == ask(local, messages[0]["content"][0])["usage"]["prompt_tokens"]


def test_times_of_frames_are_those_of_the_file(local: Running, clip: Path) -> None:
    """A variable rate: number / rate would say other times."""
    starts = [0, 40, 80, 500, 520, 1400, 1440, 1480, 2900, 2940, 3000, 3900]
    path = clip.parent / "variable.mkv"
    write_clip(path, len(starts), 25, times=starts)
    part = {"type": "video_url", "video_url": {"url": path.as_uri()}}
    counted = local.client.post("/tokenize", json={"messages": [{"role": "user", "content": [part]}]}).json()
    (video,) = counted["videos"]
    assert len(video["pictures"]) > 1
    assert video["times"] == [[starts[number] / 1000 for number in numbers] for numbers in video["pictures"]]
    assert video["times"][1][0] != pytest.approx(video["pictures"][1][0] / video["fps"], abs=0.01)


def test_frames_as_a_list_of_images(local: Running) -> None:
    part = {"type": "video", "video": [picture("dog.png")] * 3}
    answer = ask(local, part, image())
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fps": 100, "max_num_frames": 1000}, "30 frames up to here are more than the limit of 20"),
        ({"stack_frames": 0}, "stack_frames=0"),
        ({"start": 5}, "no frame at start=5"),
        ({"video": "AAAA"}, "not a video in a format we read"),
        ({"video": ""}, "no video data"),
        ({"video": "file:///etc/passwd"}, "not below an allowed media path"),
        ({"video": {"a": 1}}, "cannot be a dict"),
        ({"video": [picture("dog.png"), picture("open.png")]}, "give all frames one size"),
        ({"video": ["x"] * 21}, "21 frames are more than the limit of 20"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(local: Running, clip: Path, change: Any, says: str) -> None:
    part = {"type": "video", "video": uri(clip), **change}
    response = local.chat([part, TEXT])
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert says in error["message"]
    if "speed" not in change and "size" not in says:
        assert "messages[0].content[0]" in error["message"]


def test_limits(clip: Path) -> None:
    with running(max_videos=1, max_video_seconds=2, max_pixels=3000) as server:
        part = {"type": "video", "video": uri(clip)}
        for parts, says in (
            ([part, part], "2 videos are more than the limit of 1"),
            ([part], "64x48 = 3072 pixels are more than the limit of 3000"),
        ):
            response = server.chat([*parts, TEXT])
            assert response.status_code == 400
            assert says in response.json()["error"]["message"]
    with running(max_media_bytes=1000, max_video_frames=2) as server:
        response = server.chat([{"type": "video", "video": uri(clip)}, TEXT])
        assert response.status_code == 400
        assert "limit of 1000" in response.json()["error"]["message"]
        response = server.client.post("/v1/files", files={"file": ("clip.mp4", clip.read_bytes())})
        assert response.status_code == 413
    with running(max_video_seconds=2) as server:
        response = server.chat([{"type": "video", "video": uri(clip)}, TEXT])
        assert "3 s are longer than the limit of 2 s" in response.json()["error"]["message"]


def test_a_request_whose_video_breaks_half_way_fails_alone(server: Running, clip: Path, tmp_path: Path) -> None:
    """The pictures of a folder are of one size but for the last: that shows only when it is due."""
    frames = [Image.fromarray(np.full((40, 60 + (number == 5), 3), number * 40, np.uint8)) for number in range(6)]
    sent = []
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.png")
        sent.append("data:image/png;base64," + base64.b64encode((tmp_path / f"{number}.png").read_bytes()).decode())
    response = server.chat([{"type": "video", "video": sent}, TEXT])
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "invalid_video"
    assert "frame 5" in response.json()["error"]["message"]
    ask(server, {"type": "video", "video": sent[:5]})

"""Videos on the command line: how they are named, what is counted, and nano watching one."""

from __future__ import annotations

import json

import pytest
from clips import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "a clip.mp4"
    write_clip(path, 60, 10)
    return path


def test_what_reaches_the_model(invoke, model, clip, picture):
    arguments = ["-i", str(picture), "-i", f"video:{clip}:2", "-v", str(clip), "-v", f"{clip}:5", "--stack-frames", "3"]
    outcome = invoke("run", "nano", "What?", *arguments, "--fps", "2", "--start", "1", "--end", "3.5")
    assert outcome.code == 0
    assert model.asked["images"] == [str(picture), f"video:{clip}:2"]
    assert model.asked["videos"] == [str(clip), f"{clip}:5"]
    given = {name: model.asked[name] for name in ("stack_frames", "fps", "start", "end")}
    assert given == {"stack_frames": 3, "fps": 2.0, "start": 1.0, "end": 3.5}
    assert "max_num_frames" not in model.asked


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-v", "no.mp4"], "video 'no.mp4': there is no such file"),
        (["-i", "video:no.mp4:2"], "video 'no.mp4': there is no such file"),
        (["-v", "-"], "a video is not read from stdin"),
    ],
)
def test_typing_mistakes_are_said_before_anything_is_loaded(invoke, model, arguments, says):
    outcome = invoke("run", "nano", "hi", *arguments)
    assert outcome.code != 0
    assert says in outcome.err
    assert not model.loaded


def test_tokens_of_videos(invoke, clip, picture):
    arguments = ["tokens", "-v", f"{clip}:2", "-i", str(picture), "--stack-frames", "3", "-p", "What?"]
    report = json.loads(invoke(*arguments, "--json").out)
    (video,) = report["videos"]
    assert (video["frames"], video["main_frames"], len(video["pictures"])) == (60, 12, 24)
    assert video["fps"] == 10.0
    other = json.loads(invoke(*arguments, "--json", "--downsample-mode", "4x").out)
    assert other["prompt_tokens"] == report["prompt_tokens"]
    assert other["videos"] == report["videos"]
    table = invoke(*arguments).out
    assert "a clip.mp4:2" in table
    assert "too long" not in table


def test_what_does_not_fit_is_said_with_what_would(invoke, clip):
    arguments = ["tokens", "-v", str(clip), "--fps", "10", "--downsample-mode", "4x"]
    outcome = invoke(*arguments)
    assert "too long for the context: use --max-num-frames=" in outcome.out
    frames = outcome.out.split("--max-num-frames=")[1].split()[0]
    fits = json.loads(invoke(*arguments, "--max-num-frames", frames, "--json").out)
    assert fits["prompt_tokens"]["4x"] < fits["context"]
    refused = invoke("run", "nano", "hi", *arguments[1:])
    assert refused.code != 0
    assert f"context holds 2048: use --max-num-frames={frames}" in refused.err


def test_nano_watches_a_clip(invoke, clip):
    outcome = invoke("run", "nano", "-v", str(clip), "-p", "What is this?", "-o", "json")
    assert outcome.code == 0
    answer = json.loads(outcome.out)
    assert answer["text"]
    assert answer["usage"]["image_tokens"] % 6 == 0
    times = answer["timings"]
    assert min(times["decode_media"], times["resize"], times["vision"]) > 0


def test_damage_deep_in_a_clip_is_one_line(invoke, clip, tmp_path):
    data = clip.read_bytes()
    middle = len(data) // 2
    path = tmp_path / "broken.mp4"
    path.write_bytes(data[: middle // 2] + bytes(255 - byte for byte in data[middle // 2 : middle]) + data[middle:])
    outcome = invoke("run", "nano", "-v", str(path), "-p", "What is this?", "--fps", "10")
    assert outcome.code != 0
    assert "cannot be decoded: the file is damaged" in outcome.err
    assert outcome.err.count("\n") == 1

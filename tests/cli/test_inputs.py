"""What was typed or piped in: pictures given as videos and the reverse, byte order marks, files that are no media."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from clips import write_clip
from PIL import Image

from pocketvlm.cli.inputs import read_images, read_videos
from pocketvlm.errors import ImageError, VideoError
from pocketvlm.server.settings import read_file, read_keys

BOM = codecs.BOM_UTF8


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip.mp4", 12, 4)
    return tmp_path / "clip.mp4"


def test_a_picture_given_as_a_video_and_the_reverse(invoke, model, picture, clip):
    for arguments in (["-v", str(picture)], ["-v", f"{picture}:2"], ["-i", f"video:{picture}"]):
        outcome = invoke("run", "nano", "hi", *arguments)
        assert outcome.code == 1
        assert outcome.err == f"error: video '{picture}': this is an image (PNG): give it with -i\n"
    outcome = invoke("run", "nano", "hi", "-i", str(clip))
    assert outcome.code == 1
    assert outcome.err == f"error: image '{clip}': this is a video (MP4 or QuickTime): give it with -v\n"
    assert not model.loaded
    assert "this is an image" in invoke("tokens", "-v", str(picture)).err
    assert "this is an image" in invoke("chat", "-v", str(picture)).err


@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_folder_given_as_a_picture(invoke, model, tmp_path, command):
    outcome = invoke(command, "nano", *(["hi"] if command == "run" else []), "-i", str(tmp_path))
    assert outcome.code == 1
    assert f"image '{tmp_path}': this is a folder: give it with -v" in outcome.err
    assert not model.loaded


def test_the_first_bytes_count_and_not_the_name(tmp_path, picture, clip):
    (tmp_path / "photo.mp4").write_bytes(picture.read_bytes())
    (tmp_path / "clip.jpg").write_bytes(clip.read_bytes())
    assert read_images([str(tmp_path / "photo.mp4")])
    assert read_videos([str(tmp_path / "clip.jpg")])
    with pytest.raises(VideoError, match="this is an image"):
        read_videos([str(tmp_path / "photo.mp4")])
    with pytest.raises(ImageError, match="this is a video"):
        read_images([str(tmp_path / "clip.jpg")])
    assert read_images([str(clip)], videos_too=True)
    for form in ("GIF", "WEBP"):
        Image.new("RGB", (8, 8)).save(tmp_path / "a", form)
        assert read_videos([str(tmp_path / "a")])


def test_a_byte_order_mark_is_no_part_of_a_prompt(invoke, model):
    assert invoke("run", "nano", stdin=BOM + b"Hello\n").code == 0
    assert model.asked["text"] == "Hello"
    assert invoke("run", "nano", "-p", "-", stdin=BOM + b"Hello").code == 0
    assert model.asked["text"] == "Hello"


def test_a_byte_order_mark_before_the_lines_of_a_chat(invoke):
    outcome = invoke("chat", "-q", stdin=BOM + b"/help set\n")
    assert outcome.code == 0
    assert outcome.out == ""
    assert "error" not in outcome.err


def test_a_byte_order_mark_in_files(invoke, tmp_path):
    talk, keys, config = tmp_path / "talk.json", tmp_path / "keys", tmp_path / "serve.yaml"
    talk.write_bytes(BOM + json.dumps([{"role": "user", "content": "Hello"}]).encode())
    assert "you: Hello" in invoke("chat", "--load", str(talk), stdin=b"/show\n").err
    keys.write_bytes(BOM + b"a-key-of-mine\n")
    assert read_keys(keys, {}) == ("a-key-of-mine",)
    config.write_bytes(BOM + b"max-seqs: 3\n")
    assert read_file(config, ("max_seqs",)) == {"max_seqs": 3}


def test_a_file_that_is_no_media_is_not_sent_as_text(invoke, tmp_path):
    (tmp_path / "notes.txt").write_text("my notes")
    path = tmp_path / "notes.txt"
    for line in (f"{path}", f"'{path}'", f"{path.as_uri()}", f"What is in {path}?"):
        outcome = invoke("chat", stdin=line.encode())
        assert outcome.code == 1
        assert outcome.out == ""
        assert f"error: {path}: no picture, video or PDF file: nothing was sent" in outcome.err
    for twice, code in ((f"{path}", 1), (f"What is in {path}?", 1)):
        outcome = invoke("chat", stdin=f"{twice}\n{twice}\n".encode())
        assert outcome.code == code
        assert bool(outcome.out) is (twice != str(path)), "a question may be meant as text, a path alone never is"
    assert "notes.txt: not an image" in invoke("chat", "-i", str(path), stdin=b"").err
    (tmp_path / "a.svg").write_text("<svg></svg>")
    outcome = invoke("chat", stdin=f"{tmp_path}/a.svg".encode())
    assert "SVG are not read: it is a drawing without pixels" in outcome.err


def test_the_option_for_transparency_reaches_the_model(invoke, model, tmp_path):
    assert invoke("run", "nano", "hi", "--alpha", "reference").code == 0
    assert model.asked["alpha"] == "reference"
    assert invoke("run", "nano", "hi", "--processor-kwargs", '{"alpha": "white"}').code == 0
    assert model.asked["alpha"] == "white"
    outcome = invoke("run", "nano", "hi", "--alpha", "black")
    assert outcome.code == 2
    assert "'white', 'reference'" in outcome.err
    Image.new("RGBA", (64, 48)).save(tmp_path / "a.png")
    assert invoke("tokens", "-i", str(tmp_path / "a.png"), "--alpha", "reference").code == 0

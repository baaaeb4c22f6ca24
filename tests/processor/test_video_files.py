"""Video files: every container gives the frames of a decoder that reads from the beginning, and damage is an error."""

from __future__ import annotations

import gc
import io
import random
import struct
import threading
import weakref
from pathlib import Path

import av
import numpy as np
import pytest
from clip_kit import LIMITS, clip_of, read, watch
from clips import decode_all, drawing, write_clip
from PIL import Image

from pocketvlm.errors import OptionError, VideoError
from pocketvlm.processor.clip import AHEAD
from pocketvlm.processor.container import VideoFile
from pocketvlm.processor.frame_index import build_index
from pocketvlm.processor.frame_reader import Reader
from pocketvlm.processor.frames import open_frames, rated
from pocketvlm.processor.limits import MediaLimits

KINDS = {
    "mp4": ("a.mp4", "libx264", {"bf": "3"}),
    "mov": ("a.mov", "libx264", {}),
    "mkv_open_gop": ("a.mkv", "libx264", {"bf": "3", "x264-params": "open-gop=1:b-pyramid=2"}),
    "mkv_intra_refresh": ("a.mkv", "libx264", {"x264-params": "intra-refresh=1"}),
    "hevc": ("a.mp4", "libx265", {"x265-params": "log-level=none"}),
    "vp8": ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9": ("a.webm", "libvpx-vp9", {}),
    "av1": ("a.mkv", "libsvtav1", {}),
    "avi": ("a.avi", "mpeg4", {}),
    "ts": ("a.ts", "libx264", {}),
    "gif": ("a.gif", "gif", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_single_frames_are_those_of_a_decoder_that_reads_all(tmp_path, kind):
    name, codec, options = KINDS[kind]
    path = tmp_path / name
    write_clip(path, 60, 10, (64, 48), codec, options=options)
    every = decode_all(path)
    frames = open_frames(str(path), LIMITS)
    assert (frames.total, frames.fps, frames.seconds) == (len(every), 10.0, len(every) / 10)
    generator = random.Random(1)
    for round_ in range(4):
        chosen = sorted(generator.sample(range(len(every)), 6))
        if round_ == 3:  # not in order
            generator.shuffle(chosen)
        found = read(frames.decoder(chosen), chosen)
        assert all(np.array_equal(one, every[number]) for one, number in zip(found, chosen, strict=True)), chosen
    data = open_frames(path.read_bytes(), LIMITS)
    assert np.array_equal(read(data.decoder([7]), [7])[0], every[7])


def test_seeking_reads_less_and_skips_what_nobody_needs(tmp_path):
    path = tmp_path / "a.mp4"
    write_clip(path, 240, 24, key_every=24, options={"bf": "3"})
    file = VideoFile(path, "a.mp4", LIMITS)
    index = build_index(file)
    assert len(index.times) == 240
    assert len(index.keys) >= 10

    def decoded(numbers, wanted):
        """Frames that come out of the decoder until these are found."""
        reader, count = Reader(file, index, wanted), 0
        inner = reader._decode

        def counting():
            nonlocal count
            for frame in inner():
                count += 1
                yield frame

        reader._decode = counting
        read(reader, numbers)
        return count

    assert decoded([235], []) < 30
    assert decoded([3, 235], []) < 40
    whole = decoded(range(0, 240, 12), [])
    assert decoded(range(0, 240, 12), range(0, 240, 12)) < whole
    assert decoded([100] * 20, []) < 30


def test_a_variable_rate_counts_frames_as_the_reference_does(tmp_path):
    path = tmp_path / "a.mkv"
    times = [0, 40, 80, 500, 520, 1400, 1440, 1480, 2900, 2940, 3000, 3900]
    write_clip(path, len(times), 25, times=times)
    every = decode_all(path)
    frames = open_frames(str(path), LIMITS)
    assert frames.total == len(times)
    assert 2 < frames.fps < 30
    chosen = [0, 3, 7, 11]
    found = read(frames.decoder(chosen), chosen)
    assert all(np.array_equal(one, every[number]) for one, number in zip(found, chosen, strict=True))


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_rotated_videos_are_turned_upright(tmp_path, angle):
    path = tmp_path / "a.mp4"
    write_clip(path, 3, 10, (64, 32), rotation=angle)
    stored = decode_all(path)[0]
    clip = clip_of(str(path))
    assert (clip.width, clip.height) == ((64, 32) if angle == 180 else (32, 64))
    found = read(open_frames(str(path), LIMITS).decoder([0]), [0])[0]
    assert np.array_equal(found, np.rot90(stored, angle // 90))


def test_animated_webp(tmp_path, monkeypatch):
    path = tmp_path / "a.webp"
    pictures = [Image.fromarray(drawing(number, 60, 40)) for number in range(8)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 300] * 4, lossless=True)
    frames = open_frames(str(path), LIMITS)
    assert (frames.total, frames.fps, frames.seconds) == (8, 5.0, 1.6)
    found = read(frames.decoder([0, 7, 3]), [0, 7, 3])
    assert all(np.array_equal(one, drawing(number, 60, 40)) for one, number in zip(found, [0, 7, 3], strict=True))
    assert [group.frames for group in clip_of(str(path)).groups] == [(0,), (5,)]
    still = tmp_path / "still.webp"
    pictures[0].save(still)
    assert [group.frames for group in clip_of(str(still)).groups] == [(0,)]
    data = path.read_bytes()
    for cut in (20, 40, len(data) // 2):
        with pytest.raises(VideoError):
            watch(data[:cut], fps=30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(VideoError, match=r"2400 pixels are more than Pillow's limit of 2000: make it smaller"):
        open_frames(str(path), LIMITS)


def test_names_with_a_rate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rated("video:a.mp4:2") == ("a.mp4", 2.0)
    assert rated("a.mp4:0.5") == ("a.mp4", 0.5)
    assert rated("Video:a.mp4") == ("a.mp4", None)
    assert rated("video:https://h/a.mp4:8080") == ("https://h/a.mp4:8080", None)
    assert rated("video:data:;base64,AA:1") == ("data:;base64,AA:1", None)
    Path("odd:3").write_bytes(b"")
    assert rated("video:odd:3") == ("odd:3", None)


def clip_bytes(tmp_path, name="a.mp4", frames=30, **options):
    write_clip(tmp_path / name, frames, 10, **options)
    return (tmp_path / name).read_bytes()


def with_index_first(data, path):
    """The same MP4 with its index before its frames, as on web pages."""
    with (
        av.open(io.BytesIO(data)) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as output,
    ):
        copy = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
    return path.read_bytes()


def mangled(data, begin):
    """An MP4 with its head and its index as they were, and rubbish between."""
    return data[:begin] + bytes(byte ^ 0x55 for byte in data[begin:-1200]) + data[-1200:]


def of_size(data, width, height):
    """A GIF that says it has this size."""
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def png(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    return (tmp_path / "a.png").read_bytes()


HOURS = {"frames": 4, "times": [0, 40, 80, 36_000_000]}
BAD = {
    "missing": (lambda at: str(at / "no.mp4"), "no such file"),
    "zero length": (lambda at: b"", "empty, no video data"),
    "corrupt head": (lambda at: b"\0\0\0\x20ftypisom" + bytes(500), "not a video in a format we read"),
    "text": (lambda at: b"hello, I am no video" * 20, "not a video in a format we read"),
    "playlist": (lambda at: b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n", "not a video in a format we read"),
    "concat list": (lambda at: b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video in a format we read"),
    "picture": (png, "it is an image (PNG), not a video: give it as an image"),
    "index cut off": (lambda at: clip_bytes(at)[:3000], "not a video in a format we read"),
    "frames cut off": (
        lambda at: with_index_first(clip_bytes(at), at / "b.mp4")[:3000],
        "of 30 or is damaged there: get a whole copy",
    ),
    "stream cut off": (
        lambda at: clip_bytes(at, "a.mkv", 100, size=(160, 120))[:40_000],
        "of 10.0 s or is damaged there: get a whole copy",
    ),
    "mangled": (lambda at: mangled(clip_bytes(at), 48), "cannot be decoded: the file is damaged"),
    "mangled later": (lambda at: mangled(clip_bytes(at), 2000), "cannot be decoded: the file is damaged"),
    "sound only": (lambda at: clip_bytes(at, frames=0, sound=True), "there is no video in it, only audio"),
    "ten hours": (lambda at: clip_bytes(at, "a.mkv", **HOURS), "36000 s are longer than the limit of 14400 s"),
    "16K wide": (
        lambda at: of_size(clip_bytes(at, "a.gif", codec="gif"), 16384, 2400),
        "frames of 16384x2400 = 39321600 pixels are more than the limit of 36000000",
    ),
    "thin": (
        lambda at: of_size(clip_bytes(at, "a.gif", codec="gif"), 16384, 2),
        "longer than 1000:1",
    ),
    "a device": (lambda at: "/dev/null", "not a regular file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_inputs_get_one_clear_line(tmp_path, kind):
    make, says = BAD[kind]
    source = make(tmp_path)
    with pytest.raises(VideoError) as caught:
        watch(source)
    text = str(caught.value)
    assert says in text
    assert "\n" not in text
    assert len(text) < 300


def test_odd_inputs_that_are_fine(tmp_path):
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.gif", "gif")):
        assert [group.frames for group in clip_of(clip_bytes(tmp_path, name, 1, codec=codec)).groups] == [(0,)]
    assert len(clip_of(clip_bytes(tmp_path, sound=True)).groups) == 3
    # Ten hours, of which a part is wanted; its frames are not equally long.
    part = clip_of(clip_bytes(tmp_path, "a.mkv", **HOURS), end=0.2, fps=25)
    assert [group.frames for group in part.groups] == [(0,), (1,), (2,)]
    with pytest.raises(OptionError, match="fps=0 is out of range"):
        clip_of(clip_bytes(tmp_path), fps=0)


def test_more_frames_than_any_clip_has(tmp_path, monkeypatch):
    monkeypatch.setattr("pocketvlm.processor.frame_index.MAX_FPS", 2)
    data = clip_bytes(tmp_path)
    with pytest.raises(VideoError, match="more than 8 frames: cut the file or raise max_video_seconds"):
        open_frames(data, MediaLimits(max_video_seconds=4))


def test_a_file_that_changes_is_not_mixed_with_what_it_was(tmp_path):
    clip_bytes(tmp_path)
    clip = clip_of(str(tmp_path / "a.mp4"), fps=10)
    clip._close()
    (tmp_path / "a.mp4").write_bytes(clip_bytes(tmp_path, "b.mp4", 50))
    with pytest.raises(VideoError, match="was changed while it was read"):
        clip.load(3, 0)


def test_few_pictures_are_in_memory_and_any_order_is_right(tmp_path):
    clip_bytes(tmp_path, frames=60)
    clip = clip_of(str(tmp_path / "a.mp4"), fps=10)
    assert len(clip.groups) == 60
    wanted = {}
    for number in range(60):
        wanted[number] = clip.load(number, 0).digest
        assert len(clip._made) <= AHEAD + 1
    assert len(set(wanted.values())) == 60
    for number in (59, 0, 30, 29, 31, 5):
        assert clip.load(number, 0).digest == wanted[number]
        assert len(clip._made) <= AHEAD + 1
    assert clip.seconds.decode > 0
    assert clip.seconds.resize > 0
    fresh, go_on = clip_of(str(tmp_path / "a.mp4"), fps=10), threading.Event()
    fresh.progress = lambda *_: go_on.wait(20)
    assert not fresh.prepare(7)
    go_on.set()
    assert fresh.prepare(7, 20.0)
    assert fresh.load(7, 0).digest == wanted[7]


def test_nothing_is_made_for_a_clip_that_is_gone(tmp_path):
    clip_bytes(tmp_path, frames=60)
    clip = clip_of(str(tmp_path / "a.mp4"), fps=10)
    began, go_on, made = threading.Event(), threading.Event(), []

    def hold(stage, number, of_all):
        made.append(number)
        began.set()
        go_on.wait(20)

    clip.progress = hold
    clip.prepare(0)
    futures = list(clip._made.values())
    assert began.wait(20)
    gone = weakref.ref(clip)
    del clip
    go_on.set()
    assert [type(future.exception()) for future in futures] == [type(None)] + [VideoError] * AHEAD
    assert made == [1]
    gc.collect()
    assert gone() is None


def test_a_picture_is_made_once_however_many_are_asked_for_before(tmp_path):
    clip_bytes(tmp_path, frames=60)
    clip, made = clip_of(str(tmp_path / "a.mp4"), fps=10), []
    clip.progress = lambda stage, number, of_all: made.append(number)
    for start in range(0, 60, 12):
        for number in range(start, start + 12):
            clip.prepare(number, 20.0)
        for number in range(start, start + 12):
            clip.load(number, 0)
    assert made == list(range(1, 61))
    assert len(clip._made) <= AHEAD + 1


def test_both_decoders_of_a_long_clip_go_forward_only(tmp_path):
    clip_bytes(tmp_path, frames=200)
    clip = clip_of(str(tmp_path / "a.mp4"), max_num_frames=5, stack_frames=3)
    asked = {}
    for group, number in zip(clip.groups, clip._decoder_numbers, strict=True):
        asked.setdefault(number, []).extend(group.frames)
    assert sorted(asked) == [0, 1]
    assert all(numbers == sorted(numbers) for numbers in asked.values())
    every = decode_all(tmp_path / "a.mp4")
    alone = clip_of([Image.fromarray(frame) for frame in every], max_num_frames=200)
    for number, group in enumerate(clip.groups):
        if len(group.frames) == 1:
            assert clip.load(number, 0).digest == alone.load(group.frames[0], 0).digest

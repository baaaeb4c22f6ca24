"""Clips that are shown rotated or mirrored: all eight orientations, from track headers and from bitstreams."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from clips import drawing, write_clip

from pocketvlm.config import ProcessorConfig
from pocketvlm.options.media import VideoOptions
from pocketvlm.processor.clip import open_clip
from pocketvlm.processor.frames import open_frames
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.sampling import plan_groups

# Entries a, b, c, d of the matrix, and what a player makes of [height, width, 3].
ORIENTATIONS = {
    "upright": ((1, 0, 0, 1), lambda pixels: pixels),
    "90 clockwise": ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),
    "180": ((-1, 0, 0, -1), lambda pixels: np.rot90(pixels, 2)),
    "90 anticlockwise": ((0, -1, 1, 0), np.rot90),
    "mirrored": ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
    "transposed": ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1)),
}


def clip_bytes(container="mp4", rotation=0):
    stream = io.BytesIO()
    write_clip(stream, 3, 10, (64, 32), container=container, rotation=rotation)
    return stream.getvalue()


def with_matrix(matrix):
    """An mp4 clip with these entries a, b, c, d in its track header."""
    data = bytearray(clip_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (round(value * 65536) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return bytes(data)


def first(data):
    return np.asarray(open_frames(data, MediaLimits()).decoder([0]).read(0))


def check(data, show):
    """The first frame is shown like this, and sizes and token counts are those of the upright frame."""
    wanted = show(first(clip_bytes()))
    assert np.array_equal(first(data), wanted)
    options = VideoOptions()
    clip = open_clip(data, options, ProcessorConfig(), MediaLimits())
    assert (clip.height, clip.width) == wanted.shape[:2]
    groups = [group.frames for group in clip.groups]
    planned = plan_groups(wanted.shape[1], wanted.shape[0], groups, options.image)
    view = clip.load(0, 0)
    assert clip.vision_tokens == sum(picture.vision_tokens for picture in planned)
    assert [(view.rows, view.cols)] == [(height // 14, width // 14) for height, width in clip.groups[0].sizes]


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_track_headers(name):
    matrix, show = ORIENTATIONS[name]
    check(with_matrix(matrix), show)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_scales_and_odd_angles_go_to_the_nearest_orientation(name):
    (a, b, c, d), show = ORIENTATIONS[name]
    sine, cosine = np.sin(np.radians(30)), np.cos(np.radians(30))
    # Shown in this orientation, then turned by 30 degrees and made twice as wide.
    turned = [2 * (a * cosine - b * sine), a * sine + b * cosine, 2 * (c * cosine - d * sine), c * sine + d * cosine]
    check(with_matrix(turned), show)
    assert np.array_equal(first(with_matrix((0, 0, 0, 0))), first(clip_bytes()))


@pytest.mark.parametrize("container", ["mov", "matroska"])
@pytest.mark.parametrize("angle", [90, 180, -90])
def test_other_containers(container, angle):
    check(clip_bytes(container, angle), lambda pixels: np.rot90(pixels, angle // 90))


def with_h264_message(packets, stream, angle, flip):
    """Packets with the orientation inserted by FFmpeg's own filter."""
    flips = {"": "", "horizontal": ":flip=horizontal", "vertical": ":flip=vertical"}
    filters = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:rotate={angle}{flips[flip]}", stream)
    return [filtered for packet in [*packets, None] for filtered in filters.filter(packet)]


def with_hevc_message(packets, stream, angle, flip):
    """Packets with a prefix SEI in front: payload type 47, two bits of flips, 16 of the angle, one of persistence."""
    bits = (flip == "horizontal") << 22 | (flip == "vertical") << 21 | (angle << 16) // 360 << 5 | 0b11000
    message = bytes([39 << 1, 1, 47, 3]) + bits.to_bytes(3) + b"\x80"
    found = []
    for packet in packets:
        changed = av.Packet(len(message).to_bytes(4) + message + bytes(packet))
        changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
        changed.is_keyframe = packet.is_keyframe
        found.append(changed)
    return found


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("flip", ["", "horizontal", "vertical"])
@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_display_orientation_in_the_bitstream(codec, flip, angle):
    """The standards flip first and rotate anticlockwise then."""
    source, changed = io.BytesIO(), io.BytesIO()
    encoder, options = ("libx264", {}) if codec == "h264" else ("libx265", {"x265-params": "log-level=none"})
    write_clip(source, 3, 10, (64, 32), encoder, container="matroska", options=options)
    plain = first(source.getvalue())
    add = with_h264_message if codec == "h264" else with_hevc_message
    with av.open(io.BytesIO(source.getvalue())) as reader, av.open(changed, "w", format="matroska") as output:
        old = reader.streams.video[0]
        new = output.add_stream_from_template(old)
        for packet in add([packet for packet in reader.demux(old) if packet.size], old, angle, flip):
            packet.stream = new
            output.mux(packet)
    flipped = {"": plain, "horizontal": plain[:, ::-1], "vertical": plain[::-1]}[flip]
    assert np.array_equal(first(changed.getvalue()), np.rot90(flipped, angle // 90))


def test_the_drawing_differs_in_every_orientation():
    pixels = drawing(0, 64, 32)
    shown = [show(pixels) for _, show in ORIENTATIONS.values()]
    assert len({(one.shape, one.tobytes()) for one in shown}) == 8

"""Captures that begin in the middle of a GOP: the index agrees with a decoder that begins at the first key frame."""

from __future__ import annotations

import io
import random

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from clips import frames_from_key, without_packets, write_clip

from pocketvlm.errors import VideoError
from pocketvlm.processor.frames import open_frames
from pocketvlm.processor.limits import MediaLimits

LIMITS = MediaLimits()
# Encoder, options, and whether its packets can be copied into each container.
CODECS = {
    "h264": ("libx264", {"bf": "3"}),
    "h264_open_gop": ("libx264", {"bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
    "h264_intra_refresh": ("libx264", {"x264-params": "intra-refresh=1:keyint=20"}),
    "hevc": ("libx265", {"x265-params": "log-level=none:open-gop=0"}),
    "hevc_rasl": ("libx265", {"x265-params": "log-level=none:open-gop=1:scenecut=0"}),
    "hevc_radl": ("libx265", {"x265-params": "log-level=none:radl=2:open-gop=0:scenecut=0"}),
    "vp8": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9": ("libvpx-vp9", {}),
    "mpeg2": ("mpeg2video", {"bf": "2"}),
    "mpeg4": ("mpeg4", {"bf": "2"}),
}
CONTAINERS = {
    "matroska": set(CODECS),
    "mp4": set(CODECS) - {"vp8"},
    "mov": {"h264", "hevc_rasl", "mpeg2", "mpeg4"},
    "mpegts": {"h264", "hevc", "hevc_rasl", "hevc_radl", "mpeg2"},
    "avi": {"mpeg4"},
}


@pytest.fixture(scope="module")
def whole():
    """Each clip once, 60 frames with a key frame every 30 at most."""
    found = {}
    for name, (encoder, options) in CODECS.items():
        stream = io.BytesIO()
        write_clip(stream, 60, 10, (64, 48), encoder, container="matroska", key_every=30, options=options)
        found[name] = stream.getvalue()
    return found


@pytest.mark.parametrize(
    ("codec", "container"), [(codec, container) for container, codecs in CONTAINERS.items() for codec in sorted(codecs)]
)
def test_counts_and_frames_are_those_of_a_decoder(whole, codec, container):
    generator, tried = random.Random(codec + container), 0
    for count in (0, 1, 7, 18, 29, 33):
        data = without_packets(whole[codec], count, container)
        every = frames_from_key(data)
        if not every:
            with pytest.raises(VideoError, match="no key frame"):
                open_frames(data, LIMITS)
            continue
        tried += 1
        frames = open_frames(data, LIMITS)
        assert frames.total == len(every)
        last = len(every) - 1
        few = sorted(generator.sample(range(len(every)), min(4, len(every))))
        for chosen in ([0], [last], few, list(range(len(every)))):
            decoder = frames.decoder(chosen)
            for number in chosen:
                assert np.array_equal(np.asarray(decoder.read(number)), every[number]), (count, chosen, number)
            decoder.close()
    assert tried >= 4


@pytest.mark.parametrize("codec", ["vp9", "h264", "hevc_rasl"])
def test_a_piece_without_a_key_frame_is_refused_at_once(whole, codec):
    data = without_packets(whole[codec], 58, "matroska")
    with pytest.raises(VideoError, match="no key frame"):
        open_frames(data, LIMITS)


def test_packets_whose_kind_the_demuxer_cannot_tell():
    """H.264 with start codes where the container's header says lengths: no packet counts as a key frame."""
    source, changed = io.BytesIO(), io.BytesIO()
    write_clip(source, 30, 10, (64, 48), container="matroska", options={"bf": "3"})
    with av.open(io.BytesIO(source.getvalue())) as reader, av.open(changed, "w", format="matroska") as output:
        old = reader.streams.video[0]
        new = output.add_stream_from_template(old)
        filters = BitStreamFilterContext("h264_mp4toannexb", old)
        for packet in [*(packet for packet in reader.demux(old) if packet.size), None]:
            for filtered in filters.filter(packet):
                filtered.stream = new
                output.mux(filtered)
    data = changed.getvalue()
    with av.open(io.BytesIO(data)) as reader:
        assert not any(packet.is_keyframe for packet in reader.demux(video=0))
    with av.open(io.BytesIO(data)) as reader:
        every = [frame.to_ndarray(format="rgb24") for frame in reader.decode(video=0)]
    frames = open_frames(data, LIMITS)
    assert frames.total == len(every) == 30
    decoder = frames.decoder([3, 29])
    assert all(np.array_equal(np.asarray(decoder.read(number)), every[number]) for number in (3, 29))

"""Ten minutes of 1080p from first frame to last: right frames, bounded memory, and where the time went."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
from clips import write_clip

pytestmark = pytest.mark.long

# Frames of 1080p are 6 MB, their patches at the model's own size 2.5 MB: all 128 of both would be 1.1 GB.
MAX_BYTES = 800 << 20
WATCH = """
import json, re, sys, time
from pocketvlm.config import ProcessorConfig
from pocketvlm.processor.clip import open_clip
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.options.media import VideoOptions
began = time.perf_counter()
clip = open_clip(sys.argv[1], VideoOptions(stack_frames=int(sys.argv[2])), ProcessorConfig(), MediaLimits())
opened = time.perf_counter() - began
shapes = {clip.load(number, 0).patches.shape for number in range(len(clip.groups))}
print(json.dumps({
    "pictures": len(clip.groups), "opened": opened, "decode": clip.seconds.decode, "resize": clip.seconds.resize,
    "shapes": sorted(shapes), "peak": int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024,
}))
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds at 30 frames a second, thirty times behind each other."""
    part, path = io.BytesIO(), tmp_path_factory.mktemp("long") / "clip.mp4"
    options = {"preset": "ultrafast", "crf": "30"}
    write_clip(part, 600, 30, (1920, 1080), container="mp4", key_every=150, options=options)
    with av.open(str(path), "w") as output:
        copy = None
        for round_ in range(30):
            part.seek(0)
            with av.open(part) as source:
                stream = source.streams.video[0]
                copy = copy or output.add_stream_from_template(stream)
                length = round(20 / stream.time_base)
                for packet in source.demux(stream):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + round_ * length, packet.dts + round_ * length
                        packet.stream = copy
                        output.mux(packet)
    return path


@pytest.mark.parametrize("stack", [1, 3])
def test_pictures_of_the_models_own_size_in_bounded_memory(clip: Path, stack: int) -> None:
    command = [sys.executable, "-c", WATCH, str(clip), str(stack)]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(report)
    # 1200 frames between the main ones are thinned to 256: 55 of the first 128 seconds have some.
    assert report["pictures"] == (128 if stack == 1 else 128 + 55)
    assert [24 * 44, 588] in report["shapes"]
    assert report["peak"] < MAX_BYTES


def test_nano_watches_it(clip: Path) -> None:
    command = [sys.executable, "-m", "pocketvlm", "run", "nano", "-v", str(clip), "-p", "What is this?"]
    done = subprocess.run([*command, "--output", "json"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    print(report)
    times = report["timings"]
    assert report["usage"]["image_tokens"] >= 128
    assert min(times["decode_media"], times["resize"], times["vision"]) > 0

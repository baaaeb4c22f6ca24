"""Feeds damaged and random files to the loaders of images and videos: `python fuzzing.py SEED COUNT SECONDS`.

Prints a line before each file, so that a reader sees which file crashed or hung the process; at the end
"done", how many files were read, how many refused, and the peak of memory in bytes.
"""

from __future__ import annotations

import io
import random
import re
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

from clips import drawing, write_clip
from PIL import Image

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import PocketVLMError
from pocketvlm.options.media import VideoOptions
from pocketvlm.processor.clip import open_clip
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import load_image

LIMITS = MediaLimits(max_bytes=4 << 20, max_pixels=2_000_000, max_video_pixels=2_000_000, max_video_seconds=600)
CLIPS = (
    ("a.mp4", "libx264", {"bf": "3"}),
    ("b.mkv", "libx264", {}),
    ("c.mp4", "libx265", {"x265-params": "log-level=none"}),
    ("d.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "8"}),
    ("e.webm", "libvpx-vp9", {}),
    ("f.avi", "mpeg4", {}),
    ("g.ts", "libx264", {}),
    ("h.gif", "gif", {}),
    ("i.mkv", "libsvtav1", {}),
    ("j.apng", "apng", {}),
)
PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Numbers that sizes and counts are often not prepared for.
ODD = (0, 1, 0x7F, 0x80, 0xFF)


def originals() -> list[tuple[str, bytes]]:
    """Small whole files, with what they are: "image" or "video"."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, codec, options in CLIPS:
            write_clip(Path(folder) / name, 12, 10, (64, 48), codec, options=options)
            found.append(("video", (Path(folder) / name).read_bytes()))
    frames = [Image.fromarray(drawing(number, 40, 30)) for number in range(5)]
    for form in PICTURES:
        stream = io.BytesIO()
        frames[0].save(stream, form)
        found.append(("image", stream.getvalue()))
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    found.append(("video", stream.getvalue()))
    return found


def damaged(data: bytes, generator: random.Random) -> bytes:
    """The same file with some kind of damage; most of it where headers are."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 4, 16))):
        end = min(len(changed), generator.choice((64, 512, len(changed))))
        at = generator.randrange(max(1, end))
        kind = generator.randrange(7)
        if kind == 0:
            changed[at : at + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            changed[at : at + 4] = bytes([generator.choice(ODD)] * 4)
        elif kind == 2:
            changed[at : at + 1] = bytes([(changed[at] if at < len(changed) else 0) ^ 1 << generator.randrange(8)])
        elif kind == 3:
            del changed[generator.randrange(max(1, len(changed))) :]
        elif kind == 4:
            del changed[at : at + generator.randint(1, 64)]
        elif kind == 5:
            changed[at:at] = generator.randbytes(generator.randint(1, 64))
        else:
            other = generator.randrange(max(1, len(changed)))
            changed[at : at + 32] = changed[other : other + 32]
    return bytes(changed)


def watch(data: bytes, generator: random.Random) -> None:
    """Make pictures of a clip, as a prompt would."""
    options = VideoOptions(
        max_num_frames=generator.choice((1, 3, 128)),
        stack_frames=generator.choice((1, 1, 3)),
        fps=generator.choice((None, 10.0)),
        start=generator.choice((None, 0.3)),
    )
    clip = open_clip(data, options, ProcessorConfig(), LIMITS)
    for number in range(min(6, len(clip.groups))):
        clip.load(number, 0)


def peak() -> int:
    """Most bytes that were resident. ru_maxrss may be the parent's, from before this program was loaded."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]


def main(seed: int, count: int, seconds: float) -> None:
    """Until so many files were tried, or so many seconds have passed."""
    warnings.simplefilter("ignore")
    generator, files, deadline = random.Random(seed), originals(), time.monotonic() + seconds
    read = refused = 0
    for number in range(count):
        if time.monotonic() > deadline:
            break
        kind, data = generator.choice(files)
        data = generator.randbytes(generator.randint(0, 300)) if generator.random() < 0.05 else damaged(data, generator)
        print(number, kind, len(data), flush=True)
        # Pictures are tried as videos too, and now and then a video as a picture.
        loaders = [lambda data=data: watch(data, generator)]
        if kind == "image" or generator.random() < 0.1:
            loaders.append(lambda data=data: load_image(data, LIMITS))
        for load in loaders:
            try:
                load()
                read += 1
            except PocketVLMError as error:
                if len(str(error)) > 600:
                    raise
                refused += 1
    print("done", read, refused, peak(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))

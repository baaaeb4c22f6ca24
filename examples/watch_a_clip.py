"""What happens in a video: `python watch_a_clip.py clip.mp4`; without a file, the one that is here."""

import sys
from pathlib import Path

import pocketvlm

HERE = Path(__file__).parent

clip = sys.argv[1] if len(sys.argv) > 1 else HERE / "penguin.mp4"

with pocketvlm.load("nano") as model:
    part = {"type": "video", "video": clip, "max_num_frames": 64}
    prompt = model.processor([{"role": "user", "content": [part, {"type": "text", "text": "What happens?"}]}])
    (video,) = prompt.videos
    print(f"{len(video.pictures)} of {video.frames} frames, {video.tokens} tokens")
    result = model.generate(prompt, temperature=0, max_tokens=32)
    print(result.text)
    times = result.timings
    print(f"decode {times.decode_media:.2f} s, resize {times.resize:.2f} s, vision {times.vision:.2f} s")

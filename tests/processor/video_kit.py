"""What the video tests share: clips written with PyAV, their frames, and transformers' video processor."""

from __future__ import annotations

import io
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

PIXELS = {"gif": "rgb8", "apng": "rgb24", "libwebp_anim": "bgra"}


def drawing(number: int, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: a picture that differs from frame to frame, in colour and in where things are."""
    rows, cols = np.mgrid[:height, :width]
    picture = np.stack([(cols * 2 + number * 7) % 256, (rows * 3 + number * 5) % 256, (rows + cols + number) % 256], -1)
    left = number * 5 % max(1, width - 8)
    picture[height // 4 : height // 2, left : left + 8] = 255
    return picture.astype(np.uint8)


def write_clip(
    path: Path | io.BytesIO,
    frames: int = 30,
    fps: float = 10,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    *,
    container: str | None = None,
    key_every: int = 12,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    times: list[int] | None = None,
    sound: bool = False,
) -> None:
    """A video file; times: milliseconds at which frames are shown, for a variable rate."""
    from fractions import Fraction

    target = str(path) if isinstance(path, Path) else path
    with av.open(target, "w", format=container) as output:
        if frames:
            stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height = size
            stream.pix_fmt = PIXELS.get(codec, "yuv420p")
            stream.options = dict(options or {})
            stream.codec_context.gop_size = key_every
            stream.codec_context.thread_count = 1
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
        voice = output.add_stream("aac", rate=16000) if sound else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(drawing(number, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        if frames:
            output.mux(stream.encode())
        if voice is not None:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            samples.sample_rate = 16000
            output.mux(voice.encode(samples))
            output.mux(voice.encode())


def decode_all(path: Path) -> np.ndarray:
    """uint8 [frames, height, width, 3]: all frames, from beginning to end, as the reference reads them."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@cache
def reference_video(filter_: str = "pillow") -> Any:
    """transformers' video processor without torchvision: its own code but for resizing and normalising.

    filter_: "pillow" resizes as the image path does; "torch" with torch's bicubic filter on uint8 with antialiasing,
    which is what torchvision calls.
    """
    module = import_module("transformers.models.minicpmv4_6.video_processing_minicpmv4_6")

    class Processor(module.MiniCPMV4_6VideoProcessor):
        def resize(self, video: torch.Tensor, size: Any, resample: Any = None, **kwargs: Any) -> torch.Tensor:
            flat = video.reshape(-1, *video.shape[-3:])
            if filter_ == "torch":
                resized = torch.nn.functional.interpolate(
                    flat, (size.height, size.width), mode="bicubic", antialias=True
                )
            else:
                resized = torch.stack([_pillow(frame, size.width, size.height) for frame in flat])
            return resized.reshape(*video.shape[:-2], size.height, size.width)

        def rescale_and_normalize(self, images: Any, do_rescale: Any, factor: float, *rest: Any) -> torch.Tensor:
            # As the image path computes it: x * factor in float64, then float32. torchvision's fused form differs in
            # the last bit.
            scaled = (images.numpy().astype(np.float64) * factor).astype(np.float32)
            return torch.from_numpy((scaled - np.float32(0.5)) / np.float32(0.5))

    return Processor(image_mean=[0.5] * 3, image_std=[0.5] * 3)


def _pillow(frame: torch.Tensor, width: int, height: int) -> torch.Tensor:
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.copy()).permute(2, 0, 1)


def reference_indices(total: int, fps: float, seconds: float, maximum: int, stack: int) -> list[int]:
    """Frame indices that transformers chooses: main frames, then sub-frames."""
    metadata = SimpleNamespace(total_num_frames=total, fps=fps, duration=seconds)
    return list(reference_video().sample_frames(metadata, max_num_frames=maximum, stack_frames=stack))

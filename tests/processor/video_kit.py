"""transformers' video processor, as tests call it."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image


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

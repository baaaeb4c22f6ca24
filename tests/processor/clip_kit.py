"""Helpers that open clips and load their frames."""

from __future__ import annotations

import numpy as np

from pocketvlm.config import ProcessorConfig
from pocketvlm.options.media import VideoOptions
from pocketvlm.processor.clip import open_clip
from pocketvlm.processor.limits import MediaLimits

LIMITS = MediaLimits()


def read(decoder, numbers):
    try:
        return [np.asarray(decoder.read(number)) for number in numbers]
    finally:
        decoder.close()


def clip_of(source, **options):
    return open_clip(source, VideoOptions(**options), ProcessorConfig(), LIMITS)


def watch(source, **options):
    """Make every picture of a clip."""
    clip = clip_of(source, **options)
    for number in range(len(clip.groups)):
        clip.load(number, 0)

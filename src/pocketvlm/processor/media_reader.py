"""`MediaReader` loads the media of one conversation under its limits and measures the time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import ImageError, OptionError, VideoError
from pocketvlm.options.media import IMAGE_OPTIONS, ImageOptions, VideoOptions
from pocketvlm.processor.clip import Clip, open_clip
from pocketvlm.processor.image import prepare_image
from pocketvlm.processor.image_cache import ImageCache, PreparedImage
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import load_image
from pocketvlm.processor.messages import Conversation, MediaPart
from pocketvlm.processor.pending_image import Pending, PendingImage, pending_image
from pocketvlm.processor.sizes import describe, plan_layout

_FEWER = "send fewer or smaller images, or a smaller max_slice_nums"


class MediaReader:
    """Reads the media of one conversation. decoding, resizing: seconds so far."""

    def __init__(
        self,
        config: ProcessorConfig,
        limits: MediaLimits,
        options: Mapping[str, Any],
        image_cache: ImageCache | None = None,
        pending: Pending | None = None,
    ) -> None:
        """options: for all images and videos. image_cache: images that were cut for earlier prompts. pending: what is
        read of images that a string names before a view is loaded.
        """
        self.pending = pending
        self.config, self.limits, self.image_cache = config, limits, image_cache
        self.request = {name: value for name, value in options.items() if name in IMAGE_OPTIONS}
        self.sampling = options
        self.decoding = self.resizing = 0.0
        self._visual = self._frames = 0

    def check(self, conversation: Conversation) -> None:
        """Refuse bad options and too many parts before anything is opened. Raises OptionError and InputError."""
        images, videos, limits = len(conversation.images), len(conversation.videos), self.limits
        if (images or videos) and not self.config.downsample_modes:
            kind, what = (ImageError, "images") if images else (VideoError, "videos")
            raise kind(f"{what} cannot be read without a vision tower: {self.config.vision_missing}")
        if images > limits.max_images:
            raise ImageError(
                f"{images} images are more than the limit of {limits.max_images}: send fewer or raise max_images"
            )
        if videos > limits.max_videos:
            raise VideoError(
                f"{videos} videos are more than the limit of {limits.max_videos}: send fewer or raise max_videos"
            )
        # Bad options are refused even if the conversation has no media to apply them to.
        ImageOptions.resolve(self.config, self.request)
        VideoOptions.resolve(self.config, self.sampling)
        for part in conversation.images:
            self._image_options(part)
        for part in conversation.videos:
            self._video_options(part)

    def read(self, conversation: Conversation) -> tuple[list[PreparedImage | PendingImage], list[Clip]]:
        """All images and videos, in order. Raises ImageError, VideoError and OptionError."""
        images = [self._image(part) for part in conversation.images]
        return images, [self._video(part) for part in conversation.videos]

    def _image_options(self, part: MediaPart) -> ImageOptions:
        return ImageOptions.resolve(self.config, self.request, part.options, where=part.where)

    def _video_options(self, part: MediaPart) -> VideoOptions:
        return VideoOptions.resolve(self.config, self.sampling, part.options, where=part.where)

    def _image(self, part: MediaPart) -> PreparedImage | PendingImage:
        began, options = time.perf_counter(), self._image_options(part)
        if self.pending is not None and isinstance(part.source, str) and not part.base64:
            return self._pending(part, part.source, options, self.pending)
        cached = None if self.image_cache is None else self.image_cache.find(part.source, options)
        if cached is not None:
            self._count(cached.describe(0).vision_tokens, part, ImageError, _FEWER)
            return cached
        try:
            image = load_image(part.source, self.limits, is_base64=part.base64, alpha=options.alpha)
        except ImageError as error:
            raise ImageError(f"{part.where}: {error}") from error.__cause__
        decoded = time.perf_counter()
        layout = plan_layout(image.width, image.height, options)
        tokens = describe(image.width, image.height, layout, options, 0).vision_tokens
        self._count(tokens, part, ImageError, _FEWER)
        views = prepare_image(image, options, self.config)
        self.decoding += decoded - began
        self.resizing += time.perf_counter() - decoded
        prepared = PreparedImage(image.width, image.height, layout, options, views)
        if self.image_cache is not None:
            self.image_cache.put(part.source, options, prepared)
        return prepared

    def _pending(self, part: MediaPart, source: str, options: ImageOptions, pending: Pending) -> PendingImage:
        began = time.perf_counter()
        try:
            image = pending_image(source, options, self.config, self.limits, pending)
        except ImageError as error:
            raise ImageError(f"{part.where}: {error}") from error.__cause__
        self._count(image.describe(0).vision_tokens, part, ImageError, _FEWER)
        self.decoding += time.perf_counter() - began
        return image

    def _video(self, part: MediaPart) -> Clip:
        began = time.perf_counter()
        try:
            clip = open_clip(part.source, self._video_options(part), self.config, self.limits, is_base64=part.base64)
        except VideoError as error:
            raise VideoError(f"{part.where}: {error}") from error.__cause__
        except OptionError as error:
            raise OptionError(f"{part.where}: {error}") from None
        clip.where = part.where
        self._frames += sum(len(group.frames) for group in clip.groups)
        if self._frames > self.limits.max_video_frames:
            raise VideoError(
                f"{part.where}: {self._frames} frames up to here are more than the limit of "
                f"{self.limits.max_video_frames}: give a smaller max_num_frames, stack_frames or fps, or a part of it "
                "with start and end"
            )
        ways = "give a smaller max_num_frames, stack_frames or max_slice_nums, or downsample_mode='16x'"
        self._count(clip.vision_tokens, part, VideoError, ways)
        self.decoding += time.perf_counter() - began
        return clip

    def _count(self, tokens: int, part: MediaPart, kind: type[ImageError] | type[VideoError], ways: str) -> None:
        self._visual += tokens
        if self._visual > self.limits.max_visual_tokens:
            raise kind(
                f"{part.where}: {self._visual} visual tokens up to here are more than the limit of "
                f"{self.limits.max_visual_tokens}: {ways}"
            )

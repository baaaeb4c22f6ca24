"""`ways_to_fit` names the settings that would make a prompt fit that is too long."""

from __future__ import annotations

from pocketvlm.types import ImageInfo, Prompt, VideoInfo


def ways_to_fit(prompt: Prompt, limit: int) -> str:
    """Settings that would make a prompt have `limit` tokens at most, in words.

    A number of frames is enough by itself, because all frames of a video have about the same number of tokens.
    """
    ways = []
    over = len(prompt.ids) - limit
    if prompt.videos:
        video = max(prompt.videos, key=lambda info: info.tokens)
        frames = int(video.main_frames * (video.tokens - over - 8) / video.tokens)
        if frames >= 1:
            ways.append(f"max_num_frames={frames}")
        if len(video.pictures) > video.main_frames:
            ways.append("stack_frames=1")
    media: list[ImageInfo | VideoInfo] = [*prompt.videos, *prompt.images]
    if any(info.grid for info in media):
        ways.append("a smaller max_slice_nums")
    if any(info.downsample_mode == "4x" for info in media):
        ways.append("downsample_mode='16x'")
    if len(media) > 1:
        ways.append("fewer images or videos")
    if ways:
        return "use " + ", ".join(ways[:-1]) + (" or " if len(ways) > 1 else "") + ways[-1] + ", or shorten the text"
    return "shorten the text"

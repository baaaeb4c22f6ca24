"""Typed and piped images and prompts are checked before anything heavy is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pocketvlm.errors import ImageError, InputError, OptionError, VideoError

STDIN = "-"


def read_images(names: Sequence[str], videos_too: bool = False) -> list[str | bytes]:
    """Images for the processor: `-` becomes the bytes on stdin; a missing path is refused now.

    videos_too: whether a video may stand among them, too. Raises ImageError, VideoError, OptionError.
    """
    if list(names).count(STDIN) > 1:
        raise OptionError("-i - is given twice: stdin holds one image")
    return [_read_stdin_image() if name == STDIN else _checked(name, videos_too) for name in names]


def read_videos(names: Sequence[str]) -> list[str]:
    """Videos for the processor; a missing path is refused now. Raises VideoError, OptionError."""
    if STDIN in names:
        raise OptionError("-v -: a video is not read from stdin: give its path")
    for name in names:
        _check_video(name)
    return list(names)


def _check_video(name: str) -> None:
    from pocketvlm.processor.formats import still
    from pocketvlm.processor.frames import rated

    path = rated(name)[0]
    if _missing(path):
        raise VideoError(f"video {path!r}: there is no such file")
    picture = still(_head(path))
    if picture is not None:
        raise VideoError(f"video {path!r}: this is an image ({picture.name}): give it with -i")


def _is_piped() -> bool:
    """Whether stdin is open and no terminal."""
    return sys.stdin is not None and not sys.stdin.isatty()


def _read_stdin_image() -> bytes:
    if not _is_piped():
        raise OptionError("-i - reads an image from stdin, but nothing is piped in: pipe a file in, or give its path")
    data = sys.stdin.buffer.read()
    if not data:
        raise ImageError("-i -: no image came on stdin: it was empty")
    return data


def _checked(name: str, videos_too: bool) -> str:
    from pocketvlm.processor.formats import recognize

    if name[:6].lower() == "video:":
        _check_video(name)
    elif _missing(name):
        raise ImageError(f"image {name!r}: there is no such file")
    elif _is_folder(name):
        raise ImageError(f"image {name!r}: this is a folder: give it with -v, and its images are the frames of a video")
    elif not videos_too and (found := recognize(_head(name))) is not None and found.group == "video":
        raise ImageError(f"image {name!r}: this is a video ({found.name}): give it with -v")
    return name


def _head(name: str) -> bytes:
    """The first bytes of a file on disk; empty for other sources, which the processor checks."""
    from pocketvlm.processor.formats import HEAD

    try:
        path = Path(name).expanduser()
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except (OSError, RuntimeError, ValueError):
        return b""


def _is_folder(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):
        return False


def _missing(name: str) -> bool:
    is_path = "://" not in name and not name.strip().lower().startswith(("data:", "file:", "http:", "https:"))
    try:
        return is_path and not Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False  # the processor's error says why such a path cannot be read


def read_prompt(text: str | None, images: Sequence[str], piped: bool) -> str:
    """The prompt; `-` reads it from stdin, and so does None if `piped` and stdin is neither the terminal nor an image.

    One new line at the end of stdin is not part of it.
    """
    if text == STDIN and STDIN in images:
        raise OptionError("-i - and -p - both read stdin: give one of them another way")
    if text == STDIN or (text is None and piped and STDIN not in images and _is_piped()):
        if sys.stdin is None:
            raise OptionError("-p - reads the prompt from stdin, but stdin is closed")
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InputError(f"the prompt on stdin is not UTF-8 text ({error}): for an image use -i -") from None
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the prompt is not UTF-8 text: check the terminal's encoding") from None
    return text or ""

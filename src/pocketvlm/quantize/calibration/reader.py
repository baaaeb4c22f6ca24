"""Reads a user's calibration data: JSONL of conversations, or a folder of pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pocketvlm.errors import InputError, OptionError
from pocketvlm.processor.processor import Processor
from pocketvlm.quantize.calibration.default import with_answer
from pocketvlm.quantize.calibration.sample import Sample, within

MAX_TOKENS = 32_768
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"}
_QUESTIONS = ("Describe this image.", "What is in the picture? Read all text in it.")
_MEDIA = ("image", "image_url", "video", "video_url")


def read_calibration(
    path: str | Path, processor: Processor, *, max_length: int, label: str = "calibration"
) -> list[Sample]:
    """Samples of a JSONL file or of a folder of pictures, at most 32768 tokens in all.

    Each line of a file is an object with "messages", as `chat` takes them, and perhaps "tools"; paths of media are
    relative to the file. Pictures of a folder are asked about in both visual modes. label: the option's name, for
    errors. Everything is read and prepared now, pictures included. Raises InputError that names the file, the line and
    what is wrong, and OptionError for a path that is neither.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        samples = list(_folder(source, processor, label))
    elif source.is_file():
        samples = list(_lines(source, processor, label))
    else:
        raise OptionError(
            f"{label}={str(path)!r}: there is no such file or folder: give 'default', a JSONL file or a folder of "
            f"pictures"
        )
    chosen = within(samples, MAX_TOKENS, max_length)
    if not chosen:
        raise InputError(
            f"{label} {source}: no sample has at most {max_length} tokens: give smaller pictures or shorter texts"
        )
    return chosen


def _lines(path: Path, processor: Processor, label: str) -> Iterator[Sample]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{label} {path}: cannot be read: {reason}: give a JSONL file in UTF-8") from None
    found = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = True
        where = f"{label} {path}, line {number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f'{where}: is not JSON ({error}): write one object {{"messages": [...]}} a line') from None
        if not isinstance(data, Mapping) or "messages" not in data:
            raise InputError(f'{where}: has no "messages": write one object {{"messages": [...]}} a line')
        unknown = sorted(set(data) - {"messages", "tools"})
        if unknown:
            raise InputError(f'{where}: unknown key {unknown[0]!r}: give "messages" and perhaps "tools"')
        try:
            prompt = with_answer(processor, _resolved(data["messages"], path.parent), data.get("tools"))
            for view in prompt.views:
                view.load()
        except InputError as error:
            raise type(error)(f"{where}: {error}") from None
        except OptionError as error:
            raise InputError(f"{where}: {error}") from None
        yield Sample.of(prompt)
    if not found:
        raise InputError(f'{label} {path}: is empty: write one object {{"messages": [...]}} a line')


def _resolved(messages: Any, folder: Path) -> Any:
    """Messages whose paths of media start from the folder; URLs and data URIs stay."""
    if not isinstance(messages, list):
        return messages
    return [
        {**message, "content": [_part(part, folder) for part in message["content"]]}
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _part(part: Any, folder: Path) -> Any:
    if not isinstance(part, dict):
        return part
    return {key: _source(value, folder) if key in (*_MEDIA, "path") else value for key, value in part.items()}


def _source(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _source(item, folder) if key == "url" else item for key, item in value.items()}
    if not isinstance(value, str) or "://" in value or value.startswith("data:"):
        return value
    return str(folder / Path(value).expanduser())


def _folder(path: Path, processor: Processor, label: str) -> Iterator[Sample]:
    pictures = sorted(file for file in path.rglob("*") if file.suffix.lower() in _PICTURES and file.is_file())
    modes = processor.config.downsample_modes
    if not pictures:
        raise InputError(f"{label} {path}: holds no pictures ({', '.join(sorted(_PICTURES))}): give another folder")
    if not modes:
        raise InputError(f"{label} {path}: this model has no vision tower: give a JSONL file of texts")
    for index, file in enumerate(pictures):
        part = {"type": "image", "image": str(file), "downsample_mode": modes[index % len(modes)]}
        content = [part, {"type": "text", "text": _QUESTIONS[index // len(modes) % len(_QUESTIONS)]}]
        try:
            yield Sample.of(processor([{"role": "user", "content": content}]))
        except InputError as error:
            raise type(error)(f"{label} {path}: {error}") from None

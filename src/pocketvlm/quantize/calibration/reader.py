"""Reads a user's calibration data: JSONL of conversations, or a folder of pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pocketvlm.errors import InputError, OptionError
from pocketvlm.processor.processor import Processor
from pocketvlm.quantize.calibration.default import with_answer
from pocketvlm.quantize.calibration.lazy import LazyViews
from pocketvlm.quantize.calibration.sample import Sample, fitted, thinned
from pocketvlm.types import DownsampleMode, Prompt

MAX_TOKENS = 32_768
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"}
_QUESTIONS = ("Describe this image.", "What is in the picture? Read all text in it.")
_MIN_TOKENS = 32  # of a picture and its question: more pictures than fit with so few are not decoded
_MEDIA = ("image", "image_url", "video", "video_url")


def read_calibration(
    path: str | Path,
    processor: Processor,
    *,
    max_length: int,
    longest: int | None = None,
    max_tokens: int = MAX_TOKENS,
    label: str = "calibration",
    notes: list[str] | None = None,
) -> list[Sample]:
    """Samples of a JSONL file or of a folder of pictures, about `max_tokens` tokens in all, chosen evenly.

    Each line of a file is an object with "messages", as `chat` takes them, and perhaps "tools"; paths of media are
    relative to the file. Pictures of a folder are asked about in both visual modes, or in one in turn where both would
    exceed `max_tokens`. max_length: tokens to which texts are cut. longest: tokens of a sample with pictures (None:
    max_length). label: the option's name, for errors. notes: gets what was left out and why; without it a sample that
    is too long is an error. Patches are made again when a view is loaded. Raises InputError that names the file, the
    line and what is wrong, and OptionError for a path that is neither.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        found, count = _folder(source, processor, label, max_tokens)
    elif source.is_file():
        found = list(_lines(source, processor, label))
        count = len(found)
    else:
        raise OptionError(
            f"{label}={str(path)!r}: there is no such file or folder: give 'default', a JSONL file or a folder of "
            f"pictures"
        )
    longest = max_length if longest is None else longest
    samples, too_long = list[Sample](), list[str]()
    for where, sample in found:
        prompt = fitted(sample.prompt, max_length, longest)
        if prompt is None:
            too_long.append(f"{where} ({len(sample.prompt.ids)} tokens)")
        else:
            samples.append(replace(sample, prompt=prompt))
    if too_long:
        names = ", ".join(too_long[:3]) + (" ..." if len(too_long) > 3 else "")
        reason = f"pictures of a sample must fit into {longest} tokens: {names}"
        if notes is None or not samples:
            raise InputError(f"{label} {source}: {reason}: give smaller pictures, fewer of them, or mode 16x")
        notes.append(f"{len(too_long)} of {len(found)} samples were left out: {reason}")
    chosen = thinned(samples, max_tokens)
    if notes is not None and len(chosen) + len(too_long) < count:
        notes.append(f"{len(chosen)} of {count} samples were used: all of them exceed {max_tokens} tokens")
    return chosen


def _lines(path: Path, processor: Processor, label: str) -> Iterator[tuple[str, Sample]]:
    """Each line's number and sample."""
    lazy = LazyViews()
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not at the other separators of Unicode
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
        messages = _resolved(data["messages"], path.parent)
        try:
            prompt = lazy.prompt(partial(with_answer, processor, messages, data.get("tools")))
            for view in prompt.views if prompt.videos else ():
                view.load()
        except InputError as error:
            raise type(error)(f"{where}: {error}") from None
        except OptionError as error:
            raise InputError(f"{where}: {error}") from None
        yield f"line {number}", Sample.of(prompt)
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


def _is_picture(file: Path) -> bool:
    """Whether a file's name is a picture's; hidden files are those of the system."""
    return file.suffix.lower() in _PICTURES and not file.name.startswith(".") and file.is_file()


def _folder(path: Path, processor: Processor, label: str, tokens: int) -> tuple[list[tuple[str, Sample]], int]:
    """File and sample of each picture that is read, and the number of samples of all pictures."""
    pictures = sorted(file for file in path.rglob("*") if _is_picture(file))
    modes = processor.config.downsample_modes
    if not pictures:
        raise InputError(f"{label} {path}: holds no images ({', '.join(sorted(_PICTURES))}): give another folder")
    if not modes:
        raise InputError(f"{label} {path}: this model has no vision tower: give a JSONL file of texts")
    lazy, count = LazyViews(), len(pictures) * len(modes)
    limit = max(1, tokens // _MIN_TOKENS)
    if len(pictures) > limit:
        pictures = [pictures[index * len(pictures) // limit] for index in range(limit)]
    found: list[tuple[str, Sample]] = []
    total, all_modes = 0, True
    for index, file in enumerate(pictures):
        for mode in modes[index % len(modes) :] + modes[: index % len(modes)]:
            question = _QUESTIONS[index // len(modes) % len(_QUESTIONS)]
            sample = Sample.of(lazy.prompt(partial(_asked, processor, file, mode, question, f"{label} {path}")))
            found.append((f"{file.relative_to(path)} in {mode}", sample))
            total += len(sample.prompt.ids)
            if not all_modes:
                break
        if all_modes and total > tokens and len(modes) > 1:
            # Each picture in one mode leaves room for more of them.
            all_modes = False
            found = found[:: len(modes)]
    return found, count


def _asked(processor: Processor, file: Path, mode: DownsampleMode, question: str, where: str) -> Prompt:
    """The prompt of a question about a picture."""
    part = {"type": "image", "image": str(file), "downsample_mode": mode}
    try:
        return processor([{"role": "user", "content": [part, {"type": "text", "text": question}]}])
    except InputError as error:
        raise type(error)(f"{where}: {error}") from None

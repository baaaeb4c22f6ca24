"""Small data sets for evaluations: pictures of one colour with questions about them, and files of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = ("red", "green", "blue", "yellow", "black")


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def record(question: str, *references: str, image: str | None = None, **extra: Any) -> dict[str, Any]:
    """A record with one reference as the assistant's answer, or with several as "answers"."""
    content = question if image is None else f"<image>{question}"
    found: dict[str, Any] = {"messages": [{"role": "user", "content": content}], **extra}
    if image is not None:
        found["images"] = [image]
    if len(references) == 1:
        found["messages"].append({"role": "assistant", "content": references[0]})
    else:
        found["answers"] = list(references)
    return found


def colour_data(folder: Path, **extra: Any) -> Path:
    """Five pictures of one colour, asked for the colour of their background."""
    for colour in COLOURS:
        Image.new("RGB", (64, 48), colour).save(folder / f"{colour}.png")
    lines = [
        record("What colour is the background?", colour, image=f"{colour}.png", id=colour, **extra)
        for colour in COLOURS
    ]
    return write_lines(folder / "data.jsonl", lines)

"""Small data sets of drawn pictures for nano."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "processor")]

DataMaker = Callable[..., Path]
_WORDS = ("left", "right", "top", "low")


def draw(number: int) -> Image.Image:
    """A picture that differs for each number."""
    picture = Image.new("RGB", (80 + number, 90), (250, 240 - number, 200))
    corner = 10 * (number % 5)
    ImageDraw.Draw(picture).ellipse((corner, 20, corner + 30, 60), fill=(20 * number % 255, 90, 40))
    return picture


@pytest.fixture
def make_data(tmp_path: Path) -> DataMaker:
    """make_data(count, name="data"): a JSONL file with pictures, texts alone and a second turn."""

    def make(count: int, name: str = "data") -> Path:
        lines: list[dict[str, Any]] = []
        for number in range(count):
            question, images = "Where?" * (1 + number % 3), []
            if number % 3 != 2:
                draw(number).save(tmp_path / f"{name}-{number}.png")
                question, images = f"<image>{question}", [f"{name}-{number}.png"]
            turns = [("user", question), ("assistant", _WORDS[number % 4] * (1 + number % 2))]
            messages = [{"role": role, "content": content} for role, content in turns]
            lines.append({"messages": messages, "images": images})
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return make

"""Helpers of the tests of training data: data files as tools write them, and nano's processor."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pocketvlm.api import processor_for
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.processor import Processor


@cache
def nano() -> Processor:
    """The processor of nano."""
    return processor_for(open_checkpoint(resolve("nano"), weights=False))


def picture(folder: Path, name: str = "a.png", size: tuple[int, int] = (60, 40)) -> str:
    """A small picture whose every pixel matters; returns its name."""
    values = np.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / name)
    return name


def lines(path: Path, *records: Any) -> Path:
    """A JSON lines file; a string is a line as it is."""
    texts = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def talk(*texts: str, **more: Any) -> dict[str, Any]:
    """A record of messages: questions and answers in turn."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)], **more}

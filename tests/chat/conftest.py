"""A chat with the embedded model, and files to chat about."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import pocketvlm
from pocketvlm import Model
from pocketvlm.chat.session import Session
from pocketvlm.chat.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def model() -> Model:
    return pocketvlm.load("nano", cache=False)


@pytest.fixture
def session(model: Model) -> Session:
    """A chat that answers the same each time, briefly."""
    given = {"temperature": 0.0, "max_tokens": 6}
    return Session(model, Settings(model.sampling_defaults, model.processor.config, given))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with pictures of various names and a PDF file of three pages."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["a.png", "b.JPG", "my cat.png", "it's (1).png", "deep er/c d.webp", "photo"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (100 + 10 * number, 80), "red").save(path, "PNG")
    pages = [Image.new("RGB", (200, 280), colour) for colour in ("white", "red", "blue")]
    pages[0].save(tmp_path / "paper.pdf", save_all=True, append_images=pages[1:])
    with av.open(tmp_path / "clip.mp4", "w") as clip:
        stream = clip.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for number in range(20):
            pixels = np.full((120, 160, 3), 10 * number, np.uint8)
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        clip.mux(stream.encode(None))
    for name in ("notes.txt", "my notes.txt", "README"):
        (tmp_path / name).write_text("no picture")
    return tmp_path

"""The command line in this process: real parsing and real errors, and a stand-in for the model."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.cli import main
from pocketvlm.types import Chunk, Timings, Usage

Invoke = Callable[..., "Outcome"]

USAGE, TIMINGS = Usage(88, 64, 12), Timings(vision=0.1, decode=0.129, ttft=0.21)


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str


class Stdin(io.TextIOWrapper):
    """Bytes on stdin, from a pipe or from a terminal."""

    def __init__(self, data: bytes, terminal: bool) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No option comes from the environment of the test run."""
    for name in [*os.environ]:
        if name.startswith("POCKETVLM_") or name in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}:
            monkeypatch.delenv(name)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Run the command line: invoke(*arguments, stdin=b"...", terminal=False) -> Outcome."""

    def call(*arguments: str, stdin: bytes = b"", terminal: bool = False) -> Outcome:
        monkeypatch.setattr(sys, "stdin", Stdin(stdin, terminal))
        code = main(arguments)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@dataclass
class FakeModel:
    """Answers with given chunks and remembers how it was loaded and asked."""

    chunks: Sequence[str] = ("A red", " square.")
    finish_reason: str = "stop"
    error: BaseException | None = None
    loaded: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    def load(self, model: str | Path, **options: Any) -> FakeModel:
        self.loaded = {"model": model, **options}
        return self

    def stream(
        self,
        request: str,
        images: Sequence[Any] = (),
        *,
        videos: Sequence[Any] = (),
        system: str | None = None,
        progress: Any = None,
        **params: Any,
    ) -> Iterator[Chunk]:
        self.asked = {"text": request, "images": list(images), "videos": list(videos), "system": system, **params}
        return self._answer()

    def _answer(self) -> Iterator[Chunk]:
        for number, text in enumerate(self.chunks[:-1]):
            yield Chunk(text, (number,))
        if self.error is not None:
            raise self.error
        yield Chunk(self.chunks[-1], (99,), self.finish_reason, USAGE, TIMINGS)  # type: ignore[arg-type]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """What `pocketvlm.api.load` gives in this test."""
    fake = FakeModel()
    monkeypatch.setattr("pocketvlm.api.load", fake.load)
    return fake


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A small picture."""
    from PIL import Image

    path = tmp_path / "red square.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path

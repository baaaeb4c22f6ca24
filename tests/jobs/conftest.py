"""The command line in this process, on nano."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pocketvlm.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """Run `pocketvlm batch` with arguments, in a temporary directory, on one thread."""
    for name in [*os.environ]:
        if name.startswith("POCKETVLM_BATCH"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        code = main(["batch", *arguments, "--threads", "1"])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call

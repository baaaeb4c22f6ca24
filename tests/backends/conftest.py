"""Makes the helpers beside these tests importable, and builds native backends of every instruction set."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from native_kit import poisoned_backend, usable


@pytest.fixture(params=[(isa, threads) for isa in usable() for threads in (1, 3)], ids=lambda p: f"{p[0]}-{p[1]}")
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    """A native backend whose outputs and scratch memory begin as NaN."""
    isa, threads = request.param
    return poisoned_backend(threads, isa, monkeypatch)

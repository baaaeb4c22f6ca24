"""Libraries of the extra `formats`, imported at their first use: `make test` collects these tests without them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Library:
    """A module; using one that is not installed fails the test, as `make test-formats` installs all of them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)

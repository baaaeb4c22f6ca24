"""A small dense checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from writer_kit import write_source


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small random model in bfloat16; not to be changed."""
    return write_source(tmp_path_factory.mktemp("source") / "MiniCPM-V-4.6")

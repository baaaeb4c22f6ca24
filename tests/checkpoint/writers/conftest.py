"""Makes the helpers beside these tests importable; a small dense checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small random model in bfloat16; not to be changed."""
    from writer_kit import write_source

    return write_source(tmp_path_factory.mktemp("source") / "MiniCPM-V-4.6")

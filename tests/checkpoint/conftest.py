"""Makes the helpers beside these tests importable; a small GGUF model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gguf_kit import Pair

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A small model with matrices of every type; not to be changed."""
    from gguf_kit import write_pair
    from gguf_pair import dequantize

    return write_pair(tmp_path_factory.mktemp("pair") / "model", dequantize)

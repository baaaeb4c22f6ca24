"""The libraries of the extra `formats` import, and no test here is skipped without them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.formats


@pytest.mark.parametrize(
    "name",
    [
        *("auto_round", "gguf", "llama_cpp", "mlx.core", "bitsandbytes", "accelerate", "compressed_tensors"),
        "modelopt",
    ],
)
def test_the_library_imports(name: str) -> None:
    importlib.import_module(name)


def test_what_the_extra_installs_is_required() -> None:
    skipping = "import" + "orskip"
    assert [path.name for path in Path(__file__).parent.glob("*.py") if skipping in path.read_text("utf-8")] == []

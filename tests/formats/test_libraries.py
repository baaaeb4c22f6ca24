"""The libraries of the extra `formats` import: without them the other tests here would say nothing."""

from __future__ import annotations

import importlib

import pytest

pytestmark = pytest.mark.formats


@pytest.mark.parametrize(
    "name", ["auto_round", "gguf", "mlx.core", "bitsandbytes", "accelerate", "compressed_tensors", "modelopt"]
)
def test_the_library_imports(name: str) -> None:
    importlib.import_module(name)

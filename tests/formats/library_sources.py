"""Single modules of packages that cannot be installed any more: `make test-formats` downloads and unpacks them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "build" / "formats"
FILES = {
    "autoawq_packing": "autoawq-0.2.9/awq/utils/packing_utils.py",
    "autogptq_layer": "auto_gptq/nn_modules/qlinear/qlinear_cuda.py",
}


def load(name: str) -> ModuleType:
    """AutoAWQ's packing or AutoGPTQ's layer, from its file alone."""
    path = _existing(FOLDER / FILES[name])
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mlx_vlm() -> ModuleType:
    """mlx-vlm's `utils`, which loads checkpoints; the package without what else it depends on."""
    folder = str(_existing(FOLDER / "mlx_vlm").parent)
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("mlx_vlm.utils")


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.fail(f"{path} is missing: run `make test-formats`, or `make build/formats/.unpacked`")
    return path

"""Single modules of packages that cannot be installed any more: `make test-formats` downloads and unpacks them."""

from __future__ import annotations

import importlib.util
import subprocess
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


def convert_to_gguf(directory: Path, out: Path) -> None:
    """A GGUF file of the language model in float32, by llama.cpp's converter, which is told the kind of tokenizer.

    It knows tokenizers by a digest of theirs, and that of `nano` is not on its list.
    """
    folder = _existing(FOLDER / "llama_cpp_python-0.3.36/vendor/llama.cpp")
    code = """
import runpy, sys
import conversion.base as base
for value in vars(base).values():
    if isinstance(value, type) and hasattr(value, "get_vocab_base_pre"):
        value.get_vocab_base_pre = lambda self, tokenizer: "qwen35"
runpy.run_path("convert_hf_to_gguf.py", run_name="__main__")
"""
    options = [str(directory), "--outfile", str(out), "--outtype", "f32", "--no-mtp"]
    command = [sys.executable, "-c", code, *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.fail(f"{path} is missing: run `make test-formats`, or `make build/formats/.unpacked`")
    return path

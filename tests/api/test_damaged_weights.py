"""Weights that are infinite or NaN: refused with tensor and file when they are read, packed or rounded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_checkpoint import PUBLISHED, with_arrays, write_quantized
from word_kit import gptq_arrays, round_matrix

import pocketvlm
from pocketvlm.api import about
from pocketvlm.checkpoint.formats.safetensors import read_header
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.errors import BackendError, TensorError
from pocketvlm.tensors import DenseTensor

UP = "model.language_model.layers.0.mlp.up_proj"
NORM = "model.language_model.norm.weight"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint."""
    directory = tmp_path / "nano"
    shutil.copytree(embedded_directory(), directory)
    return directory


def overwrite(file: Path, name: str, value: bytes) -> None:
    """Overwrite the first value of a tensor."""
    entry = read_header(file)[name]
    with file.open("r+b") as opened:
        opened.seek(entry.start)
        opened.write(value)


@pytest.mark.parametrize("name", [f"{UP}.weight", NORM])
@pytest.mark.parametrize("options", [{}, {"weights": "int4"}, {"backend": "torch"}])
def test_dense_weights(nano: Path, name: str, options: dict[str, Any]) -> None:
    file = nano / "model.safetensors"
    overwrite(file, name, b"\xc0\x7f")
    where = r"\[0, 0\]" if name != NORM else r"\[0\]"
    message = rf"^{file}: {name}: 1 of \d+ values are infinite or NaN, the first at {where}: the file is dam"
    with pytest.raises(TensorError, match=message) as caught:
        pocketvlm.load(nano, cache=False, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"weights": "stored"}, {"precision": "exact"}])
@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.0}, {"temperature": 0.7, "top_k": 20}, {"temperature": 0.7, "top_k": 0}]
)
def test_mapped_weights_end_a_request(nano: Path, options: dict[str, Any], sampling: dict[str, Any]) -> None:
    """No start reads these; the logits show them."""
    overwrite(nano / "model.safetensors", f"{UP}.weight", b"\xc0\x7f")
    with pocketvlm.load(nano, cache=False, **options) as model, pytest.raises(BackendError, match="logits are no numb"):
        model.ask("hi", max_tokens=2, **sampling)


def test_a_scale_in_one_of_several_files(tmp_path: Path) -> None:
    """The error names the file that holds the arrays, also when the matrix is packed later."""
    quantize = with_arrays(lambda values: round_matrix(values, 4, 128, symmetric=True), gptq_arrays)
    write_quantized(tmp_path, GPTQ, quantize, modules=(PUBLISHED,), shards=3)
    (file,) = (path for path in tmp_path.glob("*.safetensors") if f"{UP}.scales" in read_header(path))
    overwrite(file, f"{UP}.scales", b"\x00\x7c")
    with pytest.raises(TensorError, match=rf"{file}.*: {UP}.weight: 1 of \d+ scales are infinite or NaN: the f"):
        pocketvlm.load(tmp_path, cache=False)


def test_a_start_from_the_cache_reads_no_matrix(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "MIN_CACHED_BYTES", 0)
    read: list[str] = []
    finite_data: Callable[[DenseTensor], Any] = DenseTensor.finite_data

    def recorded(tensor: DenseTensor) -> Any:
        if len(tensor.shape) == 2 and np.prod(tensor.shape) > 5000:
            read.append(tensor.name)
        return finite_data(tensor)

    monkeypatch.setattr(DenseTensor, "finite_data", recorded)
    for first in (True, False):
        read.clear()
        pocketvlm.load(nano, cache=tmp_path / "cache").close()
        assert (f"{UP}.weight" in read) is first
    assert not [name for name in read if "conv1d" not in name]

"""What a format cannot hold is refused in one error before anything is written, with the reason and the way out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_kit import tiny_config
from writer_kit import NAME, ROLES, dense_tensors, quantized, with_matrix, write

from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.checkpoint.writers import output
from pocketvlm.checkpoint.writers.output import check_tensors, write_checkpoint
from pocketvlm.checkpoint.writers.registry import WRITERS, find_writer
from pocketvlm.errors import OptionError, TensorError
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.tensors import BlockValues, DenseTensor, QuantizedTensor

ROWS, COLUMNS = 512, 256
HEAD = "model.language_model.embed_tokens.weight"


def matrix(bits: int = 4, group: int = 64, **fields: Any) -> QuantizedTensor:
    """A matrix with zero points 7 and scales 0.1 rounded to float16, some of its fields replaced."""
    scales = BlockValues(np.full((ROWS, COLUMNS // group), 0.1, np.float16), (1, group))
    zeros = BlockValues(np.full((ROWS, COLUMNS // group), 7, np.uint8), (1, group))
    given: dict[str, Any] = {"scales": scales, "zero_points": zeros, **fields}
    return QuantizedTensor(NAME, bits, (ROWS, COLUMNS), np.ones((ROWS, COLUMNS), np.uint8), **given)


def blocks(value: float, dtype: Any = np.float32, group: int = 64) -> BlockValues:
    return BlockValues(np.full((ROWS, COLUMNS // group), value, dtype), (1, group))


PARTIAL = BlockValues(np.ones((ROWS, 3), np.float16), (1, 96))
FLAT = BlockValues(np.ones(2048, np.float32), 64)
ORDER = np.arange(COLUMNS)[::-1]
TABLE = np.arange(16, dtype=np.float32)
REFUSED = [
    ("awq", matrix(8), "8 bits are not in this format, only 4"),
    ("awq", matrix(permutation=ORDER), "AWQ has no order of inputs"),
    ("awq", matrix(codebook=TABLE, zero_points=None), "its codes are entries of a codebook"),
    ("gptq", matrix(5), "5 bits are not in this format, only 2, 3, 4, 8"),
    ("gptq", matrix(scales=FLAT), "its blocks continue from one row to the next"),
    (
        "gptq",
        matrix(scales=PARTIAL, zero_points=None),
        "groups of 96 do not",
    ),
    ("gptq", matrix(group=16), "engines load groups of 32, 64, 128 in this format, and those of 16 cannot be split so"),
    ("compressed-tensors", matrix(permutation=ORDER), "no order of inputs"),
    ("compressed-tensors", matrix(6), "6 bits are not in this format, only 4 and 8"),
    ("compressed-tensors", matrix(codebook=TABLE, zero_points=None), "its codebook has other numbers"),
    ("mlx", matrix(permutation=ORDER), "MLX has no order of inputs"),
    ("mlx", matrix(7), "MLX has no codes of 7 bits"),
    ("mlx", matrix(group=16), "MLX has groups of 32, 64, 128, and those of 16 cannot be split into such"),
    ("mlx", matrix(), "zero point 7 times scale 0.0999756 is not exact in 16 bits"),
    ("mlx", matrix(scales=blocks(0.1)), "there is scale 0.100000001"),
    ("awq", matrix(scales=blocks(0.1)), "there is scale 0.100000001 (2048 of 2048), which is not exact in 16 bits"),
    ("awq", matrix(zero_points=blocks(16)), "zero points 16 to 16 do not fit 4 bits"),
    ("awq", matrix(zero_points=blocks(7.5)), "its zero points are no integers"),
    (
        "gptq",
        matrix(zero_points=None, biases=blocks(0.3), scales=blocks(0.25)),
        "bias 0.3 is no multiple of scale 0.25",
    ),
    ("gptq", matrix(zero_points=None, biases=blocks(-0.2), scales=blocks(0.1)), "would change values of scale 0.1"),
    ("native", matrix(scales=blocks(np.inf)), "2048 of 2048 scales are infinite or NaN"),
]


@pytest.mark.parametrize(("format", "tensor", "message"), REFUSED)
def test_matrices_that_do_not_fit(
    source: Path, tmp_path: Path, format: str, tensor: QuantizedTensor, message: str
) -> None:
    names = re.escape(NAME) if format in ("native", "mlx") else r".*layers\.3\.mlp\.(gate|up)_proj\.weight"
    with pytest.raises(OptionError, match=re.escape(message)) as error:
        write(format, source, with_matrix(source, tensor, names), tmp_path / "out")
    assert str(error.value).startswith(f"format='{format}' cannot hold")
    assert NAME in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["awq", "gptq", "compressed-tensors"])
@pytest.mark.parametrize("name", [HEAD, "model.vision_tower.embeddings.position_embedding.weight"])
def test_roles_that_engines_load_dense(source: Path, tmp_path: Path, format: str, name: str) -> None:
    with pytest.raises(OptionError, match="engines load only linear layers"):
        write(format, source, quantized(source, "int4-g64", re.compile(re.escape(name))), tmp_path / "out")


def test_fused_matrices_have_one_scheme(source: Path, tmp_path: Path) -> None:
    tensors = with_matrix(source, matrix())
    with pytest.raises(OptionError, match=r"layers\.3\.mlp\.gate_up_proj: engines join its parts, .*gate_proj 16-bit"):
        write("awq", source, tensors, tmp_path / "out")
    write("native", source, tensors, tmp_path / "out")


def test_the_error_lists_reasons_with_their_tensors(source: Path) -> None:
    """Placeholders of schemes, whose values cannot be read, are enough for what shapes and kinds tell."""
    scheme = tensor_scheme("int6-g64")
    tensors: dict[str, Any] = dense_tensors(source)
    for name, tensor in tensors.items():
        if "language_model" in name and ".mlp." in name:
            tensors[name] = scheme.placeholder(name, tensor.shape)
    with pytest.raises(OptionError) as error:
        check_tensors(WRITERS["awq"], tiny_config(), tensors, ROLES, values=False)
    said = str(error.value)
    assert said.startswith(f"format='awq' cannot hold 12 of {len(tensors)} tensors as they are: model.language_model.")
    assert "model.language_model.layers.0.mlp.gate_proj.weight" in said
    assert "and 8 more: 6 bits are not in this format, only 4" in said
    assert "\n" not in said
    fitting = {
        name: tensor_scheme("int4-g64").placeholder(name, its.shape) if isinstance(its, QuantizedTensor) else its
        for name, its in tensors.items()
    }
    check_tensors(WRITERS["awq"], tiny_config(), fitting, ROLES, values=False)


def test_a_checkpoint_without_quantized_matrices(source: Path, tmp_path: Path) -> None:
    for format in ("awq", "gptq", "compressed-tensors"):
        with pytest.raises(OptionError, match="no matrix is quantized: `pocketvlm quantize` makes quantized ones"):
            write(format, source, dense_tensors(source), tmp_path / "out")


def test_float16_that_overflows(source: Path, tmp_path: Path) -> None:
    name = "model.language_model.norm.weight"
    large = DenseTensor(name, "f32", np.full(256, 70000, np.float32))
    with pytest.raises(OptionError, match=r"language_model\.norm\.weight: 70000 overflows float16"):
        write("f16", source, {**dense_tensors(source), name: large}, tmp_path / "out")
    tensors = with_matrix(source, matrix(scales=blocks(30000.0), zero_points=None))
    write("f16", source, tensors, tmp_path / "out")
    largest = replace(matrix(scales=blocks(30000.0), zero_points=None), codes=np.full((ROWS, COLUMNS), 15, np.uint8))
    with pytest.raises(OptionError, match=f"{re.escape(NAME)}: 450000 overflows float16"):
        write("f16", source, with_matrix(source, largest), tmp_path / "other")


def test_unknown_formats() -> None:
    with pytest.raises(OptionError, match="format='gptk': no such format: did you mean gptq"):
        find_writer("gptk")


def test_a_name_that_is_taken_or_cannot_be_made(source: Path, tmp_path: Path) -> None:
    tensors = dense_tensors(source)
    with pytest.raises(OptionError, match="exists already"):
        write("bf16", source, tensors, tmp_path)
    with pytest.raises(OptionError, match="there is no folder"):
        write("bf16", source, tensors, tmp_path / "nowhere" / "out")


def test_too_little_space(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 20))
    with pytest.raises(OptionError, match=r"about \d+\.\d MB are needed, and only 1\.0 MB are free: make room"):
        write("bf16", source, dense_tensors(source), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_nothing(source: Path, tmp_path: Path, error: Any) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    checkpoint = read_checkpoint(source)
    with pytest.raises((KeyboardInterrupt, Exception)):
        write_checkpoint(WRITERS["bf16"], checkpoint, dense_tensors(source), ROLES, tmp_path / "out", "", stop)
    assert not list(tmp_path.iterdir())


def test_values_that_change_after_the_check(source: Path, tmp_path: Path) -> None:
    """What only writing finds ends it, and leaves nothing."""
    codes = np.full((ROWS, COLUMNS), 99, np.uint8)
    with pytest.raises(TensorError, match=r"codes outside 0\.\.15 do not fit 4 bits"):
        write("native", source, with_matrix(source, replace(matrix(), codes=codes)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_killed_write_is_cleaned_up_by_the_next(source: Path, tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from pocketvlm.api.converting import convert_model
def stop(stage, done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
convert_model({str(source)!r}, {str(tmp_path / "out")!r}, format="bf16", progress=stop)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.")
    other = tmp_path / ".output.1.2.tmp"
    other.mkdir()
    write("bf16", source, dense_tensors(source), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out"]
    shutil.rmtree(other)

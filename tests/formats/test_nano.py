"""`nano`, quantized by other libraries, still answers about the sample pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes_writer import four_bits, settings
from mlx_writer import convert
from safetensors.torch import load_file
from small_checkpoint import write

import pocketvlm
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.model import tensor_roles

pytestmark = pytest.mark.formats

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ANSWERS = [
    ("penguin.png", "What is this?", "penguin"),
    ("apple.png", "Which emoji is this?", "apple"),
    ("dog.png", "Read the text.", "DOG"),
    ("digit.png", "Which digit is this?", "7"),
    ("shapes.png", "What colour is the circle?", "red"),
    ("stars.png", "How many stars are there?", "3"),
    (None, "What is 1+1? Reply with the number only.", "2"),
]


def nano() -> tuple[dict[str, torch.Tensor], dict[str, Any], list[str]]:
    """The tensors, config.json, and the names of all linear layers' weights."""
    directory = embedded_directory()
    roles = tensor_roles(read_checkpoint(directory).model)
    names = [name for name, role in roles.items() if role in ("matrix", "gate", "vision_matrix")]
    return load_file(directory / "model.safetensors"), json.loads((directory / "config.json").read_text()), names


def assert_answers(directory: Path, precision: str) -> None:
    model = pocketvlm.load(directory, precision=precision, threads=2, cache=False)  # type: ignore[arg-type]
    assert model.checkpoint.quantization is not None
    for image, question, answer in ANSWERS:
        assert answer in model.ask(question, [EXAMPLES / image] if image else []).text, question
    model.close()


@pytest.mark.parametrize("precision", ["fast", "exact"])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 64)])
def test_converted_by_mlx(tmp_path: Path, bits: int, group: int, precision: str) -> None:
    """Attention and MLP of the language model, as mlx-vlm chooses them."""
    tensors, config, names = nano()
    kind = {"group_size": group, "bits": bits}
    chosen = [name for name in names if ".language_model." in name and (".self_attn." in name or ".mlp." in name)]
    write(tmp_path, **{**config, "quantization": kind, "quantization_config": kind})
    convert(tmp_path, tensors, dict.fromkeys(chosen, kind))
    assert_answers(tmp_path, precision)


def test_quantized_by_bitsandbytes(tmp_path: Path) -> None:
    """All linear layers in NF4; rows of 160 and 400 are no multiples of its blocks."""
    tensors, config, names = nano()
    four_bits(tensors, names, quant_type="nf4", compress_statistics=True)
    write(tmp_path, tensors, **{**config, "quantization_config": settings("nf4", True)})
    assert_answers(tmp_path, "exact")

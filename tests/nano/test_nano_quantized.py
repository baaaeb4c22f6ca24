"""nano as a GPTQ checkpoint, its language model rounded to 4 bits, still answers its sample questions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from quantized_checkpoint import PUBLISHED, write_directory
from word_kit import Arrays, gptq_arrays, round_matrix

import pocketvlm
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.model import expected_tensors
from pocketvlm.tensors import DenseTensor

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ANSWERS: list[tuple[list[str], str, dict[str, Any], str]] = [
    (["penguin.png"], "What is this?", {}, "penguin"),
    (["apple.png"], "Which emoji is this?", {}, "apple"),
    (["dog.png"], "Read the text.", {}, "DOG"),
    (["digit.png"], "Which digit is this?", {}, "7"),
    (["shapes.png"], "Describe this image.", {}, "A red circle and a blue square on a white background."),
    (["stars.png"], "How many stars are there?", {}, "3"),
    (["penguin.png", "digit.png"], "What is in the second image?", {}, "A handwritten digit 7."),
    ([], "What is 1+1? Reply with the number only.", {}, "2"),
]


def as_gptq(directory: Path, group: int) -> None:
    """nano with the matrices of its language model in 4 bits, asymmetric, and the rest in bfloat16."""
    checkpoint = read_checkpoint(embedded_directory())
    arrays: Arrays = {}
    for name, tensor in checkpoint.tensors(expected_tensors(checkpoint.model)).items():
        assert isinstance(tensor, DenseTensor)
        if not PUBLISHED.fullmatch(name):
            arrays[name] = ("BF16", tensor.data)
            continue
        parts = gptq_arrays(round_matrix(tensor.float32(), 4, group, min_zero=1))
        arrays.update({re.sub(r"weight$", part, name): array for part, array in parts.items()})
    config = json.loads((embedded_directory() / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": False}
    write_directory(directory, config, arrays)


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("options", [{}, {"weights": "stored"}, {"precision": "exact"}], ids=str)
def test_sample_questions(tmp_path: Path, group: int, options: dict[str, Any]) -> None:
    as_gptq(tmp_path, group)
    with pocketvlm.load(tmp_path, threads=2, cache=False, **options) as model:
        assert model.info()["quantization"] == f"GPTQ, 4 bits, groups of {group}"
        for images, question, parameters, answer in ANSWERS:
            assert answer in model.ask(question, [EXAMPLES / name for name in images], **parameters).text

"""nano in the formats that `quantize` writes answers as nano does, token by token, in fast arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

import pocketvlm

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("format", "scheme"),
    [
        *(("native", "int8"), ("native", "Q6_K"), ("gguf", "Q8_0"), ("gguf", "Q6_K"), ("mlx", "int8-g64")),
        *(("gptq", "int8-g64"), ("awq", "int4-g32"), ("compressed-tensors", "int8")),
    ],
)
def test_answers_are_those_of_nano(tmp_path: Path, format: str, scheme: str) -> None:
    """The embedding is quantized in native, GGUF and MLX files: each decoded token looks a row up."""
    pocketvlm.quantize_model("nano", tmp_path / "out", format=format, scheme=scheme, method="rtn", threads=2)
    with pocketvlm.load(tmp_path / "out", threads=2) as model:
        said = [
            model.ask("What can you do?", temperature=0, max_tokens=30).text,
            model.ask("What is this?", [EXAMPLES / "penguin.png"], temperature=0, max_tokens=30).text,
        ]
    assert said[0] == "I can name emoji, read short words and digits, and describe simple shapes."
    assert "penguin" in said[1]

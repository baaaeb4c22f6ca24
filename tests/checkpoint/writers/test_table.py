"""The table of schemes and formats in docs/formats.md is what the writers say."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_kit import tiny_config
from writer_kit import NAME

from pocketvlm.checkpoint.writers.registry import WRITERS
from pocketvlm.quantize.tensor_schemes import tensor_scheme

DOCS = Path(__file__).parents[3] / "docs" / "formats.md"
FORMATS = ("awq", "gptq", "compressed-tensors", "mlx", "native")
# What a row of the table is about: the beginning of its first cell, and schemes of this kind.
ROWS = {
    "`int4-g32`": ("int4-g32", "int4-g64", "int4-g128"),
    "the same with `-sym`": ("int4-g32-sym", "int4-g128-sym"),
    "`int8-g...`": ("int8-g32", "int8-g64-sym"),
    "`int2-g...`": ("int2-g64", "int3-g32"),
    "`int5-g...`": ("int5-g64", "int6-g32-sym"),
    "`int8`, one": ("int8",),
    "`...-bias`": ("int4-g64-bias",),
    "order of columns": ("int4-g64-permuted", "int4-g64-sym-permuted"),
    "`Q4_0`": ("Q4_0", "Q8_0"),
    "`Q5_0`": ("Q5_0",),
    "`Q4_1`": ("Q4_1",),
    "`Q2_K`": ("Q4_K", "Q5_K", "Q6_K", "IQ4_NL"),
    "`mxfp4`": ("mxfp4", "mxfp8"),
    "`nvfp4`": ("nvfp4", "nvfp4-mlx"),
}


def cells(row: str) -> list[str]:
    """The cells of one row of the table, by the beginning of the first."""
    lines = DOCS.read_text(encoding="utf-8").partition("| scheme | awq |")[2].splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {row}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_writers_say(row: str) -> None:
    for format, cell in zip(FORMATS, cells(row), strict=True):
        for scheme in ROWS[row]:
            placeholder = tensor_scheme(scheme).placeholder(NAME, (512, 1024))
            said = WRITERS[format].problem(NAME, "matrix", placeholder, tiny_config())
            fits = bool(cell) and not (cell == "4 bits" and scheme == "Q8_0")
            assert (said is None) == fits, (scheme, format, said)

"""The table of quantizers on docs/quantize.md is that of the stored results."""

from __future__ import annotations

import json
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quantize.md"


def test_the_page_has_the_stored_results() -> None:
    import quantize_numbers

    found = json.loads(quantize_numbers.RESULTS.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8").partition("<!-- quantizers: begin -->\n")[2]
    assert text.partition("\n<!-- quantizers: end -->")[0] == "\n".join(quantize_numbers.page(found))


def test_a_ratio_is_ours_over_the_other_on_inputs_outside_the_calibration() -> None:
    import quantize_numbers

    rows = [
        {"shape": shape, "scheme": "Q4_0", "bits": 4.5, "who": who, "error": 9.0, "other_error": error, "seconds": 1.0}
        for shape, who, error in (
            ("a", "llama.cpp", 4.0),
            ("b", "llama.cpp", 1.0),
            ("a", "gptq", 1.0),
            ("b", "gptq", 1.0),
        )
    ]
    lines = quantize_numbers.page({"machine": {"cpu": "one"}, "rows": rows})
    assert lines[2] == "| `Q4_0` | 4.50 | llama.cpp |  | 0.50 |  |  |"
    assert lines[-1].endswith("a, b (outputs x inputs). cpu: one.")

"""Compares quantizers on matrices with outlier channels, as trained models have them: the error of the outputs.

    python benchmarks/quantize_numbers.py --auto-gptq FOLDER   # FOLDER: the unpacked wheel of auto-gptq 0.7.1
    python benchmarks/quantize_numbers.py --render

Ours against llama.cpp's quantizers with the same importance matrix, auto-gptq's GPTQ with the same Gram matrix, and AWQ
with the same inputs, each at equal bits for each weight. The error is the squared one of the outputs, relative to the
outputs, on the calibration inputs and on others. Needs the extra `bench`, and PyTorch for auto-gptq. Prints a table and
writes benchmarks/results/quantize_numbers.json and the part of docs/quantize.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from comparison.machines import machine
from comparison.report import write_page
from peers import quantizers

from pocketvlm.quantize.methods import awq_clip, awq_scales, gptq, nearest, output_error
from pocketvlm.quantize.tensor_scheme import TensorScheme
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.tensors import Floats

PAGE = Path(__file__).resolve().parent.parent / "docs" / "quantize.md"
RESULTS = Path(__file__).resolve().parent / "results" / "quantize_numbers.json"
SHAPES = ((1024, 3584), (3584, 1024), (2048, 1024))  # [outputs, inputs]
TOKENS = 8192
GROUPS = (("int4-g128", 128, False), ("int4-g128-sym", 128, True), ("int4-g64", 64, False))
AUTO_GPTQ = {
    "auto-gptq": {},
    "auto-gptq, static, ordered": {"actorder": True, "static_groups": True},
    "auto-gptq, static, ordered, mse": {"actorder": True, "static_groups": True, "mse": True},
}
OURS = ("nearest", "gptq", "awq scales, clip, nearest", "awq scales, gptq")
BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL")


@dataclass(frozen=True)
class Case:
    """A matrix [outputs, inputs], the inputs of calibration and others [tokens, inputs], and their Gram matrices."""

    w: Floats
    x: Floats
    gram: Floats
    other: Floats


@dataclass(frozen=True)
class Row:
    """The errors of one quantizer on one shape; seconds: of quantizing."""

    shape: str
    scheme: str
    bits: float
    who: str
    error: float
    other_error: float
    seconds: float


def case(shape: tuple[int, int], seed: int = 0) -> Case:
    """Correlated inputs with a few channels that are much larger, and weights with heavy tails and unequal channels.

    The spectrum of the inputs falls as 1 / k; channels have log-normal sizes, and one in 128 is 20 times as large.
    """
    random = np.random.default_rng(seed)
    outputs, inputs = shape
    basis = np.linalg.qr(random.standard_normal((inputs, inputs)))[0].astype(np.float32)
    spectrum = np.sqrt(inputs / np.arange(1, inputs + 1) / np.log(inputs)).astype(np.float32)
    sizes = np.exp(0.5 * random.standard_normal(inputs)).astype(np.float32)
    sizes[random.choice(inputs, inputs // 128, replace=False)] *= 20

    def tokens() -> Floats:
        z = random.standard_normal((TOKENS, inputs), np.float32) * spectrum
        return z @ basis.T * sizes

    x, other = tokens(), tokens()
    w = 0.02 * random.standard_t(5, shape) * np.exp(0.3 * random.standard_normal((outputs, 1)))
    w *= np.exp(0.3 * random.standard_normal((1, inputs)))
    gram, other_gram = (np.asarray(part.T @ part / TOKENS, np.float32) for part in (x, other))
    return Case(w.astype(np.float32), x, gram, other_gram)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--auto-gptq", type=Path, help="folder of the unpacked wheel of auto-gptq 0.7.1")
    parser.add_argument("--ours", action="store_true", help="measure ours again; the results of others stay")
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    parser.add_argument("--render", action="store_true", help="write the page from the results alone")
    return parser.parse_args()


@dataclass(frozen=True)
class Table:
    """Measures quantizers on one case and appends rows."""

    its: Case
    rows: list[Row]

    def add(self, scheme: str, who: str, quantize: Callable[[], Floats]) -> None:
        """Quantize, print and append the errors."""
        outputs, inputs = self.its.w.shape
        bits = tensor_scheme(scheme).bits_per_weight((outputs, inputs))
        start = time.perf_counter()
        values = quantize()
        seconds = time.perf_counter() - start
        errors = [output_error(self.its.w, values, gram) for gram in (self.its.gram, self.its.other)]
        shape = f"{outputs} x {inputs}"
        self.rows.append(Row(shape, scheme, round(bits, 3), who, errors[0], errors[1], round(seconds, 3)))
        print(
            f"{shape:12} {scheme:14} {bits:6.3f}  {who:30} {errors[0]:.3e} {errors[1]:.3e} {seconds:7.2f} s", flush=True
        )

    def ours(self, name: str, clipped: bool) -> None:
        """Our methods; clipped: AWQ's scales and clipping with rounding to nearest too."""
        w, gram, scheme = self.its.w, self.its.gram, tensor_scheme(name)
        importance = np.ascontiguousarray(gram.diagonal())
        self.add(name, "nearest", lambda: nearest("w", w, scheme, importance).dequantize())
        self.add(name, "gptq", lambda: gptq("w", w, gram, scheme).dequantize())
        if clipped:
            self.add(name, "awq scales, clip, nearest", lambda: self.scaled(scheme, clipped=True))
        self.add(name, "awq scales, gptq", lambda: self.scaled(scheme, clipped=False))

    def scaled(self, scheme: TensorScheme, clipped: bool) -> Floats:
        """Our AWQ scales, then clipping and rounding to nearest, or GPTQ."""
        s = awq_scales([self.its.w], self.its.gram, scheme)
        w, gram = self.its.w * s, self.its.gram / np.outer(s, s)
        if not clipped:
            return gptq("w", w, gram, scheme).dequantize() / s
        importance = np.ascontiguousarray(gram.diagonal())
        return nearest("w", awq_clip(w, gram, scheme), scheme, importance).dequantize() / s

    def llama_cpp(self, kind: str) -> None:
        """llama.cpp's quantizer with the importance matrix."""
        importance = np.ascontiguousarray(self.its.gram.diagonal())
        self.add(kind, "llama.cpp, importance", lambda: quantizers.llama_cpp(kind, self.its.w, importance))

    def groups(self, name: str, group: int, symmetric: bool, module: ModuleType | None) -> None:
        """AutoGPTQ and AWQ with 4 bits."""
        w, gram = self.its.w, self.its.gram
        for label, options in AUTO_GPTQ.items() if module is not None else ():

            def quantize(options: dict[str, bool] = options) -> Floats:
                assert module is not None
                return quantizers.auto_gptq(module, w, gram, 4, group, symmetric, **options)

            self.add(name, label, quantize)
        if not symmetric:
            self.add(name, "AWQ", lambda: quantizers.awq(w, self.its.x, 4, group))


def page(found: dict[str, Any]) -> list[str]:
    """The table in Markdown: our errors on other inputs over those of each peer, geometric means over the shapes."""
    rows = [Row(**row) for row in found["rows"]]
    errors = {(row.scheme, row.who, row.shape): row.other_error for row in rows}
    lines = [
        f"| scheme | bits a weight | other tool | {' | '.join(OURS)} |",
        "|" + "---|" * (3 + len(OURS)),
    ]
    peers = [(row.scheme, row.bits, row.who) for row in rows if row.who not in OURS]
    for scheme, bits, peer in sorted(dict.fromkeys(peers), key=lambda each: (each[1], each[0])):
        shapes = [shape for known, who, shape in errors if (known, who) == (scheme, peer)]
        cells = []
        for ours in OURS:
            ratios = [
                errors[scheme, ours, shape] / errors[scheme, peer, shape]
                for shape in shapes
                if (scheme, ours, shape) in errors
            ]
            cells.append(f"{math.prod(ratios) ** (1 / len(ratios)):.2f}" if ratios else "")
        lines.append(f"| `{scheme}` | {bits:.2f} | {peer} | {' | '.join(cells)} |")
    shapes = ", ".join(dict.fromkeys(row.shape for row in rows))
    known = ", ".join(f"{name}: {value}" for name, value in found["machine"].items())
    return [*lines, "", f"Geometric means over matrices of {shapes} (outputs x inputs). {known}."]


def main() -> None:
    """Measure all shapes, print the table, and write results and page."""
    options = parse()
    if options.render:
        render()
        return
    module = None if options.auto_gptq is None else quantizers.load_auto_gptq(options.auto_gptq)
    rows: list[Row] = []
    if options.ours:
        stored = json.loads(RESULTS.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in stored["rows"] if row["who"] not in OURS]
    for shape in SHAPES:
        table = Table(case(shape), rows)
        for kind in BLOCKS:
            if not options.ours:
                table.llama_cpp(kind)
            table.ours(kind, clipped=False)
        for name, group, symmetric in GROUPS:
            if not options.ours:
                table.groups(name, group, symmetric, module)
            table.ours(name, clipped=not symmetric)
    rows.sort(key=lambda row: (row.shape, row.scheme))
    if not options.no_write:
        found = {"machine": machine(), "tokens": TOKENS, "rows": [asdict(row) for row in rows]}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        render()


def render() -> None:
    """Write the page from the results."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    write_page(PAGE, "\n".join(page(found)), "quantizers")


if __name__ == "__main__":
    main()

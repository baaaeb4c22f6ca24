"""Compares quantizers on matrices with outlier channels, as trained models have them: the error of the outputs.

    python benchmarks/quantize_numbers.py --auto-gptq FOLDER   # FOLDER: the unpacked wheel of auto-gptq 0.7.1

Ours against llama.cpp's quantizers with the same importance matrix, auto-gptq's GPTQ with the same Gram matrix, and AWQ
with the same inputs, each at equal bits for each weight. The error is the squared one of the outputs, relative to the
outputs, on the calibration inputs and on others. Needs the extra `bench`, and PyTorch for auto-gptq. Prints a table and
writes benchmarks/results/quantize_numbers.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from comparison.machines import machine
from peers import quantizers

from pocketvlm.quantize.methods import awq_clip, awq_scales, gptq, nearest, output_error
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.tensors import Floats

RESULTS = Path(__file__).resolve().parent / "results" / "quantize_numbers.json"
SHAPES = ((1024, 3584), (3584, 1024), (2048, 1024))  # [outputs, inputs]
TOKENS = 16384
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
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    return parser.parse_args()


def main() -> None:
    """Measure all shapes and print the table."""
    options = parse()
    module = None if options.auto_gptq is None else quantizers.load_auto_gptq(options.auto_gptq)
    rows: list[Row] = []
    for shape in SHAPES:
        its = case(shape)
        importance = np.ascontiguousarray(its.gram.diagonal())

        def add(
            scheme: str,
            bits: float,
            who: str,
            quantize: Callable[[], Floats],
            its: Case = its,
            shape: tuple[int, int] = shape,
        ) -> None:
            start = time.perf_counter()
            values = quantize()
            seconds = time.perf_counter() - start
            errors = output_error(its.w, values, its.gram), output_error(its.w, values, its.other)
            rows.append(Row(f"{shape[0]} x {shape[1]}", scheme, round(bits, 3), who, *errors, round(seconds, 3)))
            last = rows[-1]
            print(
                f"{last.shape:12} {scheme:12} {bits:6.3f}  {who:28} {errors[0]:.3e} {errors[1]:.3e} {seconds:7.2f} s",
                flush=True,
            )

        for kind in BLOCKS:
            scheme = tensor_scheme(kind)
            bits = scheme.bits_per_weight(shape)
            add(kind, bits, "llama.cpp", lambda kind=kind: quantizers.llama_cpp(kind, its.w, importance))
            add(kind, bits, "nearest", lambda scheme=scheme: nearest("w", its.w, scheme, importance).dequantize())
            add(kind, bits, "gptq", lambda scheme=scheme: gptq("w", its.w, its.gram, scheme).dequantize())
        for name, group, symmetric in (
            ("int4-g128", 128, False),
            ("int4-g128-sym", 128, True),
            ("int4-g64", 64, False),
        ):
            scheme = tensor_scheme(name)
            bits = scheme.bits_per_weight(shape)
            if module is not None:
                for label, peer in (
                    ("auto-gptq", {}),
                    ("auto-gptq static, ordered", {"actorder": True, "static_groups": True}),
                    ("auto-gptq ordered", {"actorder": True}),
                    ("auto-gptq static, ord., mse", {"actorder": True, "static_groups": True, "mse": True}),
                ):
                    add(
                        name, bits, label,
                        lambda peer=peer: quantizers.auto_gptq(module, its.w, its.gram, 4, group, symmetric, **peer),
                    )  # fmt: skip
            if not symmetric:
                add(name, bits, "AWQ", lambda: quantizers.awq(its.w, its.x, 4, group))
                add(name, bits, "awq", lambda scheme=scheme: our_awq(its, scheme.name))
            add(name, bits, "nearest", lambda scheme=scheme: nearest("w", its.w, scheme, importance).dequantize())
            add(name, bits, "gptq, no sweeps",
                lambda scheme=scheme: gptq("w", its.w, its.gram, scheme, sweeps=0).dequantize())  # fmt: skip
            add(name, bits, "gptq", lambda scheme=scheme: gptq("w", its.w, its.gram, scheme).dequantize())
            add(name, bits, "awq scales, then gptq", lambda scheme=scheme: our_awq(its, scheme.name, True))
    if not options.no_write:
        found = {"machine": machine(), "tokens": TOKENS, "rows": [asdict(row) for row in rows]}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def our_awq(its: Case, name: str, then_gptq: bool = False) -> Floats:
    """Our scales, then clipping and rounding, or GPTQ."""
    scheme = tensor_scheme(name)
    s = awq_scales([its.w], its.gram, scheme)
    gram = its.gram / np.outer(s, s)
    if then_gptq:
        return gptq("w", its.w * s, gram, scheme).dequantize() / s
    importance = np.ascontiguousarray(gram.diagonal())
    return nearest("w", awq_clip(its.w * s, gram, scheme), scheme, importance).dequantize() / s


if __name__ == "__main__":
    main()

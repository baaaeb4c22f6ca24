"""Times quantized products of the released shape with two instruction sets, in turns, by number of rows.

    python benchmarks/products.py                        # amx against avx512vnni
    python benchmarks/products.py --sets avx512vnni avx2

Outputs are compared first: those of amx and avx512vnni must be equal in every bit. Prints the median rates in 10^9
multiplications and additions a second, and how many times as fast the first set is. With amx this shows from which
number of rows and for which groups tiles pay: constants in native/quantized/tile_products.cpp. Close everything else.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from pocketvlm import _native
from pocketvlm.backends.native import NativeBackend, create
from pocketvlm.backends.native.pack import pack
from pocketvlm.quantize import round_to_nearest
from pocketvlm.schemes import INT4_CODEBOOK, QuantizationScheme
from pocketvlm.tensors import DenseTensor

# Outputs, inputs, (bits, group); group None: one scale for each output.
TEXT = [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64)]
SHAPES = [
    ("vision q, k, v, o", 1152, 1152, [(8, None)]),
    ("vision fc1", 4304, 1152, [(8, None)]),
    ("vision fc2", 1152, 4304, [(8, None)]),
    ("text gate or up", 3584, 1024, TEXT),
    ("text down", 1024, 3584, TEXT),
]


def seconds_of(ops: NativeBackend, x: np.ndarray, weight: object, duration: float) -> float:
    """Seconds of one product: the mean of as many as take `duration` seconds."""
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < duration:
        ops.linear(x, weight)
        count += 1
    return passed / count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs=2, default=["amx", "avx512vnni"], help="two instruction sets")
    parser.add_argument("--rows", type=int, nargs="*", default=[8, 16, 24, 32, 64, 256, 1024])
    parser.add_argument("--runs", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--seconds", type=float, default=0.05, help="of one turn of one set (default 0.05)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for name in options.sets:
        if reason := _native.unusable_isas().get(name):
            raise SystemExit(f"{name} cannot be measured here: {reason}")
    sets = [create(options.threads, name) for name in options.sets]
    exact = {*options.sets} <= {"amx", "plaintiles", "avx512vnni", "avx512bf16"}
    random = np.random.default_rng(1)
    print(f"{'matrix':<18} {'bits':>4} {'group':>5} {'rows':>5} {options.sets[0]:>12} {options.sets[1]:>12}  ratio")
    for name, outputs, inputs, schemes in SHAPES:
        dense = DenseTensor("weight", "f32", random.standard_normal((outputs, inputs)).astype(np.float32))
        for bits, group in schemes:
            scheme = QuantizationScheme(bits, group, INT4_CODEBOOK if bits == 4 else None)
            weight = pack(sets[1]._native, round_to_nearest(dense, scheme))
            for rows in options.rows:
                x = random.standard_normal((rows, inputs)).astype(np.float32)
                a, b = (ops.linear(x, weight) for ops in sets)
                if not (np.array_equal(a, b) if exact else np.allclose(a, b, rtol=2e-5, atol=2e-4)):
                    raise SystemExit(f"{name}, {bits} bits, group {group}, {rows} rows: the results differ")
                turns = [[seconds_of(ops, x, weight, options.seconds) for ops in sets] for _ in range(options.runs)]
                rates = [2e-9 * rows * inputs * outputs / statistics.median(t[i] for t in turns) for i in (0, 1)]
                ratio = statistics.median(t[1] / t[0] for t in turns)
                print(
                    f"{name:<18} {bits:>4} {group or '-':>5} {rows:>5} {rates[0]:>12.0f} {rates[1]:>12.0f}  {ratio:.2f}"
                )


if __name__ == "__main__":
    main()

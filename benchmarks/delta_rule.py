"""Measures the gated delta rule: errors of float32 and of bfloat16 products against float64, then their speed in turns.

    python benchmarks/delta_rule.py [--rows 8192] [--threads 2]

Prints tables; stores nothing. The sizes of a layer are those of MiniCPM-V 4.6; errors are those of four heads. Close
everything else.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.batch import Batch, Ints, SubBatch, SubStep
from pocketvlm.backends.native import NativeBackend, create
from pocketvlm.backends.ops import DeltaSpec
from pocketvlm.backends.options import choose

DIM = 128
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Array = NDArray[np.floating[Any]]
Inputs = tuple[Floats, Floats, Floats, Floats, Floats]  # mixed, b, a, a_log, dt_bias


def make_inputs(kind: str, rows: int, heads: int) -> Inputs:
    """Random inputs: see KINDS."""
    random = np.random.default_rng(7)

    def normal(*shape: int) -> Floats:
        return random.standard_normal(shape).astype(np.float32)

    mixed, b, a, a_log, dt_bias = (
        normal(rows, 3, heads, DIM),
        normal(rows, heads),
        normal(rows, heads),
        normal(heads),
        normal(heads),
    )
    directions = normal(8, DIM)
    if kind in ("slow", "directions"):  # half-lives of about 70 to 7000 rows
        a_log, dt_bias, a = np.zeros_like(a_log), np.linspace(-4.6, -9.2, heads, dtype=np.float32), 0.3 * a
    if kind in ("endless", "equal"):
        a_log, b = np.full_like(a_log, -20.0), b + 6
    if kind == "directions":
        mixed[:, :2] = directions[random.integers(0, 8, (rows, 2, heads))] + 0.3 * mixed[:, :2]
        mixed = mixed / (1 + np.exp(-mixed))
    if kind == "equal":
        mixed[:, 1] = directions[0] + 0.02 * mixed[:, 1]
    return mixed.reshape(rows, -1), b, a, a_log, dt_bias


KINDS = {
    "random": "random, short memory",
    "slow": "slow decay, half-lives of 70 to 7000 rows",
    "endless": "no decay, beta close to 1",
    "directions": "keys near 8 directions, slow decay, inputs after SiLU",
    "equal": "nearly equal keys, no decay, beta close to 1",
}


def in_float64(inputs: Inputs, heads: int) -> tuple[Doubles, Doubles]:
    """Outputs and final state, row by row."""
    mixed, b, a, a_log, dt_bias = (x.astype(np.float64) for x in inputs)
    q, k, v = (x for x in mixed.reshape(-1, 3, heads, DIM).transpose(1, 0, 2, 3))
    q = q / np.sqrt((q * q).sum(-1, keepdims=True) + 1e-6) * DIM**-0.5
    k = k / np.sqrt((k * k).sum(-1, keepdims=True) + 1e-6)
    beta, decay = 1 / (1 + np.exp(-b)), np.exp(-np.exp(a_log) * np.logaddexp(0, a + dt_bias))
    state, out = np.zeros((heads, DIM, DIM)), np.zeros(v.shape)
    for t in range(len(v)):
        state *= decay[t][:, None, None]
        correction = beta[t][:, None] * (v[t] - (k[t][:, None] @ state)[:, 0])
        state += k[t][:, :, None] * correction[:, None]
        out[t] = (q[t][:, None] @ state)[:, 0]
    return out.reshape(len(v), -1), state


def in_8_bits(x: Floats) -> Floats:
    """Rounded with a scale for each 32 numbers, as activations are for integer products."""
    groups = x.reshape(-1, 32)
    scale = np.abs(groups).max(1, keepdims=True) / np.float32(127)
    rounded: Floats = (np.rint(groups / scale) * scale).reshape(x.shape).astype(np.float32)
    return rounded


def steps(ops: NativeBackend, sequences: int, rows: int) -> SubStep[Ints]:
    """`sequences` new sequences of so many rows each."""
    offsets = np.arange(sequences + 1, dtype=np.int32) * np.int32(rows)
    slots, context = np.arange(sequences, dtype=np.int32), np.zeros(sequences, np.int32)
    part = SubBatch(slice(None), offsets, context, slots, slots)
    pages = np.zeros((sequences, 1), np.int32)
    positions = np.zeros(sequences * rows, np.int32)
    return ops.step(Batch(offsets, context, pages, 1 << 20, positions, (part,))).sub_steps[0]


def errors(actual: tuple[Array, Array], expected: tuple[Array, Array]) -> str:
    """Shares of the norm: outputs of the first and of the last quarter of the rows, final state."""
    (out, state), (expected_out, expected_state) = actual, expected
    quarter = len(out) // 4
    pairs = (
        (out[:quarter], expected_out[:quarter]),
        (out[-quarter:], expected_out[-quarter:]),
        (state, expected_state),
    )
    return "".join(f" {float(np.linalg.norm(x - y) / np.linalg.norm(y)):13.2e}" for x, y in pairs)


def report_errors(backends: dict[str, NativeBackend], rows: int) -> None:
    """Errors against float64, next to those that rounding the inputs to 8 bits makes."""
    heads = 4
    print(f"{'inputs':56} {'':18} {'first quarter':>13} {'last quarter':>13} {'state':>13}")
    for kind, name in KINDS.items():
        inputs = make_inputs(kind, rows, heads)
        expected = in_float64(inputs, heads)
        rounded = in_float64((in_8_bits(inputs[0]), *inputs[1:]), heads)
        print(f"{name:56} {'inputs in 8 bits':18}{errors(rounded, expected)}", flush=True)
        for label, ops in backends.items():
            state = np.zeros((1, heads, DIM, DIM), np.float32)
            out = ops.gated_delta_rule(*inputs, state, steps(ops, 1, rows), DeltaSpec(heads, heads, DIM, DIM))
            print(f"{name:56} {label:18}{errors((out, state[0]), expected)}", flush=True)


def seconds(ops: NativeBackend, inputs: Inputs, state: Floats, rows: int, spec: DeltaSpec) -> float:
    """The median of at least five calls in a tenth of a second."""
    run = partial(ops.gated_delta_rule, *inputs, state, steps(ops, len(state), rows), spec)
    times: list[float] = []
    while len(times) < 5 or sum(times) < 0.1:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report_speed(backends: dict[str, NativeBackend]) -> None:
    """Milliseconds of one layer, all backends in turns."""
    heads = 16
    print(f"\n{'sequences x rows':>16} " + " ".join(f"{label + ', ms (Gflop/s)':>26}" for label in backends))
    for sequences, rows in ((1, 64), (1, 256), (1, 512), (1, 2048), (4, 64), (4, 256)):
        inputs = make_inputs("slow", sequences * rows, heads)
        state = np.zeros((sequences, heads, DIM, DIM), np.float32)
        spec = DeltaSpec(heads, heads, DIM, DIM)
        found: dict[str, list[float]] = {label: [] for label in backends}
        for _ in range(5):
            for label, ops in backends.items():
                found[label].append(seconds(ops, inputs, state, rows, spec))
        # Three products with the state; half of four 32 x 32 matrices, two of them times keys and two times values.
        operations = 2 * sequences * rows * heads * (3 * DIM * DIM + 16 * 4 * DIM)
        medians = (statistics.median(times) for times in found.values())
        print(
            f"{f'{sequences} x {rows}':>16} "
            + " ".join(f"{f'{1e3 * m:.3f} ({operations / m / 1e9:.0f})':>26}" for m in medians)
        )


def main() -> None:
    """Errors first, then speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192, help="of the sequences whose errors are measured")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    schemes = {"float32": choose("native", precision="exact"), "bfloat16": choose("native", "bf16", "fast")}
    backends = {label: create(options.threads, scheme=scheme) for label, scheme in schemes.items()}
    print(f"instruction set {backends['float32'].describe()['isa']}, {options.threads} threads")
    report_errors(backends, options.rows)
    report_speed(backends)


if __name__ == "__main__":
    main()

"""Products in tile registers, with tiles in plain C++: the bits of kernels without tiles, wherever the work runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from native_kit import Inputs, round_and_pack

from pocketvlm import _native
from pocketvlm.backends.native import NativeBackend

pytestmark = pytest.mark.skipif(
    "plaintiles" not in _native.usable_isas(for_tests=True), reason="needs AVX-512 with VNNI and BF16"
)
SCHEMES = [(4, 32), (4, 64), (4, 128), (8, None), (8, 32), (8, 64)]


def backends(threads: int) -> tuple[NativeBackend, NativeBackend]:
    """With tiles and without; memory starts as NaN."""
    made = [NativeBackend(_native.Runtime(threads, isa), {}) for isa in ("plaintiles", "avx512vnni")]
    for ops in made:
        ops._native.poison(True)
    return made[0], made[1]


@pytest.mark.parametrize(("bits", "group"), SCHEMES)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_tiles_change_no_bit(bits: int, group: int | None, threads: int) -> None:
    tiles, vectors = backends(threads)
    make = Inputs(7)
    for inputs, outputs in ((1152, 100), (200, 64), (4304, 40)):
        weight = round_and_pack(vectors._native, make.matrix(outputs, inputs, "f32"), bits, group)
        bias = make(outputs)
        for rows in (15, 16, 33, 70):
            x, residual = make(rows, inputs), make(rows, outputs)
            for activation in ("gelu_tanh", None):
                expected = vectors.linear(x, weight, bias, residual, activation)
                np.testing.assert_array_equal(tiles.linear(x, weight, bias, residual, activation), expected)
            np.testing.assert_array_equal(tiles.linear(x, weight), vectors.linear(x, weight))


def test_several_engines_in_one_process() -> None:
    first, vectors = backends(3)
    second = backends(2)[0]
    make = Inputs(8)
    weight = round_and_pack(vectors._native, make.matrix(96, 512, "f32"), 4, 64)
    x = make(80, 512)
    expected, failures = vectors.linear(x, weight), []

    def call(ops: NativeBackend) -> None:
        for _ in range(10):
            if not np.array_equal(ops.linear(x, weight), expected):
                failures.append(ops)

    callers = [threading.Thread(target=call, args=(ops,)) for ops in (first, second, first, second)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or not hasattr(os, "fork"), reason="needs Linux")
def test_on_one_processor_and_after_a_fork() -> None:
    script = """
import os
import sys
sys.path[:0] = [sys.argv[1]]
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from native_kit import Inputs, round_and_pack
from pocketvlm import _native
from pocketvlm.backends.native import NativeBackend
tiles, vectors = (NativeBackend(_native.Runtime(3, isa), {}) for isa in ("plaintiles", "avx512vnni"))
weight = round_and_pack(vectors._native, Inputs(1).matrix(64, 256, "f32"), 8, None)
x = Inputs(2)(64, 256)
expected = vectors.linear(x, weight)
assert np.array_equal(tiles.linear(x, weight), expected)
child = os.fork()
same = all(np.array_equal(tiles.linear(x, weight), expected) for _ in range(20))
if child == 0:
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
assert same and status == 0, status
"""
    subprocess.run([sys.executable, "-c", script, str(Path(__file__).parent)], check=True, timeout=60)

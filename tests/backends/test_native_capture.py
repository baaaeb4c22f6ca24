"""Captured graphs: a replay gives the numbers of single calls, on memory that is shared and never grows."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from native_kit import Inputs, usable
from numpy.typing import NDArray

from pocketvlm.backends import native
from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.native.arena import Arena
from pocketvlm.backends.options import choose
from pocketvlm.quantize import quantized, round_to_nearest
from pocketvlm.schemes import INT4_GROUP_64

Floats = NDArray[np.float32]


@pytest.fixture(params=usable())
def kernels(request: pytest.FixtureRequest) -> NativeBackend:
    return native.create(2, request.param, scheme=choose("native", "int4"))


class Network:
    """A few operations on arrays that change in place: rows of a table, normed, multiplied, gated, added to."""

    def __init__(self, ops: NativeBackend, rows: int, seed: int = 0, packed_table: bool = False) -> None:
        make = Inputs(seed)
        self.ops = ops
        self.ids = np.zeros(rows, np.int32)
        table = make.matrix(50, 72, "bf16")
        # As a checkpoint holds it: nothing is known but codes and scales.
        rounded = replace(round_to_nearest(table, INT4_GROUP_64), rounded_from=None)
        self.table = ops.prepare(rounded if packed_table else table, "embedding")
        shapes = {"gate": (130, 72), "up": (130, 72), "down": (72, 130)}
        tensors = {name: make.matrix(*shape, "f32") for name, shape in shapes.items()}
        matrices = quantized(tensors, dict.fromkeys(tensors, "matrix"), ops.scheme)
        self.gate, self.up, self.down = (ops.prepare(matrices[name], "matrix") for name in shapes)
        self.norm = make(72)

    def run(self) -> Floats:
        ops = self.ops
        x = ops.embed(self.table, self.ids)
        for _ in range(3):
            gated = ops.rms_norm_swiglu(x, self.norm, 1e-6, self.gate, self.up)
            x = ops.linear(gated, self.down, residual=x)
            gate, up = ops.linears(ops.rms_norm(x, self.norm, 1e-6), (self.gate, self.up))
            x = ops.linear(ops.swiglu(gate, up), self.down, residual=x)
        return ops.concat([x, self.norm.reshape(1, -1), x])


@pytest.mark.parametrize("packed_table", [False, True], ids=["dense rows", "packed rows"])
def test_replay_equals_single_calls(kernels: NativeBackend, packed_table: bool) -> None:
    random = np.random.default_rng(1)
    networks = [Network(kernels, rows, rows, packed_table) for rows in (1, 3, 16)]
    replays = []
    for network in networks:
        network.ids[:] = random.integers(0, 50, len(network.ids))
        first, replay = kernels.capture(network.run)
        np.testing.assert_array_equal(first, network.run())
        replays.append(replay)
    size = kernels._arena.nbytes
    for _ in range(5):
        for network, replay in zip(networks, replays, strict=True):
            network.ids[:] = random.integers(0, 50, len(network.ids))
            np.testing.assert_array_equal(replay(), network.run())
    assert kernels._arena.nbytes == size


def test_a_referenced_result_is_not_overwritten_by_the_next_capture(kernels: NativeBackend) -> None:
    network, other = Network(kernels, 4), Network(kernels, 4, seed=9)
    result, replay = kernels.capture(network.run)
    copy = result.copy()
    kernels.capture(other.run)
    np.testing.assert_array_equal(result, copy)
    np.testing.assert_array_equal(replay(), copy)


def test_a_bad_index_is_refused_at_replay(kernels: NativeBackend) -> None:
    network = Network(kernels, 2)
    _, replay = kernels.capture(network.run)
    network.ids[1] = 50
    with pytest.raises(ValueError, match=r"ids\[1\] is 50, outside \[0, 50\)"):
        replay()
    network.ids[1] = 49
    np.testing.assert_array_equal(replay(), network.run())


def test_work_that_fails_leaves_no_capture(kernels: NativeBackend) -> None:
    network = Network(kernels, 2)

    def fail() -> Floats:
        network.run()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        kernels.capture(fail)
    expected = network.run()
    first, replay = kernels.capture(network.run)
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(replay(), expected)


def test_one_capture_at_a_time(kernels: NativeBackend) -> None:
    network = Network(kernels, 1)
    with pytest.raises(ValueError, match="begun already"):
        kernels.capture(lambda: kernels.capture(network.run)[0])
    first, _ = kernels.capture(network.run)
    np.testing.assert_array_equal(first, network.run())


def test_other_threads_are_not_captured(kernels: NativeBackend) -> None:
    mine, theirs = Network(kernels, 2), Network(kernels, 3, seed=5)
    results: list[Floats] = []

    def both() -> Floats:
        thread = threading.Thread(target=lambda: results.append(theirs.run()))
        thread.start()
        thread.join()
        return mine.run()

    first, replay = kernels.capture(both)
    copy = results[0].copy()
    for _ in range(2):
        np.testing.assert_array_equal(replay(), first)
    np.testing.assert_array_equal(results[0], copy)
    np.testing.assert_array_equal(theirs.run(), copy)


def test_the_arena_reuses_unreferenced_memory() -> None:
    arena = Arena()
    a = arena.take((3, 5))
    view = a[1:, 2]
    address = a.ctypes.data
    del a
    b = arena.take((16,))
    assert b.ctypes.data != address  # a view still references it
    del view
    c = arena.take((2, 7))
    assert c.ctypes.data == address
    assert arena.nbytes == 2 * 16 * 4

"""What surrounds the kernels: choice of instruction set and threads, forks, concurrent callers, and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_kit import Inputs, backend, cache_of, make_batch, pages_of, usable

from pocketvlm import _native
from pocketvlm.backends.batch import Batch
from pocketvlm.backends.native import NativeBackend, cpu, create
from pocketvlm.backends.ops import AttentionSpec, DeltaSpec, KVCache
from pocketvlm.errors import OptionError
from pocketvlm.quantize import round_to_nearest
from pocketvlm.schemes import INT8_GROUP_32
from pocketvlm.tensors import DenseTensor


def every_operation(ops: NativeBackend) -> list[np.ndarray]:
    """Outputs and states of one call of each larger operation, on the same inputs each time."""
    make = Inputs(3)
    batch = make.batch([1, 70, 5, 1], [40, 0, 3, 1100])
    step, rows, pages = ops.step(batch), batch.rows, pages_of(batch)
    weight = ops.prepare(round_to_nearest(make.matrix(300, 192, "bf16"), INT8_GROUP_32), "matrix")
    kv = (pages, 2, 16, 32)
    caches = [cache_of(make(*kv), make(*kv), kv_cache)[0] for kv_cache in ("f32", "bf16", "int8")]
    window, state = make(7, 3, 96), make(7, 4, 24, 16)
    out = [ops.linear(make(n, 192), weight, make(300), None, "silu") for n in (1, 4, 7, 40, 300)]
    for cache in caches:
        arrays = make(rows, 4 * 64), make(rows, 64), make(rows, 64), make(32), make(32)
        out += ops.attention_inputs(*arrays, cache, step, AttentionSpec(16, 1e7, 1e-6))
        out.append(ops.attention(make(rows, 4, 32), cache, step))
    out.append(ops.attention_views(*(make(500, 64) for _ in range(3)), np.array([300, 4, 4, 192], np.int32), 2))
    out.append(ops.conv_silu(make(rows, 96), make(4, 96), window, step.sub_steps[0]))
    gates = make(rows, 4), make(rows, 4), make(4), make(4)
    out.append(ops.gated_delta_rule(make(rows, 48 * 2 + 64), *gates, state, step.sub_steps[0], DeltaSpec(2, 4, 24, 16)))
    out.append(ops.rms_norm(make(400, 100), make(100), 1e-6))
    out.append(ops.swiglu(make(400, 100), make(400, 100)))
    return [*out, *(array for cache in caches for array in cache.arrays), window, state]


@pytest.mark.parametrize("isa", usable())
def test_results_do_not_depend_on_the_number_of_threads(isa: str) -> None:
    expected = every_operation(backend(1, isa))
    for threads in (2, 3, 4):
        for actual, reference in zip(every_operation(backend(threads, isa)), expected, strict=True):
            np.testing.assert_array_equal(actual, reference)


def test_instruction_sets_agree() -> None:
    expected = every_operation(backend(2, "serial"))
    for isa in usable():
        for actual, reference in zip(every_operation(backend(2, isa)), expected, strict=True):
            np.testing.assert_allclose(actual, reference, rtol=2e-5, atol=2e-5 * np.abs(reference).max())


def test_several_callers_at_once() -> None:
    ops = create(2)
    expected, failures = every_operation(ops), []

    def call() -> None:
        for _ in range(5):
            for actual, reference in zip(every_operation(ops), expected, strict=True):
                if not np.array_equal(actual, reference):
                    failures.append(actual)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_works_after_a_fork() -> None:
    script = """
import os
import numpy as np
from pocketvlm.backends.native import create
ops = create(3)
x = np.arange(600_000, dtype=np.float32).reshape(-1, 100) / 1e5
expected = ops.rms_norm(x, x[0], 1e-6)
child = os.fork()
same = all(np.array_equal(ops.rms_norm(x, x[0], 1e-6), expected) for _ in range(20))
if child == 0:
    del ops
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
assert same and status == 0, status
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_many_pools_come_and_go() -> None:
    x = np.ones((300, 200), np.float32)
    for i in range(60):
        ops = create(1 + i % 4)
        ops.rms_norm(x, x[0], 1e-6)


def test_choice_of_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCKETVLM_ISA", raising=False)
    assert create(1).describe()["isa"].startswith(f"{usable()[-1]} (the best of ")
    monkeypatch.setenv("POCKETVLM_ISA", "serial")
    assert create(1).describe()["isa"] == "serial (set by POCKETVLM_ISA)"
    assert create(1, usable()[-1]).describe()["isa"] == f"{usable()[-1]} (asked for by argument)"
    monkeypatch.setenv("POCKETVLM_ISA", "avx9")
    with pytest.raises(OptionError, match=r"'avx9' .set by POCKETVLM_ISA. cannot run here: use one of serial"):
        create(1)
    with pytest.raises(OptionError, match="asked for by argument"):
        create(1, "neon")


def test_sets_for_tests_run_only_if_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for_tests = _native.usable_isas(for_tests=True)
    assert not set(for_tests) & set(_native.usable_isas())
    for isa in for_tests:
        monkeypatch.setenv("POCKETVLM_ISA", isa)
        assert create(1).describe()["isa"] == f"{isa} (set by POCKETVLM_ISA)"
    with pytest.raises(OptionError) as error:
        create(1, "avx9")
    assert not any(isa in str(error.value) for isa in for_tests)


def test_reasons_against_a_set() -> None:
    reasons = _native.unusable_isas()
    assert not set(reasons) & set(usable())
    assert all(
        reason.startswith(("the processor has no ", "the operating system does not ", "products in tiles"))
        for reason in reasons.values()
    )
    if "amx" in reasons:
        assert f"; no amx: {reasons['amx']})" in create(1).describe()["isa"]


def test_choice_of_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert create(3).describe()["threads"] == "3 (asked for by argument)"
    for bad in (0, -1, 2000, True, 1.5, "2"):
        with pytest.raises(OptionError, match="threads"):
            create(bad)  # type: ignore[arg-type]
    for name, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{name}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    quota = tmp_path / "cpu.max"
    quota.write_text("max 100000\n")
    monkeypatch.setattr(cpu, "_CPUS", tmp_path)
    monkeypatch.setattr(cpu, "_QUOTAS", (quota,))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert cpu.default_threads()[0] == 2
    quota.write_text("150000 100000\n")
    assert cpu.default_threads() == (1, "quota of the control group")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7}, raising=False)
    assert cpu.default_threads()[0] == 1


def test_mapped_weights(tmp_path: Path) -> None:
    ops, stored = backend(2, usable()[-1]), Inputs().matrix(40, 30, "bf16")
    path = tmp_path / "weights"
    path.write_bytes(b"odd" + b"\0" + stored.data.tobytes())
    mapped = np.memmap(path, np.uint16, "r", offset=4, shape=(40, 30))
    x = Inputs()(5, 30)
    weight = ops.prepare(DenseTensor("weight", "bf16", mapped), "matrix")
    assert np.shares_memory(weight.data, mapped)
    expected = ops.linear(x, ops.prepare(stored, "matrix"))
    np.testing.assert_array_equal(ops.linear(x, weight), expected)
    path.write_bytes(b"odd" + stored.data.tobytes())
    odd = np.memmap(path, np.uint8, "r")[3:].view(np.uint16).reshape(40, 30)  # not even aligned to two bytes
    np.testing.assert_array_equal(ops.linear(x, ops.prepare(DenseTensor("w", "bf16", odd), "matrix")), expected)


def test_vectors_are_copied_out_of_mapped_files(tmp_path: Path) -> None:
    """A view of one keeps pages of the file around it resident."""
    path = tmp_path / "weights"
    path.write_bytes(np.arange(30, dtype=np.float32).tobytes())
    mapped = np.memmap(path, np.float32, "r")
    norm = backend(2, usable()[-1]).prepare(DenseTensor("norm", "f32", mapped), "norm")
    assert isinstance(norm, np.ndarray)
    assert not np.shares_memory(norm, mapped)
    np.testing.assert_array_equal(norm, mapped)


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def codes(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int8)


def scaled(scales: np.ndarray) -> KVCache[Any]:
    return KVCache(codes(4, 1, 4, 8), codes(4, 1, 4, 8), scales, scales)


def mixed() -> KVCache[Any]:
    return KVCache(floats(4, 1, 4, 8), codes(4, 1, 4, 8))


def attend(ops: NativeBackend, batch: Batch, pages: int = 4, cache: KVCache[Any] | None = None) -> Any:
    cache = cache or KVCache(floats(pages, 1, 4, 8), floats(pages, 1, 4, 8))
    return ops.attention(floats(batch.rows, 2, 8), cache, ops.step(batch))


def write(ops: NativeBackend, batch: Batch, pages: int = 4, theta_dim: int = 8, section: Any = None) -> Any:
    cache = KVCache(floats(pages, 1, 4, 8), floats(pages, 1, 4, 8))
    rows = floats(batch.rows, 32), floats(batch.rows, 8), floats(batch.rows, 8)
    return ops.attention_inputs(
        *rows, floats(8), floats(8), cache, ops.step(batch), AttentionSpec(theta_dim, 1e4, 1e-6, section)
    )


def convolve(ops: NativeBackend, batch: Batch, slots: int = 4) -> Any:
    return ops.conv_silu(floats(batch.rows, 8), floats(4, 8), floats(slots, 3, 8), ops.step(batch).sub_steps[0])


def delta(ops: NativeBackend, batch: Batch, slots: int = 4) -> Any:
    rows = floats(batch.rows, 24), floats(batch.rows, 1), floats(batch.rows, 1)
    return ops.gated_delta_rule(
        *rows, floats(1), floats(1), floats(slots, 1, 8, 8), ops.step(batch).sub_steps[0], DeltaSpec(1, 1, 8, 8)
    )


def update(
    ops: NativeBackend, rows: np.ndarray, rank: int = 2, inputs: int = 32, blocks: int = 1, dtype: Any = np.float32
) -> Any:
    a, b = np.zeros((2, inputs), dtype), np.zeros((blocks, rank, 32), dtype)
    return ops._native.add_low_rank(floats(4, 6), [(rows, a, b, 1.0, floats(4, 5))], False)


MATRIX = DenseTensor("w", "f32", floats(4, 6))
EMPTY = DenseTensor("w", "f32", floats(4, 0))


def matrix(ops: NativeBackend) -> Any:
    return ops.prepare(MATRIX, "matrix")


GOOD = make_batch([3, 1], [5, 0], np.array([[2, 0, -1], [1, -1, -1]], np.int32), [3, 0], 4)


def part(**fields: Any) -> Batch:
    """The good batch with other arrays in its sub-batch."""
    return replace(GOOD, sub_batches=(replace(GOOD.sub_batches[0], **fields),))


ROTARY = replace(GOOD, rotary_positions=ints(1))
THREE = replace(GOOD, rotary_positions=np.zeros((2, 4), np.int32))
Call = Callable[[NativeBackend], Any]
REFUSED: dict[str, tuple[str, Call]] = {
    "id too great": (r"ids\[1\] is 4, outside", lambda o: o.embed(matrix(o), ints(0, 4))),
    "id negative": (r"ids\[0\] is -1", lambda o: o.embed(matrix(o), ints(-1))),
    "ids of 64 bits": ("ids must have dtype int32", lambda o: o.embed(matrix(o), np.zeros(2, np.int64))),
    "taken row": (r"rows\[0\]", lambda o: o.take(floats(3, 2), ints(3))),
    "put row": (r"rows\[1\]", lambda o: o.put(floats(3, 2), ints(0, -1), floats(2, 2))),
    "put values": (r"values must have shape \[1, 2\]", lambda o: o.put(floats(3, 2), ints(0), floats(1, 3))),
    "inputs": (r"x must have shape \[any, 6\], not \[2, 5\]", lambda o: o.linear(floats(2, 5), matrix(o))),
    "double": ("x must have dtype float32", lambda o: o.linear(np.zeros((2, 6)), matrix(o))),
    "strided": ("x must be a C-contiguous", lambda o: o.linear(floats(2, 12)[:, ::2], matrix(o))),
    "no array": ("x must be a C-contiguous", lambda o: o.linear([[0.0] * 6], matrix(o))),
    "bias": (r"bias must have shape \[4\]", lambda o: o.linear(floats(2, 6), matrix(o), floats(5))),
    "residual": ("residual", lambda o: o.linear(floats(2, 6), matrix(o), None, floats(3, 4))),
    "matrix of three": ("two dimensions", lambda o: o.prepare(MATRIX.reshape(2, 2, 6), "matrix")),
    "no inputs": ("no columns", lambda o: o.linear(floats(2, 0), o.prepare(EMPTY, "matrix"))),
    "norm of nothing": ("no columns", lambda o: o.rms_norm(floats(2, 0), floats(0), 1e-6)),
    "norm weight": ("weight", lambda o: o.rms_norm(floats(2, 5), floats(4), 1e-6)),
    "norm bias": ("bias", lambda o: o.layer_norm(floats(2, 5), floats(5), floats(4), 1e-6)),
    "norm heads": ("multiple", lambda o: o.gated_rms_norm(floats(2, 5), floats(2, 5), floats(4), 1e-6)),
    "gate": ("gate", lambda o: o.swiglu(floats(2, 5), floats(2, 4))),
    "views too long": ("offsets end at 5", lambda o: o.attention_views(*[floats(4, 8)] * 3, ints(2, 3), 2)),
    "empty view": ("offsets", lambda o: o.attention_views(*[floats(4, 8)] * 3, ints(4, 0), 2)),
    "heads": ("multiple of 3 heads", lambda o: o.attention_views(*[floats(4, 8)] * 3, ints(4), 3)),
    "odd grid": ("even", lambda o: o.regroup_2x2(floats(6, 8), np.array([[2, 3]], np.int32))),
    "grid size": ("cover 4 rows", lambda o: o.regroup_2x2(floats(8, 8), np.array([[2, 2]], np.int32))),
    "window": ("multiple of 4", lambda o: o.window_mean(floats(2, 6))),
    "page unused": (r"pages\[0, 1\] is -1", lambda o: attend(o, replace(GOOD, pages=GOOD.pages[[1, 1]]))),
    "page too great": (r"pages\[0, 0\] is 2, but there are 2 pages", lambda o: attend(o, GOOD, 2)),
    "table too short": ("page table holds 4", lambda o: attend(o, replace(GOOD, pages=GOOD.pages[:, :1].copy()))),
    "codes without scales": ("need key_scales", lambda o: attend(o, GOOD, cache=KVCache(*[codes(4, 1, 4, 8)] * 2))),
    "scales without codes": ("others have none", lambda o: attend(o, GOOD, cache=KVCache(*[floats(4, 1, 4, 8)] * 4))),
    "scales": (r"key_scales must have shape \[4, 1, 4\]", lambda o: attend(o, GOOD, cache=scaled(floats(4, 4, 2)))),
    "types of a cache": ("values must have dtype float32", lambda o: attend(o, GOOD, cache=mixed())),
    "type of a cache": ("float32, uint16", lambda o: attend(o, GOOD, cache=KVCache(*[np.zeros((4, 1, 4, 8))] * 2))),
    "writes page too great": ("there are 2 pages", lambda o: write(o, GOOD, 2)),
    "rotary rows": (r"rotary_positions must have shape \[4\]", lambda o: write(o, ROTARY)),
    "three rotary rows": (r"\[3, 4\], not \[2, 4\]", lambda o: write(o, THREE, section=(2, 1, 1))),
    "no section": ("mrope_section of 4, not None", lambda o: write(o, THREE)),
    "rotary": ("rotary_dim", lambda o: write(o, GOOD, theta_dim=16)),
    "offsets": (r"offsets\[2\] must be greater", lambda o: convolve(o, part(offsets=ints(0, 4, 4)))),
    "offsets from 1": ("begin with 0", lambda o: convolve(o, part(offsets=ints(1, 3, 4)))),
    "slot": (r"slots\[0\] is 3, but the state has 3 slots", lambda o: convolve(o, GOOD, 3)),
    "slot negative": (r"slots\[1\] is -1", lambda o: delta(o, part(read_slots=ints(3, -1)))),
    "slot twice": (r"slots\[1\] is the slot of another", lambda o: delta(o, part(write_slots=ints(2, 2)))),
    "slot negative, written": (r"write_slots\[0\] is -1", lambda o: convolve(o, part(write_slots=ints(-1, 2)))),
    "slot of another": (r"read_slots\[0\] is a slot that another", lambda o: delta(o, part(read_slots=ints(0, 1)))),
    "adapted row": (r"rows\[1\] is 4, outside", lambda o: update(o, ints(1, 4))),
    "adapted row twice": (r"rows\[1\] must be greater", lambda o: update(o, ints(1, 1))),
    "update": (r"b must have shape \[any, 2, 32\]", lambda o: update(o, ints(1), rank=3)),
    "inputs of an update": (r"a must have shape \[any, 32\]", lambda o: update(o, ints(1), inputs=64)),
    "outputs of an update": ("b has 2 blocks, which 5 outputs", lambda o: update(o, ints(1), blocks=2)),
    "type of an update": ("[ab] must have dtype float32", lambda o: update(o, ints(1), dtype=np.uint16)),
    "fields of an update": ("rows, a, b, scale", lambda o: o._native.add_low_rank(floats(4, 6), [(ints(1),)], False)),
    "activation": ("activation with number 4", lambda o: o._native.activate(floats(4, 6), 4, floats(4, 6))),
    "context": (r"context_lens\[0\] is negative", lambda o: delta(o, part(context_lens=ints(-5, 0)))),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    message, call = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call(backend(1, usable()[-1]))


def test_nothing_to_do() -> None:
    ops, none = backend(2, usable()[-1]), np.zeros(0, np.int32)
    assert ops.linear(floats(0, 6), matrix(ops)).shape == (0, 4)
    assert ops.embed(matrix(ops), none).shape == (0, 6)
    assert ops.rms_norm(floats(0, 5), floats(5), 1e-6).shape == (0, 5)
    assert ops.attention_views(*[floats(0, 8)] * 3, none, 2).shape == (0, 8)
    assert ops.regroup_2x2(floats(0, 8), np.zeros((0, 2), np.int32)).shape == (0, 32)
    assert ops.window_mean(floats(0, 8)).shape == (0, 2)
    ops.put(floats(3, 2), none, floats(0, 2))


def test_the_good_batch_is_good() -> None:
    ops = backend(1, usable()[-1])
    for call in (attend, write, convolve, delta):
        call(ops, GOOD)


def test_read_only_state_is_refused() -> None:
    state = floats(4, 3, 8)
    state.flags.writeable = False
    ops = backend(1, usable()[-1])
    with pytest.raises(ValueError, match="state must be a C-contiguous, writable"):
        ops.conv_silu(floats(4, 8), floats(4, 8), state, ops.step(GOOD).sub_steps[0])

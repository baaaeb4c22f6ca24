"""Steps on every backend: three rotary axes, slots to read and to write, copies, and values changed in place."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exact_ops import gated_delta_rule, rms, rotate
from native_kit import Inputs, close, make_batch, pages_of

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import Batch
from pocketvlm.backends.ops import AttentionSpec, DeltaSpec, KVCache
from pocketvlm.errors import BackendError

SECTION = (11, 11, 10)


def test_rotary_axes_are_interleaved() -> None:
    axes = AttentionSpec(64, 1e7, 1e-6, SECTION).rotary_axes().tolist()
    assert axes == [1 if i % 3 == 1 and i < 33 else 2 if i % 3 == 2 and i < 30 else 0 for i in range(32)]
    assert [axes.count(axis) for axis in range(3)] == list(SECTION)
    with pytest.raises(ValueError, match="mrope_section of 32, not None"):
        AttentionSpec(64, 1e7, 1e-6).rotary_axes()


def test_rotary_axes_equal_the_reference() -> None:
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextRotaryEmbedding

    frequencies = torch.arange(3 * 2 * 5 * 32, dtype=torch.float32).view(3, 2, 5, 32)
    reference = SimpleNamespace(mrope_section=list(SECTION))
    expected = Qwen3_5TextRotaryEmbedding.recomposition_frequencies(reference, frequencies.clone())[..., :32]
    axes = AttentionSpec(64, 1e7, 1e-6, SECTION).rotary_axes()
    ours = frequencies.numpy()[axes, :, :, np.arange(32)].transpose(1, 2, 0)
    np.testing.assert_array_equal(ours, expected.numpy())


def inputs(ops: AnyBackend, batch: Batch, spec: AttentionSpec, seed: int) -> tuple[np.ndarray, ...]:
    """Rotated queries and the exact ones, the latter with the positions of each frequency."""
    make = Inputs(seed)
    rows, heads, d = batch.rows, 3, 80
    query_gate, key, value, q_norm, k_norm = (
        make(rows, heads * 2 * d), make(rows, d), make(rows, d), make(d), make(d),
    )  # fmt: skip
    cache = KVCache(*(ops.from_numpy(make(pages_of(batch), 1, batch.page_size, d)) for _ in range(2)))
    arrays = [ops.from_numpy(array) for array in (query_gate, key, value, q_norm, k_norm)]
    query, _ = ops.attention_inputs(*arrays, cache, ops.step(batch), spec)
    axes = spec.rotary_axes() if spec.mrope_section else np.zeros(spec.rotary_dim // 2, np.int32)
    positions = np.atleast_2d(batch.rotary_positions)[axes].T
    split = query_gate.reshape(rows, heads, 2, d)[:, :, 0]
    exact = rotate(rms(split, 1e-6) * (1 + q_norm.astype(np.float64)), positions, spec.rotary_dim, 1e7)
    return ops.to_numpy(query), exact, ops.to_numpy(cache.keys)


def test_three_rows_of_rotary_positions(ops: AnyBackend) -> None:
    batch = Inputs(1).batch([3, 9, 1], [0, 5, 8])
    random = np.random.default_rng(2)
    three = replace(batch, rotary_positions=random.integers(0, 900, (3, batch.rows)).astype(np.int32))
    spec = AttentionSpec(64, 1e7, 1e-6, SECTION)
    query, exact, _ = inputs(ops, three, spec, 3)
    close(query, exact, 1e-5)
    equal = replace(batch, rotary_positions=np.stack([batch.rotary_positions] * 3))
    for actual, wanted in zip(
        inputs(ops, equal, spec, 3), inputs(ops, batch, replace(spec, mrope_section=None), 3), strict=True
    ):
        np.testing.assert_array_equal(actual, wanted)


def test_a_state_is_read_from_one_slot_and_written_to_another(ops: AnyBackend) -> None:
    make, spec = Inputs(4), DeltaSpec(1, 2, 8, 16)
    for length in (1, 3, 70):
        batch = make_batch([length, 2], [5, 4], np.zeros((2, 9), np.int32), [0, 1], 16)
        (part,) = batch.sub_batches
        apart = replace(batch, sub_batches=(replace(part, write_slots=np.array([3, 1], np.int32)),))
        rows = batch.rows
        mixed, b, a, a_log, dt_bias = make(rows, 48), make(rows, 2), make(rows, 2), make(2), make(2)
        state, window, weight, x = make(4, 2, 8, 16), make(4, 3, 33), make(4, 33), make(rows, 33)
        exact = state.astype(np.float64)
        expected = gated_delta_rule(mixed, b, a, a_log, dt_bias, exact, apart, spec)
        arrays = [ops.from_numpy(array) for array in (mixed, b, a, a_log, dt_bias)]
        there = ops.from_numpy(state.copy())
        out = ops.gated_delta_rule(*arrays, there, ops.step(apart).sub_steps[0], spec)
        close(ops.to_numpy(out), expected, 1e-5)
        close(ops.to_numpy(there), exact, 1e-5)
        np.testing.assert_array_equal(ops.to_numpy(there)[0], state[0])
        one, two = ops.from_numpy(window.copy()), ops.from_numpy(window.copy())
        outs = [
            ops.to_numpy(ops.conv_silu(ops.from_numpy(x), ops.from_numpy(weight), array, ops.step(which).sub_steps[0]))
            for array, which in ((one, batch), (two, apart))
        ]
        np.testing.assert_array_equal(*outs)
        np.testing.assert_array_equal(ops.to_numpy(two)[3], ops.to_numpy(one)[0])
        np.testing.assert_array_equal(ops.to_numpy(two)[0], window[0])


def test_copies_of_slots(ops: AnyBackend) -> None:
    batch = make_batch([1, 2, 1], [0, 0, 0], np.zeros((3, 1), np.int32), [2, 0, 3], 16)
    part = replace(batch.sub_batches[0], copy_slots=np.array([1, -1, 0], np.int32))
    step = ops.step(replace(batch, sub_batches=(part,)))
    make = Inputs(5)
    arrays = make(4, 3, 5), make(4, 2)
    copies = [tuple(ops.zeros(1, size) for size in (15, 2)) for _ in range(3)]
    ops.copy_slots([ops.from_numpy(array) for array in arrays], copies, step.sub_steps[0])
    for copy, slot in zip(copies, (3, 2, None), strict=True):
        for target, array in zip(copy, arrays, strict=True):
            wanted = np.zeros((1, target.shape[1])) if slot is None else array[slot].reshape(1, -1)
            np.testing.assert_array_equal(ops.to_numpy(target), wanted)


def test_an_updated_step_equals_a_new_one(ops: AnyBackend) -> None:
    make = Inputs(6)
    batches = [make.batch([3, 1, 4], context) for context in ([0, 5, 20], [7, 0, 1])]
    batches = [replace(batch, ids=np.arange(8, dtype=np.int32)) for batch in batches]
    wide = max(batch.pages.shape[1] for batch in batches)
    first, second = (
        replace(batch, pages=np.pad(batch.pages, ((0, 0), (0, wide - batch.pages.shape[1])), constant_values=-1))
        for batch in batches
    )
    query, keys, values = make(8, 4, 24), make(40, 2, 16, 24), make(40, 2, 16, 24)
    q, cache = ops.from_numpy(query), KVCache(ops.from_numpy(keys), ops.from_numpy(values))
    step = ops.step(first)
    addresses = [array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data for array in device(step)]
    wanted = ops.to_numpy(ops.attention(q, cache, ops.step(second))).copy()
    assert not np.array_equal(ops.to_numpy(ops.attention(q, cache, step)), wanted)
    step.update(second)
    np.testing.assert_array_equal(ops.to_numpy(ops.attention(q, cache, step)), wanted)
    again = [array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data for array in device(step)]
    assert again == addresses
    step.host.ids[:] = 3
    step.update(step.host)
    assert np.array_equal(np.asarray(step.ids), np.full(8, 3))
    with pytest.raises(ValueError, match="of the form"):
        step.update(make.batch([3, 5], [0, 0]))


def device(step: object) -> list[object]:
    return list(step._device_arrays())  # type: ignore[attr-defined]


def test_a_missing_page_is_refused(ops: AnyBackend) -> None:
    batch = make_batch([3], [5], np.array([[0, -1]], np.int32), [0], 4)
    x = [
        ops.from_numpy(Inputs()(*shape)) for shape in ((3, 16), (3, 8), (3, 8), (8,), (8,), (2, 1, 4, 8), (2, 1, 4, 8))
    ]
    with pytest.raises((BackendError, ValueError), match="page"):
        ops.attention_inputs(*x[:5], KVCache(*x[5:]), ops.step(batch), AttentionSpec(8, 1e4, 1e-6))

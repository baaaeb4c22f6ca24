"""Operations of the native backend that know sequences: against float64, and one way of cutting against another."""

from __future__ import annotations

import numpy as np
import pytest
from exact_ops import attention, attention_views, cached, conv_silu, gated_delta_rule, rms, rotate
from native_kit import Inputs, cache_of, close, make_batch, pages_of

from pocketvlm.backends.batch import Ints, Step
from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.ops import AttentionSpec, DeltaSpec, KVCache


@pytest.mark.parametrize("head_dim", [3, 16, 40, 72])
@pytest.mark.parametrize("lengths", [[1], [4] * 40, [3, 7, 31], [65, 1, 130], [300]])
def test_attention_views(native: NativeBackend, head_dim: int, lengths: list[int]) -> None:
    make = Inputs(head_dim)
    heads = 3
    q, k, v = (make(sum(lengths), heads * head_dim, scale=2) for _ in range(3))
    actual = native.attention_views(q, k, v, np.array(lengths, np.int32), heads)
    close(actual, attention_views(q, k, v, lengths, heads), 3e-6)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(8, 2, 256), (3, 3, 20), (5, 1, 31)])
@pytest.mark.parametrize(("page_size", "kv_cache"), [(16, "f32"), (7, "f32"), (16, "bf16"), (7, "int8")])
def test_attention(
    native: NativeBackend, heads: int, kv_heads: int, head_dim: int, page_size: int, kv_cache: str
) -> None:
    make = Inputs(head_dim)
    lengths, context = [1, 17, 3, 130, 1, 5, 4], [0, 0, 40, 33, 700, 0, 300]
    batch = make.batch(lengths, context, page_size)
    keys, values = (make(pages_of(batch), kv_heads, page_size, head_dim, scale=2) for _ in range(2))
    written = np.zeros((len(keys), page_size), bool)
    for s in range(batch.sequences):
        t = np.arange(lengths[s] + context[s])
        written[batch.pages[s, t // page_size], t % page_size] = True
    cache, keys, values = cache_of(keys, values, kv_cache)
    for array in cache.arrays:  # no row may look there
        array.swapaxes(1, 2)[~written] = np.nan if array.dtype == np.float32 else np.iinfo(array.dtype).max
    query = make(sum(lengths), heads, head_dim)
    close(native.attention(query, cache, native.step(batch)), attention(query, keys, values, batch), 3e-6)


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(256, 64), (32, 8), (20, 20), (7, 2)])
def test_attention_inputs(native: NativeBackend, head_dim: int, rotary_dim: int) -> None:
    make = Inputs(head_dim)
    heads, kv_heads, lengths, context, page_size = 4, 2, [1, 13, 1, 4], [0, 5, 200_000, 3], 64
    batch = make.batch(lengths, [0, 5, 0, 3], page_size)
    last = batch.pages[2, 0]
    wide = np.full((4, 200_000 // page_size + 1), -1, np.int32)  # the far context in one page, over and over
    wide[:, : batch.pages.shape[1]] = batch.pages
    wide[2], wide[2, -1] = batch.pages[0, 0], last
    batch = make_batch(lengths, context, wide, batch.sub_batches[0].write_slots, page_size)
    rows = sum(lengths)
    query_gate, key, value = (
        make(rows, heads * 2 * head_dim),
        make(rows, kv_heads * head_dim),
        make(rows, kv_heads * head_dim),
    )
    q_norm, k_norm = make(head_dim), make(head_dim)
    keys, values = (make(pages_of(batch), kv_heads, page_size, head_dim) for _ in range(2))
    before = keys.copy()
    query, gate = native.attention_inputs(
        query_gate,
        key,
        value,
        q_norm,
        k_norm,
        KVCache(keys, values),
        native.step(batch),
        AttentionSpec(rotary_dim, 1e7, 1e-6),
    )
    split = query_gate.reshape(rows, heads, 2, head_dim)
    heads_and_norms = ((split[:, :, 0], q_norm), (key.reshape(rows, kv_heads, -1), k_norm))
    exact = [rms(x, 1e-6) * (1 + w.astype(np.float64)) for x, w in heads_and_norms]
    exact = [rotate(x, batch.rotary_positions, rotary_dim, 1e7) for x in exact]
    close(query, exact[0])
    np.testing.assert_array_equal(gate.reshape(rows, heads, head_dim), split[:, :, 1])
    written = np.zeros((len(keys), page_size), bool)
    for s in range(batch.sequences):
        part = slice(batch.offsets[s], batch.offsets[s + 1])
        close(cached(keys, batch, s)[context[s] :], exact[1][part])
        np.testing.assert_array_equal(cached(values, batch, s)[context[s] :].reshape(lengths[s], -1), value[part])
        t = batch.rotary_positions[part]
        written[batch.pages[s, t // page_size], t % page_size] = True
    np.testing.assert_array_equal(keys.swapaxes(1, 2)[~written], before.swapaxes(1, 2)[~written])


@pytest.mark.parametrize("kv_cache", ["bf16", "int8"])
def test_keys_and_values_are_stored_rounded_to_nearest(native: NativeBackend, kv_cache: str) -> None:
    """Row by row, so that a row's bits do not depend on others; a row of zeros stays zero."""
    make = Inputs(5)
    batch = make.batch([3, 9, 1], [0, 7, 30])
    rows, heads, d = batch.rows, 2, 40
    arrays = make(rows, 4 * 2 * d), make(rows, heads * d), make(rows, heads * d, scale=3.0), make(d), make(d)
    arrays[2][4] = 0.0
    spec, shape = AttentionSpec(8, 1e7, 1e-6), (pages_of(batch), heads, batch.page_size, d)
    exact = KVCache(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    native.attention_inputs(*arrays, exact, native.step(batch), spec)
    expected, _, _ = cache_of(exact.keys, exact.values, kv_cache)
    actual = KVCache(*(np.zeros_like(array) for array in expected.arrays))
    native.attention_inputs(*arrays, actual, native.step(batch), spec)
    for ours, wanted in zip(actual.arrays, expected.arrays, strict=True):
        if ours.dtype == np.int8:  # numbers between two codes may fall on either
            assert np.abs(ours.astype(int) - wanted).max() <= 1
            assert (ours != wanted).mean() < 1e-3
        elif ours.dtype == np.float32:
            np.testing.assert_allclose(ours, wanted, rtol=1e-6)
        else:
            np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize(("channels", "width"), [(1, 4), (33, 4), (300, 3), (513, 1), (40, 7)])
def test_conv_silu(native: NativeBackend, channels: int, width: int) -> None:
    make = Inputs(channels)
    lengths, context = [1, 2, 3, 40, 1, 2, 4], [0, 0, 0, 0, 5, 3, 9]
    batch = make.batch(lengths, context)
    step, slots = native.step(batch), batch.sub_batches[0].write_slots
    x, weight, state = make(sum(lengths), channels), make(width, channels), make(10, width - 1, channels)
    state[slots[:4]] = np.nan  # stale
    reference = state.astype(np.float64)
    close(native.conv_silu(x, weight, state, step.sub_steps[0]), conv_silu(x, weight, reference, batch))
    np.testing.assert_array_equal(state, reference.astype(np.float32))


@pytest.mark.parametrize(
    ("key_heads", "value_heads", "key_dim", "value_dim"),
    [(2, 2, 128, 128), (1, 3, 20, 33), (2, 4, 16, 64), (1, 1, 7, 5)],
)
def test_gated_delta_rule(
    native: NativeBackend, key_heads: int, value_heads: int, key_dim: int, value_dim: int
) -> None:
    make = Inputs(key_dim)
    spec = DeltaSpec(key_heads, value_heads, key_dim, value_dim)
    lengths, context = [1, 9, 150, 7, 64, 33, 1, 65], [0, 0, 0, 5, 3, 9, 70, 1]
    batch = make.batch(lengths, context)
    step, slots = native.step(batch), batch.sub_batches[0].write_slots
    rows = sum(lengths)
    mixed = make(rows, 2 * key_heads * key_dim + value_heads * value_dim)
    b, a, a_log, dt_bias = (
        make(rows, value_heads),
        make(rows, value_heads, scale=3),
        make(value_heads),
        make(value_heads),
    )
    a[5] = 60.0  # forgets everything: sums of log decays of which differences would overflow
    state = make(11, value_heads, key_dim, value_dim)
    state[slots[:3]] = np.nan  # stale
    reference = state.astype(np.float64)
    expected = gated_delta_rule(mixed, b, a, a_log, dt_bias, reference, batch, spec)
    close(native.gated_delta_rule(mixed, b, a, a_log, dt_bias, state, step.sub_steps[0], spec), expected, 3e-6)
    used = slots
    close(state[used], reference[used], 3e-6)


@pytest.mark.parametrize("cut", [1, 3, 8, 64, 100, 149])
def test_two_parts_make_the_whole(native: NativeBackend, cut: int) -> None:
    make = Inputs(cut)
    total, channels, spec = 150, 48, DeltaSpec(1, 2, 8, 16)
    whole = native.step(make.batch([total]))

    def part(n: int, context: int) -> Step[Ints]:
        return native.step(make_batch([n], [context], whole.host.pages, whole.host.sub_batches[0].write_slots, 16))

    parts = [(slice(0, cut), part(cut, 0)), (slice(cut, total), part(total - cut, cut))]
    x, weight = make(total, channels), make(4, channels)
    state = make(4, 3, channels)
    expected = native.conv_silu(x, weight, state.copy(), whole.sub_steps[0])
    cut_up = np.concatenate([native.conv_silu(x[rows], weight, state, b.sub_steps[0]) for rows, b in parts])
    np.testing.assert_array_equal(cut_up, expected)

    mixed, b, a, a_log, dt_bias = make(total, 48), make(total, 2), make(total, 2), make(2), make(2)
    state = make(4, 2, 8, 16)
    expected = native.gated_delta_rule(mixed, b, a, a_log, dt_bias, state.copy(), whole.sub_steps[0], spec)
    cut_up = np.concatenate(
        [native.gated_delta_rule(mixed[r], b[r], a[r], a_log, dt_bias, state, p.sub_steps[0], spec) for r, p in parts]
    )
    close(cut_up, expected.astype(np.float64), 3e-6)

    keys, values, query = (
        make(pages_of(whole.host), 2, 16, 24),
        make(pages_of(whole.host), 2, 16, 24),
        make(total, 6, 24),
    )
    for kv_cache in ("f32", "bf16", "int8"):
        cache = cache_of(keys, values, kv_cache)[0]
        expected = native.attention(query, cache, whole)
        cut_up = np.concatenate([native.attention(query[r], cache, p) for r, p in parts])
        close(cut_up, expected.astype(np.float64), 3e-6)

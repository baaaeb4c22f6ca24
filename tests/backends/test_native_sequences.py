"""Operations of the native backend that know sequences: against float64, and one way of cutting against another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from exact_ops import attention, attention_views, cached, conv_silu, gated_delta_rule, rms, rotate
from native_kit import Inputs, close, pages_of

from pocketvlm.backends.native import NativeOps
from pocketvlm.backends.ops import Array, Batch


@pytest.mark.parametrize("head_dim", [3, 16, 40, 72])
@pytest.mark.parametrize("lengths", [[1], [4] * 40, [3, 7, 31], [65, 1, 130], [300]])
def test_attention_views(native: NativeOps, head_dim: int, lengths: list[int]) -> None:
    make = Inputs(head_dim)
    heads = 3
    q, k, v = (make(sum(lengths), heads * head_dim, scale=2) for _ in range(3))
    actual = native.attention_views(q, k, v, np.array(lengths, np.int32), heads)
    close(actual, attention_views(q, k, v, lengths, heads), 3e-6)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(8, 2, 256), (3, 3, 20), (5, 1, 31)])
@pytest.mark.parametrize("page_size", [16, 7])
def test_attention(native: NativeOps, heads: int, kv_heads: int, head_dim: int, page_size: int) -> None:
    make = Inputs(head_dim)
    lengths, context = [1, 17, 3, 130, 1, 5, 4], [0, 0, 40, 33, 700, 0, 300]
    batch = make.batch(lengths, context, page_size)
    keys, values = (make(pages_of(batch), page_size, kv_heads, head_dim, scale=2) for _ in range(2))
    written = np.zeros(keys.shape[:2], bool)
    for s in range(batch.sequences):
        t = np.arange(lengths[s] + context[s])
        written[batch.pages[s, t // page_size], t % page_size] = True
    keys[~written] = values[~written] = np.nan  # no row may look there
    query = make(sum(lengths), heads, head_dim)
    close(native.attention(query, keys, values, batch), attention(query, keys, values, batch), 3e-6)


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(256, 64), (32, 8), (20, 20), (7, 2)])
def test_attention_inputs(native: NativeOps, head_dim: int, rotary_dim: int) -> None:
    make = Inputs(head_dim)
    heads, kv_heads, lengths, context, page_size = 4, 2, [1, 13, 1, 4], [0, 5, 200_000, 3], 64
    batch = make.batch(lengths, [0, 5, 0, 3], page_size)
    last = batch.pages[2, 0]
    wide = np.full((4, 200_000 // page_size + 1), -1, np.int32)  # the far context in one page, over and over
    wide[:, : batch.pages.shape[1]] = batch.pages
    wide[2], wide[2, -1] = batch.pages[0, 0], last
    batch = replace(batch, pages=wide, context_lens=np.array(context, np.int32), positions=batch.positions.copy())
    batch.positions[batch.offsets[2]] = 200_000
    rows = sum(lengths)
    query_gate, key, value = (
        make(rows, heads * 2 * head_dim),
        make(rows, kv_heads * head_dim),
        make(rows, kv_heads * head_dim),
    )
    q_norm, k_norm = make(head_dim), make(head_dim)
    keys, values = (make(pages_of(batch), page_size, kv_heads, head_dim) for _ in range(2))
    before = keys.copy()
    query, gate = native.attention_inputs(
        query_gate, key, value, q_norm, k_norm, keys, values, batch, rotary_dim, 1e7, 1e-6
    )
    split = query_gate.reshape(rows, heads, 2, head_dim)
    heads_and_norms = ((split[:, :, 0], q_norm), (key.reshape(rows, kv_heads, -1), k_norm))
    exact = [rms(x, 1e-6) * (1 + w.astype(np.float64)) for x, w in heads_and_norms]
    exact = [rotate(x, batch.positions, rotary_dim, 1e7) for x in exact]
    close(query, exact[0])
    np.testing.assert_array_equal(gate.reshape(rows, heads, head_dim), split[:, :, 1])
    place = np.zeros(keys.shape[:2], bool)
    for s in range(batch.sequences):
        part = slice(batch.offsets[s], batch.offsets[s + 1])
        close(cached(keys, batch, s)[context[s] :], exact[1][part])
        np.testing.assert_array_equal(cached(values, batch, s)[context[s] :].reshape(lengths[s], -1), value[part])
        t = batch.positions[part]
        place[batch.pages[s, t // page_size], t % page_size] = True
    np.testing.assert_array_equal(keys[~place], before[~place])


@pytest.mark.parametrize(("channels", "width"), [(1, 4), (33, 4), (300, 3), (513, 1), (40, 7)])
def test_conv_silu(native: NativeOps, channels: int, width: int) -> None:
    make = Inputs(channels)
    lengths, context = [1, 2, 3, 40, 1, 2, 4], [0, 0, 0, 0, 5, 3, 9]
    batch = make.batch(lengths, context)
    x, weight, state = make(sum(lengths), channels), make(width, channels), make(10, width - 1, channels)
    state[batch.slots[:4]] = np.nan  # stale
    reference = state.astype(np.float64)
    close(native.conv_silu(x, weight, state, batch), conv_silu(x, weight, reference, batch))
    np.testing.assert_array_equal(state, reference.astype(np.float32))


@pytest.mark.parametrize(
    ("key_heads", "value_heads", "key_dim", "value_dim"),
    [(2, 2, 128, 128), (1, 3, 20, 33), (2, 4, 16, 64), (1, 1, 7, 5)],
)
def test_gated_delta_rule(native: NativeOps, key_heads: int, value_heads: int, key_dim: int, value_dim: int) -> None:
    make = Inputs(key_dim)
    sizes = (key_heads, value_heads, key_dim, value_dim)
    lengths, context = [1, 9, 150, 7, 64, 33, 1, 65], [0, 0, 0, 5, 3, 9, 70, 1]
    batch = make.batch(lengths, context)
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
    state[batch.slots[:3]] = np.nan  # stale
    reference = state.astype(np.float64)
    expected = gated_delta_rule(mixed, b, a, a_log, dt_bias, reference, batch, *sizes)
    close(native.gated_delta_rule(mixed, b, a, a_log, dt_bias, state, batch, *sizes), expected, 3e-6)
    used = batch.slots
    close(state[used], reference[used], 3e-6)


@pytest.mark.parametrize("cut", [1, 3, 8, 64, 100, 149])
def test_two_parts_make_the_whole(native: NativeOps, cut: int) -> None:
    make = Inputs(cut)
    total, channels, sizes = 150, 48, (1, 2, 8, 16)
    whole = make.batch([total])

    def part(n: int, context: int) -> Batch:
        return replace(
            whole,
            offsets=np.array([0, n], np.int32),
            positions=np.arange(context, context + n, dtype=np.int32),
            context_lens=np.array([context], np.int32),
        )

    pieces = [(slice(0, cut), part(cut, 0)), (slice(cut, total), part(total - cut, cut))]
    x, weight = make(total, channels), make(4, channels)
    state = make(4, 3, channels)
    expected = native.conv_silu(x, weight, state.copy(), whole)
    cut_up = np.concatenate([native.conv_silu(x[rows], weight, state, b) for rows, b in pieces])
    np.testing.assert_array_equal(cut_up, expected)

    mixed, b, a, a_log, dt_bias = make(total, 48), make(total, 2), make(total, 2), make(2), make(2)
    state = make(4, 2, 8, 16)
    expected = native.gated_delta_rule(mixed, b, a, a_log, dt_bias, state.copy(), whole, *sizes)
    cut_up = np.concatenate(
        [native.gated_delta_rule(mixed[r], b[r], a[r], a_log, dt_bias, state, p, *sizes) for r, p in pieces]
    )
    close(cut_up, expected.astype(np.float64), 3e-6)

    keys, values, query = make(pages_of(whole), 16, 2, 24), make(pages_of(whole), 16, 2, 24), make(total, 6, 24)
    expected = native.attention(query, keys, values, whole)
    cut_up = np.concatenate([native.attention(query[r], keys, values, p) for r, p in pieces])
    close(cut_up, expected.astype(np.float64), 3e-6)


def test_sub_batches_split_what_shares_a_slot() -> None:
    offsets = np.array([0, 3, 4, 9, 11, 12], np.int32)
    positions = np.array([0, 1, 2, 7, 8, 9, 10, 11, 12, 0, 1, 2], np.int32)
    context = np.array([0, 7, 8, 0, 2], np.int32)
    pages = np.arange(10, dtype=np.int32).reshape(5, 2)
    kept: dict[int, Iterator[Array]] = {1: iter(()), 3: iter(())}
    batch = Batch(offsets, positions, context, pages, np.array([4, 2, 2, 0, 0], np.int32), 16, kept)
    found = [
        (
            rows,
            turn.offsets.tolist(),
            turn.positions.tolist(),
            turn.context_lens.tolist(),
            turn.slots.tolist(),
            turn.pages[:, 0].tolist(),
        )
        for rows, turn in batch.sub_batches()
    ]
    assert found == [
        (slice(0, 4), [0, 3, 4], [0, 1, 2, 7], [0, 7], [4, 2], [0, 2]),
        (slice(4, 11), [0, 5, 7], [8, 9, 10, 11, 12, 0, 1], [8, 0], [2, 0], [4, 6]),
        (slice(11, 12), [0, 1], [2], [2], [0], [8]),
    ]
    assert [list(turn.kept) for _, turn in batch.sub_batches()] == [[1], [1], []]
    assert batch.sub_batches()[1][1].kept[1] is kept[3]
    apart = replace(batch, slots=np.arange(5, dtype=np.int32))
    assert [(rows, turn is apart) for rows, turn in apart.sub_batches()] == [(slice(None), True)]

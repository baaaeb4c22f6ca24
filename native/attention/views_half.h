// Attention inside views: scores from bfloat16 pairs or from bytes, weighted sums of values from bfloat16 pairs.
#pragma once

#include "attention/attention.h"
#include "attention/byte_scores.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct HalfView {
    uint32_t *keys, *values, *query;
    float *key_scale, *query_scale, *mean, *zeros;
    int32_t* offset;
    HalfMemory memory;
    HalfSoftmax softmax;
};

// Keys and queries as pairs; as bytes they are half of that.
inline long half_view_floats(long keys, long head_dim) {
    const long n = round_up(keys, half_keys), pairs = divide_up(head_dim, 2), width = round_up(head_dim, W);
    return n * pairs + n / 2 * width + pairs * half_rows + W + n + 2 * W + 2 * width + half_memory_floats + half_softmax_floats(head_dim);
}

inline HalfView lay_out_half_view(float* memory, long keys, long head_dim) {
    const long n = round_up(keys, half_keys), pairs = divide_up(head_dim, 2), width = round_up(head_dim, W);
    HalfView s;
    s.keys = reinterpret_cast<uint32_t*>(memory), memory += n * pairs;
    s.values = reinterpret_cast<uint32_t*>(memory), memory += n / 2 * width;
    s.query = reinterpret_cast<uint32_t*>(memory), memory += pairs * half_rows + W;
    s.key_scale = memory, memory += n;
    s.query_scale = memory, memory += W;
    s.offset = reinterpret_cast<int32_t*>(memory), memory += W;
    s.mean = memory, memory += width;
    s.zeros = memory, memory += width;
    s.memory = HalfMemory{memory, reinterpret_cast<uint32_t*>(memory + half_rows * score_stride)};
    s.softmax = lay_out_softmax(memory + half_memory_floats, head_dim);
    return s;
}

// Scores of the queries of `s` with the keys from k on.
template <bool Bytes>
inline auto scores_of(const HalfView& s, long k, long head_dim) {
    if constexpr (Bytes)
        return ByteScores{s.query, s.query_scale, s.offset, s.keys + k * divide_up(head_dim, 4), s.key_scale + k, divide_up(head_dim, 4)};
    else
        return HalfScores{s.query, s.keys + k * divide_up(head_dim, 2), divide_up(head_dim, 2)};
}

template <bool Bytes>
inline void view_head_halves(const ViewAttention& a, const HalfView& s, long view, long head, long part, long parts) {
    const long first = a.offsets[view], n = a.offsets[view + 1] - first, d = a.head_dim, stride = a.heads * d;
    const long base = first * stride + head * d, width = round_up(d, W);
    const auto key = [&](long k) { return a.key + base + k * stride; };
    if constexpr (Bytes) {
        pack_byte_keys(key, n, d, s.mean, s.keys, s.key_scale);
        clear(s.zeros, width);
    } else {
        pack_half_keys(key, n, d, s.keys);
    }
    pack_half_values([&](long k) { return a.value + base + k * stride; }, n, d, s.values);
    const long blocks = divide_up(n, half_rows);
    for (long block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
        const long q0 = block * half_rows, used = smaller(half_rows, n - q0);
        const float* rows[W];
        for (long r = 0; r < used; ++r) rows[r] = a.query + base + (q0 + r) * stride;
        if constexpr (Bytes)
            pack_byte_queries(rows, used, d, s.zeros, s.query, s.query_scale, s.offset);
        else
            pack_half_queries(rows, used, d, s.query);
        for (long r = 0; r < used; ++r)  // ask for what will be written, and for the next queries
            for (long j = 0; j < d; j += W) {
                const long at = base + (q0 + r) * stride + j;
                __builtin_prefetch(a.out + at, 1);
                if (q0 + r + half_rows < n) __builtin_prefetch(a.query + at + half_rows * stride);
            }
        begin(s.softmax, d);
        for (long k = 0; k < n; k += weight_block) {
            long seen[half_rows];
            for (long r = 0; r < half_rows; ++r) seen[r] = smaller(weight_block, n - k);
            add_half_keys(s.softmax, s.memory, scores_of<Bytes>(s, k, d), s.values + k / 2 * width, seen, d);
        }
        for (long r = 0; r < used; ++r) finish_half_row(s.softmax, r, d, a.out + base + (q0 + r) * stride);
    }
}

// Every view must have at least half_keys rows.
void attention_views_halves(Pool& pool, const ViewAttention& a, long longest) {
    pool.reserve(static_cast<size_t>(half_view_floats(longest, a.head_dim)) * sizeof(float));
    const long pairs = a.views * a.heads;
    const long parts = smaller(divide_up(2L * pool.threads(), pairs), divide_up(longest, half_rows));
    parallel(pool, pairs * parts, [&](long task, int worker) {
        const long pair = task / parts;
        const HalfView s = lay_out_half_view(pool.scratch(worker), longest, a.head_dim);
        const auto run = a.bytes ? view_head_halves<true> : view_head_halves<false>;
        run(a, s, pair / a.heads, pair % a.heads, task % parts, parts);
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

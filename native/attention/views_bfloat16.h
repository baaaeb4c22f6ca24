// Attention inside views with bfloat16 products; scores can be computed in 8-bit integers instead.
#pragma once

#include "attention/attention.h"
#include "attention/byte_scores.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct Bf16View {
    uint32_t *keys, *values, *query;
    float *key_scale, *query_scale, *mean, *zeros;
    int32_t* offset;
    Bf16Memory memory;
    Bf16Softmax softmax;
};

// Keys and queries as bfloat16 numbers; as bytes they take half of that.
inline int64_t bf16_view_floats(int64_t keys, int64_t head_dim) {
    const int64_t n = round_up(keys, bf16_keys), pairs = divide_up(head_dim, 2), width = round_up(head_dim, W);
    return n * pairs + n / 2 * width + pairs * bf16_rows + W + n + 2 * W + 2 * width + bf16_memory_floats + bf16_softmax_floats(head_dim);
}

inline Bf16View lay_out_bf16_view(float* memory, int64_t keys, int64_t head_dim) {
    const int64_t n = round_up(keys, bf16_keys), pairs = divide_up(head_dim, 2), width = round_up(head_dim, W);
    Bf16View s;
    s.keys = reinterpret_cast<uint32_t*>(memory), memory += n * pairs;
    s.values = reinterpret_cast<uint32_t*>(memory), memory += n / 2 * width;
    s.query = reinterpret_cast<uint32_t*>(memory), memory += pairs * bf16_rows + W;
    s.key_scale = memory, memory += n;
    s.query_scale = memory, memory += W;
    s.offset = reinterpret_cast<int32_t*>(memory), memory += W;
    s.mean = memory, memory += width;
    s.zeros = memory, memory += width;
    s.memory = Bf16Memory{memory, reinterpret_cast<uint32_t*>(memory + bf16_rows * score_stride)};
    s.softmax = lay_out_softmax(memory + bf16_memory_floats, head_dim);
    return s;
}

// Scores of the queries of `s` with the keys from k on.
template <bool Bytes>
inline auto scores_of(const Bf16View& s, int64_t k, int64_t head_dim) {
    if constexpr (Bytes)
        return ByteScores{s.query, s.query_scale, s.offset, s.keys + k * divide_up(head_dim, 4), s.key_scale + k, divide_up(head_dim, 4)};
    else
        return Bf16Scores{s.query, s.keys + k * divide_up(head_dim, 2), divide_up(head_dim, 2)};
}

template <bool Bytes>
inline void view_head_bf16(const ViewAttention& a, const Bf16View& s, int64_t view, int64_t head, int64_t part, int64_t parts) {
    const int64_t first = a.offsets[view], n = a.offsets[view + 1] - first, d = a.head_dim, stride = a.heads * d;
    const int64_t base = first * stride + head * d, width = round_up(d, W);
    const auto key = [&](int64_t k) { return a.key + base + k * stride; };
    if constexpr (Bytes) {
        pack_byte_keys(key, n, d, s.mean, s.keys, s.key_scale);
        clear(s.zeros, width);
    } else {
        pack_bf16_keys<float>(key, n, d, s.keys);
    }
    pack_bf16_values<float>([&](int64_t k) { return a.value + base + k * stride; }, n, d, s.values);
    const int64_t blocks = divide_up(n, bf16_rows);
    for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
        const int64_t q0 = block * bf16_rows, used = min(bf16_rows, n - q0);
        const float* rows[W];
        for (int64_t r = 0; r < used; ++r) rows[r] = a.query + base + (q0 + r) * stride;
        if constexpr (Bytes)
            pack_byte_queries(rows, used, d, s.zeros, s.query, s.query_scale, s.offset);
        else
            pack_bf16_queries(rows, used, d, s.query);
        for (int64_t r = 0; r < used; ++r)  // prefetch what will be written, and the next queries
            for (int64_t j = 0; j < d; j += W) {
                const int64_t at = base + (q0 + r) * stride + j;
                __builtin_prefetch(a.out + at, 1);
                if (q0 + r + bf16_rows < n) __builtin_prefetch(a.query + at + bf16_rows * stride);
            }
        begin(s.softmax, d);
        for (int64_t k = 0; k < n; k += weight_block) {
            int64_t seen[bf16_rows];
            for (int64_t r = 0; r < bf16_rows; ++r) seen[r] = min(weight_block, n - k);
            add_bf16_keys(s.softmax, s.memory, scores_of<Bytes>(s, k, d), s.values + k / 2 * width, seen, d);
        }
        for (int64_t r = 0; r < used; ++r) finish_bf16_row(s.softmax, r, d, a.out + base + (q0 + r) * stride);
    }
}

// Every view must have at least bf16_keys rows.
void attention_views_bf16(Pool& pool, const ViewAttention& a, int64_t longest) {
    pool.reserve(static_cast<size_t>(bf16_view_floats(longest, a.head_dim)) * sizeof(float));
    const int64_t pairs = a.views * a.heads;
    const int64_t parts = min(divide_up(2 * pool.threads(), pairs), divide_up(longest, bf16_rows));
    parallel(pool, pairs * parts, [&](int64_t task, int worker) {
        const int64_t pair = task / parts;
        const Bf16View s = lay_out_bf16_view(pool.scratch(worker), longest, a.head_dim);
        const auto run = a.bytes ? view_head_bf16<true> : view_head_bf16<false>;
        run(a, s, pair / a.heads, pair % a.heads, task % parts, parts);
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

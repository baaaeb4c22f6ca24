// Attention inside views: one task packs the keys and values of one (view, head) and runs some of its queries.
#pragma once

#include "attention/attention.h"
#include "attention/softmax_block.h"
#if POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_avx512bf16
#include "attention/views_half.h"
#endif

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct Scratch {
    float *keys, *values, *query, *scores;
    Softmax softmax;
};

inline long key_floats(long keys, long head_dim) { return round_up(round_up(keys, key_tile) * head_dim + W, 16); }

inline long scratch_floats(long keys, long head_dim) {
    const long width = padded(head_dim);
    return key_floats(keys, head_dim) + keys * width + head_dim * lanes + key_block * lanes + lanes * (width + 2);
}

inline Scratch lay_out(float* memory, long keys, long head_dim) {
    Scratch s;
    const long width = padded(head_dim);
    s.keys = memory;
    s.values = s.keys + key_floats(keys, head_dim);
    s.query = s.values + keys * width;
    s.scores = s.query + head_dim * lanes;
    s.softmax.sums = s.scores + key_block * lanes;
    s.softmax.maximum = s.softmax.sums + lanes * width;
    s.softmax.total = s.softmax.maximum + lanes;
    return s;
}

inline void view_head(const ViewAttention& a, const Scratch& s, long view, long head, long part, long parts) {
    const long first = a.offsets[view], n = a.offsets[view + 1] - first;
    const long stride = a.heads * a.head_dim, width = padded(a.head_dim);
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(a.head_dim));
    const long base = first * stride + head * a.head_dim;
    pack_keys(a.key + base, stride, n, a.head_dim, s.keys);
    pack_values(a.value + base, stride, n, a.head_dim, s.values);
    const long blocks = divide_up(n, lanes);
    for (long block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
        const long q0 = block * lanes, used = smaller(lanes, n - q0);
        for (long j = 0; j < used; j += W) {
            const float* rows[W];
            for (long r = 0; r < W; ++r) rows[r] = a.query + base + (q0 + smaller(j + r, used - 1)) * stride;
            transpose_rows(rows, smaller(W, used - j), a.head_dim, s.query + j, lanes, scale);
        }
        begin(s.softmax, width);
        for (long k = 0; k < n; k += key_block)
            add_keys(s.softmax, s.query, s.keys + k * a.head_dim, s.values + k * width, smaller(key_block, n - k), a.head_dim,
                     used, s.scores, nullptr);
        for (long j = 0; j < used; ++j) finish_lane(s.softmax, j, a.head_dim, a.out + base + (q0 + j) * stride);
    }
}

}  // namespace

void attention_views(Pool& pool, const ViewAttention& a) {
    if (a.views == 0) return;
    long longest = 0;
    for (long v = 0; v < a.views; ++v) longest = larger(longest, a.offsets[v + 1] - a.offsets[v]);
#if POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_avx512bf16
    long shortest = longest;
    for (long v = 0; v < a.views; ++v) shortest = smaller(shortest, a.offsets[v + 1] - a.offsets[v]);
    if (a.fast && shortest >= half_keys) return attention_views_halves(pool, a, longest);
#endif
    pool.reserve(static_cast<size_t>(scratch_floats(longest, a.head_dim)) * sizeof(float));
    const long pairs = a.views * a.heads;
    // Few long views: several tasks a pair. Many short ones: several pairs a task.
    const long parts = smaller(divide_up(2L * pool.threads(), pairs), divide_up(longest, lanes));
    const long together = parts > 1 ? 1 : larger(1, smaller(pairs / (8L * pool.threads()), 65536 / (longest * longest)));
    parallel(pool, divide_up(pairs, together) * parts, [&](long task, int worker) {
        const Scratch s = lay_out(pool.scratch(worker), longest, a.head_dim);
        const long first = task / parts * together, last = smaller(pairs, first + together);
        for (long pair = first; pair < last; ++pair) view_head(a, s, pair / a.heads, pair % a.heads, task % parts, parts);
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA

// Attention inside views with products of bfloat16 pairs.
#pragma once

#include "attention/attention.h"
#include "attention/half_block.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct HalfView {
    uint32_t *keys, *values, *query;
    HalfMemory memory;
    HalfSoftmax softmax;
};

inline long half_view_floats(long keys, long head_dim) {
    const long n = round_up(keys, half_keys), pairs = divide_up(head_dim, 2);
    return n * pairs + n / 2 * round_up(head_dim, W) + pairs * half_rows + W + half_memory_floats + half_softmax_floats(head_dim);
}

inline HalfView lay_out_half_view(float* memory, long keys, long head_dim) {
    const long n = round_up(keys, half_keys), pairs = divide_up(head_dim, 2);
    HalfView s;
    s.keys = reinterpret_cast<uint32_t*>(memory), memory += n * pairs;
    s.values = reinterpret_cast<uint32_t*>(memory), memory += n / 2 * round_up(head_dim, W);
    s.query = reinterpret_cast<uint32_t*>(memory), memory += pairs * half_rows + W;
    s.memory = HalfMemory{memory, reinterpret_cast<uint32_t*>(memory + half_rows * score_stride)};
    s.softmax = lay_out_softmax(memory + half_memory_floats, head_dim);
    return s;
}

inline void view_head_halves(const ViewAttention& a, const HalfView& s, long view, long head, long part, long parts) {
    const long first = a.offsets[view], n = a.offsets[view + 1] - first, d = a.head_dim, stride = a.heads * d;
    const long base = first * stride + head * d, pairs = divide_up(d, 2), width = round_up(d, W);
    pack_half_keys([&](long k) { return a.key + base + k * stride; }, n, d, s.keys);
    pack_half_values([&](long k) { return a.value + base + k * stride; }, n, d, s.values);
    const long blocks = divide_up(n, half_rows);
    for (long block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
        const long q0 = block * half_rows, used = smaller(half_rows, n - q0);
        const float* rows[W];
        for (long r = 0; r < used; ++r) rows[r] = a.query + base + (q0 + r) * stride;
        pack_half_queries(rows, used, d, s.query);
        begin(s.softmax, d);
        for (long k = 0; k < n; k += weight_block) {
            long seen[half_rows];
            for (long r = 0; r < half_rows; ++r) seen[r] = smaller(weight_block, n - k);
            add_half_keys(s.softmax, s.memory, s.query, s.keys + k * pairs, s.values + k / 2 * width, seen, d);
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
        view_head_halves(a, s, pair / a.heads, pair % a.heads, task % parts, parts);
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

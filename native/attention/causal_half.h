// Runs of rows of causal attention with products of bfloat16 pairs: a task packs one block of keys and values after the
// other and walks over its tiles of queries.
#pragma once

#include "attention/attention.h"
#include "attention/half_block.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct HalfRun {
    uint32_t *keys, *values, *queries;
    float* softmaxes;
    HalfMemory memory;
};

inline long half_run_floats(long head_dim, long tiles) {
    const long pairs = divide_up(head_dim, 2);
    return weight_block * pairs + weight_block / 2 * round_up(head_dim, W) + tiles * pairs * half_rows + W + half_memory_floats +
           tiles * half_softmax_floats(head_dim);
}

inline HalfRun lay_out_half_run(float* memory, long head_dim, long tiles) {
    const long pairs = divide_up(head_dim, 2);
    HalfRun s;
    s.keys = reinterpret_cast<uint32_t*>(memory), memory += weight_block * pairs;
    s.values = reinterpret_cast<uint32_t*>(memory), memory += weight_block / 2 * round_up(head_dim, W);
    s.queries = reinterpret_cast<uint32_t*>(memory), memory += tiles * pairs * half_rows + W;
    s.memory = HalfMemory{memory, reinterpret_cast<uint32_t*>(memory + half_rows * score_stride)};
    s.softmaxes = memory + half_memory_floats;
    return s;
}

// Rows [first, first + count) of a sequence, all query heads of one kv head; cache_row(t) is the place of token t.
template <class Row>
inline void run_of_rows_halves(const CausalAttention& a, const HalfRun& s, const Row& cache_row, long sequence, long first, long count,
                               long kv_head) {
    const long group = a.heads / a.kv_heads, d = a.head_dim, row = a.heads * d, cache = a.kv_heads * d, pairs = divide_up(d, 2);
    const long queries = count * group, tiles = divide_up(queries, half_rows), start = a.context[sequence] + first;
    // Query j of this task: token j / group, head j % group of the kv head's group.
    const long base = (a.offsets[sequence] + first) * row + kv_head * group * d;
    const auto place = [&](long j) { return base + j / group * row + j % group * d; };
    for (long t = 0; t < tiles; ++t) {
        const float* rows[W];
        const long used = smaller(half_rows, queries - t * half_rows);
        for (long r = 0; r < used; ++r) rows[r] = a.query + place(t * half_rows + r);
        pack_half_queries(rows, used, d, s.queries + t * pairs * half_rows);
        begin(lay_out_softmax(s.softmaxes + t * half_softmax_floats(d), d), d);
    }
    for (long k = 0; k < start + count; k += weight_block) {
        const long n = smaller(weight_block, start + count - k);
        pack_half_keys([&](long i) { return a.keys + cache_row(k + i) * cache + kv_head * d; }, n, d, s.keys);
        pack_half_values([&](long i) { return a.values + cache_row(k + i) * cache + kv_head * d; }, n, d, s.values);
        for (long t = 0; t < tiles; ++t) {
            long seen[half_rows];
            for (long r = 0; r < half_rows; ++r) {
                const long token = smaller(queries - 1, t * half_rows + r) / group;
                seen[r] = larger(0, smaller(n, start + token - k + 1));
            }
            if (seen[half_rows - 1] == 0) continue;
            const HalfScores scores{s.queries + t * pairs * half_rows, s.keys, pairs};
            add_half_keys(lay_out_softmax(s.softmaxes + t * half_softmax_floats(d), d), s.memory, scores, s.values, seen, d);
        }
    }
    for (long j = 0; j < queries; ++j)
        finish_half_row(lay_out_softmax(s.softmaxes + j / half_rows * half_softmax_floats(d), d), j % half_rows, d, a.out + place(j));
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

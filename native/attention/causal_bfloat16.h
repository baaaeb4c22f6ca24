// Causal attention of runs of rows with bfloat16 products. A task packs the keys and values block by block and multiplies each
// block with all its tiles of queries.
#pragma once

#include "attention/attention.h"
#include "attention/bfloat16_block.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct Bf16Run {
    uint32_t *keys, *values, *queries;
    float* softmaxes;
    Bf16Memory memory;
};

inline int64_t bf16_run_floats(int64_t head_dim, int64_t tiles) {
    const int64_t pairs = divide_up(head_dim, 2);
    return weight_block * pairs + weight_block / 2 * round_up(head_dim, W) + tiles * pairs * bf16_rows + W + bf16_memory_floats +
           tiles * bf16_softmax_floats(head_dim);
}

inline Bf16Run lay_out_bf16_run(float* memory, int64_t head_dim, int64_t tiles) {
    const int64_t pairs = divide_up(head_dim, 2);
    Bf16Run s;
    s.keys = reinterpret_cast<uint32_t*>(memory), memory += weight_block * pairs;
    s.values = reinterpret_cast<uint32_t*>(memory), memory += weight_block / 2 * round_up(head_dim, W);
    s.queries = reinterpret_cast<uint32_t*>(memory), memory += tiles * pairs * bf16_rows + W;
    s.memory = Bf16Memory{memory, reinterpret_cast<uint32_t*>(memory + bf16_rows * score_stride)};
    s.softmaxes = memory + bf16_memory_floats;
    return s;
}

// Rows [first, first + count) of a sequence, all query heads of one kv head; cache_row(t) is the index of token t in the cache.
template <class Row>
inline void run_of_rows_bf16(const CausalAttention& a, const Bf16Run& s, const Row& cache_row, int64_t sequence, int64_t first,
                             int64_t count, int64_t kv_head) {
    const int64_t group = a.heads / a.kv_heads, d = a.head_dim, row = a.heads * d, cache = a.kv_heads * d, pairs = divide_up(d, 2);
    const int64_t queries = count * group, tiles = divide_up(queries, bf16_rows), start = a.context_lens[sequence] + first;
    // Query j of this task: token j / group, head j % group of the kv head's group.
    const int64_t base = (a.offsets[sequence] + first) * row + kv_head * group * d;
    const auto row_start = [&](int64_t j) { return base + j / group * row + j % group * d; };
    for (int64_t t = 0; t < tiles; ++t) {
        const float* rows[W];
        const int64_t used = min(bf16_rows, queries - t * bf16_rows);
        for (int64_t r = 0; r < used; ++r) rows[r] = a.query + row_start(t * bf16_rows + r);
        pack_bf16_queries(rows, used, d, s.queries + t * pairs * bf16_rows);
        begin(lay_out_softmax(s.softmaxes + t * bf16_softmax_floats(d), d), d);
    }
    for (int64_t k = 0; k < start + count; k += weight_block) {
        const int64_t n = min(weight_block, start + count - k);
        pack_bf16_keys([&](int64_t i) { return a.keys + cache_row(k + i) * cache + kv_head * d; }, n, d, s.keys);
        pack_bf16_values([&](int64_t i) { return a.values + cache_row(k + i) * cache + kv_head * d; }, n, d, s.values);
        for (int64_t t = 0; t < tiles; ++t) {
            int64_t seen[bf16_rows];
            for (int64_t r = 0; r < bf16_rows; ++r) {
                const int64_t token = min(queries - 1, t * bf16_rows + r) / group;
                seen[r] = max(0, min(n, start + token - k + 1));
            }
            if (seen[bf16_rows - 1] == 0) continue;
            const Bf16Scores scores{s.queries + t * pairs * bf16_rows, s.keys, pairs};
            add_bf16_keys(lay_out_softmax(s.softmaxes + t * bf16_softmax_floats(d), d), s.memory, scores, s.values, seen, d);
        }
    }
    for (int64_t j = 0; j < queries; ++j)
        finish_bf16_row(lay_out_softmax(s.softmaxes + j / bf16_rows * bf16_softmax_floats(d), d), j % bf16_rows, d, a.out + row_start(j));
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

// Causal attention of runs of rows with bfloat16 products. A task packs the keys and values block by block and multiplies each
// block with all its tiles of queries. Numbers of int8 are bfloat16 numbers too: only their scales are applied in float32.
#pragma once

#include "attention/attention.h"
#include "attention/bfloat16_block.h"
#include "attention/kv_rows.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t causal_block = 256;  // keys of one block: keys and values of a block stay in the cache

struct Bf16Run {
    uint32_t *keys, *values, *queries;
    float *softmaxes, *key_scales, *value_scales;
    Bf16Memory memory;
};

inline int64_t bf16_run_floats(int64_t head_dim, int64_t tiles) {
    const int64_t pairs = divide_up(head_dim, 2);
    return causal_block * pairs + causal_block / 2 * round_up(head_dim, W) + tiles * pairs * bf16_rows + W + 2 * causal_block +
           bf16_memory_floats + tiles * bf16_softmax_floats(head_dim);
}

inline Bf16Run lay_out_bf16_run(float* memory, int64_t head_dim, int64_t tiles) {
    const int64_t pairs = divide_up(head_dim, 2);
    Bf16Run s;
    s.keys = reinterpret_cast<uint32_t*>(memory), memory += causal_block * pairs;
    s.values = reinterpret_cast<uint32_t*>(memory), memory += causal_block / 2 * round_up(head_dim, W);
    s.queries = reinterpret_cast<uint32_t*>(memory), memory += tiles * pairs * bf16_rows + W;
    s.key_scales = memory, memory += causal_block;
    s.value_scales = memory, memory += causal_block;
    s.memory = Bf16Memory{memory, reinterpret_cast<uint32_t*>(memory + bf16_rows * score_stride)};
    s.softmaxes = memory + bf16_memory_floats;
    return s;
}

// Scores of packed keys that have a scale each.
struct ScaledBf16Scores {
    Bf16Scores plain;
    const float* key_scales;

    void operator()(int64_t key, float* out) const {
        plain(key, out);
        const Vec low = load(key_scales + key), high = load(key_scales + key + W);
        for (int64_t r = 0; r < bf16_rows; ++r, out += score_stride) store(out, load(out) * low), store(out + W, load(out + W) * high);
    }
    float scale(int64_t) const { return 1.0f; }
};

// Rows [first, first + count) of a sequence, all query heads of one kv head; cache_row(t) is the index of its token t in the cache.
template <class T, class Row>
inline void run_of_rows_bf16(const CausalAttention& a, const Bf16Run& s, const Row& cache_row, int64_t sequence, int64_t first,
                             int64_t count, int64_t kv_head) {
    const int64_t group = a.heads / a.kv_heads, d = a.head_dim, row = a.heads * d, pairs = divide_up(d, 2);
    const T *all_keys = static_cast<const T*>(a.keys), *all_values = static_cast<const T*>(a.values);
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
    for (int64_t k = 0; k < start + count; k += causal_block) {
        const int64_t n = min(causal_block, start + count - k);
        const auto cached = [&](int64_t i) { return cache_row(k + i); };
        pack_bf16_keys<T>([&](int64_t i) { return all_keys + cached(i) * d; }, n, d, s.keys);
        pack_bf16_values<T>([&](int64_t i) { return all_values + cached(i) * d; }, n, d, s.values);
        if (a.key_scales)
            for (int64_t i = 0; i < round_up(n, bf16_keys); ++i) {
                s.key_scales[i] = i < n ? a.key_scales[cached(i)] : 0.0f;
                s.value_scales[i] = i < n ? a.value_scales[cached(i)] : 0.0f;
            }
        for (int64_t t = 0; t < tiles; ++t) {
            int64_t seen[bf16_rows];
            for (int64_t r = 0; r < bf16_rows; ++r) {
                const int64_t token = min(queries - 1, t * bf16_rows + r) / group;
                seen[r] = max(0, min(n, start + token - k + 1));
            }
            if (seen[bf16_rows - 1] == 0) continue;
            const Bf16Scores scores{s.queries + t * pairs * bf16_rows, s.keys, pairs};
            const Bf16Softmax softmax = lay_out_softmax(s.softmaxes + t * bf16_softmax_floats(d), d);
            if (a.key_scales)
                add_bf16_keys(softmax, s.memory, ScaledBf16Scores{scores, s.key_scales}, s.values, seen, d, s.value_scales);
            else
                add_bf16_keys(softmax, s.memory, scores, s.values, seen, d);
        }
    }
    for (int64_t j = 0; j < queries; ++j)
        finish_bf16_row(lay_out_softmax(s.softmaxes + j / bf16_rows * bf16_softmax_floats(d), d), j % bf16_rows, d, a.out + row_start(j));
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

// Causal attention of runs of rows with products in tile registers. A task packs the keys and values block by block and
// multiplies each block with all its blocks of queries. Single rows do not use tiles, because memory limits their speed.
#include "attention/causal_runs.h"
#include "attention/tile_block.h"

namespace pocketvlm::POCKETVLM_BFLOAT16_WITHOUT_TILES {
void attention(Pool& pool, const CausalAttention& a);
}

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct TileRun {
    uint32_t *keys, *values, *queries;
    float *key_scales, *value_scales, *scores, *softmaxes;
};

inline int64_t tile_run_floats(int64_t head_dim, int64_t blocks) {
    return tile_key_words(tile_keys, head_dim) + tile_value_words(tile_keys, head_dim) + blocks * tile_query_words(head_dim) +
           2 * tile_keys + 2 * query_scores + blocks * tile_softmax_floats(head_dim);
}

inline TileRun lay_out_tile_run(float* memory, int64_t head_dim, int64_t blocks) {
    TileRun s;
    s.keys = reinterpret_cast<uint32_t*>(memory), memory += tile_key_words(tile_keys, head_dim);
    s.values = reinterpret_cast<uint32_t*>(memory), memory += tile_value_words(tile_keys, head_dim);
    s.queries = reinterpret_cast<uint32_t*>(memory), memory += blocks * tile_query_words(head_dim);
    s.key_scales = memory, memory += tile_keys;
    s.value_scales = memory, memory += tile_keys;
    s.scores = memory, memory += 2 * query_scores;
    s.softmaxes = memory;
    return s;
}

struct RunTask {
    int64_t sequence, first, count;
};

// Rows [first, first + count) of a sequence, all query heads of one kv head.
template <class T>
inline void run_of_rows_tiles(const CausalAttention& a, const TileRun& s, const RunTask& task, int64_t kv_head) {
    const int64_t group = a.heads / a.kv_heads, d = a.head_dim, row = a.heads * d;
    const T *all_keys = static_cast<const T*>(a.keys), *all_values = static_cast<const T*>(a.values);
    const int64_t queries = task.count * group, blocks = divide_up(queries, tile_queries);
    const int64_t start = a.context_lens[task.sequence] + task.first, end = start + task.count;
    // Query j of this task: token j / group, head j % group of the kv head's group.
    const int64_t base = (a.offsets[task.sequence] + task.first) * row + kv_head * group * d;
    const auto row_start = [&](int64_t j) { return base + j / group * row + j % group * d; };
    const TileScope tiles(attention_shapes());
    for (int64_t b = 0; b < blocks; ++b) {
        const float* rows[tile_queries];
        const int64_t used = min(tile_queries, queries - b * tile_queries);
        for (int64_t j = 0; j < used; ++j) rows[j] = a.query + row_start(b * tile_queries + j);
        pack_tile_queries(rows, used, d, s.queries + b * tile_query_words(d));
    }
    const auto softmax_of = [&](int64_t b) { return lay_out_tile_softmax(s.softmaxes + b * tile_softmax_floats(d), d); };
    for (int64_t k = 0; k < end; k += tile_keys) {
        const int64_t n = min(tile_keys, end - k);
        const auto cached = [&](int64_t i) { return cache_row(a, task.sequence, k + i, kv_head); };
        const auto pairs = [&](const T* key, int64_t at) { return pairs_of(key + at, d - at); };
        pack_tile_keys([&](int64_t i) { return all_keys + cached(i) * d; }, pairs, n, d, s.keys);
        pack_tile_values<T>([&](int64_t i) { return all_values + cached(i) * d; }, n, d, s.values);
        if (a.key_scales)
            for (int64_t i = 0; i < n; ++i) s.key_scales[i] = a.key_scales[cached(i)], s.value_scales[i] = a.value_scales[cached(i)];
        for (int64_t b = 0; b < blocks; ++b) {
            float seen[tile_queries];
            for (int64_t j = 0; j < tile_queries; ++j) {
                const int64_t token = min(queries - 1, b * tile_queries + j) / group;
                seen[j] = static_cast<float>(max(0, min(n, start + token - k + 1)));
            }
            const auto max_seen = static_cast<int64_t>(seen[tile_queries - 1]);
            if (max_seen == 0) continue;
            const TileBlock block{.keys = s.keys, .values = s.values, .n = max_seen, .seen = seen[0] < seen[tile_queries - 1] ? seen : nullptr,
                                  .key_scales = a.key_scales ? s.key_scales : nullptr,
                                  .value_scales = a.key_scales ? s.value_scales : nullptr};
            add_tile_keys(softmax_of(b), block, s.queries + b * tile_query_words(d), d, k == 0, s.scores);
        }
    }
    for (int64_t b = 0; b < blocks; ++b)
        finish_tile_queries(softmax_of(b), min(tile_queries, queries - b * tile_queries), d,
                            [&](int64_t j) { return a.out + row_start(b * tile_queries + j); });
}

inline bool is_run(const CausalAttention& a, int64_t s) { return a.offsets[s + 1] - a.offsets[s] > single_rows; }

template <class T>
inline void runs_in_tiles(Pool& pool, const CausalAttention& a) {
    const int64_t task_rows = rows_a_task(a, pool.threads()), blocks = divide_up(task_rows * (a.heads / a.kv_heads), tile_queries);
    int64_t runs = 0;
    for (int64_t s = 0; s < a.sequences; ++s)
        if (is_run(a, s)) runs += divide_up(a.offsets[s + 1] - a.offsets[s], task_rows);
    if (runs == 0) return;
    RunTask* tasks = reinterpret_cast<RunTask*>(pool.shared(static_cast<size_t>(runs) * sizeof(RunTask)));
    int64_t next = 0;
    for (int64_t s = 0; s < a.sequences; ++s) {
        if (!is_run(a, s)) continue;
        const int64_t count = a.offsets[s + 1] - a.offsets[s];
        // Late rows attend to the most keys, so they are scheduled first.
        for (int64_t i = divide_up(count, task_rows) - 1; i >= 0; --i)
            tasks[next++] = RunTask{s, i * task_rows, min(task_rows, count - i * task_rows)};
    }
    pool.reserve(static_cast<size_t>(tile_run_floats(a.head_dim, blocks)) * sizeof(float));
    parallel(pool, runs * a.kv_heads, [&](int64_t task, int worker) {
        run_of_rows_tiles<T>(a, lay_out_tile_run(pool.scratch(worker), a.head_dim, blocks), tasks[task / a.kv_heads], task % a.kv_heads);
    });
}

// Neighbouring sequences of single rows run together.
inline void single_rows_without_tiles(Pool& pool, const CausalAttention& a) {
    for (int64_t first = 0, end; first < a.sequences; first = end) {
        for (end = first; end < a.sequences && !is_run(a, end);) ++end;
        if (end == first) {
            ++end;
            continue;
        }
        CausalAttention part = a;
        part.offsets += first, part.context_lens += first, part.pages += first * a.table_width, part.sequences = end - first;
        POCKETVLM_BFLOAT16_WITHOUT_TILES::attention(pool, part);
    }
}

}  // namespace

void attention(Pool& pool, const CausalAttention& a) {
    if (!a.fast) return POCKETVLM_BFLOAT16_WITHOUT_TILES::attention(pool, a);
    if (a.type == KVType::float32)
        runs_in_tiles<float>(pool, a);
    else if (a.type == KVType::bfloat16)
        runs_in_tiles<uint16_t>(pool, a);
    else
        runs_in_tiles<int8_t>(pool, a);
    single_rows_without_tiles(pool, a);
}

}  // namespace pocketvlm::POCKETVLM_ISA

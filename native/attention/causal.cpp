// Causal attention over pages. Runs of rows: blocks of queries against packed blocks of keys. Single rows: the keys are
// read from their pages, in spans of fixed length so that long contexts use all threads and sums do not depend on how many.
#include "attention/attention.h"
#include "attention/softmax_block.h"
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
#include "attention/causal_bfloat16.h"
#endif

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t single_rows = 3;     // sequences with at most as many rows are computed as single rows
constexpr int64_t span = 512;          // keys of one task of a single row
constexpr int64_t tokens_a_task = 64;  // rows of one task of a run

// Position of token t of sequence s in the cache, in rows of [kv_heads * head_dim].
inline int64_t cache_row(const CausalAttention& a, int64_t s, int64_t t) {
    return static_cast<int64_t>(a.pages[s * a.table_width + t / a.page_size]) * a.page_size + t % a.page_size;
}

// --- runs of rows ---

struct RunScratch {
    float *keys, *values, *queries, *scores, *last_key;
    float *sums, *maximum, *total;
};

inline int64_t run_floats(const CausalAttention& a, int64_t blocks) {
    const int64_t width = padded(a.head_dim);
    return round_up(key_block * a.head_dim + W, 16) + key_block * width + blocks * a.head_dim * lanes + key_block * lanes +
           blocks * lanes * (width + 3);
}

inline RunScratch lay_out(const CausalAttention& a, float* memory, int64_t blocks) {
    RunScratch s;
    const int64_t width = padded(a.head_dim);
    s.keys = memory;
    s.values = s.keys + round_up(key_block * a.head_dim + W, 16);
    s.queries = s.values + key_block * width;
    s.scores = s.queries + blocks * a.head_dim * lanes;
    s.sums = s.scores + key_block * lanes;
    s.maximum = s.sums + blocks * lanes * width;
    s.total = s.maximum + blocks * lanes;
    s.last_key = s.total + blocks * lanes;
    return s;
}

inline void run_of_rows(const CausalAttention& a, const RunScratch& s, int64_t sequence, int64_t first, int64_t count, int64_t kv_head) {
    const int64_t group = a.heads / a.kv_heads, d = a.head_dim, width = padded(d), row = a.heads * d, cache = a.kv_heads * d;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));
    const int64_t queries = count * group, blocks = divide_up(queries, lanes), start = a.context_lens[sequence] + first;
    // Query j of this task: token j / group, head j % group of the kv head's group.
    const int64_t base = (a.offsets[sequence] + first) * row + kv_head * group * d;
    for (int64_t b = 0; b < blocks; ++b) {
        for (int64_t j = 0; j < lanes; j += W) {
            const int64_t used = min(W, queries - b * lanes - j);
            if (used <= 0) break;
            const float* rows[W];
            for (int64_t r = 0; r < used; ++r) {
                const int64_t q = b * lanes + j + r;
                rows[r] = a.query + base + q / group * row + q % group * d;
            }
            transpose_rows(rows, used, d, s.queries + b * d * lanes + j, lanes, scale);
        }
        begin(Softmax{s.maximum + b * lanes, s.total + b * lanes, s.sums + b * lanes * width}, width);
    }
    const int64_t end = start + count;
    for (int64_t k = 0; k < end; k += key_block) {
        const int64_t n = min(key_block, end - k);
        for (int64_t i = 0; i < n;) {  // stretches inside one page
            const int64_t t = k + i, stretch = min(n - i, a.page_size - t % a.page_size), at = cache_row(a, sequence, t);
            pack_values(a.values + at * cache + kv_head * d, cache, stretch, d, s.values + i * width);
            i += stretch;
        }
        for (int64_t i = 0; i < n; i += key_tile) {
            const int64_t tile = min(key_tile, n - i);
            const float* rows[key_tile];
            for (int64_t r = 0; r < tile; ++r) rows[r] = a.keys + cache_row(a, sequence, k + i + r) * cache + kv_head * d;
            for (int64_t r = 0; r < tile; r += W)
                transpose_rows(rows + r, min(W, tile - r), d, s.keys + i * d + r, key_tile);
        }
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t used = min(lanes, queries - b * lanes);
            const int64_t first_position = start + b * lanes / group, last_position = start + (b * lanes + used - 1) / group;
            if (last_position < k) continue;
            const bool partly = first_position < k + n - 1;
            for (int64_t j = 0; j < lanes; ++j) {
                const int64_t q = b * lanes + min(j, used - 1);
                s.last_key[j] = static_cast<float>(start + q / group - k);
            }
            const Softmax softmax{s.maximum + b * lanes, s.total + b * lanes, s.sums + b * lanes * width};
            add_keys(softmax, s.queries + b * d * lanes, s.keys, s.values, min(n, last_position - k + 1), d, used, s.scores,
                     partly ? s.last_key : nullptr);
        }
    }
    for (int64_t q = 0; q < queries; ++q) {
        const int64_t b = q / lanes;
        const Softmax softmax{s.maximum + b * lanes, s.total + b * lanes, s.sums + b * lanes * width};
        finish_lane(softmax, q % lanes, d, a.out + base + q / group * row + q % group * d);
    }
}

// --- single rows ---

constexpr int heads_together = 4, keys_together = many_registers ? 4 : 1;
constexpr int64_t keys_a_block = 16;

// scores[h * span + i] = scale * query h . key i, for Heads queries and Keys keys.
template <int Heads, int Keys>
inline void scores_of(const float* query, const float* const* keys, int64_t d, float scale, float* scores) {
    Vec sums[Keys][Heads];
#pragma GCC unroll 4
    for (int i = 0; i < Keys; ++i)
#pragma GCC unroll 4
        for (int h = 0; h < Heads; ++h) sums[i][h] = zero();
    int64_t j = 0;
    for (; j + W <= d; j += W)
#pragma GCC unroll 4
        for (int i = 0; i < Keys; ++i) {
            const Vec key = load(keys[i] + j);
            __builtin_prefetch(keys[i + keys_a_block / 2] + j);
#pragma GCC unroll 4
            for (int h = 0; h < Heads; ++h) sums[i][h] = fma(key, load(query + h * d + j), sums[i][h]);
        }
    if (j < d)
        for (int i = 0; i < Keys; ++i)
            for (int h = 0; h < Heads; ++h)
                sums[i][h] = fma(load_part(keys[i] + j, d - j), load_part(query + h * d + j, d - j), sums[i][h]);
    for (int i = 0; i < Keys; ++i)
        for (int h = 0; h < Heads; ++h) scores[h * span + i] = sum(sums[i][h]) * scale;
}

// out[h][0..Vecs W) += the weighted values of n keys, for Heads queries.
template <int Heads, int Vecs>
inline void weigh(const float* weights, const float* const* values, int64_t column, int64_t n, float* out, int64_t d) {
    Vec sums[Heads][Vecs];
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
        for (int v = 0; v < Vecs; ++v) sums[h][v] = load(out + h * d + v * W);
    for (int64_t i = 0; i < n; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Vecs; ++v) {
            const Vec value = load(values[i] + column + v * W);
            __builtin_prefetch(values[i + keys_a_block] + column + v * W);
#pragma GCC unroll 4
            for (int h = 0; h < Heads; ++h) sums[h][v] = fma(splat(weights[h * span + i]), value, sums[h][v]);
        }
    for (int h = 0; h < Heads; ++h)
        for (int v = 0; v < Vecs; ++v) store(out + h * d + v * W, sums[h][v]);
}

struct Partial {
    float* sums;  // [heads of the group][head_dim]
    float* maximum;
    float* total;
};

template <int Heads>
inline void single_row(const CausalAttention& a, const float* query, const float* const* keys, const float* const* values,
                       int64_t n, float* scores, const Partial& out) {
    const int64_t d = a.head_dim;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));
    int64_t i = 0;
    for (; i + keys_together <= n; i += keys_together) scores_of<Heads, keys_together>(query, keys + i, d, scale, scores + i);
    for (; i < n; ++i) scores_of<Heads, 1>(query, keys + i, d, scale, scores + i);
    for (int h = 0; h < Heads; ++h) {
        float *row = scores + h * span, top = lowest;
        for (i = 0; i < n; ++i) top = row[i] > top ? row[i] : top;
        Vec total = zero();
        for (i = 0; i + W <= n; i += W) {
            const Vec e = exp(load(row + i) - splat(top));
            store(row + i, e);
            total = total + e;
        }
        if (i < n) {
            const Vec inside = load_part(row + i, n - i);
            alignas(64) float e[W];
            store(e, exp(inside - splat(top)));
            copy(row + i, e, n - i);
            total = total + load_part(e, n - i);
        }
        out.maximum[h] = top;
        out.total[h] = sum(total);
    }
    // Some keys at a time, so that their rows are read in one go; the sums wait in the cache.
    constexpr int vecs = many_registers ? 4 : 2;
    clear(out.sums, Heads * d);
    for (i = 0; i < n; i += keys_a_block) {
        const int64_t count = min(keys_a_block, n - i);
        int64_t j = 0;
        for (; j + vecs * W <= d; j += vecs * W) weigh<Heads, vecs>(scores + i, values + i, j, count, out.sums + j, d);
        for (; j + W <= d; j += W) weigh<Heads, 1>(scores + i, values + i, j, count, out.sums + j, d);
        for (; j < d; ++j)
            for (int h = 0; h < Heads; ++h)
                for (int64_t k = i; k < i + count; ++k) out.sums[h * d + j] += scores[h * span + k] * values[k][j];
    }
}

inline void single_span(const CausalAttention& a, int64_t sequence, int64_t row, int64_t kv_head, int64_t first, int64_t n, float* scores,
                        const Partial& out) {
    const int64_t group = a.heads / a.kv_heads, d = a.head_dim, cache = a.kv_heads * d;
    const float *keys[span + keys_a_block], *values[span + keys_a_block];
    for (int64_t i = 0; i < n; ++i) {
        const int64_t at = cache_row(a, sequence, first + i) * cache + kv_head * d;
        keys[i] = a.keys + at;
        values[i] = a.values + at;
    }
    for (int64_t i = n; i < n + keys_a_block; ++i) keys[i] = keys[n - 1], values[i] = values[n - 1];  // prefetched, never read
    const float* query = a.query + (row * a.heads + kv_head * group) * d;
    int64_t h = 0;
    for (; h + heads_together <= group; h += heads_together)
        single_row<heads_together>(a, query + h * d, keys, values, n, scores, Partial{out.sums + h * d, out.maximum + h, out.total + h});
    for (; h < group; ++h)
        single_row<1>(a, query + h * d, keys, values, n, scores, Partial{out.sums + h * d, out.maximum + h, out.total + h});
}

// Joins the results of the spans of one head.
inline void join(const float* sums, const float* maximum, const float* total, int64_t count, int64_t sum_stride, int64_t stride, int64_t d,
                 float* out) {
    float top = lowest, all = 0.0f;
    for (int64_t i = 0; i < count; ++i) top = maximum[i * stride] > top ? maximum[i * stride] : top;
    clear(out, d);
    for (int64_t i = 0; i < count; ++i) {
        const float weight = __builtin_expf(maximum[i * stride] - top);
        all += total[i * stride] * weight;
        for (int64_t j = 0; j < d; ++j) out[j] += weight * sums[i * sum_stride + j];
    }
    for (int64_t j = 0; j < d; ++j) out[j] /= all;
}

struct Task {
    int32_t sequence, row, first, count;
};

}  // namespace

void attention(Pool& pool, const CausalAttention& a) {
    const int64_t group = a.heads / a.kv_heads, d = a.head_dim;
    const int64_t blocks = divide_up(tokens_a_task * group, lanes);
    int64_t runs = 0, spans = 0, rows = 0;
    for (int64_t s = 0; s < a.sequences; ++s) {
        const int64_t count = a.offsets[s + 1] - a.offsets[s];
        if (count > single_rows) {
            runs += divide_up(count, tokens_a_task);
            continue;
        }
        rows += count;
        for (int64_t i = 0; i < count; ++i) spans += divide_up(a.context_lens[s] + i + 1, span);
    }
    // Tasks and the partial results of the spans, in the shared memory.
    const int64_t task_floats = round_up((runs + spans + rows) * 4, 16);
    float* memory = pool.shared(static_cast<size_t>(task_floats + spans * a.heads * (d + 2)) * sizeof(float));
    Task *run_tasks = reinterpret_cast<Task*>(memory), *span_tasks = run_tasks + runs, *row_tasks = span_tasks + spans;
    float *sums = memory + task_floats, *maximum = sums + spans * a.heads * d, *total = maximum + spans * a.heads;
    int64_t run = 0, part = 0, single = 0;
    for (int64_t s = 0; s < a.sequences; ++s) {
        const int32_t count = a.offsets[s + 1] - a.offsets[s], sequence = static_cast<int32_t>(s);
        if (count > single_rows) {
            // Late rows attend to the most keys, so they are scheduled first.
            const int32_t chunks = (count + static_cast<int32_t>(tokens_a_task) - 1) / static_cast<int32_t>(tokens_a_task);
            for (int32_t i = chunks - 1; i >= 0; --i) {
                const int32_t first = i * static_cast<int32_t>(tokens_a_task);
                run_tasks[run++] = Task{sequence, 0, first, static_cast<int32_t>(min(tokens_a_task, count - first))};
            }
            continue;
        }
        for (int32_t i = 0; i < count; ++i) {
            const int32_t keys = a.context_lens[s] + i + 1, row = a.offsets[s] + i;
            row_tasks[single++] = Task{sequence, row, static_cast<int32_t>(part), static_cast<int32_t>(divide_up(keys, span))};
            for (int32_t k = 0; k < keys; k += static_cast<int32_t>(span))
                span_tasks[part++] = Task{sequence, row, k, static_cast<int32_t>(min(span, keys - k))};
        }
    }
    int64_t floats = max(runs ? run_floats(a, blocks) : 0, heads_together * span);
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
    const int64_t tiles = divide_up(tokens_a_task * group, bf16_rows);
    if (a.fast && runs) floats = max(heads_together * span, bf16_run_floats(d, tiles));
#endif
    pool.reserve(static_cast<size_t>(floats) * sizeof(float));
    parallel(pool, (runs + spans) * a.kv_heads, [&](int64_t task, int worker) {
        const int64_t i = task / a.kv_heads, kv_head = task % a.kv_heads;
        if (i < runs) {
            const Task& t = run_tasks[i];
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
            if (a.fast) {
                const auto row_of = [&](int64_t token) { return cache_row(a, t.sequence, token); };
                run_of_rows_bf16(a, lay_out_bf16_run(pool.scratch(worker), d, tiles), row_of, t.sequence, t.first, t.count, kv_head);
                return;
            }
#endif
            run_of_rows(a, lay_out(a, pool.scratch(worker), blocks), t.sequence, t.first, t.count, kv_head);
            return;
        }
        const Task& t = span_tasks[i - runs];
        const int64_t head = (i - runs) * a.heads + kv_head * group;
        single_span(a, t.sequence, t.row, kv_head, t.first, t.count, pool.scratch(worker),
                    Partial{sums + head * d, maximum + head, total + head});
    });
    for (int64_t r = 0; r < rows; ++r) {
        const Task& t = row_tasks[r];
        for (int64_t h = 0; h < a.heads; ++h) {
            const int64_t first = static_cast<int64_t>(t.first) * a.heads + h;
            join(sums + first * d, maximum + first, total + first, t.count, a.heads * d, a.heads, d, a.out + (t.row * a.heads + h) * d);
        }
    }
}

}  // namespace pocketvlm::POCKETVLM_ISA

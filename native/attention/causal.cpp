// Causal attention over pages. Runs of rows: blocks of queries against packed blocks of keys. Single rows: the keys are
// read from their pages, in spans of fixed length so that long contexts use all threads and sums do not depend on how many.
// Keys and values are widened where they are read. In single rows, the scale of an int8 key multiplies its scores and that of a
// value its weights; runs in float32 scale the numbers.
#include "attention/attention.h"
#include "attention/causal_runs.h"
#include "attention/kv_rows.h"
#include "attention/softmax_block.h"
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
#include "attention/causal_bfloat16.h"
#endif

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t span = 512;              // keys of one task of a single row
constexpr int64_t joined_alone = 1 << 16;  // one thread joins spans of fewer floats sooner than several do

inline float scale_of(const float* scales, int64_t row) { return scales ? scales[row] : 1.0f; }

// --- runs of rows ---

struct RunScratch {
    float *keys, *values, *queries, *scores, *last_key, *widened;
    float *sums, *maximum, *total;
};

inline int64_t run_floats(const CausalAttention& a, int64_t blocks) {
    const int64_t width = padded(a.head_dim);
    return round_up(key_block * a.head_dim + W, 16) + key_block * width + blocks * a.head_dim * lanes + key_block * lanes +
           blocks * lanes * (width + 2) + lanes + W * a.head_dim;
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
    s.widened = s.last_key + lanes;
    return s;
}

template <class T>
inline void run_of_rows(const CausalAttention& a, const RunScratch& s, int64_t sequence, int64_t first, int64_t count, int64_t kv_head) {
    const int64_t group = a.heads / a.kv_heads, d = a.head_dim, width = padded(d), row = a.heads * d;
    const T *all_keys = static_cast<const T*>(a.keys), *all_values = static_cast<const T*>(a.values);
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
        const auto cached = [&](int64_t i) { return cache_row(a, sequence, k + i, kv_head); };
        for (int64_t i = 0; i < n; ++i) {
            const int64_t at = cached(i);
            float* value = s.values + i * width;
            widen_row(all_values + at * d, scale_of(a.value_scales, at), d, value);
            clear(value + d, width - d);
        }
        for (int64_t i = 0; i < n; i += key_tile) {
            const int64_t tile = min(key_tile, n - i);
            for (int64_t r = 0; r < tile; r += W) {
                const float* rows[W];
                for (int64_t j = 0; j < min(W, tile - r); ++j) {
                    const int64_t at = cached(i + r + j);
                    widen_row(all_keys + at * d, scale_of(a.key_scales, at), d, s.widened + j * d);
                    rows[j] = s.widened + j * d;
                }
                transpose_rows(rows, min(W, tile - r), d, s.keys + i * d + r, key_tile);
            }
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
template <class T>
constexpr int64_t keys_ahead = 64 / sizeof(T);  // prefetched before they are read: 16 KiB for rows of 256 numbers

// Numbers of a row in whole steps.
template <class T>
inline int64_t stepped(int64_t head_dim) {
    return round_up(head_dim, kv_step<T>);
}

// scores[h * span + i] = scale * the sum of the lanes of sums[h * Keys + i].
template <int Heads, int Keys>
inline void store_scores(Vec* sums, float scale, float* scores) {
    if constexpr (Keys * Heads == W) {
        transpose(sums);
#pragma GCC unroll 4
        for (int half = W / 2; half > 0; half /= 2)
#pragma GCC unroll 8
            for (int i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
        float found[W];
        store(found, sums[0] * splat(scale));
#pragma GCC unroll 4
        for (int h = 0; h < Heads; ++h) copy(scores + h * span, found + h * Keys, Keys);
    } else {
        for (int h = 0; h < Heads; ++h)
            for (int i = 0; i < Keys; ++i) scores[h * span + i] = sum(sums[h * Keys + i]) * scale;
    }
}

// scores[h * span + i] = scale * query h . key i, for Heads queries in the order of widened rows and Keys keys.
template <class T, int Heads, int Keys>
inline void scores_of(const float* query, const T* const* keys, int64_t d, float scale, float* scores) {
    const int64_t width = stepped<T>(d);
    Vec sums[Heads][Keys];
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
        for (int i = 0; i < Keys; ++i) sums[h][i] = zero();
    int64_t j = 0;
    for (; j + kv_step<T> <= d; j += kv_step<T>) {
#pragma GCC unroll 4
        for (int i = 0; i < Keys; ++i) __builtin_prefetch(keys[i + keys_ahead<T>] + j);
#pragma GCC unroll 4
        for (int v = 0; v < KVRow<T>::vecs; ++v)
#pragma GCC unroll 4
            for (int i = 0; i < Keys; ++i) {
                const Vec key = KVRow<T>::widen(keys[i] + j, v);
#pragma GCC unroll 4
                for (int h = 0; h < Heads; ++h) sums[h][i] = fma(key, load(query + h * width + j + v * W), sums[h][i]);
            }
    }
    if (j < d)
        for (int i = 0; i < Keys; ++i) {
            const LastStep<T> last(keys[i] + j, d - j);
            for (int v = 0; v < KVRow<T>::vecs; ++v)
                for (int h = 0; h < Heads; ++h)
                    sums[h][i] = fma(KVRow<T>::widen(last.numbers, v), load(query + h * width + j + v * W), sums[h][i]);
        }
    store_scores<Heads, Keys>(sums[0], scale, scores);
}

// The maximum of n > 0 numbers.
inline float maximum_of(const float* x, int64_t n) {
    float found[W], top = x[0];
    int64_t i = 0;
    if (n >= 4 * W) {
        Vec parts[4];
        for (int v = 0; v < 4; ++v) parts[v] = load(x + v * W);
        for (i = 4 * W; i + 4 * W <= n; i += 4 * W)
            for (int v = 0; v < 4; ++v) parts[v] = vmax(parts[v], load(x + i + v * W));
        store(found, vmax(vmax(parts[0], parts[1]), vmax(parts[2], parts[3])));
        for (const float each : found) top = each > top ? each : top;
    }
    for (; i < n; ++i) top = x[i] > top ? x[i] : top;
    return top;
}

// out[h * width + 0..Vecs W) += the weighted values of n keys from `column` on, for Heads queries.
template <class T, int Heads, int Vecs>
inline void weigh(const float* weights, const T* const* values, int64_t column, int64_t n, float* out, int64_t width) {
    constexpr int vecs = KVRow<T>::vecs;
    Vec sums[Heads][Vecs];
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
        for (int v = 0; v < Vecs; ++v) sums[h][v] = load(out + h * width + v * W);
    for (int64_t i = 0; i < n; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Vecs; ++v) {
            const int64_t at = column + v / vecs * kv_step<T>;
            const Vec value = KVRow<T>::widen(values[i] + at, v % vecs);
            if (v % vecs == 0) __builtin_prefetch(values[i + keys_a_block] + at);
#pragma GCC unroll 4
            for (int h = 0; h < Heads; ++h) sums[h][v] = fma(splat(weights[h * span + i]), value, sums[h][v]);
        }
    for (int h = 0; h < Heads; ++h)
        for (int v = 0; v < Vecs; ++v) store(out + h * width + v * W, sums[h][v]);
}

struct Partial {
    float* sums;  // [heads of the group][stepped(head_dim)], in the order of widened rows
    float* maximum;
    float* total;
};

// The keys and values of one span, and their scales with int8.
template <class T>
struct Span {
    const T *keys[span + keys_ahead<T>], *values[span + keys_a_block];
    float key_scales[span], value_scales[span];
    int64_t n;
};

template <class T, int Heads>
inline void single_row(const CausalAttention& a, const float* query, const Span<T>& s, float* scores, const Partial& out) {
    const int64_t d = a.head_dim, width = stepped<T>(d), n = s.n;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));
    int64_t i = 0;
    for (; i + keys_together <= n; i += keys_together) scores_of<T, Heads, keys_together>(query, s.keys + i, d, scale, scores + i);
    for (; i < n; ++i) scores_of<T, Heads, 1>(query, s.keys + i, d, scale, scores + i);
    for (int h = 0; h < Heads; ++h) {
        float* row = scores + h * span;
        if (a.key_scales)
            for (i = 0; i < n; ++i) row[i] *= s.key_scales[i];
        const float top = maximum_of(row, n);
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
        if (a.value_scales)
            for (i = 0; i < n; ++i) row[i] *= s.value_scales[i];
    }
    // Some keys at a time, so that their rows are read in one go; the sums stay in the cache.
    constexpr int few = KVRow<T>::vecs, many = many_registers ? 4 : 2;
    clear(out.sums, Heads * width);
    for (i = 0; i < n; i += keys_a_block) {
        const int64_t count = min(keys_a_block, n - i);
        int64_t j = 0;
        for (; j + many * W <= d; j += many * W) weigh<T, Heads, many>(scores + i, s.values + i, j, count, out.sums + j, width);
        for (; j + few * W <= d; j += few * W) weigh<T, Heads, few>(scores + i, s.values + i, j, count, out.sums + j, width);
        if (j == d) continue;
        LastStep<T> last[keys_a_block];
        const T* rows[2 * keys_a_block];
        for (int64_t k = 0; k < 2 * keys_a_block; ++k) rows[k] = last[min(k, count - 1)].numbers;
        for (int64_t k = 0; k < count; ++k) last[k] = LastStep<T>(s.values[i + k] + j, d - j);
        weigh<T, Heads, few>(scores + i, rows, 0, count, out.sums + j, width);
    }
}

// Floats that single_span takes of a worker's memory.
template <class T>
inline int64_t span_floats(const CausalAttention& a) {
    return heads_together * (span + stepped<T>(a.head_dim));
}

template <class T>
inline void single_span(const CausalAttention& a, int64_t sequence, int64_t row, int64_t kv_head, int64_t first, int64_t n, float* memory,
                        const Partial& out) {
    const int64_t group = a.heads / a.kv_heads, d = a.head_dim, width = stepped<T>(d);
    Span<T> s;
    s.n = n;
    for (int64_t i = 0; i < n;) {  // stretches inside one page
        const int64_t t = first + i, end = min(n, i + a.page_size - t % a.page_size);
        for (int64_t at = cache_row(a, sequence, t, kv_head); i < end; ++i, ++at) {
            s.keys[i] = static_cast<const T*>(a.keys) + at * d;
            s.values[i] = static_cast<const T*>(a.values) + at * d;
            if (a.key_scales) s.key_scales[i] = a.key_scales[at], s.value_scales[i] = a.value_scales[at];
        }
    }
    for (int64_t i = n; i < n + keys_ahead<T>; ++i) s.keys[i] = s.values[min(i - n, n - 1)];  // prefetched: values are read next
    for (int64_t i = n; i < n + keys_a_block; ++i) s.values[i] = s.values[n - 1];            // prefetched, never read
    float *scores = memory, *query = memory + heads_together * span;
    for (int64_t h = 0; h < group;) {
        const int64_t heads = h + heads_together <= group ? heads_together : 1;
        const float* from = a.query + (row * a.heads + kv_head * group + h) * d;
        clear(query, heads * width);
        for (int64_t i = 0; i < heads; ++i)
            for (int64_t j = 0; j < d; ++j) query[i * width + KVRow<T>::position(j)] = from[i * d + j];
        const Partial part{out.sums + h * width, out.maximum + h, out.total + h};
        h += heads;
        if (heads == heads_together)
            single_row<T, heads_together>(a, query, s, scores, part);
        else
            single_row<T, 1>(a, query, s, scores, part);
    }
}

// Joins the results of one head's spans; the sums of the first span are overwritten.
template <class T>
inline void join(float* sums, const float* maximum, const float* total, int64_t count, int64_t sum_stride, int64_t stride, int64_t d,
                 float* out) {
    const int64_t width = stepped<T>(d);
    float top = lowest, all = 0.0f;
    for (int64_t i = 0; i < count; ++i) top = maximum[i * stride] > top ? maximum[i * stride] : top;
    for (int64_t i = 0; i < count; ++i) {
        const float weight = __builtin_expf(maximum[i * stride] - top);
        all += total[i * stride] * weight;
        for (int64_t j = 0; j < width; j += W) {
            const Vec part = load(sums + i * sum_stride + j) * splat(weight);
            store(sums + j, i == 0 ? part : load(sums + j) + part);
        }
    }
    for (int64_t j = 0; j < d; ++j) out[j] = sums[KVRow<T>::position(j)] / all;
}

struct Task {
    int32_t sequence, row, first, count;
};

template <class T>
inline void attention_of(Pool& pool, const CausalAttention& a) {
    const int64_t group = a.heads / a.kv_heads, d = a.head_dim, width = stepped<T>(d);
    const int64_t task_rows = rows_a_task(a, pool.threads());
    int64_t runs = 0, spans = 0, rows = 0;
    for (int64_t s = 0; s < a.sequences; ++s) {
        const int64_t count = a.offsets[s + 1] - a.offsets[s];
        if (count > single_rows) {
            runs += divide_up(count, task_rows);
            continue;
        }
        rows += count;
        for (int64_t i = 0; i < count; ++i) spans += divide_up(a.context_lens[s] + i + 1, span);
    }
    // Tasks and the partial results of the spans, in the shared memory.
    const int64_t task_floats = round_up((runs + spans + rows) * 4, 16);
    float* memory = pool.shared(static_cast<size_t>(task_floats + spans * a.heads * (width + 2)) * sizeof(float));
    Task *run_tasks = reinterpret_cast<Task*>(memory), *span_tasks = run_tasks + runs, *row_tasks = span_tasks + spans;
    float *sums = memory + task_floats, *maximum = sums + spans * a.heads * width, *total = maximum + spans * a.heads;
    int64_t run = 0, part = 0, single = 0;
    for (int64_t s = 0; s < a.sequences; ++s) {
        const int32_t count = a.offsets[s + 1] - a.offsets[s], sequence = static_cast<int32_t>(s);
        if (count > single_rows) {
            // Late rows attend to the most keys, so they are scheduled first.
            for (int64_t i = divide_up(count, task_rows) - 1; i >= 0; --i) {
                const auto first = static_cast<int32_t>(i * task_rows);
                run_tasks[run++] = Task{sequence, 0, first, static_cast<int32_t>(min(task_rows, count - first))};
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
    const int64_t blocks = divide_up(task_rows * group, lanes);
    int64_t run_memory = run_floats(a, blocks);
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
    const int64_t tiles = divide_up(task_rows * group, bf16_rows);
    if (a.fast) run_memory = bf16_run_floats(d, tiles);
#endif
    pool.reserve(static_cast<size_t>(max(runs ? run_memory : 0, spans ? span_floats<T>(a) : 0)) * sizeof(float));
    parallel(pool, (runs + spans) * a.kv_heads, [&](int64_t task, int worker) {
        const int64_t i = task / a.kv_heads, kv_head = task % a.kv_heads;
        if (i < runs) {
            const Task& t = run_tasks[i];
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
            if (a.fast) {
                const auto row_of = [&](int64_t token) { return cache_row(a, t.sequence, token, kv_head); };
                run_of_rows_bf16<T>(a, lay_out_bf16_run(pool.scratch(worker), d, tiles), row_of, t.sequence, t.first, t.count, kv_head);
                return;
            }
#endif
            run_of_rows<T>(a, lay_out(a, pool.scratch(worker), blocks), t.sequence, t.first, t.count, kv_head);
            return;
        }
        const Task& t = span_tasks[i - runs];
        const int64_t head = (i - runs) * a.heads + kv_head * group;
        single_span<T>(a, t.sequence, t.row, kv_head, t.first, t.count, pool.scratch(worker),
                       Partial{sums + head * width, maximum + head, total + head});
    });
    const auto join_head = [&](int64_t r, int64_t h) {
        const Task& t = row_tasks[r];
        const int64_t first = static_cast<int64_t>(t.first) * a.heads + h;
        join<T>(sums + first * width, maximum + first, total + first, t.count, a.heads * width, a.heads, d,
                a.out + (t.row * a.heads + h) * d);
    };
    if (spans * a.heads * width < joined_alone)
        for (int64_t i = 0; i < rows * a.heads; ++i) join_head(i / a.heads, i % a.heads);
    else
        parallel(pool, rows * a.heads, [&](int64_t i, int) { join_head(i / a.heads, i % a.heads); });
}

}  // namespace

void attention(Pool& pool, const CausalAttention& a) {
    if (a.type == KVType::float32) return attention_of<float>(pool, a);
    if (a.type == KVType::bfloat16) return attention_of<uint16_t>(pool, a);
    attention_of<int8_t>(pool, a);
}

}  // namespace pocketvlm::POCKETVLM_ISA

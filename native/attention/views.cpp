// Attention inside views. A task packs the keys and values of one pair (view, head) and runs some of its queries, or takes
// several pairs of small views.
#include "attention/attention.h"
#include "attention/softmax_block.h"
#include "attention/view_runs.h"
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
#include "attention/views_bfloat16.h"
#endif

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct Scratch {
    float *keys, *values, *query, *scores;
    Softmax softmax;
};

inline int64_t key_floats(int64_t keys, int64_t head_dim) { return round_up(round_up(keys, key_tile) * head_dim + W, 16); }

inline int64_t scratch_floats(int64_t keys, int64_t head_dim) {
    const int64_t width = padded(head_dim);
    return key_floats(keys, head_dim) + keys * width + head_dim * lanes + key_block * lanes + lanes * (width + 2);
}

inline Scratch lay_out(float* memory, int64_t keys, int64_t head_dim) {
    Scratch s;
    const int64_t width = padded(head_dim);
    s.keys = memory;
    s.values = s.keys + key_floats(keys, head_dim);
    s.query = s.values + keys * width;
    s.scores = s.query + head_dim * lanes;
    s.softmax.sums = s.scores + key_block * lanes;
    s.softmax.maximum = s.softmax.sums + lanes * width;
    s.softmax.total = s.softmax.maximum + lanes;
    return s;
}

inline void view_head(const ViewAttention& a, const Scratch& s, int64_t view, int64_t head, int64_t part, int64_t parts) {
    const int64_t first = a.offsets[view], n = a.offsets[view + 1] - first;
    const int64_t stride = a.heads * a.head_dim, width = padded(a.head_dim);
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(a.head_dim));
    const int64_t base = first * stride + head * a.head_dim;
    pack_keys(a.key + base, stride, n, a.head_dim, s.keys);
    pack_values(a.value + base, stride, n, a.head_dim, s.values);
    const int64_t blocks = divide_up(n, lanes);
    for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
        const int64_t q0 = block * lanes, used = min(lanes, n - q0);
        for (int64_t j = 0; j < used; j += W) {
            const float* rows[W];
            for (int64_t r = 0; r < W; ++r) rows[r] = a.query + base + (q0 + min(j + r, used - 1)) * stride;
            transpose_rows(rows, min(W, used - j), a.head_dim, s.query + j, lanes, scale);
        }
        begin(s.softmax, width);
        for (int64_t k = 0; k < n; k += key_block)
            add_keys(s.softmax, s.query, s.keys + k * a.head_dim, s.values + k * width, min(key_block, n - k), a.head_dim,
                     used, s.scores, nullptr);
        for (int64_t j = 0; j < used; ++j) finish_lane(s.softmax, j, a.head_dim, a.out + base + (q0 + j) * stride);
    }
}

constexpr int64_t small_view = 4;  // rows of the merger's windows, and lanes of the shortest vectors

// Views of at most small_view rows: dot products of rows that are not packed, because packing would take longer.
inline void small_view_head(const ViewAttention& a, int64_t view, int64_t head) {
    const int64_t first = a.offsets[view], n = a.offsets[view + 1] - first, d = a.head_dim, stride = a.heads * d;
    const int64_t base = first * stride + head * d;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));
    const float *keys[small_view], *values[small_view];  // rows after the last repeat it
    for (int64_t k = 0; k < small_view; ++k) {
        const int64_t row = base + min(k, n - 1) * stride;
        keys[k] = a.key + row, values[k] = a.value + row;
    }
    for (int64_t q = 0; q < n; ++q) {
        Vec sums[small_view];
        for (Vec& v : sums) v = zero();
        for (int64_t j = 0; j < d; j += W) {
            const Vec query = load_some(a.query + base + q * stride + j, d - j);
#pragma GCC unroll 4
            for (int64_t k = 0; k < small_view; ++k) sums[k] = fma(query, load_some(keys[k] + j, d - j), sums[k]);
        }
        alignas(64) float weights[W];
        float top = lowest;
        store(weights, splat(lowest));
        for (int64_t k = 0; k < n; ++k) {
            weights[k] = sum(sums[k]) * scale;
            top = weights[k] > top ? weights[k] : top;
        }
        const Vec e = exp(load(weights) - splat(top)), inverse = splat(1.0f / sum(e));
        store(weights, e);
        for (int64_t j = 0; j < d; j += W) {
            Vec out = zero();
#pragma GCC unroll 4
            for (int64_t k = 0; k < small_view; ++k) out = fma(splat(weights[k]), load_some(values[k] + j, d - j), out);
            store_part(a.out + base + q * stride + j, out * inverse, d - j);
        }
    }
}

// Views without bfloat16 products: all, or those that are too short for a tile of bfloat16 keys.
inline void attention_views_float(Pool& pool, const ViewAttention& a, int64_t longest) {
    pool.reserve(static_cast<size_t>(scratch_floats(longest, a.head_dim)) * sizeof(float));
    const int64_t pairs = a.views * a.heads;
    // Few long views: several tasks for each pair. Many short views: several pairs in a task.
    const int64_t parts = min(divide_up(2 * pool.threads(), pairs), divide_up(longest, lanes));
    const int64_t together = parts > 1 ? 1 : max(1, min(pairs / (8 * pool.threads()), 65536 / (longest * longest)));
    parallel(pool, divide_up(pairs, together) * parts, [&](int64_t task, int worker) {
        const Scratch s = lay_out(pool.scratch(worker), longest, a.head_dim);
        const int64_t first = task / parts * together, last = min(pairs, first + together);
        for (int64_t pair = first; pair < last; ++pair) {
            const int64_t view = pair / a.heads, head = pair % a.heads;
            if (a.offsets[view + 1] - a.offsets[view] > small_view)
                view_head(a, s, view, head, task % parts, parts);
            else if (task % parts == 0)
                small_view_head(a, view, head);
        }
    });
}

}  // namespace

void attention_views(Pool& pool, const ViewAttention& a) {
    const auto in_bfloat16 = [&]([[maybe_unused]] int64_t rows) {
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
        return a.fast && rows >= bf16_keys;
#else
        return false;
#endif
    };
    for_each_run(a, in_bfloat16, [&](const ViewAttention& run, int64_t longest, [[maybe_unused]] bool bfloat16) {
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
        if (bfloat16) return attention_views_bf16(pool, run, longest);
#endif
        attention_views_float(pool, run, longest);
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA

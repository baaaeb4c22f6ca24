// Attention of twelve queries to blocks of keys: products in bfloat16, sums and a running softmax in float32.
#pragma once

#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t bf16_rows = 12;
constexpr int64_t bf16_keys = 2 * W;                           // keys of one tile of scores
constexpr int64_t weight_block = 1024;                         // keys of one block, at most
constexpr int64_t weight_stride = (weight_block + 2 * W) / 2;  // words; not a power of two, which would fill few cache sets
constexpr int64_t score_stride = weight_block + W;

// W rows (zero after the last) of head_dim numbers, transposed: out[pair][row].
inline void transpose_bf16(const float* const* rows, int64_t used, int64_t head_dim, uint32_t* out, int64_t stride, int64_t lanes_out) {
    const int64_t pairs = divide_up(head_dim, 2);
    for (int64_t j = 0; j < pairs; j += W) {
        Vec block[W];
#pragma GCC unroll 16
        for (int64_t r = 0; r < W; ++r) {
            if (r >= used) {
                block[r] = zero();
                continue;
            }
            const int64_t d = 2 * j;
            block[r] = (Vec)neighbours(load_some(rows[r] + d, head_dim - d), load_some(rows[r] + d + W, head_dim - d - W));
        }
        transpose(block);
        for (int64_t i = 0; i < min(W, pairs - j); ++i) store_part(reinterpret_cast<float*>(out + (j + i) * stride), block[i], lanes_out);
    }
}

// Keys of a block as [tiles of W keys][pairs of dims][W], values as [pairs of keys][padded dims]. Rows after the last are
// zero; row(k) is the address of a key or value.
template <class Row>
inline void pack_bf16_keys(const Row& row, int64_t n, int64_t head_dim, uint32_t* out) {
    const int64_t pairs = divide_up(head_dim, 2);
    for (int64_t k = 0; k < round_up(n, bf16_keys); k += W) {
        const float* rows[W];
        const int64_t used = min(W, n - k);
        for (int64_t r = 0; r < used; ++r) rows[r] = row(k + r);
        transpose_bf16(rows, used, head_dim, out + k * pairs, W, W);
    }
}

template <class Row>
inline void pack_bf16_values(const Row& row, int64_t n, int64_t head_dim, uint32_t* out) {
    const int64_t width = round_up(head_dim, W);
    for (int64_t k = 0; k < round_up(n, bf16_keys); k += 2, out += width) {
        if (k + 1 >= n) {
            const float* last = k < n ? row(k) : nullptr;
            for (int64_t d = 0; d < width; d += W)
                store_words(out + d, interleave(last ? load_some(last + d, head_dim - d) : zero(), zero()));
            continue;
        }
        const float *first = row(k), *second = row(k + 1);
        int64_t d = 0;
        for (; d + W <= head_dim; d += W) store_words(out + d, interleave(load(first + d), load(second + d)));
        if (d < width) store_words(out + d, interleave(load_part(first + d, head_dim - d), load_part(second + d, head_dim - d)));
    }
}

inline void pack_bf16_queries(const float* const* rows, int64_t used, int64_t head_dim, uint32_t* out) {
    transpose_bf16(rows, used, head_dim, out, bf16_rows, bf16_rows);
}

// scores [bf16_rows][2W] of one tile.
__attribute__((noinline)) void score_tile(const uint32_t* query, const uint32_t* keys, int64_t pairs, float* out, int64_t stride) {
    Vec sums[bf16_rows][2];
#pragma GCC unroll 12
    for (int64_t r = 0; r < bf16_rows; ++r) sums[r][0] = zero(), sums[r][1] = zero();
    for (int64_t j = 0; j < pairs; ++j) {
        const Bf16Pairs first = load_words(keys + j * W), second = load_words(keys + (pairs + j) * W);
#pragma GCC unroll 12
        for (int64_t r = 0; r < bf16_rows; ++r) {
            const Bf16Pairs q = repeat_word(query + j * bf16_rows + r);
            sums[r][0] = dot2(sums[r][0], q, first);
            sums[r][1] = dot2(sums[r][1], q, second);
        }
    }
#pragma GCC unroll 12
    for (int64_t r = 0; r < bf16_rows; ++r) {
        store(out + r * stride, sums[r][0]);
        store(out + r * stride + W, sums[r][1]);
    }
}

// sums [bf16_rows][Vecs W] += weights x values.
template <int Vecs>
__attribute__((noinline)) void weigh_tile(const uint32_t* weights, const uint32_t* values, int64_t pairs, int64_t width, float* out) {
    Vec sums[bf16_rows][Vecs];
#pragma GCC unroll 12
    for (int64_t r = 0; r < bf16_rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) sums[r][v] = load(out + r * width + v * W);
    for (int64_t j = 0; j < pairs; ++j) {
        Bf16Pairs value[Vecs];
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) value[v] = load_words(values + j * width + v * W);
#pragma GCC unroll 12
        for (int64_t r = 0; r < bf16_rows; ++r) {
            const Bf16Pairs w = repeat_word(weights + r * weight_stride + j);
#pragma GCC unroll 2
            for (int v = 0; v < Vecs; ++v) sums[r][v] = dot2(sums[r][v], w, value[v]);
        }
    }
#pragma GCC unroll 12
    for (int64_t r = 0; r < bf16_rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) store(out + r * width + v * W, sums[r][v]);
}

// The same for the last columns, of which there are at most W / 2 to be summed.
__attribute__((noinline)) void weigh_half_tile(const uint32_t* weights, const uint32_t* values, int64_t pairs, int64_t width, float* out) {
    HalfVec sums[bf16_rows];
#pragma GCC unroll 12
    for (int64_t r = 0; r < bf16_rows; ++r) sums[r] = load_half_vec(out + r * width);
    for (int64_t j = 0; j < pairs; ++j) {
        const HalfVecPairs value = load_half_words(values + j * width);
#pragma GCC unroll 12
        for (int64_t r = 0; r < bf16_rows; ++r) sums[r] = dot2(sums[r], repeat_half_word(weights + r * weight_stride + j), value);
    }
#pragma GCC unroll 12
    for (int64_t r = 0; r < bf16_rows; ++r) store_half_vec(out + r * width, sums[r]);
}

// The running softmax of twelve queries.
struct Bf16Softmax {
    float* sums;   // [bf16_rows][padded dims]
    float* total;  // [bf16_rows][W], parts of the sum of weights
    float* top;    // [bf16_rows]
};

inline int64_t bf16_softmax_floats(int64_t head_dim) { return bf16_rows * (round_up(head_dim, W) + W) + W; }

inline Bf16Softmax lay_out_softmax(float* memory, int64_t head_dim) {
    const int64_t width = round_up(head_dim, W);
    return Bf16Softmax{memory, memory + bf16_rows * width, memory + bf16_rows * (width + W)};
}

inline void begin(const Bf16Softmax& s, int64_t head_dim) {
    clear(s.sums, bf16_rows * (round_up(head_dim, W) + W));
    for (int64_t r = 0; r < bf16_rows; ++r) s.top[r] = -3.0e38f;
}

struct Bf16Memory {
    float* scores;      // [bf16_rows][score_stride]
    uint32_t* weights;  // [bf16_rows][weight_stride]
};

constexpr int64_t bf16_memory_floats = bf16_rows * (score_stride + weight_stride);

// Scores of packed bfloat16 pairs.
struct Bf16Scores {
    const uint32_t *query, *keys;
    int64_t pairs;

    void operator()(int64_t key, float* out) const { score_tile(query, keys + key * pairs, pairs, out, score_stride); }
    float scale(int64_t) const { return 1.0f; }
};

// The maximum of n > 0 scores, which are stored in whole vectors.
inline float highest(const float* row, int64_t n) {
    Vec partial[4];
    for (auto& v : partial) v = splat(-3.0e38f);
    int64_t k = 0;
    for (; k + 4 * W <= n; k += 4 * W)
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; ++i) partial[i] = vmax(partial[i], load(row + k + i * W));
    for (; k < n; k += W) partial[0] = max_part(partial[0], load(row + k), n - k);
    return max_of(vmax(vmax(partial[0], partial[1]), vmax(partial[2], partial[3])));
}

// Weights 2^(score * factor - top) of the first `seen` of n keys, zero for the others, as pairs; returns their sum in parts.
inline Vec weights_of(const float* row, int64_t seen, int64_t n, Vec factor, Vec top, uint32_t* out) {
    Vec low_sum = zero(), high_sum = zero();
    int64_t k = 0;
    for (; k + 2 * W <= seen; k += 2 * W) {
        const Vec low = power_of_two(fma(load(row + k), factor, zero() - top));
        const Vec high = power_of_two(fma(load(row + k + W), factor, zero() - top));
        low_sum = low_sum + low, high_sum = high_sum + high;
        store_words(out + k / 2, neighbours(low, high));
    }
    if (k < seen) {
        const Vec low = power_of_two(fma(load(row + k), factor, zero() - top));
        const Vec high = power_of_two(fma(load(row + k + W), factor, zero() - top));
        const Vec seen_low = first_of(low, seen - k);
        const Vec seen_high = first_of(high, seen - k - W);
        low_sum = low_sum + seen_low, high_sum = high_sum + seen_high;
        store_words(out + k / 2, neighbours(seen_low, seen_high));
        k += 2 * W;
    }
    for (; k < n; k += 2 * W) store_words(out + k / 2, neighbours(zero(), zero()));
    return low_sum + high_sum;
}

// Add a block of keys; row r sees the first seen[r] of them. scores(key, out) makes those of the tile of keys that begins
// there, to be multiplied by scores.scale(row).
template <class Scores>
inline void add_bf16_keys(const Bf16Softmax& s, const Bf16Memory& m, const Scores& scores, const uint32_t* values, const int64_t* seen,
                          int64_t head_dim) {
    const int64_t width = round_up(head_dim, W);
    const float base = 1.44269504f / __builtin_sqrtf(static_cast<float>(head_dim));  // powers of two, not of e
    int64_t n = 0;
    for (int64_t r = 0; r < bf16_rows; ++r) n = max(n, seen[r]);
    n = round_up(n, bf16_keys);
    for (int64_t k = 0; k < n; k += bf16_keys) scores(k, m.scores + k);
    for (int64_t r = 0; r < bf16_rows; ++r) {
        const float* row = m.scores + r * score_stride;
        const Vec factor = splat(base * scores.scale(r));
        const float previous = s.top[r], block_max = highest(row, seen[r]), maximum = block_max > previous ? block_max : previous;
        const Vec top = splat(maximum) * factor;
        Vec total = load(s.total + r * W);
        if (maximum != previous) {
            const Vec shrink = power_of_two(vmax(splat(previous) * factor - top, splat(-200.0f)));
            total = total * shrink;
            for (int64_t d = 0; d < width; d += W) store(s.sums + r * width + d, load(s.sums + r * width + d) * shrink);
            s.top[r] = maximum;
        }
        store(s.total + r * W, total + weights_of(row, seen[r], n, factor, top, m.weights + r * weight_stride));
    }
    int64_t c = 0;
    for (; c + 2 * W <= width; c += 2 * W) weigh_tile<2>(m.weights, values + c, n / 2, width, s.sums + c);
    if (c + W / 2 < head_dim)
        weigh_tile<1>(m.weights, values + c, n / 2, width, s.sums + c);
    else if (c < head_dim)
        weigh_half_tile(m.weights, values + c, n / 2, width, s.sums + c);
}

inline void finish_bf16_row(const Bf16Softmax& s, int64_t r, int64_t head_dim, float* out) {
    const Vec scale = splat(1.0f / sum(load(s.total + r * W)));
    const float* sums = s.sums + r * round_up(head_dim, W);
    for (int64_t j = 0; j < head_dim; j += W) store_part(out + j, load(sums + j) * scale, head_dim - j);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

// Attention of twelve queries to blocks of keys: products in bfloat16, sums and a running softmax in float32.
#pragma once

#include "attention/kv_rows.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t bf16_rows = 12;
constexpr int64_t bf16_keys = 2 * W;                           // keys of one tile of scores
constexpr int64_t weight_block = 1024;                         // keys of one block, at most
constexpr int64_t weight_stride = (weight_block + 2 * W) / 2;  // words; not a power of two, which would fill few cache sets
constexpr int64_t score_stride = weight_block + W;

// W pairs of neighbouring numbers, of which the first n > 0 numbers exist.
inline Bf16Pairs pairs_of(const float* p, int64_t n) { return neighbours(load_some(p, n), load_some(p + W, n - W)); }
inline Bf16Pairs pairs_of(const uint16_t* p, int64_t n) { return n >= 2 * W ? load_bf16(p) : load_bf16_part(p, n); }
inline Bf16Pairs pairs_of(const int8_t* p, int64_t n) {
    if (n >= 2 * W) return neighbours(load_int8(p), load_int8(p + W));
    const LastStep<int8_t> last(p, n);
    return neighbours(load_int8(last.numbers), load_int8(last.numbers + W));
}

// W rows (zero after the last) of head_dim numbers, transposed: out[pair][row].
template <class T>
inline void transpose_bf16(const T* const* rows, int64_t used, int64_t head_dim, uint32_t* out, int64_t stride, int64_t lanes_out) {
    const int64_t pairs = divide_up(head_dim, 2);
    for (int64_t j = 0; j < pairs; j += W) {
        Vec block[W];
#pragma GCC unroll 16
        for (int64_t r = 0; r < W; ++r) {
            if (r >= used) {
                block[r] = zero();
                continue;
            }
            block[r] = (Vec)pairs_of(rows[r] + 2 * j, head_dim - 2 * j);
        }
        transpose(block);
        for (int64_t i = 0; i < min(W, pairs - j); ++i) store_part(reinterpret_cast<float*>(out + (j + i) * stride), block[i], lanes_out);
    }
}

// 2W pairs (a[i], b[i]).
template <class T>
inline void interleave_rows(const T* a, const T* b, uint32_t* out) {
    const Bf16Pairs first = pairs_of(a, 2 * W), second = pairs_of(b, 2 * W);
    store_words(out, interleave_low(first, second));
    store_words(out + W, interleave_high(first, second));
}
inline void interleave_rows(const float* a, const float* b, uint32_t* out) {
    store_words(out, interleave(load(a), load(b)));
    store_words(out + W, interleave(load(a + W), load(b + W)));
}

// Keys of a block as [tiles of W keys][pairs of dims][W], values as [pairs of keys][padded dims]. Rows after the last are
// zero; row(k) is the address of a key or value.
template <class T, class Row>
inline void pack_bf16_keys(const Row& row, int64_t n, int64_t head_dim, uint32_t* out) {
    const int64_t pairs = divide_up(head_dim, 2);
    for (int64_t k = 0; k < round_up(n, bf16_keys); k += W) {
        const T* rows[W];
        const int64_t used = min(W, n - k);
        for (int64_t r = 0; r < used; ++r) rows[r] = row(k + r);
        transpose_bf16(rows, used, head_dim, out + k * pairs, W, W);
    }
}

template <class T, class Row>
inline void pack_bf16_values(const Row& row, int64_t n, int64_t head_dim, uint32_t* out) {
    const int64_t width = round_up(head_dim, W);
    for (int64_t k = 0; k < round_up(n, bf16_keys); k += 2, out += width) {
        const T *first = k < n ? row(k) : nullptr, *second = k + 1 < n ? row(k + 1) : nullptr;
        int64_t d = 0;
        for (; d + 2 * W <= head_dim && second; d += 2 * W) interleave_rows(first + d, second + d, out + d);
        for (; d < width; d += 2 * W) {
            const Bf16Pairs a = first ? pairs_of(first + d, head_dim - d) : (Bf16Pairs)zero();
            const Bf16Pairs b = second ? pairs_of(second + d, head_dim - d) : (Bf16Pairs)zero();
            store_words(out + d, interleave_low(a, b));
            if (d + W < width) store_words(out + d + W, interleave_high(a, b));
        }
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
// With Scaled, the pairs are multiplied by the scales of the values, and the sum is not.
template <bool Scaled>
inline Vec weights_of(const float* row, int64_t seen, int64_t n, Vec factor, Vec top, const float* scales, uint32_t* out) {
    const auto scaled = [&](Vec weight, int64_t k) { return Scaled ? weight * load(scales + k) : weight; };
    Vec low_sum = zero(), high_sum = zero();
    int64_t k = 0;
    for (; k + 2 * W <= seen; k += 2 * W) {
        const Vec low = power_of_two(fma(load(row + k), factor, zero() - top));
        const Vec high = power_of_two(fma(load(row + k + W), factor, zero() - top));
        low_sum = low_sum + low, high_sum = high_sum + high;
        store_words(out + k / 2, neighbours(scaled(low, k), scaled(high, k + W)));
    }
    if (k < seen) {
        const Vec low = power_of_two(fma(load(row + k), factor, zero() - top));
        const Vec high = power_of_two(fma(load(row + k + W), factor, zero() - top));
        const Vec seen_low = first_of(low, seen - k);
        const Vec seen_high = first_of(high, seen - k - W);
        low_sum = low_sum + seen_low, high_sum = high_sum + seen_high;
        store_words(out + k / 2, neighbours(scaled(seen_low, k), scaled(seen_high, k + W)));
        k += 2 * W;
    }
    for (; k < n; k += 2 * W) store_words(out + k / 2, neighbours(zero(), zero()));
    return low_sum + high_sum;
}

// Add a block of keys; row r sees the first seen[r] of them. scores(key, out) makes those of the tile of keys that begins
// there, to be multiplied by scores.scale(row). value_scales: of each value, in whole tiles of keys, or null.
template <class Scores>
inline void add_bf16_keys(const Bf16Softmax& s, const Bf16Memory& m, const Scores& scores, const uint32_t* values, const int64_t* seen,
                          int64_t head_dim, const float* value_scales = nullptr) {
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
        const auto weigh = value_scales ? weights_of<true> : weights_of<false>;
        store(s.total + r * W, total + weigh(row, seen[r], n, factor, top, value_scales, m.weights + r * weight_stride));
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

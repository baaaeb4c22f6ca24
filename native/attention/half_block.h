// Twelve queries against blocks of keys: products of bfloat16 pairs, sums and a running softmax in float.
#pragma once

#include "simd/halves_avx512bf16.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr long half_rows = 12;
constexpr long half_keys = 2 * W;                          // keys of one tile of scores
constexpr long weight_block = 1024;                        // keys of one block, at most
constexpr long weight_stride = (weight_block + 2 * W) / 2;  // words; not a power of two, which would fill few cache sets
constexpr long score_stride = weight_block + W;

inline Vec load_some(const float* p, long n) { return n >= W ? load(p) : load_part(p, n > 0 ? n : 0); }

// W rows (those behind the last are zero) of head_dim numbers, turned: out[pair][row].
inline void turn_pairs(const float* const* rows, long used, long head_dim, uint32_t* out, long stride, long lanes_out) {
    const long pairs = divide_up(head_dim, 2);
    for (long j = 0; j < pairs; j += W) {
        Vec block[W];
#pragma GCC unroll 16
        for (long r = 0; r < W; ++r) {
            if (r >= used) {
                block[r] = zero();
                continue;
            }
            const long d = 2 * j;
            block[r] = (Vec)neighbours(load_some(rows[r] + d, head_dim - d), load_some(rows[r] + d + W, head_dim - d - W));
        }
        transpose(block);
        for (long i = 0; i < smaller(W, pairs - j); ++i) store_part(reinterpret_cast<float*>(out + (j + i) * stride), block[i], lanes_out);
    }
}

// Keys of a block as [tiles of W keys][pairs of dims][W], values as [pairs of keys][padded dims]. Rows behind the last are
// zero; row(k) gives a key's or value's place.
template <class Row>
inline void pack_half_keys(const Row& row, long n, long head_dim, uint32_t* out) {
    const long pairs = divide_up(head_dim, 2);
    for (long k = 0; k < round_up(n, half_keys); k += W) {
        const float* rows[W];
        const long used = smaller(W, n - k);
        for (long r = 0; r < used; ++r) rows[r] = row(k + r);
        turn_pairs(rows, used, head_dim, out + k * pairs, W, W);
    }
}

template <class Row>
inline void pack_half_values(const Row& row, long n, long head_dim, uint32_t* out) {
    const long width = round_up(head_dim, W);
    for (long k = 0; k < round_up(n, half_keys); k += 2, out += width) {
        if (k + 1 >= n) {
            const float* last = k < n ? row(k) : nullptr;
            for (long d = 0; d < width; d += W) store_pairs(out + d, interleave(last ? load_some(last + d, head_dim - d) : zero(), zero()));
            continue;
        }
        const float *first = row(k), *second = row(k + 1);
        long d = 0;
        for (; d + W <= head_dim; d += W) store_pairs(out + d, interleave(load(first + d), load(second + d)));
        if (d < width) store_pairs(out + d, interleave(load_part(first + d, head_dim - d), load_part(second + d, head_dim - d)));
    }
}

inline void pack_half_queries(const float* const* rows, long used, long head_dim, uint32_t* out) {
    turn_pairs(rows, used, head_dim, out, half_rows, half_rows);
}

// scores [half_rows][2W] of one tile.
__attribute__((noinline)) void score_tile(const uint32_t* query, const uint32_t* keys, long pairs, float* out, long stride) {
    Vec sums[half_rows][2];
#pragma GCC unroll 12
    for (long r = 0; r < half_rows; ++r) sums[r][0] = zero(), sums[r][1] = zero();
    for (long j = 0; j < pairs; ++j) {
        const Pairs first = load_pairs(keys + j * W), second = load_pairs(keys + (pairs + j) * W);
#pragma GCC unroll 12
        for (long r = 0; r < half_rows; ++r) {
            const Pairs q = repeat_pair(query + j * half_rows + r);
            sums[r][0] = dot2(sums[r][0], q, first);
            sums[r][1] = dot2(sums[r][1], q, second);
        }
    }
#pragma GCC unroll 12
    for (long r = 0; r < half_rows; ++r) {
        store(out + r * stride, sums[r][0]);
        store(out + r * stride + W, sums[r][1]);
    }
}

// sums [half_rows][Vecs W] += weights x values.
template <int Vecs>
__attribute__((noinline)) void weigh_tile(const uint32_t* weights, const uint32_t* values, long pairs, long width, float* out) {
    Vec sums[half_rows][Vecs];
#pragma GCC unroll 12
    for (long r = 0; r < half_rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) sums[r][v] = load(out + r * width + v * W);
    for (long j = 0; j < pairs; ++j) {
        Pairs value[Vecs];
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) value[v] = load_pairs(values + j * width + v * W);
#pragma GCC unroll 12
        for (long r = 0; r < half_rows; ++r) {
            const Pairs w = repeat_pair(weights + r * weight_stride + j);
#pragma GCC unroll 2
            for (int v = 0; v < Vecs; ++v) sums[r][v] = dot2(sums[r][v], w, value[v]);
        }
    }
#pragma GCC unroll 12
    for (long r = 0; r < half_rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) store(out + r * width + v * W, sums[r][v]);
}

// The same for the last columns, of which there are at most W / 2 to be summed.
__attribute__((noinline)) void weigh_half_tile(const uint32_t* weights, const uint32_t* values, long pairs, long width, float* out) {
    HalfVec sums[half_rows];
#pragma GCC unroll 12
    for (long r = 0; r < half_rows; ++r) sums[r] = load_half_vec(out + r * width);
    for (long j = 0; j < pairs; ++j) {
        const HalfPairs value = load_half_pairs(values + j * width);
#pragma GCC unroll 12
        for (long r = 0; r < half_rows; ++r) sums[r] = dot2(sums[r], repeat_half_pair(weights + r * weight_stride + j), value);
    }
#pragma GCC unroll 12
    for (long r = 0; r < half_rows; ++r) store_half_vec(out + r * width, sums[r]);
}

// The running softmax of twelve queries.
struct HalfSoftmax {
    float* sums;   // [half_rows][padded dims]
    float* total;  // [half_rows][W], parts of the sum of weights
    float* top;    // [half_rows]
};

inline long half_softmax_floats(long head_dim) { return half_rows * (round_up(head_dim, W) + W) + W; }

inline HalfSoftmax lay_out_softmax(float* memory, long head_dim) {
    const long width = round_up(head_dim, W);
    return HalfSoftmax{memory, memory + half_rows * width, memory + half_rows * (width + W)};
}

inline void begin(const HalfSoftmax& s, long head_dim) {
    clear(s.sums, half_rows * (round_up(head_dim, W) + W));
    for (long r = 0; r < half_rows; ++r) s.top[r] = -3.0e38f;
}

struct HalfMemory {
    float* scores;      // [half_rows][score_stride]
    uint32_t* weights;  // [half_rows][weight_stride]
};

constexpr long half_memory_floats = half_rows * (score_stride + weight_stride);

// Scores of packed bfloat16 pairs.
struct HalfScores {
    const uint32_t *query, *keys;
    long pairs;

    void operator()(long key, float* out) const { score_tile(query, keys + key * pairs, pairs, out, score_stride); }
    float scale(long) const { return 1.0f; }
};

// The largest of n > 0 scores, which lie in whole vectors.
inline float highest(const float* row, long n) {
    Vec some[4];
    for (auto& v : some) v = splat(-3.0e38f);
    long k = 0;
    for (; k + 4 * W <= n; k += 4 * W)
#pragma GCC unroll 4
        for (long i = 0; i < 4; ++i) some[i] = vmax(some[i], load(row + k + i * W));
    for (; k < n; k += W) some[0] = _mm512_mask_max_ps(some[0], first_lanes(n - k), some[0], load(row + k));
    return _mm512_reduce_max_ps(vmax(vmax(some[0], some[1]), vmax(some[2], some[3])));
}

// Weights 2^(score * factor - top) of the first `seen` of n keys, zero for the others, as pairs; returns their sum in parts.
inline Vec weights_of(const float* row, long seen, long n, Vec factor, Vec top, uint32_t* out) {
    Vec low_sum = zero(), high_sum = zero();
    long k = 0;
    for (; k + 2 * W <= seen; k += 2 * W) {
        const Vec low = power_of_two(fma(load(row + k), factor, zero() - top));
        const Vec high = power_of_two(fma(load(row + k + W), factor, zero() - top));
        low_sum = low_sum + low, high_sum = high_sum + high;
        store_pairs(out + k / 2, neighbours(low, high));
    }
    if (k < seen) {
        const Vec low = power_of_two(fma(load(row + k), factor, zero() - top));
        const Vec high = power_of_two(fma(load(row + k + W), factor, zero() - top));
        const Vec seen_low = _mm512_maskz_mov_ps(first_lanes(seen - k), low);
        const Vec seen_high = _mm512_maskz_mov_ps(first_lanes(seen - k - W), high);
        low_sum = low_sum + seen_low, high_sum = high_sum + seen_high;
        store_pairs(out + k / 2, neighbours(seen_low, seen_high));
        k += 2 * W;
    }
    for (; k < n; k += 2 * W) store_pairs(out + k / 2, neighbours(zero(), zero()));
    return low_sum + high_sum;
}

// Add a block of keys; row r sees the first seen[r] of them. scores(key, out) makes those of the tile of keys that begins
// there, to be multiplied by scores.scale(row).
template <class Scores>
inline void add_half_keys(const HalfSoftmax& s, const HalfMemory& m, const Scores& scores, const uint32_t* values, const long* seen,
                          long head_dim) {
    const long width = round_up(head_dim, W);
    const float base = 1.44269504f / __builtin_sqrtf(static_cast<float>(head_dim));  // powers of two, not of e
    long n = 0;
    for (long r = 0; r < half_rows; ++r) n = larger(n, seen[r]);
    n = round_up(n, half_keys);
    for (long k = 0; k < n; k += half_keys) scores(k, m.scores + k);
    for (long r = 0; r < half_rows; ++r) {
        const float* row = m.scores + r * score_stride;
        const Vec factor = splat(base * scores.scale(r));
        const float before = s.top[r], now = highest(row, seen[r]), most = now > before ? now : before;
        const Vec top = splat(most) * factor;
        Vec total = load(s.total + r * W);
        if (most != before) {
            const Vec shrink = power_of_two(vmax(splat(before) * factor - top, splat(-200.0f)));
            total = total * shrink;
            for (long d = 0; d < width; d += W) store(s.sums + r * width + d, load(s.sums + r * width + d) * shrink);
            s.top[r] = most;
        }
        store(s.total + r * W, total + weights_of(row, seen[r], n, factor, top, m.weights + r * weight_stride));
    }
    long c = 0;
    for (; c + 2 * W <= width; c += 2 * W) weigh_tile<2>(m.weights, values + c, n / 2, width, s.sums + c);
    if (c + W / 2 < head_dim)
        weigh_tile<1>(m.weights, values + c, n / 2, width, s.sums + c);
    else if (c < head_dim)
        weigh_half_tile(m.weights, values + c, n / 2, width, s.sums + c);
}

inline void finish_half_row(const HalfSoftmax& s, long r, long head_dim, float* out) {
    const Vec scale = splat(1.0f / sum(load(s.total + r * W)));
    const float* sums = s.sums + r * round_up(head_dim, W);
    for (long j = 0; j < head_dim; j += W) store_part(out + j, load(sums + j) * scale, head_dim - j);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

// Attention inside views with products of bfloat16 pairs, sums and softmax in float. Twelve queries see all keys at once:
// scores [queries][keys], then their powers as pairs, then the weighted values.
#pragma once

#include "attention/attention.h"
#include "simd/halves_avx512bf16.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr long half_rows = 12;
constexpr long half_keys = 2 * W;                          // keys of one tile of scores
constexpr long weight_block = 1024;                        // keys whose weights are kept
constexpr long weight_stride = (weight_block + 2 * W) / 2;  // words; not a power of two, which would fill few cache sets

struct HalfScratch {
    uint32_t *keys;     // [tiles of W keys][pairs of dims][W]
    uint32_t *values;   // [pairs of keys][padded dims]
    uint32_t *query;    // [pairs of dims][half_rows]
    uint32_t *weights;  // [half_rows][weight_stride]
    float *scores;      // [half_rows][padded keys]
    float *sums;        // [half_rows][padded dims]
};

inline HalfScratch lay_out_halves(float* memory, long keys, long head_dim) {
    const long n = round_up(keys, half_keys), pairs = divide_up(head_dim, 2), width = round_up(head_dim, W);
    HalfScratch s;
    auto* words = reinterpret_cast<uint32_t*>(memory);
    s.keys = words, words += n * pairs;
    s.values = words, words += n / 2 * width;
    s.query = words, words += pairs * half_rows + 16;
    s.weights = words, words += half_rows * weight_stride;
    s.scores = reinterpret_cast<float*>(words);
    s.sums = s.scores + half_rows * (n + W);
    return s;
}

inline long half_floats(long keys, long head_dim) {
    const long n = round_up(keys, half_keys), pairs = divide_up(head_dim, 2), width = round_up(head_dim, W);
    return n * pairs + n / 2 * width + pairs * half_rows + 16 + half_rows * (weight_stride + n + W + width) + 64;
}

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

inline void pack_view(const ViewAttention& a, const HalfScratch& s, long base, long n) {
    const long stride = a.heads * a.head_dim, pairs = divide_up(a.head_dim, 2), width = round_up(a.head_dim, W);
    const long padded_keys = round_up(n, half_keys);
    for (long k = 0; k < padded_keys; k += W) {
        const float* rows[W];
        const long used = smaller(W, n - k);
        for (long r = 0; r < used; ++r) rows[r] = a.key + base + (k + r) * stride;
        turn_pairs(rows, used, a.head_dim, s.keys + k * pairs, W, W);
    }
    for (long k = 0; k < padded_keys; k += 2)
        for (long d = 0; d < width; d += W) {
            const float* row = a.value + base + k * stride + d;
            const Vec first = k < n ? load_some(row, a.head_dim - d) : zero();
            const Vec second = k + 1 < n ? load_some(row + stride, a.head_dim - d) : zero();
            store_pairs(s.values + k / 2 * width + d, interleave(first, second));
        }
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

inline void view_head_halves(const ViewAttention& a, const HalfScratch& s, long view, long head, long part, long parts) {
    const long first = a.offsets[view], n = a.offsets[view + 1] - first, d = a.head_dim;
    const long stride = a.heads * d, pairs = divide_up(d, 2), width = round_up(d, W), padded_keys = round_up(n, half_keys);
    const long base = first * stride + head * d, score_stride = padded_keys + W;
    const Vec factor = splat(1.44269504f / __builtin_sqrtf(static_cast<float>(d)));  // powers of two, not of e
    pack_view(a, s, base, n);
    const long blocks = divide_up(n, half_rows);
    for (long block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
        const long q0 = block * half_rows, used = smaller(half_rows, n - q0);
        const float* rows[W];
        for (long r = 0; r < used; ++r) rows[r] = a.query + base + (q0 + r) * stride;
        turn_pairs(rows, used, d, s.query, half_rows, half_rows);
        for (long k = 0; k < padded_keys; k += half_keys) score_tile(s.query, s.keys + k * pairs, pairs, s.scores + k, score_stride);
        clear(s.sums, half_rows * width);
        Vec top[half_rows], total[half_rows];
        for (long r = 0; r < half_rows; ++r) {
            const float* row = s.scores + r * score_stride;
            Vec most = splat(-3.0e38f);
            long k = 0;
            for (; k + W <= n; k += W) most = vmax(most, load(row + k));
            float last = -3.0e38f;
            for (; k < n; ++k) last = row[k] > last ? row[k] : last;
            const float lanes = _mm512_reduce_max_ps(most);
            top[r] = splat(lanes > last ? lanes : last) * factor;
            total[r] = zero();
        }
        for (long k0 = 0; k0 < padded_keys; k0 += weight_block) {
            const long count = smaller(weight_block, padded_keys - k0);
            for (long r = 0; r < half_rows; ++r) {
                const float* row = s.scores + r * score_stride + k0;
                Vec sum_of_row = total[r];
                for (long k = 0; k < count; k += 2 * W) {
                    Vec low = power_of_two(load(row + k) * factor - top[r]), high = power_of_two(load(row + k + W) * factor - top[r]);
                    if (k0 + k + 2 * W > n) {  // keys behind the last have no weight
                        low = _mm512_maskz_mov_ps(first_lanes(n - k0 - k), low);
                        high = _mm512_maskz_mov_ps(first_lanes(n - k0 - k - W), high);
                    }
                    sum_of_row = sum_of_row + (low + high);
                    store_pairs(s.weights + r * weight_stride + k / 2, neighbours(low, high));
                }
                total[r] = sum_of_row;
            }
            long c = 0;
            for (; c + 2 * W <= width; c += 2 * W) weigh_tile<2>(s.weights, s.values + k0 / 2 * width + c, count / 2, width, s.sums + c);
            if (c < width) weigh_tile<1>(s.weights, s.values + k0 / 2 * width + c, count / 2, width, s.sums + c);
        }
        for (long r = 0; r < used; ++r) {
            const Vec scale = splat(1.0f / sum(total[r]));
            float* out = a.out + base + (q0 + r) * stride;
            for (long j = 0; j < d; j += W) store_part(out + j, load(s.sums + r * width + j) * scale, d - j);
        }
    }
}

// Every view must have at least half_keys rows.
void attention_views_halves(Pool& pool, const ViewAttention& a, long longest) {
    pool.reserve(static_cast<size_t>(half_floats(longest, a.head_dim)) * sizeof(float));
    const long pairs = a.views * a.heads;
    const long parts = smaller(divide_up(2L * pool.threads(), pairs), divide_up(longest, half_rows));
    parallel(pool, pairs * parts, [&](long task, int worker) {
        const long pair = task / parts;
        view_head_halves(a, lay_out_halves(pool.scratch(worker), longest, a.head_dim), pair / a.heads, pair % a.heads, task % parts, parts);
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

// Rows rounded to bfloat16 times matrices of bfloat16 numbers: products of pairs, sums in float, weights where they lie.
//
// A row and an output have one vector of sums: lane l adds pair l of every block of 2W inputs, block after block, and in the
// end the lanes are added in one order. So a row's results have the same bits whatever rows stand beside it.
#pragma once

#include "linear/epilogue.h"
#include "simd/halves_avx512bf16.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr long half_tile = 6;                   // rows whose sums with four outputs fill the registers
constexpr long half_block_bytes = 192L << 10;   // weights that stay in the cache while all tiles of rows pass
constexpr long half_prefetch = 2048;            // bytes of a row of weights to ask for early

// x [rows][stride] in bfloat16, padded with zeros to whole blocks of 2W.
struct HalfRows {
    uint16_t* data;
    long stride;
};

inline Pairs load_halves(const uint16_t* p) { return _mm512_loadu_si512(p); }
inline Pairs load_halves_part(const uint16_t* p, long n) {  // n < 2W
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << n) - 1u), p);
}

inline void round_row(const float* x, long inputs, uint16_t* out) {
    long k = 0;
    for (; k + 2 * W <= inputs; k += 2 * W) _mm512_storeu_si512(out + k, neighbours(load(x + k), load(x + k + W)));
    if (k == inputs) return;
    float block[2 * W] = {};
    copy(block, x + k, inputs - k);
    _mm512_storeu_si512(out + k, neighbours(load(block), load(block + W)));
}

// The sum of the lanes of each of four vectors.
inline __m128 sums_of(Vec a, Vec b, Vec c, Vec d) {
    const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b));
    const __m512d cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d));
    const Vec all = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)) + _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    const __m256 half = _mm512_castps512_ps256(all) + _mm512_extractf32x8_ps(all, 1);
    return _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
}

// Rows of x times four outputs, or one; Cold: the weights are not in the cache yet.
template <int Outputs, int Rows, bool Cold>
__attribute__((noinline)) void half_dots(const uint16_t* weight, long inputs, const uint16_t* x, long x_stride, float* out, long stride) {
    Vec sums[4][Rows];
#pragma GCC unroll 4
    for (int o = 0; o < 4; ++o)
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r) sums[o][r] = zero();
    long k = 0;
    for (; k + 2 * W <= inputs; k += 2 * W) {
        Pairs weights[Outputs];
#pragma GCC unroll 4
        for (int o = 0; o < Outputs; ++o) {
            weights[o] = load_halves(weight + o * inputs + k);
            if constexpr (Cold) __builtin_prefetch(reinterpret_cast<const char*>(weight + o * inputs + k) + half_prefetch);
        }
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r) {
            const Pairs row = load_halves(x + r * x_stride + k);
#pragma GCC unroll 4
            for (int o = 0; o < Outputs; ++o) sums[o][r] = dot2(sums[o][r], row, weights[o]);
        }
    }
    if (k < inputs) {
        for (int o = 0; o < Outputs; ++o) {
            const Pairs weights = load_halves_part(weight + o * inputs + k, inputs - k);
            for (int r = 0; r < Rows; ++r) sums[o][r] = dot2(sums[o][r], load_halves(x + r * x_stride + k), weights);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
        const __m128 all = sums_of(sums[0][r], sums[1][r], sums[2][r], sums[3][r]);
        if constexpr (Outputs == 4)
            _mm_storeu_ps(out + r * stride, all);
        else
            out[r * stride] = _mm_cvtss_f32(all);
    }
}

// One tile of rows times outputs [first, last).
template <int Rows>
inline void half_outputs(const Linear& a, const HalfRows& x, long row, long first, long last, bool cold) {
    const uint16_t *weight = static_cast<const uint16_t*>(a.weight) + first * a.inputs, *in = x.data + row * x.stride;
    float* out = a.out + row * a.outputs;
    long o = first;
    for (; o + 4 <= last; o += 4, weight += 4 * a.inputs) {
        if (cold)
            half_dots<4, Rows, true>(weight, a.inputs, in, x.stride, out + o, a.outputs);
        else
            half_dots<4, Rows, false>(weight, a.inputs, in, x.stride, out + o, a.outputs);
    }
    for (; o < last; ++o, weight += a.inputs) half_dots<1, Rows, false>(weight, a.inputs, in, x.stride, out + o, a.outputs);
}

template <int Rows>
inline void half_outputs_of(long rows, const Linear& a, const HalfRows& x, long row, long first, long last, bool cold) {
    if constexpr (Rows > 1)
        if (rows < Rows) return half_outputs_of<Rows - 1>(rows, a, x, row, first, last, cold);
    half_outputs<Rows>(a, x, row, first, last, cold);
}

inline void half_linear(Pool& pool, const Linear& a) {
    if (a.rows == 0 || a.outputs == 0) return;
    const long stride = round_up(a.inputs, 2 * W);
    const HalfRows x{reinterpret_cast<uint16_t*>(pool.shared(static_cast<size_t>(a.rows * stride) * sizeof(uint16_t))), stride};
    parallel_ranges(pool, a.rows, divide_up(16384, a.inputs), [&](long first, long last) {
        for (long r = first; r < last; ++r) round_row(a.x + r * a.inputs, a.inputs, x.data + r * stride);
    });
    const long weight_bytes = a.inputs * static_cast<long>(sizeof(uint16_t)), tiles = divide_up(a.rows, half_tile);
    const long block = larger(4, half_block_bytes / weight_bytes / 4 * 4);  // outputs
    const long fair = divide_up(a.outputs, 4L * pool.threads()), least = divide_up(32768, weight_bytes * tiles);
    const long piece = round_up(smaller(larger(fair, least), larger(block, (1 << 20) / (weight_bytes * tiles))), 4);
    const long pieces = divide_up(a.outputs, piece);
    const long splits = smaller(divide_up(4L * pool.threads(), pieces), larger(1, tiles / 4));  // of the rows, for few outputs
    const auto row_of = [&](long tile) { return tile * a.rows / tiles; };
    parallel(pool, pieces * splits, [&](long task, int) {
        const long first = task / splits * piece, last = smaller(a.outputs, first + piece), split = task % splits;
        const long first_tile = split * tiles / splits, last_tile = (split + 1) * tiles / splits;
        for (long o = first; o < last; o += block)
            for (long t = first_tile; t < last_tile; ++t) {
                const long r = row_of(t), rows = row_of(t + 1) - r, end = smaller(last, o + block);
                half_outputs_of<half_tile>(rows, a, x, r, o, end, t == first_tile);
                finish(a, a.out + r * a.outputs + o, a.outputs, r, rows, o, end - o);
            }
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

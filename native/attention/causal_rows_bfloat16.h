// Causal attention of single rows over bfloat16 pages with bfloat16 products: queries and weights are rounded, as in runs of rows.
#pragma once

#include "attention/attention.h"
#include "attention/bfloat16_block.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// sums[h * Keys + i] = the sum of query h and key i in parts; query as pairs, whole vectors with zeros after head_dim.
template <int Heads, int Keys>
inline void bf16_scores(const uint32_t* query, int64_t words, const uint16_t* const* keys, int64_t d, Vec* sums) {
#pragma GCC unroll 16
    for (int i = 0; i < Heads * Keys; ++i) sums[i] = zero();
    const auto add = [&](int64_t j, const auto& load_key) {
        Bf16Pairs q[Heads];
#pragma GCC unroll 4
        for (int h = 0; h < Heads; ++h) q[h] = load_words(query + h * words + j / 2);
#pragma GCC unroll 4
        for (int i = 0; i < Keys; ++i) {
            const Bf16Pairs key = load_key(keys[i] + j);
#pragma GCC unroll 4
            for (int h = 0; h < Heads; ++h) sums[h * Keys + i] = dot2(sums[h * Keys + i], q[h], key);
        }
    };
    int64_t j = 0;
    for (; j + 2 * W <= d; j += 2 * W) {
#pragma GCC unroll 4
        for (int i = 0; i < Keys; ++i) __builtin_prefetch(keys[i + keys_ahead<uint16_t>] + j);
        add(j, [](const uint16_t* p) { return load_bf16(p); });
    }
    if (j < d) add(j, [&](const uint16_t* p) { return load_bf16_part(p, d - j); });
}

// out[h * width + 0..2 W Steps) += the weighted values of pairs of keys from `column` on; the first n <= 2 W Steps exist.
template <int Heads, int Steps, bool Whole>
inline void bf16_weigh(const uint32_t* weights, int64_t stride, const uint16_t* const* values, const uint16_t* next, int64_t column, int64_t n,
                       int64_t pairs, float* out, int64_t width) {
    Vec sums[Heads][2 * Steps];
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
        for (int v = 0; v < 2 * Steps; ++v) sums[h][v] = load(out + h * width + v * W);
    for (int64_t i = 0; i < pairs; ++i) {
        const uint16_t *first = values[2 * i] + column, *second = values[2 * i + 1] + column;
        // Rows of a page follow each other, and so do blocks of keys.
        for (int64_t p = 0; p < 2 * Steps; ++p) __builtin_prefetch(next + (2 * Steps * i + p) * 2 * W);
        Bf16Pairs w[Heads];
#pragma GCC unroll 4
        for (int h = 0; h < Heads; ++h) w[h] = repeat_word(weights + h * stride + i);
#pragma GCC unroll 2
        for (int s = 0; s < Steps; ++s) {
            const Bf16Pairs a = Whole ? load_bf16(first + s * 2 * W) : load_bf16_part(first, n);
            const Bf16Pairs b = Whole ? load_bf16(second + s * 2 * W) : load_bf16_part(second, n);
            const Bf16Pairs low = interleave_low(a, b), high = interleave_high(a, b);
#pragma GCC unroll 4
            for (int h = 0; h < Heads; ++h) {
                sums[h][2 * s] = dot2(sums[h][2 * s], w[h], low);
                sums[h][2 * s + 1] = dot2(sums[h][2 * s + 1], w[h], high);
            }
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
        for (int v = 0; v < 2 * Steps; ++v) store(out + h * width + v * W, sums[h][v]);
}

// The weighted values of n keys, for Heads queries; weights as pairs with zeros after the last.
template <int Heads>
inline void bf16_weighted_values(const uint32_t* weights, int64_t stride, const uint16_t* const* values, int64_t block, int64_t n, int64_t d,
                                 float* out, int64_t width) {
    clear(out, Heads * width);
    for (int64_t i = 0; i < n; i += block) {
        const int64_t pairs = divide_up(min(block, n - i), 2);
        const uint32_t* w = weights + i / 2;
        int64_t j = 0;
        const uint16_t* next = values[i + values_ahead];
        for (; j + 4 * W <= d; j += 4 * W) bf16_weigh<Heads, 2, true>(w, stride, values + i, next + block * j, j, 4 * W, pairs, out + j, width);
        for (; j + 2 * W <= d; j += 2 * W) bf16_weigh<Heads, 1, true>(w, stride, values + i, next + block * j, j, 2 * W, pairs, out + j, width);
        if (j < d) bf16_weigh<Heads, 1, false>(w, stride, values + i, next + block * j, j, d - j, pairs, out + j, width);
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

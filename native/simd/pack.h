// Transposes rows into columns: the packed layout that the block product (tile.h) reads.
#pragma once

#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// out[k * stride + i] = rows[i][k] * scale for i < n and zero up to W, for k < depth. Stores are W wide and ascending, so
// stride may be less than W if W floats after the end may be overwritten.
inline void transpose_rows(const float* const* rows, int64_t n, int64_t depth, float* out, int64_t stride, float scale = 1.0f) {
    const Vec factor = splat(scale);
    Vec block[W];
    int64_t k = 0;
    for (; k + W <= depth; k += W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) block[i] = i < n ? load(rows[i] + k) : zero();
        transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store(out + (k + i) * stride, block[i] * factor);
    }
    if (k == depth) return;
    for (int i = 0; i < W; ++i) block[i] = i < n ? load_part(rows[i] + k, depth - k) : zero();
    transpose(block);
    for (int i = 0; i < depth - k; ++i) store(out + (k + i) * stride, block[i] * factor);
}

inline Vec load_bits_part(const uint16_t* p, int64_t n) {
    uint16_t padded[2 * W] = {};
    __builtin_memcpy(padded, p, static_cast<size_t>(n) * sizeof(uint16_t));
    return load_bits(padded);
}

inline void transpose_rows(const uint16_t* const* rows, int64_t n, int64_t depth, float* out, int64_t stride) {
    Vec block[W];
    int64_t k = 0;
    for (; k + 2 * W <= depth; k += 2 * W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) block[i] = i < n ? load_bits(rows[i] + k) : zero();
        transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) {
            store(out + (k + 2 * i) * stride, low_bf16(block[i]));
            store(out + (k + 2 * i + 1) * stride, high_bf16(block[i]));
        }
    }
    if (k == depth) return;
    for (int i = 0; i < W; ++i) block[i] = i < n ? load_bits_part(rows[i] + k, depth - k) : zero();
    transpose(block);
    for (int i = 0; i < depth - k; ++i)
        store(out + (k + i) * stride, i % 2 == 0 ? low_bf16(block[i / 2]) : high_bf16(block[i / 2]));
}

// Any number of rows; the stride holds them all, in whole vectors if there are more than W.
template <class T>
inline void pack_columns(const T* first, int64_t row_stride, int64_t n, int64_t depth, float* out, int64_t stride) {
    const T* rows[W];
    for (int64_t i = 0; i < n; i += W) {
        const int64_t count = min(W, n - i);
        for (int64_t r = 0; r < count; ++r) rows[r] = first + (i + r) * row_stride;
        transpose_rows(rows, count, depth, out + i, stride);
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

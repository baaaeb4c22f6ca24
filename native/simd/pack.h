// Rows turned into columns: the layout that the block product (tile.h) reads.
#pragma once

#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// out[k * stride + i] = rows[i][k] * scale for i < n and zero up to W, for k < depth. Stores are W wide and ascending, so
// stride may be less than W if W floats behind the end may be overwritten.
inline void transpose_rows(const float* const* rows, long n, long depth, float* out, long stride, float scale = 1.0f) {
    const Vec factor = splat(scale);
    Vec block[W];
    long k = 0;
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

inline Vec load_bits_part(const uint16_t* p, long n) {
    uint16_t padded[2 * W] = {};
    __builtin_memcpy(padded, p, static_cast<unsigned long>(n) * sizeof(uint16_t));
    return load_bits(padded);
}

inline void transpose_rows(const uint16_t* const* rows, long n, long depth, float* out, long stride) {
    Vec block[W];
    long k = 0;
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
inline void pack_columns(const T* first, long row_stride, long n, long depth, float* out, long stride) {
    const T* rows[W];
    for (long i = 0; i < n; i += W) {
        const long count = smaller(W, n - i);
        for (long r = 0; r < count; ++r) rows[r] = first + (i + r) * row_stride;
        transpose_rows(rows, count, depth, out + i, stride);
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

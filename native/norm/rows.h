// Norms and gates of one row, for the operations alone and for products that do them before they quantize their input. Both
// use the same code, so they give the same bits.
#pragma once

#include "simd/math.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Calls put(j, n) for each vector of columns [begin, end); n < W only in the last.
template <class Put>
inline void across(int64_t begin, int64_t end, const Put& put) {
    int64_t j = begin;
    for (; j + W <= end; j += W) put(j, W);
    if (j < end) put(j, end - j);
}

inline Vec get(const float* p, int64_t n) { return n == W ? load(p) : load_part(p, n); }
inline void set(float* p, Vec v, int64_t n) {
    if (n == W)
        store(p, v);
    else
        store_part(p, v, n);
}

// The numbers of a whole row that a norm needs before it computes any column.
struct RowStatistics {
    float mean, factor;
};

inline float inverse_root(float x) { return 1.0f / __builtin_sqrtf(x); }

inline RowStatistics rms_statistics(const float* x, int64_t width, float eps) {
    Vec total = zero();
    across(0, width, [&](int64_t j, int64_t n) {
        const Vec v = get(x + j, n);
        total = fma(v, v, total);
    });
    return {.mean = 0.0f, .factor = inverse_root(sum(total) / static_cast<float>(width) + eps)};
}

inline RowStatistics layer_statistics(const float* x, int64_t width, float eps) {
    Vec total = zero(), squares = zero();
    across(0, width, [&](int64_t j, int64_t n) { total = total + get(x + j, n); });
    const float mean = sum(total) / static_cast<float>(width);
    alignas(64) float means[W];
    store(means, splat(mean));
    across(0, width, [&](int64_t j, int64_t n) {
        const Vec d = get(x + j, n) - get(means, n);  // zero after the end of the row
        squares = fma(d, d, squares);
    });
    return {.mean = mean, .factor = inverse_root(sum(squares) / static_cast<float>(width) + eps)};
}

// Columns [begin, end) of the results.
inline void rms_norm_row(const float* x, const float* weight, const RowStatistics& row, int64_t begin, int64_t end, float* out) {
    const Vec factor = splat(row.factor);
    across(begin, end, [&](int64_t j, int64_t n) { set(out + j, get(x + j, n) * factor * (splat(1.0f) + get(weight + j, n)), n); });
}

inline void layer_norm_row(const float* x, const float* weight, const float* bias, const RowStatistics& row, int64_t begin, int64_t end,
                           float* out) {
    const Vec mean = splat(row.mean), factor = splat(row.factor);
    across(begin, end, [&](int64_t j, int64_t n) {
        const Vec v = (get(x + j, n) - mean) * factor;
        set(out + j, fma(v, get(weight + j, n), get(bias + j, n)), n);
    });
}

inline void gated_rms_norm_row(const float* x, const float* z, const float* weight, const RowStatistics& row, int64_t begin, int64_t end,
                               float* out) {
    const Vec factor = splat(row.factor);
    across(begin, end, [&](int64_t j, int64_t n) {
        set(out + j, get(weight + j, n) * (get(x + j, n) * factor) * silu(get(z + j, n)), n);
    });
}

inline void sigmoid_gate_row(const float* x, const float* gate, int64_t begin, int64_t end, float* out) {
    across(begin, end, [&](int64_t j, int64_t n) { set(out + j, sigmoid(get(gate + j, n)) * get(x + j, n), n); });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

// RMS norm, layer norm and gated RMS norm, one row at a time.
#include "norm/norm.h"
#include "simd/math.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// put(j, n) for each vector of a row of `width`, n < W only in the last.
template <class Put>
inline void across(int64_t width, const Put& put) {
    int64_t j = 0;
    for (; j + W <= width; j += W) put(j, W);
    if (j < width) put(j, width - j);
}

inline Vec get(const float* p, int64_t n) { return n == W ? load(p) : load_part(p, n); }
inline void set(float* p, Vec v, int64_t n) {
    if (n == W)
        store(p, v);
    else
        store_part(p, v, n);
}

inline float mean_square(const float* x, int64_t width) {
    Vec total = zero();
    across(width, [&](int64_t j, int64_t n) {
        const Vec v = get(x + j, n);
        total = fma(v, v, total);
    });
    return sum(total) / static_cast<float>(width);
}

inline Vec inverse_root(float x) { return splat(1.0f / __builtin_sqrtf(x)); }

constexpr int64_t min_work = 8192;  // floats from which on another thread is worth its start

}  // namespace

void rms_norm(Pool& pool, const RmsNorm& a) {
    parallel_ranges(pool, a.rows, min_work / a.width, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) {
            const float* x = a.x + r * a.width;
            const Vec factor = inverse_root(mean_square(x, a.width) + a.eps);
            across(a.width, [&](int64_t j, int64_t n) {
                set(a.out + r * a.width + j, get(x + j, n) * factor * (splat(1.0f) + get(a.weight + j, n)), n);
            });
        }
    });
}

void layer_norm(Pool& pool, const LayerNorm& a) {
    parallel_ranges(pool, a.rows, min_work / a.width, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) {
            const float* x = a.x + r * a.width;
            Vec total = zero(), squares = zero();
            across(a.width, [&](int64_t j, int64_t n) { total = total + get(x + j, n); });
            const float mean = sum(total) / static_cast<float>(a.width);
            alignas(64) float means[W];
            store(means, splat(mean));
            across(a.width, [&](int64_t j, int64_t n) {
                const Vec d = get(x + j, n) - get(means, n);  // zero after the end of the row
                squares = fma(d, d, squares);
            });
            const Vec factor = inverse_root(sum(squares) / static_cast<float>(a.width) + a.eps);
            across(a.width, [&](int64_t j, int64_t n) {
                const Vec v = (get(x + j, n) - splat(mean)) * factor;
                set(a.out + r * a.width + j, fma(v, get(a.weight + j, n), get(a.bias + j, n)), n);
            });
        }
    });
}

void gated_rms_norm(Pool& pool, const GatedRmsNorm& a) {
    parallel_ranges(pool, a.rows, min_work / a.width, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) {
            const float *x = a.x + r * a.width, *z = a.z + r * a.width;
            const Vec factor = inverse_root(mean_square(x, a.width) + a.eps);
            across(a.width, [&](int64_t j, int64_t n) {
                set(a.out + r * a.width + j, get(a.weight + j, n) * (get(x + j, n) * factor) * silu(get(z + j, n)), n);
            });
        }
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA

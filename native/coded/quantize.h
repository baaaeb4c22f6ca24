// Rows of activations as signed bytes: x = scale * q with |q| <= 127, one scale a row or one a group of inputs.
#pragma once

#include "simd/bytes.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

inline float largest(const float* x, long n) {
    Vec most = zero();
    long k = 0;
    for (; k + W <= n; k += W) most = vmax(vabs(load(x + k)), most);
    if (k < n) most = vmax(vabs(load_part(x + k, n - k)), most);
    float lanes[W], best = 0.0f;
    store(lanes, most);
    for (long i = 0; i < W; ++i) best = lanes[i] > best ? lanes[i] : best;
    return best;
}

// x [n] to q [padded] with zeros behind; returns the scale and the sum of q. n <= padded, a multiple of W.
inline float quantize(const float* x, long n, long padded, int8_t* q, int32_t& total) {
    const float most = largest(x, n), scale = most / 127.0f;
    // Below this the inverse would overflow: such a group is zero for every purpose.
    const Vec inverse = splat(most > 1e-36f ? 127.0f / most : 0.0f);
    Counts sums = count(0);
    long k = 0;
    for (; k + W <= n; k += W) {
        const Vec v = load(x + k) * inverse;
        sums = add(sums, to_counts(v));
        store_bytes(q + k, v);
    }
    for (; k < padded; k += W) {
        const Vec v = (k < n ? load_part(x + k, n - k) : zero()) * inverse;
        sums = add(sums, to_counts(v));
        store_bytes(q + k, v);
    }
    total = sum(sums);
    return scale;
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

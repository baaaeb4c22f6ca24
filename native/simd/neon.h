// NEON without the dot product: products of bytes summed in pairs, then in fours.
#pragma once

#include "simd/neon_vectors.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr ActivationLayout activation_layout{.weight_offset = 0, .interleave = 4, .tile_rows = 4};

// Two products fit 16 bits: inputs are at least -127, so 2 * 128 * 127 is the maximum.
inline Counts add_fours(Counts sums, int8x16_t weights, int8x16_t x) {
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(x)), high = vmull_high_s8(weights, x);
    return vpadalq_s16(sums, vpaddq_s16(low, high));
}

inline Counts dot8(Counts sums, Bytes weights, Bytes x) { return add_fours(sums, signed_weights(weights), vreinterpretq_s8_u8(x)); }
inline Counts dot4(Counts sums, Bytes weights, Bytes x) {
    return add_fours(sums, vreinterpretq_s8_u8(weights), vreinterpretq_s8_u8(x));
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

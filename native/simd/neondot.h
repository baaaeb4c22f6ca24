// NEON with the dot product: four sums of four products in one instruction.
#pragma once

#include "simd/neon_vectors.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr ActivationLayout activation_layout{.weight_offset = 0, .interleave = 4, .tile_rows = 4};

inline Counts dot8(Counts sums, Bytes weights, Bytes x) { return vdotq_s32(sums, signed_weights(weights), vreinterpretq_s8_u8(x)); }
inline Counts dot4(Counts sums, Bytes weights, Bytes x) {
    return vdotq_s32(sums, vreinterpretq_s8_u8(weights), vreinterpretq_s8_u8(x));
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

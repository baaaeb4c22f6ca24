// NEON with I8MM: products of unsigned weights with signed inputs, so that weights are used as they are stored.
#pragma once

#include "simd/neon_vectors.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr ActivationLayout activation_layout{.weight_offset = 128, .interleave = 4, .tile_rows = 4};

inline Counts dot8(Counts sums, Bytes weights, Bytes x) { return vusdotq_s32(sums, weights, vreinterpretq_s8_u8(x)); }
inline Counts dot4(Counts sums, Bytes weights, Bytes x) { return dot8(sums, weights, x); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

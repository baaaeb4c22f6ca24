// AVX2 with VNNI: eight sums of four products in one instruction.
#pragma once

#include "simd/avx2_vectors.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr ActivationLayout activation_layout{.weight_offset = 128, .interleave = 4, .tile_rows = 4};

// As assembly: gcc 12 moves the accumulators of the intrinsic in and out of memory. Processors that have both kinds of VNNI
// know the longer encoding too, which lets a machine without AVX-VNNI test this file.
inline Counts dot8(Counts sums, Bytes weights, Bytes x) {
#if defined(POCKETVLM_LONG_VNNI)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(x));
#else
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(weights), "x"(x));
#endif
    return sums;
}
inline Counts dot4(Counts sums, Bytes weights, Bytes x) { return dot8(sums, weights, x); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

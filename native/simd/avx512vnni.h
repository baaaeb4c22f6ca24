// AVX-512 with VNNI: sixteen sums of four products in one instruction.
#pragma once

#include "simd/avx512_vectors.h"

#define POCKETVLM_MULTIPLIES_MEMORY

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr ActivationLayout activation_layout{.weight_offset = 128, .interleave = 4, .tile_rows = 12};

// As assembly: gcc 12 moves the accumulators of the intrinsic in and out of memory.
inline Counts dot8(Counts sums, Bytes weights, Bytes x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(x));
    return sums;
}
inline Counts dot8(Counts sums, Bytes weights, const int8_t* x) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*reinterpret_cast<const int32_t*>(x)));
    return sums;
}
inline Counts dot4(Counts sums, Bytes weights, Bytes x) { return dot8(sums, weights, x); }
inline Counts dot4(Counts sums, Bytes weights, const int8_t* x) { return dot8(sums, weights, x); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

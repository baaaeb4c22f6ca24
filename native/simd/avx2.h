// AVX2: products of bytes summed in pairs, then in fours.
#pragma once

#include "simd/avx2_vectors.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr ActivationLayout activation_layout{.weight_offset = 0, .interleave = 4, .tile_rows = 4};

inline Counts add_fours(Counts sums, __m256i pairs) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// |w| * (x with the sign of w): neither factor of the pair sums can then leave 16 bits.
inline Counts dot8(Counts sums, Bytes weights, Bytes x) {
    const __m256i w = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
    return add_fours(sums, _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)));
}
inline Counts dot4(Counts sums, Bytes weights, Bytes x) { return add_fours(sums, _mm256_maddubs_epi16(weights, x)); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

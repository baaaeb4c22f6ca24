// AVX-512 without VNNI: products of bytes summed in pairs, then in fours.
#pragma once

#include "simd/avx512_vectors.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr ActivationLayout activation_layout{.weight_offset = 0, .interleave = 4, .tile_rows = 12};

inline Counts add_fours(Counts sums, __m512i pairs) {
    return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

// |w| * (x with the sign of w): neither factor of the pair sums can then leave 16 bits.
inline Counts dot8(Counts sums, Bytes weights, Bytes x) {
    const __m512i w = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
    const __m512i signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    return add_fours(sums, _mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_x));
}
inline Counts dot4(Counts sums, Bytes weights, Bytes x) { return add_fours(sums, _mm512_maddubs_epi16(weights, x)); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

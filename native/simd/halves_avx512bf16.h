// Pairs of bfloat16 numbers, sixteen at a time: products of pairs summed in float.
#pragma once

#include "simd/avx512.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

using Pairs = __m512i;  // sixteen words; the low half of a word is the first of its pair

inline Pairs load_pairs(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void store_pairs(uint32_t* p, Pairs v) { _mm512_storeu_si512(p, v); }
inline Pairs repeat_pair(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int32_t>(*p)); }

// sums + a.first * b.first + a.second * b.second. As assembly: gcc 12 moves the accumulators of the intrinsic about.
inline Vec dot2(Vec sums, Pairs a, Pairs b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}

// 2W neighbouring numbers as W pairs.
inline Pairs neighbours(Vec first, Vec second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

// W pairs (a[i], b[i]).
inline Pairs interleave(Vec a, Vec b) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// 2^x for x <= 0, to 2e-5 of its value: enough for what is rounded to bfloat16.
inline Vec power_of_two(Vec x) {
    const Vec n = _mm512_roundscale_ps(x, 0), r = x - n;
    Vec p = splat(0.0097f);
    p = fma(p, r, splat(0.05550f));
    p = fma(p, r, splat(0.24022f));
    p = fma(p, r, splat(0.69314f));
    p = fma(p, r, splat(1.0f));
    return _mm512_scalef_ps(p, n);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
